"""At the end of an attempt: its logs go to Metaflow's datastore, and what the datastore says of it to Dagster."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

from metaflow.datastore import FlowDataStore
from metaflow.mflog import RUNTIME_LOG_SOURCE
from metaflow.plugins import DATASTORES

from step_wrapper.logs import STREAMS, log_path, tail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dagster_pipes import PipesContext

    from step_wrapper.launch import Launch
    from step_wrapper.outcome import Outcome

# How many lines of stderr go along with a failure.
STDERR_LINES = 50


def report(
    launch: Launch,
    context: PipesContext,
    outcome: Outcome,
    folder: Path,
    inherited: Mapping[str, set[str]] | None = None,
) -> bool:
    """Store the logs of an attempt and report its outcome, through Pipes.

    Args:
        launch: The attempt.
        context: The open Pipes session.
        outcome: How its process ended.
        folder: The folder with its logs.
        inherited: The artifacts of its input tasks, each name with the keys of its values.

    Returns:
        Whether the task is done.
    """
    is_done, artifacts = False, []
    try:
        datastore = _datastore(launch)
        _save_logs(datastore, launch, outcome, folder)
        task = datastore.get_task_datastore(launch.run_id, launch.step, launch.task_id, launch.attempt)
        is_done = outcome.ended_because is None and "_task_ok" in task and task["_task_ok"] is True
        artifacts = _artifacts(task, inherited or {}) if is_done else []
    except Exception as error:
        print(f"metaflow-pipes: the datastore could not be used after the step: {error!r}", file=sys.stderr)
    stderr = "" if is_done else tail(log_path(folder, "stderr"), STDERR_LINES)
    context.report_custom_message(
        {
            "metaflow_task": {
                "duration_seconds": outcome.duration_seconds,
                "artifacts": artifacts,
                "failure": None if is_done else _failure(launch, outcome, stderr),
            }
        }
    )
    return is_done


def _datastore(launch: Launch) -> FlowDataStore:
    storage = next(storage for storage in DATASTORES if launch.datastore == storage.TYPE)
    return FlowDataStore(launch.flow, storage_impl=storage, ds_root=launch.datastore_root)


def _save_logs(datastore: FlowDataStore, launch: Launch, outcome: Outcome, folder: Path) -> None:
    task: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
    task.save_logs(RUNTIME_LOG_SOURCE, {stream: log_path(folder, stream) for stream in STREAMS})
    # as `metaflow.runtime.Worker` does at the end of each attempt
    runtime = {
        "return_code": outcome.exit_status,
        "killed": outcome.ended_because is not None,
        "success": outcome.exit_status == 0,
    }
    task.save_metadata({"runtime": runtime})


def _artifacts(task: Any, inherited: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """What the task made or changed, without reading any value: name, type and size in bytes."""
    produced = sorted(
        name for name, key in task._objects.items() if not name.startswith("_") and key not in inherited.get(name, ())
    )
    return [
        {
            "name": name,
            "type": _type_name(task._info.get(name, {})),
            "size": task._info.get(name, {}).get("size"),
        }
        for name in produced
    ]


def _type_name(info: Mapping[str, Any]) -> str:
    text = str(info.get("type", ""))
    match = re.fullmatch(r"<class '(.*)'>", text)
    return match[1] if match else text


def _failure(launch: Launch, outcome: Outcome, stderr: str) -> dict[str, str]:
    last_line = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
    reason = outcome.reason(launch.timeout_seconds, last_line)
    return {"reason": reason, "traceback": outcome.traceback, "stderr": stderr}
