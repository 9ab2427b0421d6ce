"""Runs of Metaflow flows on Dagster, wherever they are: what is known of a run, and what can be asked of a Dagster.

Two things keep runs: an instance on this machine (`local`), and a deployment behind a webserver (`webserver`).
Nothing here imports Dagster.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import FLOW_TAG, FLOW_TAG_PREFIX, PARENT_RUN_ID_TAG, RUN_ID_PREFIX, RUN_ID_TAG, WORKER_TAG
from metaflow_pipes.run_ids import metaflow_run_id_of
from metaflow_pipes.run_tags import job_of_assets, tag_key
from metaflow_pipes.runs.host_processes import RunWorker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.deployment.definitions_file import Deployment

# How many runs are searched for a prefix.
MAX_SEARCHED_RUNS = 10_000
# How long a run that was asked to end is waited for.
TERMINATION_WAIT_SECONDS = 30
_POLL_SECONDS = 0.3

# The events of Dagster's log that tell how far a run is.
STEP_EVENTS = frozenset(
    {
        "STEP_START",
        "STEP_OUTPUT",
        "STEP_SUCCESS",
        "STEP_FAILURE",
        "STEP_SKIPPED",
        "STEP_UP_FOR_RETRY",
        "STEP_RESTARTED",
    }
)
# The events that tell why a run fails before, or without, a step of it: what goes wrong, and the failure itself.
RUN_EVENTS = frozenset({"ENGINE_EVENT", "RUN_FAILURE"})
# What Dagster calls the end of a step that is ended with its run.
INTERRUPTION = "DagsterExecutionInterruptedError"
# The metadata of a task that a resumed run has cloned: it says from which.
CLONED_METADATA = "cloned_from"


class RunStatus(str, Enum):
    """The status of a run, as `TriggeredRun.status` and the commands give it."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    TERMINATED = "TERMINATED"
    # Dagster says that it has not ended, but the processes that run it are not found
    LOST = "LOST?"

    @classmethod
    def of(cls, dagster_status: str) -> RunStatus:
        """The status for that of a Dagster run, such as `STARTED`."""
        return {
            "STARTED": cls.RUNNING,
            "CANCELING": cls.RUNNING,
            "SUCCESS": cls.SUCCEEDED,
            "FAILURE": cls.FAILED,
            "CANCELED": cls.TERMINATED,
        }.get(dagster_status, cls.PENDING)

    @property
    def dagster_statuses(self) -> tuple[str, ...]:
        """The statuses of Dagster runs that it stands for; Dagster has none for a lost one."""
        return {
            RunStatus.PENDING: ("QUEUED", "NOT_STARTED", "MANAGED", "STARTING"),
            RunStatus.RUNNING: ("STARTED", "CANCELING"),
            RunStatus.SUCCEEDED: ("SUCCESS",),
            RunStatus.FAILED: ("FAILURE",),
            RunStatus.TERMINATED: ("CANCELED",),
            RunStatus.LOST: (),
        }[self]

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended."""
        return self not in (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.LOST)


@dataclass(frozen=True)
class RunRecord:
    """A Dagster run of a Metaflow flow.

    Attributes:
        dagster_run_id: Its id in Dagster.
        job_name: The job.
        status: How far it is.
        tags: Its tags in Dagster.
        is_selection: Whether it executes selected steps only, of a run before it.
        created_at: When it was created, in seconds since 1970; None if that is not known.
        started_at: The same of its start, if it has started.
        ended_at: The same of its end, if it has ended.
        loss: Of a run with the status `LOST?`, what is known of its processes, as sentences.
        is_dead: Whether its processes are known to have died, though Dagster has not been told.
        flow: The flow that it is looked at for, since a run of assets can have several; None for its only one.
    """

    dagster_run_id: str
    job_name: str
    status: RunStatus
    tags: Mapping[str, str] = field(default_factory=dict)
    is_selection: bool = False
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    loss: str = ""
    is_dead: bool = False
    flow: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it: it has ended, or its processes have died."""
        return self.status.is_finished or self.is_dead

    @property
    def flow_name(self) -> str:
        """The name of the Metaflow flow."""
        return self.flow or self.tags.get(FLOW_TAG, self.job_name)

    @property
    def of_assets(self) -> str | None:
        """The flow's job, if it is a run of the flow's assets, which has another job; its step keys begin with that."""
        return job_of_assets(self.tags, self.flow_name)

    @property
    def metaflow_run_id(self) -> str:
        """The id of the Metaflow run; a re-execution from failure has that of the run that it goes on with."""
        return metaflow_run_id_of(self.dagster_run_id, self.tags, is_selection=self.is_selection)

    @property
    def is_reexecution(self) -> bool:
        """Whether it re-executes another run, of which it may be asked for some steps only."""
        return PARENT_RUN_ID_TAG in self.tags

    @property
    def duration_seconds(self) -> float | None:
        """Seconds that it ran, or has been running; None if it has not started."""
        if self.started_at is None:
            return None
        return (self.ended_at or time.time()) - self.started_at

    @property
    def worker(self) -> RunWorker | None:
        """The background processes of `local` that run it; None if a run launcher of Dagster has launched it."""
        return RunWorker.from_tag(self.tags.get(WORKER_TAG, ""), self.dagster_run_id)

    @property
    def pathspec(self) -> str:
        """The Metaflow run: `Flow/run_id`."""
        return f"{self.flow_name}/{self.metaflow_run_id}"


