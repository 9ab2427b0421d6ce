"""A flow as an entry of a `dg` project: compiled into a state, loaded from that, and run."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.code_pointer import CodePointer
from dagster._core.definitions.definitions_load_context import DefinitionsLoadContext
from dagster._core.definitions.reconstruct import (
    initialize_repository_def_from_pointer,
    reconstruct_repository_def_from_pointer,
)
from dagster.components.core.component_tree import ComponentTree
from support import EXAMPLES, Project, compile_in_forks, execute

from metaflow_pipes import CompileError, DagsterCompiler, MetaflowFlowComponent, load_flow_definitions
from metaflow_pipes.component.component import Place
from metaflow_pipes.runtime import MetaflowFlowWarning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FLOW = '''
import os

from metaflow import FlowSpec, Parameter, step


class {name}(FlowSpec):
    """Scales a number."""

    alpha = Parameter("alpha", default=0.5)

    @step
    def start(self):
        """Begin."""
        self.next(self.train)

    @step
    def train(self):
        """Train."""
        self.model = (self.alpha, os.environ.get("API_KEY"), os.environ.get("REGION"))
        self.next(self.end)

    @step
    def end(self):
        pass


if __name__ == "__main__":
    {name}()
'''
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


@dataclass
class DgProject:
    """A `dg` project, loaded in this process."""

    folder: Path

    @classmethod
    def of(cls, folder: Path, entries: dict[str, str], flows: dict[str, str]) -> DgProject:
        """A project with entries and flow files. The name of its folder is that of its package."""
        package = folder / "src" / folder.name
        (package / "defs").mkdir(parents=True)
        (folder / ".metaflow").mkdir()
        (folder / "flows").mkdir()
        for file in (package / "__init__.py", package / "defs" / "__init__.py"):
            file.touch()
        (folder / "pyproject.toml").write_text(
            f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{folder.name}"\n'
        )
        for name, source in flows.items():
            (folder / "flows" / name).write_text(source)
        project = cls(folder)
        for name, yaml in entries.items():
            project.entry(name).parent.mkdir()
            project.entry(name).write_text(yaml)
        return project

    def entry(self, name: str) -> Path:
        return self.folder / "src" / self.folder.name / "defs" / name / "defs.yaml"

    def states(self) -> str:
        """All that is stored of the compiled flows."""
        return "".join(file.read_text() for file in sorted(self.folder.rglob(".local_defs_state/*/state")))

    def load(self, *, in_dg: bool = False, validates: bool = False) -> dg.Definitions:
        """The project's definitions; in `dg`, its entries are compiled first."""
        with pytest.MonkeyPatch.context() as monkeypatch:
            # as in a process of its own: where a run's process has loaded a job, Dagster takes it for that from then on
            monkeypatch.setattr(DefinitionsLoadContext, "_instance", None)
            monkeypatch.syspath_prepend(str(self.folder / "src"))
            if in_dg:
                monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
            if validates:
                monkeypatch.setenv("DAGSTER_IS_DEFS_VALIDATION_CLI", "1")
            return dg.load_from_defs_folder(path_within_project=self.folder)


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


