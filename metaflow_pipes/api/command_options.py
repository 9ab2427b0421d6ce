"""Keyword arguments as options of the commands that Metaflow's Deployer API starts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from metaflow._vendor import click


def command_options(command: click.Command, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check the types of a command's options, and bring them into the forms that Metaflow's API writes right.

    That API takes True for a number, of a list it looks at the first item alone, and it writes a tuple as one text.

    Args:
        command: The command.
        values: The options' values by their Python names; None is an option that is not given.

    Returns:
        The values; names that the command does not know are among them, for Metaflow to refuse.

    Raises:
        TypeError: A value is of another type than its option; names both.
    """
    known = {option.name: option for option in command.params}
    return {
        name: value if value is None or name not in known else _value(known[name], value)
        for name, value in values.items()
    }


def _value(option: Any, value: Any) -> Any:
    if getattr(option, "multiple", False):
        items = list(value) if isinstance(value, (list, tuple)) else [value]
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise TypeError(f"{option.name} is {value!r}, but has to be a list of str.")
        return items
    if option.name == "executor_config" and isinstance(value, (Mapping, os.PathLike)):
        return json.dumps(dict(value)) if isinstance(value, Mapping) else os.fspath(value)
    if isinstance(option.type, click.Path) and isinstance(value, os.PathLike):
        return os.fspath(value)
    expected = _python_type(option)
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise TypeError(f"{option.name} is {value!r}, but has to be of type {expected.__name__}.")
    return value


def _python_type(option: Any) -> type:
    if getattr(option, "is_bool_flag", False):
        return bool
    return int if option.type is click.INT else str
