"""Objects of the user's that an option names by an import path, as in `package.module:attribute`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from metaflow_pipes.compile.job_model import ImportModel
from metaflow_pipes.errors import CompileError

_IMPORT_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")


def is_import_path(text: str) -> bool:
    """Whether a text has the form of an import path."""
    return _IMPORT_PATH.fullmatch(text) is not None


def load(option: str, path: str, alias: str) -> tuple[ImportModel, object]:
    """The object at an import path, and how the generated file imports it.

    Modules are looked for where Dagster will find them when it loads the file: in the working directory, too.

    Args:
        option: The option, as on the command line.
        path: The import path.
        alias: The object's name in the generated file.

    Raises:
        CompileError: It can't be imported.
    """
    module, _, attribute = path.partition(":")
    own_path = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        return ImportModel(module, attribute, alias), getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CompileError(f"{option} {path} can't be imported: {error}") from None
    finally:
        sys.path[:] = own_path