def _spec(defs: dg.Definitions, *key: str) -> dg.AssetSpec:
    return next(spec for spec in defs.resolve_all_asset_specs() if spec.key == dg.AssetKey(list(key)))


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
    assert _spec(defs, "models", "train").metadata["metaflow/out_of_date"] == said[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error", MetaflowFlowWarning)
        defs = project.load(in_dg=True)
    assert "metaflow/out_of_date" not in _spec(defs, "models", "train").metadata


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
    broken = _spec(defs, "metaflow_entry", "training")
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
    assert re.search(message, _spec(defs, "metaflow_entry", "training").description or "")


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
    code = _spec(defs, "in_python", "train").metadata["dagster/code_references"].code_references[0]
    assert code.file_path == str(project.folder / "flows" / "train.py")


class GoldFlow(MetaflowFlowComponent):
    """An entry of a project that has its own say."""

    def get_asset_spec(self, flow, step):
        return super().get_asset_spec(flow, step).merge_attributes(tags={"tier": f"{step.name}_gold"})

    def get_executor(self):
        return dg.in_process_executor


def test_hooks_and_a_translator_have_their_say(project, monkeypatch):
    (project.folder / "flows" / "said.py").write_text(
        "from metaflow_pipes.runtime import DagsterMetaflowTranslator\n\n\n"
        "class SaidTranslator(DagsterMetaflowTranslator):\n"
        "    def get_asset_key(self, flow, step):\n"
        "        return super().get_asset_key(flow, step).with_prefix('said')\n"
    )
    monkeypatch.syspath_prepend(str(project.folder / "flows"))
    entry = GoldFlow(flow_file="flows/train.py", translator="said.SaidTranslator", location_executor="own")
    place = Place("gold", project.folder / "defs.yaml", project.folder)
    defs = entry.definitions(entry.compiled(place), place, "again")
    train = _spec(defs, "said", "TrainedFlow", "train")
    assert train.tags["tier"] == "train_gold"
    assert [dep.asset_key.path[0] for dep in train.deps] == ["said"]
    assert defs.executor is dg.in_process_executor
    assert defs.resolve_job_def("TrainedFlow").executor_def is dg.in_process_executor


def test_create_component_and_python_share_one_text(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    created = DagsterCompiler(
        "flows/train.py", step_env={"API_KEY": dg.EnvVar("PROJECT_KEY"), "REGION": "eu"}, max_workers=3, tags=["x"]
    ).compile("flows/trainedflow_dagster.py")
    entry = MetaflowFlowComponent(
        flow_file="train.py",
        step_env={"API_KEY": dg.EnvVar("PROJECT_KEY"), "REGION": "eu"},
        max_workers=3,
        tags=["x"],
    )
    place = Place("training", project.folder / "flows" / "defs.yaml", project.folder)
    lines = json.loads(entry.compiled(place))["flows"]["TrainedFlow"]
    # the entry's project moves as a whole, and so the state names no place
    assert "".join(lines) == created.replace(f'"{project.folder}/', '"../').replace(f'"{project.folder}"', '".."')


CODE_LOCATION = """
import dagster as dg
from metaflow_pipes import load_flow_definitions

flows = load_flow_definitions(
    "flows/several_*.py", step_env={"API_KEY": dg.EnvVar("PROJECT_KEY")}, top_level={"with": ["retry:times=2"]}
)
defs = dg.Definitions.merge(flows, dg.Definitions(assets=[dg.AssetSpec("other")]))
"""


def test_python_projects_load_flows_once_for_all_their_processes(project, monkeypatch):
    monkeypatch.chdir(project.folder)
    (project.folder / "location.py").write_text(CODE_LOCATION)
    pointer = CodePointer.from_python_file("location.py", "defs", str(project.folder))
    repository = initialize_repository_def_from_pointer(pointer)
    assert {"AFlow", "BFlow"} <= set(repository.job_names)
    assert dg.AssetKey("other") in repository.asset_graph.get_all_asset_keys()
    (project.folder / "flows" / "several_a.py").write_text("this is no flow now")
    monkeypatch.delitem(sys.modules, "location")  # as in another process
    with pytest.warns(MetaflowFlowWarning, match=r"AFlow in .* since it was compiled. .*: reload the code location"):
        again = reconstruct_repository_def_from_pointer(pointer, repository.repository_load_data)
    assert set(again.job_names) == set(repository.job_names)
    with pytest.raises(CompileError, match=r"several_a.py can't be read"):
        load_flow_definitions("flows/several_a.py")


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the example project, where its package need not be installed."""
    folder = tmp_path_factory.mktemp("example") / "dg_project"
    leave_out = shutil.ignore_patterns(".metaflow", ".local_defs_state", "data", "__pycache__")
    shutil.copytree(EXAMPLES / "dg_project", folder, ignore=leave_out)
    (folder / ".metaflow").mkdir()
    return folder


def _dg(project: Path, *arguments: str) -> str:
    """The output of `dg`, as in an environment that is not activated."""
    environment = {**os.environ, "PYTHONPATH": "src"}
    finished = subprocess.run(
        [sys.executable, "-m", "dagster_dg_cli.cli", *arguments],
        cwd=project,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout
    return finished.stdout


def test_dg_scaffolds_checks_and_launches(example):
    (example / "flows" / "empty_flow.py").write_text(FLOW.format(name="EmptyFlow"))
    arguments = ("empty", "--flow-file", "flows/empty_flow.py")
    _dg(example, "scaffold", "defs", "metaflow_pipes.MetaflowFlowComponent", *arguments)
    written = (example / "src" / "dg_project" / "defs" / "empty" / "defs.yaml").read_text()
    assert "{{ context.project_root }}/flows/empty_flow.py" in written
    # checks the YAML, too, and leaves the compiled flows
    assert "All definitions loaded successfully." in _dg(example, "check", "defs")
    imported = subprocess.run(
        [sys.executable, "-c", _IMPORTS], cwd=example, env={**os.environ, "PYTHONPATH": "src"}, capture_output=True
    )
    assert imported.stdout.decode().split() == ["SegmentFlow", "EmptyFlow", "False"], imported.stderr.decode()
    launched = _dg(example, "launch", "--assets", "group:shop or group:SegmentFlow or group:LetterFlow")
    assert "RUN_SUCCESS" in launched


_IMPORTS = """
import sys
from dg_project.definitions import defs
jobs = {job.name for job in defs().resolve_all_job_defs()}
print(*[name for name in ("SegmentFlow", "EmptyFlow") if name in jobs], "metaflow" in sys.modules)
"""
