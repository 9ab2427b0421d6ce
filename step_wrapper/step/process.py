"""The step's process: Metaflow's own `step` command, run in this process as `python flow.py step` would be."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING

from step_wrapper.control import CLONES, REPORTED, STEP_ENDS, STEP_STARTS
from step_wrapper.report.exceptions import cause_of_failure, described, is_framework, skip_framework
from step_wrapper.report.outcome import Outcome
from step_wrapper.step import interpreter, running
from step_wrapper.step.records import forward_records

if TYPE_CHECKING:
    import socket

    from dagster_pipes import PipesContext

    from step_wrapper.launch import Launch
    from step_wrapper.step.running import RunningTask
    from step_wrapper.wire import Resumption


# Memory that a report may need, with the imports of storages.
REPORT_BYTES = 1 << 25


def run_step(
    launch: Launch,
    context: PipesContext,
    control: socket.socket,
    writers: dict[str, int],
    folder: Path,
    started: float,
) -> int:
    """Run the task, store its logs and report it.

    Args:
        launch: The task's attempt.
        context: The open Pipes session.
        control: The socket to the supervisor.
        writers: The writing ends of the pipes for `stdout` and `stderr`.
        folder: A private folder, which holds the logs.
        started: When the supervisor started, by the monotonic clock.

    Returns:
        The exit code: 0 if the task is done, else 1.
    """
    if launch.ended_with is not None:
        from step_wrapper.report.report import report_stored

        is_done = report_stored(launch, context)
        control.sendall(REPORTED)
        return 0 if is_done else 1
    task = running.current = running.RunningTask(launch, control, folder)
    if launch.done_as:
        from step_wrapper.report.report import report_if_done

        task.tell(CLONES)
        if report_if_done(launch, context):
            control.sendall(REPORTED)
            return 0
    if launch.resumption is not None:
        task.tell(CLONES)
        is_done = _resume(task, launch.resumption, context)
        if is_done is not None:
            control.sendall(REPORTED)
            return 0 if is_done else 1
        launch = task.launch
    task.tell(STEP_STARTS)
    if launch.log_level is not None:
        forward_records(context, launch.log_level)
    own_output = _redirect_output(writers)
    for descriptor, text in enumerate(running.import_output, start=1):
        os.write(descriptor, text)
    exit_code = _run_flow(_arguments(launch, folder))
    interpreter.finish()
    try:
        _restore_output(own_output)
        task.tell(STEP_ENDS)
        ended_because = control.makefile().readline().strip() or None
    except OSError:
        # the step's code has closed our descriptors: the supervisor reports in our place
        return exit_code
    if not _has_memory():
        # what can be reported then is not what is stored: the supervisor reports in our place
        return exit_code
    # whatever the step's code has made of this signal; storages clear up behind themselves
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    from step_wrapper.report.datastore import open_datastore
    from step_wrapper.report.report import report, report_clone

    if task.clone is not None:
        report_clone(launch, context, task.clone, open_datastore(launch))
        task.tell(REPORTED)
        return 0
    outcome = Outcome(
        exit_status=exit_code,
        duration_seconds=time.monotonic() - started,
        ended_because=ended_because,
        exception=None if task.seen.exception is None else cause_of_failure(task.seen.exception),
        is_timeout=_is_timeout(task.seen.exception),
    )
    try:
        is_done = report(launch, context, outcome, folder, task.seen)
    except Exception as error:
        # in this process, where files may not grow or memory is short: the supervisor reports in its place
        print(f"metaflow-pipes: the step could not report to Dagster: {error!r}", file=sys.stderr)
        return exit_code
    task.tell(REPORTED)
    return 0 if is_done else 1


def _has_memory() -> bool:
    """Whether this process can have as much memory as a report needs: the step's code may have set a limit to it."""
    try:
        # asked for and never touched, unlike that of a bytearray, which takes as long as a sixth of an empty step
        bytes(REPORT_BYTES)
    except MemoryError:
        return False
    return True


