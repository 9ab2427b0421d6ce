"""Metaflow's Deployer API: flows deployed to Dagster and their runs, from Python."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import metaflow
import pytest
from metaflow import DeployedFlow, Deployer
from metaflow.exception import MetaflowException
from support import Project, values_of

from metaflow_pipes.deployment.definitions_file import read_deployment

CONFIGURED_FLOW = """
from metaflow import Config, FlowMutator, FlowSpec, Parameter, config_expr, environment, step


class Mutator(FlowMutator):
    def pre_mutate(self, mutable_flow):
        mutable_flow.add_parameter("added", Parameter("added", default=mutable_flow.settings.depth))


@Mutator
class ConfiguredFlow(FlowSpec):
    settings = Config("settings", default_value={"depth": 1, "name": "default"})
    number = Parameter("number", default=config_expr("settings.depth"))

    @environment(vars={"NAME": config_expr("settings.name")})
    @step
    def start(self):
        import os

        self.seen = (self.settings.depth, self.number, self.added, os.environ["NAME"])
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    ConfiguredFlow()
"""
RENAMED_FLOW = """
from pathlib import Path

from metaflow import FlowSpec, Parameter, step


class RenamedFlow(FlowSpec):
    rate = Parameter("learning-rate", default=0.1)

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        if not Path("renamed_ready").exists():
            raise ValueError("not ready")
        self.seen = self.rate


if __name__ == "__main__":
    RenamedFlow()
"""
FROM_ANOTHER_PROCESS = """
import sys
from metaflow import DeployedFlow

