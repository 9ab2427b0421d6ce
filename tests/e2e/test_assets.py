"""Each step is an asset: with the flow's lineage, and materialized by the runs of its job."""

from __future__ import annotations

from datetime import timedelta

import dagster as dg
import pytest
from support import Project, execute, job_of, load, materialization, persistent


def _specs(flows: Project, definitions: str = "defs.py") -> dict[str, dg.AssetSpec]:
    specs = load(flows.folder / definitions).defs.resolve_all_asset_specs()
    return {spec.key.path[-1]: spec for spec in specs}


def _materialized(result: dg.ExecuteInProcessResult) -> list[str]:
    return sorted(event.asset_key.path[-1] for event in result.get_asset_materialization_events())


def test_steps_are_assets_with_the_flows_lineage(project):
    flows: Project = project("split.py")
    flows.compile("split.py")
    specs = _specs(flows)
    deps = {name: {dep.asset_key.path[-1] for dep in spec.deps} for name, spec in specs.items()}
    native = flows.native_run("split.py")
    assert deps == {step.id: {parent.id for parent in step.parent_steps} for step in native}
    spec = specs["start"]
    assert spec.key == dg.AssetKey(["SplitFlow", "start"])
    assert spec.group_name == "SplitFlow"
    assert spec.kinds == {"metaflow", "python"}
    assert spec.description == load(flows.folder / "defs.py").FLOW["start"].description
    assert spec.metadata["metaflow/step"] == "start"


def test_code_version_follows_the_steps_source_alone(project):
    flows: Project = project("one_step.py", "split.py")
    flows.compile("split.py")
    before = {name: spec.code_version for name, spec in _specs(flows).items()}
    source = flows.folder / "split.py"
    source.write_text(source.read_text().replace("def end(self):", "def end(self):\n        self.more = 1"))
    flows.compile("split.py")
    after = {name: spec.code_version for name, spec in _specs(flows).items()}
    assert {name for name in before if before[name] != after[name]} == {"end"}


def test_materialization_has_versions_of_code_and_data(project):
    flows: Project = project("split.py")
    job = flows.job("split.py")
    first, second = execute(job), execute(job)
    for step in ("start", "end"):
        one, two = materialization(first, step), materialization(second, step)
        assert one.tags["dagster/code_version"] == two.tags["dagster/code_version"]
        assert len(one.tags["dagster/data_version"]) == 16
    # the same artifacts are the same version
    assert (
        materialization(first, "start").tags["dagster/data_version"]
        == materialization(second, "start").tags["dagster/data_version"]
    )


def test_nothing_of_a_failed_step_is_materialized(project):
    flows: Project = project("flaky.py")
    definitions = flows.compile("flaky.py")
    with dg.DagsterInstance.ephemeral() as instance:
        result = execute(job_of(definitions), instance=instance)
        assert _materialized(result) == ["start"]


def test_reexecution_counts_the_tasks_of_both_runs(project, tmp_path):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from pathlib import Path\nfrom metaflow import FlowSpec, step\n\nclass ItemsFlow(FlowSpec):\n"
        "    @step\n    def start(self):\n        self.items = [0, 1, 2]\n"
        "        self.next(self.work, foreach='items')\n\n"
        "    @step\n    def work(self):\n        if self.input == 1 and not Path('ready').exists():\n"
        "            raise ValueError('not ready')\n        self.next(self.join)\n\n"
        "    @step\n    def join(self, inputs):\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    ItemsFlow()\n",
    )
    job = persistent(flows.compile("flow.py", "--executor", "in_process"))
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as instance:
        with dg.execute_job(job, instance) as first:
            assert not first.success
        flows.write("ready", "")
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        with dg.execute_job(job, instance, reexecution_options=options) as second:
            assert second.success
            events = [
                event.step_materialization_data.materialization
                for event in second.all_events
                if event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION
            ]
    work = next(event for event in events if event.asset_key.path[-1] == "work")
    assert work.metadata["tasks"].value == 3


