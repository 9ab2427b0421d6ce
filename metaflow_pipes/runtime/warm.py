"""Warm processes, which have imported Metaflow and fork the processes of steps (Linux only)."""

from __future__ import annotations

import collections
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, NamedTuple

from metaflow_pipes.runtime.step_process import ForkedProcess
from step_wrapper import companions

if TYPE_CHECKING:
    from collections.abc import Callable

    from metaflow_pipes.names import WarmStart
    from metaflow_pipes.runtime.step_process import StepLaunch

# The environment variable that says it for all runs whose run config doesn't.
WARM_VARIABLE = "METAFLOW_PIPES_WARM"
# One for each environment of steps. More are not kept: those that have waited longest end.
MAX_WARM_PROCESSES = 4
# How long a warm process may take to import, and to fork. Then steps are started by themselves.
READY_SECONDS = 60
FORK_SECONDS = 10
# How often a warm process may die before steps with its environment are all started by themselves.
MAX_FAILURES = 3
# How long it may take to end when nobody needs it.
_END_SECONDS = 2


class NotForkedError(Exception):
    """A step can't be forked.

    Args:
        reason: Why, as a sentence about the warm process without its full stop.
        may_try_again: Whether another warm process could do it.
    """

    def __init__(self, reason: str, *, may_try_again: bool = False):
        super().__init__(reason)
        self.may_try_again = may_try_again


class _Key(NamedTuple):
    """The properties that two steps share if one warm process can fork both."""

    python: str
    folder: str | None
    environment: frozenset[tuple[str, str]]
    datastore: str
    flow_file: str | None


