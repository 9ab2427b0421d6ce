"""The sensor that sees the ends of a job's runs, and has a background process follow up on each.

Dagster's own run status sensors see one status each, and forget a run whose tick has failed. This one keeps a run in
its cursor until the run's event log says that the follow-up is done.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import WORKER_TAG
from metaflow_pipes.run_tags import is_run_of
from metaflow_pipes.runtime.automation import background
from metaflow_pipes.runtime.automation.follow_ups import Outcome, record_of, report

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dagster import DagsterInstance, DagsterRun

    from metaflow_pipes.runtime.automation.follow_ups import FollowUp, Record
    from metaflow_pipes.runtime.flow import MetaflowFlow

# The time between two ticks.
INTERVAL_SECONDS = 10
# A tick waits this long for what it has started. Dagster has one thread for all sensors, unless it is told otherwise.
TICK_WAIT_SECONDS = 5
# The process that watches over a run of the shell has this long to see its end, and to follow up itself.
WATCHER_SECONDS = 20
# A background process has this long to begin; it imports Dagster, which takes a second of CPU.
START_SECONDS = 60
# How often a background process is started that does not begin.
MAX_STARTS = 3
# How many background processes there are at once, and how many runs are kept in the cursor.
MAX_PROCESSES = 4
MAX_FOLLOWED = 50
# How many ends are read at once, for each status.
_PAGE = 25
# A database can show an event before one that is older, for as long as it takes to store that.
_SETTLE_SECONDS = 5

_ENDS = {
    dg.DagsterRunStatus.SUCCESS: dg.DagsterEventType.RUN_SUCCESS,
    dg.DagsterRunStatus.FAILURE: dg.DagsterEventType.RUN_FAILURE,
    dg.DagsterRunStatus.CANCELED: dg.DagsterEventType.RUN_CANCELED,
}


class EndedRunSensor(dg.SensorDefinition):
    """A sensor that follows up on the runs of one job.

    Attributes:
        follow_up: What it does after each run.
    """

    def __init__(
        self, flow: MetaflowFlow, job: dg.JobDefinition, follow_up: FollowUp, *, description: str, paused: bool
    ):
        def evaluate(context: dg.SensorEvaluationContext) -> dg.SkipReason:
            return _Tick(context, flow, job.name, follow_up).evaluate()

        super().__init__(
            name=follow_up.name,
            evaluation_fn=evaluate,
            minimum_interval_seconds=INTERVAL_SECONDS,
            description=description,
            default_status=dg.DefaultSensorStatus.STOPPED if paused else dg.DefaultSensorStatus.RUNNING,
        )
        self.follow_up = follow_up


def follow_ups_of(sensors: Iterable[object]) -> list[FollowUp]:
    """The follow-ups of the runs of a definitions file.

    Args:
        sensors: The sensors of the file.
    """
    return [sensor.follow_up for sensor in sensors if isinstance(sensor, EndedRunSensor)]


@dataclass
class _Followed:
    """A run that has ended, and whose follow-up is not known to be done.

    Attributes:
        ended_at: When it has ended, in seconds since 1970.
        started_at: When a process was started for it, or 0.
        starts: How many were started.
    """

    ended_at: float
    started_at: float = 0
    starts: int = 0


@dataclass
class _Cursor:
    """The cursor of the sensor.

    Attributes:
        after: For each status, the event up to which all ends are known.
        seen: Events behind that which are known as well.
        following: The runs to follow up on, by their ids.
    """

    after: dict[str, int]
    seen: list[int] = field(default_factory=list)
    following: dict[str, _Followed] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> _Cursor:
        """A cursor from its text."""
        values = json.loads(text)
        following = {run_id: _Followed(**followed) for run_id, followed in values["following"].items()}
        return cls(values["after"], values["seen"], following)

    def text(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps(asdict(self))


class _Tick:
    """One evaluation of the sensor."""

    def __init__(self, context: dg.SensorEvaluationContext, flow: MetaflowFlow, job: str, follow_up: FollowUp):
        self._context = context
        self._instance: DagsterInstance = context.instance
        self._flow = flow
        self._job = job
        self._follow_up = follow_up
        self._now = time.time()
        self._notes: list[str] = []

    def evaluate(self) -> dg.SkipReason:
        """Look for runs that have ended, start what is due, and tell what came of it."""
        if not self._context.cursor:
            # what has ended before is no business of this deployment
            cursor = _Cursor({status.value: self._newest(event) for status, event in _ENDS.items()})
            self._context.update_cursor(cursor.text())
            return dg.SkipReason(f"{self._follow_up.name} takes runs of {self._job} that end from now on.")
        cursor = _Cursor.parse(self._context.cursor)
        self._look_for_ends(cursor)
        # kept by Dagster only if the tick ends well: else all is seen again, and claims prevent that it is done again
        started = self._advance(cursor)
        if started:
            _wait(started)
            self._advance(cursor)
        self._context.update_cursor(cursor.text())
        waiting = f"{len(cursor.following)} followed up on." if cursor.following else ""
        return dg.SkipReason(" ".join([*self._notes, waiting]).strip() or f"No run of {self._job} has ended.")

    def _newest(self, event: dg.DagsterEventType) -> int:
        records = self._instance.fetch_run_status_changes(event, limit=1).records  # pyright: ignore[reportArgumentType]
        return records[0].storage_id if records else -1

    def _look_for_ends(self, cursor: _Cursor) -> None:
        if len(cursor.following) >= MAX_FOLLOWED:
            return
        known, cursor.seen = set(cursor.seen), []
        for status, event in _ENDS.items():
            records_filter = dg.RunStatusChangeRecordsFilter(event, after_storage_id=cursor.after[status.value])  # pyright: ignore[reportArgumentType]
            records = self._instance.fetch_run_status_changes(records_filter, limit=_PAGE, ascending=True).records
            self._take(cursor, status, [record for record in records if record.storage_id not in known])
            settled = list(itertools.takewhile(lambda record: self._now - record.timestamp > _SETTLE_SECONDS, records))
            if settled:
                cursor.after[status.value] = settled[-1].storage_id
            cursor.seen += [record.storage_id for record in records[len(settled) :]]

    def _take(self, cursor: _Cursor, status: dg.DagsterRunStatus, records: Sequence[dg.EventLogRecord]) -> None:
        # a run of assets that has failed may be a success for the flow
        if not records or not any(map(self._follow_up.is_due, (status, dg.DagsterRunStatus.SUCCESS))):
            return
        run_ids = [record.event_log_entry.run_id for record in records]
        runs = {run.run_id: run for run in self._instance.get_runs(dg.RunsFilter(run_ids=run_ids))}
        for record in records:
            run = runs.get(record.event_log_entry.run_id)
            if run is not None and self._is_own(run):
                cursor.following.setdefault(run.run_id, _Followed(record.timestamp))

    def _is_own(self, run: DagsterRun) -> bool:
        """Whether it is a run of this job, or of the flow's assets, of this code location."""
        if not is_run_of(run.job_name, run.tags, self._flow.name, self._job):
            return False
        here = self._context.code_location_origin
        origin = run.remote_job_origin
        if here is None or (origin is None and run.job_code_origin is None):
            return True  # a job of that name in Python: nothing says where it is from
        if origin is not None:
            repository = origin.repository_origin
            places = (repository.code_location_origin.location_name, repository.repository_name)
            if places == (here.location_name, self._context.repository_name):
                return True
        return definitions_file_of(run) == Path(self._flow.definitions_file).absolute()

    def _advance(self, cursor: _Cursor) -> list[subprocess.Popen[bytes]]:
        """Go on with each run; the processes that were started."""
        started = []
        under_way = sum(1 for followed in cursor.following.values() if followed.starts)
        for run_id, followed in list(cursor.following.items()):
            run = self._follow_up.run_of_flow(self._instance, run_id)
            record = record_of(self._instance, run_id, self._follow_up)
            # a success without the flow's last step becomes a failure
            is_due = run is not None and self._follow_up.is_due(run.status)
            if run is None or not is_due or self._is_over(run, record, followed):
                del cursor.following[run_id]
            elif not record.claims and self._is_late(run, followed) and (followed.starts or under_way < MAX_PROCESSES):
                under_way += not followed.starts
                followed.starts += 1
                followed.started_at = time.time()
                started.append(background.start(self._instance, run_id, self._follow_up))
        return started

    def _is_over(self, run: DagsterRun, record: Record, followed: _Followed) -> bool:
        """Whether the follow-up on a run is done, or never will be; says so in the tick."""
        if record.is_done:
            for outcome in record.outcomes:
                self._log(run, outcome)
            return True
        limit = self._follow_up.limit_seconds(run.status) + START_SECONDS
        if record.claimed_at is not None and time.time() > record.claimed_at + limit:
            self._give_up(run, "The process that had begun with it has died. It is not done again.")
            return True
        if not record.claims and followed.starts >= MAX_STARTS and self._is_late(run, followed):
            self._give_up(run, f"{followed.starts} processes were started for it, and none has begun.")
            return True
        return False

    def _is_late(self, run: DagsterRun, followed: _Followed) -> bool:
        """Whether whoever is to follow up on a run has had the time to begin."""
        if followed.starts:
            return time.time() > followed.started_at + START_SECONDS
        is_watched = run.tags.get(WORKER_TAG, "").endswith(f"/{run.run_id}")
        return not is_watched or time.time() > followed.ended_at + WATCHER_SECONDS

    def _give_up(self, run: DagsterRun, reason: str) -> None:
        outcome = Outcome(f"{self._follow_up.name} has not come to its end with this run.", reason)
        report(self._instance, run, self._follow_up, outcome)
        self._log(run, outcome)

    def _log(self, run: DagsterRun, outcome: Outcome) -> None:
        text = f"Run {run.run_id}: {outcome.message}"
        if outcome.failure is None:
            self._context.log.info(text)
        else:
            self._context.log.error(f"{text}\n{outcome.failure}".rstrip())
        self._notes.append(f"Run {run.run_id}: {outcome.message.partition(chr(10))[0]}")


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for processes, but not longer than a tick may take."""
    give_up_at = time.monotonic() + TICK_WAIT_SECONDS
    for process in processes:
        try:
            process.wait(max(0, give_up_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            return


def definitions_file_of(run: DagsterRun) -> Path | None:
    """The definitions file that a run is from, if it is known."""
    pointer: Any = None if run.job_code_origin is None else run.job_code_origin.repository_origin.code_pointer
    file = getattr(pointer, "python_file", None)
    if file is not None:
        return Path(getattr(pointer, "working_directory", None) or "", file).absolute()
    arguments = getattr(pointer, "reconstructable_args", None)
    return Path(str(arguments[0])) if arguments else None
