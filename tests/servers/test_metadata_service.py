"""Flows whose metadata provider is Metaflow's service, here a double of it."""

from __future__ import annotations

import itertools
import json
import math
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import dagster as dg
import metaflow
import pytest
import requests
from ended_runs import until
from metaflow.metaflow_config import SERVICE_HEADERS
from servers.metadata_service import KEY_HEADER, MetadataService, running_metadata_service
from support import Project, execute, failure_description, failures, job_of, persistent

from step_wrapper import companions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVICE = ("--metadata", "service")
KEY = "a-key-of-the-tests"
# Enough for a busy machine to start the processes that send heartbeats.
DELAY_SECONDS = 3
FLOW = f"""
from metaflow import FlowSpec, current, retry, step

class ServedFlow(FlowSpec):
    @step
    def start(self):
        self.items = [0, 1]
        self.next(self.work, foreach="items")

    @retry(times=1, minutes_between_retries={DELAY_SECONDS} / 60)
    @step
    def work(self):
        print("item", self.input, "attempt", current.retry_count)
        assert current.retry_count or not self.input, "on purpose"
        self.result = self.input
        self.next(self.join)

    @step
    def join(self, inputs):
        self.results = [i.result for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    ServedFlow()
"""


@pytest.fixture(scope="module")
def service() -> Iterator[MetadataService]:
    with running_metadata_service() as service, pytest.MonkeyPatch.context() as patch:
        service.key = KEY
        for name, value in {**service.environment, "METAFLOW_SERVICE_AUTH_KEY": KEY}.items():
            patch.setenv(name, value)
        patch.setitem(SERVICE_HEADERS, KEY_HEADER, KEY)
        yield service


@pytest.fixture(autouse=True)
def works_again(service: MetadataService) -> Iterator[None]:
    yield
    service.fault = lambda method, path: None


def _run(flows: Project, folder: Path, executor: str) -> str:
    """The Metaflow run of a flow by an executor whose run has a process of its own for its heartbeats."""
    definitions = flows.compile("flow.py", "--executor", executor, "--tag", "of-the-tests", top_level=SERVICE)
    assert KEY not in definitions.read_text()
    assert "METAFLOW_SERVICE_AUTH_KEY" in definitions.read_text()
    folder.mkdir()
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        with dg.execute_job(persistent(definitions), instance) as result:
            assert result.success
        assert not [entry for entry in instance.all_logs(result.run_id) if KEY in entry.to_json()]
    return f"dagster-{result.run_id}"


def _heartbeats_before_retry(service: MetadataService, flow: str, run_id: str, step: str, task: str) -> list[float]:
    """Those of a run in the time between two attempts of one of its tasks, while no other one runs."""
    path = f"/flows/{flow}/runs/{run_id}/steps/{step}/tasks/{task}/metadata"
    of_task = [request.at for request in service.requests if request.path == path]
    before, after = max(itertools.pairwise(of_task), key=lambda pair: pair[1] - pair[0])
    assert after - before > DELAY_SECONDS / 2
    return [at for at in service.heartbeats(flow, run_id) if before < at < after]


def test_runs_tasks_attempts_and_tags_are_there_and_heartbeats_go_on_while_no_task_runs(project, service, tmp_path):
    flows: Project = project()
    flows.write("flow.py", FLOW)
    run_id = _run(flows, tmp_path / "home", "threads")
    ended_at = time.monotonic()

    metaflow.metadata(f"service@{service.url}")
    metaflow.namespace(None)
    run = metaflow.Run(f"ServedFlow/{run_id}")
    assert run.successful
    assert run.data.results == [0, 1]
    assert "of-the-tests" in run.user_tags
    assert f"dagster_run_id:{run_id.removeprefix('dagster-')}" in run.system_tags
    assert {task.id for task in run["work"]} == {"work-0", "work-1"}
    retried = metaflow.Task(f"ServedFlow/{run_id}/work/work-1")
    assert retried.current_attempt == 1
    assert [metaflow.Task(retried.pathspec, attempt=number).stdout for number in (0, 1)] == [
        f"item 1 attempt {number}\n" for number in (0, 1)
    ]
    assert retried.metadata_dict["dagster-step-key"] == "work[1]"
    run.add_tag("added")
    assert "added" in metaflow.Run(run.pathspec).user_tags

    assert len(_heartbeats_before_retry(service, "ServedFlow", run_id, "work", "work-1")) > 1
    assert service.run("ServedFlow", run_id)["last_heartbeat_ts"]
    assert max(service.heartbeats("ServedFlow", run_id)) < ended_at


