"""`@trigger`: each event starts exactly one run, with the parameters that it has the fields for."""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import InProcessTestWorkspaceLoadTarget
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._daemon.sensor import execute_sensor_iteration
from events import Ticks, config_of, publish
from support import Project, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NEEDED = {"country": "fr"}

FLOW = """
from metaflow import FlowSpec, Parameter, step, trigger

{decorator}
class EventFlow(FlowSpec):
    alpha = Parameter("alpha", type=int, default=1)
    beta = Parameter("beta", default="b")

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    EventFlow()
"""
AND = '@trigger(events=["a", {"name": "b", "parameters": ["alpha", ("beta", "text")]}]%s)'


@pytest.fixture(scope="module")
def waiting(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.of(tmp_path_factory.mktemp("waiting"), "waiting.py")
    project.compile("waiting.py")
    return project


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def ticks(waiting: Project, instance: dg.DagsterInstance) -> Ticks:
    return Ticks.of(waiting.folder / "defs.py", "WaitingFlow_trigger", instance)


def ticks_of(project: Any, instance: dg.DagsterInstance, decorator: str, *options: str) -> Ticks:
    made = project()
    made.write("event.py", FLOW.format(decorator=decorator))
    return Ticks.of(made.compile("event.py", *options), "EventFlow_trigger", instance)


def test_an_event_starts_one_run_that_knows_it(waiting, ticks, instance, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("a file")
    payload = {"rows": 3, "learning-rate": 1, "is_full": "yes", "shape": '{"x": [1]}', "days": ["mon", "tue"]}
    publish(
        instance, "data_ready", {**payload, "country": "fr", "notes": str(notes), "id": "my id", "timestamp": 86400}
    )

    (request,) = ticks.tick()
    assert ticks.tick() == []

    result = ticks.run(request)
    run = waiting.run_of(result)
    assert run.data.values == [3, 1.0, True, {"x": [1]}, ["mon", "tue"], None, "fr"]
    assert run.data.ids == ["my id", "my id"]
    assert [(event.name, event.id, event.type) for event in run.trigger] == [("data_ready", "my id", "event")]
    assert result.dagster_run.tags["metaflow/event"] == "data_ready"
    (observed,) = instance.fetch_observations(dg.AssetKey(["metaflow_event", "data_ready"]), limit=2).records
    assert observed.run_id == result.run_id


def test_a_field_that_is_missing_leaves_the_default(ticks, instance):
    publish(instance, "data_ready", NEEDED)

    (request,) = ticks.tick()

    assert config_of(request) == {"country": "fr", "title": None, "notes": None}


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({}, "requires the parameter country, and the event has no field country"),
        ({**NEEDED, "rows": "many"}, "'many', which is no value of parameter rows (int)"),
        ({**NEEDED, "rows": 1.5}, "it is no whole number"),
        ({**NEEDED, "is_full": "perhaps"}, "it is neither true nor false"),
        ({**NEEDED, "shape": "{"}, "parameter shape (json)"),
    ],
)
def test_an_event_that_can_start_no_run_is_refused_by_name_in_the_tick(ticks, instance, payload, reason):
    publish(instance, "data_ready", payload)

    assert ticks.tick() == []

    assert reason in ticks.skipped
    assert reason in "".join(ticks.log)
    publish(instance, "data_ready", NEEDED)
    assert len(ticks.tick()) == 1


def test_events_before_the_deployment_start_nothing_and_those_after_it_are_not_lost(project, instance):
    publish(instance, "data_ready", {"alpha": 1})
    time.sleep(0.02)
    made = project()
    made.write("event.py", FLOW.format(decorator='@trigger(event="data_ready")'))
    file = made.compile("event.py")
    time.sleep(0.02)
    publish(instance, "data_ready", {"alpha": 2})

    ticks = Ticks(load(file).defs, "EventFlow_trigger", instance)
    assert [config_of(request)["alpha"] for request in ticks.tick()] == [2]


def test_five_hundred_events_start_five_hundred_runs_over_several_ticks(ticks, instance):
    for number in range(500):
        publish(instance, "data_ready", {**NEEDED, "rows": number})

    per_tick = [ticks.tick() for _ in range(6)]

    assert [len(requests) for requests in per_tick] == [100, 100, 100, 100, 100, 0]
    requests = [request for requests in per_tick for request in requests]
    assert [config_of(request)["rows"] for request in requests] == list(range(500))
    assert len({request.run_key for request in requests}) == 500


def test_all_events_are_waited_for_and_the_latest_one_of_a_name_counts(project, instance):
    ticks = ticks_of(project, instance, AND % "")

    publish(instance, "b", {"alpha": 1, "text": "first"})
    publish(instance, "b", {"alpha": 2, "text": "latest"})
    assert ticks.tick() == []
    assert ticks.skipped == "Waiting for a."
    publish(instance, "a")
    publish(instance, "a")
    (request,) = ticks.tick()
    assert config_of(request) == {"alpha": 2, "beta": "latest"}
    assert [event["name"] for event in json.loads(request.tags["metaflow/triggers"])] == ["b", "a"]
    assert ticks.tick() == []
    assert ticks.skipped == "Waiting for b."


def test_a_reset_drops_what_waits(project, instance):
    ticks = ticks_of(project, instance, AND % ', options={"reset_at": {"cron": "* * * * *", "timezone": "UTC"}}')
    publish(instance, "a")
    ticks.tick()
    # as if it had come two minutes ago
    kept = json.loads(ticks.cursor or "")
    assert len(kept["pending"]) == 1
    kept["pending"][0][2] -= 120
    ticks.cursor = json.dumps(kept)

    publish(instance, "b", {"alpha": 1})

    assert ticks.tick() == []
    assert ticks.skipped == "Waiting for a."