@dataclass(frozen=True)
class StepEvent:
    """An event of a Dagster step, or an error of the run itself.

    Attributes:
        kind: One of `STEP_EVENTS` or `RUN_EVENTS`.
        step_key: The step: `work`, or `work[3]` for the item 3 of a foreach; empty for the run.
        timestamp: When, in seconds since 1970.
        num_splits: The number of items that the output of a foreach step has.
        is_cloned: Whether the output is that of a task that was cloned.
        message: Why it has failed; of an `ENGINE_EVENT`, None if it is no error.
    """

    kind: str
    step_key: str
    timestamp: float
    num_splits: int | None = None
    is_cloned: bool = False
    message: str | None = None


class DagsterService(Protocol):
    """A Dagster that keeps and runs jobs.

    All methods raise `DeploymentError` if the service can't be asked.
    """

    def launch(
        self,
        deployment: Deployment,
        run_config: Mapping[str, Any],
        tags: Mapping[str, str],
        on_created: OnCreated,
        partition: str | None = None,
    ) -> RunRecord:
        """Begin a run of a deployed job, and return at once.

        Args:
            deployment: The deployed flow.
            run_config: Dagster's run config.
            tags: Tags of the run, beside those of the job.
            on_created: Is called with the run as soon as its id is known; before its first step, if it runs here.
            partition: The key of its partition, or None; the first and the last key of several, with `...` between.
        """
        ...

    def run(self, dagster_run_id: str) -> RunRecord | None:
        """A run, or None if there is none of that id."""
        ...

    def runs(self, tags: Mapping[str, str], statuses: Sequence[RunStatus] = (), limit: int = 20) -> list[RunRecord]:
        """Runs with these tags, the latest first.

        Args:
            tags: Tags that they have.
            statuses: Their statuses; empty for any.
            limit: How many, at most.
        """
        ...

    def events(self, dagster_run_id: str, cursor: str | None) -> tuple[list[StepEvent], str | None]:
        """The events of a run behind a cursor (None: from its start), and the cursor behind them."""
        ...

    def terminate(self, run: RunRecord) -> None:
        """Ask a run to end. Its steps are ended as `docs/reliability.md` says."""
        ...

    def switch_automation(self, deployment: Deployment, *, is_on: bool) -> list[str]:
        """Start or stop the schedules and sensors of a deployed job, and return their names.

        Args:
            deployment: The deployed flow.
            is_on: Whether they are started.
        """
        ...

    def publish(self, name: str, payload: Mapping[str, Any]) -> None:
        """Publish an event, which starts the flows that wait for it.

        Args:
            name: The event's name.
            payload: Its fields: JSON values.
        """
        ...

    def url(self, dagster_run_id: str) -> str:
        """The page of a run in the Dagster UI."""
        ...

    def ui_command(self, deployment: Deployment) -> str | None:
        """The shell command that opens the Dagster UI; None if it is always open."""
        ...


class OnCreated(Protocol):
    """A callback that takes a new run."""

    def __call__(self, run: RunRecord, /) -> None:
        """Take the run, which has no step yet."""
        ...


