"""Resuming a run: which task of the origin stands at which place, and cloning it, as Metaflow's own `resume` does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow.clone_util import clone_task_helper

from metaflow_extensions.metaflow_pipes.plugins.given import is_own, replace
from step_wrapper.report.datastore import done_attempt
from step_wrapper.report.outcome import Clone
from step_wrapper.step.origin import (
    PARAMETERS_STEP,
    WORKERS_ARTIFACT,
    CannotResumeError,
    ended_at_places,
    is_control,
    newest_origin,
    place,
    workers_of,
)
from step_wrapper.step.running import Index

if TYPE_CHECKING:
    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch
    from step_wrapper.wire import Resumption

# Where the index of the origin is kept: beside the first parameters of the resumed run, also if others followed.
INDEX_TASK = "parameters"
INDEX = "resume.json"

# reading the origin


def index_origin(launch: Launch, resumption: Resumption, datastore: FlowDataStore, metadata: Any) -> Index:
    """Look the origin through once, and store which of its tasks stands where, for all tasks of the resumed run.

    Args:
        launch: The attempt of the start step.
        resumption: What it resumes.
        datastore: The flow's datastore.
        metadata: The metadata provider.

    Returns:
        The index, as far as it is about the start step.

    Raises:
        CannotResumeError: There is no such run, or none that has done the steps to clone.
    """
    if resumption.search is None:
        origin_run_id = resumption.origin_run_id
        latest = ended_at_places(launch, datastore, origin_run_id, resumption.steps_to_clone)
    else:
        origin_run_id, latest = newest_origin(launch, datastore, resumption, resumption.search, metadata)
    if (PARAMETERS_STEP, "") not in latest:
        raise CannotResumeError(
            f"can't resume run {origin_run_id}: flow {launch.flow} has no such run in the {launch.datastore} "
            f"datastore {launch.datastore_root}"
        )
    shards: dict[str, dict[str, tuple[str, int]]] = {step: {} for step in resumption.steps_to_clone}
    for (step, at), task in latest.items():
        if step in shards and task.attempt is not None:
            shards[step][at] = task.task_id, task.attempt
    header = {
        "origin_run_id": origin_run_id,
        "origin_parameters": latest[PARAMETERS_STEP, ""].task_id,
        "parameters": launch.parameters.rpartition("/")[2],
    }
    _index_task(datastore, launch.run_id, "w").save_metadata(
        {**{_shard(step): shard for step, shard in shards.items()}, INDEX: header}, add_attempt=False
    )
    return Index(**header, tasks=shards.get(launch.step, {}))


def read_index(launch: Launch, datastore: FlowDataStore) -> Index:
    """The index that the start step has stored of the origin, as far as it is about the step of an attempt.

    Args:
        launch: The attempt.
        datastore: The flow's datastore.

    Raises:
        CannotResumeError: It has stored nothing.
    """
    stored = _index_task(datastore, launch.run_id, "r").load_metadata([INDEX, _shard(launch.step)], add_attempt=False)
    if stored[INDEX] is None:
        raise CannotResumeError(
            f"can't go on with run {launch.run_id}: what its start step stores of the run that it resumes is missing "
            "in the datastore. Re-execute all steps"
        )
    return Index(**stored[INDEX], tasks=stored[_shard(launch.step)] or {})


def _index_task(datastore: Any, run_id: str, mode: str) -> Any:
    return datastore.get_task_datastore(
        run_id, PARAMETERS_STEP, INDEX_TASK, attempt=0, mode=mode, allow_not_done=mode == "r"
    )


def _shard(step: str) -> str:
    return f"resume.{step}.json"


# cloning


def clone_task(launch: Launch, index: Index, datastore: Any, metadata: Any) -> Clone | None:
    """Clone the origin's task at the place of an attempt, and the workers that it started, if it is done.

    Args:
        launch: The attempt.
        index: What is known of the origin.
        datastore: The flow's datastore, with the metadata provider.
        metadata: The metadata provider.

    Returns:
        The task that it is cloned from; None if the attempt has to run.

    Raises:
        CannotResumeError: The step is not selected, so that it must not run, and the origin has not done its task.
    """
    resumption = launch.resumption
    if resumption is None or not resumption.may_clone or launch.step not in resumption.steps_to_clone:
        return None
    at = place(launch.indices, launch.iteration)
    origin = _done_task(index, at, launch.step, datastore)
    if origin is None:
        if resumption.search is not None:
            where = f" at its place {at}" if at else ""
            raise CannotResumeError(
                f"is not selected, and can't be cloned: run {resumption.origin_run_id}, from which those before the "
                f"selected steps are cloned, has no finished task of it{where}. Materialize {launch.step}, too"
            )
        return None
    origin_id = origin.task_id
    new_ids = {origin.pathspec: launch.task_id}
    for number, path in enumerate(workers_of(origin), start=1):
        worker_id = path.rpartition("/")[2]
        # named after the control task by whoever starts them, as `3_node_1`
        suffix = worker_id[len(origin_id) :] if worker_id.startswith(origin_id) else f"_node_{number}"
        new_ids[path] = f"{launch.task_id}{suffix}"
    if is_control(origin):
        _rename_workers(launch, datastore, origin, new_ids)
    # the control task last: it is done when they are
    for path, new_id in reversed(new_ids.items()):
        origin_run_id, step, task_id = path.split("/")
        clone_task_helper(
            launch.flow,
            origin_run_id,
            launch.run_id,
            step,
            task_id,
            new_id,
            datastore,
            metadata,
            origin_ds_set=_One(origin) if path == origin.pathspec else None,
            attempt_id=launch.attempt,
        )
    return Clone(f"{launch.flow}/{origin.pathspec}", origin)


def _done_task(index: Index, at: str, step: str, datastore: FlowDataStore) -> Any:
    """The origin's task at a place; None if there is none, or if it has ended, but is not done."""
    if at not in index.tasks:
        return None
    task = done_attempt(datastore, index.origin_run_id, step, *index.tasks[at])
    return task if task.get("_task_ok") else None


