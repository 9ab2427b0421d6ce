"""The origin of a run that clones tasks: which of its tasks stands at which place, and which run it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from step_wrapper.report.datastore import StoredTask, read_tasks, stored_tasks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from metaflow.datastore import FlowDataStore

    from step_wrapper.launch import Launch
    from step_wrapper.wire import Resumption, Search

PARAMETERS_STEP = "_parameters"
# The paths of workers that the control task of `num_parallel` starts itself.
WORKERS_ARTIFACT = "_control_mapper_tasks"
# The artifacts that say where a task stands, and how the run went on behind it.
_ARTIFACTS = (
    "_task_ok",
    "_foreach_stack",
    "_iteration_stack",
    WORKERS_ARTIFACT,
    "_transition",
    "_foreach_num_splits",
)
# Behind the step's name, the id of a task of a run on Dagster: `-3-0-i2`, and the mark of a re-execution.
_ID = re.compile(r"(?P<indices>(-\d+)*)(-i(?P<iteration>\d+))?(-r[0-9a-f]{8})?")


class CannotResumeError(Exception):
    """A run can't be resumed, and no retry will change that; the message is the predicate of a sentence on the step."""


def place(indices: Iterable[int | None], iteration: int | None) -> str:
    """The place of a task of a step: `3,0` for foreach items, `3,0/2` for the third iteration at that place."""
    return ",".join(map(str, indices)) + ("" if iteration is None else f"/{iteration}")


def ended_at_places(
    launch: Launch, datastore: FlowDataStore, run_id: str, steps: Sequence[str]
) -> dict[tuple[str, str], StoredTask]:
    """The tasks of a run that have ended, by their steps and places; and the task of its parameters.

    A task is read only if neither its id nor its being the only one tells enough. So it is not known of each whether it
    is done.

    Args:
        launch: The attempt that asks.
        datastore: The flow's datastore.
        run_id: The run.
        steps: The steps to look for.
    """
    is_of_dagster = run_id.startswith(launch.run_id[: launch.run_id.index("-") + 1])
    found: dict[tuple[str, str | None], list[StoredTask]] = {}
    for task in stored_tasks(datastore, run_id, [PARAMETERS_STEP, *steps]):
        is_alone = task.step == PARAMETERS_STEP
        at = "" if is_alone else _place_told(task) if is_of_dagster else None
        found.setdefault((task.step, at), []).append(task)
    # the workers of a control task tell no place, and it is the one that counts
    unclear = {step for step, at in found if at is None}
    latest: dict[tuple[str, str], StoredTask] = {}
    to_read: list[StoredTask] = []
    for (step, at), tasks in found.items():
        if at is None or step in unclear or len(tasks) > 1:
            to_read += tasks
        elif tasks[0].attempt is not None:
            latest[step, at] = tasks[0]
    read = _done_at_places(datastore, run_id, to_read)
    return {**latest, **{key: StoredTask(key[0], task.task_id, task.attempt) for key, task in read.items()}}


def _place_told(task: StoredTask) -> str | None:
    """The place that the id of a task of a run on Dagster tells; None if it tells none."""
    told = _ID.fullmatch(task.task_id.removeprefix(task.step))
    if told is None:
        return None
    indices, iteration = told["indices"].split("-")[1:], told["iteration"]
    return place(map(int, indices), None if iteration is None else int(iteration))


def done_at_places(datastore: FlowDataStore, run_id: str, steps: Sequence[str]) -> dict[tuple[str, str], Any]:
    """The tasks of a run that are done, by their steps and places; and the task of its parameters.

    Args:
        datastore: The flow's datastore.
        run_id: The run.
        steps: The steps to read.
    """
    return _done_at_places(datastore, run_id, stored_tasks(datastore, run_id, [PARAMETERS_STEP, *steps]))


def _done_at_places(datastore: FlowDataStore, run_id: str, tasks: Sequence[StoredTask]) -> dict[tuple[str, str], Any]:
    """The task of each step and place that was begun last; Dagster may have executed a step again on purpose."""
    read = read_tasks(datastore, run_id, tasks, _ARTIFACTS)
    done = [task for task in read if task.step_name == PARAMETERS_STEP or task.get("_task_ok")]
    paths = {task.pathspec for task in done}
    workers = {path for task in done for path in workers_of(task)}
    found: dict[tuple[str, str], list[Any]] = {}
    for task in done:
        if task.pathspec in workers or not paths.issuperset(workers_of(task)):
            continue
        indices = [frame.index for frame in task.get("_foreach_stack") or ()]
        if is_control(task):
            indices = indices[:-1]
        iterations = task.get("_iteration_stack") or [None]
        found.setdefault((task.step_name, place(indices, iterations[-1])), []).append(task)
    return {key: same[0] if len(same) == 1 else max(same, key=_begun_at) for key, same in found.items()}


