"""Environment variables by which users set how long something takes."""

from __future__ import annotations

import contextlib
import os
import sys


def seconds_of(variable: str, default: float) -> float:
    """The seconds that a variable sets, or the default; a value that is no positive number gives a warning.

    Args:
        variable: The name of the variable.
        default: The seconds if it is not set.
    """
    value = os.environ.get(variable, default)
    with contextlib.suppress(ValueError):
        if (seconds := float(value)) > 0:
            return seconds
    with contextlib.suppress(OSError):
        print(
            f"metaflow-pipes: {variable} is no number of seconds: {value!r}. It is taken to be {default}.",
            file=sys.stderr,
        )
    return default