def reason_of(message: str) -> str:
    """The reason why a step has failed, from Dagster's message of its error."""
    if INTERRUPTION in message:
        return "was ended with the run"
    return message.strip()


def left_out(op: str) -> str:
    """The reason why a run that Dagster calls a success is none: the op of the flow's last step never ran.

    An executor that plans all steps before a run leaves out those that come of a foreach, and reports a success.
    """
    return (
        f"Dagster calls the run a success, but the flow's last step, {op}, never ran: the job's executor has left "
        "steps out. Compile the flow with --executor threads or multiprocess."
    )


def find_run(service: DagsterService, flow_name: str, identifier: str) -> RunRecord:
    """The run of a flow that an id means; of several re-executions of one Metaflow run, the latest.

    Args:
        service: Where the run is.
        flow_name: The flow.
        identifier: A Metaflow run id, a Dagster run id, the pathspec `Flow/run_id`, or the beginning of an id.

    Returns:
        The run.

    Raises:
        DeploymentError: No run of the flow has such an id, or several have.
    """
    flow, slash, text = identifier.partition("/")
    if not slash:
        text = identifier
    elif flow != flow_name:
        raise DeploymentError(f"{identifier} is a run of flow {flow}, but this is the flow {flow_name}.")
    if not text.strip("-"):
        raise DeploymentError("The id of a run is missing: give a Metaflow run id, a Dagster run id, or its beginning.")
    exact = _exact(service, flow_name, text)
    if exact is not None:
        return exact
    found: dict[str, RunRecord] = {}
    for run in runs_of_flow(service, flow_name, limit=MAX_SEARCHED_RUNS):
        ids = (run.metaflow_run_id, run.dagster_run_id, run.metaflow_run_id.removeprefix(RUN_ID_PREFIX))
        if any(known.startswith(text) for known in ids):
            found.setdefault(run.metaflow_run_id, run)
    if not found:
        raise DeploymentError(
            f"Flow {flow_name} has no run {identifier} on {service}. `list-runs` shows those there are."
        )
    if len(found) > 1:
        candidates = ", ".join(list(found)[:5]) + (", ..." if len(found) > 5 else "")
        raise DeploymentError(f"{identifier} is the beginning of {len(found)} runs of flow {flow_name}: {candidates}.")
    return next(iter(found.values()))


def runs_of_flow(
    service: DagsterService,
    flow_name: str,
    tags: Mapping[str, str] | None = None,
    statuses: Sequence[RunStatus] = (),
    limit: int = 20,
) -> list[RunRecord]:
    """The runs of a flow's jobs and of its assets, the latest first.

    Args:
        service: Where the runs are.
        flow_name: The flow.
        tags: Other tags that they have.
        statuses: Their statuses; empty for any.
        limit: How many, at most.
    """
    found = [
        replace(run, flow=flow_name)
        for tag, value in ((FLOW_TAG, flow_name), (tag_key(FLOW_TAG_PREFIX, flow_name), "true"))
        for run in service.runs({tag: value, **(tags or {})}, statuses, limit)
    ]
    return sorted(found, key=lambda run: run.created_at or 0.0, reverse=True)[:limit]


def end_run(service: DagsterService, run: RunRecord) -> RunRecord:
    """Ask a run to end, and wait until it has.

    Returns:
        The run as it is then; it has not ended if that takes longer than half a minute.

    Raises:
        DeploymentError: The run can't be ended.
    """
    service.terminate(run)
    give_up_at = time.monotonic() + TERMINATION_WAIT_SECONDS
    while True:
        current = service.run(run.dagster_run_id) or run
        if current.is_over or time.monotonic() > give_up_at:
            return current
        time.sleep(_POLL_SECONDS)


def _exact(service: DagsterService, flow_name: str, text: str) -> RunRecord | None:
    """The run with an id; for a Metaflow run, the latest Dagster run of those that make it up."""
    for run in runs_of_flow(service, flow_name, {RUN_ID_TAG: text}, limit=MAX_SEARCHED_RUNS):
        if run.metaflow_run_id == text:
            return run
    run = service.run(text.removeprefix(RUN_ID_PREFIX))
    if run is None or (run.flow_name != flow_name and job_of_assets(run.tags, flow_name) is None):
        return None
    return replace(run, flow=flow_name)
