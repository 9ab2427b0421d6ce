"""The process of a step as its op sees it: started by itself, or forked from a warm one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from step_wrapper import companions

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence


class StepLaunch(NamedTuple):
    """The launch of a step's process.

    Attributes:
        command: The command: a Python interpreter, and `-m step_wrapper` with its arguments.
        environment: The whole environment.
        folder: The working directory, or None for this process's.
        stdout: The file descriptor that takes its stdout; None is that of this process.
        stderr: The same of its stderr.
        stdin: The file descriptor that is its standard input; None is that of this process.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    folder: str | None
    stdout: int | None
    stderr: int | None
    stdin: int | None = None

    @property
    def streams(self) -> list[int]:
        """The file descriptors of its standard input, output and error."""
        own = self.stdin, self.stdout, self.stderr
        return [number if descriptor is None else descriptor for number, descriptor in enumerate(own)]


class StepProcess(Protocol):
    """A process that leads a session of its own. All methods can be called from any thread.

    Attributes:
        pid: Its number.
    """

    pid: int

    def poll(self) -> int | None:
        """The exit code, or None if it runs; a negative number is the signal that killed it."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return the exit code as `poll`.

        Args:
            timeout: How long to wait, in seconds, or None.

        Raises:
            subprocess.TimeoutExpired: It still runs then.
        """
        ...

    def terminate(self) -> None:
        """Send it SIGTERM, if it runs."""
        ...

    def kill_group(self) -> None:
        """Send SIGKILL to its process group, if it runs."""
        ...

    def close(self) -> None:
        """Let go of that by which this process has known it."""
        ...


class StartedProcess(subprocess.Popen[bytes]):
    """A process that this one has started.

    Args:
        launch: What is started.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self, launch: StepLaunch):
        super().__init__(
            launch.command,
            cwd=launch.folder,
            env=launch.environment,
            stdin=launch.stdin,
            stdout=launch.stdout,
            stderr=launch.stderr,
            start_new_session=True,
        )

    def kill_group(self) -> None:
        """As `StepProcess.kill_group`."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """As `StepProcess.close`."""


class ForkedProcess:
    """A process that a warm one has forked, which also reaps it: not before `close`, so that its number stays its own.

    Args:
        pid: Its number.
        channel: The socket by which it is heard of; closed with it.
    """

    def __init__(self, pid: int, channel: socket.socket):
        self.pid = pid
        self._channel = channel
        self._exit_code: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """As `StepProcess.poll`."""
        with self._lock:
            if self._exit_code is None and self._channel.fileno() >= 0 and _is_readable(self._channel, 0):
                message = _received(self._channel)
                # nothing is heard of a process that was killed if the warm one has gone, too
                is_told = message.startswith(companions.ENDED)
                self._exit_code = int(message.removeprefix(companions.ENDED)) if is_told else -signal.SIGKILL
            return self._exit_code

    def wait(self, timeout: float | None = None) -> int:
        """As `StepProcess.wait`."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        while (exit_code := self.poll()) is None:
            left = None if give_up_at is None else give_up_at - time.monotonic()
            if timeout is not None and left is not None and left <= 0:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout)
            _is_readable(self._channel, left)
        return exit_code

    def terminate(self) -> None:
        """As `StepProcess.terminate`."""
        self._send(os.kill, signal.SIGTERM)

    def kill_group(self) -> None:
        """As `StepProcess.kill_group`."""
        self._send(os.killpg, signal.SIGKILL)

    def close(self) -> None:
        """As `StepProcess.close`."""
        with self._lock:
            self._channel.close()

    def _send(self, function: Callable[[int, int], None], number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                function(self.pid, number)


def _received(channel: socket.socket) -> bytes:
    """The next message, or nothing at the end."""
    with contextlib.suppress(ConnectionError):
        return channel.recv(companions.MAX_FORK_REQUEST_BYTES)
    return b""


def _is_readable(channel: socket.socket, seconds: float | None) -> bool:
    """Whether there is a message, or the end, within some seconds; None is any time."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))
