"""`--partition-by`: the partitions of a flow's job and assets, and the parameters that their keys fill."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from metaflow_pipes.compile.automation.cron import CronError, is_time_zone, translate
from metaflow_pipes.compile.job_model import DimensionModel, PartitionsModel
from metaflow_pipes.compile.option_values import check_tags
from metaflow_pipes.errors import CompileError, VerbatimError
from metaflow_pipes.parameter_text import typed

if TYPE_CHECKING:
    from dagster import PartitionsDefinition

    from metaflow_pipes.compile.flow_model import FlowModel, ParameterModel
    from metaflow_pipes.compile.job_options import JobOptions

BY = "--partition-by"
FORMS = (
    "hourly:START, daily:START, weekly:START, monthly:START or cron:EXPRESSION:START, where START is a date like "
    "2026-01-01 (of hours and cron also 2026-01-01-06:00), each with ..END and @Europe/Berlin behind it if wanted; "
    "static:a,b,c; or dynamic:NAME"
)
_CLASSES = {
    "hourly": "HourlyPartitionsDefinition",
    "daily": "DailyPartitionsDefinition",
    "weekly": "WeeklyPartitionsDefinition",
    "monthly": "MonthlyPartitionsDefinition",
}
# Dagster's formats of the keys (`dagster._core.definitions.partitions.definition.time_window_subclasses`).
_DATE, _TIME = "%Y-%m-%d", "%Y-%m-%d-%H:%M"
_KEY_FORMATS = {"hourly": _TIME, "daily": _DATE, "weekly": _DATE, "monthly": _DATE, "cron": _TIME}
_WINDOW = re.compile(r"(?P<start>[^@]*?)(\.\.(?P<end>[^@]*))?(@(?P<zone>.*))?")
# The start of a cron spec follows the last colon behind which a date begins: the expression may hold colons.
_CRON = re.compile(r"(?P<expression>.+):(?P<window>\d{4}-.*)")
_KINDS = ("str", "int", "float")
MAX_DIMENSIONS = 2


def partitions_of(flow: FlowModel, options: JobOptions) -> PartitionsModel | None:
    """The partitions that the options give a flow, or None.

    Args:
        flow: The flow.
        options: What the user asks for.

    Raises:
        CompileError: There can be no such partitions; names the parameter and the spec, and says what is allowed.
    """
    if not options.partition_by:
        for option in ("partition_format", "partition_range"):
            if getattr(options, option):
                raise CompileError(
                    f"--{option.replace('_', '-')} is given without --partition-by PARAMETER=SPEC, which says what the "
                    "partitions are."
                )
        return None
    if len(options.partition_by) > MAX_DIMENSIONS:
        raise CompileError(
            f"--partition-by names the parameters {', '.join(options.partition_by)}, but Dagster's partitions have one "
            "or two dimensions. Give it once or twice."
        )
    range_parameters = _range(flow, options)
    dimensions = [_dimension(_parameter(flow, BY, name), name, spec) for name, spec in options.partition_by.items()]
    if len({dimension.parameter for dimension in dimensions}) < len(dimensions):
        raise CompileError(f"{BY} names the parameter {dimensions[0].parameter} twice. Each dimension fills its own.")
    model = PartitionsModel(
        dimensions=tuple(sorted(dimensions, key=lambda dimension: dimension.parameter)),
        format=options.partition_format,
        range_end=range_parameters[1] if range_parameters else None,
    )
    _check_definition(model, options)
    _check_format(model)
    for dimension in dimensions:
        for parameter in (dimension.parameter, *range_parameters[1:]):
            _check_values(_parameter(flow, BY, parameter), dimension, options.partition_format)
    return model


def check_partition_options(options: JobOptions) -> None:
    """Check the types of the options, which can be anything where they come from Python.

    Raises:
        CompileError: One is of another type.
    """
    by = options.partition_by
    if not isinstance(by, Mapping) or not all(isinstance(text, str) for pair in by.items() for text in pair):
        raise CompileError(f"partition_by is {by!r}, but has to be a mapping of parameters to specs: {FORMS}.")
    names = options.partition_range
    is_pair = isinstance(names, Sequence) and not isinstance(names, str) and len(names) == len(("start", "end"))
    if names and not (is_pair and all(isinstance(name, str) and name for name in names)):
        raise CompileError(
            f"--partition-range is {names!r}, but has to name two parameters: START_PARAMETER,END_PARAMETER."
        )


def _range(flow: FlowModel, options: JobOptions) -> tuple[()] | tuple[str, str]:
    """The names of the parameters that get the first and the last key of a run of several partitions, if any."""
    if not options.partition_range:
        return ()
    first, last = (_parameter(flow, "--partition-range", name).name for name in options.partition_range)
    by = [_parameter(flow, BY, name).name for name in options.partition_by]
    if by != [first] or first == last:
        raise CompileError(
            f"--partition-range {','.join(options.partition_range)} needs one --partition-by, of its first parameter "
            f"({first}), and another parameter for the end; --partition-by is of {', '.join(by)}."
        )
    return first, last


def _parameter(flow: FlowModel, option: str, name: str) -> ParameterModel:
    parameter = flow.parameter(name, option)
    if parameter.asset is not None:
        raise CompileError(
            f"{option} names the parameter {parameter.name}, which --param-from fills from asset {parameter.asset}. "
            "Leave one of the two out."
        )
    if parameter.kind not in _KINDS or parameter.multiple or parameter.separator is not None:
        kind = f"a list of {parameter.kind}" if parameter.multiple or parameter.separator else parameter.kind
        raise CompileError(
            f"{option} names the parameter {parameter.name} of flow *{flow.name}*, which is of type {kind}. A "
            f"partition's key fills a parameter of type {', '.join(_KINDS[:-1])} or {_KINDS[-1]}."
        )
    return parameter


def _dimension(parameter: ParameterModel, name: str, spec: str) -> DimensionModel:
    """The dimension of a spec.

    Args:
        parameter: The parameter that its keys fill.
        name: How the option names that.
        spec: The spec.
    """
    kind, colon, rest = spec.strip().partition(":")
    if not colon or kind not in (*_KEY_FORMATS, "static", "dynamic"):
        raise _unusable(name, spec, "it begins with none of these forms")
    if kind == "static":
        keys = tuple(key.strip() for key in rest.split(","))
        if not all(keys):
            raise _unusable(name, spec, "one of its keys is empty")
        return DimensionModel(parameter.name, kind, "StaticPartitionsDefinition", keys=keys)
    if kind == "dynamic":
        if not rest.strip():
            raise _unusable(name, spec, "the dynamic partitions have no name")
        return DimensionModel(parameter.name, kind, "DynamicPartitionsDefinition", {"name": rest.strip()})
    if kind == "cron":
        return _cron(parameter, name, spec, rest)
    start, end, zone = _window(name, spec, rest, _KEY_FORMATS[kind])
    arguments = _given(start_date=start, end_date=end, timezone=zone)
    return DimensionModel(parameter.name, kind, _CLASSES[kind], arguments, start=start)


def _cron(parameter: ParameterModel, name: str, spec: str, rest: str) -> DimensionModel:
    found = _CRON.fullmatch(rest)
    if found is None:
        raise _unusable(name, spec, "behind the expression there is no :START, as in `cron:0 6 * * MON:2026-01-01`")
    try:
        cron = translate(found["expression"].strip()).text
    except CronError as error:
        raise _unusable(name, spec, str(error)) from None
    start, end, zone = _window(name, spec, found["window"], _TIME)
    arguments = _given(cron_schedule=cron, start=start, end=end, timezone=zone, fmt=_TIME)
    return DimensionModel(parameter.name, "cron", "TimeWindowPartitionsDefinition", arguments, start=start)


def _given(**arguments: str | None) -> dict[str, str]:
    return {name: value for name, value in arguments.items() if value is not None}


def _window(name: str, spec: str, text: str, fmt: str) -> tuple[str, str | None, str | None]:
    """Start, end and time zone of partitions of time, as Dagster takes them."""
    found = _WINDOW.fullmatch(text.strip())
    assert found is not None
    start = _date(name, spec, found["start"], fmt)
    end = None if found["end"] is None else _date(name, spec, found["end"], fmt)
    if end is not None and end <= start:
        raise _unusable(name, spec, f"it ends at {found['end']}, which is not after its start")
    zone = found["zone"]
    if zone is not None and not is_time_zone(zone):
        raise _unusable(name, spec, f"{zone!r} is no time zone of the IANA database")
    return start.strftime(fmt), None if end is None else end.strftime(fmt), zone


def _date(name: str, spec: str, text: str, fmt: str) -> datetime:
    text = text.strip()
    forms = [_DATE] if fmt == _DATE else [_DATE, _TIME, "%Y-%m-%dT%H:%M"]
    for form in forms:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    raise _unusable(name, spec, f"{text!r} is no date such as 2026-01-31" if text else "it has no start")


def _check_definition(model: PartitionsModel, options: JobOptions) -> None:
    """Let Dagster itself check the partitions, and Metaflow the tags that known keys make."""
    from dagster import DagsterInvalidDefinitionError

    try:
        dagster_definition(model)
        check_tags([f"partition:{each.parameter}={key}" for each in model.dimensions for key in each.keys])
    except (DagsterInvalidDefinitionError, CompileError, ValueError) as error:
        by = " and ".join(f"{name}={spec}" for name, spec in options.partition_by.items())
        raise VerbatimError(f"{BY} {by} can't be used: {str(error).rstrip('.')}. What it takes is {FORMS}.") from None


def _check_format(model: PartitionsModel) -> None:
    """Check `--partition-format`, without the parameters that get what it makes."""
    if model.format is None:
        return
    if not any(dimension.start for dimension in model.dimensions):
        raise CompileError(
            f"--partition-format {model.format!r} is for keys of time, and --partition-by is of none: "
            f"{', '.join(dimension.kind for dimension in model.dimensions)}. Leave it out."
        )
    if "%" not in model.format:
        raise CompileError(
            f"--partition-format is {model.format!r}, which has no part of the time. Write it as strftime takes it: "
            "%Y-%m-%d, or %Y%m%d for a number."
        )


def _check_values(parameter: ParameterModel, dimension: DimensionModel, fmt: str | None) -> None:
    """Check that the keys of a dimension are values of the parameter, as far as they are known."""
    keys, advice = dimension.keys, ""
    if dimension.start is not None:
        start = datetime.strptime(dimension.start, _KEY_FORMATS[dimension.kind])
        keys = (dimension.start if fmt is None else start.strftime(fmt),)
        advice = " Give a form that is one by --partition-format, such as %Y%m%d."
    for key in keys:
        try:
            typed(parameter.kind, key)
        except ValueError:
            raise CompileError(
                f"{BY} fills the parameter {parameter.name}, which is of type {parameter.kind}, and {key!r} is no such "
                f"value.{advice}"
            ) from None


def dagster_definition(model: PartitionsModel) -> PartitionsDefinition:
    """The Dagster partitions that the generated file makes."""
    import dagster as dg

    definitions = {
        dimension.parameter: getattr(dg, dimension.definition)(
            *([list(dimension.keys)] if dimension.keys else []), **dimension.arguments
        )
        for dimension in model.dimensions
    }
    return dg.MultiPartitionsDefinition(definitions) if len(definitions) > 1 else next(iter(definitions.values()))


def _unusable(name: str, spec: str, problem: str) -> VerbatimError:
    return VerbatimError(f"{BY} {name}={spec} can't be used: {problem.rstrip('.')}. What it takes is {FORMS}.")
