"""Follow-ups of runs: things that are done once when a run has ended, whoever sees its end first.

Both the daemon's sensor and the process that watches over a run of the shell may see it. The run's event log decides
between them, and says what came of it: whoever wants to act writes a claim there, and acts if no claim is older. Unlike
tags, which the last writer has, the events of a log have one order for all, in each storage of Dagster.

A follow-up that has begun is never begun again, because it may have done its work before its process died.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import dagster as dg
from dagster._core.events import EngineEventData
from dagster._utils.error import SerializableErrorInfo

from metaflow_pipes.runtime.ids import is_done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster import DagsterInstance, DagsterRun

State = Literal["claim", "outcome", "failure", "done"]

# The metadata of the events: the follow-up, the event's part in it, and of a claim, whose it is.
_FOLLOW_UP, _STATE, _CLAIM = "follow_up", "state", "claim"
# How long a claim is let settle: a database can show an event before one that is older, for as long as it stores that.
CLAIM_SECONDS = 0.5
_PAGE = 1000


@dataclass(frozen=True)
class Outcome:
    """The outcome of a part of a follow-up.

    Attributes:
        message: A sentence.
        failure: If it failed, all that is known of that: output, or an error.
    """

    message: str
    failure: str | None = None


@dataclass(frozen=True)
class FollowUp(ABC):
    """Something to do when a run has ended. Its data can be sent to another process.

    Attributes:
        name: The name of its sensor.
        job: The job of the runs.
        last_op: The op of the flow's last step.
    """

    name: str
    job: str
    last_op: str

    @abstractmethod
    def is_due(self, status: dg.DagsterRunStatus) -> bool:
        """Whether there is something to do after a run that has ended thus."""

    @abstractmethod
    def limit_seconds(self, status: dg.DagsterRunStatus) -> float:
        """The longest time that it can take."""

    def run_of_flow(self, instance: DagsterInstance, run_id: str) -> DagsterRun | None:
        """A run with the status that it has for the flow; None if it has run none of the flow's steps, or is deleted.

        A run of assets can have failed with others of its assets, when the flow had come to its end.

        Args:
            instance: The Dagster instance.
            run_id: The Dagster run.
        """
        run = instance.get_run_by_id(run_id)
        if run is None or run.job_name == self.job:
            return run
        steps = [step for step in instance.get_run_step_stats(run_id) if self.is_of_flow(run, step.step_key)]
        if not steps:
            return None
        end = f"{self.job}.{self.last_op}"
        has_ended = any(step.step_key == end and is_done(step) for step in steps)
        return run.with_status(dg.DagsterRunStatus.SUCCESS) if run.is_failure_or_canceled and has_ended else run

    def is_of_flow(self, run: DagsterRun, step_key: str) -> bool:
        """Whether a Dagster step of a run is one of the flow's: in a run of assets, their keys begin with the job."""
        return run.job_name == self.job or step_key.startswith(f"{self.job}.")

    @abstractmethod
    def act(self, instance: DagsterInstance, run: DagsterRun) -> Iterator[Outcome]:
        """Do it, and tell of each part."""


@dataclass(frozen=True)
class Record:
    """All that the event log of a run says of one follow-up.

    Attributes:
        claims: The claims, the oldest first, which is the one that holds.
        claimed_at: The time of the oldest claim, in seconds since 1970; None if there is none.
        outcomes: What came of it so far.
        is_done: Whether nothing more comes.
    """

    claims: tuple[str, ...] = ()
    claimed_at: float | None = None
    outcomes: tuple[Outcome, ...] = ()
    is_done: bool = False


def follow_up_on(instance: DagsterInstance, run_id: str, follow_up: FollowUp) -> None:
    """Do what is to be done after a run, unless it has not ended, or another process does it.

    Args:
        instance: The Dagster instance.
        run_id: The Dagster run.
        follow_up: The follow-up.
    """
    run = follow_up.run_of_flow(instance, run_id)
    if run is None or not run.is_finished or not follow_up.is_due(run.status) or not _claim(instance, run, follow_up):
        return
    try:
        for outcome in follow_up.act(instance, run):
            report(instance, run, follow_up, outcome)
    except Exception:  # the run's log is the only place where the user would find it
        report(instance, run, follow_up, Outcome(f"{follow_up.name} could not go on.", traceback.format_exc()))
        raise
    finally:
        _write(instance, run, follow_up, "done", f"{follow_up.name} is done with this run.")


def report(instance: DagsterInstance, run: DagsterRun, follow_up: FollowUp, outcome: Outcome) -> None:
    """Write an outcome into the event log of a run."""
    state: State = "outcome" if outcome.failure is None else "failure"
    _write(instance, run, follow_up, state, outcome.message, error=outcome.failure)


def record_of(instance: DagsterInstance, run_id: str, follow_up: FollowUp) -> Record:
    """Read the event log of a run for a follow-up."""
    claims: list[str] = []
    claimed_at: float | None = None
    outcomes: list[Outcome] = []
    is_done = False
    for message, timestamp, data in _events(instance, run_id, follow_up):
        state = data.metadata[_STATE].value
        if state == "claim":
            claims.append(str(data.metadata[_CLAIM].value))
            claimed_at = claimed_at or timestamp
        elif state == "done":
            is_done = True
        else:
            outcomes.append(Outcome(message, None if data.error is None else data.error.message))
    return Record(tuple(claims), claimed_at, tuple(outcomes), is_done)


def _claim(instance: DagsterInstance, run: DagsterRun, follow_up: FollowUp) -> bool:
    """Claim a follow-up of a run, and return whether the claim holds."""
    if record_of(instance, run.run_id, follow_up).claims:
        return False
    claim = uuid.uuid4().hex
    where = f"process {os.getpid()} on {platform.node()}"
    _write(instance, run, follow_up, "claim", f"{follow_up.name} begins with this run, in {where}.", claim)
    time.sleep(CLAIM_SECONDS)
    return record_of(instance, run.run_id, follow_up).claims[0] == claim


def _write(
    instance: DagsterInstance,
    run: DagsterRun,
    follow_up: FollowUp,
    state: State,
    message: str,
    claim: str | None = None,
    error: str | None = None,
) -> None:
    metadata = {_FOLLOW_UP: follow_up.name, _STATE: state, **({} if claim is None else {_CLAIM: claim})}
    info = None if error is None else SerializableErrorInfo(error, [], None)
    instance.report_engine_event(message, run, EngineEventData(metadata, error=info))


def _events(
    instance: DagsterInstance, run_id: str, follow_up: FollowUp
) -> Iterator[tuple[str, float, EngineEventData]]:
    cursor: str | None = None
    while True:
        page = instance.get_records_for_run(run_id, cursor, dg.DagsterEventType.ENGINE_EVENT, _PAGE)
        for record in page.records:
            event = record.event_log_entry.dagster_event
            data = None if event is None else event.event_specific_data
            if isinstance(data, EngineEventData) and _FOLLOW_UP in data.metadata:
                assert event is not None
                if data.metadata[_FOLLOW_UP].value == follow_up.name:
                    yield event.message or "", record.timestamp, data
        cursor = page.cursor
        if not page.has_more:
            return
