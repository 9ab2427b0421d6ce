"""Processes that must not outlive their reason to run: ops without their run worker, steps without their supervisor."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from metaflow_pipes.process_stat import process_stat

if TYPE_CHECKING:
    from collections.abc import Mapping


POLL_SECONDS = 0.1


@functools.cache
def end_with_run_worker() -> None:
    """From now on, end this process as soon as the one that has started it for an op dies.

    Dagster's multiprocess executor ends its processes when it is interrupted, but can't when it is killed. With this
    process ends its step, which reads a pipe that this process holds.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True, name="run-worker-watch").start()


def _end_with(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    # nobody is left who would take what this process could still say
    os._exit(1)


def kill_orphans(session: int, environment: Mapping[str, str], patience_seconds: float = 0) -> int:
    """Kill what a supervisor that was killed has left behind, and return how many processes that were (Linux only).

    They are in its session, or they have left that and can be told by their environment.

    Args:
        session: The process id of the supervisor, which led a session.
        environment: Variables that no other process has with these values.
        patience_seconds: How long they have to end by themselves.
    """
    marks = [f"{name}={value}".encode() for name, value in environment.items()]
    kill_at = time.monotonic() + patience_seconds
    while time.monotonic() < kill_at and _orphans(session, marks):
        time.sleep(POLL_SECONDS)
    killed: set[int] = set()
    while found := _orphans(session, marks) - killed:
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= found
    return len(killed)


def _orphans(session: int, marks: list[bytes]) -> set[int]:
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        stat = process_stat(entry.name)
        if stat is None or stat.state == "Z":
            continue
        with contextlib.suppress(OSError):
            if stat.session == session or not set(marks).isdisjoint((entry / "environ").read_bytes().split(b"\0")):
                found.add(int(entry.name))
    return found
