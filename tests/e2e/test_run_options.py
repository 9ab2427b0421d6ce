"""Options of one run, by `trigger` and `resume`: tags, decorators, namespace and limit, beside the deployment's."""

from __future__ import annotations

import dagster as dg
import pytest
from metaflow import DeployedFlow
from metaflow.cards import get_cards
from support import Project, execute, failure_description, failures, job_of, persistent

from metaflow_pipes.names import RUN_TAGS_TAG, WORKFLOW_TIMEOUT_TAG
from metaflow_pipes.run_options import RunOptions

FLOW = """
from pathlib import Path

from metaflow import FlowSpec, Parameter, StepMutator, get_namespace, step, user_step_decorator


@user_step_decorator
def marked(step_name, flow, inputs=None, attributes=None):
    flow.mark = step_name
    yield


class Mutator(StepMutator):
    pass


class OptionsFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        if not Path("ready").exists():
            raise ValueError("not ready")
        self.namespace = get_namespace()


if __name__ == "__main__":
    OptionsFlow()
"""


@pytest.fixture
def flows(project) -> Project:
    project = project()
    project.write("flow.py", FLOW)
    return project


def test_resumed_run_has_options_of_its_own(flows, tmp_path):
    definitions = flows.compile("flow.py", "--tag", "model:linear", "--workflow-timeout", "3600", "--namespace", "a")
    origin = execute(job_of(definitions))
    assert not origin.success
    flows.write("ready", "")
    arguments = ["--tag", "model:tree", "--tag", "x", "--namespace", "user:bob", "--workflow-timeout", "600"]
    arguments += ["--with", "card", "--with", "marked", "--origin-run-id", f"dagster-{origin.run_id}"]
    flows.metaflow(
        "flow.py", "dagster", "resume", *arguments, "--wait", "--run-id-file", "run_id", DAGSTER_HOME=str(tmp_path)
    )
    run_id = (flows.folder / "run_id").read_text()
    run = flows.metaflow_run("OptionsFlow", run_id)
    assert {"model:linear", "model:tree", "x"} <= run.user_tags
    assert (run.data.namespace, run.data.mark) == ("user:bob", "end")
    assert len(get_cards(run["end"].task)) == 1
    assert run["start"].task.metadata_dict["origin-task-id"]
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        dagster_run = instance.get_run_by_id(run_id.removeprefix("dagster-"))
    assert dagster_run is not None
    assert dagster_run.tags["metaflow.tag/model"] == "linear, tree"
    assert dagster_run.tags["metaflow.tag/x"] == "true"
    assert dagster_run.tags["dagster/max_runtime"] == "600"
    assert not {"model:tree", "x"} & flows.run_of(origin).user_tags


def test_reexecutions_keep_the_options_of_the_run_that_they_go_on_with(flows, tmp_path):
    job = persistent(flows.compile("flow.py", "--executor", "in_process", "--workflow-timeout", "60"))
    tags = RunOptions(("x",), ("card",), "user:bob", 600).dagster_tags(())
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, tags=tags)
        assert not first.success
        flows.write("ready", "")
        from_failure = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        second = dg.execute_job(job, instance, reexecution_options=from_failure)
        whole = dg.ReexecutionOptions(second.run_id)
        third = dg.execute_job(job, instance, reexecution_options=whole)
        limits = {instance.get_run_by_id(run.run_id).tags["dagster/max_runtime"] for run in (first, second, third)}
    assert limits == {"600"}
    for origin, result in ((first, second), (third, third)):
        assert result.success
        run = flows.metaflow_run("OptionsFlow", f"dagster-{origin.run_id}")
        assert "x" in run.user_tags
        assert run.data.namespace == "user:bob"
        assert len(get_cards(run["end"].task)) == 1


