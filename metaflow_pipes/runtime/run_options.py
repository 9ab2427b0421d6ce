"""Options of the run that an op is of: those that it was launched with, and else those of the deployment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.run_options import OPTION_TAGS, RunOptions

if TYPE_CHECKING:
    from collections.abc import Collection

    from metaflow_pipes.runtime.flow import MetaflowFlow


def run_options_of(context: dg.OpExecutionContext, flow: MetaflowFlow) -> RunOptions:
    """The options that hold for an op's run.

    Args:
        context: The op's context.
        flow: The flow, with the options of its deployment.

    Raises:
        dagster.Failure: A tag of the run is no value of its option.
    """
    try:
        own = RunOptions.of(inherited_tags(context.instance, context.run, OPTION_TAGS))
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    limit = own.workflow_timeout_seconds
    return RunOptions(
        tags=tuple(dict.fromkeys([*flow.tags, *own.tags])),
        decospecs=own.decospecs,
        namespace=flow.namespace if own.namespace is None else own.namespace,
        workflow_timeout_seconds=flow.workflow_timeout_seconds if limit is None else limit,
    )


def inherited_tags(instance: dg.DagsterInstance, run: dg.DagsterRun, names: Collection[str]) -> dict[str, str]:
    """The tags of these names that a run has.

    Dagster's Python API does not hand tags down to re-executions: one that lacks a tag has that of the run that it
    re-executes.

    Args:
        instance: The Dagster instance.
        run: The run.
        names: The tags.
    """
    found: dict[str, str] = {}
    current: dg.DagsterRun | None = run
    while current is not None:
        found = {**{tag: value for tag, value in current.tags.items() if tag in names}, **found}
        current = None if current.parent_run_id is None else instance.get_run_by_id(current.parent_run_id)
    return found
