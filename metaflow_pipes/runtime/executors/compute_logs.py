"""The compute logs of ops that run in threads: one for each Dagster step, written by the step's processes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import CapturedLogContext, ComputeIOType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._utils.error import serializable_error_info_from_exc_info

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dagster._core.execution.context.system import StepExecutionContext

    from metaflow_pipes.runtime.step_thread import StepThread


@contextlib.contextmanager
def compute_logs(
    context: StepExecutionContext, step_thread: StepThread, tell: Callable[[dg.DagsterEvent], None]
) -> Iterator[None]:
    """Send the output of a step's processes to a compute log of its own.

    A log that can't be opened or stored, as in a cloud storage that can't be reached, fails no step: an event says so.

    Args:
        context: The step's context.
        step_thread: What runs the step; its processes write to the log as long as the context is open.
        tell: Takes events of the step.
    """
    manager, key = context.instance.compute_log_manager, context.step.key
    log_key = manager.build_log_key_for_run(context.run_id, create_compute_log_file_key())
    stack = contextlib.ExitStack()
    try:
        step_thread.stdout, step_thread.stderr = _open_streams(stack, manager, log_key)
        tell(dg.DagsterEvent.capture_logs(context, [key], log_key, CapturedLogContext(log_key)))
    except Exception as error:  # whatever the storage's library raises
        tell(
            _trouble(context, f"The compute log of step {key} can't be opened, and its output is not kept there", error)
        )
    try:
        yield
    finally:
        try:
            stack.close()
        except Exception as error:  # as above
            tell(_trouble(context, f"The compute log of step {key} could not be stored", error))


def _trouble(context: StepExecutionContext, message: str, error: Exception) -> dg.DagsterEvent:
    event_data = EngineEventData(error=described(error))
    return dg.DagsterEvent.engine_event(context, f"{message}: {type(error).__name__}: {error}", event_data)


def _open_streams(stack: contextlib.ExitStack, manager: Any, log_key: Sequence[str]) -> tuple[int | None, int | None]:
    """The file descriptors of a step's compute logs, which are stored when the stack is closed."""
    opener = manager
    if isinstance(manager, CloudStorageComputeLogManager):
        # closing one of its streams uploads and deletes both: open the local files below, and upload once
        opener = manager.local_manager
        stack.callback(manager._on_capture_complete, log_key)
        stack.enter_context(manager._poll_for_local_upload(log_key))
    if isinstance(opener, LocalComputeLogManager):
        # by this the UI knows that there is no more to come
        stack.callback(Path(opener.complete_artifact_path(log_key)).touch)
    streams = [stack.enter_context(opener.open_log_stream(log_key, io_type)) for io_type in ComputeIOType]
    stdout, stderr = (None if stream is None else stream.fileno() for stream in streams)
    return stdout, stderr


def described(error: BaseException) -> Any:
    """An error as Dagster's events keep it."""
    exc_info: Any = (type(error), error, error.__traceback__)
    return serializable_error_info_from_exc_info(exc_info)
