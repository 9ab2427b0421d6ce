"""The commands of a project from a shell, on a Dagster instance of its own."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
from ended_runs import until

from metaflow_pipes.names import WORKER_TAG
from metaflow_pipes.runs.host_processes import HostProcess, RunWorker

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from support import Project


class Shell:
    """The commands of a project on an instance of its own."""

    def __init__(self, flows: Project, home: Path):
        self.flows = flows
        self.home = home

    def __call__(
        self, flow: str, *arguments: str, check: bool = True, cold: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {"DAGSTER_HOME": str(self.home), **env}
        return self.flows.metaflow(flow, "--quiet", "dagster", *arguments, check=check, cold=cold, **variables)

    def triggered(self, flow: str, *arguments: str, **env: Any) -> str:
        """The Metaflow run id of a new run."""
        self(flow, "trigger", "--run-id-file", "run_id", *arguments, **env)
        return (self.flows.folder / "run_id").read_text()

    def status(self, flow: str, run_id: str) -> str:
        return self(flow, "status", run_id).stdout.split("Status:")[1].split()[0]

    def instance(self) -> dg.DagsterInstance:
        return dg.DagsterInstance.from_config(str(self.home))

    def run(self, run_id: str) -> dg.DagsterRun:
        """The run, as Dagster has it."""
        with self.instance() as instance:
            run = instance.get_run_by_id(run_id.removeprefix("dagster-"))
            assert run is not None
            return run

    def worker(self, run_id: str) -> RunWorker:
        """The processes of a run: the one that watches over it, and the one that executes it."""
        run = self.run(run_id)
        worker = RunWorker.from_tag(run.tags[WORKER_TAG], run.run_id)
        assert worker is not None
        return worker

    def moves(self, run_id: str, **changes: Any) -> None:
        """Let a run say that its processes are elsewhere."""
        worker = replace(self.worker(run_id), **changes)
        with self.instance() as instance:
            run_id = run_id.removeprefix("dagster-")
            instance.add_run_tags(run_id, {WORKER_TAG: worker.tag(run_id)})

    def reaches(self, run_id: str, status: dg.DagsterRunStatus) -> dg.DagsterRun:
        with self.instance() as instance:

            def run_if_finished() -> Any:
                run = instance.get_run_by_id(run_id.removeprefix("dagster-"))
                return run is not None and run.is_finished and run

            run = until(run_if_finished)
            assert run.status == status
            return run

    def pid_of_step(self) -> int:
        """The process of the step that now waits, of `slow.py`."""
        path = self.flows.folder / "pid"
        pid = until(lambda: path.exists() and path.read_text())
        path.unlink()
        return int(pid)


@contextlib.contextmanager
def shell_of(flows: Project) -> Iterator[Shell]:
    """The commands of a project, all of whose flows are compiled; at the end, no process of their runs is left."""
    for flow in sorted(flows.folder.glob("*.py")):
        flows.compile(flow.name, "--executor", "in_process", to=f"{flow.stem}flow_dagster.py")
    home = flows.folder.with_name("home")
    home.mkdir()
    (home / "dagster.yaml").touch()
    shell = Shell(flows, home)
    yield shell
    with shell.instance() as instance:
        runs = instance.get_runs()
    for run in runs:
        kill(*shell.worker(run.run_id).processes)


def kill(*processes: HostProcess) -> None:
    """Kill processes, and wait until they have gone; the first one first."""
    for process in processes:
        process.send(signal.SIGKILL)
    until(lambda: not any(process.is_alive for process in processes), 20)
