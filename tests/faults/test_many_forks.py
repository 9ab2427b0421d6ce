"""Many processes are forked from a warm one. Without a task, each says how it is used, and ends with exit code 2."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ended_runs import until
from warm_children import children

from metaflow_pipes.runtime import warm
from metaflow_pipes.runtime.step_process import StepLaunch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support import Project

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only"),
    pytest.mark.usefixtures("all_ends"),
]

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
        (pid,) = children()
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
                (pid,) = children()
                # the last one is reaped when the warm process has noticed that it is
                until(lambda pid=pid: _below(pid) == [], 10, "all forked processes are reaped")
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
