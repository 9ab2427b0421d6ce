"""The task that runs in this process: what the wrapper and Metaflow's decorator hook tell each other."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from step_wrapper.report.outcome import Observations

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from metaflow_extensions.metaflow_pipes.plugins.checks import TaskChecks
    from step_wrapper.launch import Launch
    from step_wrapper.report.outcome import Clone


class Index(NamedTuple):
    """The index of a resumed run's origin.

    Attributes:
        origin_run_id: The origin.
        origin_parameters: The id of the task that holds the origin's parameters.
        parameters: The id of the task that holds those of the resumed run.
        tasks: The origin's tasks of the step that is asked for, by their places: of each, its id and the attempt that
            is done.
    """

    origin_run_id: str
    origin_parameters: str
    parameters: str
    tasks: dict[str, tuple[str, int]]


@dataclass
class RunningTask:
    """The attempt that runs in this process.

    Attributes:
        launch: The attempt.
        control: The socket to the supervisor.
        folder: The attempt's private folder.
        index: What is known of the run that its run resumes; None if it resumes none.
        clone: The task that it is a clone of, if it is one.
        checks: The results of its asset checks; None before its code starts.
        seen: What was seen of it for its report.
    """

    launch: Launch
    control: socket.socket
    folder: Path
    index: Index | None = None
    clone: Clone | None = None
    checks: TaskChecks | None = None
    seen: Observations = field(default_factory=Observations)

    def tell(self, message: bytes) -> None:
        """Tell the supervisor something; a supervisor that has gone doesn't matter to the step."""
        with contextlib.suppress(OSError):
            self.control.sendall(message)

    def store_checks(self) -> None:
        """Store the results of its asset checks, also for its report."""
        if self.checks is not None:
            self.checks.store()
            self.seen.checks = self.checks.results


# What the imports of Metaflow have written to stdout and stderr, if they were done before the task was known.
import_output: list[bytes] = []

# The task of this process; None in processes that the wrapper did not make, such as those that render cards.
current: RunningTask | None = None
