"""A run that resumes another clones and runs the same tasks as Metaflow's own `resume`."""

from __future__ import annotations

from functools import cache
from typing import Any

import dagster as dg
import pytest
from support import (
    Project,
    execute,
    failure_description,
    failures,
    job_of,
    materialization,
    output_metadata,
    path_with_python,
    persistent,
    values_of,
)

from metaflow_pipes.names import ORIGIN_RUN_ID_TAG, OVERRIDDEN_PARAMETERS_TAG, STEP_TO_RERUN_TAG

SHORT_RUN_ID = 8
RETRY_TAG = "dagster/is_resume_retry"


class Resumed:
    """ResumedFlow with two origins by Metaflow's own runner."""

    def __init__(self, project: Project):
        self.project = project
        self.definitions = project.compile("resumed.py", "--executor", "in_process")
        self.job = job_of(self.definitions)
        self.warm_definitions = project.compile("resumed.py", to="warm.py")
        # an item of a foreach within a foreach breaks in its second iteration, when the other one is through
        self.broken_turn = "turn-1-1-1 inner_join-0"
        self.at_turn = self.origin(self.broken_turn)
        self.at_end = self.origin("end")

    def breaks_at(self, place: str) -> None:
        self.project.write("broken", place)

    def origin(self, broken: str) -> str:
        self.breaks_at(broken)
        return native_origin(self.project, "resumed.py")

    @cache  # noqa: B019
    def native(self, origin: str, *step: str) -> dict[Any, Any]:
        """The tasks of Metaflow's own `resume`."""
        command = ("--no-pylint", "resume", "--origin-run-id", origin, "--run-id-file", "resumed_id", *step)
        self.project.metaflow("resumed.py", *command, PATH=path_with_python())
        return tasks_of(self.run((self.project.folder / "resumed_id").read_text()))

    def resume(self, origin: str, **tags: str) -> dg.ExecuteInProcessResult:
        return execute(self.job, tags={ORIGIN_RUN_ID_TAG: origin, **tags})

    def resume_warm(self, origin: str, **tags: str) -> Any:
        """Resume in threads, where one process clones several tasks."""
        with dg.DagsterInstance.ephemeral(tempdir=str(self.project.folder)) as instance:
            job = persistent(self.warm_definitions)
            return dg.execute_job(job, instance, tags={ORIGIN_RUN_ID_TAG: origin, **tags})

    def run(self, run_id: str) -> Any:
        return self.project.metaflow_run("ResumedFlow", run_id)


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    resumed = Resumed(Project.of(tmp_path_factory.mktemp("resumed") / "project", "resumed.py"))
    resumed.breaks_at("nowhere")
    return resumed


def native_origin(project: Project, flow: str, *arguments: str) -> str:
    """The id of a run by Metaflow's own runner, which may fail."""
    file = project.folder / "origin_id"
    command = ("--no-pylint", "run", "--run-id-file", str(file), *arguments)
    project.metaflow(flow, *command, check=False, PATH=path_with_python())
    return file.read_text()


def tasks_of(run: Any) -> dict[Any, Any]:
    """For the place of each task that is done: the task that it is a clone of, if any, and its artifacts."""
    return {
        (step.id, str(task["_foreach_stack"].data), str(task["_iteration_stack"].data)): (
            task.metadata_dict["origin-run-id"],
            task.metadata_dict.get("origin-task-id"),
            {artifact.id: artifact.data for artifact in task if not artifact.id.startswith("_")},
        )
        for step in run
        for task in step
        if task.successful
    }


def steps_that_ran(tasks: dict[Any, Any]) -> set[str]:
    return {step for (step, *_), (_, origin_task, _) in tasks.items() if origin_task is None}


def messages_of(result: Any, instance: dg.DagsterInstance) -> list[str]:
    return [entry.user_message for entry in instance.all_logs(result.run_id)]


def test_tasks_of_a_broken_foreach_are_cloned_one_by_one(resumed):
    result = resumed.resume_warm(resumed.at_turn)
    assert result.success
    tasks = tasks_of(resumed.run(f"dagster-{result.run_id}"))
    assert tasks == resumed.native(resumed.at_turn)
    assert "solo" not in steps_that_ran(tasks)
    turns = {key: value[1] is None for key, value in tasks.items() if key[0] == "turn"}
    assert sorted(turns.values()) == [False, False, False, True]


