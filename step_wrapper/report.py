"""At the end of an attempt: its logs go to Metaflow's datastore, and what the datastore says of it to Dagster."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from typing import TYPE_CHECKING, Any

from metaflow.event_logger import NullEventLogger
from metaflow.metaflow_config import MAX_ATTEMPTS
from metaflow.metaflow_environment import MetaflowEnvironment
from metaflow.monitor import NullMonitor
from metaflow.plugins import METADATA_PROVIDERS
from metaflow.plugins.datastores.local_storage import LocalStorage

from step_wrapper.datastore import open_datastore, save_logs
from step_wrapper.logs import log_path, tail

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dagster_pipes import PipesContext
    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch
    from step_wrapper.outcome import Outcome
    from step_wrapper.running import RunningTask

# How many lines of stderr go along with a failure.
STDERR_LINES = 50
# An event of Dagster is kept for ever and loaded with its run: none may be large.
MAX_REASON_CHARACTERS = 2_000
MAX_TEXT_CHARACTERS = 20_000
_NO_FACTS = {"artifacts": [], "next_steps": [], "num_splits": None, "control_tasks": []}


def report(
    launch: Launch,
    context: PipesContext,
    outcome: Outcome,
    folder: Path,
    task: RunningTask | None = None,
) -> bool:
    """Store the logs of an attempt and report its outcome, through Pipes.

    Args:
        launch: The attempt.
        context: The open Pipes session.
        outcome: How its process ended.
        folder: The folder with its logs.
        task: What its own process knows of it; None if that process has died.

    Returns:
        Whether the task is done.
    """
    is_done, facts = False, dict(_NO_FACTS)
    try:
        datastore = open_datastore(launch)
        save_logs(datastore, launch, folder)
        _save_runtime(datastore, launch, outcome)
        stored = _attempt(datastore, launch, launch.attempt)
        if outcome.ended_because is None and _is_ok(stored):
            outcome = _with_transition(outcome, task, stored)
            is_done = outcome.wrong_transition is None
        if is_done:
            facts = _facts(stored, {} if task is None else task.inherited)
        else:
            _register(datastore, launch)
    except Exception as error:
        print(f"metaflow-pipes: the datastore could not be used after the step: {error!r}", file=sys.stderr)
    stderr = "" if is_done else tail(log_path(folder, "stderr"), STDERR_LINES)
    failure = None if is_done else _failure(launch, outcome, stderr)
    _send(context, launch.task_id, outcome.duration_seconds, facts, failure)
    return is_done


def report_if_done(launch: Launch, context: PipesContext) -> bool:
    """Report a task that was done before in place of this one, and return whether there is one.

    Args:
        launch: The attempt that would run now.
        context: The open Pipes session.
    """
    datastore = open_datastore(launch)
    for task_id in launch.done_as:
        for attempt in reversed(range(MAX_ATTEMPTS)):
            stored = _attempt(datastore, dataclasses.replace(launch, task_id=task_id), attempt)
            if _is_ok(stored):
                _send(context, task_id, 0.0, _facts(stored, {}), None)
                return True
    return False


def _attempt(datastore: FlowDataStore, launch: Launch, attempt: int) -> Any:
    """What is stored of an attempt, which may not exist or not have ended."""
    return datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=attempt, allow_not_done=True
    )


def _send(
    context: PipesContext, task_id: str, duration_seconds: float, facts: Mapping[str, Any], failure: object
) -> None:
    message = {"task_id": task_id, "duration_seconds": duration_seconds, **facts, "failure": failure}
    context.report_custom_message({"metaflow_task": message})


def _is_ok(stored: Any) -> bool:
    return _get(stored, "_task_ok") is True


def _get(stored: Any, name: str) -> Any:
    """An artifact of an attempt, or None; one that stored nothing has no list of artifacts at all."""
    return stored[name] if name in getattr(stored, "_objects", ()) else None


def _facts(stored: Any, inherited: Mapping[str, set[str]]) -> dict[str, Any]:
    """What the op above needs to know of a task that is done."""
    nodes = _get(stored, "_parallel_ubf_iter")
    return {
        "artifacts": _artifacts(stored, inherited),
        "next_steps": _next_steps(stored),
        "num_splits": _get(stored, "_foreach_num_splits") if nodes is None else nodes.num_parallel,
        "control_tasks": _get(stored, "_control_mapper_tasks") or [],
    }


def _next_steps(stored: Any) -> list[str]:
    transition = _get(stored, "_transition")
    return list(transition[0]) if transition else []


def _with_transition(outcome: Outcome, task: RunningTask | None, stored: Any) -> Outcome:
    """Check that the step went on as the graph says, as `metaflow.runtime` does after each task."""
    if task is None or task.next_steps is None:
        return outcome
    taken = _next_steps(stored)
    is_choice = task.is_switch and len(taken) == 1 and taken[0] in task.next_steps
    if is_choice or taken == task.next_steps:
        return outcome
    expected = " or ".join(task.next_steps) if task.is_switch else _steps(task.next_steps)
    wrong = (
        f"was expected to go on to {expected} by self.next(), as the flow's graph says, but it went on "
        f"to {_steps(taken)}. Let the step end in the self.next() of its last line."
    )
    return dataclasses.replace(outcome, wrong_transition=wrong)


def _steps(names: list[str]) -> str:
    return ", ".join(names) or "no step"


def _register(datastore: FlowDataStore, launch: Launch) -> None:
    """Make a task known to Metaflow that failed before Metaflow itself could, so that its logs are found."""
    provider_class: Any = next(provider for provider in METADATA_PROVIDERS if launch.metadata == provider.TYPE)
    if launch.datastore == "local":
        LocalStorage.datastore_root = launch.datastore_root
    if provider_class.get_object("task", "self", None, None, launch.flow, launch.run_id, launch.step, launch.task_id):
        return
    attempt: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
    attempt.init_task()
    flow = types.SimpleNamespace(name=launch.flow)
    provider = provider_class(MetaflowEnvironment(flow), flow, NullEventLogger(), NullMonitor())
    provider.add_sticky_tags(tags=launch.tags)
    provider.register_run_id(launch.run_id)
    provider.register_task_id(launch.run_id, launch.step, launch.task_id, launch.attempt)


def _save_runtime(datastore: FlowDataStore, launch: Launch, outcome: Outcome) -> None:
    task: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
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
    return {
        "reason": _shortened(reason, MAX_REASON_CHARACTERS),
        "traceback": _shortened(outcome.traceback, MAX_TEXT_CHARACTERS),
        "stderr": _shortened(stderr, MAX_TEXT_CHARACTERS),
    }


def _shortened(text: str, limit: int) -> str:
    """A text with its middle left out if it is longer than a limit, in characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"
