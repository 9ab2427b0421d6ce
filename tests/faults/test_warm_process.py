"""Whatever becomes of the process that steps are forked from, all steps run, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, failure_description, is_running, persistent

from metaflow_pipes.runtime import warm
from metaflow_pipes.runtime.step_process import StepLaunch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import metaflow

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

BIN = Path(sys.executable).parent

# Each task notes its process's grandparent, which is a warm process or the run's, and does as its parameter says.
FLOW = """import os, signal, subprocess, time
from pathlib import Path
from metaflow import FlowSpec, Parameter, step

def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def wait_for(name):
    give_up_at = time.monotonic() + 60
    while not Path(name).exists() and time.monotonic() < give_up_at:
        time.sleep(0.02)

class PlightFlow(FlowSpec):
    plight = Parameter("plight", default="none")

    @step
    def start(self):
        self.parent = parent_of(os.getppid())
        if self.plight == "killed":
            os.kill(self.parent, signal.SIGKILL)
        elif self.plight == "stopped":
            os.kill(self.parent, signal.SIGSTOP)
        elif self.plight == "waits":
            child = subprocess.Popen(["sleep", "300"], start_new_session=True)
            Path("pids.tmp").write_text(f"{self.parent} {os.getppid()} {os.getpid()} {child.pid}")
            Path("pids.tmp").rename("pids")
            time.sleep(300)
        self.result = "done"
        self.next(self.one, self.other)

    @step
    def one(self):
        self.parent = parent_of(os.getppid())
        if self.plight == "killed with others":
            wait_for("other")
            os.kill(self.parent, signal.SIGKILL)
            Path("killed").touch()
        self.result = "done"
        self.next(self.join)

    @step
    def other(self):
        self.parent = parent_of(os.getppid())
        if self.plight == "killed with others":
            Path("other").touch()
            wait_for("killed")
        self.result = "done"
        self.next(self.join)

    @step
    def join(self, inputs):
        self.parent = parent_of(os.getppid())
        self.result = "done"
        self.next(self.end)

    @step
    def end(self):
        self.parent = parent_of(os.getppid())
        self.result = "done"

if __name__ == "__main__":
    PlightFlow()
"""
STEPS = ("start", "one", "other", "join", "end")

# Zombies of tests that ran before in this process.
OTHERS: set[int] = set()


@pytest.fixture(scope="module")
def plight(tmp_path_factory: pytest.TempPathFactory) -> Project:
    flows = Project.of(tmp_path_factory.mktemp("plight") / "project")
    flows.write("flow.py", FLOW)
    flows.compile("flow.py", "--max-workers", "2")
    return flows


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield instance


@pytest.fixture(autouse=True)
def all_ends() -> Iterator[None]:
    """No warm process outlives its run, and none becomes a zombie."""
    OTHERS.clear()
    OTHERS.update(_children())
    yield
    assert _children() == []


class Run:
    """A run of the flow in this process, to its end."""

    def __init__(self, flows: Project, instance: dg.DagsterInstance, parameters: dict[str, Any]):
        run_config = {"ops": {"start": {"config": parameters}}}
        job = persistent(flows.folder / "defs.py")
        self.result = dg.execute_job(job, instance, run_config=run_config, raise_on_error=False)
        self.flow = flows.metaflow_run("PlightFlow", f"dagster-{self.result.run_id}")
        logs = instance.all_logs(self.result.run_id)
        self.warnings = [log.user_message for log in logs if "longer than to fork it" in log.user_message]

    @property
    def parents(self) -> dict[str, int]:
        """The parent of each step's supervisor."""
        return {step: _data(self.flow, step).parent for step in STEPS}

    @property
    def is_done(self) -> bool:
        results = [_data(self.flow, step).result for step in STEPS]
        return self.result.success and self.flow.successful and results == ["done"] * len(STEPS)


def _data(run: metaflow.Run, step: str) -> Any:
    task: Any = run[step].task
    return task.data


