"""The decorators of a flow that say when it starts, and what follows its runs, read from Metaflow's objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow import current
from metaflow.exception import MetaflowException

from metaflow_pipes.compile.flow_model import EventModel, TriggerModel
from metaflow_pipes.errors import CompileError
from metaflow_pipes.names import is_event_name

if TYPE_CHECKING:
    from collections.abc import Mapping

# The step at the end of a flow's name in the event that it has finished, whatever its last step is called.
END = "end"


def read_triggers(flow: Any) -> tuple[TriggerModel, ...]:
    """The `@trigger` and the `@trigger_on_finish` of a flow, with the meaning that they have on Argo Workflows.

    Args:
        flow: Metaflow's flow, whose decorators are initialized.

    Raises:
        CompileError: An event can't be waited for, or is to set a parameter that there isn't; says which.
    """
    triggers = []
    for name, events_of in (("trigger", _events), ("trigger_on_finish", _finished_flows)):
        for decorator in flow._flow_decorators.get(name, [])[:1]:
            try:
                decorator.format_deploytime_value()
                events = events_of(flow, decorator)
            except MetaflowException as error:
                raise CompileError(f"@{name} of flow {flow.name}: {error}") from None
            triggers.append(_trigger(flow, name, events, decorator.options))
    return tuple(triggers)


def _trigger(flow: Any, name: Any, events: tuple[EventModel, ...], options: Any) -> TriggerModel:
    names = [event.name for event in events]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CompileError(f"@{name} of flow {flow.name} names {', '.join(twice)} twice. Name each event once.")
    if not names:
        raise CompileError(f"@{name} of flow {flow.name} names nothing that starts the flow.")
    reset_at = options.get("reset_at") if hasattr(options, "get") else options
    if reset_at is not None and (not hasattr(reset_at, "get") or (reset_at and not reset_at.get("cron"))):
        raise CompileError(
            f"@{name} of flow {flow.name} has options={options!r}, but what it takes is "
            'options={"reset_at": {"cron": "0 0 * * *", "timezone": "UTC"}}.'
        )
    reset_at = reset_at or {}
    unknown = [key for key in options if key != "reset_at"]
    unknown += [f"reset_at.{key}" for key in reset_at if key not in ("cron", "timezone")]
    return TriggerModel(
        decorator=name,
        events=events,
        reset_cron=None if reset_at.get("cron") is None else str(reset_at["cron"]),
        reset_timezone=str(reset_at.get("timezone") or "UTC"),
        unknown_options=tuple(map(str, unknown)),
    )


def _events(flow: Any, decorator: Any) -> tuple[EventModel, ...]:
    """The events of `@trigger`.

    A single event that says nothing of parameters sets those of the names of its fields.
    """
    known = {p.name.lower(): p.name for _, p in flow._get_parameters() if not p.IS_CONFIG_PARAMETER}
    mapped: set[str] = set()
    events = []
    for trigger in decorator.triggers:
        name = str(trigger["name"])
        _check_name(flow, name)
        parameters = {}
        for parameter, event_field in _pairs(flow, name, trigger.get("parameters") or {}):
            actual = known.get(parameter.lower())
            if actual is None:
                raise CompileError(
                    f"@trigger of flow {flow.name}: event {name} sets the parameter {parameter}, which the flow does "
                    f"not have. Its parameters are {', '.join(known.values()) or 'none'}."
                )
            if actual in mapped:
                raise CompileError(
                    f"@trigger of flow {flow.name}: the parameter {actual} is set twice. Map one event's field to it."
                )
            mapped.add(actual)
            parameters[actual] = event_field
        events.append(EventModel(name, parameters))
    if len(events) == 1 and not events[0].parameters:
        events = [EventModel(events[0].name, {name: name for name in known.values()})]
    return tuple(events)


def _pairs(flow: Any, event: str, parameters: Any) -> list[tuple[str, str]]:
    """The parameters that an event sets, each with the field of its payload."""
    if not isinstance(parameters, dict) or not all(
        isinstance(text, str) and text for pair in parameters.items() for text in pair
    ):
        raise CompileError(
            f"@trigger of flow {flow.name}: event {event} has the parameters {parameters!r}, which map no parameters "
            "to the names of fields."
        )
    return list(parameters.items())


def _check_name(flow: Any, name: str) -> None:
    if not is_event_name(name):
        raise CompileError(
            f"@trigger of flow {flow.name}: {name!r} is no name of an event. It is a text such as data_ready, or, for "
            "any other Dagster asset, asset: and its key, such as asset:raw/events."
        )


def _finished_flows(flow: Any, decorator: Any) -> tuple[EventModel, ...]:
    """The events of `@trigger_on_finish`: in the flow's own project and branch, unless it names others."""
    return tuple(_finished_flow(flow, trigger) for trigger in decorator.triggers)


def _finished_flow(flow: Any, trigger: Mapping[str, Any]) -> EventModel:
    project = trigger.get("project") or current.get("project_name")
    branch = trigger.get("branch") or current.get("branch_name")
    if bool(project) != bool(branch):
        raise CompileError(
            f"@trigger_on_finish of flow {flow.name}: for flow {trigger['flow']}, "
            f"{'the project' if project else 'the branch'} is known only. Give both, project and project_branch, or "
            "use @project."
        )
    of_flow = ".".join(part for part in (project, branch, trigger["flow"]) if part)
    return EventModel(f"metaflow.{of_flow}.{END}", flow=of_flow)
