"""Processes that clone the tasks of a resumed run, each one task after another (Linux only).

Each is forked from a warm process when a task finds no other one idle, and has the environment of the task. A task that
can't be cloned so has a process of its own, which clones it, or says why that can't be.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, NamedTuple

from step_wrapper import companions

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from metaflow_pipes.runtime.step_process import StepLaunch, StepProcess

# How long a task's clone may take here, in seconds. In a process of its own it may take `METAFLOW_PIPES_CLONE_SECONDS`.
CLONE_SECONDS = 10
# How long an idle process may take to end.
_END_SECONDS = 2


class _Key(NamedTuple):
    """The properties that two tasks share if one process can clone both."""

    folder: str | None
    environment: frozenset[tuple[str, str]]


class _Cloner(NamedTuple):
    """A process that clones tasks, and the socket by which it is asked to."""

    process: StepProcess
    requests: socket.socket

    def clone(self, launch: StepLaunch) -> bool | None:
        """Whether it has cloned a task and reported it; None if it can't be asked any more."""
        variables = {name: launch.environment[name] for name in companions.TASK_VARIABLES if name in launch.environment}
        self.requests.settimeout(CLONE_SECONDS)
        try:
            socket.send_fds(self.requests, [json.dumps(variables).encode()], launch.streams[1:])
            answer = self.requests.recv(companions.MAX_FORK_REQUEST_BYTES)
        except OSError:  # a timeout is one
            return None
        return answer == companions.CLONED if answer else None

    def end(self, *, is_idle: bool) -> None:
        self.requests.close()
        try:
            self.process.wait(_END_SECONDS if is_idle else 0)
        except subprocess.TimeoutExpired:
            self.process.kill_group()
            self.process.wait()
        self.process.close()


class Cloners:
    """The processes that clone the tasks of one run; as many as have been needed at the same time."""

    def __init__(self):
        self._lock = threading.Lock()
        # those that were needed last are the last ones
        self._idle: list[tuple[_Key, _Cloner]] = []
        self._busy_count = 0
        self._most_busy = 0

    def clone(
        self,
        launch: StepLaunch,
        fork: Callable[[StepLaunch], StepProcess | None],
        waits_for: Callable[[StepProcess], AbstractContextManager[None]],
    ) -> bool:
        """Clone a task, and let it be reported; False if it has to have a process of its own.

        Args:
            launch: The process that the task would have.
            fork: Forks a process, or returns None if that can't be.
            waits_for: Has the thread that asks end a process as long as its context is open, if it is told to end.
        """
        environment = frozenset(item for item in launch.environment.items() if item[0] not in companions.TASK_VARIABLES)
        key = _Key(launch.folder, environment)
        cloner = self._take(key)
        is_cloned: bool | None = None
        try:
            cloner = cloner or _forked(launch, fork)
            if cloner is not None:
                with waits_for(cloner.process):
                    is_cloned = cloner.clone(launch)
        finally:
            self._give_back(key, cloner if is_cloned is not None else None)
            if cloner is not None and is_cloned is None:
                cloner.end(is_idle=False)
        return bool(is_cloned)

    def close(self) -> None:
        """Let all of them end."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, cloner in idle:
            cloner.end(is_idle=True)

    def _take(self, key: _Key) -> _Cloner | None:
        """An idle process for a task, which needs one until `_give_back`; None if one has to be forked."""
        superfluous: list[_Cloner] = []
        with self._lock:
            self._busy_count += 1
            self._most_busy = max(self._most_busy, self._busy_count)
            found = next((item for item in reversed(self._idle) if item[0] == key), None)
            if found is not None:
                self._idle.remove(found)
            while found is None and self._idle and self._busy_count + len(self._idle) > self._most_busy:
                superfluous.append(self._idle.pop(0)[1])
        for other in superfluous:
            other.end(is_idle=True)
        return None if found is None else found[1]

    def _give_back(self, key: _Key, cloner: _Cloner | None) -> None:
        """Note that a task needs no process any more, and that one is idle."""
        with self._lock:
            self._busy_count -= 1
            if cloner is not None:
                self._idle.append((key, cloner))


def _forked(launch: StepLaunch, fork: Callable[[StepLaunch], StepProcess | None]) -> _Cloner | None:
    requests, requests_of_process = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "step_wrapper", companions.CLONES]
    with requests_of_process:
        process = fork(launch._replace(command=command, stdin=requests_of_process.fileno()))
    if process is None:
        requests.close()
        return None
    return _Cloner(process, requests)
