"""`@exit_hook`: the functions run once after each run, however it ends and whoever sees that."""

from __future__ import annotations

import os
import re
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from ended_runs import DONE, Ticks, engine_events, hooks_of, instance_in, notes, run_job, until
from support import Project, persistent

from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.names import WORKER_TAG
from metaflow_pipes.run_options import RunOptions
from metaflow_pipes.runs.local import LocalInstance
from metaflow_pipes.runtime.automation import background, ended_runs
from metaflow_pipes.runtime.automation.follow_ups import FollowUp, Outcome, follow_up_on

if TYPE_CHECKING:
    from collections.abc import Iterator

SENSOR = "HookedFlow_exit_hooks"
ON_ERROR = ["break_down", "lament", "mourn"]


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The flow, compiled once; its tests tell their runs apart."""
    project = Project.of(tmp_path_factory.mktemp("hooks") / "project", "hooked.py", "hooked_helpers.py")
    project.compile("hooked.py", "--step-env", "GREETING=hello", "--namespace", "user:all")
    return project


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    yield from instance_in(tmp_path_factory.mktemp("instance") / "home")


def trigger(flows: Project, instance: dg.DagsterInstance, limit: int | None = None, **parameters: str) -> str:
    """The Dagster run of a `trigger`, which needs no process of its own here."""
    tags = RunOptions(workflow_timeout_seconds=limit).dagster_tags(())
    config = {"ops": {"start": {"config": parameters}}}
    service = LocalInstance(instance.root_directory)
    return service.launch(read_deployment(flows.folder / "defs.py"), config, tags, lambda _: None).dagster_run_id


def waiting_pid(flows: Project, instance: dg.DagsterInstance, limit: int | None = None) -> tuple[str, int]:
    """A new run whose last step waits, and the process of that step."""
    (flows.folder / "pid").unlink(missing_ok=True)
    run_id = trigger(flows, instance, limit, ending="waiting")
    return run_id, int(until(lambda: (flows.folder / "pid").exists() and (flows.folder / "pid").read_text()))


def worker_pids(instance: dg.DagsterInstance, run_id: str) -> list[int]:
    """The process that watches over a run of the shell, and the one that executes it."""
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return [int(pid) for pid in re.findall(r"(\d+)\.\d+", run.tags[WORKER_TAG].split("/")[3])]


def terminate(instance: dg.DagsterInstance, run_id: str) -> None:
    service = LocalInstance(instance.root_directory)
    run = service.run(run_id)
    assert run is not None
    service.terminate(run)


def test_hooks_of_a_run_of_the_shell_that_succeeds_run_in_the_flows_environment(flows, instance):
    run_id = trigger(flows, instance)
    assert hooks_of(flows, instance, run_id, "SUCCESS") == ["celebrate"]
    assert f"celebrate HookedFlow/dagster-{run_id} 42 user:all" in notes(flows)
    # a hook without an argument `run`
    assert f"count {flows.folder} hello dagster" in notes(flows)
    events = engine_events(instance, run_id)
    assert re.search(rf"Exit hook celebrate finished after .* printed:\nhooray for dagster-{run_id}", events)


def test_hooks_of_a_run_of_the_shell_that_fails_run_all_and_one_that_fails_changes_nothing(flows, instance):
    run_id = trigger(flows, instance, ending="failure")
    assert hooks_of(flows, instance, run_id, "FAILURE") == ON_ERROR
    events = engine_events(instance, run_id)
    assert "Exit hook break_down failed with exit code 1." in events
    assert "ValueError: this hook fails on purpose" in events


def test_hooks_run_after_the_process_of_a_run_was_killed(flows, instance):
    run_id, _ = waiting_pid(flows, instance)
    os.kill(worker_pids(instance, run_id)[1], signal.SIGKILL)
    assert hooks_of(flows, instance, run_id, "FAILURE") == ON_ERROR


def test_hooks_run_after_a_run_was_terminated(flows, instance):
    run_id, _ = waiting_pid(flows, instance)
    terminate(instance, run_id)
    assert hooks_of(flows, instance, run_id, "CANCELED") == ON_ERROR


def test_hooks_run_after_a_run_has_exceeded_its_time_limit(flows, instance):
    run_id, _ = waiting_pid(flows, instance, limit=4)
    assert hooks_of(flows, instance, run_id, "FAILURE") == ON_ERROR


def test_hooks_run_after_all_processes_of_a_run_were_killed_and_terminate_has_said_so(flows, instance):
    run_id, _ = waiting_pid(flows, instance)
    for pid in worker_pids(instance, run_id):
        os.kill(pid, signal.SIGKILL)
    terminate(instance, run_id)
    assert hooks_of(flows, instance, run_id, "FAILURE") == ON_ERROR


def test_sensor_runs_hooks_once_for_runs_that_end_after_its_first_tick(flows, instance):
    earlier = run_job(flows, instance)
    ticks = Ticks.of(instance, flows.folder / "defs.py", SENSOR)
    assert "from now on" in ticks.tick()
    success, failure = run_job(flows, instance), run_job(flows, instance, ending="failure")
    said = ticks.tick()
    while not all(f"Run {run_id}: Exit hook" in said for run_id in (success, failure)):
        said += ticks.tick()
    assert f"Run {failure}: Exit hook break_down failed with exit code 1." in said
    for _ in range(2):
        assert ticks.tick() == "No run of HookedFlow has ended."
    assert hooks_of(flows, instance, success, "SUCCESS") == ["celebrate"]
    assert hooks_of(flows, instance, failure, "FAILURE") == ON_ERROR
    assert not any(earlier in line for line in notes(flows))


def test_reexecuted_run_has_hooks_of_its_own(flows, instance):
    ticks = Ticks.of(instance, flows.folder / "defs.py", SENSOR)
    ticks.tick()
    first = run_job(flows, instance, ending="failure")
    options = dg.ReexecutionOptions.from_failure(first, instance)
    job = persistent(flows.folder / "defs.py")
    second = dg.execute_job(job, instance, reexecution_options=options, raise_on_error=False).run_id
    for run_id in (first, second):
        until(lambda run_id=run_id: ticks.tick() and DONE in engine_events(instance, run_id))
    # it goes on with the same Metaflow run
    assert hooks_of(flows, instance, first, "FAILURE") == sorted(2 * ON_ERROR)


def test_hooks_run_once_if_the_watching_process_and_sensors_see_the_end_at_once(flows, instance, capfd):
    run_id = run_job(flows, instance, tags=RunOptions(namespace="user:own").dagster_tags(()))
    hooks = Ticks.of(instance, flows.folder / "defs.py", SENSOR).sensor.follow_up
    processes = [background.start(instance, run_id, hooks) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert hooks_of(flows, instance, run_id, "SUCCESS") == ["celebrate"]
    assert f"celebrate HookedFlow/dagster-{run_id} 42 user:own" in notes(flows)
    assert "Warning" not in capfd.readouterr().err


def test_sensor_leaves_a_run_of_the_shell_to_its_watching_process_for_a_while(flows, instance, monkeypatch):
    ticks = Ticks.of(instance, flows.folder / "defs.py", SENSOR)
    ticks.tick()
    run_id, _ = waiting_pid(flows, instance)
    for pid in worker_pids(instance, run_id):
        os.kill(pid, signal.SIGKILL)
    run = instance.get_run_by_id(run_id)
    assert run is not None
    instance.report_run_failed(run)
    assert ticks.tick() == "1 followed up on."
    assert DONE not in engine_events(instance, run_id)
    monkeypatch.setattr(ended_runs, "WATCHER_SECONDS", 0)
    ticks.until(f"Run {run_id}: Exit hook mourn finished")
    assert hooks_of(flows, instance, run_id, "FAILURE") == ON_ERROR


def test_hook_that_hangs_is_ended_and_the_next_one_runs(project, instance):
    slow: Project = project("slow_hooks.py")
    slow.compile("slow_hooks.py")
    ticks = Ticks.of(instance, slow.folder / "defs.py", "SlowHooksFlow_exit_hooks")
    ticks.tick()
    run_id = run_job(slow, instance)
    assert "was ended, because it took longer than 2 s" in ticks.until("Exit hook hang")
    assert "hangs now" in engine_events(instance, run_id)
    assert notes(slow) == [f"follow SlowHooksFlow/dagster-{run_id}"]


def test_hooks_whose_process_was_killed_are_not_run_again_and_the_tick_says_so(project, instance, monkeypatch):
    slow: Project = project("slow_hooks.py")
    slow.compile("slow_hooks.py")
    ticks = Ticks.of(instance, slow.folder / "defs.py", "SlowHooksFlow_exit_hooks")
    ticks.tick()
    run_id = run_job(slow, instance)
    process = background.start(instance, run_id, ticks.sensor.follow_up)
    hook = int(until(lambda: (slow.folder / "hook_pid").exists() and (slow.folder / "hook_pid").read_text()))
    process.kill()
    process.wait()
    os.kill(hook, signal.SIGKILL)
    assert ticks.tick() == "1 followed up on."
    monkeypatch.setattr(ended_runs, "START_SECONDS", -100)
    assert "has not come to its end" in ticks.tick()
    assert ticks.tick() == "No run of SlowHooksFlow has ended."
    assert "It is not done again." in engine_events(instance, run_id)
    assert notes(slow) == []


def test_create_says_which_hooks_run(flows):
    said = flows.metaflow("hooked.py", "dagster", "create", "other.py", "--paused", "--name", "Other").stdout
    assert (
        "Other_exit_hooks: runs celebrate, count after a success and mourn, hooked_helpers.lament, break_down after a "
        "failure."
    ) in said
    assert "paused=True" in Path(flows.folder, "other.py").read_text()


@pytest.mark.parametrize(
    ("decorator", "problem"),
    [
        ("on_error=['forgotten']", "has the hook 'forgotten', but the flow file has no function of that name"),
        ("on_error=[lambda: None]", "has the hook <lambda>, which another process can't find"),
        ("on_success='mourn'", "has on_success='mourn', but needs a list"),
        ("on_error=['mourn'], options={'timeout': 'long'}", "a hook's time limit is a whole number of seconds"),
    ],
)
def test_hook_that_could_never_run_is_refused(project, decorator, problem):
    flows: Project = project("hooked.py", "hooked_helpers.py")
    source = (flows.folder / "hooked.py").read_text()
    flows.write("hooked.py", source.replace('on_success=[celebrate, "count"], on_error=[break_down]', decorator))
    assert problem in flows.refuses("hooked.py", "create", "defs.py")


def test_import_path_that_is_missing_here_is_a_warning(project):
    flows: Project = project("hooked.py")
    said = flows.metaflow("hooked.py", "dagster", "create", "defs.py").stdout
    assert "The hook hooked_helpers.lament of @exit_hook of flow HookedFlow can't be imported here" in said


def test_sensor_drops_a_success_that_has_become_a_failure_without_hooks(project, instance):
    slow: Project = project("slow_hooks.py")
    slow.compile("slow_hooks.py")
    ticks = Ticks.of(instance, slow.folder / "defs.py", "SlowHooksFlow_exit_hooks")
    ticks.tick()
    run = instance.get_run_by_id(run_job(slow, instance))
    assert run is not None
    instance.report_run_failed(run, "The job's executor has left steps out.")
    assert ticks.tick() == "No run of SlowHooksFlow has ended."
    assert notes(slow) == []


def test_of_several_that_look_at_the_same_moment_one_follows_up(flows, instance):
    run_id = run_job(flows, instance)
    acted = []
    together = threading.Barrier(6)

    @dataclass(frozen=True)
    class Noted(FollowUp):
        def is_due(self, status):
            # asked just before the log is looked at for claims
            together.wait(60)
            return True

        def limit_seconds(self, status):
            return 1

        def act(self, instance, run):
            acted.append(run.run_id)
            yield Outcome("noted")

    follow_up = Noted("noted", "HookedFlow", "end")
    threads = [threading.Thread(target=follow_up_on, args=(instance, run_id, follow_up)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert acted == [run_id]
