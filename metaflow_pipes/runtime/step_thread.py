"""The state of an op that runs in a thread of the run's process: its log descriptors and its stop flag."""

from __future__ import annotations

import contextlib
import threading
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaflow_pipes.runtime.cloners import Cloners
    from metaflow_pipes.runtime.step_process import StepProcess
    from metaflow_pipes.runtime.warm import WarmProcesses


@dataclass
class StepThread:
    """The thread that runs an op.

    Attributes:
        stdout: The file descriptor that takes the stdout of its processes; None is that of this process.
        stderr: The same of their stderr.
        warm_processes: The processes that its own can be forked from; None if each is started by itself.
        cloners: The processes that clone tasks of a resumed run; None if each clone has a process of its own.
        gives_way: Called when the op's last process has ended, so that another op may begin while this one reports.
    """

    stdout: int | None = None
    stderr: int | None = None
    warm_processes: WarmProcesses | None = None
    cloners: Cloners | None = None
    gives_way: Callable[[], None] = lambda: None
    _process: StepProcess | None = None
    _is_ending: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextlib.contextmanager
    def waits_for(self, process: StepProcess) -> Iterator[None]:
        """Let `end` end a process, as long as the context is open.

        Raises:
            dagster.DagsterExecutionInterruptedError: The thread was told to end.
        """
        with self._lock:
            self._process = process
            if self._is_ending.is_set():
                process.terminate()
        try:
            yield
        finally:
            with self._lock:
                self._process = None
        self.check()

    def end(self) -> None:
        """Ask the thread to end: its process gets SIGTERM, and its op is interrupted. From any other thread."""
        with self._lock:
            self._is_ending.set()
            if self._process is not None:
                self._process.terminate()

    def kill(self) -> None:
        """Kill the process group of the thread's process."""
        with self._lock:
            if self._process is not None:
                self._process.kill_group()

    def pause(self, seconds: float) -> None:
        """Wait, unless the thread is told to end.

        Raises:
            dagster.DagsterExecutionInterruptedError: The thread was told to end.
        """
        self._is_ending.wait(seconds)
        self.check()

    def check(self) -> None:
        """Check whether the op may go on.

        Raises:
            dagster.DagsterExecutionInterruptedError: The thread was told to end.
        """
        if self._is_ending.is_set():
            raise dg.DagsterExecutionInterruptedError


_current: ContextVar[StepThread | None] = ContextVar("step_thread", default=None)


def current() -> StepThread:
    """The thread of the op that runs here; with other executors, one that is never told anything."""
    return _current.get() or StepThread()


@contextlib.contextmanager
def running(thread: StepThread) -> Iterator[None]:
    """Let the ops of this thread find it."""
    token = _current.set(thread)
    try:
        yield
    finally:
        _current.reset(token)
