"""The wrapper's first process: it forks the step and owns what must work when the step does not.

Its session, its process tree, the time limit, signals, the death of the op above it, the logs, the exit code.
It stays small: standard library and dagster_pipes, no Metaflow.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from step_wrapper import processes
from step_wrapper.control import CLONES, CODE_ENDS, CODE_STARTS, HANDS_OVER, REPORTED, STEP_ENDS, STEP_STARTS
from step_wrapper.handover import Handover
from step_wrapper.limits import HEAD_START_SECONDS, OVERHEAD_SECONDS, UNREPORTED, TimeLimits
from step_wrapper.log_saver import LogSaver
from step_wrapper.logs import PASS_ON_SECONDS, STREAMS, StreamLog, log_path, say, tail
from step_wrapper.report.message import Draft, failed, failure_of, send
from step_wrapper.report.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from dagster_pipes import PipesContext

    from step_wrapper.launch import Launch
    from step_wrapper.logs import Translated
    from step_wrapper.remote import RemoteStep

# What a step may do after SIGTERM before SIGKILL, in seconds.
KILL_GRACE_SECONDS = 10
# The same when nobody waits any more, because the op's process is dead.
ORPHAN_GRACE_SECONDS = 2
# Processes that the step leaves behind at its end have a moment to end by themselves, as Metaflow's sidecars do, which
# have their last messages to deliver; and then the same between SIGTERM and SIGKILL.
LEFTOVER_SETTLE_SECONDS = 1
LEFTOVER_GRACE_SECONDS = 1
# A selector takes no more than 24 days.
MAX_WAIT_SECONDS = 3600
# How long output may wait in its pipe for more to come.
GATHER_SECONDS = 0.002
# What the wrapper's own processes may do between SIGTERM and SIGKILL: delete temporary files.
OVERDUE_GRACE_SECONDS = 1
# How often SIGKILL is sent, once a second, before a process counts as ended that does not end.
UNKILLABLE_AFTER = 3
# How many lines of stderr go along with a failure.
STDERR_LINES = 50


class Supervisor:
    """Runs one attempt of a task.

    Args:
        launch: The attempt.
        context: The open Pipes session.
        channel: A socket of this process that the processes below it are not to have, or None.
    """

    def __init__(self, launch: Launch, context: PipesContext, channel: socket.socket | None = None):
        self._launch = launch
        self._channel = channel
        self._context = context
        self._selector = selectors.DefaultSelector()
        self._started = time.monotonic()
        self._limits = TimeLimits(launch)
        self._ended_because: str | None = None
        self._is_terminated = False
        self._is_run_ended = False
        self._handover: Handover | None = None
        self._remote: RemoteStep | None = None
        self._is_overdue = False
        self._kills = 0
        self._is_reported = False
        self._exit_status: int | None = None

    def run(self) -> int:
        """Run the attempt to its end, and return the exit code: 0 if the task is done, else 1."""
        # no TemporaryDirectory: the step inherits exit handlers, and would delete it at its own end
        self._folder = Path(tempfile.mkdtemp(prefix="metaflow-step-"))
        self._log_saver = LogSaver(self._launch, self._folder, self._leave_supervisor)
        try:
            self._prepare()
            self._fork_step()
            self._watch()
            self._log_saver.end()
            if not self._is_reported:
                self._end_leftovers(spare=None)
                self._drain()
                if self._is_overdue or not self._post_mortem():
                    self._report_for_it()
            for log in self._logs:
                log.close()
        finally:
            for folder in (self._folder, *(self._handover.folders if self._handover else ())):
                shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._context.close()
        processes.reap_all()
        return 0 if self._exit_status == 0 and self._is_reported else 1

    def _prepare(self) -> None:
        processes.adopt_orphans()
        with contextlib.suppress(PermissionError):  # it leads a session or group already
            os.setsid()
        self._wakeup, wakeup_writer = socket.socketpair()
        self._wakeup.setblocking(False)
        wakeup_writer.setblocking(False)
        self._wakeup_writer = wakeup_writer
        signal.set_wakeup_fd(wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, self._on_termination)
        signal.signal(signal.SIGTERM, self._on_termination)
        self._watch_for(self._wakeup.fileno(), self._on_wakeup)
        self._watch_for(sys.stdin.fileno(), self._on_lifeline)

    def _watch_for(self, descriptor: int, callback: Callable[[], None]) -> None:
        # a file or /dev/null as standard input, as in a shell, can't be polled and is no lifeline
        with contextlib.suppress(PermissionError):
            self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def _fork_step(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        pipes = {name: os.pipe() for name in STREAMS}
        self._control, control_of_step = socket.socketpair()
        self._step = os.fork()
        if self._step == 0:
            self._control.close()
            for reader, _ in pipes.values():
                os.close(reader)
            self._become_step(control_of_step, {name: writer for name, (_, writer) in pipes.items()})
        control_of_step.close()
        for _, writer in pipes.values():
            os.close(writer)
        self._logs = [
            StreamLog(name, reader, passes_to, self._folder, self._on_unread)
            for passes_to, (name, (reader, _)) in enumerate(pipes.items(), start=1)
        ]
        for log in self._logs:
            self._watch_for(log.pipe, lambda log=log: self._on_output(log))
        self._watch_for(self._control.fileno(), self._on_message)
        if self._launch.ended_with is None:
            self._limit(OVERHEAD_SECONDS)
        else:
            self._limit_report()

    def _become_step(self, control: socket.socket, writers: dict[str, int]) -> NoReturn:
        """The step's process: Metaflow is imported here, once, and the process never returns from here."""
        code = 1
        try:
            self._leave_supervisor()
            processes.die_with_parent()
            from step_wrapper.step.process import run_step

            code = run_step(self._launch, self._context, control, writers, self._folder, self._started)
        except SystemExit:
            pass  # ended by the supervisor while it reports
        except BaseException as error:  # there is nobody above who would say it
            _print(error)
        finally:
            os._exit(code)

    def _leave_supervisor(self) -> None:
        """Undo in a forked process what the supervisor has set up for itself."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._selector.close()
        self._wakeup.close()
        self._wakeup_writer.close()
        if self._channel is not None:
            self._channel.close()
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.setpgid(0, 0)

    # what happens while the step runs

    def _watch(self) -> None:
        while self._exit_status is None:
            next_at = min(self._log_saver.due_at, self._limits.next_at)
            wait_seconds = min(max(0.0, next_at - time.monotonic()), MAX_WAIT_SECONDS)
            for key, _ in self._selector.select(wait_seconds):
                key.data()
            if time.monotonic() >= self._limits.deadline:
                self._on_deadline()
            if time.monotonic() >= self._limits.run_ends_at:
                self._on_run_ends()
            if time.monotonic() >= self._log_saver.due_at:
                self._log_saver.save(self._logs)

    def _on_output(self, log: StreamLog) -> None:
        taken = log.pump()
        if taken == 0:
            with contextlib.suppress(KeyError):
                self._selector.unregister(log.pipe)
        elif taken is not None and log.has_room_after(taken):
            # waking up for each of a million short lines would take a CPU, and time from the step
            time.sleep(GATHER_SECONDS)

    def _on_unread(self, stream: str) -> None:
        stderr = self._logs[STREAMS.index("stderr")]
        stderr.note(
            f"nobody has read the step's {stream} for {PASS_ON_SECONDS} s: what comes may be missing where it was "
            "passed on to. Metaflow's log has all of it."
        )

    def _on_message(self) -> None:
        message = self._control.recv(1)
        if message == CLONES:
            if self._ended_because is None:
                self._limits.limit_clone()
        elif message == STEP_STARTS:
            self._limit(OVERHEAD_SECONDS)
        elif message == CODE_STARTS:
            self._limit(HEAD_START_SECONDS)
        elif message == CODE_ENDS:
            self._limit(OVERHEAD_SECONDS)
        elif message == HANDS_OVER:
            self._on_handover()
        elif message == STEP_ENDS:
            self._on_step_ends()
        elif message == REPORTED:
            self._is_reported = True
        else:
            self._selector.unregister(self._control)

    def _on_handover(self) -> None:
        """Take note that the step's process becomes another command, which tells nothing of the step's code."""
        self._handover = Handover.read(self._folder)
        if self._handover.system is None:
            self._limit(OVERHEAD_SECONDS)
        else:
            # the time in queues does not count
            if self._ended_because is None:
                self._limits.lift()
            from step_wrapper.remote import RemoteStep

            self._remote = RemoteStep(
                self._handover.system,
                self._handover.namespace,
                self._context,
                on_start=lambda: self._limit(OVERHEAD_SECONDS),
            )
            for log in self._logs:
                log.translate(_translating(self._remote, is_error=log.name == "stderr"))
        with contextlib.suppress(OSError):
            self._control.sendall(b"\n")

    def _on_step_ends(self) -> None:
        self._log_saver.end()
        self._end_leftovers(spare=self._step)
        self._drain()
        self._limit_report()
        with contextlib.suppress(OSError):
            self._control.sendall((self._ended_because or "").encode() + b"\n")

    def _on_wakeup(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wakeup.recv(4096):
                pass
        self._log_saver.collect()
        pid, status = os.waitpid(self._step, os.WNOHANG)
        if not pid:
            processes.reap(except_for=(self._step, self._log_saver.pid))
            return
        # what the step wrote and said in its last moment is still to be read
        self._control.setblocking(False)
        with contextlib.suppress(OSError):
            while message := self._control.recv(1):
                self._is_reported = self._is_reported or message == REPORTED
        self._exit_status = os.waitstatus_to_exitcode(status)

    def _on_lifeline(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            self._selector.unregister(sys.stdin.fileno())
            self._is_terminated = True
            # a job on another system is deleted within that time
            grace_seconds = ORPHAN_GRACE_SECONDS if self._remote is None else KILL_GRACE_SECONDS
            self._end("was ended, because the Dagster process that ran its op died", grace_seconds)

    def _on_termination(self, *_: object) -> None:
        self._is_terminated = self._is_run_ended = True
        self._end("was terminated", KILL_GRACE_SECONDS)

    def _on_deadline(self) -> None:
        if self._limits.is_grace:
            processes.send(processes.descendants(os.getpid()), signal.SIGKILL)
            self._limits.give_grace(1)
            self._kills += 1
            if self._kills > UNKILLABLE_AFTER:
                # it hangs in the kernel, and will be gone when it comes back from there
                self._exit_status = -signal.SIGKILL
        elif self._limits.own_work is not None:
            self._is_overdue = True
            self._terminate(OVERDUE_GRACE_SECONDS)
        else:
            self._end(f"timed out after {self._launch.timeout_seconds} s", KILL_GRACE_SECONDS)

    def _on_run_ends(self) -> None:
        self._limits.lift_run()
        self._is_run_ended = True
        limit = self._launch.run_limit_seconds
        self._end(f"was ended, because the run exceeded its time limit of {limit} s", KILL_GRACE_SECONDS)

    def _limit(self, beyond_timeout_seconds: float) -> None:
        """Set the time limit of what the step does now, if it has one and is not being ended already."""
        if self._ended_because is None:
            self._limits.limit_step(beyond_timeout_seconds)

    def _limit_report(self) -> None:
        """Set the time limit of storing and reporting, which begins now, also that of a step that was ended."""
        has_job = self._remote is not None or self._launch.job is not None
        self._limits.limit_report(is_terminated=self._is_terminated, has_job=has_job)
        self._kills = 0

    def _end(self, because: str, grace_seconds: float) -> None:
        """End the step's process tree: SIGTERM now, SIGKILL when the grace is over."""
        if self._ended_because is None:
            self._ended_because = because
            self._terminate(grace_seconds if self._limits.own_work is None else OVERDUE_GRACE_SECONDS)

    def _terminate(self, grace_seconds: float) -> None:
        self._limits.give_grace(grace_seconds)
        self._log_saver.stop()
        # Metaflow's commands that wait for a job delete it at the end of Python, which comes by SIGINT alone
        is_remote = self._remote is not None and self._limits.own_work is None
        processes.send(processes.descendants(os.getpid()), signal.SIGINT if is_remote else signal.SIGTERM)

    # what happens at its end

    def _end_leftovers(self, spare: int | None) -> None:
        settle_seconds = LEFTOVER_SETTLE_SECONDS if self._ended_because is None else 0
        spared = (spare, self._log_saver.pid)
        count, survivors = processes.end_all(os.getpid(), spared, settle_seconds, LEFTOVER_GRACE_SECONDS)
        if count > len(survivors):
            say(f"ended {count - len(survivors)} process(es) that the step left running")
        if survivors:
            say(
                f"could not end process(es) {', '.join(map(str, survivors))} of the step, which go on: "
                "they are another user's, or hang in the kernel"
            )

    def _drain(self) -> None:
        for log in self._logs:
            log.drain()

    def _post_mortem(self) -> bool:
        """Store the logs and report the outcome of a step that died before it could.

        Returns:
            Whether that came to its end.
        """
        assert self._exit_status is not None
        outcome = Outcome(
            exit_status=self._exit_status,
            duration_seconds=time.monotonic() - self._started,
            ended_because=self._ended_because,
        )
        reporter = os.fork()
        if reporter == 0:
            self._become_reporter(outcome)
        # watched as the step was
        self._step, self._exit_status = reporter, None
        self._limit_report()
        self._watch()
        return self._exit_status == 0

    def _become_reporter(self, outcome: Outcome) -> NoReturn:
        code = 1
        try:
            self._leave_supervisor()
            processes.die_with_parent()
            # storages clear up behind themselves
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
            if self._handover is None:
                from step_wrapper.report.report import report

                report(self._launch, self._context, outcome, self._folder)
            else:
                from step_wrapper.report.handed_over import report_handed_over

                job = None if self._remote is None else self._remote.job
                report_handed_over(
                    self._launch,
                    self._context,
                    outcome,
                    self._folder,
                    self._handover,
                    job,
                    is_run_ended=self._is_run_ended,
                )
            code = 0
        except SystemExit:
            pass
        except BaseException as error:  # there is nobody above who would say it
            _print(error)
        finally:
            os._exit(code)

    def _report_for_it(self) -> None:
        """Report, without Metaflow, an attempt whose own report did not come to its end."""
        launch = self._launch
        failing, problem = UNREPORTED, "see its stderr"
        if self._is_overdue and self._limits.own_work is not None:
            failing, seconds = self._limits.own_work
            problem = f"{launch.storage} is slow or can't be reached. It was given {seconds:g} s."
        report = Draft(self._folder).read()
        if report is None:
            stderr = tail(log_path(self._folder, "stderr"), STDERR_LINES)
            failure = failure_of(self._ended_because or f"{failing}: {problem}", stderr=stderr)
            report = failed(launch.task_id, time.monotonic() - self._started, failure)
        elif report["failure"] is not None:
            report["failure"]["reason"] += f"\nIts logs may not be in Metaflow's datastore: {problem}"
        say(f"step {launch.step} {failing}: {problem}")
        # without it, the op asks once more what is stored
        with contextlib.suppress(OSError):
            send(self._context, report)


def _translating(remote: RemoteStep, *, is_error: bool) -> Callable[[bytes], Translated]:
    """The function that translates a line of the command that waits for a job, which has come from one stream."""

    def translate(line: bytes) -> Translated:
        shown, is_of_stderr, stored, is_marked = remote.take(line, is_error=is_error)
        return shown, 2 if is_of_stderr else 1, stored, is_marked

    return translate


def _print(error: BaseException) -> None:
    with contextlib.suppress(Exception):
        traceback.print_exception(error)
        sys.stderr.flush()
