"""Runs that are killed or terminated within a foreach, and go on: every item runs, and the join has them all."""

from __future__ import annotations

import os
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, failure_description, persistent, warm_python

if TYPE_CHECKING:
    from collections.abc import Iterator

EXECUTE = Path(__file__).parent / "execute_job.py"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").touch()
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def run_until_killed(
    flows: Project, instance: dg.DagsterInstance, parent: str | None = None, parameter: str = "ends", value: str = ""
) -> str:
    """Run a job, or from failure what is left of a run, in a process that a step kills; the Dagster run's id."""
    arguments = [str(flows.folder), *([] if parent is None else [parent])]
    environment = {
        **os.environ,
        "DAGSTER_HOME": instance.root_directory,
        "PARAMETER": parameter,
        "VALUE": value,
    }
    ended = warm_python.run([str(EXECUTE), *arguments], flows.folder, environment)
    assert ended is not None
    assert ended.returncode == -9, ended.stdout
    run = instance.get_runs(limit=1)[0]
    assert run.run_id != parent
    # as Dagster's run monitoring does
    instance.report_run_failed(run, "The run worker was killed.")
    return run.run_id


def reexecute(flows: Project, instance: dg.DagsterInstance, parent: str, **options: Any) -> dg.JobExecutionResult:
    """Run from failure what is left of a run."""
    reexecution = dg.ReexecutionOptions.from_failure(parent, instance)
    job = persistent(flows.folder / "defs.py")
    return dg.execute_job(job, instance, reexecution_options=reexecution, **options)


def assert_complete(flows: Project, run_id: str, again: list[int]) -> None:
    """All items of `items.py` are done; only some, which were running, have run twice."""
    notes = [int(note) for note in (flows.folder / "notes").read_text().split()]
    assert sorted(set(notes)) == list(range(8))
    assert {note for note in notes if notes.count(note) > 1} <= set(again)
    run = flows.metaflow_run("ItemsFlow", f"dagster-{run_id}")
    assert run.successful
    assert run["join"].task.data.doubles == [2 * number for number in range(8)]
    # one that was done in the moment in which the run was killed is done twice: Dagster did not get to know
    done = [task.data.number for task in run["work"] if task.successful]
    assert sorted(set(done)) == list(range(8))
    assert {number for number in done if done.count(number) > 1} <= set(again)
    assert sorted({task.data.twice for task in run["double"] if task.successful}) == [2 * n for n in range(8)]


@pytest.mark.parametrize("executor", ["threads", "multiprocess"])
def test_reexecution_of_a_run_that_was_killed_runs_the_items_that_had_not_begun(project, instance, executor):
    flows: Project = project("items.py")
    flows.compile("items.py", "--executor", executor, "--max-workers", "2")
    first = run_until_killed(flows, instance, value="4")
    flows.write("ready", "4")
    second = reexecute(flows, instance, first)
    assert second.success
    assert_complete(flows, first, again=[2, 3, 4, 5])
    messages = [entry.message for entry in instance.all_logs(second.run_id, dg.DagsterEventType.ENGINE_EVENT)]
    assert any("work[7]" in message and "had not been done" in message for message in messages)


def test_reexecution_of_a_reexecution_that_was_killed_too(project, instance):
    flows: Project = project("items.py")
    flows.compile("items.py", "--max-workers", "2")
    first = run_until_killed(flows, instance, value="1,6")
    flows.write("ready", "1")
    second = run_until_killed(flows, instance, parent=first)
    flows.write("ready", "6")
    third = reexecute(flows, instance, second, tags={"dagster/is_resume_retry": "true"})
    assert third.success
    assert_complete(flows, first, again=[0, 1, 2, 4, 5, 6, 7])


def test_reexecution_of_a_run_that_was_terminated(project, instance):
    flows: Project = project("items.py")
    flows.compile("items.py", "--max-workers", "2")
    home = instance.root_directory
    options = ["--ends", "2,3", "--run-id-file", "run_id", "--definitions-file", "defs.py"]
    flows.metaflow("items.py", "dagster", "trigger", *options, DAGSTER_HOME=home)
    give_up_at = time.monotonic() + 120
    while not (flows.folder / "waits").exists():
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    run_id = (flows.folder / "run_id").read_text()
    flows.metaflow("items.py", "dagster", "terminate", run_id, DAGSTER_HOME=home)
    (run,) = instance.get_runs()
    assert run.status == dg.DagsterRunStatus.CANCELED
    flows.write("ready", "3")
    again = reexecute(flows, instance, run.run_id)
    assert again.success
    assert_complete(flows, run.run_id, again=[0, 1, 2, 3])


@pytest.mark.parametrize("breaks", ["outer-0", "inner-0-1", "odd-0-1", "inner_join-0"])
def test_reexecution_of_a_run_that_was_killed_within_foreaches_and_switches(project, instance, breaks):
    flows: Project = project("fragile.py")
    source = (flows.folder / "fragile.py").read_text()
    kill = 'import os; os.kill(int(Path("worker").read_text()), 9); os.kill(os.getpid(), 9)'
    flows.write("fragile.py", source.replace('raise ValueError(f"{name} breaks")', kill))
    flows.compile("fragile.py", "--max-workers", "1")
    first = run_until_killed(flows, instance, parameter="breaks", value=breaks)
    before = (flows.folder / "notes").read_text().split()
    flows.write("ready", "")
    second = reexecute(flows, instance, first)
    assert second.success
    after = (flows.folder / "notes").read_text().split()[len(before) :]
    assert set(before) & set(after) == {breaks}
    run = flows.metaflow_run("FragileFlow", f"dagster-{first}")
    assert run.successful
    assert (run.data.all_values, run.data.turns) == ([[0, 1], [10, 11]], 3)


def test_executor_that_leaves_items_out_fails_the_join_with_the_command_that_goes_on(project, instance):
    flows: Project = project("items.py")
    flows.compile("items.py", "--executor", "in_process")
    first = run_until_killed(flows, instance, value="2")
    flows.write("ready", "2")
    second = reexecute(flows, instance, first)
    assert not second.success
    (failure,) = [event for event in second.all_events if event.is_step_failure]
    assert failure.step_key == "join"
    description = failure_description(failure)
    assert re.search(r"expected 8 splits but only \d", description)
    assert "ended before these steps were done: " in description
    assert "double[7]" in description
    found = re.search(r"python items\.py dagster resume .*", description)
    assert found is not None
    command = shlex.split(found[0])[1:]
    flows.metaflow(*command, "--wait", "--run-id-file", "run_id", DAGSTER_HOME=instance.root_directory)
    assert_complete(flows, (flows.folder / "run_id").read_text().removeprefix("dagster-"), again=[2])
