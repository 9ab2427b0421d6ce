"""Finding and ending the processes below this one, on Linux and macOS."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import io
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from step_wrapper.wire import RUN_WORKER_VARIABLE

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.02
_STAT_BYTES = 4096
# What a process may take to be gone after SIGKILL, in seconds.
KILL_SECONDS = 2


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, so that daemons stay findable (Linux only)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have this process killed when its parent dies (Linux only); the command that it becomes, too.

    Args:
        number: The signal that it gets.
    """
    _prctl(_PR_SET_PDEATHSIG, number)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def descendants(of: int) -> list[int]:
    """The process ids of all descendants of a process, parents before their children.

    A Dagster run in the background that one of them has launched, for a flow that triggers flows, is not among them: it
    goes on by itself.

    Args:
        of: The process id.
    """
    children: dict[int, list[int]] = {}
    for process in _process_table():
        if process.state != b"Z":
            children.setdefault(process.parent, []).append(process.pid)
    found: list[int] = []
    queue = [of]
    while queue:
        below = [pid for pid in children.get(queue.pop(0), []) if not _is_of_another_run(pid)]
        found.extend(below)
        queue.extend(below)
    return found


def _is_of_another_run(pid: int) -> bool:
    """Whether a process runs a Dagster run that this one is no part of.

    Only on Linux: elsewhere it is no descendant, since nobody adopts it when what has launched it ends.
    """
    try:
        with io.FileIO(f"/proc/{pid}/environ") as file:
            variables = file.readall().split(b"\0")
    except OSError:
        return False
    marks = [variable for variable in variables if variable.startswith(f"{RUN_WORKER_VARIABLE}=".encode())]
    return bool(marks) and marks[0] != f"{RUN_WORKER_VARIABLE}={os.environ.get(RUN_WORKER_VARIABLE)}".encode()


class _Process(NamedTuple):
    pid: int
    state: bytes
    parent: int


def _process_table() -> list[_Process]:
    """Each process."""
    if sys.platform != "linux":
        listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,state=,ppid="], capture_output=True, check=True).stdout
        rows = map(bytes.split, listing.splitlines())
        return [_Process(int(pid), state[:1], int(parent)) for pid, state, parent in rows]
    with os.scandir("/proc") as entries:
        return [process for entry in entries if entry.name.isdigit() and (process := _process(entry.name))]


def _process(pid: str) -> _Process | None:
    """A process by its directory in /proc; without `pathlib`, since there may be thousands of them."""
    try:
        with io.FileIO(f"/proc/{pid}/stat") as file:
            stat = file.read(_STAT_BYTES)
    except OSError:
        return None
    # the name of the program, in brackets, may hold anything; behind it come the state and the parent
    state, parent = stat.rpartition(b")")[2].split(None, 2)[:2]
    return _Process(int(pid), state, int(parent))


def send(pids: list[int], number: int) -> None:
    """Send a signal to processes; those that have gone are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


class Ended(NamedTuple):
    """The fate of processes that were to end.

    Attributes:
        total: How many did not end by themselves.
        survivors: Those that did not end at all: another user's, or ones that hang in the kernel.
    """

    total: int
    survivors: list[int]


def end_all(of: int, spare: Collection[int | None], settle_seconds: float, grace_seconds: float) -> Ended:
    """End the descendants of a process: first by SIGTERM, at last by SIGKILL, which takes `KILL_SECONDS` at most.

    Args:
        of: The process id.
        spare: Children that stay alive; their own descendants do not.
        settle_seconds: How long they have to end by themselves.
        grace_seconds: How long they have between SIGTERM and SIGKILL.
    """
    targets = [pid for pid in descendants(of) if pid not in spare]
    settled_at = time.monotonic() + settle_seconds
    while targets and time.monotonic() < settled_at:
        time.sleep(_POLL_SECONDS)
        reap(except_for=spare)
        targets = [pid for pid in descendants(of) if pid not in spare]
    count = len(targets)
    send(targets, signal.SIGTERM)
    kill_at = time.monotonic() + grace_seconds
    while targets and time.monotonic() < kill_at + KILL_SECONDS:
        time.sleep(_POLL_SECONDS)
        reap(except_for=spare)
        targets = [pid for pid in descendants(of) if pid not in spare]
        if time.monotonic() >= kill_at:
            send(targets, signal.SIGKILL)
    return Ended(count, targets)


def reap(except_for: Collection[int | None]) -> None:
    """Collect the exit codes of adopted orphans that have ended.

    Args:
        except_for: Children whose exit codes others collect.
    """
    if sys.platform != "linux":
        return
    for process in _process_table():
        if process.state == b"Z" and process.parent == os.getpid() and process.pid not in except_for:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def reap_all() -> None:
    """Collect the exit codes of all children that have ended: in a container, nobody else may do so."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def set_killed_at_end_of(requests: socket.socket, is_killed: bool) -> None:
    """Let the kernel end this process, or not, at a socket's end or a message: while it does not look at that itself.

    Args:
        requests: The socket to the run's process.
        is_killed: Whether it does from now on (Linux only).
    """
    flags = fcntl.fcntl(requests, fcntl.F_GETFL) & ~os.O_ASYNC
    if is_killed:
        fcntl.fcntl(requests, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(requests, fcntl.F_SETFL, flags | (os.O_ASYNC if is_killed else 0))
    # what has happened before, the kernel does not tell of
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    if is_killed and poll.poll(0):
        os.kill(os.getpid(), signal.SIGIO)
