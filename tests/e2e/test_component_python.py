"""Flows as components and as definitions, in Python: hooks, the text that all ways share, and code locations."""

from __future__ import annotations

import json
import sys

import dagster as dg
import pytest
from dagster._core.code_pointer import CodePointer
from dagster._core.definitions.reconstruct import (
    initialize_repository_def_from_pointer,
    reconstruct_repository_def_from_pointer,
)
from dg_projects import FLOW, DgProject, spec_of
from support import compile_in_forks

from metaflow_pipes import CompileError, DagsterCompiler, MetaflowFlowComponent, load_flow_definitions
from metaflow_pipes.component.component import Place
from metaflow_pipes.runtime import MetaflowFlowWarning


@pytest.fixture
def project(tmp_path, monkeypatch) -> DgProject:
    """A project without entries, whose flows are compiled by forks."""
    compile_in_forks(monkeypatch)
    names = {"train.py": "TrainedFlow", "several_a.py": "AFlow", "several_b.py": "BFlow"}
    return DgProject.of(tmp_path / "shop", {}, {file: FLOW.format(name=name) for file, name in names.items()})


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
    train = spec_of(defs, "said", "TrainedFlow", "train")
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
