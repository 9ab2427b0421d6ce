"""What the op asks for: one attempt of one Metaflow task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dagster_pipes import PipesContext


class Resumption(NamedTuple):
    """How the run resumes another.

    Attributes:
        origin_run_id: The Metaflow run that is resumed.
        steps_to_clone: The steps whose tasks are cloned if they are done in the origin.
        overridden_parameters: The parameters, by their names, that do not keep the origin's value.
        may_clone: Whether tasks are cloned at all.
    """

    origin_run_id: str
    steps_to_clone: list[str]
    overridden_parameters: list[str]
    may_clone: bool


class Launch(NamedTuple):
    """One attempt of a Metaflow task.

    Attributes:
        flow: The flow's name.
        run_id: The Metaflow run.
        step: The step's name.
        task_id: The task.
        attempt: The attempt, from 0.
        command: The arguments of Metaflow's `step` command; the first is the flow file.
        init: The arguments of Metaflow's `init` command, by which the start step stores the run's parameters.
        configs: The values of the flow's `Config`s, as Metaflow's runner hands them to its tasks.
        datastore: The type of the datastore.
        datastore_root: Its root, an absolute path or a URL.
        timeout_seconds: The limit of `@timeout`, or None.
        log_level: The lowest level of `logging` records that Dagster gets too, or None for no record.
        indices: The indices of its foreach items, the outermost first; a control task has none of its own.
        iteration: The iteration of a recursive step, from 0, or None.
        done_as: Ids of tasks any of which, if it is done, is reported in place of running this one.
        asset_key: The key of the Dagster asset that the task's metadata is reported for, as Pipes writes keys.
        ended_with: The exit code of the attempt's supervisor, if it has ended without a report, so that what is stored
            of the attempt is to be reported; None if the attempt is to be run.
        resumption: How the run resumes another; None if it doesn't.
        dagster_run_id: The Dagster run.
        dagster_job_name: Its job.
        dagster_step_key: The Dagster step.
        run_limit_seconds: The time limit of the run, or None.
        run_seconds_left: How much of it is left when the supervisor starts, or None.
    """

    flow: str
    run_id: str
    step: str
    task_id: str
    attempt: int
    command: list[str]
    init: list[str] | None
    configs: Mapping[str, Any]
    datastore: str
    datastore_root: str
    timeout_seconds: int | None
    log_level: int | None
    indices: list[int]
    iteration: int | None
    done_as: list[str]
    asset_key: str
    ended_with: int | None
    resumption: Resumption | None
    dagster_run_id: str
    dagster_job_name: str
    dagster_step_key: str
    run_limit_seconds: int | None = None
    run_seconds_left: float | None = None

    @property
    def metadata(self) -> str:
        """The type of the metadata provider."""
        return next(iter(self._values("--metadata")), "local")

    @property
    def tags(self) -> list[str]:
        """The Metaflow tags of the run."""
        return self._values("--tag")

    @property
    def system_tags(self) -> list[str]:
        """The system tags of the task, and of a run that it is the first one of."""
        return [f"dagster_run_id:{self.dagster_run_id}"]

    @property
    def input_paths(self) -> list[str]:
        """The tasks whose artifacts it takes, each `run_id/step/task_id`."""
        return next(iter(self._values("--input-paths"))).split(",")

    @property
    def parameters(self) -> str:
        """The task that holds the parameters of a new run, `run_id/_parameters/task_id`."""
        return self.input_paths[0]

    def _values(self, option: str) -> list[str]:
        return [argument.partition("=")[2] for argument in self.command if argument.startswith(f"{option}=")]

    @classmethod
    def from_pipes(cls, context: PipesContext) -> Launch:
        """Read the extras that the op sent along."""
        extras = dict(context.get_extra("metaflow"))
        resumption = extras.pop("resumption")
        return cls(
            resumption=None if resumption is None else Resumption(**resumption),
            dagster_run_id=context.run_id,
            dagster_job_name=context.job_name or "",
            dagster_step_key=extras.pop("step_key"),
            **extras,
        )
