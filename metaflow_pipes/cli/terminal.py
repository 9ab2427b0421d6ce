"""The forms in which commands show tables, times and paths."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


# How wide a table is that no terminal limits.
TABLE_WIDTH = 200


def from_here(path: Path) -> Path:
    """A path as the shell takes it here: relative to the working directory, if it is within that."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def new_console(*, stderr: bool = False) -> Console:
    """A console for tables, of the terminal's width, or of `TABLE_WIDTH` where the output goes elsewhere."""
    from rich.console import Console

    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=TABLE_WIDTH)


def local_time(timestamp: float | None) -> str:
    """A time in seconds since 1970, as people here read it; the empty string for None."""
    return "" if timestamp is None else datetime.fromtimestamp(timestamp).strftime("%Y-%m-%d %H:%M:%S")
