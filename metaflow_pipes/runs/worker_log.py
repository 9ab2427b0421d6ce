"""The files that hold what the background processes of local runs print."""

from __future__ import annotations

import os
from pathlib import Path

# Where the files are, within the instance's folder.
LOG_FOLDER = "metaflow_runs"
# How much of a file's end is shown.
SHOWN_LINES = 10
_SHOWN_BYTES = 10_000


def log_of(home: Path, dagster_run_id: str) -> Path:
    """The file for a run, in the folder of its instance."""
    return home / LOG_FOLDER / f"{dagster_run_id}.log"


def ending_of(log: str | os.PathLike[str]) -> str:
    """The name of a file and its last lines, for the message of an error."""
    try:
        with Path(log).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _SHOWN_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-SHOWN_LINES:]
    except OSError as error:
        return f"Its output, {log}, can't be read: {error.strerror}."
    if not lines:
        return f"It has printed nothing to {log}."
    return f"Its output, {log}, ends with:\n" + "\n".join(lines)
