"""Whoever is killed or ended, nothing of a step goes on unseen, and Dagster shows the truth."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from ended_runs import until
from support import Project, execute, failure_description, failures, free_port, job_of, lives, persistent

from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.runs.service import RunStatus
from metaflow_pipes.runs.webserver import Webserver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIN = Path(sys.executable).parent

# Each task notes its process and those that it starts, one of them in a session of its own, and then waits.
FLOW = """import os, signal, subprocess, sys, time
from pathlib import Path
from metaflow import FlowSpec, Parameter, retry, step

class WaitingFlow(FlowSpec):
    width = Parameter("width", default=1)
    stubborn = Parameter("stubborn", default=False)

    @step
    def start(self):
        self.items = list(range(self.width))
        self.next(self.work, foreach="items")

    @retry(times={retries}, minutes_between_retries=0)
    @step
    def work(self):
        if not Path("ready").exists():
            print("waiting", flush=True)
            if self.stubborn:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
            children = [
                subprocess.Popen(["sleep", "300"]), subprocess.Popen(["sleep", "300"], start_new_session=True),
            ]
            pids = [os.getppid(), os.getpid(), *(child.pid for child in children)]
            Path("pids", f"{{self.input}}.tmp").write_text(" ".join(map(str, pids)))
            Path("pids", f"{{self.input}}.tmp").rename(f"pids/{{self.input}}")
            time.sleep(300)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    WaitingFlow()
