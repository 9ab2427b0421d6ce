"""At the end of an attempt: its logs go to Metaflow's datastore, and what the datastore says of it to Dagster."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING, Any

from metaflow.exception import METAFLOW_EXIT_DISALLOW_RETRY
from metaflow.metaflow_config import MAX_ATTEMPTS
from metaflow.mflog import LOG_SOURCES, RUNTIME_LOG_SOURCE
from metaflow.mflog.mflog import decorate, merge_logs

from step_wrapper.logs import log_path, tail
from step_wrapper.report import exceptions
from step_wrapper.report.checks import keep_results, send_results, stored_results, workers_results
from step_wrapper.report.datastore import inputs_of, open_datastore, save_logs
from step_wrapper.report.exceptions import cause_of_failure, described, shortened
from step_wrapper.report.message import Draft, failed, failure_of, send
from step_wrapper.report.metadata import TaskFacts, data_version, task_metadata
from step_wrapper.report.outcome import Outcome, signal_name
from step_wrapper.report.registration import register_attempt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dagster_pipes import PipesContext
    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch
    from step_wrapper.report.checks import Results
    from step_wrapper.report.outcome import Clone, Observations
    from step_wrapper.wire import Failure, Report

# How many lines of stderr go along with a failure.
STDERR_LINES = 50
# An event of Dagster is kept for ever and loaded with its run: none may be large.
MAX_REASON_CHARACTERS = 2_000
MAX_TEXT_CHARACTERS = 20_000


def report(
    launch: Launch,
    context: PipesContext,
    outcome: Outcome,
    folder: Path,
    seen: Observations | None = None,
) -> bool:
    """Store the logs of an attempt and report its outcome, through Pipes.

    Args:
        launch: The attempt.
        context: The open Pipes session.
        outcome: How its process ended.
        folder: The folder with its logs.
        seen: What its own process has seen of it; None if that process has died without being heard.

    Returns:
        Whether the task is done.
    """
    draft = Draft(folder)
    if not outcome.is_good:
        draft.write(_failed(launch, outcome, folder, seen))
    try:
        datastore = open_datastore(launch)
        stored = stored_attempt(datastore, launch)
        results = stored_results(stored) if seen is None else seen.checks
        if outcome.ended_because is None and _is_ok(stored):
            outcome = _with_transition(outcome, seen, stored)
            if outcome.wrong_transition is None:
                inherited, has_cards = (None, True) if seen is None else (seen.inherited, seen.has_cards)
                facts = TaskFacts(launch, stored, outcome.duration_seconds, inherited, has_cards)
                draft.write(_done(facts))
                _store_ending(datastore, launch, outcome, folder)
                _send_checks(context, datastore, facts, results)
                _send_done(context, facts)
                return True
        _store_ending(datastore, launch, outcome, folder)
        send_results(context, launch, results)
        _register(datastore, launch)
    except Exception as error:  # of any kind: storages, Metaflow's and those of its extensions, raise their own
        print(f"metaflow-pipes: the datastore could not be used after the step: {error!r}", file=sys.stderr)
        outcome = dataclasses.replace(outcome, unknown_because=f"{launch.storage} can't be used: {described(error)}")
    send(context, _failed(launch, outcome, folder, seen))
    return False


def report_stored(launch: Launch, context: PipesContext) -> bool:
    """Report an attempt that has ended by what is stored of it, and return whether its task is done.

    Args:
        launch: The attempt.
        context: The open Pipes session.
    """
    datastore = open_datastore(launch)
    stored = stored_attempt(datastore, launch)
    if _is_ok(stored):
        facts = TaskFacts(launch, stored, 0.0, inherited=None, has_cards=True)
        _send_checks(context, datastore, facts, stored_results(stored))
        _send_done(context, facts)
        return True
    sources = [RUNTIME_LOG_SOURCE] if launch.job is None else LOG_SOURCES
    stderr = stored_tail(stored, "stderr", sources)
    killed_by = -(launch.ended_with or 0)
    because = f"was ended, because its supervisor was killed by {signal_name(killed_by)}" if killed_by > 0 else None
    left = None
    if launch.job is not None:
        from step_wrapper.report.jobs import delete_left

        left = delete_left(launch, context, launch.job)
    outcome = Outcome(exit_status=1, duration_seconds=0.0, ended_because=because, left_behind=left)
    failure = _failure(launch, outcome, stderr, None)
    send(context, failed(launch.task_id, 0.0, failure))
    return False


def report_if_done(launch: Launch, context: PipesContext) -> bool:
    """Report a task that was done before in place of this one, and return whether there is one.

    Args:
        launch: The attempt that would run now.
        context: The open Pipes session.
    """
    datastore = open_datastore(launch)
    for task_id in launch.done_as:
        for attempt in reversed(range(MAX_ATTEMPTS)):
            done = launch._replace(task_id=task_id, attempt=attempt)
            stored = stored_attempt(datastore, done)
            if _is_ok(stored):
                facts = TaskFacts(done, stored, 0.0, inherited=None, has_cards=True)
                _send_checks(context, datastore, facts, stored_results(stored))
                _send_done(context, facts, is_cached=True)
                return True
    return False


def report_clone(
    launch: Launch,
    context: PipesContext,
    clone: Clone,
    datastore: FlowDataStore,
    inherited: Mapping[str, set[str]] | None = None,
) -> None:
    """Report a task that has been cloned.

    Args:
        launch: The attempt that would have run.
        context: The open Pipes session.
        clone: The task that it is a clone of.
        datastore: The flow's datastore.
        inherited: The artifacts of its input tasks, if they are known (`inputs_of`).
    """
    if inherited is None:
        inherited = inputs_of(datastore, launch.input_paths)
    # what is stored of the clone is the same
    facts = TaskFacts(launch, clone.stored, None, inherited, has_cards=False, cloned_from=clone.pathspec)
    results = stored_results(clone.stored)
    keep_results(datastore, launch, results)
    _send_checks(context, datastore, facts, results)
    _send_done(context, facts)


def report_refusal(launch: Launch, context: PipesContext, reason: str, *, allow_retries: bool) -> None:
    """Report an attempt that can't run.

    Args:
        launch: The attempt.
        context: The open Pipes session.
        reason: Why, as the predicate of a sentence about the step.
        allow_retries: Whether another attempt can end otherwise.
    """
    send(context, failed(launch.task_id, 0.0, failure_of(reason, allow_retries=allow_retries)))


def stored_attempt(datastore: FlowDataStore, launch: Launch) -> Any:
    """The datastore of an attempt, which may not exist or not have ended.

    Args:
        datastore: The flow's datastore.
        launch: The attempt.
    """
    return datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, allow_not_done=True
    )


def stored_tail(stored: Any, stream: str, sources: Sequence[str]) -> str:
    """The last lines of the log that is stored of an attempt.

    Args:
        stored: What the datastore holds of the attempt.
        stream: `stdout` or `stderr`.
        sources: The sources of the log that count (`metaflow.mflog.LOG_SOURCES`).
    """
    logs = [log for _, log in stored.load_logs(sources, stream) if log]
    lines = [line.msg.decode(errors="replace") for line in merge_logs(logs)]
    return "\n".join(lines[-STDERR_LINES:])


def _report_metadata(context: PipesContext, facts: TaskFacts) -> None:
    """Report what the task made. A task is done, whether or not all about it can be shown."""
    try:
        metadata = task_metadata(facts)
        context.report_asset_materialization(metadata, data_version(facts.stored), facts.launch.asset_key)
    except Exception as error:  # of any kind: it shows values of the user's own types
        print(f"metaflow-pipes: the task's metadata could not be reported to Dagster: {error!r}", file=sys.stderr)


def _send_checks(context: PipesContext, datastore: FlowDataStore, facts: TaskFacts, results: Results) -> None:
    """Report the results of a task's checks, and of those of the workers that it has started."""
    control_tasks = _get(facts.stored, "_control_mapper_tasks") or []
    for each in (results, *workers_results(datastore, facts.launch, control_tasks)):
        send_results(context, facts.launch, each)


