"""A flow as an entry of a `dg` project: compiled into a state, loaded from that, and run."""

from __future__ import annotations

import asyncio
import re
import shutil
import warnings
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster.components.core.component_tree import ComponentTree
from dg_projects import FLOW, DgProject, spec_of
from support import Project, compile_in_forks, execute

from metaflow_pipes import CompileError, MetaflowFlowComponent
from metaflow_pipes.runtime import MetaflowFlowWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TRAINING = """
type: metaflow_pipes.MetaflowFlowComponent

attributes:
  flow_file: "{{ context.project_root }}/flows/train.py"
  step_env:
    API_KEY: "{{ env.PROJECT_KEY }}"
    REGION: eu
  parameters:
    alpha: 0.25
  schedule: "0 6 * * *"
  retries: {max_retries: 1, delay: 6}
  translation:
    key: "models/{{ step.name }}"
    group_name: training
    owners: ["team:{{ flow.name | lower }}"]
    automation_condition: "{{ dg.AutomationCondition.eager() }}"
  exclude: [end]
  post_process:
    - target: key:models/train
      attributes:
        tags: {tier: gold}
"""
SEVERAL = """
type: metaflow_pipes.MetaflowFlowComponent

attributes:
  flow_files: "{{ context.project_root }}/flows/several_*.py"
"""
REPORT = """
import dagster as dg


@dg.asset(ins={"model": dg.AssetIn(["models", "train"], metadata={"artifact": "model"})})
def report(model): ...
"""
SECRET = "not-to-be-written-4711"


