"""The project that tests share: a folder with a flow, compiled and run as a user would."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import dagster as dg
import metaflow
from warm_python import WarmPython

from metaflow_pipes.compile import stages
from metaflow_pipes.runtime.cloners import Cloners
from metaflow_pipes.runtime.step_thread import StepThread, running
from metaflow_pipes.runtime.warm import WarmProcesses

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    import pytest

    from metaflow_pipes.names import WarmStart

FLOWS = Path(__file__).parent / "flows"
EXAMPLES = Path(__file__).parent.parent / "examples"
DAGSTER = str(Path(sys.executable).parent / "dagster")
# Commands that need no interpreter of their own: those of files, those that ask Dagster, and those that read a run.
NEED_NO_INTERPRETER = {
    *("create", "delete", "list-jobs", "publish", "suspend", "unsuspend"),
    *("trigger", "resume", "status", "list-runs", "terminate"),
    *("logs", "card"),
}

warm_python = WarmPython()
_one_compiler = threading.Lock()


@dataclass
class Steps:
    """The way in which `execute` has the processes of steps started."""

    warm: WarmStart = "metaflow"


STEPS = Steps()


@dataclass
class Project:
    """A folder with flows, definitions files and a local Metaflow datastore of its own."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, *flows: str) -> Project:
        """A project with copies of flows of `tests/flows`."""
        (folder / ".metaflow").mkdir(parents=True)
        for flow in flows:
            shutil.copy(FLOWS / flow, folder / flow)
        return cls(folder)

    def write(self, name: str, source: str) -> Path:
        path = self.folder / name
        path.write_text(source)
        return path

    def metaflow(
        self, flow: str, *arguments: str, check: bool = True, cold: bool = False, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """`python flow.py ...` in the project's folder; stderr goes into stdout; `cold` is as for a user."""
        is_metaflows_own_run = "dagster" not in arguments and not {"run", "resume"}.isdisjoint(arguments)
        is_warm = not (cold or is_metaflows_own_run or NEED_NO_INTERPRETER.isdisjoint(arguments))
        run = _run_warm if is_warm else _run_cold
        finished = run([flow, *arguments], self.folder, {**os.environ, **env})
        assert not check or finished.returncode == 0, finished.stdout
        return finished

    def refuses(self, flow: str, *arguments: str, top_level: tuple[str, ...] = (), **env: str) -> str:
        """The output of a `python flow.py dagster ...` that refuses: it ends with exit code 1, without a traceback."""
        finished = _run_warm([flow, *top_level, "dagster", *arguments], self.folder, {**os.environ, **env})
        assert finished.returncode == 1, finished.stdout
        assert "Traceback" not in finished.stdout
        return finished.stdout

    def compile(self, flow: str, *options: str, top_level: tuple[str, ...] = (), to: str = "defs.py") -> Path:
        self.metaflow(flow, *top_level, "dagster", "create", to, *options)
        return self.folder / to

    def job(self, flow: str, *options: str, top_level: tuple[str, ...] = ()) -> dg.JobDefinition:
        return job_of(self.compile(flow, *options, top_level=top_level))

    def run(
        self,
        flow: str,
        parameters: Mapping[str, Any] | None = None,
        *options: str,
        top_level: tuple[str, ...] = (),
    ) -> dg.ExecuteInProcessResult:
        """Compile a flow and run its job in this process, to success or failure."""
        return execute(self.job(flow, *options, top_level=top_level), parameters)

    def native_run(self, flow: str, *arguments: str, **env: str) -> metaflow.Run:
        """The same flow by Metaflow's own runner."""
        run_id_file = self.folder / "run_id"
        env = {"PATH": path_with_python(), **env}
        self.metaflow(flow, "--no-pylint", "run", "--run-id-file", str(run_id_file), *arguments, **env)
        flow_name = next(
            line.split("(")[0][6:] for line in (self.folder / flow).read_text().splitlines() if "(FlowSpec)" in line
        )
        return self.metaflow_run(flow_name, run_id_file.read_text())

    def metaflow_run(self, flow: str, run_id: str) -> metaflow.Run:
        metaflow.metadata(f"local@{self.folder}")
        metaflow.namespace(None)
        return metaflow.Run(f"{flow}/{run_id}")

    def run_of(self, result: dg.ExecuteInProcessResult) -> metaflow.Run:
        """The Metaflow run of a Dagster run."""
        flow = result.job_def.tags["metaflow/flow"]
        return self.metaflow_run(flow, f"dagster-{result.run_id}")


def _run_warm(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return warm_python.run(command, cwd, env) or _run_cold(command, cwd, env)


def _run_cold(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def dagster(*arguments: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Dagster's command, in an interpreter that has imported Dagster already; stderr goes into stdout."""
    return _run_warm([DAGSTER, *arguments], cwd, {**os.environ, **env})


def compile_in_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what compiles flows from Python do so as `Project.metaflow` does, one after another."""

    def run(
        command: Sequence[str], cwd: Path | None, env: Mapping[str, str], **options: Any
    ) -> subprocess.CompletedProcess[str]:
        with _one_compiler:
            finished = warm_python.run(command[1:], cwd or Path.cwd(), env)
        return finished or subprocess.run(command, cwd=cwd, env=env, **options)

    names = {"run": run, "PIPE": subprocess.PIPE, "STDOUT": subprocess.STDOUT}
    monkeypatch.setattr(stages, "subprocess", SimpleNamespace(**names))


def path_with_python() -> str:
    """A PATH with this Python, by which Metaflow's own runner starts the workers of `num_parallel`."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


def load(definitions: Path) -> ModuleType:
    """Import a definitions file."""
    name = f"definitions_{uuid.uuid4().hex}"
    spec = importlib.util.spec_from_file_location(name, definitions)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # not by the loader, which would take another file of this second and size for this one
    exec(compile(definitions.read_bytes(), definitions, "exec", dont_inherit=True), module.__dict__)
    return module


def job_of(definitions: Path) -> dg.JobDefinition:
    """The one job of a definitions file."""
    # beside it there is Dagster's own job of all assets, which has none that it could run
    (job,) = [job for job in load(definitions).defs.resolve_all_job_defs() if not job.name.startswith("__")]
    return job


def execute(
    job: dg.JobDefinition, parameters: Mapping[str, Any] | None = None, **options: Any
) -> dg.ExecuteInProcessResult:
    """Run a job in this process; `parameters` are the config of its first op.

    Its steps are forked as by the executor `threads`, or each is started by itself: see `pytest --warm`.
    """
    start = job.nodes_in_topological_order[0].name
    run_config = {"ops": {start: {"config": dict(parameters)}}} if parameters is not None else None
    with steps_started(STEPS.warm):
        return job.execute_in_process(run_config=run_config, raise_on_error=False, **options)


@contextlib.contextmanager
def steps_started(warm: WarmStart) -> Iterator[None]:
    """Have runs in this thread start the processes of their steps in one of the ways of the threads executor."""
    with (
        contextlib.closing(WarmProcesses(warm)) as warm_processes,
        contextlib.closing(Cloners()) as cloners,
        running(StepThread(warm_processes=warm_processes, cloners=cloners)),
    ):
        yield


def persistent(definitions: Path) -> dg.ReconstructableJob:
    """The job of a definitions file, in the form that other processes can load: for executors and re-execution."""
    return dg.build_reconstructable_job(
        "support", "job_at", (str(definitions),), reconstructor_working_directory=str(Path(__file__).parent)
    )


def job_at(definitions: str) -> dg.JobDefinition:
    """As `job_of`, from a plain string."""
    return job_of(Path(definitions))


def values_of(run: metaflow.Run) -> dict[str, dict[str, Any]]:
    """The public artifacts of each step's last task."""
    return {
        step.id: {artifact.id: artifact.data for artifact in step.task if not artifact.id.startswith("_")}
        for step in run
    }


def failures(result: dg.ExecuteInProcessResult, step: str) -> list[dg.DagsterEvent]:
    """The failed attempts of a step, the last one included, in their order."""
    kinds = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.STEP_UP_FOR_RETRY)
    return [event for event in result.all_events if event.event_type in kinds and event.step_key == step]


def failure_description(event: dg.DagsterEvent) -> str:
    """The reason of a failed attempt that a user reads."""
    data: Any = event.event_specific_data
    error = data.error
    while error.cls_name != "Failure" and error.cause is not None:
        error = error.cause
    return error.message


def output_metadata(result: dg.ExecuteInProcessResult, step: str) -> Mapping[str, dg.MetadataValue]:
    """The metadata of a step's output."""
    (event,) = [
        event
        for event in result.all_events
        if event.event_type == dg.DagsterEventType.STEP_OUTPUT and event.step_key == step
    ]
    data: Any = event.event_specific_data
    return data.metadata


def materialization(result: dg.ExecuteInProcessResult, step: str) -> dg.AssetMaterialization:
    """The one materialization of a step's asset."""
    events = [event.materialization for event in result.get_asset_materialization_events()]
    (found,) = [event for event in events if event.asset_key.path[-1] == step]
    return found


def free_port() -> int:
    """A port of the loopback address that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_running(pid: int) -> bool:
    """Whether a process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def lives(pid: int) -> bool:
    """Whether a process runs: a zombie runs no more."""
    if not is_running(pid):
        return False
    with contextlib.suppress(OSError):
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    return sys.platform != "linux"


def supervisor() -> int:
    """The supervisor of the one step that this process runs now: started by it, or by its warm process."""
    parents: dict[int, int] = {}
    warm: set[int] = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            arguments = path.read_bytes().split(b"\0")
            pid, parent = int(path.parent.name), int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            if b"step_wrapper" in arguments:
                parents[pid] = parent
                if b"--warm" in arguments and parent == os.getpid():
                    warm.add(pid)
    found = [pid for pid, parent in parents.items() if pid not in warm and parent in {os.getpid(), *warm}]
    assert found, "no step runs"
    return found[0]
