"""`@retry` and `@catch` are Dagster's retries, and mean what they mean in Metaflow."""

from __future__ import annotations

import dagster as dg
import pytest
from support import EXAMPLES, Project, failure_description, failures, values_of


@pytest.fixture(scope="module")
def retried(tmp_path_factory):
    flows = Project.of(tmp_path_factory.mktemp("retries") / "project", "retries.py")
    return flows, flows.run("retries.py")


def test_retries_and_catch_give_the_artifacts_of_metaflows_own_run(retried):
    flows, result = retried
    assert result.success
    values, native = values_of(flows.run_of(result)), values_of(flows.native_run("retries.py"))
    for step in ("start", "end"):
        # exceptions are no values that can be compared
        for exception in ("problem", "crash"):
            assert (exception in values[step]) == (exception in native[step])
            values[step].pop(exception, None), native[step].pop(exception, None)
        assert values[step] == native[step]


def test_each_attempt_is_dagsters_and_metaflows(retried):
    flows, result = retried
    descriptions = [failure_description(event) for event in failures(result, "start")]
    assert len(descriptions) == 2
    for attempt, description in enumerate(descriptions):
        assert f"Step start of flow RetriesFlow (attempt {attempt}) failed" in description
        assert f"ValueError: not in attempt {attempt}" in description
    task = flows.run_of(result)["start"].task
    assert task.data.attempt == 2
    assert task.current_attempt == 2
    assert "attempt 2 of start" in task.stdout


def test_catch_runs_fallback_after_last_retry(retried):
    flows, result = retried
    # attempt 0 fails, attempt 1 is the last of the user's code: @catch handles it there
    assert len(failures(result, "caught")) == 1
    assert "always" in flows.run_of(result).data.caught_problem
    # a crash can't be handled in the process that crashed: attempt 2 is the fallback
    assert len(failures(result, "crashes")) == 2
    assert "exit code 3" in failure_description(failures(result, "crashes")[0])
    assert flows.run_of(result)["crashes"].task.current_attempt == 2


def test_retry_policy_of_the_example(project, tmp_path):
    import shutil

    flows: Project = project()
    shutil.copy(EXAMPLES / "retry_flow.py", flows.folder)
    job = flows.job("retry_flow.py")
    assert job.name == "RetryFlow"
    policy = job.get_node_named("process").definition.retry_policy
    assert policy == dg.RetryPolicy(max_retries=3, delay=120)
    assert job.get_node_named("start").definition.retry_policy is None
    text = (flows.folder / "defs.py").read_text()
    assert 'extra_env={"MY_VAR": "hello", "OTHER": "world"}' in text
    assert "timeout_seconds=120" in text


@pytest.mark.parametrize("place", ["top level", "create"])
def test_with_retry_counts(project, place):
    flows: Project = project("one_step.py")
    spec = ("--with", "retry:times=2,minutes_between_retries=3")
    options, top_level = (spec, ()) if place == "create" else ((), spec)
    job = flows.job("one_step.py", *options, top_level=top_level)
    assert job.get_node_named("only").definition.retry_policy == dg.RetryPolicy(max_retries=2, delay=180)


def test_failure_after_the_last_retry_ends_the_run(project):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, current, retry, step\n\n"
        "class FailingFlow(FlowSpec):\n"
        "    @retry(times=1, minutes_between_retries=0)\n    @step\n    def only(self):\n"
        "        raise RuntimeError(f'attempt {current.retry_count}')\n\n"
        "if __name__ == '__main__':\n    FailingFlow()\n",
    )
    result = flows.run("flow.py")
    assert not result.success
    assert [failure_description(event).count("RuntimeError: attempt") for event in failures(result, "only")] == [1, 1]
    run = flows.run_of(result)
    assert not run.successful
    assert "attempt 1" in str(run["only"].task.exception)
    metadata = failures(result, "only")[-1].event_specific_data.user_failure_data.metadata
    # the user's own frames, without those of Metaflow and of the wrapper
    assert "flow.py" in metadata["traceback"].value
    assert "metaflow/task.py" not in metadata["traceback"].value
    assert "step_wrapper" not in metadata["traceback"].value
    assert "RuntimeError: attempt 1" in metadata["stderr"].value
    assert metadata["pathspec"].value == f"FailingFlow/dagster-{result.run_id}/only/only"
    command = metadata["logs"].value.strip("`").split()[1:]
    assert "RuntimeError: attempt 1" in flows.metaflow(*command, "--stderr").stdout


@pytest.mark.parametrize(("times", "catch"), [(5, ""), (4, "    @catch\n")])
def test_more_attempts_than_metaflow_holds_is_a_compile_error(project, times, catch):
    flows: Project = project()
    flows.write(
        "flow.py",
        "from metaflow import FlowSpec, catch, retry, step\n\n"
        f"class ManyFlow(FlowSpec):\n{catch}    @retry(times={times})\n    @step\n    def only(self):\n        pass\n\n"
        "if __name__ == '__main__':\n    ManyFlow()\n",
    )
    finished = flows.metaflow("flow.py", "dagster", "create", "defs.py", check=False)
    if catch:  # Metaflow itself allows it, and the one fallback attempt fits
        assert finished.returncode == 0
    else:
        assert finished.returncode == 1
        assert "retries" in finished.stdout
