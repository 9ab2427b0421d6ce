"""A flow as one deployment has it: with other defaults of parameters, another schedule, other events that start it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.flow_model import EventModel, ScheduleModel, TriggerModel
from metaflow_pipes.errors import CompileError
from metaflow_pipes.names import is_event_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.compile.flow_model import FlowModel, ParameterModel
    from metaflow_pipes.compile.job_options import JobOptions


def as_deployed(flow: FlowModel, options: JobOptions) -> FlowModel:
    """The flow with what the options put in place of its own.

    Args:
        flow: The flow.
        options: What the user asks for.

    Raises:
        CompileError: There is no such parameter or event, or a value is not of the parameter's type.
    """
    return replace(
        flow,
        parameters=_parameters(flow, options.parameter_defaults),
        schedule=_schedule(flow, options.schedule),
        triggers=_triggers(flow, options.triggers),
    )


def _parameters(flow: FlowModel, defaults: Mapping[str, Any]) -> tuple[ParameterModel, ...]:
    if not isinstance(defaults, Mapping) or not all(isinstance(name, str) for name in defaults):
        raise CompileError(f"parameters is {defaults!r}, but has to be a mapping of names to values.")
    given = {flow.parameter(name, "parameters").name: value for name, value in defaults.items()}
    return tuple(
        replace(parameter, has_default=True, default=_default(flow, parameter, given[parameter.name]))
        if parameter.name in given
        else parameter
        for parameter in flow.parameters
    )


def _default(flow: FlowModel, parameter: ParameterModel, value: Any) -> Any:
    from metaflow_pipes.runtime.parameters import MetaflowParameter

    kind: Any = parameter.kind
    typed = MetaflowParameter(parameter.name, kind, multiple=parameter.multiple, separator=parameter.separator)
    try:
        return typed.converted(value, "the default")
    except ValueError as error:
        raise CompileError(f"parameters of flow *{flow.name}*: {error}.") from None


def _schedule(flow: FlowModel, schedule: ScheduleModel | bool) -> ScheduleModel | None:
    if isinstance(schedule, ScheduleModel):
        return schedule
    return flow.schedule if schedule else None


def _triggers(flow: FlowModel, triggers: Sequence[EventModel] | bool) -> tuple[TriggerModel, ...]:
    if isinstance(triggers, bool):
        return flow.triggers if triggers else ()
    events = tuple(_event(flow, event, is_only=len(triggers) == 1) for event in triggers)
    names = [event.name for event in events]
    if not names or len(set(names)) < len(names):
        raise CompileError(
            f"triggers of flow *{flow.name}* names {', '.join(names) or 'nothing that starts the flow'}. Name one "
            "event or several, each of them once."
        )
    return (TriggerModel("trigger", events),)


def _event(flow: FlowModel, event: EventModel, *, is_only: bool) -> EventModel:
    if not is_event_name(event.name):
        raise CompileError(
            f"triggers of flow *{flow.name}*: {event.name!r} is no name of an event. It is a text such as data_ready, "
            "or, for any other Dagster asset, asset: and its key, such as asset:raw/events."
        )
    parameters = {flow.parameter(name, "triggers").name: field for name, field in event.parameters.items()}
    if is_only and not parameters and event.flow is None:
        parameters = {parameter.name: parameter.name for parameter in flow.parameters}
    return replace(event, parameters=parameters)
