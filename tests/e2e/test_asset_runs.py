"""A run of assets is a run of their flows: with its tags, commands, exit hooks, limits and re-executions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from asset_runs import materialize
from ended_runs import Ticks, instance_in, notes
from support import Project, failure_description, load

from metaflow_pipes.names import WORKFLOW_TIMEOUT_TAG
from metaflow_pipes.runs.local import LocalInstance
from metaflow_pipes.runs.service import find_run, runs_of_flow
from metaflow_pipes.runtime.assets.events import event_key
from metaflow_pipes.runtime.automation.limits import runs_under_way

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

# one worker: the fixtures are those of all tests
TRAIN = """
from pathlib import Path

from metaflow import FlowSpec, Parameter, exit_hook, step


def note(name, run):
    with (Path(__file__).parent / "hooks").open("a") as notes:
        notes.write(f"{name} {run and run.pathspec}\\n")


def celebrate(run):
    note("celebrate", run)


def mourn(run):
    note("mourn", run)


@exit_hook(on_success=[celebrate], on_error=[mourn])
class TrainFlow(FlowSpec):
    rows = Parameter("rows", type=int, required=True)

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        self.doubled = 2 * self.rows


if __name__ == "__main__":
    TrainFlow()
"""
SWEEP = """
from pathlib import Path

from metaflow import FlowSpec, step


class SweepFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        if not (Path(__file__).parent / "ready").exists():
            raise ValueError("not ready")


if __name__ == "__main__":
    SweepFlow()
"""
MERGED = """
import dagster as dg
import sweep_defs
import train_defs


@dg.asset
def report():
    raise ValueError("no report on purpose")


defs = dg.Definitions.merge(train_defs.defs, sweep_defs.defs, dg.Definitions(assets=[report]))
"""
ELSEWHERE = """
import dagster as dg
import train_defs

defs = dg.Definitions(assets=train_defs.ASSETS)
"""
ROWS = {"ops": {"TrainFlow": {"ops": {"start": {"config": {"rows": 3}}}}}}


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Two flows, and an asset of another kind that fails, in one code location: `merged.py`."""
    project = Project.of(tmp_path_factory.mktemp("assets") / "project")
    project.write("train.py", TRAIN)
    project.write("sweep.py", SWEEP)
    project.compile("train.py", "--tag", "nightly", "--priority", "7", to="train_defs.py")
    project.compile("sweep.py", "--tag", "model:linear", to="sweep_defs.py")
    project.write("merged.py", MERGED)
    project.write("elsewhere.py", ELSEWHERE)
    sys.path.insert(0, str(project.folder))
    yield project
    sys.path.remove(str(project.folder))


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    yield from instance_in(tmp_path_factory.mktemp("instance") / "home")


@pytest.fixture(scope="module")
def hooks(flows: Project, instance: dg.DagsterInstance) -> Ticks:
    """The sensor of the exit hooks, which sees the ends of all runs from here on."""
    ticks = Ticks.of(instance, flows.folder / "train_defs.py", "TrainFlow_exit_hooks")
    ticks.tick()
    return ticks


@pytest.fixture(scope="module")
def both(flows: Project, instance: dg.DagsterInstance, hooks: Ticks) -> str:
    """A run of all assets: the flows succeed, and the other asset fails."""
    del hooks
    flows.write("ready", "")
    run = materialize(flows.folder / "merged.py", instance, config=ROWS)
    assert not run.success
    return run.run_id


def tags_of(instance: dg.DagsterInstance, run_id: str) -> Mapping[str, str]:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.tags


def test_run_of_two_flows_is_a_metaflow_run_of_each(flows, instance, both):
    train, sweep = (flows.metaflow_run(flow, f"dagster-{both}") for flow in ("TrainFlow", "SweepFlow"))
    assert (train.successful, train.data.doubled, sweep.successful) == (True, 6, True)
    tags = tags_of(instance, both)
    assert tags["metaflow/flow"] == "SweepFlow, TrainFlow"
    assert {"metaflow.flow/SweepFlow", "metaflow.flow/TrainFlow"} < set(tags)
    assert (tags["metaflow.job/TrainFlow"], tags["metaflow.job/SweepFlow"]) == ("TrainFlow", "SweepFlow")
    assert (tags["metaflow.tag/nightly"], tags["metaflow.tag/model"]) == ("true", "linear")
    for flow in ("TrainFlow", "SweepFlow"):
        assert instance.fetch_materializations(event_key(f"metaflow.{flow}.end"), limit=1).records


def test_commands_find_a_run_of_two_flows_by_each(flows, instance, both):
    service = LocalInstance(instance.root_directory)
    for flow in ("TrainFlow", "SweepFlow"):
        assert [run.dagster_run_id for run in runs_of_flow(service, flow)][-1] == both
        assert find_run(service, flow, f"{flow}/dagster-{both[:13]}").pathspec == f"{flow}/dagster-{both}"
        assert find_run(service, flow, both).of_assets == flow
    home = {"DAGSTER_HOME": instance.root_directory}
    shown = flows.metaflow("train.py", "dagster", "status", both, **home).stdout
    assert all(f"✓ {step}" in shown for step in ("start", "end"))


def test_exit_hooks_go_by_the_flows_own_end(flows, hooks, both):
    hooks.until("Exit hook")
    assert [line for line in notes(flows) if both in line] == [f"celebrate TrainFlow/dagster-{both}"]


