"""Runs behind a real `dagster dev`: the same commands and the same Python API, over GraphQL; and what its daemon does.

All share one, with all flows: it takes longer to start than most of what it is asked for.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster_dev import DagsterDev, dagster_dev, definitions_of, wait_until
from ended_runs import hooks_of
from metaflow import DeployedFlow
from support import FLOWS

from metaflow_pipes import DagsterEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from metaflow import Run
    from support import Project

DOCS = Path(__file__).parents[2] / "docs" / "automation.md"

FLOW = "FlakyFlow"
REEXECUTE = """
    mutation Reexecute($params: ReexecutionParams!) {
        launchRunReexecution(reexecutionParams: $params) {
            ... on LaunchRunSuccess { run { runId } }
            ... on Error { message }
        }
    }
"""


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DagsterDev]:
    flows = {
        FLOW: FLOWS / "flaky.py",
        "ForeachFlow": FLOWS / "foreach.py",
        "SlowFlow": FLOWS / "slow.py",
        "PartitionedFlow": FLOWS / "partitioned.py",
        "ScheduledFlow": FLOWS / "scheduled.py",
        "HookedFlow": FLOWS / "hooked.py",
        "WaitingFlow": FLOWS / "waiting.py",
    }
    options = {
        "PartitionedFlow": ["--partition-by", "date=daily:2026-01-01"],
        "ScheduledFlow": ["--schedule-param", "date=x"],
    }
    folder = tmp_path_factory.mktemp("webserver")
    executor = ("--executor", "in_process")
    alone = (FLOW, "ScheduledFlow")
    with dagster_dev(folder, flows, *executor, of_flows=options, more=_helpers, alone=alone) as dev:
        yield dev


def _helpers(project: Project) -> list[str]:
    """Copy what HookedFlow imports, which is no definitions file."""
    shutil.copy(FLOWS / "hooked_helpers.py", project.folder)
    return []


@pytest.fixture
def ready(dev: DagsterDev) -> Iterator[Any]:
    """The file with which FlakyFlow succeeds."""
    file = dev.project.folder / "ready"
    yield file
    file.unlink(missing_ok=True)


def command(
    dev: DagsterDev, *arguments: str, flow: str = "flaky.py", **options: Any
) -> subprocess.CompletedProcess[str]:
    return dev.project.metaflow(flow, "--quiet", "dagster", *arguments, DAGSTER_WEBSERVER_URL=dev.url, **options)


def triggered(dev: DagsterDev, *arguments: str) -> str:
    """The Metaflow run id of a new run."""
    command(dev, "trigger", "--run-id-file", "run_id", *arguments)
    return (dev.project.folder / "run_id").read_text()


@pytest.fixture(scope="module")
def succeeded(dev: DagsterDev) -> tuple[str, str]:
    """The Metaflow run id of a run that a command has triggered and waited for, and what that has said."""
    (dev.project.folder / "ready").touch()
    finished = command(dev, "trigger", "--number", "5", "--wait", "--run-id-file", "run_id")
    (dev.project.folder / "ready").unlink()
    return (dev.project.folder / "run_id").read_text(), finished.stdout


def test_run_is_triggered_shown_and_listed(dev, succeeded):
    run_id, said = succeeded
    assert f"{dev.url}/runs/{run_id.removeprefix('dagster-')}" in said
    assert "start: done" in said
    assert dev.project.metaflow_run(FLOW, run_id).data.result == 11
    status = command(dev, "status", run_id[:16]).stdout
    assert "SUCCEEDED" in status
    assert "✓ middle" in status
    assert run_id in command(dev, "list-runs", "--successful").stdout
    assert run_id not in command(dev, "list-runs", "--failed", "--running").stdout


def test_partition_is_triggered(dev):
    arguments = ("--wait", "--run-id-file", "run_id")
    command(dev, "trigger", "--partition", "2026-01-05", *arguments, flow="partitioned.py")
    run = dev.project.metaflow_run("PartitionedFlow", (dev.project.folder / "run_id").read_text())
    assert run["start"].task.data.seen[0] == "2026-01-05"
    assert "2026-01-05" in command(dev, "list-runs", flow="partitioned.py").stdout
    for arguments, flow, reason in (
        (("--partition", "2020-01-05"), "partitioned.py", "there is no partition '2020-01-05'. There are"),
        (("--partition", "2026-01-05...2026-01-06"), "partitioned.py", "names several partitions"),
        (("--partition", "2026-01-05"), "flaky.py", "has no partitions"),
    ):
        refused = command(dev, "trigger", *arguments, flow=flow, check=False)
        assert reason in " ".join(refused.stdout.split())


def test_failed_run_is_resumed(dev, ready):
    finished = command(dev, "trigger", "--number", "5", "--wait", "--run-id-file", "run_id", check=False)
    assert finished.returncode == 1
    assert "ValueError: not ready" in finished.stdout
    origin = (dev.project.folder / "run_id").read_text()
    ready.touch()
    arguments = ("--origin-run-id", origin, "--wait", "--run-id-file", "run_id")
    # the environment's defaults are for new runs
    finished = command(dev, "resume", *arguments, METAFLOW_RUN_NUMBER="9")
    assert "start: done (cloned" in finished.stdout
    run = dev.project.metaflow_run(FLOW, (dev.project.folder / "run_id").read_text())
    assert run.data.result == 11
    assert run["start"].task.metadata_dict["origin-run-id"] == origin


def test_items_of_a_foreach_are_counted(dev):
    finished = command(dev, "trigger", "--wait", flow="foreach.py")
    assert "items, " in finished.stdout


def test_run_is_terminated(dev):
    command(dev, "trigger", "--run-id-file", "run_id", flow="slow.py")
    run_id = (dev.project.folder / "run_id").read_text()
    wait_until((dev.project.folder / "pid").exists, "the step to wait")
    assert "RUNNING" in command(dev, "status", run_id, flow="slow.py").stdout
    assert "TERMINATED" in command(dev, "terminate", run_id, flow="slow.py").stdout
    assert "TERMINATED" in command(dev, "status", run_id, flow="slow.py").stdout


def test_run_of_a_background_process_on_the_same_instance_is_terminated(dev):
    (dev.project.folder / "pid").unlink(missing_ok=True)
    local = {"DAGSTER_HOME": str(dev.project.folder.parent / "dagster_home")}
    dev.project.metaflow("slow.py", "dagster", "trigger", "--run-id-file", "run_id", **local)
    run_id = (dev.project.folder / "run_id").read_text()
    wait_until((dev.project.folder / "pid").exists, "the step to wait")
    assert "TERMINATED" in command(dev, "terminate", run_id, flow="slow.py").stdout


def test_run_that_fails_without_a_step_says_why(dev):
    definitions = (dev.project.folder / "flakyflow_dagster.py").read_text()
    broken = f"{definitions}\nimport sys\nassert 'execute_run' not in sys.argv, 'a bad day'\n"
    local = {"DAGSTER_HOME": str(dev.project.folder.parent / "dagster_home")}
    dev.project.write("broken.py", broken)
    arguments = ("--definitions-file", "broken.py", "--run-id-file", "run_id", "--wait")
    dev.project.metaflow("flaky.py", "dagster", "trigger", *arguments, check=False, **local)
    status = command(dev, "status", (dev.project.folder / "run_id").read_text()).stdout
    assert "run: " in status
    assert "AssertionError: a bad day" in status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trigger", "--number", "x"], ["number", "'x'"]),
        (["trigger", "--definitions-file", "other.py"], ["OtherJob", "reloaded"]),
        (["status", "dagster-nope"], ["dagster-nope", FLOW]),
    ],
)
def test_mistake_is_one_clear_message(dev, arguments, words):
    dev.project.compile("flaky.py", "--name", "OtherJob", to="other.py")
    finished = command(dev, *arguments, check=False)
    assert finished.returncode == 1
    assert "Traceback" not in finished.stdout
    assert all(word in finished.stdout for word in words), finished.stdout


def test_deployer_speaks_to_the_webserver(dev, ready, monkeypatch):
    ready.touch()
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", dev.url)
    definitions = dev.project.folder / "flakyflow_dagster.py"
    run: Any = DeployedFlow.from_deployment(str(definitions), impl="dagster").trigger(number=2)
    assert run.dagster_url == f"{dev.url}/runs/{run.dagster_run_id}"
    run.wait_for_completion(check_interval=0.2, timeout=120)
    assert run.status == "SUCCEEDED"
    assert run.run.data.result == 5


def test_runs_are_the_same_in_metaflow_wherever_they_are_launched(dev, ready, succeeded, tmp_path):
    ready.touch()
    launched = dev.launch(FLOW, number=3)
    dev.wait_for(launched, "SUCCESS")
    from_ui = dev.project.metaflow_run(FLOW, f"dagster-{launched}")
    from_graphql = dev.project.metaflow_run(FLOW, succeeded[0])
    dev.project.metaflow(
        *("flaky.py", "dagster", "trigger", "--number", "3", "--wait", "--run-id-file", "run_id"),
        *("--definitions-file", "flakyflow_dagster.py"),
        DAGSTER_HOME=str(tmp_path),
    )
    from_shell = dev.project.metaflow_run(FLOW, (dev.project.folder / "run_id").read_text())
    assert _shape(from_ui) == _shape(from_graphql) == _shape(from_shell)


def test_reexecution_from_failure_goes_on_and_of_all_steps_begins_anew(dev, ready):
    failed = dev.launch(FLOW, number=4)
    again = _gone_on(dev, failed, ready)
    anew = _reexecuted(dev, failed, "ALL_STEPS", until=None)
    # also while it waits in the queue
    assert f"dagster-{anew}" in command(dev, "status", anew).stdout
    assert again in command(dev, "status", f"dagster-{failed}").stdout
    dev.wait_for(anew, "SUCCESS")
    assert dev.project.metaflow_run(FLOW, f"dagster-{anew}").data.result == 9


def test_run_of_the_shell_goes_on_in_the_ui(dev, ready):
    _gone_on(dev, _launched_by_the_shell(dev), ready)


def _gone_on(dev: DagsterDev, failed: str, ready: Path) -> str:
    """The re-execution from failure of a run of FlakyFlow with the number 4."""
    dev.wait_for(failed, "FAILURE")
    ready.touch()
    again = _reexecuted(dev, failed, "FROM_FAILURE")
    run = dev.project.metaflow_run(FLOW, f"dagster-{failed}")
    assert run.data.result == 9
    assert [len(list(run[step])) for step in ("start", "middle", "end")] == [1, 2, 1]
    # the Metaflow run is what its latest Dagster run is
    shown = command(dev, "status", f"dagster-{failed}").stdout
    assert "SUCCEEDED" in shown
    assert again in shown
    return again


def _launched_by_the_shell(dev: DagsterDev) -> str:
    """The Dagster run id of a run in the background, on the instance that `dagster dev` shows."""
    definitions = dev.project.folder / definitions_of(FLOW)
    arguments = ("--number", "4", "--definitions-file", str(definitions), "--run-id-file", "run_id")
    dev.project.metaflow("flaky.py", "dagster", "trigger", *arguments, DAGSTER_HOME=str(dev.home))
    return (dev.project.folder / "run_id").read_text().removeprefix("dagster-")


def _reexecuted(dev: DagsterDev, run_id: str, strategy: str, until: str | None = "SUCCESS") -> str:
    params = {"parentRunId": run_id, "strategy": strategy}
    launched = dev.graphql(REEXECUTE, params=params)["launchRunReexecution"]["run"]["runId"]
    if until is not None:
        dev.wait_for(launched, until)
    return launched


STATUS = """
    query Status($selector: ScheduleSelector!) {
        scheduleOrError(scheduleSelector: $selector) { ... on Schedule { scheduleState { status } } }
    }
