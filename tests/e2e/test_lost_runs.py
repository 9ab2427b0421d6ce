"""Runs from the shell that do not come to their end: terminated, canceled, or with their processes killed."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from ended_runs import until
from shell import Shell, kill, shell_of
from support import Project, lives

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with shell_of(Project.of(tmp_path_factory.mktemp("lost") / "project", "slow.py")) as shell:
        yield shell


def test_terminated_run_leaves_nothing(shell):
    # each command in an interpreter that has imported nothing of another one
    run_id = shell.triggered("slow.py", cold=True)
    pid = shell.pid_of_step()
    assert "RUNNING" in shell("slow.py", "status", run_id, cold=True).stdout
    assert run_id in shell("slow.py", "list-runs", "--running", cold=True).stdout
    shell("slow.py", "terminate", run_id, cold=True)
    assert not lives(pid)
    assert shell.status("slow.py", run_id) == "TERMINATED"
    again = shell("slow.py", "terminate", run_id, check=False)
    assert again.returncode == 1
    assert "TERMINATED" in again.stdout
    with shell.instance() as instance:
        messages = [entry.message for entry in instance.all_logs(run_id.removeprefix("dagster-"))]
    # the op has waited for what its step reports
    assert not any("did not receive closed message" in message for message in messages)


def test_run_that_is_canceled_from_elsewhere_ends(shell):
    run_id = shell.triggered("slow.py")
    pid = shell.pid_of_step()
    with shell.instance() as instance:
        # what the UI's Terminate asks of an instance whose launcher does not know the run
        assert not instance.run_launcher.terminate(run_id.removeprefix("dagster-"))
    shell.reaches(run_id, dg.DagsterRunStatus.CANCELED)
    until(lambda: not lives(pid), 20)


def test_run_whose_process_is_killed_has_failed(shell):
    run_id = shell.triggered("slow.py")
    pid = shell.pid_of_step()
    _, executing = shell.worker(run_id).processes
    kill(executing)
    shell.reaches(run_id, dg.DagsterRunStatus.FAILURE)
    assert "run: The process that executed the run has ended with signal 9" in shell("slow.py", "status", run_id).stdout
    until(lambda: not lives(pid), 20)


def test_run_all_of_whose_processes_are_killed_is_lost_until_it_is_terminated(shell):
    run_id = shell.triggered("slow.py")
    shell.pid_of_step()
    worker = shell.worker(run_id)
    kill(*worker.processes)
    status = shell("slow.py", "status", run_id).stdout
    assert "Status:        LOST?" in status
    assert f"The processes that ran it, {worker.numbers}, have died." in status
    assert f"metaflow_runs/{run_id.removeprefix('dagster-')}.log" in status
    assert "LOST?" in shell("slow.py", "list-runs", "--running").stdout
    assert shell.run(run_id).status == dg.DagsterRunStatus.STARTED  # to read is not to write
    assert "is FAILED" in shell("slow.py", "terminate", run_id).stdout
    assert f"run: The processes that ran it, {worker.numbers}" in shell("slow.py", "status", run_id).stdout


def test_wait_ends_when_all_processes_of_the_run_are_killed(shell):
    arguments = ("trigger", "--wait", "--run-id-file", "waited_for")
    waiting = threading.Thread(target=lambda: outputs.append(shell("slow.py", *arguments, check=False).stdout))
    outputs: list[str] = []
    waiting.start()
    shell.pid_of_step()
    kill(*shell.worker((shell.flows.folder / "waited_for").read_text()).processes)
    waiting.join(60)
    assert "is LOST?." in outputs[0]
    assert "have died" in outputs[0]


def test_run_that_dies_before_it_begins_is_lost_at_once(shell):
    run_id = shell.triggered("slow.py")
    kill(*shell.worker(run_id).processes)
    assert shell.status("slow.py", run_id) == "LOST?"
    shell("slow.py", "terminate", run_id)
    assert shell.run(run_id).status == dg.DagsterRunStatus.FAILURE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"namespace": "1"}, "another PID namespace"),
        ({"boot_id": "another"}, "has been restarted since, or is another host of the same name"),
        ({"host": "elsewhere"}, None),
    ],
)
def test_run_whose_processes_can_not_be_seen_is_left_alone_and_can_be_terminated(shell, changes, words):
    run_id = shell.triggered("slow.py")
    pid = shell.pid_of_step()
    shell.moves(run_id, **changes)
    status = shell("slow.py", "status", run_id).stdout
    assert ("LOST?" if words else "RUNNING") in status
    assert (words or "") in status
    assert shell.run(run_id).status == dg.DagsterRunStatus.STARTED
    assert "is TERMINATED" in shell("slow.py", "terminate", run_id).stdout
    until(lambda: not lives(pid), 20)
