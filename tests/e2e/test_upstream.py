"""Assets of others that a flow depends on: their order, their values, and the flow that runs when they are new."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from support import Project, load

if TYPE_CHECKING:
    from types import ModuleType

FLOW = "TrainedFlow"
EVENTS = dg.AssetKey(["raw", "events"])
LABELS = dg.AssetKey(["raw", "labels"])
DEPENDING = ("--depends-on", "raw/labels", "--depends-on", "fit=raw/shapes", "--param-from", "rate=raw/events")


@pytest.fixture(scope="module")
def module(tmp_path_factory) -> ModuleType:
    project = Project.of(tmp_path_factory.mktemp("upstream"), "trained.py")
    return load(project.compile("trained.py", *DEPENDING, "--automation", "eager"))


def _specs(module: ModuleType) -> dict[str, dg.AssetSpec]:
    return {spec.key.path[-1]: spec for spec in module.defs.resolve_all_asset_specs()}


def _raw(value: Any = 0.25) -> list[dg.AssetsDefinition]:
    @dg.asset(key=EVENTS)
    def events():
        return value

    @dg.asset(key=LABELS)
    def labels(): ...

    @dg.asset(key=["raw", "shapes"])
    def shapes(): ...

    return [events, labels, shapes]


def _order(result: dg.ExecuteInProcessResult) -> list[str]:
    return [event.asset_key.path[-1] for event in result.get_asset_materialization_events()]


def _why(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    texts = []
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        while error is not None:
            texts.append(error.message)
            error = error.cause
    return " ".join(" ".join(texts).split())


def test_lineage_goes_through_what_the_flow_depends_on(module):
    deps = {name: {dep.asset_key.to_user_string() for dep in spec.deps} for name, spec in _specs(module).items()}
    assert deps["start"] == {"raw/labels", "raw/events"}
    assert deps["fit"] == {"TrainedFlow/start", "raw/shapes"}
    assert deps["end"] == {"TrainedFlow/choose"}
    graph = dg.Definitions(assets=[*_raw(), *module.ASSETS]).resolve_asset_graph()
    selected = dg.AssetSelection.from_string('+key:"TrainedFlow/fit"').resolve(graph)
    assert {key.to_user_string() for key in selected} == {
        *("TrainedFlow/start", "TrainedFlow/fit"),
        *("raw/events", "raw/labels", "raw/shapes"),
    }


@pytest.fixture(scope="module")
def materialized(module, tmp_path_factory):
    """The flow with what it depends on, in one run; and a run of the job after it."""
    definitions = dg.Definitions(assets=[*_raw(), *module.ASSETS], jobs=[module.JOB])
    with dg.DagsterInstance.local_temp(str(tmp_path_factory.mktemp("home"))) as instance:
        result = dg.materialize([*_raw(), *module.ASSETS], instance=instance)
        yield result, instance, definitions


def test_flow_begins_after_what_it_depends_on_and_takes_its_value(materialized):
    result, instance, _ = materialized
    order = _order(result)
    assert order.index("start") > max(order.index("events"), order.index("labels"))
    assert order.index("fit") > order.index("shapes")
    (run_id,) = {run.tags["metaflow/run_id"] for run in instance.get_runs()}
    event = next(e for e in result.get_asset_materialization_events() if e.asset_key.path[-1] == "choose")
    store = event.materialization.metadata["metaflow/store"].data
    import metaflow

    metaflow.metadata(store["metadata"])
    run = metaflow.Run(f"{FLOW}/{run_id}", _namespace_check=False)
    assert run["end"].task.data.rate == 0.25


def test_value_that_is_no_parameter_is_refused(module, project, monkeypatch):
    wrong = {"x" * 100_001: "100,003 characters long as JSON", object: "a type, which JSON does not have"}
    for value, problem in wrong.items():
        result = dg.materialize([*_raw(value), *module.ASSETS], raise_on_error=False)
        assert f"takes the value of asset raw/events, which is {problem}" in _why(result)
        assert "Let the asset write it to a file, and return the path" in _why(result)
    result = dg.materialize([*_raw([1]), *module.ASSETS], raise_on_error=False)
    assert "of another type. It is [1], which is no value of parameter rate (float)" in _why(result)


def test_value_is_not_also_in_the_run_config(module):
    config = {"ops": {FLOW: {"ops": {"start": {"config": {"rate": 1.0}}}}}}
    result = dg.materialize([*_raw(), *module.ASSETS], run_config=config, raise_on_error=False)
    assert "1.0 in the run config, and is filled by the asset, too" in _why(result)


def test_run_of_the_job_loads_the_value_from_its_code_location(module, tmp_path):
    result = module.JOB.execute_in_process(raise_on_error=False)
    assert "not at hand: what the run was launched from does not define the asset" in _why(result)


def _requested(module: ModuleType, instance: dg.DagsterInstance, cursor: Any = None) -> tuple[set[str], Any]:
    definitions = dg.Definitions(assets=[*_raw(), *module.ASSETS])
    result = dg.evaluate_automation_conditions(definitions, instance, cursor=cursor)
    requested = {entry.key.to_user_string() for entry in result.results if entry.true_subset.size}
    return requested, result.cursor


WHOLE = {f"{FLOW}/{step}" for step in ("start", "fit", "choose", "end")}


def _materialize(instance: dg.DagsterInstance, *keys: str) -> None:
    for key in keys:
        instance.report_runless_asset_event(dg.AssetMaterialization(dg.AssetKey.from_user_string(key)))


def test_flow_is_asked_for_as_a_whole_when_what_it_depends_on_is_new(module):
    with dg.DagsterInstance.ephemeral() as instance:
        _, cursor = _requested(module, instance)
        _materialize(instance, "raw/events", "raw/labels", "raw/shapes")
        requested, cursor = _requested(module, instance, cursor)
        assert requested == WHOLE
        _materialize(instance, *sorted(WHOLE))
        requested, cursor = _requested(module, instance, cursor)
        assert requested == set()
        _materialize(instance, "raw/labels")
        requested, cursor = _requested(module, instance, cursor)
        assert requested == WHOLE
        _materialize(instance, *sorted(WHOLE))
        _, cursor = _requested(module, instance, cursor)
        # a step's own dependency asks for what is behind that step
        _materialize(instance, "raw/shapes")
        requested, cursor = _requested(module, instance, cursor)
        assert requested == WHOLE - {f"{FLOW}/start"}
        # in a run of the job, the first step's asset is there before the others
        _materialize(instance, *sorted(WHOLE))
        _, cursor = _requested(module, instance, cursor)
        _materialize(instance, f"{FLOW}/start")
        assert _requested(module, instance, cursor)[0] == set()


def test_sensor_of_the_flow_runs_unless_paused(module, project):
    (sensor,) = module.defs.sensors
    assert sensor.name == "TrainedFlow_automation"
    assert sensor.default_status == dg.DefaultSensorStatus.RUNNING
    flows: Project = project("trained.py")
    options = ("--automation", "on_cron:0 6 ? * MON-FRI *@Europe/Berlin", "--paused")
    definitions = flows.folder / "defs.py"
    shown = flows.metaflow("trained.py", "dagster", "create", "defs.py", *options).stdout
    assert "TrainedFlow_automation: materializes TrainedFlow" in shown
    assert "the cron expression `0 6 * * MON-FRI` in time zone Europe/Berlin" in shown
    (sensor,) = load(definitions).defs.sensors
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    shown = flows.metaflow(
        "trained.py", "dagster", "unsuspend", "--definitions-file", "defs.py", DAGSTER_HOME=""
    ).stdout
    assert "TrainedFlow_automation is running" in shown


TRANSLATOR = """
import dagster as dg
from metaflow_pipes.runtime import DagsterMetaflowTranslator