"""


@pytest.fixture
def waiting(project) -> Callable[..., Project]:
    def make(retries: int = 0) -> Project:
        flows: Project = project()
        flows.write("flow.py", FLOW.format(retries=retries))
        (flows.folder / "pids").mkdir()
        return flows

    return make


def _pids(flows: Project, tasks: int = 1) -> list[list[int]]:
    """For each running task its supervisor, its own process and its children, once all are there."""
    names = [str(number) for number in range(tasks)]
    folder = flows.folder / "pids"
    until(lambda: all((folder / name).exists() for name in names), 120, f"{tasks} task(s) run")
    return [[int(pid) for pid in (folder / name).read_text().split()] for name in names]


def _gone(pids: list[list[int]], seconds: float) -> None:
    every = [pid for task in pids for pid in task]
    until(lambda: not any(map(lives, every)), seconds, "all processes of the steps end")


def _run_worker(flows: Project, home: Path, *options: str, width: int = 1) -> subprocess.Popen[bytes]:
    home.mkdir()
    config = flows.write("config.yaml", json.dumps({"ops": {"start": {"config": {"width": width}}}}))
    definitions = flows.compile("flow.py", *options)
    command = [BIN / "dagster", "job", "execute", "-f", definitions, "-j", "WaitingFlow", "-c", config]
    return subprocess.Popen(
        command,
        cwd=flows.folder,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("executor", ["threads", "multiprocess", "in_process"])
def test_killed_run_worker_takes_its_steps_along_and_the_reexecution_is_right(waiting, tmp_path, executor):
    flows: Project = waiting()
    home = tmp_path / "home"
    worker = _run_worker(flows, home, "--executor", executor)
    pids = _pids(flows)
    worker.kill()
    worker.wait()
    _gone(pids, 5)
    flows.write("ready", "")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        # as Dagster's run monitoring and its code server do
        instance.report_run_failed(run, "the run worker is gone")
        options = dg.ReexecutionOptions.from_failure(run.run_id, instance)
        job = persistent(flows.folder / "defs.py")
        with dg.execute_job(job, instance, reexecution_options=options) as again:
            assert again.success
    metaflow_run = flows.metaflow_run("WaitingFlow", f"dagster-{run.run_id}")
    assert metaflow_run.successful
    assert [task.id for task in metaflow_run["start"]] == ["start"]


def test_killed_op_process_fails_its_op_and_takes_its_step_along(waiting, tmp_path):
    flows: Project = waiting()
    home = tmp_path / "home"
    worker = _run_worker(flows, home, "--executor", "multiprocess")
    pids = _pids(flows)
    op = int(Path("/proc", str(pids[0][0]), "stat").read_text().rpartition(")")[2].split()[1])
    assert op != worker.pid
    os.kill(op, signal.SIGKILL)
    _gone(pids, 5)
    assert worker.wait(60) != 0
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (run,) = instance.get_runs()
        assert run.status == dg.DagsterRunStatus.FAILURE


def test_killed_supervisor_fails_its_op_at_once_and_the_retry_is_clean(waiting):
    flows: Project = waiting(retries=1)
    job = job_of(flows.compile("flow.py"))

    def kill() -> None:
        pids = _pids(flows)
        flows.write("ready", "")
        os.kill(pids[0][0], signal.SIGKILL)
        killed.append((time.monotonic(), pids))

    import threading

    killed: list[tuple[float, list[list[int]]]] = []
    killer = threading.Thread(target=kill)
    killer.start()
    result = execute(job)
    killer.join()
    ((killed_at, pids),) = killed
    assert time.monotonic() - killed_at < 30
    _gone(pids, 5)
    assert result.success
    (failed,) = failures(result, "work[0]")
    assert "was ended, because its supervisor was killed by signal 9" in failure_description(failed)
    assert flows.run_of(result)["work"].task.current_attempt == 1


def test_killed_step_fails_its_op_and_leaves_nothing(waiting):
    flows: Project = waiting(retries=1)
    job = job_of(flows.compile("flow.py"))
    import threading

    def kill() -> None:
        pids.extend(_pids(flows))
        flows.write("ready", "")
        os.kill(pids[0][1], signal.SIGKILL)

    pids: list[list[int]] = []
    killer = threading.Thread(target=kill)
    killer.start()
    result = execute(job)
    killer.join()
    _gone(pids, 5)
    assert result.success
    (failed,) = failures(result, "work[0]")
    assert "was killed by signal 9 (SIGKILL): out of memory?" in failure_description(failed)


# termination, as in the UI


@contextlib.contextmanager
def _webserver(definitions: Path, home: Path) -> Iterator[Webserver]:
    home.mkdir()
    # without a daemon: runs are launched at once
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    (home / "dagster.yaml").write_text(json.dumps({"run_coordinator": coordinator, "telemetry": {"enabled": False}}))
    port = free_port()
    server = subprocess.Popen(
        [BIN / "dagster-webserver", "-f", definitions, "-p", str(port), "-h", "127.0.0.1"],
        cwd=definitions.parent,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    webserver = Webserver(f"http://127.0.0.1:{port}")

    def is_up() -> bool:
        with contextlib.suppress(DeploymentError):
            return bool(webserver.jobs())
        return False

    try:
        until(is_up, 120, "the webserver is up")
        yield webserver
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.mark.parametrize(("width", "stubborn"), [(1, True), (20, False)])
def test_terminated_run_is_canceled_and_leaves_nothing(waiting, tmp_path, width, stubborn):
    flows: Project = waiting()
    definitions = flows.compile("flow.py", "--max-workers", "20")
    config = {"ops": {"start": {"config": {"width": width, "stubborn": stubborn}}}}
    with _webserver(definitions, tmp_path / "home") as webserver:
        run = webserver.launch(read_deployment(definitions), config, {}, lambda _: None)
        run_id = run.dagster_run_id
        pids = _pids(flows, width)
        terminated_at = time.monotonic()
        webserver.terminate(run)
        _gone(pids, 15)
        left = 30 - (time.monotonic() - terminated_at)
        until(
            lambda: webserver.run(run_id).status is RunStatus.TERMINATED,
            left,
            "the run is shown as canceled",
        )
    with dg.DagsterInstance.from_config(str(tmp_path / "home")) as instance:
        events = [
            record.event_log_entry.get_dagster_event().logs_captured_data
            for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records
        ]
        keys = [event.file_key for event in events if any(key.startswith("work") for key in event.step_keys or ())]
        assert len(keys) == width
        for key in keys:
            log = instance.compute_log_manager.get_log_data([run_id, "compute_logs", key])
            assert log.stdout == b"waiting\n"
    metaflow_run = flows.metaflow_run("WaitingFlow", f"dagster-{run_id}")
    assert not metaflow_run.successful
    assert [task.stdout for task in metaflow_run["work"]] == ["waiting\n"] * width
