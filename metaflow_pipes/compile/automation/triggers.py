"""The sensors of `@trigger` and `@trigger_on_finish`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metaflow_pipes.compile.automation.cron import CronError, translate
from metaflow_pipes.compile.job_model import AutomationModel
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from metaflow_pipes.compile.flow_model import EventModel, FlowModel, TriggerModel
    from metaflow_pipes.compile.job_options import JobOptions


def trigger_sensors(flow: FlowModel, job: str, options: JobOptions) -> Iterable[AutomationModel]:
    """A sensor for each of the two decorators: the flow starts when the events of one of them have come.

    Args:
        flow: The flow.
        job: The job's name.
        options: What the user asks for.

    Raises:
        CompileError: The cron expression of a reset is none.
    """
    for trigger in flow.triggers:
        name = f"{job}_{trigger.decorator}"
        arguments: dict[str, Any] = {"name": name, "events": [_event(event) for event in trigger.events]}
        if trigger.reset_cron is not None:
            arguments["reset_at"] = {"cron": _reset_cron(flow, trigger), "timezone": trigger.reset_timezone}
        if options.max_concurrent_runs is not None:
            arguments["max_concurrent_runs"] = options.max_concurrent_runs
        if options.paused:
            arguments["paused"] = True
        yield AutomationModel(name, "trigger_sensor", arguments, _summary(flow, trigger))


def _event(event: EventModel) -> dict[str, Any]:
    optional = {"parameters": dict(event.parameters), "flow": event.flow}
    return {"name": event.name, **{key: value for key, value in optional.items() if value}}


def _reset_cron(flow: FlowModel, trigger: TriggerModel) -> str:
    try:
        ZoneInfo(trigger.reset_timezone)
        return translate(trigger.reset_cron or "").text
    except (CronError, ValueError, ZoneInfoNotFoundError) as error:
        raise CompileError(f"The reset_at of @{trigger.decorator} of flow {flow.name}: {error}") from None


def _summary(flow: FlowModel, trigger: TriggerModel) -> str:
    """The events that start the flow, as a sentence."""
    whats = [f"a run of {event.flow}" if event.flow else event.name for event in trigger.events]
    several = f"{', '.join(whats[:-1])} and {whats[-1]}" if len(whats) > 1 else whats[0]
    if trigger.decorator == "trigger":
        what = f"the event {several} has" if len(whats) == 1 else f"the events {several} have all"
        when = f"{what} been published"
    else:
        when = f"{several} {'has' if len(whats) == 1 else 'have all'} finished successfully"
    reset = ""
    if trigger.reset_cron is not None:
        reset = f"; events that wait for others are dropped at {trigger.reset_cron} ({trigger.reset_timezone})"
    return f"starts {flow.name} when {when}{reset}"
