"""Whatever becomes of the processes that clone one task after another, all tasks are cloned, or it is said why not."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, failure_description, persistent

from metaflow_pipes.names import ORIGIN_RUN_ID_TAG
from metaflow_pipes.runtime import cloners
from metaflow_pipes.runtime.warm import WarmProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from metaflow_pipes.runtime.step_process import ForkedProcess, StepLaunch

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")

FLOW = """import os
from metaflow import FlowSpec, environment, step

class ClonedFlow(FlowSpec):
    @step
    def start(self):
        self.items = list(range(6))
        self.next(self.work, foreach="items")

    @step
    def work(self):
        self.next(self.join)

    @environment(vars={"OF_STEP": "own"})
    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        assert "FAILS" not in os.environ

if __name__ == "__main__":
    ClonedFlow()
"""
ITEMS = [f"work-{number}" for number in range(6)]


class Cloned:
    """A flow with an origin of which all is done but the end step."""

    def __init__(self, flows: Project, instance: dg.DagsterInstance):
        flows.write("flow.py", FLOW)
        self.flows = flows
        self.instance = instance
        self.job = persistent(flows.compile("flow.py", "--max-workers", "2"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("FAILS", "x")
            broken = dg.execute_job(self.job, instance, raise_on_error=False)
        assert not broken.success
        self.origin = f"dagster-{broken.run_id}"

    def resume(self) -> Any:
        tags = {ORIGIN_RUN_ID_TAG: self.origin}
        return dg.execute_job(self.job, self.instance, tags=tags, raise_on_error=False)

    def ran(self, result: Any) -> set[str]:
        """The ids of the tasks that are no clones; all others are, by one event each."""
        run = self.flows.metaflow_run("ClonedFlow", f"dagster-{result.run_id}")
        tasks = {task.id: task for step in run for task in step}
        assert set(tasks) == {"start", *ITEMS, "join", "end"}
        assert all(task.successful for task in tasks.values())
        made = [(event.step_key, event.asset_key) for event in result.all_events if event.is_step_materialization]
        assert len(made) == len(set(made))
        return {name for name, task in tasks.items() if "origin-task-id" not in task.metadata_dict}


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloned]:
    with dg.instance_for_test(temp_dir=str(tmp_path_factory.mktemp("dagster"))) as instance:
        yield Cloned(Project.of(tmp_path_factory.mktemp("cloned") / "project"), instance)


@pytest.fixture
def on_fork(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[ForkedProcess], object]], list[list[str]]]:
    """Does something with each process that is forked to clone tasks; lists the arguments of all that are forked."""
    forked: list[list[str]] = []
    fork = WarmProcess.fork

    def watching(do: Callable[[ForkedProcess], object]) -> list[list[str]]:
        def fork_and_do(warm_process: WarmProcess, launch: StepLaunch) -> ForkedProcess:
            process = fork(warm_process, launch)
            forked.append(list(launch.command[3:]))
            if forked[-1] == ["--clones"]:
                do(process)
            return process

        monkeypatch.setattr(WarmProcess, "fork", fork_and_do)
        return forked

    return watching


@pytest.fixture
def file(cloned: Cloned) -> Iterator[Path]:
    """The file that says what the origin's join has stored, which is there again after the test."""
    (file,) = (cloned.flows.folder / ".metaflow" / "ClonedFlow" / cloned.origin / "join").glob("*/0.data.json")
    text = file.read_text()
    yield file
    file.unlink()
    file.write_text(text)


def _make_unreadable(file: Path) -> None:
    """Have whoever reads a file wait for ever."""
    if file.is_file():
        file.unlink()
        os.mkfifo(file)


def _cloning(variable: bytes = b"") -> list[int]:
    """The processes that clone tasks here, and have a variable."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_one = b"\0step_wrapper\0--clones\0" in (folder / "cmdline").read_bytes()
            if is_one and variable in (folder / "environ").read_bytes():
                found.append(int(folder.name))
    return found


def test_one_process_clones_several_tasks_and_ends_with_the_run(cloned, on_fork):
    pids = []
    forked = on_fork(lambda process: pids.append(process.pid))
    result = cloned.resume()
    assert result.success
    assert cloned.ran(result) == {"end"}
    # one for each of two workers, and one for the environment of the join
    assert 2 <= forked.count(["--clones"]) <= 3
    assert len(forked) == len(pids) + 2
    assert not set(_cloning()) & set(pids)


def test_task_whose_cloning_process_is_killed_is_cloned_by_its_own(cloned, on_fork):
    forked = on_fork(lambda process: os.kill(process.pid, signal.SIGKILL))
    result = cloned.resume()
    assert result.success
    assert cloned.ran(result) == {"end"}
    # all but the start step, which begins the run, may be clones
    assert forked.count(["--clones"]) == len(ITEMS) + 2
    assert len(forked) == 2 * (len(ITEMS) + 2) + 1


def test_task_that_can_not_be_read_fails_as_in_a_process_of_its_own(cloned, on_fork, file, monkeypatch):
    pids = []

    def break_file(process: ForkedProcess) -> None:
        pids.append(process.pid)
        # not before the start step has read the whole origin
        _make_unreadable(file)

    on_fork(break_file)
    monkeypatch.setattr(cloners, "CLONE_SECONDS", 1)
    monkeypatch.setenv("METAFLOW_PIPES_CLONE_SECONDS", "2")
    result = cloned.resume()
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert failed.step_key == "join"
    assert "what it resumes could not be read and cloned" in failure_description(failed)
    assert not set(_cloning()) & set(pids)


# Runs `dagster` as a worker whose first process that clones breaks a file.
WORKER = """import os, sys
from metaflow_pipes.runtime.warm import WarmProcess
fork = WarmProcess.fork

def fork_and_break(warm_process, launch):
    if launch.command[3] == "--clones" and os.path.isfile(os.environ["OF_TEST"]):
        os.unlink(os.environ["OF_TEST"])
        os.mkfifo(os.environ["OF_TEST"])
    return fork(warm_process, launch)

WarmProcess.fork = fork_and_break
from dagster.__main__ import main
main()
"""


def test_run_that_is_killed_leaves_no_cloning_process_behind(cloned, file, tmp_path):
    tags = json.dumps({ORIGIN_RUN_ID_TAG: cloned.origin})
    (tmp_path / "home").mkdir()
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, "job", "execute", "-f", "defs.py", "-j", "ClonedFlow", "--tags", tags],
        cwd=cloned.flows.folder,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path / "home"), "OF_TEST": str(file)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    mark = f"OF_TEST={file}".encode()
    try:
        # that of the join, which waits for its file
        _wait_for(lambda: set(_cloning(b"OF_STEP=own")) & set(_cloning(mark)), 120)
    finally:
        worker.kill()
        worker.wait()
    _wait_for(lambda: not _cloning(mark), 5)


def _wait_for(condition: Callable[[], Any], seconds: float) -> Any:
    give_up_at = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    return value