def _send_done(context: PipesContext, facts: TaskFacts, *, is_cached: bool = False) -> None:
    """Report a task that is done, and how the graph goes on behind it."""
    message = _done(facts, is_cached=is_cached)
    _report_metadata(context, facts)
    send(context, message)


def _done(facts: TaskFacts, *, is_cached: bool = False) -> Report:
    nodes = _get(facts.stored, "_parallel_ubf_iter")
    return {
        "task_id": facts.launch.task_id,
        "duration_seconds": facts.duration_seconds or 0.0,
        "is_cached": is_cached,
        "cloned_from": facts.cloned_from,
        "next_steps": _next_steps(facts.stored),
        "num_splits": _get(facts.stored, "_foreach_num_splits") if nodes is None else nodes.num_parallel,
        "control_tasks": _get(facts.stored, "_control_mapper_tasks") or [],
        "failure": None,
    }


def _failed(launch: Launch, outcome: Outcome, folder: Path, seen: Observations | None) -> Report:
    stderr = tail(log_path(folder, "stderr"), STDERR_LINES) if outcome.stderr is None else outcome.stderr
    failure = _failure(launch, outcome, stderr, seen)
    return failed(launch.task_id, outcome.duration_seconds, failure)


def _is_ok(stored: Any) -> bool:
    return _get(stored, "_task_ok") is True