def _resume(task: RunningTask, resumption: Resumption, context: PipesContext) -> bool | None:
    """Clone the task of a resumed run, before or in place of loading the flow.

    Returns:
        Whether the task is done; None if it has to run. The start step needs the flow, to begin the run.
    """
    from step_wrapper.report.datastore import open_datastore
    from step_wrapper.report.registration import open_metadata, register_dagster_run
    from step_wrapper.report.report import report_clone, report_refusal
    from step_wrapper.step.origin import CannotResumeError
    from step_wrapper.step.resume import clone_task, index_origin, read_index

    launch = task.launch
    metadata = open_metadata(launch)
    try:
        datastore = open_datastore(launch, metadata)
        if launch.init is not None:
            task.index = index_origin(launch, resumption, datastore, metadata)
        else:
            task.index = read_index(launch, datastore)
        if resumption.search is not None:
            launch = task.launch = launch.resuming(task.index.origin_run_id)
        if launch.init is not None:
            return None
        clone = clone_task(launch, task.index, datastore, metadata)
        if clone is None:
            return None
        register_dagster_run(launch, metadata)
    except CannotResumeError as error:
        report_refusal(launch, context, str(error), allow_retries=False)
        return False
    except Exception as error:  # of any kind: storages and metadata providers raise their own
        traceback.print_exc()
        reason = f"could not use what run {resumption.origin_run_id} has stored: {described(error)}"
        report_refusal(launch, context, reason, allow_retries=True)
        return False
    report_clone(launch, context, clone, datastore)
    return True


def _arguments(launch: Launch, folder: Path) -> list[str]:
    """Metaflow's command line, with the configs handed over in a file, as Metaflow's runner does."""
    flow_file, *arguments = launch.command
    if not launch.configs:
        return [flow_file, *arguments]
    config_file = folder / "configs.json"
    config_file.touch(mode=0o600)
    text = json.dumps({"user_configs": launch.configs})
    config_file.write_text(text)
    if json.loads(text)["user_configs"] != launch.configs:
        # what the flow was compiled with: JSON has no tuples, and only strings for keys
        from metaflow.user_configs.config_options import ConfigInput

        ConfigInput.loaded_configs = dict(launch.configs)
    options = [f"--local-config-file={config_file}"]
    for name in launch.configs:
        options += ["--config-value", name, f"kv.{name}"]
    return [flow_file, *options, *arguments]


def _redirect_output(writers: dict[str, int]) -> dict[int, int]:
    saved = {}
    for descriptor, name in enumerate(("stdout", "stderr"), start=1):
        saved[descriptor] = os.dup(descriptor)
        os.dup2(writers[name], descriptor)
        os.close(writers[name])
    return saved


def _restore_output(saved: dict[int, int]) -> None:
    for descriptor, copy in saved.items():
        os.dup2(copy, descriptor)
        os.close(copy)


def _run_flow(arguments: list[str]) -> int:
    """Run the flow file as the main program, and return its exit code."""
    flow_file = arguments[0]
    sys.argv = list(arguments)
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(Path(flow_file).resolve().parent)
    main = types.ModuleType("__main__")
    main.__dict__.update(
        __file__=flow_file,
        __cached__=None,
        __loader__=SourceFileLoader("__main__", flow_file),
        __builtins__=__builtins__,
        __annotations__={},
    )
    # Metaflow puts classes that it pickles there when it is imported, which it may have been already
    classes = {name: value for name, value in vars(sys.modules["__main__"]).items() if isinstance(value, type)}
    main.__dict__.update({name: value for name, value in classes.items() if value.__module__ == "__main__"})
    sys.modules["__main__"] = main
    try:
        code = compile(Path(flow_file).read_bytes(), flow_file, "exec", dont_inherit=True)
        exec(code, main.__dict__)  # noqa: S102
    except SystemExit as exit_:
        _note_exception(_behind(exit_))
        return _exit_code(exit_)
    except BaseException as error:
        _note_exception(error)
        traceback.print_exception(type(error), error, skip_framework(error.__traceback__))
        return 1
    return 0


def _note_exception(error: BaseException | None) -> None:
    if running.current is not None and running.current.seen.exception is None:
        running.current.seen.exception = error


def _behind(exit_: SystemExit) -> BaseException | None:
    """The error that Metaflow's command line has shown and turned into an exit; None if the exit is the user's."""
    frame = exit_.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None or not is_framework(frame):
        return None
    error = exit_.__context__
    # click turns an interrupt into an Abort
    if error is not None and type(error).__name__ == "Abort":
        return error.__context__
    return error


def _exit_code(exit_: SystemExit) -> int:
    if exit_.code is None:
        return 0
    if isinstance(exit_.code, int):
        return exit_.code
    print(exit_.code, file=sys.stderr)
    return 1


def _is_timeout(error: BaseException | None) -> bool:
    from metaflow.plugins.timeout_decorator import TimeoutException

    return isinstance(error, TimeoutException)
