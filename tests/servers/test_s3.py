"""Flows whose datastore is a server, here one with the interface of S3."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from support import Project, execute, failure_description, failures, job_of, materialization, steps_started

from metaflow_pipes.names import ORIGIN_RUN_ID_TAG

if TYPE_CHECKING:
    from pathlib import Path

    import dagster as dg

S3 = ("--datastore", "s3")

# By Metaflow's client, which reads its configuration when it is imported.
LOOK = """
import json, sys
import metaflow
metaflow.metadata(f"local@{sys.argv[1]}")
metaflow.namespace(None)
run = metaflow.Run(sys.argv[2])
seen = {}
for task in (task for step in run for task in step):
    attempts = [metaflow.Task(task.pathspec, attempt=number) for number in range(task.current_attempt + 1)]
    seen[task.id] = {
        "successful": task.successful,
        "stdout": [attempt.stdout for attempt in attempts],
        "stderr": [attempt.stderr for attempt in attempts],
        "artifacts": {artifact.id: repr(artifact.data) for artifact in task if not artifact.id.startswith("_")},
        "cards": len(metaflow.cards.get_cards(task)) if task.id == "start" else None,
        "origin": task.origin_pathspec,
    }
print(json.dumps({"successful": run.successful, "tasks": seen}))
"""


@dataclass
class Remote:
    """RemoteFlow: a run whose last step fails, and another one that resumes it."""

    flows: Project
    temporary: Path
    failed: dg.ExecuteInProcessResult
    resumed: dg.ExecuteInProcessResult

    def seen_by_client(self, result: dg.ExecuteInProcessResult) -> dict[str, Any]:
        run = f"RemoteFlow/dagster-{result.run_id}"
        command = [sys.executable, "-c", LOOK, str(self.flows.folder), run]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


@pytest.fixture(scope="module")
def remote(shelf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("remote")
    flows = Project.of(folder / "project", "remote.py")
    (folder / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shelf.environment.items():
            patch.setenv(name, value)
        patch.setenv("METAFLOW_DEFAULT_DATASTORE", "s3")
        patch.setenv("METAFLOW_PIPES_LOG_SAVE_SECONDS", "0.5")
        patch.setenv("TMPDIR", str(folder / "temporary"))
        job = job_of(flows.compile("remote.py", top_level=S3))
        failed = execute(job)
        flows.write("ready", "")
        resumed = execute(job, tags={ORIGIN_RUN_ID_TAG: f"dagster-{failed.run_id}"})
        yield Remote(flows, folder / "temporary", failed, resumed)


def test_attempts_that_fail_or_are_killed_say_so_and_are_retried(remote):
    (raised,) = failures(remote.failed, "work[0]")
    assert "(attempt 0) failed: ValueError: on purpose" in failure_description(raised)
    (killed,) = failures(remote.failed, "work[1]")
    assert "(attempt 0) was killed by signal 9 (SIGKILL)" in failure_description(killed)
    # its last step waits until its log is in the datastore, and fails with another error if that never happens
    (last,) = failures(remote.failed, "end")
    assert "failed: ValueError: not ready" in failure_description(last)


def test_client_sees_artifacts_cards_and_the_logs_of_each_attempt(remote):
    seen = remote.seen_by_client(remote.failed)
    assert not seen["successful"]
    tasks = seen["tasks"]
    assert {task: entry["successful"] for task, entry in tasks.items()} == {
        "start": True,
        "work-0": True,
        "work-1": True,
        "join": True,
        "end": False,
    }
    assert tasks["start"]["artifacts"]["part_11"] == "11"
    assert "id" in tasks["start"]["artifacts"]["table"]
    assert tasks["start"]["cards"] == 1
    for index in (0, 1):
        assert tasks[f"work-{index}"]["stdout"] == [f"item {index}, attempt {attempt}\n" for attempt in (0, 1)]
    assert "ValueError: on purpose" in tasks["work-0"]["stderr"][0]
    assert tasks["join"]["artifacts"]["results"] == "[0, 10]"
    # threads and pools that the step leaves open come to their end before its log is stored
    (stdout,) = tasks["join"]["stdout"]
    assert (stdout.count("pool"), stdout.count("thread")) == (4, 1)
    assert tasks["end"]["stdout"] == ["early\n"]
    assert "ValueError: not ready" in tasks["end"]["stderr"][0]


def test_dagster_shows_what_a_task_made(remote):
    metadata = materialization(remote.failed, "start").metadata
    assert metadata["dagster/row_count"].value == 3
    assert "card view" in metadata["card"].value
    assert "On the shelf" in metadata["card content"].value
    assert metadata["pathspec"].value.endswith("/start/start")


def test_run_that_resumes_clones_what_is_done(remote):
    assert remote.resumed.success
    seen = remote.seen_by_client(remote.resumed)
    assert seen["successful"]
    origin = f"RemoteFlow/dagster-{remote.failed.run_id}"
    assert {task: entry["origin"] for task, entry in seen["tasks"].items()} == {
        "start": f"{origin}/start/start",
        "work-0": f"{origin}/work/work-0",
        "work-1": f"{origin}/work/work-1",
        "join": f"{origin}/join/join",
        "end": None,
    }
    assert seen["tasks"]["end"]["artifacts"]["results"] == "[0, 10]"


def test_logs_command_shows_each_step(remote):
    run_id = f"dagster-{remote.failed.run_id}"
    shown = remote.flows.metaflow("remote.py", *S3, "logs", f"{run_id}/end").stdout
    assert "early" in shown
    assert "ValueError: not ready" in shown
    assert "pool" in remote.flows.metaflow("remote.py", *S3, "logs", f"{run_id}/join").stdout


WIDE = """
import json, os
from metaflow import FlowSpec, step

