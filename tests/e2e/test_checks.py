"""Asset checks: declared by decorators or the translator, reported by the code of steps, evaluated by Dagster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import dagster as dg
import pytest
from support import Project, execute, job_of, load

from metaflow_pipes.names import ORIGIN_RUN_ID_TAG

if TYPE_CHECKING:
    from collections.abc import Callable


class Run(NamedTuple):
    result: dg.ExecuteInProcessResult
    instance: dg.DagsterInstance

    @property
    def evaluations(self) -> dict[str, dg.AssetCheckEvaluation]:
        events = [entry.dagster_event for entry in self.instance.all_logs(self.result.run_id)]
        found = [e.event_specific_data for e in events if e and e.event_type_value == "ASSET_CHECK_EVALUATION"]
        assert len({evaluation.check_name for evaluation in found}) == len(found)
        return {evaluation.check_name: evaluation for evaluation in found}

    @property
    def warnings(self) -> list[str]:
        entries = self.instance.all_logs(self.result.run_id)
        return [entry.user_message for entry in entries if entry.level >= 30 and not entry.is_dagster_event]


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.of(tmp_path_factory.mktemp("checks") / "flows", "checked.py")
    project.compile("checked.py")
    return project


@pytest.fixture(scope="module")
def job_run(flows: Project) -> Run:
    """A run of the job, of whose items the second is bad."""
    instance = dg.DagsterInstance.ephemeral()
    return Run(execute(job_of(flows.folder / "defs.py"), {"bad": "1"}, instance=instance), instance)


def _assets_run(flows: Project, selection: dg.AssetSelection, parameters: dict[str, object]) -> Run:
    assets, instance = load(flows.folder / "defs.py").ASSETS, dg.DagsterInstance.ephemeral()
    job = dg.define_asset_job("selected", selection)
    definitions = dg.Definitions(assets=assets, jobs=[job], executor=dg.in_process_executor)
    config = {"ops": {"CheckedFlow": {"ops": {"start": {"config": parameters}}}}}
    result = definitions.resolve_job_def("selected").execute_in_process(config, instance=instance, raise_on_error=False)
    return Run(result, instance)


def test_checks_are_declared_by_decorators(flows: Project) -> None:
    (assets,) = load(flows.folder / "defs.py").ASSETS
    declared = {(check.key.asset_key.path[-1], check.name): check for check in assets.check_specs}
    assert set(declared) == {("start", "enough_rows"), ("start", "forgotten"), ("work", "in_order")}
    enough_rows = declared["start", "enough_rows"]
    assert (enough_rows.blocking, enough_rows.description) == (True, "There are three rows or more.")
    assert not declared["work", "in_order"].blocking
    # the commands that only read the file understand it
    assert "CheckedFlow" in flows.metaflow("checked.py", "dagster", "list-jobs").stdout


def test_reported_checks_become_evaluations_in_a_run_of_the_job(job_run: Run) -> None:
    assert job_run.result.success
    start = dg.AssetKey(["CheckedFlow", "start"])
    enough_rows = job_run.evaluations["enough_rows"]
    assert (enough_rows.asset_key, enough_rows.passed, enough_rows.blocking) == (start, True, True)
    assert {name: value.value for name, value in enough_rows.metadata.items()} == {"rows": 5}
    undeclared = job_run.evaluations["undeclared"]
    assert (undeclared.asset_key, undeclared.passed, undeclared.metadata["by"].value) == (start, True, "pipes")
    no_nulls = job_run.evaluations["no_nulls"]
    assert (no_nulls.asset_key.path, no_nulls.passed) == (["warehouse", "table"], False)
    assert no_nulls.severity == dg.AssetCheckSeverity.WARN
    missing, unknown = sorted(job_run.warnings)
    assert "Step start of flow CheckedFlow has not reported its check forgotten, though it declares that." in missing
    assert "the check undeclared, which it does not declare: passed." in unknown


def test_check_of_a_foreach_step_says_in_which_tasks_it_failed(flows: Project, job_run: Run) -> None:
    in_order = job_run.evaluations["in_order"]
    task = flows.run_of(job_run.result)["work"]["work-1"]
    failed = task.pathspec
    assert in_order.asset_key == dg.AssetKey(["CheckedFlow", "work"])
    assert not in_order.passed
    assert in_order.description == f"Failed in {failed}"
    assert (in_order.metadata["tasks"].value, in_order.metadata["failed_tasks"].value) == (2, 1)
    (record,) = in_order.metadata["failed"].records
    assert record.data == {"task": failed, "severity": "ERROR", "metadata": "item = 1"}
    # the client has the results of each task
    assert '"passed": false' in task.metadata_dict["dagster-checks"]


def test_clones_have_the_results_of_the_run_that_is_resumed(flows: Project, job_run: Run) -> None:
    instance = dg.DagsterInstance.ephemeral()
    origin = {ORIGIN_RUN_ID_TAG: f"dagster-{job_run.result.run_id}"}
    resumed = Run(execute(job_of(flows.folder / "defs.py"), tags=origin, instance=instance), instance)
    assert resumed.result.success
    assert resumed.evaluations["enough_rows"].passed
    in_order = resumed.evaluations["in_order"]
    assert in_order.description == f"Failed in CheckedFlow/dagster-{resumed.result.run_id}/work/work-1"
    # it has not run: there is nothing to complain of
    assert not [warning for warning in resumed.warnings if "forgotten" in warning]


def test_blocking_check_that_fails_fails_the_step(flows: Project) -> None:
    instance = dg.DagsterInstance.ephemeral()
    run = Run(execute(job_of(flows.folder / "defs.py"), {"rows": 1}, instance=instance), instance)
    assert not run.result.success
    (failure,) = [event for event in run.result.all_events if event.is_step_failure]
    error = failure.step_failure_data.user_failure_data
    assert "Check enough_rows of step start failed (ERROR): rows = 1" in error.description
    assert "traceback" not in error.metadata
    enough_rows = run.evaluations["enough_rows"]
    assert (enough_rows.passed, enough_rows.metadata["rows"].value) == (False, 1)
    # what the step has made is there to be looked at
    task = flows.run_of(run.result)["start"].task
    assert (task.successful, task["items"].data) == (False, [0, 1])


def test_checks_are_selected_without_their_assets_and_assets_without_their_checks(flows: Project) -> None:
    start = dg.AssetSelection.assets(["CheckedFlow", "start"]).without_checks()
    run = _assets_run(flows, start, {"rows": 4})
    assert run.result.success
    assert run.evaluations["enough_rows"].metadata["rows"].value == 4
    in_order = dg.AssetSelection.checks(dg.AssetCheckKey(dg.AssetKey(["CheckedFlow", "work"]), "in_order"))
    run = _assets_run(flows, in_order, {})
    assert run.result.success
    assert not run.result.get_asset_materialization_events()
    assert set(run.evaluations) == {"in_order"}
    assert run.evaluations["in_order"].passed
    assert run.evaluations["in_order"].metadata["tasks"].value == 2
    # the step itself has run, and those before are cloned
    cloned = [entry.user_message for entry in run.instance.all_logs(run.result.run_id) if "is cloned" in entry.message]
    assert len(cloned) == 1
    assert "/start/start is cloned from" in cloned[0]


def test_without_dagster_results_are_printed_and_a_blocking_check_fails_the_step(flows: Project) -> None:
    shown = flows.metaflow("checked.py", "run", "--rows", "1", check=False).stdout
    assert "Check enough_rows failed (ERROR): rows = 1" in shown
    assert "Blocking check failed" in shown
    assert "Step failure" in shown


def test_checks_of_loops_of_gangs_and_of_the_translator(project: Callable[..., Project], monkeypatch: Any) -> None:
    flows = project("checked_gang.py", "translators.py")
    monkeypatch.syspath_prepend(str(flows.folder))
    definitions = flows.compile("checked_gang.py", "--translator", "translators:StrictTranslator")
    instance = dg.DagsterInstance.ephemeral()
    run = Run(execute(job_of(definitions), instance=instance), instance)
    # the last iteration that reports a check counts
    converges = run.evaluations["converges"]
    assert (converges.passed, converges.metadata["count"].value) == (True, 2)
    in_gang = run.evaluations["in_gang"]
    assert in_gang.description == f"Failed in GangFlow/dagster-{run.result.run_id}/work/work_node_1"
    assert in_gang.metadata["tasks"].value == 2
    # the translator alone declares it, as blocking
    assert not run.evaluations["no_nulls"].passed
    (failure,) = [event for event in run.result.all_events if event.is_step_failure]
    assert failure.step_key == "end"
    assert "Check no_nulls of step end failed (ERROR)" in failure.step_failure_data.user_failure_data.description


@pytest.mark.parametrize(
    ("decorators", "problem"),
    [
        ('@dagster_check("enough rows")', "needs a name of letters, digits and underscores"),
        ('@dagster_check("rows")\n    @dagster_check("rows")', "has more than one @dagster_check of the name rows"),
        ('@dagster_check("rows", description=3)', "the description of @dagster_check rows is no text: 3"),
    ],
)
def test_wrong_declaration_is_refused(project: Callable[..., Project], decorators: str, problem: str) -> None:
    flows = project("checked.py")
    source = flows.folder / "checked.py"
    source.write_text(source.read_text().replace('@dagster_check("in_order")', decorators))
    shown = " ".join(flows.refuses("checked.py", "create").split())
    assert "Step work of flow CheckedFlow" in shown
    assert problem in shown