class WarmProcess:
    """A process that has imported Metaflow.

    Args:
        key: The properties of the steps that it can fork.

    Raises:
        OSError: It can't be started.
    """

    def __init__(self, key: _Key):
        options = companions.WarmOptions(datastore=key.datastore, flow_file=key.flow_file)
        padding = " " * companions.PADDING
        self._lock = threading.Lock()
        self._is_ready: bool | None = None
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # its own output is that of each step's start
        with requests, tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            self._process = subprocess.Popen(
                [key.python, "-m", "step_wrapper", "--warm", json.dumps(options), padding],
                cwd=key.folder,
                env={**dict(key.environment), **dict.fromkeys(companions.TASK_VARIABLES, padding)},
                stdin=requests.fileno(),
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def fork(self, launch: StepLaunch) -> ForkedProcess:
        """Fork the process of a step.

        Args:
            launch: The step's process.

        Raises:
            NotForkedError: It can't be had from this process, and neither can any other.
        """
        with contextlib.ExitStack() as ours:
            channel, channel_of_task = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(channel)
            with channel_of_task, self._lock:
                self._become_ready()
                self._ask(launch, [channel_of_task.fileno(), *launch.streams])
            channel.settimeout(FORK_SECONDS)
            try:
                answer = channel.recv(companions.MAX_FORK_REQUEST_BYTES)
                if not answer.startswith(companions.FORKED):
                    raise _failure(answer)
                channel.sendall(companions.GO)
            except TimeoutError:
                raise NotForkedError(f"it has not answered for {FORK_SECONDS} s") from None
            except OSError as error:
                raise NotForkedError(f"it has gone: {error}", may_try_again=True) from None
            channel.settimeout(None)
            ours.pop_all()
        return ForkedProcess(int(answer.removeprefix(companions.FORKED)), channel)

    def end(self) -> None:
        """Let it end; steps that it has forked go on."""
        self._requests.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _become_ready(self) -> None:
        """Wait until it has imported Metaflow.

        Raises:
            NotForkedError: It never does.
        """
        if self._is_ready is None:
            self._is_ready = False
            try:
                # closed by now, if another step has given it up
                self._requests.settimeout(READY_SECONDS)
                answer = self._requests.recv(companions.MAX_FORK_REQUEST_BYTES)
            except TimeoutError:
                raise NotForkedError(f"it has not come to the end of its imports in {READY_SECONDS} s") from None
            except OSError as error:
                raise NotForkedError(f"it has gone: {error}") from None
            if answer != companions.READY:
                raise _failure(answer)
            self._is_ready = True
        if not self._is_ready:
            raise NotForkedError("it could not be used before")

    def _ask(self, launch: StepLaunch, descriptors: list[int]) -> None:
        variables = {name: launch.environment[name] for name in companions.TASK_VARIABLES if name in launch.environment}
        request = companions.ForkRequest(arguments=list(launch.command), environment=variables)
        try:
            self._requests.settimeout(FORK_SECONDS)
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
        except OSError as error:
            may_try_again = not isinstance(error, TimeoutError)
            raise NotForkedError(f"it can't be asked: {error}", may_try_again=may_try_again) from None


class WarmProcesses:
    """The warm processes of one run: each is started when the first step needs it, and ends with the run.

    Args:
        start: How steps are started.
    """

    def __init__(self, start: WarmStart):
        self._start: WarmStart = start if sys.platform == "linux" else "off"
        self._lock = threading.Lock()
        # those that steps have needed last are the last ones
        self._processes: dict[_Key, WarmProcess] = {}
        self._failures: collections.Counter[_Key] = collections.Counter()
        # for how many steps each of them forks, or is to do so when it has come to the end of its imports
        self._busy: collections.Counter[WarmProcess] = collections.Counter()
        self._has_warned = False

    def fork(
        self, launch: StepLaunch, datastore: str, flow_file: str, warn: Callable[[str], None]
    ) -> ForkedProcess | None:
        """Fork the process of a step, or return None if it is to be started by itself.

        Args:
            launch: The step's process.
            datastore: The type of the flow's datastore.
            flow_file: The absolute path of the flow file.
            warn: Takes a message, once in a run, if steps can't be forked that should have been.
        """
        if self._start == "off":
            return None
        environment = frozenset(item for item in launch.environment.items() if item[0] not in companions.TASK_VARIABLES)
        key = _Key(launch.command[0], launch.folder, environment, datastore, flow_file=None)
        for choice in [key._replace(flow_file=flow_file), key] if self._start == "flow" else [key]:
            while (process := self._process(choice)) is not None:
                try:
                    return process.fork(launch)
                except NotForkedError as error:
                    self._give_up(choice, process, error)
                    self._warn(warn, error, choice)
                finally:
                    self._release(process)
        return None

    def close(self) -> None:
        """Let all of them end."""
        with self._lock:
            processes = list(self._processes.values())
            self._processes.clear()
        for process in processes:
            process.end()

    def _process(self, key: _Key) -> WarmProcess | None:
        """The warm process for a step, which needs it until `_release`; None if there can't be one."""
        superfluous: list[WarmProcess] = []
        with self._lock:
            if self._failures[key] >= MAX_FAILURES:
                return None
            process = self._processes.pop(key, None)
            if process is None:
                idle = [other for other, its_process in self._processes.items() if not self._busy[its_process]]
                excess = len(self._processes) + 1 - MAX_WARM_PROCESSES
                # steps that wait for one that imports would have another one begin with that
                if excess > len(idle):
                    return None
                try:
                    process = WarmProcess(key)
                except OSError:  # the step can't be started either, and says so
                    return None
                superfluous = [self._processes.pop(other) for other in idle[: max(0, excess)]]
            self._processes[key] = process
            self._busy[process] += 1
        for other in superfluous:
            other.end()
        return process

    def _release(self, process: WarmProcess) -> None:
        """Note that a step does not need a process any more."""
        with self._lock:
            self._busy[process] -= 1
            if not self._busy[process]:
                del self._busy[process]

    def _give_up(self, key: _Key, process: WarmProcess, error: NotForkedError) -> None:
        with self._lock:
            # of several steps that ask the same process, the first one notices
            if self._processes.get(key) is not process:
                return
            del self._processes[key]
            self._failures[key] += 1 if error.may_try_again else MAX_FAILURES
        process.end()

    def _warn(self, warn: Callable[[str], None], error: NotForkedError, key: _Key) -> None:
        with self._lock:
            if self._has_warned or self._failures[key] < MAX_FAILURES:
                return
            self._has_warned = True
        shared = "Python and Metaflow" if key.flow_file is None else "the flow's imports"
        warn(
            f"Each step starts {shared} anew, which takes longer than to fork it from a process that has done so: "
            f"{error}. `create --warm {'off' if key.flow_file is None else 'metaflow'}` does without."
        )


def _failure(answer: bytes) -> NotForkedError:
    """The reason why a warm process does not do what it was asked for."""
    if answer.startswith(companions.UNFIT):
        return NotForkedError(answer.removeprefix(companions.UNFIT).decode(errors="replace"))
    if answer.startswith(companions.NOT_FORKED):
        reason = answer.removeprefix(companions.NOT_FORKED).decode(errors="replace")
        return NotForkedError(f"it can't be forked: {reason}")
    return NotForkedError("that process has ended", may_try_again=True)
