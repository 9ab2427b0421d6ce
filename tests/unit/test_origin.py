"""The tasks of a run that another one resumes, by the names of their files and, where those do not tell, by reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from metaflow.metaflow_environment import MetaflowEnvironment

from step_wrapper.report.datastore import FlowDataStore, datastore_of
from step_wrapper.step.origin import done_at_places, ended_at_places

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Launch(NamedTuple):
    """As much of a launch as is asked for."""

    run_id: str = "dagster-resumed"


class Frame(NamedTuple):
    """As much of a foreach as is asked for."""

    index: int


class Origin:
    """A run in a local datastore."""

    def __init__(self, folder: Path, run_id: str):
        self.run_id = run_id
        self.folder = folder
        self.datastore: FlowDataStore = datastore_of("F", "local", str(folder))
        self.datastore.environment = MetaflowEnvironment(None)
        self.has("_parameters", "first")

    def has(
        self, step: str, task_id: str, attempt: int = 0, *, indices: Iterable[int] = (), ends: bool = True, **more: Any
    ) -> Origin:
        task: Any = self.datastore.get_task_datastore(self.run_id, step, task_id, attempt=attempt, mode="w")
        task.init_task()
        artifacts = {"_task_ok": True, "_foreach_stack": [Frame(index) for index in indices], **more}
        task.save_artifacts(artifacts.items())
        if ends:
            task.done()
        return self

    def places(self, *steps: str) -> dict[str, tuple[str, int | None]]:
        found = ended_at_places(Launch(), self.datastore, self.run_id, steps)  # pyright: ignore[reportArgumentType]
        return {"@".join(key): (task.task_id, task.attempt) for key, task in found.items() if key[0] in steps}

    def done(self, *steps: str) -> dict[str, tuple[str, int | None]]:
        found = done_at_places(self.datastore, self.run_id, steps)
        return {"@".join(key): (task.task_id, task.attempt) for key, task in found.items() if key[0] in steps}


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(tmp_path, "dagster-origin")


def test_ids_of_a_run_on_dagster_tell_the_places_and_nothing_is_read(origin):
    origin.has("work", "work-1-10").has("work", "work-1-2", 0).has("work", "work-1-2", 1).has("turn", "turn-3-i2")
    for file in origin.folder.rglob("*.data.json"):
        file.unlink()
    expected = {"work@1,10": ("work-1-10", 0), "work@1,2": ("work-1-2", 1), "turn@3/2": ("turn-3-i2", 0)}
    assert origin.places("work", "turn") == expected


def test_last_attempt_counts_and_only_if_it_has_ended(origin):
    origin.has("work", "work", 0).has("work", "work", 1, ends=False).has("other", "other", ends=False)
    assert origin.places("work", "other") == origin.done("work", "other") == {}


def test_of_tasks_at_one_place_the_one_counts_that_was_begun_last_and_is_done(origin):
    origin.has("work", "work-0-r89abcdef", indices=[0]).has("work", "work-0", indices=[0])
    origin.has("work", "work-0-r01234567", indices=[0], _task_ok=False).has("work", "work-1", indices=[1])
    assert origin.places("work") == origin.done("work") == {"work@0": ("work-0", 0), "work@1": ("work-1", 0)}


def test_control_task_counts_if_its_workers_are_done(origin):
    path = f"{origin.run_id}/node"
    workers = {"_control_mapper_tasks": [f"{path}/node", f"{path}/node_node_1"], "_iteration_stack": None}
    origin.has("node", "node", indices=[0], **workers)
    origin.has("node", "node_node_1", indices=[1], ends=False)
    assert origin.places("node") == {}
    origin.has("node", "node_node_1", indices=[1])
    assert origin.places("node") == {"node@": ("node", 0)}


@pytest.mark.parametrize("run_id", ["17", "argo-flow-x"])
def test_tasks_of_other_runners_are_read(tmp_path, run_id):
    origin = Origin(tmp_path, run_id).has("work", "7", indices=[3]).has("work", "work-5", indices=[4])
    origin.has("work", "8", indices=[5], _task_ok=False).has("turn", "9", _iteration_stack=[2])
    expected = {"work@3": ("7", 0), "work@4": ("work-5", 0), "turn@/2": ("9", 0)}
    assert origin.places("work", "turn") == origin.done("work", "turn") == expected


def test_parameters_are_those_that_were_stored_last(origin):
    origin.has("_parameters", "another")
    found = ended_at_places(Launch(), origin.datastore, origin.run_id, ())  # pyright: ignore[reportArgumentType]
    assert found["_parameters", ""].task_id == "another"


def test_run_that_does_not_exist_has_none(origin):
    assert ended_at_places(Launch(), origin.datastore, "dagster-none", ["work"]) == {}  # pyright: ignore[reportArgumentType]
