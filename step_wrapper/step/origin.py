"""The origin of a run that clones tasks: which of its tasks stands at which place, and which run it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from metaflow.datastore.datastore_set import TaskDataStoreSet
from metaflow.runtime import PREFETCH_DATA_ARTIFACTS

from step_wrapper.report.datastore import open_datastore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from step_wrapper.launch import Launch
    from step_wrapper.wire import Resumption, Search

PARAMETERS_STEP = "_parameters"
# The paths of workers that the control task of `num_parallel` starts itself.
WORKERS_ARTIFACT = "_control_mapper_tasks"


class CannotResumeError(Exception):
    """A run can't be resumed, and no retry will change that; the message is the predicate of a sentence on the step."""


def place(indices: Iterable[int | None], iteration: int | None) -> str:
    """The place of a task of a step: `3,0` for foreach items, `3,0/2` for the third iteration at that place."""
    return ",".join(map(str, indices)) + ("" if iteration is None else f"/{iteration}")


def tasks_at_places(launch: Launch, run_id: str, metadata: Any, steps: Sequence[str]) -> dict[tuple[str, str], Any]:
    """The tasks of a run that are done, by their steps and places; and the task of its parameters.

    Args:
        launch: The attempt that asks.
        run_id: The run.
        metadata: The metadata provider.
        steps: The steps to read.
    """
    names = [PARAMETERS_STEP, *steps]
    tasks = TaskDataStoreSet(
        open_datastore(launch), run_id, steps=names, prefetch_data_artifacts=PREFETCH_DATA_ARTIFACTS
    )
    done = [task for task in tasks if task.step_name == PARAMETERS_STEP or task.get("_task_ok")]
    return _latest_at_places(done, lambda task: _finished_at(launch, metadata, task))


def _latest_at_places(tasks: Sequence[Any], finished_at: Any) -> dict[tuple[str, str], Any]:
    """The task of each step and place that finished last; Dagster may have executed a step again on purpose."""
    paths = {task.pathspec for task in tasks}
    workers = {path for task in tasks for path in workers_of(task)}
    found: dict[tuple[str, str], list[Any]] = {}
    for task in tasks:
        if task.pathspec in workers or not paths.issuperset(workers_of(task)):
            continue
        indices = [frame.index for frame in task.get("_foreach_stack") or ()]
        if is_control(task):
            indices = indices[:-1]
        iterations = task.get("_iteration_stack") or [None]
        found.setdefault((task.step_name, place(indices, iterations[-1])), []).append(task)
    return {key: same[0] if len(same) == 1 else max(same, key=finished_at) for key, same in found.items()}


def is_control(task: Any) -> bool:
    """Whether a task is the control task of `num_parallel`, which starts others."""
    return bool(task.get(WORKERS_ARTIFACT))


def workers_of(task: Any) -> list[str]:
    """The paths of the tasks that a control task has started; itself may be one of its mappers."""
    return [path for path in task.get(WORKERS_ARTIFACT) or () if path != task.pathspec]


def _finished_at(launch: Launch, metadata: Any, task: Any) -> float:
    path = (launch.flow, task.run_id, task.step_name, task.task_id)
    entries = metadata.get_object("task", "metadata", None, None, *path) or ()
    return max((entry["ts_epoch"] for entry in entries if entry["field_name"] == "attempt-done"), default=0)


# searching


def newest_origin(
    launch: Launch, resumption: Resumption, search: Search, metadata: Any
) -> tuple[str, dict[tuple[str, str], Any]]:
    """The newest run in which all steps to clone are done, and its tasks by their steps and places.

    A step that a switch has passed by counts as done. If an origin is given, it is that or none.

    Args:
        launch: The attempt of the start step.
        resumption: What is to be cloned.
        search: Which runs come into question.
        metadata: The metadata provider.

    Raises:
        CannotResumeError: There is none; names the steps that must run as well.
    """
    fewest: list[str] | None = None
    given = resumption.origin_run_id
    for run_id in [given] if given else _candidates(launch, search, metadata):
        tasks = tasks_at_places(launch, run_id, metadata, list(search.upstream))
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
