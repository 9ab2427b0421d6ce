"""Many generated files in one code location: different flows with steps of one name, and one flow more than once."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING

import dagster as dg
import pytest
from support import Project, dagster, load

from metaflow_pipes import DagsterCompiler, MetaflowFlowComponent
from metaflow_pipes.component.component import Place
from metaflow_pipes.component.state import CompiledFlow, state_of
from metaflow_pipes.runtime import MetaflowFlowWarning, threads

if TYPE_CHECKING:
    from types import ModuleType

PROJECT_FLOW = """
from metaflow import FlowSpec, project, step

@project(name="shop")
class ShopFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    ShopFlow()
"""
FAN_FLOW = """
from metaflow import FlowSpec, step

class FanFlow(FlowSpec):
    @step
    def start(self):
        self.numbers = [1, 2]
        self.next(self.work, foreach="numbers")

    @step
    def work(self):
        self.square = self.input**2
        self.next(self.join)

    @step
    def join(self, inputs):
        self.result = [i.square for i in inputs]
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    FanFlow()
"""
NUMBERED_FLOW = """
from metaflow import FlowSpec, step

class Numbered{number}Flow(FlowSpec):
    @step
    def start(self):
        self.number = {number}
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    Numbered{number}Flow()
"""
MERGED = """
import dagster as dg
{imports}

defs = dg.Definitions.merge({definitions})
"""


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, list[str]]:
    """A folder with twenty definitions files and one that merges them; the names of the twenty modules."""
    flows = Project.of(tmp_path_factory.mktemp("location") / "project", "nested.py", "loops.py")
    flows.write("shop.py", PROJECT_FLOW)
    flows.write("fan.py", FAN_FLOW)
    compilers = {
        "nested": DagsterCompiler(flows.folder / "nested.py"),
        "loops": DagsterCompiler(flows.folder / "loops.py"),
        "loops_nightly": DagsterCompiler(flows.folder / "loops.py", name="loops_nightly"),
        "fan": DagsterCompiler(flows.folder / "fan.py"),
        "nightly": DagsterCompiler(flows.folder / "fan.py", name="nightly", step_env={"REGION": "eu"}),
        "of_ann": DagsterCompiler(flows.folder / "shop.py", branch="ann"),
        "of_bob": DagsterCompiler(flows.folder / "shop.py", branch="bob"),
        "in_production": DagsterCompiler(flows.folder / "shop.py", production=True),
    }
    for number in range(20 - len(compilers)):
        source = flows.write(f"numbered_{number}.py", NUMBERED_FLOW.format(number=number))
        compilers[f"numbered_{number}_defs"] = DagsterCompiler(source)
    modules = [f"defs_{name}" for name in compilers]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(flows.folder)  # where the datastore is
        for name, compiler in compilers.items():
            compiler.write(f"defs_{name}.py")
    imports = "\n".join(f"import {module}" for module in modules)
    merged = ", ".join(f"{module}.defs" for module in modules)
    flows.write("merged.py", MERGED.format(imports=imports, definitions=merged))
    return flows, modules


@pytest.fixture
def merged(location, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    flows, modules = location
    monkeypatch.syspath_prepend(str(flows.folder))
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    return load(flows.folder / "merged.py")


def test_twenty_files_are_valid_as_one_location(location):
    flows, modules = location
    assert len(modules) == 20
    finished = dagster("definitions", "validate", "-f", "merged.py", cwd=flows.folder)
    assert finished.returncode == 0, finished.stdout


def test_deployments_of_one_flow_have_assets_of_their_own(merged):
    keys = {tuple(spec.key.path) for spec in merged.defs.resolve_all_asset_specs()}
    first_steps = {prefix for prefix, step in keys if step == "start"}
    assert {"NestedFlow", "nightly", "LoopsFlow", "loops_nightly", "FanFlow", "Numbered0Flow"} <= first_steps
    assert {"shop.test.ann.ShopFlow", "shop.test.bob.ShopFlow", "shop.prod.ShopFlow"} <= first_steps
    groups = {spec.group_name for spec in merged.defs.resolve_all_asset_specs() if spec.key.path[0] == "nightly"}
    assert groups == {"nightly"}


@pytest.mark.parametrize("job", ["nightly", "FanFlow"])
def test_jobs_of_one_location_run_under_their_own_step_keys(location, merged, job):
    flows: Project = location[0]
    result = merged.defs.resolve_job_def(job).execute_in_process(run_id=str(uuid.uuid4()))
    assert result.success
    done = [event.step_key for event in result.all_events if event.event_type == dg.DagsterEventType.STEP_SUCCESS]
    assert sorted(done) == ["collect_work", "end", "join", "start", "work[0]", "work[1]"]
    assert {event.asset_key.path[0] for event in result.get_asset_materialization_events()} == {job}
    assert flows.run_of(result).data.result == [1, 4]


def test_definition_names_begin_with_the_job(merged):
    job = merged.defs.resolve_job_def("NestedFlow")
    assert {"start", "fan_out_middle", "route_side", "end"} <= {node.name for node in job.nodes}
    assert all(node.definition.name == f"NestedFlow__{node.name}" for node in job.nodes)


def test_twenty_entries_merge_with_a_project_of_other_resources(location):
    flows, modules = location
    entries = []
    for module in modules:
        entry = MetaflowFlowComponent(flow_file="nested.py", name=module)
        compiled = state_of([CompiledFlow(module, (flows.folder / f"{module}.py").read_text())], digest="")
        place = Place(module, flows.folder / "defs.yaml", flows.folder)
        with pytest.warns(MetaflowFlowWarning, match=f"{module} has changed since its flows were compiled"):
            entries.append(entry.definitions(compiled, place, "again"))
    defs = dg.Definitions.merge(*entries, _dbt_like())
    dg.Definitions.validate_loadable(defs)
    assert len(defs.resolve_asset_graph().executable_asset_keys) > len(modules) * 2
    keys = [dg.AssetKey(["model", "orders"]), dg.AssetKey(["FanFlow", "start"])]
    result = defs.resolve_implicit_global_asset_job_def().execute_in_process(asset_selection=keys)
    assert {event.asset_key for event in result.get_asset_materialization_events()} == set(keys)
    # whatever the executors of their jobs are
    executors = {entry.executor for entry in entries}
    assert executors == {threads()}


class Dbt(dg.ConfigurableResource):
    """As dagster-dbt's DbtCliResource."""

    target: str


def _dbt_like() -> dg.Definitions:
    """A project as dagster-dbt makes it: several assets of one op, with a resource, beside an IO manager."""

    @dg.multi_asset(
        specs=[dg.AssetSpec(["model", "orders"], deps=["raw"]), dg.AssetSpec(["model", "customers"])],
        can_subset=True,
        name="nested",
    )
    def models(context, dbt: Dbt):
        for key in context.selected_asset_keys:
            yield dg.MaterializeResult(asset_key=key, metadata={"target": dbt.target})

    resources = {"dbt": Dbt(target="dev"), "io_manager": dg.mem_io_manager}
    return dg.Definitions(assets=[models], resources=resources)