def _get(stored: Any, name: str) -> Any:
    """An artifact of an attempt, or None; one that stored nothing has no list of artifacts at all."""
    return stored[name] if name in getattr(stored, "_objects", ()) else None


def _next_steps(stored: Any) -> list[str]:
    transition = _get(stored, "_transition")
    return list(transition[0]) if transition else []


def _with_transition(outcome: Outcome, seen: Observations | None, stored: Any) -> Outcome:
    """Check that the step went on as the graph says, as `metaflow.runtime` does after each task."""
    if seen is None or seen.next_steps is None:
        return outcome
    taken = _next_steps(stored)
    is_choice = seen.is_switch and len(taken) == 1 and taken[0] in seen.next_steps
    if is_choice or taken == seen.next_steps:
        return outcome
    expected = " or ".join(seen.next_steps) if seen.is_switch else _steps(seen.next_steps)
    wrong = (
        f"was expected to go on to {expected} by self.next(), as the flow's graph says, but it went on "
        f"to {_steps(taken)}. Let the step end in the self.next() of its last line."
    )
    return dataclasses.replace(outcome, wrong_transition=wrong)


def _steps(names: list[str]) -> str:
    return ", ".join(names) or "no step"


def _store_ending(datastore: FlowDataStore, launch: Launch, outcome: Outcome, folder: Path) -> None:
    """Store the logs of an attempt and how its process ended. What can't be stored does not change that."""
    task: Any = datastore.get_task_datastore(
        launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w"
    )
    # as `metaflow.runtime.Worker` does at the end of each attempt
    runtime = {
        "return_code": outcome.exit_status,
        "killed": outcome.ended_because is not None,
        "success": outcome.exit_status == 0,
    }
    try:
        _add_last_line(log_path(folder, "stderr"), outcome)
        save_logs(datastore, launch, folder)
        task.save_metadata({"runtime": runtime})
    except Exception as error:  # of any kind: storages raise their own
        print(f"metaflow-pipes: the logs of the step could not be stored: {error!r}", file=sys.stderr)


def _register(datastore: FlowDataStore, launch: Launch) -> None:
    """Let Metaflow know of an attempt that failed. Where that can't be, it has failed for a reason of its own."""
    try:
        register_attempt(datastore, launch)
    except Exception as error:  # of any kind: metadata providers raise their own
        print(f"metaflow-pipes: the attempt could not be registered: {cause_of_failure(error)}", file=sys.stderr)


def _add_last_line(log: Path, outcome: Outcome) -> None:
    """Let the log of an attempt that failed end as Metaflow's own runner lets it end."""
    line = outcome.last_line()
    if line is None or tail(log, 1) == line:
        return
    with log.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        is_in_line = file.read() not in (b"", b"\n")
        file.write((b"\n" if is_in_line else b"") + decorate(RUNTIME_LOG_SOURCE, line) + b"\n")


def _failure(launch: Launch, outcome: Outcome, stderr: str, seen: Observations | None) -> Failure:
    words = [line.strip() for line in stderr.splitlines() if not line.startswith("Task failed")]
    last_line = next(filter(None, reversed(words)), "")
    error = None if seen is None else seen.exception
    return {
        "reason": shortened(outcome.reason(launch.timeout_seconds, last_line), MAX_REASON_CHARACTERS),
        "traceback": shortened(
            outcome.traceback if error is None else exceptions.user_traceback(error), MAX_TEXT_CHARACTERS
        ),
        "exception": None if error is None else exceptions.serialized(error),
        "stderr": shortened(stderr, MAX_TEXT_CHARACTERS),
        # as in `metaflow.runtime`, what no retry can mend
        "allow_retries": outcome.wrong_transition is None and outcome.exit_status != METAFLOW_EXIT_DISALLOW_RETRY,
    }
