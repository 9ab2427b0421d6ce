"""The time limits of an attempt: that of its run, and that of what it does now."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, NamedTuple

from step_wrapper.variables import seconds_of

if TYPE_CHECKING:
    from step_wrapper.launch import Launch

# Metaflow's own @timeout raises inside the step, where @catch can see it. It gets this much of a head start.
HEAD_START_SECONDS = 3
# @timeout limits the step's code. Starting up and storing artifacts may take this much longer than that limit.
OVERHEAD_SECONDS = 60
# From a step's end to its report, its logs are stored and its outcome is read, which a datastore that can't be reached
# would hold up for hours. Less time is left to that if somebody waits for the end of what has been terminated: with all
# that comes before, no more than the time that the client then has (`TERMINATION_TIMEOUT_SECONDS` there).
REPORT_SECONDS = 120
TERMINATED_REPORT_SECONDS = 7
# How much longer it may take if a job on another system is to be deleted first.
DELETION_SECONDS = 8
# How long a task may take to be cloned in a run that resumes another; the first one reads all of that run.
CLONE_SECONDS = 600
# The environment variables that change these.
REPORT_VARIABLE = "METAFLOW_PIPES_REPORT_SECONDS"
CLONE_VARIABLE = "METAFLOW_PIPES_CLONE_SECONDS"
# The predicate of a sentence about a step of which nothing can be said but that it has ended.
UNREPORTED = "has ended, but its logs and its outcome could not be stored and read"


class OwnWork(NamedTuple):
    """Work of the wrapper at the datastore, before or after Metaflow's own command.

    Attributes:
        failing: The predicate of a sentence about a step for which it did not come to its end.
        seconds: How long it may take.
    """

    failing: str
    seconds: float


class TimeLimits:
    """The time limits of an attempt, which begins now. Whoever holds them looks at the clock, and ends the attempt.

    Args:
        launch: The attempt.

    Attributes:
        deadline: The end of the time for what it does now, by the monotonic clock; infinite without a limit.
        run_ends_at: The same of its run.
        own_work: The wrapper's own work that the deadline is of, or None.
        is_grace: Whether the deadline is that of processes which were told to end.
    """

    def __init__(self, launch: Launch):
        self._timeout_seconds = launch.timeout_seconds
        self.deadline = math.inf
        self.run_ends_at = math.inf if launch.run_seconds_left is None else _after(launch.run_seconds_left)
        self.own_work: OwnWork | None = None
        self.is_grace = False

    @property
    def next_at(self) -> float:
        """The time of the limit that comes first."""
        return min(self.deadline, self.run_ends_at)

    def limit_step(self, beyond_timeout_seconds: float) -> None:
        """Limit what the step does now by its `@timeout`, if it has one.

        Args:
            beyond_timeout_seconds: How much longer than that it may take.
        """
        self.own_work = None
        seconds = self._timeout_seconds
        self.deadline = math.inf if seconds is None else _after(seconds + beyond_timeout_seconds)

    def limit_clone(self) -> None:
        """Limit what the wrapper does in the place of a step that may be cloned."""
        seconds = seconds_of(CLONE_VARIABLE, CLONE_SECONDS)
        self.own_work = OwnWork("did not begin: what it resumes could not be read and cloned", seconds)
        self.deadline = _after(seconds)

    def limit_report(self, *, is_terminated: bool, has_job: bool) -> None:
        """Limit storing and reporting, and nothing else: the run's limit is the step's, which has ended.

        Args:
            is_terminated: Whether somebody waits for the end.
            has_job: Whether a job on another system may have to be deleted.
        """
        seconds = TERMINATED_REPORT_SECONDS if is_terminated else seconds_of(REPORT_VARIABLE, REPORT_SECONDS)
        if has_job:
            seconds += DELETION_SECONDS
        self.own_work = OwnWork(UNREPORTED, seconds)
        self.deadline = _after(seconds)
        self.is_grace = False
        self.lift_run()

    def give_grace(self, seconds: float) -> None:
        """Limit the time of processes that were told to end."""
        self.is_grace = True
        self.deadline = _after(seconds)

    def lift(self) -> None:
        """Limit nothing of what it does now."""
        self.deadline = math.inf

    def lift_run(self) -> None:
        """Forget the limit of the run."""
        self.run_ends_at = math.inf


def _after(seconds: float) -> float:
    """A time of the monotonic clock."""
    return time.monotonic() + seconds
