"""The `@schedule` of a flow as a Dagster schedule."""

from __future__ import annotations

import string
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from metaflow_pipes.compile.automation.cron import CronError, in_words, is_time_zone, translate
from metaflow_pipes.compile.job_model import AutomationModel
from metaflow_pipes.errors import CompileError, VerbatimError
from metaflow_pipes.parameter_text import typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.compile.automation.cron import Cron
    from metaflow_pipes.compile.flow_model import FlowModel, ParameterModel, ScheduleModel
    from metaflow_pipes.compile.job_model import PartitionsModel
    from metaflow_pipes.compile.job_options import JobOptions

FACTORY = "flow_schedule"
DEFAULT_TIMEZONE = "UTC"
# A time by which a template is tried: each of its parts has two digits.
_SOME_TIME = datetime(2026, 11, 24, 10, 30)


def schedules_of(
    flow: FlowModel, job: str, options: JobOptions, partitions: PartitionsModel | None
) -> tuple[AutomationModel, ...]:
    """The schedule of a flow, if it has `@schedule`.

    Args:
        flow: The flow.
        job: The job's name.
        options: What the user asks for.
        partitions: The job's partitions, whose keys are the values of parameters, or None.

    Raises:
        CompileError: Dagster can't hold the schedule, or a scheduled run would lack the value of a parameter.
    """
    if flow.schedule is None:
        if options.schedule_parameters:
            raise CompileError(
                f"--schedule-param is given, but flow *{flow.name}* has no @schedule. Decorate it with @schedule, or "
                "leave the option out."
            )
        return ()
    cron, timezone = _cron(flow.name, flow.schedule), flow.schedule.timezone or DEFAULT_TIMEZONE
    name = f"{job}_schedule"
    _check_zone(flow.name, timezone)
    _check_cron(flow.name, flow.schedule, cron)
    filled = () if partitions is None else partitions.filled
    values, templates = _parameters(flow, options.schedule_parameters, ZoneInfo(timezone), filled)
    arguments = {
        "cron": cron.text,
        "timezone": timezone,
        "parameters": values or None,
        "templates": templates or None,
        "max_concurrent_runs": options.max_concurrent_runs,
        "paused": options.paused or None,
        "description": f"@schedule of the Metaflow flow {flow.name}: {flow.schedule.expression}",
    }
    return (
        AutomationModel(
            name=name,
            factory=FACTORY,
            arguments={name: value for name, value in arguments.items() if value is not None},
            summary=_summary(flow.schedule, cron, timezone, options.max_concurrent_runs, partitions),
        ),
    )


def next_time(schedule: AutomationModel) -> datetime:
    """The next time when a schedule starts the flow.

    Args:
        schedule: The schedule, as `schedules_of` gives it.
    """
    from dagster._utils.schedules import get_next_cron_tick  # what Dagster's own daemon goes by

    timezone = schedule.arguments["timezone"]
    return get_next_cron_tick(schedule.arguments["cron"], datetime.now(ZoneInfo(timezone)), timezone)


def _summary(
    schedule: ScheduleModel,
    cron: Cron,
    timezone: str,
    max_concurrent_runs: int | None,
    partitions: PartitionsModel | None,
) -> str:
    words = in_words(cron.text)
    when = f"{words}, by" if words else "by"
    origin = "" if cron.dialect == "cron" else f", for `{schedule.expression}` of {cron.dialect}"
    notes = []
    if partitions is not None:
        is_time = [dimension.start is not None for dimension in partitions.dimensions]
        latest = ["for the latest partition that is over"] if any(is_time) else []
        notes.append(", ".join([*latest, *([] if all(is_time) else ["a run for each key"])]))
    if cron.has_translated_weekdays:
        notes.append(f"weekday 1 of {cron.dialect} is Sunday, which cron calls 0: its numbers are translated")
    if cron.is_ambiguous:
        notes.append("it could be an expression of Quartz, whose first field is a second: that would end in ` *` more")
    if max_concurrent_runs is not None:
        runs = "1 run" if max_concurrent_runs == 1 else f"{max_concurrent_runs} runs"
        notes.append(
            f"a tick is skipped while {runs} of the job {'is' if max_concurrent_runs == 1 else 'are'} under way"
        )
    return "; ".join(
        [f"starts the flow {when} the cron expression `{cron.text}` in time zone {timezone}{origin}", *notes]
    )


def _cron(flow: str, schedule: ScheduleModel) -> Cron:
    try:
        return translate(schedule.expression)
    except CronError as error:
        raise _unusable(flow, schedule, str(error)) from None


def _check_cron(flow: str, schedule: ScheduleModel, cron: Cron) -> None:
    """Let Dagster itself check an expression."""
    import dagster as dg

    try:
        dg.ScheduleDefinition("schedule", cron_schedule=cron.text, job_name="job")
    except dg.DagsterInvalidDefinitionError:
        remedy = (
            "Write five fields that are valid cron, as in `0 10 * * MON-FRI`, or those of AWS: `0 10 ? * MON-FRI *`"
        )
        raise _unusable(flow, schedule, f"Dagster takes no `{cron.text}`. {remedy}") from None


