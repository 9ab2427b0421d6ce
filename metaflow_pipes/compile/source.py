"""Python source of values and of items between brackets, broken where a formatter would break it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.job_options import FromRunEnvironment

if TYPE_CHECKING:
    from collections.abc import Sequence


# The longest line that is not broken, in characters.
LINE_LENGTH = 110


def bracketed(opening: str, items: Sequence[str], closing: str, indent: int = 0, prefix: int = 0) -> str:
    """Items between brackets: on one line if they fit, else one a line.

    Args:
        opening: What stands before the items.
        items: The items.
        closing: What stands behind them.
        indent: The column where the last line starts.
        prefix: How many more characters stand on the first line.
    """
    line = f"{opening}{', '.join(items)}{closing}"
    if len(line) + indent + prefix <= LINE_LENGTH and "\n" not in line:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{item},\n" for item in items)
    return f"{opening}\n{inner}{' ' * indent}{closing}"


def literal(value: Any, indent: int = 0, prefix: int = 0) -> str:
    """A value as a Python literal: on one line if it fits, else an item a line.

    Args:
        value: Strings, numbers, booleans, None, and lists, tuples and mappings of them.
        indent: The column where the literal's last line starts.
        prefix: How many characters stand before the literal on its first line, beyond `indent`.
    """
    flat = one_line(value)
    if len(flat) + indent + prefix <= LINE_LENGTH or not isinstance(value, (dict, list, tuple)) or not value:
        return flat
    inner = indent + 4
    if isinstance(value, dict):
        items = [f"{one_line(key)}: {literal(item, inner, len(one_line(key)) + 3)}" for key, item in value.items()]
        opening, closing = "{", "}"
    else:
        items = [literal(item, inner, 1) for item in value]
        opening, closing = ("[", "]") if isinstance(value, list) else ("(", ")")
    lines = "".join(f"{' ' * inner}{item},\n" for item in items)
    return f"{opening}\n{lines}{' ' * indent}{closing}"


def one_line(value: Any) -> str:
    """A value as a Python literal on one line, however long.

    Args:
        value: As for `literal`; or a reference to a variable of the run's environment, which becomes Dagster's.
    """
    if isinstance(value, FromRunEnvironment):
        return f"dg.EnvVar({one_line(value.variable)})"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{one_line(key)}: {one_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(one_line, value)) + "]"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(one_line, value)) + ("," if len(value) == 1 else "") + ")"
    return repr(value)


def _string(value: str) -> str:
    """A string with double quotes, as formatters write it, unless that needs more escapes."""
    text = repr(value)
    if text.startswith("'") and value.count('"') <= value.count("'"):
        inner = text[1:-1].replace("\\'", "'").replace('"', '\\"')
        return f'"{inner}"'
    return text