def test_parameter_without_a_value_is_a_clear_failure_before_anything_runs(flows, instance, hooks):
    run = materialize(flows.folder / "merged.py", instance, "TrainFlow/start", "TrainFlow/end")
    (failed,) = [event for event in run.all_events if event.event_type == dg.DagsterEventType.STEP_FAILURE]
    said = failure_description(failed)
    assert "Flow TrainFlow requires a value of rows" in said
    assert "ops:\n  TrainFlow:\n    ops:\n      start:\n        config:\n          rows: 0\n" in said
    assert "hold shift while you click Materialize" in said
    tags = tags_of(instance, run.run_id)
    assert (tags["metaflow/flow"], tags["metaflow.job/TrainFlow"]) == ("TrainFlow", "TrainFlow")
    assert not any(tag.startswith("metaflow.flow/") for tag in tags)
    hooks.until(f"Run {run.run_id}: Exit hook")
    assert "mourn None" in notes(flows)  # there is no such Metaflow run


def test_run_of_assets_takes_options_from_its_tags_and_is_resumed_by_the_command(flows, instance, both):
    tags = {"metaflow/run_tags": '["special"]', WORKFLOW_TIMEOUT_TAG: "600"}
    keys = ("TrainFlow/start", "TrainFlow/end")
    run = materialize(flows.folder / "merged.py", instance, *keys, config=ROWS, tags=tags)
    assert run.success
    of_run = tags_of(instance, run.run_id)
    assert (of_run["metaflow.tag/special"], of_run["dagster/max_runtime"]) == ("true", "600")
    assert {"special", "nightly"} <= flows.metaflow_run("TrainFlow", f"dagster-{run.run_id}").user_tags
    home = {"DAGSTER_HOME": instance.root_directory}
    options = ("--origin-run-id", f"dagster-{both}", "--definitions-file", "train_defs.py", "--wait")
    flows.metaflow("train.py", "dagster", "resume", "end", *options, **home)
    resumed = runs_of_flow(LocalInstance(instance.root_directory), "TrainFlow", limit=1)[0]
    task = flows.metaflow_run("TrainFlow", resumed.metaflow_run_id)["start"].task
    assert task.origin_pathspec == f"TrainFlow/dagster-{both}/start/start"


def test_reexecution_from_failure_goes_on_with_the_metaflow_run(flows, instance, both):
    assert both
    (flows.folder / "ready").unlink()
    first = materialize(flows.folder / "merged.py", instance, "SweepFlow/start", "SweepFlow/end")
    assert not first.success
    flows.write("ready", "")
    second = materialize(flows.folder / "merged.py", instance, reexecute=first.run_id)
    assert second.success
    assert {event.step_key for event in second.all_events if event.is_step_start} == {"SweepFlow.end"}
    run = flows.metaflow_run("SweepFlow", f"dagster-{first.run_id}")
    assert run.successful
    assert tags_of(instance, second.run_id)["metaflow/run_id"] == f"dagster-{first.run_id}"
    found = find_run(LocalInstance(instance.root_directory), "SweepFlow", f"dagster-{first.run_id}")
    assert (found.dagster_run_id, found.status.value) == (second.run_id, "SUCCEEDED")


def test_materializations_at_once_by_the_executor_of_another_location_do_not_disturb_each_other(flows, instance):
    before = len(instance.get_runs())
    processes = [_materialize_in_the_shell(flows, instance, rows) for rows in (11, 12)]
    for process in processes:
        shown = process.communicate()[0]
        assert process.returncode == 0, shown
        assert "multiprocess" in shown  # a process for each op
    runs = instance.get_runs()[: -before or None]
    doubled = [flows.metaflow_run("TrainFlow", f"dagster-{run.run_id}").data.doubled for run in runs]
    assert sorted(doubled) == [22, 24]


def _materialize_in_the_shell(flows: Project, instance: dg.DagsterInstance, rows: int) -> subprocess.Popen[str]:
    config = {"ops": {"TrainFlow": {"ops": {"start": {"config": {"rows": rows}}}}}}
    options = ["--select", "*", "--config-json", json.dumps(config), "-f", "elsewhere.py"]
    return subprocess.Popen(
        [sys.executable, "-m", "dagster", "asset", "materialize", *options],
        cwd=flows.folder,
        env={**os.environ, "DAGSTER_HOME": instance.root_directory},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_limit_counts_runs_of_assets_also_while_they_wait(flows):
    definitions = load(flows.folder / "merged.py").defs
    job: Any = definitions.resolve_implicit_global_asset_job_def()
    with dg.DagsterInstance.ephemeral() as instance:
        keys = {dg.AssetKey(["SweepFlow", "end"])}
        waiting = instance.create_run_for_job(
            job.get_subset(asset_selection=keys), status=dg.DagsterRunStatus.STARTING, asset_selection=keys
        )
        begun = instance.create_run_for_job(
            job, status=dg.DagsterRunStatus.STARTED, tags={"metaflow.job/SweepFlow": "SweepFlow"}
        )
        sweep = _counted(instance, flows.folder / "sweep_defs.py")
        assert set(sweep) == {waiting.run_id, begun.run_id}
        assert _counted(instance, flows.folder / "train_defs.py") == []


def _counted(instance: dg.DagsterInstance, definitions: Path) -> list[str]:
    module = load(definitions)
    return [run.run_id for run in runs_under_way(instance, module.FLOW, module.JOB)]


def test_priority_of_the_job_is_that_of_the_steps_which_wait_for_a_pool(flows):
    (assets,) = load(flows.folder / "train_defs.py").ASSETS
    assert {node.tags["dagster/priority"] for node in assets.node_def.nodes} == {"7"}