def _check_zone(flow: str, timezone: str) -> None:
    if not is_time_zone(timezone):
        raise CompileError(
            f"Flow *{flow}*: @schedule has timezone={timezone!r}, which is no time zone of the IANA database. Use a "
            'name like "Europe/Berlin" or "America/Los_Angeles", or leave it out for UTC.'
        )


def _unusable(flow: str, schedule: ScheduleModel, problem: str) -> VerbatimError:
    return VerbatimError(f"Flow {flow}: @schedule can't be used with `{schedule.expression}`: {problem}.")


def _parameters(
    flow: FlowModel, given: Mapping[str, Any], zone: ZoneInfo, filled: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str | list[str]]]:
    """The values of a scheduled run's parameters, and those that hold the time when it is due.

    As with Metaflow's `run`, a parameter without default that is not given has no value, unless it is required. Those
    that a partition's key fills are left to that.
    """
    values: dict[str, Any] = {}
    templates: dict[str, str | list[str]] = {}
    for name, value in given.items():
        parameter = flow.parameter(name, "--schedule-param")
        if parameter.name in filled:
            raise CompileError(
                f"--schedule-param gives a value to {parameter.name}, which the key of a scheduled run's partition "
                "fills. Leave it out."
            )
        _check_count(parameter, value)
        if _is_template(parameter, value, zone):
            templates[parameter.name] = [value] if parameter.multiple and isinstance(value, str) else value
        else:
            values[parameter.name] = _value(parameter, value)
    known = {*values, *templates, *filled}
    lacking = [p for p in flow.parameters if not p.has_default and p.name not in known]
    required = [parameter.name for parameter in lacking if parameter.is_required]
    if required:
        options = " ".join(f"--schedule-param {name}=VALUE" for name in required)
        raise CompileError(
            f"Flow *{flow.name}* has @schedule, but nothing gives a scheduled run the required "
            f"parameter{'s' if len(required) > 1 else ''} *{', '.join(required)}*. Compile it with {options}, or give "
            "defaults to them."
        )
    return {**values, **{parameter.name: None for parameter in lacking if parameter.asset is None}}, templates


def _check_count(parameter: ParameterModel, value: Any) -> None:
    takes_list = parameter.multiple or parameter.separator is not None or parameter.kind == "json"
    if isinstance(value, (list, tuple)) and not takes_list:
        raise CompileError(f"--schedule-param {parameter.name} has several values, but the parameter takes one.")


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [item for item in items if isinstance(item, str)]


def _is_template(parameter: ParameterModel, value: Any, zone: ZoneInfo) -> bool:
    """Whether a value holds the time when a run is due.

    Raises:
        CompileError: It names something else, or does not make a value of the parameter's type.
    """
    texts = _texts(value)
    try:
        is_template = any(name is not None for text in texts for _, name, _, _ in string.Formatter().parse(text))
        samples = [text.format(scheduled_time=_SOME_TIME.replace(tzinfo=zone)) for text in texts]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise CompileError(
            f"--schedule-param {parameter.name}: {value!r} is no template ({type(error).__name__}: {error}). It can "
            "hold {scheduled_time}, also with a format, as in {scheduled_time:%Y-%m-%d}; other braces are written "
            "twice: {{ and }}."
        ) from None
    if is_template:
        for sample in samples:
            _typed(parameter, sample)
    return is_template


def _value(parameter: ParameterModel, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        if parameter.kind == "json" and not parameter.multiple:
            return list(value)
        return [_unescaped(parameter, item) for item in value]
    converted = _unescaped(parameter, value)
    return [converted] if parameter.multiple else converted


def _unescaped(parameter: ParameterModel, value: Any) -> Any:
    """A value that is no template: of text, braces are written twice, and the type is that of the parameter."""
    return _typed(parameter, value.format()) if isinstance(value, str) else _checked(parameter, value)


def _typed(parameter: ParameterModel, text: str) -> Any:
    try:
        return typed(parameter.kind, text)
    except ValueError as error:
        raise CompileError(
            f"--schedule-param {parameter.name}: {text!r} is no value of the parameter's type {parameter.kind}: {error}"
        ) from None


def _checked(parameter: ParameterModel, value: Any) -> Any:
    """A value from Python, in the type of the parameter."""
    expected = {"str": str, "file": str, "int": int, "float": (int, float), "bool": bool}.get(parameter.kind, object)
    is_other = not isinstance(value, expected) or (isinstance(value, bool) and parameter.kind in ("int", "float"))
    if is_other and value is not None:
        raise CompileError(
            f"schedule_parameters: {parameter.name} is {value!r}, but has to be of type {parameter.kind}."
        )
    return value
