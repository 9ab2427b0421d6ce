"""`@trigger_on_finish`: a run's success is an event, once, wherever the run was started; a failure is none."""

from __future__ import annotations

import dagster as dg
import pytest
from events import Ticks, published
from support import Project, execute, job_of, persistent

UPSTREAM = """
from metaflow import FlowSpec, Parameter, project, step

{project}
class UpstreamFlow(FlowSpec):
    fails = Parameter("fails", type=bool, default=False)

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        if self.fails:
            raise ValueError("no end")

if __name__ == "__main__":
    UpstreamFlow()
"""
DOWNSTREAM = """
from metaflow import FlowSpec, current, project, step, trigger, trigger_on_finish

{decorators}
class DownstreamFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        self.upstream = current.trigger.run.pathspec
        self.count = len(current.trigger.runs)

if __name__ == "__main__":
    DownstreamFlow()
"""


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.of(tmp_path_factory.mktemp("upstream"))
    project.write("upstream.py", UPSTREAM.format(project=""))
    project.compile("upstream.py")
    return project


def downstream(folder, decorators: str, *options: str) -> Project:
    project = Project.of(folder / "downstream")
    project.write("downstream.py", DOWNSTREAM.format(decorators=decorators))
    project.compile("downstream.py", *options)
    return project


def test_a_success_starts_the_flow_of_another_code_location(upstream, instance, tmp_path):
    project = downstream(tmp_path, '@trigger_on_finish(flow="UpstreamFlow")')
    ticks = Ticks.of(project.folder / "defs.py", "DownstreamFlow_trigger_on_finish", instance)
    job = job_of(upstream.folder / "defs.py")

    assert not execute(job, {"fails": True}, instance=instance).success
    assert ticks.tick() == []
    result = execute(job, instance=instance)
    assert result.success
    (request,) = ticks.tick()
    assert ticks.tick() == []

    assert request.tags["metaflow/triggered_by"] == f"UpstreamFlow/dagster-{result.run_id}"
    assert request.tags["metaflow/triggered_by_dagster_run"] == result.run_id
    started = ticks.run(request)
    # the client of these tests sees one datastore, and Metaflow's own sees none of the other flow's runs
    failures = [event for event in started.all_events if event.event_type_value == "STEP_FAILURE"]
    assert [event.step_key for event in failures] in ([], ["end"])
    run = project.run_of(started)
    assert [(event.name, event.type) for event in run.trigger] == [("metaflow.UpstreamFlow.end", "run")]
    assert run.trigger.event.id == f"UpstreamFlow/dagster-{result.run_id}/end/end"


def test_a_run_that_is_gone_on_with_finishes_once(upstream, instance):
    file = upstream.folder / "defs.py"
    with dg.execute_job(persistent(file), instance=instance) as first:
        assert first.success
    (event,) = published(instance, "metaflow.UpstreamFlow.end")
    assert event["run_id"] == f"dagster-{first.run_id}"
    assert event["auto-generated-by-metaflow"] is True

    options = dg.ReexecutionOptions(parent_run_id=first.run_id, step_selection=["end"])
    with dg.execute_job(persistent(file), instance=instance, reexecution_options=options) as again:
        assert again.success
    assert len(published(instance, "metaflow.UpstreamFlow.end")) == 1

    whole = dg.ReexecutionOptions(parent_run_id=first.run_id)
    with dg.execute_job(persistent(file), instance=instance, reexecution_options=whole) as anew:
        assert anew.success
    assert len(published(instance, "metaflow.UpstreamFlow.end")) == 2


@pytest.mark.parametrize(
    ("decorators", "name"),
    [
        ('@trigger_on_finish(flow="UpstreamFlow")', "metaflow.UpstreamFlow.end"),
        ('@trigger_on_finish(flow="shop.user.bob.UpstreamFlow")', "metaflow.shop.user.bob.UpstreamFlow.end"),
        (
            '@trigger_on_finish(flow={"name": "UpstreamFlow", "project": "shop", "project_branch": "prod"})',
            "metaflow.shop.prod.UpstreamFlow.end",
        ),
        (
            '@project(name="shop")\n@trigger_on_finish(flow="UpstreamFlow")',
            "metaflow.shop.user.tester.UpstreamFlow.end",
        ),
        (
            '@project(name="shop")\n@trigger_on_finish(flow={"name": "UpstreamFlow", "project_branch": "prod.b"})',
            "metaflow.shop.prod.b.UpstreamFlow.end",
        ),
        ('@trigger_on_finish(flow=lambda context: "UpstreamFlow")', "metaflow.UpstreamFlow.end"),
    ],
)
def test_names_of_flows_are_resolved_as_by_metaflow(tmp_path, decorators, name):
    project = downstream(tmp_path, decorators)

    assert f'"name": "{name}"' in (project.folder / "defs.py").read_text()


def test_a_run_in_a_project_finishes_under_its_branch(project, instance):
    made = project()
    made.write("upstream.py", UPSTREAM.format(project='@project(name="shop")'))

    assert execute(made.job("upstream.py"), instance=instance).success

    (event,) = published(instance, "metaflow.shop.user.tester.UpstreamFlow.end")
    assert (event["project_name"], event["branch_name"]) == ("shop", "user.tester")
    assert (event["is_user_branch"], event["is_production"]) == (True, False)


def test_incomplete_projects_are_a_compile_error(project):
    made = project()
    decorator = '@trigger_on_finish(flow={"name": "UpstreamFlow", "project": "shop"})'
    made.write("downstream.py", DOWNSTREAM.format(decorators=decorator))

    assert "Give both, project and project_branch" in made.refuses("downstream.py", "create", "defs.py")


def test_either_decorator_starts_a_flow_that_has_both(instance, tmp_path, upstream):
    project = downstream(tmp_path, '@trigger(event="data_ready")\n@trigger_on_finish(flows=["UpstreamFlow", "B"])')

    ticks = Ticks.of(project.folder / "defs.py", "DownstreamFlow_trigger_on_finish", instance)
    assert execute(job_of(upstream.folder / "defs.py"), instance=instance).success
    assert ticks.tick() == []
    assert ticks.skipped == "Waiting for metaflow.B.end."
    assert ticks.definitions.resolve_sensor_def("DownstreamFlow_trigger").name