class RawTranslator(DagsterMetaflowTranslator):
    def get_deps(self, flow, step):
        return ["raw/events"] if step.name == "start" else []

    def get_automation_condition(self, flow, step):
        return self.for_whole_flow(flow, step, dg.AutomationCondition.eager())

    def includes(self, flow, step):
        return step.name != "start"
"""


def test_translator_says_what_the_flow_depends_on_and_when_it_runs(project, monkeypatch):
    flows: Project = project("trained.py")
    flows.write("raw_translator.py", TRANSLATOR)
    monkeypatch.syspath_prepend(str(flows.folder))
    module = load(flows.compile("trained.py", "--translator", "raw_translator:RawTranslator"))
    specs = _specs(module)
    # the dependency of a step without an asset is handed on
    assert [dep.asset_key for dep in specs["fit"].deps] == [EVENTS]
    assert [sensor.name for sensor in module.defs.sensors] == ["TrainedFlow_automation"]
    with dg.DagsterInstance.ephemeral() as instance:
        requested, cursor = _requested(module, instance)
        assert requested == set()
        _materialize(instance, "raw/events")
        assert _requested(module, instance, cursor)[0] == WHOLE - {f"{FLOW}/start"}
    for option, value in (("--depends-on", "raw/labels"), ("--automation", "eager")):
        shown = flows.refuses("trained.py", "create", "--translator", "raw_translator:RawTranslator", option, value)
        assert f"{option} is given, and the translator raw_translator:RawTranslator has get_" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--depends-on", "nostep=raw/events"), "names the step nostep, which flow TrainedFlow does not have"),
        (("--depends-on", "raw//events"), "is no key of an asset"),
        (("--depends-on", "TrainedFlow/start"), "is an asset of flow TrainedFlow itself"),
        (("--param-from", "size=raw/events"), "names the parameter size, which flow TrainedFlow does not have"),
        (("--param-from", "rate"), "is not of the form NAME=VALUE"),
        (("--param-from", "rate=a", "--param-from", "rate=b"), "Name one asset"),
        (("--automation", "sometimes"), "Use one of eager, on_missing, or on_cron:EXPRESSION"),
        (("--automation", "on_cron:whenever"), "can't be used"),
        (("--automation", "on_cron:0 6 * * *@Mars/Olympus"), "which the IANA database does not have"),
    ],
)
def test_wrong_options_are_refused(project, options, problem):
    flows: Project = project("trained.py")
    shown = " ".join(flows.refuses("trained.py", "create", *options).split())
    assert problem in shown.replace("*", ""), shown


def test_required_parameter_needs_an_asset(project):
    flows: Project = project("required.py")
    refused = " ".join(flows.refuses("required.py", "create", "--automation", "eager").split())
    assert "can't be materialized by itself, though it has --automation" in refused
