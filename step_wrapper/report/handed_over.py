"""The report of an attempt whose code ran in a process, or on a system, of which the wrapper hears nothing."""

from __future__ import annotations

import dataclasses
import re
import sys
from typing import TYPE_CHECKING, Any

from metaflow.mflog import TASK_LOG_SOURCE

from step_wrapper.logs import log_path, tail
from step_wrapper.remote import joined_stderr
from step_wrapper.report.checks import stored_results
from step_wrapper.report.datastore import inputs_of, open_datastore
from step_wrapper.report.exceptions import TIMEOUT_STACK
from step_wrapper.report.jobs import delete_left, undeleted
from step_wrapper.report.message import Draft, failed, failure_of
from step_wrapper.report.outcome import Observations
from step_wrapper.report.report import STDERR_LINES, report, stored_attempt, stored_tail

if TYPE_CHECKING:
    from pathlib import Path

    from dagster_pipes import PipesContext

    from step_wrapper import wire
    from step_wrapper.handover import Handover
    from step_wrapper.launch import Launch
    from step_wrapper.report.outcome import Outcome
    from step_wrapper.wire import Report

# A frame of Metaflow: in a code package, or where it is installed.
_FRAMEWORK_FILE = re.compile(r'  File "[^"]*/(?:\.mf_code|site-packages)/(?:metaflow|metaflow_extensions)/')


def report_handed_over(
    launch: Launch,
    context: PipesContext,
    outcome: Outcome,
    folder: Path,
    handover: Handover,
    job: wire.Job | None,
    *,
    is_run_ended: bool,
) -> None:
    """Report an attempt by what is stored of it, once the job that it may have left is deleted.

    Args:
        launch: The attempt.
        context: The open Pipes session.
        outcome: How the command that waited for it has ended.
        folder: The folder with its logs.
        handover: How its code got where it ran.
        job: The job on another system, or None.
        is_run_ended: Whether no other step of the run goes on.
    """
    if job is not None and not outcome.is_good:
        kill = handover.kill if is_run_ended else None
        Draft(folder).write(_draft(launch, outcome, job))
        outcome = dataclasses.replace(outcome, left_behind=delete_left(launch, context, job, kill))
    try:
        stored = stored_attempt(open_datastore(launch), launch)
        seen = _observations(launch, handover, stored)
        outcome = _with_exception(outcome, stored)
        if job is not None:
            outcome = dataclasses.replace(outcome, stderr=_stderr(stored, folder))
    except Exception as error:  # of any kind, of storages; the report comes upon the same
        print(f"metaflow-pipes: {error!r}", file=sys.stderr)
        seen = None
    report(launch, context, outcome, folder, seen)


def _draft(launch: Launch, outcome: Outcome, job: wire.Job) -> Report:
    """The report of an attempt whose job does not get deleted in time."""
    unclear = dataclasses.replace(outcome, left_behind=undeleted(job, "there was no answer in time"))
    failure = failure_of(unclear.reason(launch.timeout_seconds, ""))
    return failed(launch.task_id, outcome.duration_seconds, failure)


def _observations(launch: Launch, handover: Handover, stored: Any) -> Observations:
    """The facts that the step's process would have seen."""
    return Observations(
        next_steps=handover.next_steps,
        is_switch=handover.is_switch,
        has_cards=handover.has_cards,
        inherited=inputs_of(open_datastore(launch), launch.input_paths),
        checks=stored_results(stored),
    )


def _with_exception(outcome: Outcome, stored: Any) -> Outcome:
    """Take the exception of the step's code from among its artifacts, where Metaflow leaves it."""
    if outcome.is_good or outcome.ended_because is not None or "_exception" not in getattr(stored, "_objects", ()):
        return outcome
    wrapped = stored["_exception"]
    name = str(wrapped.type).rpartition(".")[2]
    return dataclasses.replace(
        outcome,
        exception=f"{name}: {wrapped.exception}".partition(TIMEOUT_STACK)[0],
        traceback=_of_user(wrapped.stacktrace or ""),
        is_timeout=name == "TimeoutException",
    )


def _stderr(stored: Any, folder: Path) -> str:
    """The end of stderr: of the job, and of the command that has waited for it."""
    return joined_stderr(
        stored_tail(stored, "stderr", [TASK_LOG_SOURCE]), tail(log_path(folder, "stderr"), STDERR_LINES)
    )


def _of_user(traceback: str) -> str:
    """A traceback without its first frames, as far as they are Metaflow's."""
    header, *frames = re.split(r"^(?=  File )", traceback, flags=re.MULTILINE)
    first = next((n for n, frame in enumerate(frames) if _FRAMEWORK_FILE.match(frame) is None), None)
    return "" if first is None else "".join([header, *frames[first:]]).rstrip()
