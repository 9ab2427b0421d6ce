"""The tasks of a step in a foreach, as Dagster's records of the run, and of those that it goes on with, have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg

from metaflow_pipes.runtime.ids import continued_runs, is_done

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.steps import MetaflowStep

# How many events are read at once.
PAGE = 500


class DoneTask(NamedTuple):
    """A task that is done: the Dagster run that has run it, and how long its op took, in seconds."""

    run_id: str
    seconds: float


def done_tasks(context: dg.OpExecutionContext, flow: MetaflowFlow, step: MetaflowStep) -> dict[str, DoneTask]:
    """The tasks of a step in a foreach that are done, by the keys of their Dagster steps; none if no task ran.

    Args:
        context: The context of an op of the run, behind the step's.
        flow: The flow.
        step: The step.
    """
    prefix = f"{context.op_handle.parent}." if context.op_handle.parent else ""
    splits = _splits(flow, step, prefix)
    tasks: dict[str, DoneTask] = {}
    for run in [context.run, *continued_runs(context)]:
        stats = {entry.step_key: entry for entry in context.instance.get_run_step_stats(run.run_id)}
        for key, entry in stats.items():
            is_task = key.startswith(f"{prefix}{step.op_name}[") and is_done(entry)
            if is_task and entry.start_time and entry.end_time:
                tasks.setdefault(key, DoneTask(run.run_id, entry.end_time - entry.start_time))
        if any(is_done(stats[split]) for split in splits & stats.keys()):
            break  # runs before this one had other items
    return tasks


def mapped_outputs(
    context: dg.OpExecutionContext, flow: MetaflowFlow, step: MetaflowStep
) -> Iterator[Mapping[str, dg.MetadataValue]]:
    """The metadata of the outputs of a step in a foreach: one for each task that is done, in the order of their keys.

    Args:
        context: As for `done_tasks`.
        flow: As for `done_tasks`.
        step: As for `done_tasks`.
    """
    tasks = done_tasks(context, flow, step)
    found: dict[str, Mapping[str, dg.MetadataValue]] = {}
    for run_id in {task.run_id for task in tasks.values()}:
        cursor, has_more = None, True
        while has_more:
            page = context.instance.get_records_for_run(
                run_id, cursor, of_type=dg.DagsterEventType.STEP_OUTPUT, limit=PAGE
            )
            cursor, has_more = page.cursor, page.has_more
            for record in page.records:
                event = record.event_log_entry.dagster_event
                key = None if event is None else event.step_key
                if event is not None and key in tasks and tasks[key].run_id == run_id:
                    data: Any = event.event_specific_data
                    found[key] = data.metadata
    for key in sorted(found):
        yield found[key]


def _splits(flow: MetaflowFlow, step: MetaflowStep, prefix: str) -> set[str]:
    """The ops of the steps that split into the outermost foreach around a step."""
    steps = {other.name: other for other in flow.steps}
    found: set[str] = set()
    seen: set[str] = set()
    queue = list(step.upstream)
    while queue:
        other = steps[queue.pop()]
        if other.collected_by is None:
            found.add(prefix + other.op_name)
        elif other.name not in seen:
            seen.add(other.name)
            queue += other.upstream
    return found
