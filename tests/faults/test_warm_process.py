"""Whatever becomes of the process that steps are forked from, all steps run, and nothing of it stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from ended_runs import until
from support import Project, failure_description, lives, persistent
from warm_children import children

from metaflow_pipes.runtime import warm

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only"),
    pytest.mark.usefixtures("all_ends"),
]

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
        return {step: self.flow[step].task.data.parent for step in STEPS}

    @property
    def is_done(self) -> bool:
        results = [self.flow[step].task.data.result for step in STEPS]
        return self.result.success and self.flow.successful and results == ["done"] * len(STEPS)


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
        (pid,) = children()
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
    assert not lives(run.parents["start"])


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
        killed.extend(map(int, until(lambda: pids.exists() and pids.read_text(), 60, "the step waits").split()))
        os.kill(killed[1], signal.SIGKILL)

    killed: list[int] = []
    killer = threading.Thread(target=kill)
    killer.start()
    run = Run(plight, instance, {"plight": "waits"})
    killer.join()
    pids.unlink()
    until(lambda: not any(map(lives, killed)), 5, "all processes of the step end")
    assert killed[0] != os.getpid()
    (failed,) = [event for event in run.result.all_events if event.is_step_failure]
    assert "was ended, because its supervisor was killed by signal 9" in failure_description(failed)


@pytest.mark.parametrize(("number", "seconds"), [(signal.SIGKILL, 5), (signal.SIGTERM, 15)])
def test_ended_run_takes_warm_process_and_steps_along(plight, tmp_path, number, seconds):
    pids = plight.folder / "pids"
    config = plight.write("config.yaml", json.dumps({"ops": {"start": {"config": {"plight": "waits"}}}}))
    with _worker(plight.folder, plight.folder / "defs.py", "PlightFlow", tmp_path / "home", config) as worker:
        started = list(map(int, until(lambda: pids.exists() and pids.read_text(), 120, "the step runs").split()))
        pids.unlink()
        assert started[0] != worker.pid
        worker.send_signal(number)
        until(lambda: not any(map(lives, started)), seconds, "the warm process and the step end")


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
        pid = int(until(lambda: pid_file.exists() and pid_file.read_text(), 120, "the flow's imports begin"))
        worker.kill()
        until(lambda: not lives(pid), 5, "the warm process ends")


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
