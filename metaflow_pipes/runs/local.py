"""Runs on this machine: a Dagster instance of files, and runs in background processes that outlive who launched them.

No daemon and no webserver is needed. `dagster dev` with the same `DAGSTER_HOME` shows the runs.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shlex
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import dagster as dg
from dagster import DagsterInstance
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from sqlalchemy.exc import SQLAlchemyError

from metaflow_pipes.errors import DeploymentError, PartitionError
from metaflow_pipes.locations import program
from metaflow_pipes.names import (
    DAGSTER_DEV_URL,
    HOME_VARIABLE,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    RUN_ID_TAG,
    SPLITS_METADATA,
    WORKER_TAG,
)
from metaflow_pipes.run_ids import metaflow_run_id
from metaflow_pipes.runs.background import ask_to_end, follow_up, kill, start
from metaflow_pipes.runs.host_processes import RunWorker
from metaflow_pipes.runs.instigators import switch
from metaflow_pipes.runs.loading import job_in, load_definitions, load_job
from metaflow_pipes.runs.partitions import ends_of, no_partitions
from metaflow_pipes.runs.service import (
    CLONED_METADATA,
    RUN_EVENTS,
    STEP_EVENTS,
    RunRecord,
    RunStatus,
    StepEvent,
    reason_of,
)
from metaflow_pipes.runs.worker_log import ending_of, log_of
from metaflow_pipes.runtime.assets.events import event_materialization
from metaflow_pipes.runtime.automation.ended_runs import follow_ups_of
from metaflow_pipes.runtime.partitions import check_partition, partition_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from metaflow_pipes.deployment.definitions_file import Deployment
    from metaflow_pipes.runs.service import OnCreated

# The folder of the instance where no variable names one.
DEFAULT_HOME = "~/.metaflow-pipes/dagster"
# A run's processes get this long between being asked to end and being killed. A step has 10 s of it (the client that
# waits for the step needs some more).
TERMINATION_SECONDS = 30
# How long a run can be known before its processes are: starting them takes some milliseconds.
LAUNCH_SECONDS = 5
_POLL_SECONDS = 0.2
_EVENT_PAGE = 1000
# How the storage of an instance fails: its files, and its databases.
_STORAGE_ERRORS = (OSError, SQLAlchemyError)

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _asking(method: Callable[Concatenate[LocalInstance, _P], _T]) -> Callable[Concatenate[LocalInstance, _P], _T]:
    """A method that asks the instance: where the instance's storage fails, it raises `DeploymentError`."""

    @functools.wraps(method)
    def asked(self: LocalInstance, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return method(self, *args, **kwargs)
        except _STORAGE_ERRORS as error:
            raise _unusable(self.home, error) from error

    return asked


class LocalInstance:
    """The Dagster instance of a folder.

    Args:
        home: The folder: `DAGSTER_HOME`, or None for the default one, which is created on first use.

    Raises:
        DeploymentError: The folder does not exist, or the instance can't be opened.
    """

    def __init__(self, home: str | None = None):
        self.home = Path(os.path.abspath(Path(home or DEFAULT_HOME).expanduser()))
        self._is_default = not home
        if home and not self.home.is_dir():
            raise DeploymentError(
                f"DAGSTER_HOME is {home}, but there is no such folder. Create it, or unset DAGSTER_HOME to use "
                f"{DEFAULT_HOME}."
            )
        try:
            if self._is_default:
                self.home.mkdir(parents=True, exist_ok=True)
                (self.home / "dagster.yaml").touch()
            self._instance = DagsterInstance.from_config(str(self.home))
        except Exception as error:  # its storage, which dagster.yaml names, may raise anything
            raise _unusable(self.home, error) from error

    def __str__(self) -> str:
        return f"the Dagster instance in {self.home}"

    @_asking
    def launch(
        self,
        deployment: Deployment,
        run_config: Mapping[str, Any],
        tags: Mapping[str, str],
        on_created: OnCreated,
        partition: str | None = None,
    ) -> RunRecord:
        """As `DagsterService.launch`: in a background process, whatever the instance's own run launcher is."""
        job = dg.build_reconstructable_job(
            load_job.__module__,
            load_job.__name__,
            (str(deployment.definitions_file), deployment.name),  # pyright: ignore[reportArgumentType]
        )
        definitions_file = str(deployment.definitions_file)
        definitions = load_definitions(definitions_file)
        definition = job_in(definitions, definitions_file, deployment.name)
        followed_by = definitions_file if follow_ups_of(definitions.sensors or ()) else ""
        run_id = str(uuid.uuid4())
        try:
            run = self._instance.create_run_for_job(
                definition,
                run_id=run_id,
                run_config=run_config,
                tags={
                    **definition.run_tags,
                    RUN_ID_TAG: metaflow_run_id(run_id),
                    WORKER_TAG: RunWorker(platform.node()).tag(run_id),
                    **(self._partition_tags(deployment, definition, partition) if partition is not None else {}),
                    **tags,
                },
                job_code_origin=job.get_python_origin(),
                remote_job_origin=_shown_origin(deployment),
            )
        except dg.DagsterInvalidConfigError as error:
            problems = "\n".join(f"  {problem.message}" for problem in error.errors)
            raise DeploymentError(f"Dagster refuses the run config of job {deployment.name}:\n{problems}") from None
        try:
            begin = start(self._instance, self.home, run, deployment.op_names[deployment.steps[-1]], followed_by)
            on_created(_record(run))
            begin()
        except BaseException as error:
            with contextlib.suppress(*_STORAGE_ERRORS):  # which may be why
                self._instance.report_run_failed(
                    run, f"The run could not be started: {str(error) or type(error).__name__}"
                )
            raise
        return _record(run)

    def _partition_tags(
        self, deployment: Deployment, definition: dg.JobDefinition, partition: str
    ) -> Mapping[str, str]:
        """The tags by which Dagster knows a run's partition.

        Raises:
            DeploymentError: The job has no such partition; says which there are.
        """
        if definition.partitions_def is None:
            raise no_partitions(deployment)
        first, last = ends_of(partition, deployment)
        try:
            keys = partition_of_key(definition.partitions_def, first, last)
            check_partition(definition.partitions_def, keys, self._instance)
        except PartitionError as error:
            raise DeploymentError(f"The job {deployment.name} can't run the partition {partition}: {error}") from None
        if last is not None:
            return {PARTITION_RANGE_START_TAG: first, PARTITION_RANGE_END_TAG: last}
        return definition.partitions_def.get_tags_for_partition_key(first)

    @_asking
    def run(self, dagster_run_id: str) -> RunRecord | None:
        """As `DagsterService.run`."""
        record = self._instance.get_run_record_by_id(dagster_run_id)
        return None if record is None else self._seen(record)

    @_asking
    def runs(self, tags: Mapping[str, str], statuses: Sequence[RunStatus] = (), limit: int = 20) -> list[RunRecord]:
        """As `DagsterService.runs`."""
        of_dagster = [dg.DagsterRunStatus(name) for status in statuses for name in status.dagster_statuses]
        filters = dg.RunsFilter(tags=dict(tags), statuses=of_dagster)
        return [self._seen(record) for record in self._instance.get_run_records(filters, limit=limit)]

    @_asking
    def events(self, dagster_run_id: str, cursor: str | None) -> tuple[list[StepEvent], str | None]:
        """As `DagsterService.events`."""
        types = {dg.DagsterEventType[kind] for kind in STEP_EVENTS | RUN_EVENTS}
        events: list[StepEvent] = []
        while True:
            page = self._instance.get_records_for_run(dagster_run_id, cursor, types, _EVENT_PAGE)
            for record in page.records:
                event = record.event_log_entry.dagster_event
                if event is not None:
                    events.append(_step_event(event, record.timestamp))
            cursor = page.cursor
            if not page.has_more:
                return events, cursor

    @_asking
    def terminate(self, run: RunRecord) -> None:
        """As `DagsterService.terminate`; returns when the run has ended, if it runs in background processes.

        Where these can't be reached from here, the one that watches over the run sees that it is to end.

        Raises:
            DeploymentError: The run can't be ended from here.
        """
        if run.worker is None:
            self._terminate_launched(run)
        else:
            self._terminate_worker(run, run.worker)

    @_asking
    def switch_automation(self, deployment: Deployment, *, is_on: bool) -> list[str]:
        """As `DagsterService.switch_automation`; no daemon has to run for it."""
        return switch(self._instance, deployment, is_on=is_on)

    @_asking
    def publish(self, name: str, payload: Mapping[str, Any]) -> None:
        """As `DagsterService.publish`."""
        self._instance.report_runless_asset_event(event_materialization(name, payload))

    def url(self, dagster_run_id: str) -> str:
        """As `DagsterService.url`, where `dagster dev` shows it by default, if it is open on this instance."""
        return f"{DAGSTER_DEV_URL}/runs/{dagster_run_id}"

    def ui_command(self, deployment: Deployment) -> str | None:
        """As `DagsterService.ui_command`."""
        file = deployment.definitions_file
        shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        home = DEFAULT_HOME if self._is_default else shlex.quote(str(self.home))
        return f"{HOME_VARIABLE}={home} {program('dagster')} dev -f {shlex.quote(str(shown))}"

    def _terminate_launched(self, run: RunRecord) -> None:
        """End a run that a run launcher of Dagster has launched, from the UI, by a schedule or a sensor."""
        try:
            if run.status is RunStatus.PENDING:
                is_asked = self._instance.run_coordinator.cancel_run(run.dagster_run_id)
            else:
                is_asked = self._instance.run_launcher.terminate(run.dagster_run_id)
        except Exception as error:  # they are what dagster.yaml names, and may raise anything
            raise DeploymentError(
                f"Run {run.metaflow_run_id} can't be terminated by {self}: {_reason(error)} Its run launcher and run "
                f"coordinator are those of {self.home / 'dagster.yaml'}."
            ) from error
        if not is_asked:
            raise DeploymentError(
                f"Run {run.metaflow_run_id} can't be terminated: its run worker is not known to this instance. "
                "A run of `dagster job execute` ends with its command."
            )

    def _terminate_worker(self, run: RunRecord, worker: RunWorker) -> None:
        dagster_run = self._instance.get_run_by_id(run.dagster_run_id)
        if dagster_run is None or dagster_run.is_finished:
            return
        if run.is_dead:
            self._instance.report_run_failed(dagster_run, run.loss)
            follow_up(self.home, dagster_run)
            return
        if run.status is RunStatus.PENDING and worker.living and kill(worker):
            # no step has begun; and Dagster fails a run that it finds canceling when it starts it
            if not self._is_finished(run.dagster_run_id):
                self._instance.report_run_canceled(dagster_run, "The run was terminated before it began.")
                follow_up(self.home, dagster_run)
            return
        self._instance.report_run_canceling(dagster_run)
        ask_to_end(worker)
        give_up_at = time.monotonic() + TERMINATION_SECONDS
        while not self._is_finished(run.dagster_run_id):
            has_died = worker.unseen_because is None and not worker.living
            if has_died or time.monotonic() > give_up_at:
                if not kill(worker):
                    raise DeploymentError(
                        f"Run {run.metaflow_run_id} was asked to end, and has not done so. You may not kill its "
                        f"processes, {worker.numbers}: let their user do it."
                    )
                if not self._is_finished(run.dagster_run_id):
                    unseen = worker.unseen_because
                    silent = f" Its processes have not answered. {unseen}" if unseen else ""
                    self._instance.report_run_canceled(dagster_run, f"The run was terminated.{silent}")
                follow_up(self.home, dagster_run)
                return
            time.sleep(_POLL_SECONDS)

    def _is_finished(self, dagster_run_id: str) -> bool:
        run = self._instance.get_run_by_id(dagster_run_id)
        return run is None or run.is_finished

    def _seen(self, record: dg.RunRecord) -> RunRecord:
        """A run as Dagster has it, or as lost if its processes are not found. Nothing is written."""
        run = _record(record.dagster_run, record)
        if self._loss(run) is None:
            return run
        # it may have ended since it was read
        again = self._instance.get_run_record_by_id(run.dagster_run_id)
        run = run if again is None else _record(again.dagster_run, again)
        loss = self._loss(run)
        if loss is None:
            return run
        return replace(run, status=RunStatus.LOST, loss=loss, is_dead=_is_dead(run))

    def _loss(self, run: RunRecord) -> str | None:
        """The facts about a run that has not ended and whose processes are not found; None for any other."""
        worker = run.worker
        if run.status.is_finished or worker is None or worker.host != platform.node() or worker.living:
            return None
        if _is_dead(run):
            log = ending_of(log_of(self.home, run.dagster_run_id))
            return f"The processes that ran it, {worker.numbers}, have died. {log}"
        if worker.processes:
            return f"The processes that run it are {worker.numbers}. {worker.unseen_because}"
        is_old = run.created_at is not None and time.time() - run.created_at > LAUNCH_SECONDS
        if run.status is RunStatus.PENDING and is_old:
            return "The command that launched it has not started it: it was ended, or it is stuck."
        return None  # version 0.1 has launched it, and noted no processes


def _unusable(home: Path, error: Exception) -> DeploymentError:
    return DeploymentError(
        f"The Dagster instance in {home} can't be used: {_reason(error)} Look whether its disk is full, whether you "
        f"may write there, and what its dagster.yaml says; or set {HOME_VARIABLE} to another folder."
    )


def _reason(error: Exception) -> str:
    """An error's message as a sentence; of a database's, without the statement and its values."""
    text = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
    return text if text.endswith(".") else f"{text}."


def _shown_origin(deployment: Deployment) -> RemoteJobOrigin:
    """The origin under which `dagster dev -f` shows the job: its UI counts the run as the job's and re-executes it."""
    location = RegisteredCodeLocationOrigin(deployment.definitions_file.name)
    return RemoteJobOrigin(RemoteRepositoryOrigin(location, SINGLETON_REPOSITORY_NAME), deployment.name)


def _is_dead(run: RunRecord) -> bool:
    """Whether the processes of a run that has not ended are known to have died."""
    worker = run.worker
    return worker is not None and worker.unseen_because is None and not worker.living


def _record(run: dg.DagsterRun, record: dg.RunRecord | None = None) -> RunRecord:
    return RunRecord(
        dagster_run_id=run.run_id,
        job_name=run.job_name,
        status=RunStatus.of(run.status.value),
        tags=dict(run.tags),
        is_selection=bool(run.step_keys_to_execute),
        created_at=None if record is None else record.create_timestamp.timestamp(),
        started_at=None if record is None else record.start_time,
        ended_at=None if record is None else record.end_time,
    )


def _step_event(event: Any, timestamp: float) -> StepEvent:
    kind = event.event_type.name
    num_splits, is_cloned, message = None, False, None
    if kind == "STEP_OUTPUT":
        metadata = event.step_output_data.metadata
        num_splits = metadata[SPLITS_METADATA].value if SPLITS_METADATA in metadata else None
        is_cloned = CLONED_METADATA in metadata
    elif kind in ("STEP_FAILURE", "STEP_UP_FOR_RETRY"):
        message = _failure_message(event)
    elif kind in RUN_EVENTS:
        error = getattr(event.event_specific_data, "error", None)
        message = error.message.strip() if error is not None else event.message if kind == "RUN_FAILURE" else None
    return StepEvent(kind, event.step_key or "", timestamp, num_splits, is_cloned, message)


def _failure_message(event: Any) -> str:
    failure = getattr(event.event_specific_data, "user_failure_data", None)
    error = event.event_specific_data.error
    if failure is not None and failure.description:
        return failure.description
    # a retry's own error is that of Dagster's request for it
    innermost = error if error is None or error.cause is None else error.cause
    return event.message if innermost is None else reason_of(innermost.message)
