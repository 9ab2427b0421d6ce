"""The values of a flow's parameters, from the shell or from Python, as the run config of its job."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.parameter_text import typed

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metaflow_pipes.compile.flow_model import ParameterModel
    from metaflow_pipes.deployment.definitions_file import Deployment


def from_text(deployment: Deployment, texts: Mapping[str, Any]) -> dict[str, Any]:
    """Values from a command line or the environment, in the types of the parameters.

    Args:
        deployment: The deployed flow.
        texts: Each parameter's name with its text, or with a list of texts if it takes several.

    Raises:
        DeploymentError: The flow has no such parameter, or a text is no value of its type.
    """
    return {name: _typed(parameter_of(deployment, name), text) for name, text in texts.items()}


def environment_texts(deployment: Deployment, environment: Mapping[str, str]) -> dict[str, Any]:
    """The parameters that `METAFLOW_RUN_<PARAMETER>` sets, as for Metaflow's `run`; each with its text, or its texts.

    Args:
        deployment: The deployed flow.
        environment: The variables.
    """
    found = {}
    for parameter in deployment.parameters:
        text = environment.get(f"METAFLOW_RUN_{parameter.name.replace('-', '_').upper()}")
        if text:
            found[parameter.name] = text.split() if parameter.multiple else text
    return found


def split_run_params(run_params: Iterable[str]) -> dict[str, str]:
    """`KEY=VALUE` pairs as a dictionary.

    Raises:
        DeploymentError: A pair has no `=`.
    """
    found = {}
    for pair in run_params:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise DeploymentError(f"--run-param {pair!r} is not of the form KEY=VALUE.")
        found[name] = value
    return found


def run_config(deployment: Deployment, values: Mapping[str, Any], partition: str | None = None) -> dict[str, Any]:
    """Dagster's run config for a run with these parameters.

    As with Metaflow's `run`, a parameter that is not given has its default, and one without default no value. None is
    "not given".

    Args:
        deployment: The deployed flow.
        values: The values by the parameters' names, as JSON has them. The name may be that of Metaflow's Python API,
            with underscores and in lower case.
        partition: The run's partition, which fills some of them, or None.

    Raises:
        DeploymentError: The flow has no such parameter, one that is required is not given, or one is given that the
            partition fills.
    """
    filled = () if partition is None else deployment.partition_parameters
    config: dict[str, Any] = {}
    for name, value in values.items():
        parameter = parameter_of(deployment, name)
        if value is not None and parameter.name in filled:
            raise DeploymentError(
                f"Parameter {parameter.name} is given, and so is the partition {partition}, whose key fills it. Leave "
                "one of them out."
            )
        if value is not None:
            config[parameter.name] = _absolute(value) if parameter.kind == "file" else value
    for parameter in deployment.parameters:
        has_source = parameter.has_default or parameter.asset is not None or parameter.name in filled
        if parameter.name in config or has_source:
            continue
        if parameter.required:
            by_partition = "--partition KEY or " if parameter.name in deployment.partition_parameters else ""
            raise DeploymentError(
                f"Flow {deployment.flow_name} requires the parameter {parameter.name}: give it by {by_partition}"
                f"--{parameter.name} VALUE."
            )
        config[parameter.name] = None
    return {"ops": {deployment.start_op: {"config": config}}} if config else {}


def parameter_of(deployment: Deployment, name: str) -> ParameterModel:
    """A parameter of a flow, by its name, also as Metaflow's Python API writes it.

    Raises:
        DeploymentError: The flow has no such parameter.
    """
    for parameter in deployment.parameters:
        if name in (parameter.name, python_name(parameter.name)):
            return parameter
    known = ", ".join(parameter.name for parameter in deployment.parameters)
    has = f"Its parameters are: {known}." if known else "It has no parameters."
    raise DeploymentError(f"Flow {deployment.flow_name}, as deployed, has no parameter {name}. {has}")


def python_name(name: str) -> str:
    """A parameter's name as Metaflow's Python API writes it."""
    return name.replace("-", "_").lower()


def _typed(parameter: ParameterModel, text: Any) -> Any:
    if isinstance(text, (list, tuple)):
        return [_item(parameter, item) for item in text]
    return [_item(parameter, text)] if parameter.multiple else _item(parameter, text)


def _item(parameter: ParameterModel, text: Any) -> Any:
    """One text in the type of a parameter."""
    if not isinstance(text, str):
        return text
    try:
        return typed(parameter.kind, text)
    except ValueError as error:
        shown = text if len(text) <= 80 else f"{text[:80]}..."
        raise DeploymentError(
            f"Parameter {parameter.name} is of type {parameter.kind}, and {shown!r} is no such value: {error}"
        ) from None


def _absolute(path: Any) -> Any:
    """A file's path for steps that run in another folder. What Metaflow has uploaded already is no path."""
    return path if not isinstance(path, str) or path.startswith("{") else os.path.abspath(Path(path).expanduser())