@pytest.fixture(scope="module", autouse=True)
def forked_compilers() -> Iterator[None]:
    """Forks compile the flows, but for those that `dg` itself compiles as for users."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        compile_in_forks(monkeypatch)
        yield


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> DgProject:
    """A project with two entries, of one flow and of two, whose flows are compiled."""
    project = DgProject.of(
        tmp_path_factory.mktemp("dg") / "shop_of_tests",
        {"training": TRAINING, "several": SEVERAL},
        {
            "train.py": FLOW.format(name="TrainedFlow"),
            "several_a.py": FLOW.format(name="AFlow"),
            "several_b.py": FLOW.format(name="BFlow"),
        },
    )
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PROJECT_KEY", SECRET)
        project.load(in_dg=True)
    return project


@pytest.fixture
def project(compiled: DgProject, tmp_path: Path, request: pytest.FixtureRequest) -> DgProject:
    """A copy of the project at another place, under another name of the package."""
    folder = tmp_path / re.sub(r"\W", "_", request.node.name)
    shutil.copytree(compiled.folder, folder)
    (folder / "src" / compiled.folder.name).rename(folder / "src" / folder.name)
    for file in (folder / "pyproject.toml", *folder.rglob("*.py")):
        file.write_text(file.read_text().replace(compiled.folder.name, folder.name))
    return DgProject(folder)


def test_an_entry_is_a_job_and_assets_as_its_attributes_say(compiled):
    defs = compiled.load()
    specs = {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}
    assert {"models/start", "models/train", "AFlow/start", "BFlow/end"} <= set(specs)
    assert not {"models/end", "TrainedFlow/end"} & set(specs)
    train = specs["models/train"]
    assert (train.group_name, train.owners) == ("training", ["team:trainedflow"])
    assert train.tags["tier"] == "gold"
    assert "tier" not in specs["models/start"].tags
    assert [dep.asset_key.to_user_string() for dep in train.deps] == ["models/start"]
    assert train.automation_condition is not None
    assert train.automation_condition != dg.AutomationCondition.eager()  # it is one for the flow as a whole
    (schedule,) = defs.schedules or ()
    assert isinstance(schedule, dg.ScheduleDefinition)
    assert (schedule.name, schedule.cron_schedule) == ("TrainedFlow_schedule", "0 6 * * *")
    (op,) = [node.definition for node in defs.resolve_job_def("TrainedFlow").nodes if node.name == "train"]
    assert isinstance(op, dg.OpDefinition)
    assert op.retry_policy == dg.RetryPolicy(max_retries=1, delay=6)


def test_a_project_is_compiled_where_there_is_no_user(project, monkeypatch):
    for variable in ("METAFLOW_USER", "USERNAME", "SUDO_USER"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("USER", "root")
    project.load(in_dg=True)
    assert 'user=\\"dagster\\"' in project.states()


def test_nothing_secret_and_no_place_is_stored(compiled):
    states = compiled.states()
    assert 'dg.EnvVar(\\"PROJECT_KEY\\")' in states
    assert SECRET not in states
    assert str(compiled.folder) not in states


def test_a_project_that_has_moved_runs_where_it_is(project, monkeypatch):
    monkeypatch.setenv("PROJECT_KEY", SECRET)
    result = execute(project.load().resolve_job_def("TrainedFlow"))
    assert result.success
    keys = {event.asset_key.to_user_string() for event in result.get_asset_materialization_events()}
    assert keys == {"models/start", "models/train"}
    run = Project(project.folder).run_of(result)
    assert run["train"].task.data.model == (0.25, SECRET, "eu")


def test_a_variable_that_is_not_set_when_a_step_runs_is_named(project, monkeypatch):
    monkeypatch.delenv("PROJECT_KEY", raising=False)
    result = execute(project.load().resolve_job_def("TrainedFlow"))
    (failure,) = result.filter_events(lambda event: event.is_step_failure)
    assert "PROJECT_KEY is not set" in str(failure.step_failure_data.error)


def test_a_code_location_says_what_has_changed_since(project):
    flow = project.folder / "flows" / "train.py"
    flow.write_text(flow.read_text() + "# changed\n")
    several = project.entry("several")
    several.write_text(several.read_text() + "  tags: [nightly]\n")
    with pytest.warns(MetaflowFlowWarning) as caught:
        defs = project.load()
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    assert "several has changed since its flows were compiled" in said[0]
    assert re.search(r"TrainedFlow in .* has changed since it was compiled. .*: dg utils refresh-defs-state", said[1])
    assert spec_of(defs, "models", "train").metadata["metaflow/out_of_date"] == said[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MetaflowFlowWarning)
        defs = project.load(in_dg=True)
    assert "metaflow/out_of_date" not in spec_of(defs, "models", "train").metadata


def test_a_flow_that_does_not_compile_breaks_its_own_entry(project):
    flow = project.folder / "flows" / "train.py"
    flow.write_text(flow.read_text().replace("self.next(self.train)", "self.next(self.missing)"))
    (project.entry("training").parents[1] / "report.py").write_text(REPORT)
    with pytest.warns(MetaflowFlowWarning, match="The entry training can't be loaded"):
        defs = project.load(in_dg=True)
    jobs = {job.name for job in defs.resolve_all_job_defs()}
    assert {"AFlow", "BFlow"} <= jobs
    assert "TrainedFlow" not in jobs
    # others still find the assets that they take
    dg.Definitions.validate_loadable(defs)
    train = dg.AssetKey(["models", "train"])
    assert defs.resolve_asset_graph().get(dg.AssetKey("report")).parent_keys == {train}
    assert not defs.resolve_asset_graph().get(train).is_executable
    broken = spec_of(defs, "metaflow_entry", "training")
    assert "Step start specifies a self.next() transition to an unknown step, missing." in (broken.description or "")
    failed = dg.materialize([defs.get_assets_def(broken.key)], raise_on_error=False)
    assert not failed.success
    # Dagster may load the definitions again, from what was stored before
    with pytest.warns(MetaflowFlowWarning, match="(?s)The entry training can't be loaded.* unknown step, missing"):
        project.load()
    with pytest.raises(Exception, match="building definitions for training") as caught:
        project.load(in_dg=True, validates=True)
    assert isinstance(caught.value.__cause__, CompileError)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("flow_file: none.py", "There is no flow file"),
        ("flow_file: a.py\n  flow_files: [b.py]", "has both of flow_file and flow_files"),
        ("name: x", "has neither of flow_file and flow_files"),
        ("flow_file: '{{ context.project_root }}/flows/train.py'\n  exclude: [non]", "no step is called so"),
        ("flow_file: '{{ context.project_root }}/flows/train.py'\n  pools: {non: gpu}", "which flow .* does not have"),
    ],
)
def test_an_attribute_that_can_not_be_used_breaks_its_own_entry(tmp_path, request, yaml, message):
    name = re.sub(r"\W", "_", request.node.name)
    entry = f"type: metaflow_pipes.MetaflowFlowComponent\nattributes:\n  {yaml}\n"
    project = DgProject.of(tmp_path / name, {"training": entry}, {"train.py": FLOW.format(name="TrainedFlow")})
    with pytest.warns(MetaflowFlowWarning, match=message):
        defs = project.load(in_dg=True)
    assert re.search(message, spec_of(defs, "metaflow_entry", "training").description or "")


def test_an_entry_that_was_never_compiled_says_how(project):
    shutil.rmtree(next(project.folder.rglob(".local_defs_state")))
    (project.entry("training").parents[1] / "report.py").write_text(REPORT)
    with pytest.warns(MetaflowFlowWarning, match="has not been compiled. Compile it: dg utils refresh-defs-state"):
        defs = project.load()
    dg.Definitions.validate_loadable(defs)
    entries = {"metaflow_entry/training", "metaflow_entry/several", "report"}
    assert {key.to_user_string() for key in defs.resolve_asset_graph().executable_asset_keys} == entries
    keys = {spec.key.to_user_string() for spec in defs.resolve_all_asset_specs()}
    assert entries | {"models/start", "models/train", "AFlow/end", "BFlow/end"} <= keys


IN_PYTHON = """
import dagster as dg
from metaflow_pipes import MetaflowFlowComponent


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> MetaflowFlowComponent:
    return MetaflowFlowComponent(flow_file=str(context.project_root / "flows/train.py"), name="in_python")
"""


def test_an_entry_in_python_finds_its_state(project, monkeypatch):
    entry = project.entry("python").with_name("component.py")
    entry.parent.mkdir()
    entry.write_text(IN_PYTHON)
    monkeypatch.syspath_prepend(str(project.folder / "src"))
    # as `dg utils refresh-defs-state` does
    for component in ComponentTree.for_project(project.folder).get_all_components(MetaflowFlowComponent):
        if component.name == "in_python":
            asyncio.run(component.refresh_state(project.folder))
    assert str(project.folder) not in project.states()
    with warnings.catch_warnings():
        warnings.simplefilter("error", MetaflowFlowWarning)
        defs = project.load()
    assert "in_python" in {job.name for job in defs.resolve_all_job_defs()}
    code = spec_of(defs, "in_python", "train").metadata["dagster/code_references"].code_references[0]
    assert code.file_path == str(project.folder / "flows" / "train.py")
