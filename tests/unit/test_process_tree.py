"""Ending processes, also those that can't be ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from step_wrapper import processes


@pytest.fixture
def family():
    """A process with two children, one of which ignores SIGTERM; they come to their end with the test."""
    code = (
        "import signal, subprocess, sys, time\n"
        "subprocess.Popen(['sleep', '60'])\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal, time; signal.signal(15, signal.SIG_IGN); "
        "print(1, flush=True); time.sleep(60)'])\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    children = processes.descendants(process.pid)
    yield process.pid, children
    process.stdout.close()
    for pid in children:
        processes.send([pid], signal.SIGKILL)
    process.kill()
    process.wait()


def test_all_descendants_are_ended(family):
    pid, children = family
    assert len(children) == 2
    assert processes.end_all(pid, (), 0, 0.2) == (2, [])
    assert processes.descendants(pid) == []


def test_process_that_may_not_be_killed_is_given_up_and_named(family, monkeypatch):
    pid, children = family
    kill = os.kill

    def kill_own(target: int, number: int) -> None:
        if target == children[0]:
            raise PermissionError
        kill(target, number)

    monkeypatch.setattr(os, "kill", kill_own)
    started = time.monotonic()
    assert processes.end_all(pid, (), 0, 0.2) == (2, [children[0]])
    assert time.monotonic() - started < 10
    monkeypatch.undo()
