"""Values of parameters from text: of a command line, a variable, or a schedule."""

from __future__ import annotations

import json
from typing import Any

_TRUE = frozenset({"true", "t", "1", "yes", "y", "on"})
_FALSE = frozenset({"false", "f", "0", "no", "n", "off"})


def typed(kind: str, text: str) -> Any:
    """One text in the type of a parameter.

    Args:
        kind: The parameter's kind: `str`, `int`, `float`, `bool`, `json` or `file`.
        text: The text.

    Raises:
        ValueError: It is no such value; says why.
    """
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text)
    if kind == "json":
        return json.loads(text)
    if kind == "bool":
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise ValueError("it is neither true nor false")
        return word in _TRUE
    return text
