"""Ids of the Metaflow run and task that an op runs: made of Dagster's own ids, and the same in each attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import RESUME_RETRY_TAG, RUN_ID_PREFIX
from metaflow_pipes.runtime.places import CONTROL

if TYPE_CHECKING:
    from collections.abc import Iterator

# How much of a Dagster run id tells the tasks of a re-execution from those before.
SHORT_RUN_ID_LENGTH = 8


def new_run_id(context: dg.OpExecutionContext) -> str:
    """The Metaflow run of a start step.

    A re-execution from failure, or of selected steps, goes on with the Metaflow run of the Dagster run that it
    re-executes; one of all steps makes a new Metaflow run.
    """
    return metaflow_run_id(context.run, context.job_def, context.instance)


def metaflow_run_id(run: dg.DagsterRun, job: dg.JobDefinition, instance: dg.DagsterInstance) -> str:
    """The Metaflow run of a Dagster run, or with which that goes on."""
    return f"{RUN_ID_PREFIX}{[run, *runs_before(run, job, instance)][-1].run_id}"


def continued_runs(context: dg.OpExecutionContext) -> list[dg.DagsterRun]:
    """The Dagster runs whose Metaflow run an op's run goes on with, the latest first."""
    return runs_before(context.run, context.job_def, context.instance)


def runs_before(run: dg.DagsterRun, job: dg.JobDefinition, instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """The Dagster runs that a run goes on with, the latest first."""
    runs: list[dg.DagsterRun] = []
    current: dg.DagsterRun | None = run
    while current is not None and current.parent_run_id is not None and _continues_parent(current, job):
        current = instance.get_run_by_id(current.parent_run_id)
        if current is not None:
            runs.append(current)
    return runs


def _continues_parent(run: dg.DagsterRun, job: dg.JobDefinition) -> bool:
    selected = run.step_keys_to_execute
    if selected is None or run.tags.get(RESUME_RETRY_TAG) == "true":
        return selected is not None
    # Dagster's Python API names all steps where its UI names none: a selection is what leaves an op out. Some items of
    # a mapped op, `work[3]`, are not all of it, which is `work[?]`.
    whole = {key.removesuffix("[?]") for key in selected}
    return not whole.issuperset(_op_handles(job.graph))


def _op_handles(graph: dg.GraphDefinition, prefix: str = "") -> Iterator[str]:
    """The ops of a graph and of the graphs within it, named as in step keys."""
    for name, node in graph.node_dict.items():
        if isinstance(node.definition, dg.GraphDefinition):
            yield from _op_handles(node.definition, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def task_id_of(context: dg.OpExecutionContext, step: str, iteration: int | None) -> str:
    """The step's name, the indices of its items, and the iteration: `step-3-0-i2`."""
    parts = [step, *_key_parts(context)]
    return "-".join(parts if iteration is None else [*parts, f"i{iteration}"])


def item_indices(context: dg.OpExecutionContext) -> list[int]:
    """The indices of the op's foreach items, the outermost first; a control task has none of its own."""
    return [int(part) for part in _key_parts(context) if part != CONTROL]


def _key_parts(context: dg.OpExecutionContext) -> list[str]:
    key = context.get_mapping_key()
    return key.split("_") if key else []


def reexecution_mark(dagster_run_id: str, run_id: str) -> str:
    """The mark behind the task ids of a re-execution, whose Metaflow run already has tasks of these steps."""
    return "" if run_id == f"{RUN_ID_PREFIX}{dagster_run_id}" else f"-r{dagster_run_id[:SHORT_RUN_ID_LENGTH]}"


def earlier_ids(context: dg.OpExecutionContext, run_id: str, task_id: str) -> list[str]:
    """The ids under which the Dagster runs that this one goes on with ran an iteration.

    A loop goes on behind the iterations that are done, unless all of it was done, and is run again on purpose.
    """
    ids = []
    for run in continued_runs(context):
        stats = context.instance.get_run_step_stats(run.run_id, [step_key(context)])
        if any(map(is_done, stats)):
            break
        ids.append(task_id + reexecution_mark(run.run_id, run_id))
    return ids


def is_done(stats: Any) -> bool:
    """Whether a Dagster step has succeeded, by what Dagster says of it (`get_run_step_stats`)."""
    return stats.status is not None and stats.status.value == "SUCCESS"


def step_key(context: dg.OpExecutionContext) -> str:
    """The key of the Dagster step, with the mapping key of a mapped one: `step[3]`."""
    key = context.get_mapping_key()
    return f"{context.op_handle}[{key}]" if key else str(context.op_handle)