@pytest.fixture(scope="module")
def all_but_the_end(resumed):
    """A Dagster run that resumes one whose last step failed."""
    result = resumed.resume(resumed.at_end)
    assert result.success
    return result


def test_control_task_is_cloned_with_its_workers(resumed, all_but_the_end):
    run = resumed.run(f"dagster-{all_but_the_end.run_id}")
    tasks = tasks_of(run)
    assert steps_that_ran(tasks) == {"end"}
    assert tasks == resumed.native(resumed.at_end)
    assert {task.id for task in run["node"]} == {"node", "node_node_1"}
    assert all_but_the_end.output_for_node("node") == f"{run.id}/node/node,{run.id}/node/node_node_1"
    assert run.data.origin_run_id == resumed.at_end


def test_run_of_dagster_that_was_resumed_can_be_resumed_from_a_step(resumed, all_but_the_end):
    origin = f"dagster-{all_but_the_end.run_id}"
    result = resumed.resume_warm(origin, **{STEP_TO_RERUN_TAG: "node_join"})
    assert result.success
    tasks = tasks_of(resumed.run(f"dagster-{result.run_id}"))
    assert steps_that_ran(tasks) == {"node_join", "end"}
    assert tasks == resumed.native(origin, "node_join")
    versions = {materialization(done, "meet").tags["dagster/data_version"] for done in (result, all_but_the_end)}
    assert len(versions) == 1


def test_dagster_shows_what_a_clone_is_of(resumed, all_but_the_end):
    run_id = f"dagster-{all_but_the_end.run_id}"
    metadata = output_metadata(all_but_the_end, "meet")
    origin = resumed.run(resumed.at_end)["meet"].task
    assert metadata["cloned_from"].value == origin.pathspec
    assert metadata["pathspec"].value == f"ResumedFlow/{run_id}/meet/meet"
    assert "duration_seconds" not in metadata
    rows = {row.data["name"]: row.data["origin"] for row in metadata["artifacts"].records}
    assert (rows["result"], rows["alpha"]) == ("new", "inherited")
    made = materialization(all_but_the_end, "meet")
    assert made.metadata["cloned_from"].value == origin.pathspec
    task = resumed.run(run_id)["solo"].task
    assert task.metadata_dict["dagster-run-id"] == all_but_the_end.run_id
    assert task.metadata_dict["dagster-step-key"] == "solo"
    assert f"dagster_run_id:{all_but_the_end.run_id}" in task.system_tags
    assert task.metadata_dict["script-name"] == "resumed.py"
    assert "git-info" not in task.metadata_dict
    # as Metaflow's own `resume` leaves it
    assert (task.stdout, resumed.run(resumed.at_end)["solo"].task.stdout) == ("", "solo passes\n")


def test_workers_of_cloned_tasks_see_overridden_parameters(resumed):
    tags = {STEP_TO_RERUN_TAG: "node", OVERRIDDEN_PARAMETERS_TAG: '["alpha"]'}
    result = execute(resumed.job, {"alpha": 5}, tags={ORIGIN_RUN_ID_TAG: resumed.at_end, **tags})
    assert result.success
    run = resumed.run(f"dagster-{result.run_id}")
    assert (run["start"].task.data.alpha, run["spread"].task.data.alpha, run.data.alpha) == (1, 1, 5)
    assert run["node_join"].task.data.all_seen == [(0, 5), (1, 5)]


def test_reexecution_goes_on_cloning_and_selected_steps_run(resumed, tmp_path):
    job = persistent(resumed.definitions)
    tags = {ORIGIN_RUN_ID_TAG: resumed.at_turn}
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        resumed.breaks_at(resumed.broken_turn)
        first = dg.execute_job(job, instance, tags=tags)
        assert not first.success
        resumed.breaks_at("nowhere")
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        second = dg.execute_job(job, instance, reexecution_options=options, tags={**tags, RETRY_TAG: "true"})
        assert second.success
        run = resumed.run(f"dagster-{first.run_id}")
        mark = f"-r{second.run_id[:SHORT_RUN_ID]}"
        clone = next(task for task in run["inner_join"] if task.id == f"inner_join-0{mark}")
        assert clone.metadata_dict["origin-task-id"]
        assert tasks_of(run) == resumed.native(resumed.at_turn)

        selected = dg.ReexecutionOptions(second.run_id, step_selection=["solo"])
        third = dg.execute_job(job, instance, reexecution_options=selected)
        assert third.success
        assert "finished after" in "".join(messages_of(third, instance))
    solo = {task.id: task.metadata_dict.get("origin-task-id") for task in run["solo"]}
    assert solo.pop("solo") is not None
    assert solo == {f"solo-r{third.run_id[:SHORT_RUN_ID]}": None}


