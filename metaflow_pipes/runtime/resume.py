"""Resuming a Metaflow run: what the tags of a Dagster run ask for, and whether its tasks may be cloned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import (
    ORIGIN_RUN_ID_TAG,
    OVERRIDDEN_PARAMETERS_TAG,
    RESUME_RETRY_TAG,
    STEP_TO_RERUN_TAG,
    project_and_branch,
)
from metaflow_pipes.run_options import names_in
from metaflow_pipes.runtime.assets.run_partition import partition_of
from metaflow_pipes.runtime.ids import continued_runs, is_done
from metaflow_pipes.runtime.selection import selection_of
from step_wrapper.wire import Resumption, Search

if TYPE_CHECKING:
    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.selection import Selection


def resumption_of(context: dg.OpExecutionContext, flow: MetaflowFlow) -> Resumption | None:
    """The resumption that an op's run is; None if it is none.

    Args:
        context: The op's context.
        flow: The flow.

    Raises:
        dagster.Failure: A tag names a step or a parameter that the flow does not have, or is no JSON list.
    """
    tags = _tags(context)
    origin_run_id = tags.get(ORIGIN_RUN_ID_TAG, "").strip()
    selected = selection_of(context, flow)
    if selected is not None:
        return _resumption_of_selection(context, flow, selected, origin_run_id) if selected.clones else None
    if not origin_run_id:
        return None
    rerun = steps_to_rerun(flow, tags.get(STEP_TO_RERUN_TAG, "").strip() or None)
    return Resumption(
        origin_run_id=origin_run_id,
        steps_to_clone=[step.name for step in flow.steps if step.name not in rerun],
        overridden_parameters=overridden_parameters(flow, tags.get(OVERRIDDEN_PARAMETERS_TAG, "")),
        may_clone=not _repeats_steps(context),
    )


def _resumption_of_selection(
    context: dg.OpExecutionContext, flow: MetaflowFlow, selected: Selection, origin_run_id: str
) -> Resumption:
    """The resumption of a run of some assets: it clones the steps before them from a given or the newest fit run."""
    return Resumption(
        origin_run_id=origin_run_id,
        steps_to_clone=list(selected.clones),
        overridden_parameters=given_parameters(context, flow),
        may_clone=not _repeats_steps(context),
        search=Search(
            tags=origin_tags(context, flow),
            upstream={step: list(taken) for step, taken in selected.upstream.items()},
        ),
    )


def given_parameters(context: dg.OpExecutionContext, flow: MetaflowFlow) -> list[str]:
    """The parameters to which the run config of a run of assets gives a value.

    Args:
        context: The context of an op of the run.
        flow: The flow.
    """
    config: Any = context.run.run_config
    for name in (*context.op_handle.path[:-1], flow.steps[0].op_name):
        config = _entry(_entry(config, "ops"), name)
    given = _entry(config, "config")
    return [parameter.name for parameter in flow.parameters if parameter.name in given]


def _entry(config: Any, name: str) -> Any:
    entry = config.get(name) if isinstance(config, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def origin_tags(context: dg.OpExecutionContext, flow: MetaflowFlow) -> list[str]:
    """The Metaflow tags that tell the runs of a deployment and partition from other runs of the flow.

    Args:
        context: The op's context.
        flow: The flow.
    """
    project, branch = project_and_branch(flow.deployment)
    # as `metaflow.plugins.project_decorator`
    tags = [] if project is None else [f"project:{project}", f"project_branch:{branch}"]
    partition = partition_of(context, flow)
    return tags if partition is None else [*tags, *partition.metaflow_tags]


def steps_to_rerun(flow: MetaflowFlow, step: str | None) -> set[str]:
    """A step and all below it.

    Args:
        flow: The flow.
        step: The step's name; None for no step at all.

    Raises:
        dagster.Failure: The flow has no such step.
    """
    names = [candidate.name for candidate in flow.steps]
    if step is None:
        return set()
    if step not in names:
        raise dg.Failure(
            f"The tag {STEP_TO_RERUN_TAG} names {step!r}, which is no step of flow {flow.name}. "
            f"Its steps are {', '.join(names)}.",
            allow_retries=False,
        )
    rerun = {step}
    for candidate in flow.steps:
        if rerun.intersection(candidate.upstream):
            rerun.add(candidate.name)
    return rerun


def overridden_parameters(flow: MetaflowFlow, text: str) -> list[str]:
    """The parameters that a tag names.

    Args:
        flow: The flow.
        text: A JSON list of their names, or nothing for none.

    Raises:
        dagster.Failure: It is no such list, or the flow has no such parameter.
    """
    try:
        names = names_in(OVERRIDDEN_PARAMETERS_TAG, text)
    except ValueError as error:
        raise dg.Failure(str(error), allow_retries=False) from None
    known = [parameter.name for parameter in flow.parameters]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise dg.Failure(
            f"The tag {OVERRIDDEN_PARAMETERS_TAG} names {', '.join(unknown)}, which flow {flow.name} does not have. "
            f"Its parameters are {', '.join(known) or 'none'}.",
            allow_retries=False,
        )
    return names


def _tags(context: dg.OpExecutionContext) -> Mapping[str, str]:
    """The tags of the Dagster run that began the Metaflow run.

    Dagster's Python API does not hand tags down to re-executions: one of all steps resumes what the run before it did.
    """
    run = [context.run, *continued_runs(context)][-1]
    while ORIGIN_RUN_ID_TAG not in run.tags and run.parent_run_id is not None:
        parent = context.instance.get_run_by_id(run.parent_run_id)
        if parent is None:
            break
        run = parent
    return run.tags


def _repeats_steps(context: dg.OpExecutionContext) -> bool:
    """Whether this run, or one that it goes on with, runs a step again that was done before."""
    runs = [context.run, *continued_runs(context)]
    for number, run in enumerate(runs[:-1], start=1):
        selected = run.step_keys_to_execute
        # Dagster's Python API re-executes from failure by a selection of steps, too, without the tag
        if not selected or run.tags.get(RESUME_RETRY_TAG) == "true":
            continue
        for earlier in runs[number:]:
            stats = context.instance.get_run_step_stats(earlier.run_id, list(selected))
            if any(map(is_done, stats)):
                return True
    return False