"""


@pytest.mark.parametrize("where", ["instance", "webserver"])
def test_schedule_is_stopped_and_started(dev, where):
    selector = {
        "repositoryName": "__repository__",
        "repositoryLocationName": definitions_of("ScheduledFlow"),
        "scheduleName": "ScheduledFlow_schedule",
    }

    def status() -> str:
        return dev.graphql(STATUS, selector=selector)["scheduleOrError"]["scheduleState"]["status"]

    def switched(name: str, *, is_again: bool) -> str:
        url = ("--url", dev.url) if where == "webserver" else ()
        arguments = ("scheduled.py", "dagster", name, "--definitions-file", definitions_of("ScheduledFlow"), *url)
        # where there is no webserver to ask, in an interpreter of its own, as a user's command
        return dev.project.metaflow(*arguments, cold=not (url or is_again), DAGSTER_HOME=str(dev.home)).stdout

    assert status() == "RUNNING"
    for is_again in (False, True):
        assert "ScheduledFlow_schedule is stopped on " in switched("suspend", is_again=is_again)
        assert status() == "STOPPED"
    for is_again in (False, True):
        assert "ScheduledFlow_schedule is running on " in switched("unsuspend", is_again=is_again)
        assert status() == "RUNNING"


def test_flow_that_nothing_starts_is_not_suspended(dev):
    shown = command(dev, "suspend", check=False)
    assert shown.returncode == 1
    assert "has no schedule and no sensor" in shown.stdout


def test_daemon_runs_the_hooks_of_a_run_whose_process_was_killed(dev):
    (dev.project.folder / "pid").unlink(missing_ok=True)
    with dg.DagsterInstance.from_config(str(dev.home)) as own:

        def sensor() -> Any:
            states = [state for state in own.all_instigator_state() if state.instigator_name == "HookedFlow_exit_hooks"]
            return states[0] if states and states[0].instigator_data.cursor else None

        # the first tick of the sensor: runs that end from then on are followed up on
        state = wait_until(sensor, "the first tick of the sensor")
        run_id = dev.launch("HookedFlow", ending="waiting")
        wait_until((dev.project.folder / "pid").exists, "the step to wait")
        worker = next(
            entry.get_dagster_event().event_specific_data.metadata["pid"].value
            for entry in own.all_logs(run_id, dg.DagsterEventType.ENGINE_EVENT)
            if "pid" in entry.get_dagster_event().event_specific_data.metadata
        )
        os.kill(int(worker), signal.SIGKILL)
        assert hooks_of(dev.project, own, run_id, "FAILURE") == ["break_down", "lament", "mourn"]
        # the outcome is in a tick of the sensor, too
        ticks = (state.instigator_origin_id, state.selector_id)
        wait_until(
            lambda: any("Exit hook mourn" in (tick.skip_reason or "") for tick in own.get_ticks(*ticks)),
            "a tick to say what the hooks have done",
        )


RUNS_OF_EVENTS = """
    {
        runsOrError(filter: {pipelineName: "WaitingFlow"}) { ... on Runs { results { status runConfigYaml } } }
    }
"""


def test_http_publishes_and_a_daemon_starts_the_flow(dev):
    command = next(line for line in DOCS.read_text().replace("\\\n", "").splitlines() if line.startswith("curl"))
    text = command.replace("http://localhost:3000", dev.url)
    subprocess.run(shlex.split(text), check=True, capture_output=True)
    DagsterEvent("data_ready", url=dev.url).publish({"rows": 4, "country": "fr"}, ignore_errors=False)

    def finished() -> list[dict]:
        found = dev.graphql(RUNS_OF_EVENTS)["runsOrError"]["results"]
        return found if len(found) == 2 and all(run["status"] == "SUCCESS" for run in found) else []

    found = wait_until(finished, "two runs that events have started")
    assert sorted(json.dumps("rows: 4" in run["runConfigYaml"]) for run in found) == ["false", "true"]


def _shape(run: Run) -> Any:
    """The facts that Metaflow knows of a run, beside its ids and times."""
    return (
        sorted(tag for tag in run.tags if not tag.startswith("dagster_run_id:")),
        {
            step.id: [
                (task.id, sorted(task.metadata_dict), sorted(artifact.id for artifact in task), task.successful)
                for task in step
            ]
            for step in run
        },
    )
