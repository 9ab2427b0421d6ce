"""The parameters of a flow, with their defaults, and the values of its configs: a part of stage 1."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from metaflow._vendor import click
from metaflow.includefile import IncludeFile
from metaflow.parameters import DeployTimeField
from metaflow.user_configs.config_parameters import dump_config_values

from metaflow_pipes.compile.flow_model import ParameterModel
from metaflow_pipes.errors import CompileError


def read_parameter(flow: str, attribute: str, parameter: Any) -> ParameterModel:
    """A parameter of a flow.

    Args:
        flow: The flow's name.
        attribute: The flow's attribute that holds it.
        parameter: Metaflow's object.

    Raises:
        CompileError: It has a default that does not fit its type.
    """
    click_type: Any = click.types.convert_type(parameter.kwargs.get("type"))
    is_file = isinstance(parameter, IncludeFile)
    multiple = bool(parameter.kwargs.get("multiple"))
    default = _default(flow, parameter, click_type, is_file=is_file, multiple=multiple)
    model = ParameterModel(
        name=parameter.name,
        kind="file" if is_file else _kind(click_type),
        multiple=multiple,
        separator=parameter.separator,
        required=bool(parameter.kwargs.get("required")),
        has_default=default is not None,
        default=default,
        help=parameter.kwargs.get("help"),
    )
    if is_file:
        model = replace(model, is_text=click_type._is_text, encoding=click_type._encoding or "utf-8")
    return model if attribute == model.usual_attribute else replace(model, attribute=attribute)


def _kind(click_type: Any) -> str:
    if click_type.name == "JSON":
        return "json"
    # bool before int: click's boolean type is no subclass of its integer type, but be explicit about the order
    for kind, types in (
        ("bool", click.types.BoolParamType),
        ("int", click.types.IntParamType),
        ("float", click.types.FloatParamType),
    ):
        if isinstance(click_type, types):
            return kind
    return "str"


def _default(flow: str, parameter: Any, click_type: Any, *, is_file: bool, multiple: bool) -> Any:
    """A parameter's default as a JSON value; deploy-time functions are called, as by Metaflow's deployers."""
    default = parameter.kwargs.get("default")
    if isinstance(default, DeployTimeField):
        # for an IncludeFile, deploy_time=True would upload the file now: `packaging` does, else each run reads it anew
        default = default(deploy_time=not is_file)
    if default is None or is_file:
        return default
    try:
        if multiple:
            converted = [click_type.convert(item, None, None) for item in default]
        elif parameter.separator and not isinstance(default, str):
            converted = list(default)
        else:
            converted = click_type.convert(default, None, None)
        json.dumps(converted)
    except (click.UsageError, TypeError, ValueError) as error:
        raise CompileError(
            f"Parameter *{parameter.name}* of flow *{flow}* has a default that does not fit its type: {error}"
        ) from None
    return converted


def read_configs(state: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the flow's `Config`s, as Metaflow's runner hands them to its tasks, and types that are lost.

    Args:
        state: As for `read_flow`.

    Raises:
        CompileError: A value can't be written as JSON.
    """
    configs, lost = {}, {}
    for name, (value, is_plain) in dump_config_values(state.flow).get("user_configs", {}).items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise CompileError(
                f"Config *{name}* of flow *{state.flow.name}* has a value that can't be written as JSON "
                f"({error}), so Metaflow can't hand it to the steps. Let its parser return plain values."
            ) from None
        others: dict[str, None] = {}
        # a list, as JSON makes of it: files of the first release have that
        configs[name] = [_builtin(value, others), is_plain]
        if others:
            lost[name] = ", ".join(others)
    return configs, lost


def _builtin(value: Any, others: dict[str, None]) -> Any:
    """A value that JSON can hold, made of Python's own types, for which there are literals.

    Args:
        value: The value.
        others: Takes the names of the other types in it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        built: Any = {_builtin(key, others): _builtin(item, others) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        built = (list if isinstance(value, list) else tuple)(_builtin(item, others) for item in value)
    elif isinstance(value, str):
        built = str.__str__(value)
    else:
        built = int(value) if isinstance(value, int) else float(value)
    if type(value) is not type(built):
        others[type(value).__name__] = None
    return built