def _begun_at(task: Any) -> float:
    """The time when an attempt was begun, in seconds since 1970."""
    name = task.METADATA_ATTEMPT_SUFFIX
    return task.load_metadata([name])[name]["time"]


def is_control(task: Any) -> bool:
    """Whether a task is the control task of `num_parallel`, which starts others."""
    return bool(task.get(WORKERS_ARTIFACT))


def workers_of(task: Any) -> list[str]:
    """The paths of the tasks that a control task has started; itself may be one of its mappers."""
    return [path for path in task.get(WORKERS_ARTIFACT) or () if path != task.pathspec]


# searching


def newest_origin(
    launch: Launch, datastore: FlowDataStore, resumption: Resumption, search: Search, metadata: Any
) -> tuple[str, dict[tuple[str, str], Any]]:
    """The newest run in which all steps to clone are done, and its tasks by their steps and places.

    A step that a switch has passed by counts as done. If an origin is given, it is that or none.

    Args:
        launch: The attempt of the start step.
        datastore: The flow's datastore.
        resumption: What is to be cloned.
        search: Which runs come into question.
        metadata: The metadata provider.

    Raises:
        CannotResumeError: There is none; names the steps that must run as well.
    """
    fewest: list[str] | None = None
    given = resumption.origin_run_id
    for run_id in [given] if given else _candidates(launch, search, metadata):
        tasks = done_at_places(datastore, run_id, list(search.upstream))
        missing = steps_not_done(tasks, launch.step, resumption.steps_to_clone, search.upstream)
        if not missing and (PARAMETERS_STEP, "") in tasks:
            return run_id, tasks
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    missing = fewest or resumption.steps_to_clone
    tags = "".join(f" with the tag {tag}" for tag in search.tags)
    where = f"in run {given}" if given else f"and flow {launch.flow} has no run{tags} in which"
    raise CannotResumeError(
        f"begins a run of selected steps, which needs those before them ({', '.join(resumption.steps_to_clone)}), "
        f"{where} they are {'not ' if given else ''}done. Materialize {', '.join(missing)}, too"
    )


def _candidates(launch: Launch, search: Search, metadata: Any) -> Iterator[str]:
    """The ids of the flow's other runs that have all tags, the newest first."""
    runs: list[Any] = metadata.get_object("flow", "run", None, None, launch.flow) or []
    for run in sorted(runs, key=lambda run: run["ts_epoch"], reverse=True):
        run_id = str(run.get("run_id") or run["run_number"])
        if run_id != launch.run_id and {*run["tags"], *run["system_tags"]}.issuperset(search.tags):
            yield run_id


def steps_not_done(
    tasks: Mapping[tuple[str, str], Any],
    start: str,
    steps_to_clone: Sequence[str],
    upstream: Mapping[str, Sequence[str]],
) -> list[str]:
    """Those of some steps that a run has not done at all of their places.

    Args:
        tasks: The tasks of the run that are done, by their steps and places.
        start: The flow's first step.
        steps_to_clone: The steps.
        upstream: For each of them, and for all that come before one, the steps that it takes.
    """
    depths: dict[str, int] = {}
    loops: set[str] = set()
    for step, at in tasks:
        indices, _, iteration = at.partition("/")
        depths[step] = len(indices.split(",")) if indices else 0
        if iteration:
            loops.add(step)
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    queue: list[tuple[str, tuple[int, ...], int | None]] = [(start, (), 0 if start in loops else None)]
    while queue:
        step, indices, iteration = queue.pop()
        key = (step, place(indices, iteration))
        if key in seen:
            continue
        seen.add(key)
        task = tasks.get(key)
        if task is None:
            missing |= _below(step, upstream)
            continue
        transition: Any = task.get("_transition")
        for child in transition[0] if transition else ():
            if child not in upstream:
                continue
            depth = depths.get(child, len(indices))
            first = 0 if child in loops else None
            if child == step:
                queue.append((child, indices, (iteration or 0) + 1))
            elif depth > len(indices):
                queue += [(child, (*indices, item), first) for item in range(task["_foreach_num_splits"] or 0)]
            else:
                queue.append((child, indices[:depth], first))
    return [step for step in steps_to_clone if step in missing]


def _below(step: str, upstream: Mapping[str, Sequence[str]]) -> set[str]:
    """A step and all that come behind it, in an order in which each step comes after those that it takes."""
    found = {step}
    for other, taken in upstream.items():
        if found.intersection(taken):
            found.add(other)
    return found