class _One:
    """In place of a `TaskDataStoreSet`: the one task that is cloned."""

    def __init__(self, task: Any):
        self._task = task

    def get_with_pathspec(self, _: str) -> Any:
        return self._task


def _rename_workers(launch: Launch, datastore: Any, origin: Any, new_ids: dict[str, str]) -> None:
    """Let the clone of a control task name the workers of its own run, which a join takes.

    Metaflow's `resume` leaves those of the origin there.
    """
    paths = [f"{launch.run_id}/{launch.step}/{new_ids[path]}" for path in origin[WORKERS_ARTIFACT]]
    clone = datastore.get_task_datastore(launch.run_id, launch.step, launch.task_id, attempt=launch.attempt, mode="w")
    clone.save_artifacts([(WORKERS_ARTIFACT, paths)])
    replace(origin, clone, [WORKERS_ARTIFACT])


# parameters


def clone_parameters(launch: Launch, index: Index, datastore: Any, metadata: Any) -> None:
    """Begin the run with the origin's parameters.

    Args:
        launch: The attempt of the start step.
        index: What is known of the origin.
        datastore: The flow's datastore, with the metadata provider.
        metadata: The metadata provider.
    """
    assert launch.resumption is not None
    metadata.add_sticky_tags(tags=launch.tags)
    metadata.register_run_id(launch.run_id)
    clone_task_helper(
        launch.flow,
        launch.resumption.origin_run_id,
        launch.run_id,
        PARAMETERS_STEP,
        index.origin_parameters,
        index.parameters,
        datastore,
        metadata,
        origin_ds_set=_One(_origin_parameters(index, datastore)),
    )


def kept_parameters(flow: Any, resumption: Resumption, index: Index, datastore: Any) -> dict[str, Any]:
    """The values of the origin's parameters, without those that are overridden, as Metaflow's `init` takes them.

    Args:
        flow: The flow.
        resumption: What is resumed.
        index: What is known of the origin.
        datastore: The flow's datastore.

    Returns:
        The values by the names of the command's options.
    """
    stored = _origin_parameters(index, datastore)
    values = {}
    for artifact, parameter in flow._get_parameters():
        if artifact in stored and is_own(parameter) and parameter.name not in resumption.overridden_parameters:
            value = stored[artifact]
            if parameter.separator and isinstance(value, list):
                value = parameter.separator.join(value)  # which `init` splits again
            values[parameter.name.replace("-", "_").lower()] = value
    return values


def _origin_parameters(index: Index, datastore: FlowDataStore) -> Any:
    """The task that holds the origin's parameters, which is done in its only attempt."""
    return done_attempt(datastore, index.origin_run_id, PARAMETERS_STEP, index.origin_parameters, 0)