def test_reexecution_of_all_steps_resumes_the_origin_again(project, tmp_path):
    flows: Project = project("flaky.py")
    origin = native_origin(flows, "flaky.py", "--number", "3")
    flows.write("ready", "")
    job = persistent(flows.compile("flaky.py", "--executor", "in_process"))
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, tags={ORIGIN_RUN_ID_TAG: origin})
        second = dg.execute_job(job, instance, reexecution_options=dg.ReexecutionOptions(first.run_id))
        for result in (first, second):
            run = flows.metaflow_run("FlakyFlow", f"dagster-{result.run_id}")
            assert steps_that_ran(tasks_of(run)) == {"middle", "end"}
            # of the origin, and not of the run config
            assert run.data.result == 7
            cloned = [message for message in messages_of(result, instance) if "is cloned from" in message]
            clone, original = run["start"].task.pathspec, f"FlakyFlow/{origin}/start/1"
            assert cloned == [f"Metaflow task {clone} is cloned from {original}: it does not run."]


def test_origin_with_steps_executed_again_gives_those_that_finished_last(project, tmp_path):
    flows: Project = project("flaky.py")
    flows.write("ready", "")
    job = persistent(flows.compile("flaky.py", "--executor", "in_process"))
    numbers = [{"ops": {"start": {"config": {"number": number}}}} for number in (1, 10)]
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, run_config=numbers[0])
        options = dg.ReexecutionOptions(first.run_id, step_selection=["start", "middle"])
        dg.execute_job(job, instance, run_config=numbers[1], reexecution_options=options)
        tags = {ORIGIN_RUN_ID_TAG: f"dagster-{first.run_id}", STEP_TO_RERUN_TAG: "end"}
        third = dg.execute_job(job, instance, tags=tags)
        assert third.success
    run = flows.metaflow_run("FlakyFlow", f"dagster-{third.run_id}")
    assert {task.id for step in run for task in step} == {"start", "middle", "end"}
    assert (run.data.number, run.data.result) == (10, 21)


RETRIED_FLOW = """
from metaflow import FlowSpec, Parameter, current, retry, step

class RetriedFlow(FlowSpec):
    number = Parameter("number", default=1)

    @retry(times=1, minutes_between_retries=0)
    @step
    def start(self):
        if current.origin_run_id is None or current.retry_count == 0:
            raise ValueError("not yet")
        self.next(self.end)

    @step
    def end(self):
        self.result = self.number

if __name__ == "__main__":
    RetriedFlow()
"""


def test_start_step_that_was_not_done_runs_and_is_retried_with_the_origins_parameters(project):
    flows: Project = project()
    flows.write("retried.py", RETRIED_FLOW)
    origin = native_origin(flows, "retried.py", "--number", "3")
    result = execute(flows.job("retried.py"), tags={ORIGIN_RUN_ID_TAG: origin})
    assert result.success
    assert len(failures(result, "start")) == 1
    assert flows.run_of(result).data.result == 3


def test_parameters_keep_the_origins_values_unless_they_are_overridden(project):
    flows: Project = project("parameters.py")
    for name in ("data.txt", "other.txt"):
        flows.write(name, f"in {name}")
    given = ["--text", "other", "--integer", "8", "--structure", '{"b": 2}', "--repeated", "5", "--repeated", "6"]
    given += ["--included", "other.txt", "--lambda", "4"]
    origin = native_origin(flows, "parameters.py", *given, "--listed", "x,y", "--learning-rate", "0.7")
    result = execute(
        flows.job("parameters.py"),
        {"listed": ["p", "q"], "learning-rate": 0.9, "included": "no such file", "integer": 3},
        tags={
            ORIGIN_RUN_ID_TAG: origin,
            STEP_TO_RERUN_TAG: "end",
            OVERRIDDEN_PARAMETERS_TAG: '["listed", "learning-rate"]',
        },
    )
    assert result.success
    values = values_of(flows.run_of(result))
    expected = flows.native_run("parameters.py", *given, "--listed", "p,q", "--learning-rate", "0.9")
    assert values["end"] == values_of(expected)["end"]
    assert values["start"] == values_of(flows.metaflow_run("ParametersFlow", origin))["start"]
    stored = flows.run_of(result)["_parameters"].task
    assert {artifact.id for artifact in stored} == {artifact.id for artifact in expected["_parameters"].task}


