"""The tasks that a step takes, asked for with few requests, are those that Metaflow finds with many."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from metaflow.metaflow_environment import MetaflowEnvironment

from step_wrapper.report.datastore import FirstAttemptsFirst, FlowDataStore, datastore_of

if TYPE_CHECKING:
    from pathlib import Path

# Of each task its attempts, and whether each has ended.
TASKS = {
    "once": [True],
    "retried": [False, True],
    "again-though-done": [True, True],
    "runs": [False],
    "runs-again-though-done": [True, False],
    "late": [False, False, True],
}
NONE = "none"


@pytest.fixture(scope="module")
def datastore(tmp_path_factory: pytest.TempPathFactory) -> FlowDataStore:
    folder: Path = tmp_path_factory.mktemp("datastore")
    made = datastore_of("F", "local", str(folder))
    made.environment = MetaflowEnvironment(None)
    for name, attempts in TASKS.items():
        for number, ends in enumerate(attempts):
            task: Any = made.get_task_datastore("r", "work", name, attempt=number, mode="w")
            task.init_task()
            task.save_artifacts([("number", number)])
            if ends:
                task.done()
    return made


@pytest.mark.parametrize(
    "options", [{}, {"join_type": "foreach", "mode": "r"}, {"attempt": 0}, {"allow_not_done": True}]
)
def test_same_tasks_are_found_as_by_metaflow(datastore, monkeypatch, options):
    paths = [f"r/work/{name}" for name in (*TASKS, NONE)]

    def found() -> list[tuple[str, Any]]:
        return [(task.pathspec, task.attempt) for task in datastore.get_task_datastores(pathspecs=paths, **options)]

    expected = found()
    monkeypatch.setattr(datastore, "__class__", FirstAttemptsFirst)
    assert found() == expected


def test_task_that_was_done_at_once_takes_three_requests(datastore, monkeypatch):
    asked: list[str] = []
    load = datastore._storage_impl.load_bytes
    monkeypatch.setattr(datastore._storage_impl, "load_bytes", lambda paths: asked.extend(paths) or load(paths))
    monkeypatch.setattr(datastore, "__class__", FirstAttemptsFirst)
    (task,) = datastore.get_task_datastores("r", pathspecs=["r/work/once"])
    assert task["number"] == 0
    assert [path.rpartition("/")[2] for path in asked[:3]] == ["0.DONE.lock", "0.data.json", "1.attempt.json"]
    assert not [path for path in asked[3:] if "/work/once/" in path]