def test_triggered_run_ends_when_its_own_time_is_over(project):
    flows: Project = project()
    source = FLOW.replace('if not Path("ready").exists():', "import time").replace(
        '            raise ValueError("not ready")', "        time.sleep(60)"
    )
    flows.write("flow.py", source)
    job = flows.job("flow.py", "--workflow-timeout", "3600", top_level=("--with", "retry"))
    result = execute(job, tags=RunOptions(workflow_timeout_seconds=5).dagster_tags(()))
    assert not result.success
    (failed,) = [*failures(result, "start"), *failures(result, "end")]
    assert "the run exceeded its time limit of 5 s" in failure_description(failed)


def test_deployed_flow_takes_the_options_by_their_names(flows, monkeypatch, tmp_path):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.chdir(flows.folder)
    flows.write("ready", "")
    flows.compile("flow.py")
    deployed = DeployedFlow.from_deployment("OptionsFlow", impl="dagster")
    options = {"user_namespace": "user:bob", "workflow_timeout": 600, "executor_config": {"max_concurrent": 1}}
    triggered = deployed.trigger(tags=["x"], decospecs=["card"], **options)
    triggered.wait_for_completion(check_interval=0.2, timeout=120)
    assert triggered.status == "SUCCEEDED"
    assert "x" in triggered.run.user_tags
    assert triggered.run.data.namespace == "user:bob"
    assert len(get_cards(triggered.run["end"].task)) == 1
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run = instance.get_run_by_id(triggered.dagster_run_id)
    assert run.run_config["execution"] == {"config": {"max_concurrent": 1}}


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--tag", "x" * 501, ["A tag can't be used"]),
        ("--workflow-timeout", "0", ["--workflow-timeout is 0"]),
        ("--executor-config", "nope.yaml", ["--executor-config nope.yaml can't be read"]),
        ("--with", "nope", ["nope"]),
        ("--with", "card:nope=1", ["nope"]),
        ("--with", "Mutator", ["--with Mutator: @Mutator can't be given to one run"]),
        ("--with", "retry:times=2", ["@retry can't", "`dagster create --with retry:times=2`"]),
        *(
            ("--with", name, [f"@{name} can't", f"`dagster create --with {name}`"])
            for name in ("catch", "environment", "resources", "timeout")
        ),
        *(("--with", name, [f"@{name} can't"]) for name in ("conda", "parallel", "pypi")),
    ],
)
def test_option_that_one_run_can_not_have_is_refused(shared, option, value, words):
    shown = shared.refuses("flow.py", "resume", option, value)
    for word in words:
        assert word in shown


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Project:
    project = Project.of(tmp_path_factory.mktemp("options") / "project")
    project.write("flow.py", FLOW)
    return project


@pytest.mark.parametrize(
    ("tag", "value"), [(WORKFLOW_TIMEOUT_TAG, "soon"), (WORKFLOW_TIMEOUT_TAG, "0"), (RUN_TAGS_TAG, "x")]
)
def test_tag_of_the_launchpad_that_is_no_option_fails_at_once(flows, tag, value):
    result = execute(flows.job("flow.py", top_level=("--with", "retry")), tags={tag: value})
    assert not result.success
    (failure,) = failures(result, "start")
    assert f"The tag {tag} is a " in failure_description(failure)
    assert f"and not '{value}'" in failure_description(failure)


def test_parameter_of_the_name_of_a_later_option_is_the_parameter(project, tmp_path):
    flows: Project = project()
    flows.write("flow.py", FLOW.replace("    @step\n    def start", LIMIT_PARAMETER + "    @step\n    def start", 1))
    flows.write("ready", "")
    flows.compile("flow.py")
    arguments = ("--workflow-timeout", "0", "--wait", "--run-id-file", "run_id")
    flows.metaflow("flow.py", "dagster", "trigger", *arguments, DAGSTER_HOME=str(tmp_path))
    assert flows.metaflow_run("OptionsFlow", (flows.folder / "run_id").read_text()).data.limit == 0


LIMIT_PARAMETER = """    limit = Parameter("workflow-timeout", default=7)

"""