def test_project_flows_have_keys_of_their_own_for_each_branch(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, project, step\n\n@project(name='shop')\nclass ShopFlow(FlowSpec):\n"
        "    @step\n    def only(self):\n        pass\n\nif __name__ == '__main__':\n    ShopFlow()\n",
    )
    result = flows.run("flow.py", None, top_level=("--branch", "nightly"))
    assert materialization(result, "only").asset_key.path == ["shop.test.nightly.ShopFlow", "only"]
    assert _specs(flows)["only"].group_name == "shop_test_nightly_ShopFlow"


def test_translator_decides_what_assets_are(project, monkeypatch):
    flows: Project = project("translators.py")
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, step\n\nclass ShopFlow(FlowSpec):\n"
        "    @step\n    def start(self):\n        self.x = 1\n        self.next(self.first)\n\n"
        "    @step\n    def first(self):\n        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    ShopFlow()\n",
    )
    flows.compile("flow.py", "--translator", "translators:ShopTranslator")
    monkeypatch.syspath_prepend(str(flows.folder))
    specs = _specs(flows)
    result = execute(job_of(flows.folder / "defs.py"))
    assert set(specs) == {"start", "end"}
    end = specs["end"]
    assert end.key == dg.AssetKey(["shop", "ShopFlow", "end"])
    # what depends on a step without an asset depends on what that depends on
    assert [dep.asset_key for dep in end.deps] == [specs["start"].key]
    assert (end.group_name, end.owners, end.kinds) == ("shop", ["team:shop"], {"metaflow"})
    assert end.tags["domain"] == "sales"
    assert end.metadata["wiki"] == "pages/shop"
    assert end.automation_condition == dg.AutomationCondition.eager()
    assert specs["start"].automation_condition is None
    assert end.freshness_policy == dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=24))
    (code,) = end.metadata["dagster/code_references"].code_references
    assert (code.file_path, code.line_number) == (str(flows.folder / "flow.py"), 13)
    assert result.success
    assert _materialized(result) == ["end", "start"]
    assert materialization(result, "start").asset_key == specs["start"].key


@pytest.mark.parametrize(
    ("translator", "problem"),
    [
        ("translators", "is 'translators'. Use the import path of a class"),
        ("nowhere:Thing", "can't be imported: No module named 'nowhere'"),
        ("translators:Missing", "can't be imported"),
        ("translators:NO_CLASS", "is no subclass of metaflow_pipes.runtime.DagsterMetaflowTranslator"),
    ],
)
def test_wrong_translator_is_refused(project, translator, problem):
    flows: Project = project("one_step.py", "translators.py")
    shown = flows.refuses("one_step.py", "create", "--translator", translator)
    assert problem in " ".join(shown.split())


def test_step_can_report_other_assets_and_its_own(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from dagster_pipes import PipesContext\nfrom metaflow import FlowSpec, step\n\nclass TalkingFlow(FlowSpec):\n"
        "    @step\n    def start(self):\n        pipes = PipesContext.get()\n"
        "        pipes.report_asset_materialization({'rows': 5}, 'v1', 'warehouse/table')\n"
        "        self.next(self.end)\n\n"
        "    @step\n    def end(self):\n"
        "        PipesContext.get().report_asset_materialization({'mine': 1}, asset_key='TalkingFlow/end')\n\n"
        "if __name__ == '__main__':\n    TalkingFlow()\n",
    )
    result = flows.run("flow.py")
    assert result.success
    table = materialization(result, "table")
    assert table.asset_key == dg.AssetKey(["warehouse", "table"])
    assert table.metadata["rows"].value == 5
    assert table.tags["dagster/data_version"] == "v1"
    own = materialization(result, "end")
    assert own.metadata["mine"].value == 1
    assert own.metadata["pathspec"].value == f"TalkingFlow/dagster-{result.run_id}/end/end"
