"""The logs of a step in Metaflow's datastore while the step runs: saved at intervals, in processes of their own."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
import time
import traceback
from typing import TYPE_CHECKING, NoReturn

from step_wrapper import processes
from step_wrapper.logs import STREAMS, say, tail
from step_wrapper.variables import seconds_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from step_wrapper.launch import Launch
    from step_wrapper.logs import StreamLog

SAVE_INTERVAL_SECONDS = 30
# The environment variable that changes the interval.
INTERVAL_VARIABLE = "METAFLOW_PIPES_LOG_SAVE_SECONDS"
# A save that takes longer is given up.
SAVE_LIMIT_SECONDS = 600
# What a save may do after SIGTERM before SIGKILL, and what it may then still take to be gone, in seconds.
TERMINATION_SECONDS = 2
KILL_SECONDS = 1
_POLL_SECONDS = 0.01


class LogSaver:
    """Saves what a running step has written, if it has written something since the last time.

    Neither the step nor the supervisor can: the one may hold the interpreter's lock, and the other has no Metaflow
    and must never wait for a datastore. So each save is a process, which imports Metaflow, saves and ends. There is
    at most one.

    Args:
        launch: The attempt.
        folder: The folder with its logs.
        leave_supervisor: What a forked process does to be no supervisor; it then leads a process group.

    Attributes:
        pid: The process that saves now, or None.
        due_at: When to call `save` next, by the monotonic clock.
    """

    def __init__(self, launch: Launch, folder: Path, leave_supervisor: Callable[[], None]):
        self._launch = launch
        self._folder = folder
        self._leave_supervisor = leave_supervisor
        self._messages = folder / "log_saver.log"
        self._interval_seconds = seconds_of(INTERVAL_VARIABLE, SAVE_INTERVAL_SECONDS)
        self._saved_sizes: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self._has_warned = False
        self.pid: int | None = None
        self.due_at = time.monotonic() + self._interval_seconds

    def save(self, logs: Sequence[StreamLog]) -> None:
        """Start to save what is new in the logs, unless the last save still goes on."""
        self.due_at = time.monotonic() + self._interval_seconds
        if self.pid is not None:
            return
        sizes = {log.name: log.flush() for log in logs}
        if sizes == self._saved_sizes:
            return
        self._saved_sizes = sizes
        try:
            self.pid = os.fork()
        except OSError as error:
            self._on_failure(repr(error))
            return
        if self.pid == 0:
            self._become_saver()
        with contextlib.suppress(OSError):  # it does so itself, but may not have come that far when it is ended
            os.setpgid(self.pid, self.pid)

    def collect(self) -> None:
        """Take note of the end of the process that saves, if it has ended."""
        if self.pid is None:
            return
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.pid = None
            if status:
                self._on_failure(self._last_message() or f"exit status {os.waitstatus_to_exitcode(status)}")

    def stop(self) -> None:
        """Start no more saves. One that goes on may be ended from now on, which is no failure."""
        self.due_at = math.inf
        self._has_warned = True

    def end(self) -> None:
        """Stop, and end a save that goes on, so that it can't take the place of what is saved from now on.

        Takes no longer than `TERMINATION_SECONDS` and `KILL_SECONDS`. A process that hangs in the kernel keeps its
        `pid`; it will not come back from there.
        """
        self.stop()
        for number, seconds in ((signal.SIGTERM, TERMINATION_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
            if self.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, number)
            give_up_at = time.monotonic() + seconds
            while self.pid is not None and time.monotonic() < give_up_at:
                self.collect()
                time.sleep(_POLL_SECONDS)

    def _become_saver(self) -> NoReturn:
        code = 1
        try:
            self._leave_supervisor()
            processes.die_with_parent()
            # storages clear up behind themselves
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            signal.alarm(SAVE_LIMIT_SECONDS)
            # they say much when something is wrong, each time
            messages = os.open(self._messages, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(messages, 1)
            os.dup2(messages, 2)

            from step_wrapper.report.datastore import open_datastore, save_logs

            save_logs(open_datastore(self._launch), self._launch, self._folder, self._saved_sizes)
            code = 0
        except BaseException:  # there is nobody above who would say it; SystemExit is the end by SIGTERM
            traceback.print_exc()
        finally:
            os._exit(code)

    def _last_message(self) -> str:
        with contextlib.suppress(OSError):
            return tail(self._messages, 1)
        return ""

    def _on_failure(self, reason: str) -> None:
        self._saved_sizes = {}
        if not self._has_warned:
            self._has_warned = True
            say(f"the logs could not be saved while the step runs, and will be at its end: {reason}")
