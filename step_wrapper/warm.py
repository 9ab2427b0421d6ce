"""A process that has imported Metaflow, and forks the supervisor of each task (`python -m step_wrapper --warm`).

Two thirds of an empty task are Python's start and the import of Metaflow: this process pays them once, for all tasks of
a run with the same environment. Its standard input is a socket to the run's process, and at the socket's end it ends;
tasks that it has forked go on. Linux only. The messages between the two processes are in
`step_wrapper.companions`.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from step_wrapper import companions
from step_wrapper.logs import flush_output
from step_wrapper.process_image import ProcessImage
from step_wrapper.processes import set_killed_at_end_of
from step_wrapper.step import garbage, preloading, running

if TYPE_CHECKING:
    from collections.abc import Callable

# How long the imports may take; longer than the run's process waits for them, which says so.
IMPORT_SECONDS = 75
_OUTPUTS = (1, 2)


class _Task(NamedTuple):
    """A task that was forked, until the run's process has heard how it ended.

    Attributes:
        pid: Its supervisor.
        channel: The socket by which the run's process hears of it.
        has_ended: Whether the supervisor has ended, and waits to be reaped: till then, nobody else gets its number.
    """

    pid: int
    channel: socket.socket
    has_ended: bool = False


class WarmProcess:
    """Forks a supervisor for each request, and knows it until the run's process does not need its number any more.

    Args:
        requests: The socket to the run's process.
        image: The memory of this process that others see, which each task makes its own.
        output: What the start of this process has written, as each task's would.
        run: Runs the task of a forked process, and returns the exit code.
    """

    def __init__(
        self,
        requests: socket.socket,
        image: ProcessImage,
        output: Output,
        run: Callable[[socket.socket], int],
    ):
        self._requests = requests
        self._image = image
        self._output = output
        self._run = run
        self._tasks: dict[int, _Task] = {}
        self._wakeup, self._wakeup_writer = socket.socketpair()

    def serve(self) -> None:
        """Fork tasks until the run's process closes its end of the socket, or dies."""
        for end in (self._wakeup, self._wakeup_writer):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            # the closed ends of tasks that still run are left alone: they would wake this process up for nothing
            ended = {task.channel.fileno(): task for task in self._tasks.values() if task.has_ended}
            readable = _readable([self._requests.fileno(), self._wakeup.fileno(), *ended])
            for descriptor in readable & ended.keys():
                self._forget(ended[descriptor])
            if self._wakeup.fileno() in readable:
                self._on_wakeup()
            if self._requests.fileno() in readable and not self._on_request():
                return

    def _on_request(self) -> bool:
        """Fork a task, and return whether more can be asked for."""
        message, descriptors, _, _ = socket.recv_fds(
            self._requests, companions.MAX_FORK_REQUEST_BYTES, companions.FORK_DESCRIPTORS
        )
        if not message:
            return False
        request: companions.ForkRequest = json.loads(message)
        channel, *streams = descriptors
        task_end = socket.socket(fileno=channel)
        try:
            pid = os.fork()
        except OSError as error:
            _tell(task_end, companions.NOT_FORKED + str(error).encode())
            task_end.close()
        else:
            if pid == 0:
                self._become_task(request, task_end, streams)
            self._tasks[pid] = _Task(pid, task_end)
        for descriptor in streams:
            os.close(descriptor)
        return True

    def _on_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        for task in list(self._tasks.values()):
            if task.has_ended:
                continue
            # looked at, and left as a zombie
            ended = os.waitid(os.P_PID, task.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended is not None:
                code = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
                _tell(task.channel, companions.ENDED + str(code).encode())
                with contextlib.suppress(OSError):
                    task.channel.shutdown(socket.SHUT_WR)
                self._tasks[task.pid] = task._replace(has_ended=True)

    def _forget(self, task: _Task) -> None:
        """Reap a task, which nobody will send a signal to any more."""
        os.waitpid(task.pid, 0)
        task.channel.close()
        del self._tasks[task.pid]

    def _become_task(self, request: companions.ForkRequest, channel: socket.socket, streams: list[int]) -> NoReturn:
        """The supervisor's process: all is as if it had been started by itself. It never returns from here."""
        code = 1
        try:
            os.setsid()
            self._leave(streams)
            # whoever has given up to wait for this has started the task in another way
            if channel.send(companions.FORKED + str(os.getpid()).encode()) and channel.recv(1) == companions.GO:
                self._image.become(request["arguments"], request["environment"])
                sys.argv = [sys.argv[0], *request["arguments"][3:]]
                preloading.reseed()
                self._output.repeat()
                code = self._run(channel)
        except BaseException as error:  # there is nobody above who would say it
            sys.excepthook(type(error), error, error.__traceback__)
        finally:
            flush_output()
            _tell(channel, companions.ENDED + str(code).encode())
            os._exit(code)

    def _leave(self, streams: list[int]) -> None:
        """Undo in a forked process what this one has set up for itself."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (
            self._requests,
            self._wakeup,
            self._wakeup_writer,
            *(task.channel for task in self._tasks.values()),
        ):
            end.close()
        for number, descriptor in enumerate(streams):
            os.dup2(descriptor, number)
            os.close(descriptor)


class Output(NamedTuple):
    """The output of a process that becomes warm, each by stdout and stderr: of the interpreter, and of the imports."""

    start: list[bytes]
    imports: list[bytes]

    @classmethod
    def of_this_process(cls, start_sizes: list[int]) -> Output:
        """The output up to now, which goes to two files.

        Args:
            start_sizes: The sizes of the files when the interpreter had started.
        """
        flush_output()
        whole = [os.pread(descriptor, os.fstat(descriptor).st_size, 0) for descriptor in _OUTPUTS]
        pairs = list(zip(whole, start_sizes, strict=True))
        return cls([text[:size] for text, size in pairs], [text[size:] for text, size in pairs])

    def repeat(self) -> None:
        """Write the interpreter's output again, and have the step's process write that of the imports."""
        _write(self.start)
        running.import_output = self.imports


def serve(run: Callable[[socket.socket], int]) -> None:
    """Be a warm process, as the arguments and standard input of this one say; returns when there is no more to do.

    Args:
        run: Runs the task of a forked process, and returns the exit code.
    """
    signal.alarm(IMPORT_SECONDS)
    garbage.collect_seldom()
    flush_output()
    start_sizes = [os.fstat(descriptor).st_size for descriptor in _OUTPUTS]
    # this process's end, so that no import and no task finds a socket as standard input
    requests = socket.socket(fileno=os.dup(sys.stdin.fileno()))
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    set_killed_at_end_of(requests, True)
    image = ProcessImage.of_this_process(companions.TASK_VARIABLES)
    options: companions.WarmOptions = json.loads(sys.argv[2])
    try:
        preloading.import_metaflow(options["datastore"])
        if options["flow_file"] is not None:
            preloading.import_modules_of(options["flow_file"])
    except preloading.UnfitError as error:
        _tell(requests, companions.UNFIT + str(error).encode())
        return
    signal.alarm(0)
    set_killed_at_end_of(requests, False)
    output = Output.of_this_process(start_sizes)
    # pages with objects that are only looked at stay shared
    gc.freeze()
    _tell(requests, companions.READY)
    WarmProcess(requests, image, output, run).serve()


def _write(texts: list[bytes]) -> None:
    for descriptor, text in zip(_OUTPUTS, texts, strict=True):
        while text:
            text = text[os.write(descriptor, text) :]


def _readable(descriptors: list[int]) -> set[int]:
    """The given descriptors that can be read, or whose other end is closed; waits for the first."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll()}


def _tell(channel: socket.socket, message: bytes) -> None:
    """Send a message to the run's process, if that is there."""
    with contextlib.suppress(OSError):
        channel.send(message)