run = DeployedFlow.from_deployment(sys.argv[1], impl="dagster").trigger(number=7)
run.wait_for_completion(check_interval=0.2, timeout=120)
print("seen", run.status, run.run["start"].task["seen"].data)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project, and where the instance and the deployments of this module are."""
    folder = tmp_path_factory.mktemp("deployer")
    flows = Project.of(folder / "project", "parameters.py", "flaky.py", "slow.py", "clashing.py")
    flows.write("data.txt", "the data\n")
    # Metaflow's Deployer takes no flow with a parameter whose name is a keyword
    source = (flows.folder / "parameters.py").read_text()
    flows.write("parameters.py", source.replace('Parameter("lambda"', 'Parameter("lambda_"'))
    flows.write("configured.py", CONFIGURED_FLOW)
    flows.write("renamed.py", RENAMED_FLOW)
    (folder / "home").mkdir()
    (folder / "home" / "dagster.yaml").touch()
    return flows


@pytest.fixture(autouse=True)
def environment(folder: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(folder.folder.parent / "home"))
    monkeypatch.setenv("METAFLOW_HOME", str(folder.folder.parent / "metaflow_home"))
    monkeypatch.chdir(folder.folder)
    # in a notebook, Metaflow's client looks for the local datastore where it was before
    metaflow.metadata(f"local@{folder.folder}")


def deployed(flow: str, name: str | None = None, **options: Any) -> Any:
    return Deployer(flow, show_output=False).dagster(name=name).create(executor="in_process", **options)


def test_deployed_flow_says_what_it_is(folder):
    flow = deployed("flaky.py", name="another_name", tags=["nightly"])
    assert flow.name == "another_name"
    assert flow.flow_name == "FlakyFlow"
    assert flow.definitions_file == str(folder.folder / "another_name_dagster.py")
    assert os.path.isfile(flow.definitions_file)
    assert flow.production_token.startswith("another_name-0-")
    for identifier in (flow.name, flow.id, flow.definitions_file):
        found = DeployedFlow.from_deployment(identifier, impl="dagster")
        assert (found.name, found.id, found.flow_name) == (flow.name, flow.id, flow.flow_name)
    listed = [found.name for found in DeployedFlow.list_deployed_flows("FlakyFlow", impl="dagster")]
    assert "another_name" in listed


def test_triggered_run_succeeds_with_parameters_of_their_types(folder):
    given: dict[str, Any] = {
        "text": "commas, 'quotes' \"too\"\nand lines",
        "integer": -3,
        "flag": False,
        "off": True,
        "fraction": 2,
        "structure": {"x": [1, None, "y, z"]},
        "structure_text": [1, 2],
        "listed": ["p", "q r"],
        "repeated": [5, 6],
        "learning_rate": 1e-9,
        "deployed": None,
    }
    flow = deployed("parameters.py", tags=["nightly"])
    run = flow.trigger(**given)
    assert run.status in ("PENDING", "RUNNING")
    run.wait_for_completion(check_interval=0.2, timeout=120)
    assert run.status == "SUCCEEDED"
    assert not run.is_running
    assert run.dagster_url.endswith(f"/runs/{run.dagster_run_id}")
    assert run.run.pathspec == run.pathspec == f"ParametersFlow/dagster-{run.dagster_run_id}"
    assert run.run.successful
    assert "nightly" in run.run.user_tags
    values = values_of(run.run)["end"]
    expected = {
        **{name: given[name] for name in ("text", "integer", "flag", "off", "fraction", "structure", "listed")},
        "structure_text": [1, 2],
        "repeated": (5, 6),
        "dashed": 1e-9,
        "deployed": "ParametersFlow by tester",
        "included": "the data\n",
    }
    assert {name: tuple(values[name]) if name == "repeated" else values[name] for name in expected} == expected


def test_failed_run_is_failed_and_another_process_finds_it(folder, monkeypatch):
    flow = deployed("flaky.py")
    monkeypatch.setenv("METAFLOW_RUN_NUMBER", "-1")
    run = DeployedFlow.from_deployment("FlakyFlow", impl="dagster").run()
    run.wait_for_completion(check_interval=0.2, timeout=120)
    assert run.status == "FAILED"
    assert [step.id for step in run.run] == ["start"]
    assert not run.run.successful
    for run_id in (run.run.id, run.dagster_run_id):
        again = DeployedFlow.get_triggered_run(flow.name, run_id, impl="dagster")
        assert (again.status, again.pathspec) == ("FAILED", run.pathspec)
    assert not again.terminate()


def test_terminated_run_is_terminated(folder):
    run = deployed("slow.py").trigger()
    started = run.wait_for_run(check_interval=0.2, timeout=120)
    assert not started.finished
    with pytest.raises(TimeoutError):
        run.wait_for_completion(timeout=0)
    assert run.terminate()
    assert run.status == "TERMINATED"


def test_run_that_ends_before_its_start_step_is_not_waited_for(folder):
    run = deployed("slow.py").trigger()
    run.terminate()
    with pytest.raises(RuntimeError, match="TERMINATED"):
        run.wait_for_run()


def test_configs_and_mutators_hold_as_deployed_also_in_another_process(folder):
    flow = (
        Deployer("configured.py", show_output=False, config_value=[("settings", {"depth": 5, "name": "given"})])
        .dagster()
        .create(executor="in_process")
    )
    run = flow.trigger(added=6)
    run.wait_for_completion(check_interval=0.2, timeout=120)
    assert run.run["start"].task["seen"].data == (5, 5, 6, "given")
    finished = subprocess.run(
        [sys.executable, "-c", FROM_ANOTHER_PROCESS, flow.id], capture_output=True, text=True, check=False
    )
    assert "seen SUCCEEDED (5, 7, 5, 'given')" in finished.stdout, finished.stderr


def test_default_of_a_config_is_found_in_the_deployers_folder(folder, tmp_path, monkeypatch):
    source = CONFIGURED_FLOW.replace('default_value={"depth": 1, "name": "default"}', 'default="settings.json"')
    (tmp_path / "by_default.py").write_text(source.replace("ConfiguredFlow", "ByDefaultFlow"))
    (tmp_path / "settings.json").write_text('{"depth": 2, "name": "of the file"}')
    flow = Deployer(str(tmp_path / "by_default.py"), show_output=False, cwd=str(tmp_path)).dagster()
    run = flow.create(executor="in_process").trigger(number=3)
    run.wait_for_completion(check_interval=0.2, timeout=120)
    assert run.run["start"].task["seen"].data == (2, 3, 2, "of the file")
    assert os.getcwd() == str(folder.folder)
    again = DeployedFlow.from_deployment("ByDefaultFlow", impl="dagster").resume(run.run.id, "start")
    again.terminate()


def test_resumed_run_keeps_a_parameter_whose_attribute_is_called_otherwise(folder):
    flow = deployed("renamed.py")
    origin = flow.trigger(learning_rate=0.7)
    origin.wait_for_completion(check_interval=0.2, timeout=120)
    assert origin.status == "FAILED"
    folder.write("renamed_ready", "")
    definitions = (folder.folder / "renamedflow_dagster.py").read_text()
    # a file of version 0.1 names neither the attribute nor its version, and puts out what `run_step` returns
    definitions = definitions.replace("yield from run_step(", "yield dg.Output(run_step(").replace(").as_path()", "))")
    lines = definitions.replace(', attribute="rate"', "").splitlines(keepends=True)
    earlier = folder.write("renamed_earlier.py", "".join(line for line in lines if "ompile" not in line))
    assert 'MetaflowParameter("learning-rate", "float", default=0.1)' in earlier.read_text()
    assert read_deployment(earlier).compiled_by is None
    for identifier in (flow.name, str(earlier)):
        run: Any = DeployedFlow.from_deployment(identifier, impl="dagster").resume(origin_run_id=origin.run.id)
        run.wait_for_completion(check_interval=0.2, timeout=120)
        assert run.run["end"].task["seen"].data == 0.7


def test_mistakes_are_told(folder):
    flow = deployed("flaky.py")
    with pytest.raises(ValueError, match="nope"):
        flow.trigger(nope=1)
    with pytest.raises(RuntimeError, match=r'config:number\. Value "x"'):
        flow.trigger(number="x")
    for name in ("NoSuchDeployment", "no such name"):
        with pytest.raises(MetaflowException, match=f"no deployment of the name {name}"):
            DeployedFlow.from_deployment(name, impl="dagster")
    with pytest.raises(MetaflowException, match=r"nope_dagster\.py can't be read"):
        DeployedFlow.from_deployment("nope_dagster.py", impl="dagster")
    with pytest.raises(MetaflowException, match="dagster-0000"):
        DeployedFlow.get_triggered_run("FlakyFlow", "dagster-0000", impl="dagster")
    with pytest.raises(RuntimeError):
        flow.resume(origin_run_id="17")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": True}, "max_workers is True, but has to be of type int"),
        ({"max_workers": "2"}, "max_workers is '2', but has to be of type int"),
        ({"workflow_timeout": 2.5}, r"workflow_timeout is 2\.5, but has to be of type int"),
        ({"generate_new_token": 1}, "generate_new_token is 1, but has to be of type bool"),
        ({"translator": True}, "translator is True, but has to be of type str"),
        ({"tags": "nightly"}, "tags is 'nightly', but has to be a list of str"),
        ({"tags": ["nightly", 5]}, r"tags is \['nightly', 5\], but has to be a list of str"),
        ({"step_env": {"A": "b"}}, "step_env is {'A': 'b'}, but has to be a list of str"),
        ({"name": 5}, "name is 5, but has to be of type str"),
    ],
)
def test_options_of_wrong_types_are_refused_by_name(folder, options, message):
    with pytest.raises(TypeError, match=message):
        deployed("flaky.py", **options)


def test_trigger_refuses_options_of_wrong_types(folder):
    flow = deployed("flaky.py", name="of_types")
    with pytest.raises(TypeError, match="workflow_timeout is True, but has to be of type int"):
        flow.trigger(workflow_timeout=True)
    with pytest.raises(TypeError, match="tags is 'now', but has to be a list of str"):
        flow.resume("dagster-0000", tags="now")


def test_required_parameters_and_options_of_the_same_names_are_given_apart(folder):
    flow = deployed("clashing.py")
    run = flow.trigger(url="u", wait=True, definitions_file="d", parameters="many", workflow_timeout=60)
    run.wait_for_completion(check_interval=0.2, timeout=120)
    assert run.run.data.seen == ["u", True, "d", 0, "many", "no help"]
    with pytest.raises(RuntimeError, match="http://localhost:1"):
        flow.trigger(url="u", dagster_url="http://localhost:1")
    with pytest.raises(RuntimeError, match="requires the parameter url"):
        flow.trigger()


def test_lists_may_be_tuples_and_paths_may_be_paths(folder):
    flow = deployed("flaky.py", tags=("nightly", "shop"), definitions_file=Path("of_tuples.py"))
    assert flow.definitions_file == str(folder.folder / "of_tuples.py")
    assert 'tags=["nightly", "shop"]' in Path(flow.definitions_file).read_text()


def test_deleted_flow_is_gone_and_its_runs_stay(folder):
    flow = deployed("flaky.py", name="to_delete")
    run = flow.trigger(number=-1)
    assert flow.delete()
    assert not os.path.exists(flow.definitions_file)
    with pytest.raises(MetaflowException):
        DeployedFlow.from_deployment("to_delete", impl="dagster")
    with pytest.raises(MetaflowException, match=r"to_delete_dagster\.py can't be read"):
        flow.trigger(number=1)
    give_up_at = time.monotonic() + 60
    while run.is_running:
        assert time.monotonic() < give_up_at
        time.sleep(0.2)
