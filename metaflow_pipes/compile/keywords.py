"""Keyword arguments of Python in the forms that the compiler takes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from metaflow_pipes.compile.job_options import FromRunEnvironment

if TYPE_CHECKING:
    from dagster import EnvVar


def without_dagsters_types(step_env: Mapping[str, str | EnvVar]) -> Mapping[str, str | FromRunEnvironment]:
    """The variables of all steps, with this package's own type for references to the run's environment.

    Args:
        step_env: The variables, as Python gives them: text, or a `dagster.EnvVar`.
    """
    if not isinstance(step_env, Mapping):
        return step_env  # for `check_options` to refuse
    # a lookup by name, since importing dagster costs a second, and who gives an EnvVar has done it
    reference: Any = getattr(sys.modules.get("dagster"), "EnvVar", None)
    return {
        name: FromRunEnvironment(cast("EnvVar", value).env_var_name)
        if reference and isinstance(value, reference)
        else value
        for name, value in step_env.items()
    }


def command_line_options(options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as options of Metaflow's command line, as its Runner and Deployer take them.

    Args:
        options: The values, by the options' names with underscores for dashes; None is an option that is not given.
    """
    arguments: list[str] = []
    for key, value in options.items():
        option = f"--{'with' if key == 'decospecs' else key.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            arguments += _flag(option, is_on=value)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                arguments += [option, name, _text(item)]
        else:
            for item in [value] if isinstance(value, (str, os.PathLike, int, float)) else value:
                arguments += [option, *map(_text, item)] if isinstance(item, tuple) else [f"{option}={_text(item)}"]
    return arguments


def _flag(option: str, *, is_on: bool) -> list[str]:
    if is_on:
        return [option]
    # of Metaflow's flags, these alone have a negative form and are on by default
    return [f"--no-{option[2:]}"] if option == "--pylint" else []


def _text(value: Any) -> str:
    return (
        json.dumps(value)
        if isinstance(value, (dict, list))
        else os.fspath(value)
        if isinstance(value, os.PathLike)
        else str(value)
    )