class WideFlow(FlowSpec):
    @step
    def start(self):
        self.items = list(range(json.loads(os.environ["ITEMS"])))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.result = self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        assert "FAILS" not in os.environ

if __name__ == "__main__":
    WideFlow()
"""
FEW, MANY = 2, 6
# To begin with, to store its data and that it is done. A join reads three files of each of its inputs.
REQUESTS_OF_A_CLONE = 3 + 3
# The data that the clone has, and the results of its checks.
REQUESTS_OF_AN_ORIGIN = 2
# By which the start step of a resumed run looks its origin through: one for its parameters, and for each step.
LISTINGS = 1 + 4


def test_requests_of_a_task_do_not_grow_with_the_run(shelf, project, monkeypatch):
    for name, value in shelf.environment.items():
        monkeypatch.setenv(name, value)
    flows: Project = project()
    flows.write("flow.py", WIDE)
    job = job_of(flows.compile("flow.py", top_level=S3))

    def run(items: int, **options: Any) -> tuple[str, list[str]]:
        """The Metaflow run, and the paths of all requests."""
        monkeypatch.setenv("ITEMS", str(items))
        before = len(shelf.requests())
        with steps_started("metaflow"):
            result = job.execute_in_process(raise_on_error=False, **options)
        return f"dagster-{result.run_id}", [path for _, path in shelf.requests()[before:]]

    def of_mapped(run_id: str, paths: list[str]) -> set[int]:
        """The number of requests for each of a run's mapped tasks."""
        found = Counter(match[0] for path in paths if (match := re.search(rf"{run_id}/work/work-\d+", path)))
        return set(found.values())

    smaller, few = run(FEW)
    monkeypatch.setenv("FAILS", "1")
    origin, many = run(MANY)
    assert (len(many) - len(few)) / (MANY - FEW) <= len(few) / FEW
    (of_each,) = of_mapped(origin, many)
    # a join reads four inputs one after another, with four requests for each, and more of them at once, with three
    assert of_each <= max(of_mapped(smaller, few))

    monkeypatch.delenv("FAILS")
    resumed, paths = run(MANY, tags={ORIGIN_RUN_ID_TAG: origin})
    assert of_mapped(resumed, paths) == {REQUESTS_OF_A_CLONE}
    assert of_mapped(origin, paths) == {REQUESTS_OF_AN_ORIGIN}
    assert sum("list-type=2" in path for path in paths) == LISTINGS


def test_nothing_is_left_behind(remote):
    assert [path.name for path in remote.temporary.iterdir()] == []
    assert [path.name for path in remote.flows.folder.glob("metaflow.s3.*")] == []