def test_heartbeats_go_on_while_no_process_of_an_op_runs(project, service, tmp_path):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, current, retry, step\n\n"
        "class RetriedFlow(FlowSpec):\n"
        f"    @retry(times=1, minutes_between_retries={DELAY_SECONDS} / 60)\n"
        "    @step\n    def only(self):\n        assert current.retry_count\n\n"
        "if __name__ == '__main__':\n    RetriedFlow()\n",
    )
    run_id = _run(flows, tmp_path / "home", "multiprocess")
    ended_at = time.monotonic()
    assert len(_heartbeats_before_retry(service, "RetriedFlow", run_id, "only", "only")) > 1
    assert max(service.heartbeats("RetriedFlow", run_id)) < ended_at


def test_heartbeats_keep_their_pace_though_those_of_tasks_come_first(service, tmp_path):
    _post(service, "BusyFlow", {})
    _post(service, "BusyFlow/run", {"run_number": "r"})
    # so that each is refused
    service.run("BusyFlow", "r")["last_heartbeat_ts"] = math.inf
    options = companions.HeartbeatOptions(flow="BusyFlow", run_id="r", metadata="service", script="flow.py")
    command = [sys.executable, "-m", "step_wrapper", companions.HEARTBEAT, json.dumps(options)]
    lifeline, end = socket.socketpair()
    with end, subprocess.Popen(command, cwd=tmp_path, stdin=end) as process, lifeline:
        until(lambda: service.heartbeats("BusyFlow", "r"))
        until(lambda: len(service.heartbeats("BusyFlow", "r")) > 5, seconds=3)
    assert process.returncode == 0


def _post(service: MetadataService, path: str, body: dict[str, str]) -> None:
    requests.post(f"{service.url}/flows/{path}", json=body, headers={KEY_HEADER: KEY}, timeout=10)


@pytest.fixture(scope="module")
def cut_off(service, tmp_path_factory) -> tuple[Project, dg.JobDefinition]:
    """A flow of one step, which leaves a file behind when it has begun."""
    flows = Project.of(tmp_path_factory.mktemp("cut_off") / "project")
    flows.write(
        "flow.py",
        "from pathlib import Path\nfrom metaflow import FlowSpec, step\n\n"
        "class CutOffFlow(FlowSpec):\n    @step\n    def only(self):\n        Path('begun').touch()\n\n"
        "if __name__ == '__main__':\n    CutOffFlow()\n",
    )
    return flows, job_of(flows.compile("flow.py", top_level=SERVICE))


@pytest.mark.parametrize(
    ("fault", "is_from_start", "reason"),
    [
        ("down", True, "requests.exceptions.ConnectionError: "),
        ("down", False, "requests.exceptions.ConnectionError: "),
        ("silent", False, "requests.exceptions.ReadTimeout: "),
        ("500", False, "/steps/only/tasks/only/metadata) failed (code 500): "),
    ],
)
def test_attempt_fails_and_names_the_service(cut_off, service, monkeypatch, fault, is_from_start, reason):
    flows, job = cut_off
    begun = flows.folder / "begun"
    begun.unlink(missing_ok=True)
    monkeypatch.setenv("METAFLOW_SERVICE_RETRY_COUNT", "1")
    monkeypatch.setenv("METAFLOW_PIPES_SERVICE_SECONDS", "0.5")

    def break_service(method: str, path: str) -> int | None:
        if not is_from_start and not begun.exists():
            return None
        if fault == "down":
            raise ConnectionError
        if fault == "silent":
            time.sleep(1)
            return None
        return int(fault)

    service.fault = break_service
    result = execute(job)
    assert begun.exists() is not is_from_start
    (failed,) = failures(result, "only")
    description = failure_description(failed)
    assert "Step only of flow CutOffFlow (attempt 0) failed: Metaflow's metadata service" in description
    assert f"{service.url} could not be used: " in description
    assert reason in description


def test_service_that_comes_back_while_metaflow_tries_again_fails_nothing(cut_off, service):
    _, job = cut_off
    answers = iter([503, 503])

    def fail_twice(method: str, path: str) -> int | None:
        return next(answers, None) if method == "POST" and path.endswith("/tasks/only/metadata") else None

    service.fault = fail_twice
    assert execute(job).success
    assert next(answers, None) is None
