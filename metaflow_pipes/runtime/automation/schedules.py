"""The schedule of a deployed flow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import SCHEDULED_TIME_TAG
from metaflow_pipes.parameter_text import typed
from metaflow_pipes.runtime.automation.limits import runs_under_way, too_many
from metaflow_pipes.runtime.partitions import latest_keys
from metaflow_pipes.runtime.run_options import inherited_tags

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from metaflow_pipes.runtime.flow import MetaflowFlow

# The system tag of a Metaflow run that was started by a schedule; and, with `_time:`, what its other one begins with.
SYSTEM_TAG = "scheduled"


def flow_schedule(
    flow: MetaflowFlow,
    job: dg.JobDefinition,
    *,
    cron: str,
    timezone: str = "UTC",
    parameters: Mapping[str, Any] | None = None,
    templates: Mapping[str, str | Sequence[str]] | None = None,
    max_concurrent_runs: int | None = None,
    paused: bool = False,
    description: str | None = None,
) -> dg.ScheduleDefinition:
    """The schedule that starts runs of a flow's job: the `@schedule` of a flow.

    It is called `<job>_schedule`. Its runs have the tag `metaflow/scheduled_time`: when they were due, in the time zone
    of the schedule. Where the job has partitions, a run is of the latest one that is over when it is due; of partitions
    that are none of time, there is a run for each key.

    Args:
        flow: The flow.
        job: Its job.
        cron: When runs are due, in the five fields of cron.
        timezone: The time zone of that.
        parameters: The values of parameters, by their names; others have their defaults.
        templates: Values that hold the time when a run is due, in Python's format syntax: `{scheduled_time:%Y-%m-%d}`.
        max_concurrent_runs: How many runs of the job, by whatever started them, can be under way before a tick is
            skipped; None for any number.
        paused: Whether the schedule is stopped until somebody starts it.
        description: The schedule's description in the UI.
    """
    kinds = {parameter.name: parameter.kind for parameter in flow.parameters}
    start = next(step.op_name for step in flow.steps if not step.upstream)

    def evaluate(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        due = context.scheduled_execution_time
        tags = {SCHEDULED_TIME_TAG: due.isoformat()}
        if max_concurrent_runs is not None:
            # after a crash the tick is evaluated again, when the run that it is to start may be there
            runs = [
                run
                for run in runs_under_way(context.instance, flow, job)
                if run.tags.get(SCHEDULED_TIME_TAG) != tags[SCHEDULED_TIME_TAG]
            ]
            reason = too_many(job, runs, max_concurrent_runs)
            if reason is not None:
                yield dg.SkipReason(reason)
                return
        values = {
            **(parameters or {}),
            **{name: filled(template, kinds[name], due) for name, template in (templates or {}).items()},
        }
        config = {"ops": {start: {"config": values}}} if values else {}
        if job.partitions_def is None:
            # no run key: Dagster starts one run for each time that is due, also if it evaluates that again
            yield dg.RunRequest(run_config=config, tags=tags)
            return
        keys = latest_keys(job.partitions_def, due, context.instance if context.instance_ref is not None else None)
        if not keys:
            yield dg.SkipReason(f"Job {job.name} has no partition that is over at {due.isoformat()}.")
        for key in keys:
            yield dg.RunRequest(run_key=key, partition_key=key, run_config=config, tags=tags)

    return dg.ScheduleDefinition(
        name=schedule_name(job.name),
        cron_schedule=cron,
        execution_timezone=timezone,
        job=job,
        execution_fn=evaluate,
        default_status=dg.DefaultScheduleStatus.STOPPED if paused else dg.DefaultScheduleStatus.RUNNING,
        description=description,
    )


def schedule_name(job: str) -> str:
    """The name of the schedule of a job."""
    return f"{job}_schedule"


def system_tags(context: dg.OpExecutionContext) -> list[str]:
    """The system tags of a Metaflow run that a schedule has started; none of any other.

    Args:
        context: The context of an op of the run, or of a re-execution.
    """
    due = inherited_tags(context.instance, context.run, (SCHEDULED_TIME_TAG,)).get(SCHEDULED_TIME_TAG)
    return [] if due is None else [SYSTEM_TAG, f"{SYSTEM_TAG}_time:{due}"]


def filled(template: str | Sequence[str], kind: str, scheduled_time: datetime) -> Any:
    """A parameter's value that holds the time when a run is due.

    Args:
        template: Text in Python's format syntax, with `scheduled_time` as its only name; or several, of a parameter
            that takes a list.
        kind: The parameter's kind, to which the text is converted.
        scheduled_time: When the run is due, in the time zone of the schedule.

    Raises:
        ValueError: The text is no such value.
    """
    if isinstance(template, str):
        return typed(kind, template.format(scheduled_time=scheduled_time))
    return [filled(item, kind, scheduled_time) for item in template]
