"""Finding and ending the processes below this one, on Linux and macOS."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.02


def adopt_orphans() -> None:
    """Become the parent of descendants that lose theirs, so that daemons stay findable (Linux only)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Have this process killed when its parent dies (Linux only)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, argument: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


def descendants(of: int) -> list[int]:
    """The process ids of all descendants of a process, parents before their children.

    Args:
        of: The process id.
    """
    children: dict[int, list[int]] = {}
    for pid, parent in _process_table():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [of]
    while queue:
        below = children.get(queue.pop(0), [])
        found.extend(below)
        queue.extend(below)
    return found


def _process_table() -> list[tuple[int, int]]:
    """Each living process and its parent."""
    if sys.platform == "linux":
        return [row for entry in os.listdir("/proc") if entry.isdigit() and (row := _row(entry))]  # noqa: PTH208
    listing = subprocess.run(["/bin/ps", "-A", "-o", "pid=,ppid="], capture_output=True, check=True)
    return [(int(pid), int(parent)) for pid, parent in map(bytes.split, listing.stdout.splitlines())]


def _row(entry: str) -> tuple[int, int] | None:
    try:
        stat = Path("/proc", entry, "stat").read_bytes()
    except OSError:
        return None
    # the name of the program, in brackets, may hold anything; behind it come the state and the parent
    state, parent = stat.rpartition(b")")[2].split()[:2]
    return None if state == b"Z" else (int(entry), int(parent))


def send(pids: list[int], number: int) -> None:
    """Send a signal to processes; those that have gone are passed over."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def end_all(of: int, spare: Collection[int | None], settle_seconds: float, grace_seconds: float) -> int:
    """End the descendants of a process, and return how many had to be ended: first by SIGTERM.

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
    while targets:
        time.sleep(_POLL_SECONDS)
        reap(except_for=spare)
        targets = [pid for pid in descendants(of) if pid not in spare]
        if time.monotonic() >= kill_at:
            send(targets, signal.SIGKILL)
    return count


def reap(except_for: Collection[int | None]) -> None:
    """Collect the exit codes of adopted orphans that have ended.

    Args:
        except_for: Children whose exit codes others collect.
    """
    for pid in _zombies():
        if pid not in except_for:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def _zombies() -> list[int]:
    if sys.platform != "linux":
        return []
    zombies = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        with contextlib.suppress(OSError, ValueError):
            if entry.isdigit():
                state, parent = Path("/proc", entry, "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state == b"Z" and int(parent) == os.getpid():
                    zombies.append(int(entry))
    return zombies