def _children() -> list[int]:
    """The processes below this one that are, or were, warm."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
            if int(fields[1]) == os.getpid() and (fields[0] == "Z" or b"--warm\0" in command):
                found.append(int(stat.parent.name))
    return [pid for pid in found if pid not in OTHERS]


def _wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at, f"{what} within {seconds} s"
        time.sleep(0.02)
    return value


def _lives(pid: int) -> bool:
    if not is_running(pid):
        return False
    with contextlib.suppress(OSError):  # a zombie runs no more
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# the warm process of a run


def test_steps_of_a_run_are_forked_from_one_process(plight, instance):
    run = Run(plight, instance, {})
    assert run.is_done
    assert run.warnings == []
    (parent,) = set(run.parents.values())
    assert parent != os.getpid()


def test_killed_before_it_forks_others_take_its_place(plight, instance):
    run = Run(plight, instance, {"plight": "killed"})
    assert run.is_done
    assert run.warnings == []
    first = run.parents["start"]
    (second,) = {parent for step, parent in run.parents.items() if step != "start"}
    assert first != second
    assert os.getpid() not in (first, second)


def test_killed_while_it_forks_others_take_its_place(plight, instance, monkeypatch):
    send_fds, sent = socket.send_fds, []

    def send_and_kill(requests: socket.socket, *arguments: Any) -> int:
        if sent:
            return send_fds(requests, *arguments)
        (pid,) = _children()
        sent.append(pid)
        os.kill(pid, signal.SIGSTOP)
        size = send_fds(requests, *arguments)
        os.kill(pid, signal.SIGKILL)
        return size

    monkeypatch.setattr(socket, "send_fds", send_and_kill)
    run = Run(plight, instance, {})
    assert run.is_done
    assert run.warnings == []
    assert sent[0] not in run.parents.values()
    assert os.getpid() not in run.parents.values()


def test_killed_after_it_has_forked_steps_go_on(plight, instance):
    (plight.folder / "other").unlink(missing_ok=True)
    (plight.folder / "killed").unlink(missing_ok=True)
    run = Run(plight, instance, {"plight": "killed with others"})
    assert run.is_done
    assert run.warnings == []
    assert run.parents["one"] == run.parents["start"] != run.parents["join"]


def test_hanging_one_is_killed_and_steps_are_started_by_themselves(plight, instance, monkeypatch):
    monkeypatch.setattr(warm, "FORK_SECONDS", 0.5)
    run = Run(plight, instance, {"plight": "stopped"})
    assert run.is_done
    assert {parent for step, parent in run.parents.items() if step != "start"} == {os.getpid()}
    (warning,) = run.warnings
    assert "it has not answered for 0.5 s" in warning
    assert not _lives(run.parents["start"])


IN_WARM = "import os, sys, threading, time\nif '--warm' in sys.orig_argv:\n    "
THREAD = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        (
            "sitecustomize.py",
            IN_WARM + "def fork(): raise OSError(11, 'no more processes')\n    os.fork = fork",
            "it can't be forked: [Errno 11] no more processes",
        ),
        ("sitecustomize.py", IN_WARM + "os._exit(3)", "that process has ended"),
        ("sitecustomize.py", IN_WARM + "time.sleep(1000)", "it has not come to the end of its imports in 0.5 s"),
        ("sitecustomize.py", THREAD, "the import of Metaflow and its extensions starts threads"),
        (
            "metaflow_extensions/threaded/toplevel/mfextinit_threaded.py",
            THREAD,
            "the import of Metaflow and its extensions starts threads",
        ),
    ],
    ids=["no fork", "dies", "hangs", "thread of Python's start", "thread of an extension"],
)
def test_one_that_is_of_no_use_is_told_of_once(plight, instance, monkeypatch, tmp_path, file, source, message):
    path = tmp_path / "path" / file
    path.parent.mkdir(parents=True)
    path.write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    if message.endswith("in 0.5 s"):
        monkeypatch.setattr(warm, "READY_SECONDS", 0.5)
    monkeypatch.setattr(warm, "_END_SECONDS", 0.1)
    run = Run(plight, instance, {})
    assert run.is_done
    assert set(run.parents.values()) == {os.getpid()}
    (warning,) = run.warnings
    assert message in warning
    assert "`create --warm off` does without" in warning


def test_killed_supervisor_fails_its_op_at_once_and_takes_its_step_along(plight, instance):
    pids = plight.folder / "pids"

    def kill() -> None:
        killed.extend(map(int, _wait_for(lambda: pids.exists() and pids.read_text(), 60, "the step waits").split()))
        os.kill(killed[1], signal.SIGKILL)

    killed: list[int] = []
    killer = threading.Thread(target=kill)
    killer.start()
    run = Run(plight, instance, {"plight": "waits"})
    killer.join()
    pids.unlink()
    _wait_for(lambda: not any(map(_lives, killed)), 5, "all processes of the step end")
    assert killed[0] != os.getpid()
    (failed,) = [event for event in run.result.all_events if event.is_step_failure]
    assert "was ended, because its supervisor was killed by signal 9" in failure_description(failed)


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 5), (signal.SIGTERM, 15)])
def test_ended_run_takes_warm_process_and_steps_along(plight, tmp_path, number, seconds):
    pids = plight.folder / "pids"
    config = plight.write("config.yaml", json.dumps({"ops": {"start": {"config": {"plight": "waits"}}}}))
    with _worker(plight.folder, plight.folder / "defs.py", "PlightFlow", tmp_path / "home", config) as worker:
        started = list(map(int, _wait_for(lambda: pids.exists() and pids.read_text(), 120, "the step runs").split()))
        pids.unlink()
        assert started[0] != worker.pid
        worker.send_signal(number)
        _wait_for(lambda: not any(map(_lives, started)), seconds, "the warm process and the step end")


def test_run_that_is_killed_during_the_imports_of_its_flow_takes_the_warm_process_along(project, tmp_path):
    flows: Project = project()
    source = "import os, sys, time\nif '--warm' in sys.orig_argv:\n    open('pid', 'w').write(str(os.getpid()))\n"
    flows.write("slow.py", source + "    time.sleep(1000)\n")
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, step\nimport slow\n\n"
        "class SlowFlow(FlowSpec):\n    @step\n    def start(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    SlowFlow()\n",
    )
    definitions = flows.compile("flow.py", "--warm", "flow")
    pid_file = flows.folder / "pid"
    with _worker(flows.folder, definitions, "SlowFlow", tmp_path / "home") as worker:
        pid = int(_wait_for(lambda: pid_file.exists() and pid_file.read_text(), 120, "the flow's imports begin"))
        worker.kill()
        _wait_for(lambda: not _lives(pid), 5, "the warm process ends")


@contextlib.contextmanager
def _worker(
    folder: Path, definitions: Path, job: str, home: Path, config: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs a job."""
    home.mkdir()
    command = [BIN / "dagster", "job", "execute", "-f", definitions, "-j", job]
    worker = subprocess.Popen(
        [*command, *([] if config is None else ["-c", config])],
        cwd=folder,
        env={**os.environ, "DAGSTER_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield worker
    finally:
        worker.kill()
        worker.wait()


# different environments

VARIABLES_FLOW = """import os
from pathlib import Path
from metaflow import FlowSpec, environment, step

def parent_of(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

def children_of(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            is_child = int(stat.read_text().rpartition(")")[2].split()[1]) == pid
            found += [stat.parent.name] if is_child and b"--warm" in (stat.parent / "cmdline").read_bytes() else []
        except OSError:
            pass
    return found

def variables_of(pid):
    return Path(f"/proc/{pid}/environ").read_text().split(chr(0))

class VariablesFlow(FlowSpec):
    def record(self):
        self.pid = os.getpid()
        self.parent = parent_of(os.getppid())
        self.warm_processes = len(children_of(parent_of(self.parent)))
        self.seen = {name: value for name, value in os.environ.items() if name.startswith("OF_")}
        self.own = [item for item in variables_of("self") if item.startswith("OF_")]
        self.of_parent = [item for item in variables_of(self.parent) if item.startswith("OF_")]
        told = [f"{name}={os.environ[name]}" for name in ("DAGSTER_PIPES_CONTEXT", "METAFLOW_RUN_ID")]
        self.of_task = [item in variables_of("self") for item in told]
        self.of_task_in_parent = [item in variables_of(self.parent) for item in told]

    @step
    def start(self):
        self.record()
        self.next({branches})
BRANCHES
    @step
    def join(self, inputs):
        self.record()
        self.next(self.end)

    @step
    def end(self):
        self.record()

if __name__ == "__main__":
    VariablesFlow()
"""
BRANCH = """
    @environment(vars={"OF_NAME": "VALUE"})
    @step
    def NAME(self):
        self.record()
        self.next(self.join)
"""
BRANCH_NAMES = ("a", "b", "c", "d", "e", "f")


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> dict[str, Any]:
    """The data of the tasks of a flow with seven environments."""
    flows = Project.of(tmp_path_factory.mktemp("variables") / "project")
    branches = "".join(BRANCH.replace("NAME", name).replace("VALUE", f"secret of {name}") for name in BRANCH_NAMES)
    targets = ", ".join(f"self.{name}" for name in BRANCH_NAMES)
    flows.write("flow.py", VARIABLES_FLOW.replace("{branches}", targets).replace("BRANCHES", branches))
    definitions = flows.compile("flow.py", "--max-workers", "2")
    result = dg.execute_job(persistent(definitions), instance, raise_on_error=False)
    assert result.success
    run = flows.metaflow_run("VariablesFlow", f"dagster-{result.run_id}")
    return {step.id: _data(run, step.id) for step in run}


def test_each_environment_has_its_own_process_and_four_are_kept(variables):
    parents = {step: data.parent for step, data in variables.items()}
    assert os.getpid() not in parents.values()
    assert len({parents[name] for name in BRANCH_NAMES}) == len(BRANCH_NAMES)
    # with a second step that has just begun
    assert max(data.warm_processes for data in variables.values()) <= warm.MAX_WARM_PROCESSES + 1


def test_no_step_sees_the_variables_of_another(variables):
    for step, data in variables.items():
        expected = {f"OF_{step}": f"secret of {step}"} if step in BRANCH_NAMES else {}
        assert data.seen == expected
        assert data.own == data.of_parent == [f"{name}={value}" for name, value in expected.items()]


def test_variables_of_a_task_are_seen_in_its_process_alone(variables):
    for data in variables.values():
        assert data.of_task == [True, True]
        assert data.of_task_in_parent == [False, False]


# many processes: without a task to run, each says how it is used, and ends with exit code 2

USAGE = 2


@contextlib.contextmanager
def _warm_processes() -> Iterator[Callable[[], Any]]:
    """A function that forks a process from a warm one, or returns None."""
    processes = warm.WarmProcesses("metaflow")
    with contextlib.closing(processes), tempfile.TemporaryFile() as output:
        command = [sys.executable, "-m", "step_wrapper"]
        launch = StepLaunch(command, dict(os.environ), None, output.fileno(), output.fileno())
        yield lambda: processes.fork(launch, "local", "flow.py", warnings.append)


warnings: list[str] = []


@pytest.fixture(autouse=True)
def _no_warnings() -> None:
    warnings.clear()


def _at_once(count: int, function: Callable[[], Any]) -> list[Any]:
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_hundred_at_once_are_forked():
    with _warm_processes() as fork:

        def exit_code() -> int:
            process = fork()
            try:
                return process.wait(60)
            finally:
                process.close()

        assert Counter(_at_once(200, exit_code)) == {USAGE: 200}
    assert warnings == []


def test_socket_that_is_full_holds_nothing_up_for_long(monkeypatch):
    monkeypatch.setattr(warm, "FORK_SECONDS", 1)
    monkeypatch.setattr(warm, "_END_SECONDS", 0.1)
    with _warm_processes() as fork:
        process = fork()
        process.wait(60)
        process.close()
        (pid,) = _children()
        os.kill(pid, signal.SIGSTOP)
        started_at = time.monotonic()
        assert _at_once(300, fork) == [None] * 300
        assert time.monotonic() - started_at < 20
    assert len(warnings) == 1


def test_nothing_stays_behind_after_three_hundred():
    with _warm_processes() as fork:
        counts = []
        for number in range(301):
            process = fork()
            assert process.wait(60) == USAGE
            process.close()
            if number in (0, 300):
                (pid,) = _children()
                # the last one is reaped when the warm process has noticed that it is
                _wait_for(lambda pid=pid: _below(pid) == [], 10, "all forked processes are reaped")
                counts.append([len(os.listdir(f"/proc/{process}/fd")) for process in (pid, os.getpid())])
                # Python, Metaflow and its command line
                assert _proportional_kilobytes(pid) < 60 * 1024
    assert counts[0] == counts[1]
    assert warnings == []


def test_processes_that_still_import_are_not_ended_for_the_sake_of_others(project):
    flows: Project = project()
    flows.write("slow.py", "import time\nopen('imports', 'a').write('x')\ntime.sleep(3)\n")
    flow_file = flows.write("flow.py", "import slow\n")
    with contextlib.closing(warm.WarmProcesses("flow")) as processes, tempfile.TemporaryFile() as output:

        def fork(number: int) -> None:
            environment = {**os.environ, "OF_STEP": str(number)}
            command = [sys.executable, "-m", "step_wrapper"]
            launch = StepLaunch(command, environment, str(flows.folder), output.fileno(), output.fileno())
            process = processes.fork(launch, "local", str(flow_file), warnings.append)
            if process is not None:
                exit_codes.append(process.wait(60))
                process.close()

        exit_codes: list[int] = []
        numbers = iter(range(6))
        _at_once(6, lambda: fork(next(numbers)))
    # the others are started by themselves
    assert exit_codes == [USAGE] * warm.MAX_WARM_PROCESSES
    assert (flows.folder / "imports").read_text() == "x" * warm.MAX_WARM_PROCESSES
    assert warnings == []


def _below(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _proportional_kilobytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
