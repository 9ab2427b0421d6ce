"""Sending the report of an attempt, and a draft of it for the supervisor."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from step_wrapper.wire import Failure, Report, report_message

if TYPE_CHECKING:
    from pathlib import Path

    from dagster_pipes import PipesContext


def failed(task_id: str, duration_seconds: float, failure: Failure) -> Report:
    """The report of an attempt behind which the graph does not go on, as far as is known.

    Args:
        task_id: The task.
        duration_seconds: How long it ran.
        failure: Why it failed.
    """
    return {
        "task_id": task_id,
        "duration_seconds": duration_seconds,
        "is_cached": False,
        "cloned_from": None,
        "next_steps": [],
        "num_splits": None,
        "control_tasks": [],
        "failure": failure,
    }


def failure_of(reason: str, *, stderr: str = "", allow_retries: bool = True) -> Failure:
    """A failure of which no exception is known.

    Args:
        reason: Why the attempt failed, as the predicate of a sentence about the step.
        stderr: The end of its stderr.
        allow_retries: Whether another attempt can end otherwise.
    """
    return {"reason": reason, "traceback": "", "exception": None, "stderr": stderr, "allow_retries": allow_retries}


def send(context: PipesContext, report: Report) -> None:
    """Send the one report of an attempt."""
    context.report_custom_message(report_message(report))


class Draft:
    """The report as far as it is known before all is stored: the supervisor sends it if storing takes too long.

    Args:
        folder: The attempt's private folder.
    """

    def __init__(self, folder: Path):
        self._path = folder / "report.json"

    def write(self, report: Report) -> None:
        """Have this report sent. Without room for it on the disk, the supervisor has to do without."""
        with contextlib.suppress(OSError):
            self._path.touch(mode=0o600)
            self._path.write_text(json.dumps(report))

    def read(self) -> Report | None:
        """The report, or None if there is none, or not all of it."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._path.read_text())
        return None