def test_configs_and_project_are_those_of_the_flow(project):
    flows: Project = project()
    flows.write("settings.json", '{"depth": 3}')
    flows.write(
        "configured.py",
        """
from metaflow import Config, FlowSpec, Parameter, project, step

@project(name="shop")
class ConfiguredFlow(FlowSpec):
    settings = Config("settings", default="settings.json")
    constant = 7
    number = Parameter("number", default=1)
    word = Parameter("word", required=True)

    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        self.result = (self.settings.depth, self.constant, self.number, self.word)

if __name__ == "__main__":
    ConfiguredFlow()
""",
    )
    origin = native_origin(flows, "configured.py", "--word", "given")
    result = execute(
        flows.job("configured.py", "--tag", "mine"),
        {"number": 5, "word": "placeholder"},
        tags={
            ORIGIN_RUN_ID_TAG: origin,
            STEP_TO_RERUN_TAG: "start",
            OVERRIDDEN_PARAMETERS_TAG: '["number"]',
        },
    )
    assert result.success
    run = flows.metaflow_run("ConfiguredFlow", f"dagster-{result.run_id}")
    assert run.data.result == (3, 7, 5, "given")
    assert {"project:shop", "project_branch:user.tester", "mine"} <= run.tags


def test_control_task_of_any_other_unbounded_foreach_is_cloned(project):
    flows: Project = project("unbounded.py")
    origin = native_origin(flows, "unbounded.py")
    result = execute(flows.job("unbounded.py"), tags={ORIGIN_RUN_ID_TAG: origin, STEP_TO_RERUN_TAG: "join"})
    assert result.success
    run = flows.run_of(result)
    assert steps_that_ran(tasks_of(run)) == {"join", "end"}
    assert {task.id for task in run["work"]} == {"work-control", *(f"work-control-{index}" for index in range(3))}
    assert run["join"].task.data.all_seen == [1, 2, 3]


@pytest.mark.parametrize("flow", ["custom_names.py", "one_step.py"])
def test_flow_without_steps_called_start_and_end(project, flow):
    flows: Project = project(flow)
    origin = flows.native_run(flow)
    result = execute(flows.job(flow), tags={ORIGIN_RUN_ID_TAG: origin.id})
    assert result.success
    run = flows.run_of(result)
    assert run.successful
    assert not steps_that_ran(tasks_of(run))
    assert values_of(run) == values_of(origin)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({ORIGIN_RUN_ID_TAG: "17"}, "can't resume run 17: flow FlakyFlow has no such run in the local datastore"),
        ({ORIGIN_RUN_ID_TAG: "17", STEP_TO_RERUN_TAG: "ende"}, "names 'ende', which is no step of flow FlakyFlow"),
        ({ORIGIN_RUN_ID_TAG: "17", OVERRIDDEN_PARAMETERS_TAG: '["nr"]'}, "Its parameters are number."),
    ],
)
def test_what_can_not_be_resumed_fails_at_once(project, tags, message):
    flows: Project = project("flaky.py")
    result = execute(flows.job("flaky.py", top_level=("--with", "retry")), tags=tags)
    assert not result.success
    (failure,) = failures(result, "start")
    assert message in failure_description(failure)
    assert "Traceback" not in failure_description(failure)


def test_lost_index_or_task_of_the_origin_fails_with_what_is_missing(project, tmp_path):
    flows: Project = project("flaky.py")
    origin = native_origin(flows, "flaky.py")
    job = persistent(flows.compile("flaky.py", "--executor", "in_process"))
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        first = dg.execute_job(job, instance, tags={ORIGIN_RUN_ID_TAG: origin})
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        (index,) = (flows.folder / ".metaflow").rglob("resume.json")
        index.with_name("resume.middle.json").write_text('{"": "gone"}')
        second = dg.execute_job(job, instance, reexecution_options=options)
        index.unlink()
        third = dg.execute_job(job, instance, reexecution_options=options)
    without_task, without_index = (failure_description(failures(result, "middle")[0]) for result in (second, third))
    assert f"could not use what run {origin} has stored" in without_task
    assert f"can't go on with run dagster-{first.run_id}: what its start step stores" in without_index
    assert "Re-execute all steps" in without_index