@pytest.mark.parametrize("name", ["a.b-c", "with space", "a/b", "asset:raw/events"])
def test_names_of_events_and_keys_of_assets(project, instance, name):
    ticks = ticks_of(project, instance, f'@trigger(event={{"name": "{name}", "parameters": {{"ALPHA": "n"}}}})')

    publish(instance, name, {"n": 7})

    assert [config_of(request) for request in ticks.tick()] == [{"alpha": 7}]


def test_deploy_time_functions_and_a_paused_sensor(project, instance):
    decorator = '@trigger(events=lambda context: [{"name": context.flow_name.lower(), "parameters": {"beta": "x"}}])'
    ticks = ticks_of(project, instance, decorator, "--paused")

    publish(instance, "eventflow", {"x": {"y": 1}})

    assert [config_of(request) for request in ticks.tick()] == [{"beta": '{"y": 1}'}]
    sensor = ticks.definitions.resolve_sensor_def("EventFlow_trigger")
    assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


@pytest.mark.parametrize(
    ("decorator", "message"),
    [
        ('@trigger(event={"name": "a", "parameters": {"gamma": "x"}})', "the parameter gamma, which the flow does not"),
        ('@trigger(events=[{"name": "a", "parameters": ["alpha"]}, {"name": "b", "parameters": ["ALPHA"]}])', "twice"),
        ('@trigger(event="a//b")', "'a//b' is no name of an event"),
        ('@trigger(event="a", options={"reset_at": {"timezone": "UTC"}})', 'options={"reset_at": {"cron"'),
    ],
)
def test_what_can_not_be_waited_for_is_a_compile_error(project, decorator, message):
    made = project()
    made.write("event.py", FLOW.format(decorator=decorator))

    assert message in made.refuses("event.py", "create", "defs.py")


def test_create_says_what_starts_the_flow(project):
    made = project()
    made.write("event.py", FLOW.format(decorator=AND % ""))

    said = made.metaflow("event.py", "dagster", "create", "defs.py").stdout

    assert "EventFlow_trigger: starts EventFlow when the events a and b have all been published." in said


def test_the_flow_depends_on_its_events_in_the_asset_graph(ticks):
    graph = ticks.definitions.resolve_asset_graph()

    assert graph.get(dg.AssetKey(["WaitingFlow", "start"])).parent_keys == {
        dg.AssetKey(["metaflow_event", "data_ready"])
    }


@pytest.mark.parametrize("crash", ["RUN_IDS_RESERVED", "RUN_CREATED", "RUN_LAUNCHED"])
def test_a_daemon_that_is_killed_between_evaluation_and_launch_launches_each_event_once(
    waiting, tmp_path, monkeypatch, crash
):
    file = waiting.folder / "defs.py"
    os.utime(file)
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        for number in range(3):
            publish(instance, "data_ready", {**NEEDED, "rows": number})
        with monkeypatch.context() as patched:
            patched.setattr("dagster._daemon.sensor.check_for_debug_crash", _dying(crash))
            with pytest.raises(KeyboardInterrupt):
                _iterate(instance, file)
        publish(instance, "data_ready", {**NEEDED, "rows": 3})
        for _ in range(2):
            _let_time_pass(instance)
            _iterate(instance, file)  # with the code location loaded anew

        runs = instance.get_runs()
        assert sorted(run.run_config["ops"]["start"]["config"]["rows"] for run in runs) == [0, 1, 2, 3]
        assert {run.status for run in runs} == {dg.DagsterRunStatus.QUEUED}


def _dying(point: str) -> Callable[..., None]:
    """A function that ends the daemon at a point, which by a `KeyboardInterrupt` writes nothing more."""

    def check(flags: object, key: str) -> None:
        if key == point:
            raise KeyboardInterrupt

    return check


def _iterate(instance: dg.DagsterInstance, file: Path) -> None:
    """One iteration of Dagster's sensor daemon, over a definitions file that is loaded anew."""
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(python_file=str(file), working_directory=str(file.parent)), location_name="defs"
    )
    with WorkspaceProcessContext(instance, InProcessTestWorkspaceLoadTarget(origin)) as workspace:
        list(execute_sensor_iteration(workspace, logging.getLogger("daemon"), None, None))


def _let_time_pass(instance: dg.DagsterInstance) -> None:
    """Let the sensor be due."""
    for state in instance.all_instigator_state():
        data: Any = state.instigator_data
        earlier = {
            name: getattr(data, name) and getattr(data, name) - 60
            for name in ("last_tick_timestamp", "last_tick_start_timestamp")
        }
        instance.update_instigator_state(state.with_data(data._replace(**earlier)))


def test_events_wait_while_as_many_runs_as_may_be_are_under_way(project, instance):
    ticks = ticks_of(project, instance, '@trigger(event="a")', "--max-concurrent-runs", "2")
    job = ticks.definitions.resolve_job_def("EventFlow")
    under_way = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(job.tags))
    for number in range(3):
        publish(instance, "a", {"alpha": number})

    assert [config_of(request)["alpha"] for request in ticks.tick()] == [0]
    other = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags=dict(job.tags))
    assert ticks.tick() == []
    assert "The events wait." in (ticks.skipped or "")
    for run in (under_way, other):
        instance.report_run_canceled(run)
    assert [config_of(request)["alpha"] for request in ticks.tick()] == [1, 2]
