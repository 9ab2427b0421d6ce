"""The end of an attempt, and what to say of it."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

# Signals whose names do not say what usually lies behind them.
_SIGNAL_HINTS = {
    signal.SIGKILL: "out of memory?",
    signal.SIGSEGV: "segmentation fault",
    signal.SIGBUS: "bus error",
    signal.SIGFPE: "arithmetic error",
    signal.SIGILL: "illegal instruction",
    signal.SIGABRT: "aborted by the C library or an extension module",
}


@dataclass
class Observations:
    """Observations of a task by its own process while it ran.

    Attributes:
        next_steps: The steps that follow it in the graph; None if its code did not start.
        is_switch: Whether it goes on to one of them.
        has_cards: Whether it has a `@card`.
        inherited: The artifacts of its input tasks, each name with the keys of its values.
        exception: What its code raised, if it did.
        checks: The results of its asset checks, as `step_wrapper.report.checks` has them.
    """

    next_steps: list[str] | None = None
    is_switch: bool = False
    has_cards: bool = False
    inherited: dict[str, set[str]] = field(default_factory=dict)
    exception: BaseException | None = None
    checks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Clone(NamedTuple):
    """The task of another run that a task is a clone of.

    Attributes:
        pathspec: Its pathspec.
        stored: What the datastore holds of it, and of the clone (`metaflow.datastore.TaskDataStore`).
    """

    pathspec: str
    stored: Any


@dataclass(frozen=True)
class Outcome:
    """The end of the process of an attempt.

    Attributes:
        exit_status: Its exit code; a negative number is the signal that killed it.
        duration_seconds: How long it ran.
        ended_because: Why the supervisor ended it, or None.
        exception: What the step's code raised, as `Type: message`, or None.
        is_timeout: Whether the exception is that of Metaflow's own `@timeout`.
        wrong_transition: How its transition differs from the graph, or None.
        unknown_because: Why it is not known whether the task is done; None if it is known.
        traceback: The traceback of the exception, as far as it is known without the exception itself.
        stderr: The end of its stderr; None if that is in its folder.
        left_behind: Sentences about a job on another system that may go on; None if there is none.
    """

    exit_status: int
    duration_seconds: float
    ended_because: str | None = None
    exception: str | None = None
    is_timeout: bool = False
    wrong_transition: str | None = None
    unknown_because: str | None = None
    traceback: str = ""
    stderr: str | None = None
    left_behind: str | None = None

    @property
    def is_good(self) -> bool:
        """Whether the process ended as one whose task is done."""
        return self.exit_status == 0 and self.ended_because is None

    def last_line(self) -> str | None:
        """The line with which the log of an attempt that failed ends, as by `metaflow.runtime.Worker`; else None."""
        if self.ended_because is not None:
            return f"Task {self.ended_because}."
        if self.exit_status == -signal.SIGSEGV:
            return "Task failed with a segmentation fault."
        return "Task failed." if self.exit_status else None

    def reason(self, timeout_seconds: int | None, last_error_line: str) -> str:
        """The reason why the attempt failed, as the predicate of a sentence about the step.

        Args:
            timeout_seconds: The limit of `@timeout`.
            last_error_line: The last line of its stderr, or the empty string.
        """
        reason = self._reason(timeout_seconds, last_error_line)
        return reason if self.left_behind is None else f"{reason}\n{self.left_behind}"

    def _reason(self, timeout_seconds: int | None, last_error_line: str) -> str:
        if self.ended_because is not None:
            return self.ended_because
        if self.wrong_transition is not None:
            return self.wrong_transition
        if self.is_timeout:
            return f"timed out after {timeout_seconds} s"
        if self.exception is not None:
            return f"failed: {self.exception}"
        if self.exit_status < 0:
            return f"was killed by {signal_name(-self.exit_status)}"
        if self.exit_status == 0 and self.unknown_because is not None:
            return f"has ended, but whether its task is done can't be told: {self.unknown_because}"
        if self.exit_status == 0:
            return "ended with exit code 0 before Metaflow had recorded it as done: does it call sys.exit or os._exit?"
        hint = f": {last_error_line}" if last_error_line else ""
        return f"failed with exit code {self.exit_status}{hint}"


def signal_name(number: int) -> str:
    """A signal's number and name, with what usually lies behind it."""
    try:
        name = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    hint = _SIGNAL_HINTS.get(name)
    return f"signal {number} ({name.name})" + (f": {hint}" if hint else "")
