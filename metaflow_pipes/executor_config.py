"""The config of a job's executor, as options of the command line give it: a YAML or JSON file, or JSON itself."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from metaflow_pipes.errors import CompileError

OPTION = "--executor-config"


def executor_config_in(given: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an executor's config.

    Args:
        given: The path of a file; or JSON, or a mapping. They hold the fields, or have them where a run config has
            them, under `execution: {config: ...}`: so has the file that `dagster-celery worker start -y` takes.

    Raises:
        CompileError: There is no such file, or it does not hold that.
    """
    given = os.fspath(given) if isinstance(given, os.PathLike) else given
    shown = given if isinstance(given, str) else "executor_config"
    value: Any = given
    if isinstance(given, str):
        try:
            value = yaml.safe_load(given if given.lstrip().startswith("{") else Path(given).read_text(encoding="utf-8"))
        except OSError as error:
            raise CompileError(f"{OPTION} {shown} can't be read: {error.strerror}.") from None
        except (yaml.YAMLError, UnicodeError) as error:
            raise CompileError(f"{OPTION} {shown} is neither YAML nor JSON: {error}") from None
    if isinstance(value, Mapping) and list(value) == ["execution"]:
        value = value["execution"]
        value = value.get("config") if isinstance(value, Mapping) and list(value) == ["config"] else None
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise CompileError(
            f"{OPTION} {shown} has to hold the fields of the executor's config, as in `broker: redis://...`, or those "
            "under `execution: {config: ...}`, as in a run config."
        )
    return dict(value)
