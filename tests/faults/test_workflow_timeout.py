"""`create --workflow-timeout`: a run ends when its time is over, without a daemon, whatever its steps do."""

from __future__ import annotations

import time

import dagster as dg
import pytest
from support import Project, execute, failure_description, failures, job_of, persistent

HEAD = """
import os, signal, time
from metaflow import FlowSpec, current, retry, step

"""
TAIL = """

if __name__ == "__main__":
    LimitedFlow()
"""
DEAF = """
class LimitedFlow(FlowSpec):
    @retry(times=3, minutes_between_retries=0)
    @step
    def start(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("in attempt", current.retry_count, flush=True)
        time.sleep(60)
        self.next(self.end)

    @step
    def end(self):
        pass
"""
SLOW = """
class LimitedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.slow)

    @retry(times=3, minutes_between_retries=0)
    @step
    def slow(self):
        print("in attempt", current.retry_count, flush=True)
        time.sleep(0 if os.path.exists("hurry") else 60)
        self.next(self.end)

    @step
    def end(self):
        pass
"""
ITEMS = """
class LimitedFlow(FlowSpec):
    @step
    def start(self):
        self.items = [0, 60, 0, 0]
        self.next(self.work, foreach="items")

    @step
    def work(self):
        time.sleep(self.input)
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass
"""
FAILS = """
class LimitedFlow(FlowSpec):
    @retry(times=3, minutes_between_retries=1)
    @step
    def start(self):
        raise ValueError("no luck")
"""
LOOP = """
class LimitedFlow(FlowSpec):
    @step
    def start(self):
        self.next(self.loop)

    @retry(times=3, minutes_between_retries=1)
    @step
    def loop(self):
        if FAILS:
            raise ValueError("no luck")
        time.sleep(0.3)
        self.go = "again"
        self.next({"again": self.loop, "on": self.end}, condition="go")

    @step
    def end(self):
        pass
"""


def _compile(project, flow: str, seconds: int, *options: str) -> tuple[Project, dg.JobDefinition]:
    flows: Project = project()
    flows.write("flow.py", HEAD + flow + TAIL)
    return flows, job_of(flows.compile("flow.py", "--workflow-timeout", str(seconds), *options))


def _only_failure(result, step: str) -> str:
    (failed,) = failures(result, step)
    assert failed.event_type == dg.DagsterEventType.STEP_FAILURE, "it must not be tried again"
    return failure_description(failed)


def test_step_that_ignores_sigterm_ends_with_the_run_and_keeps_its_log(project):
    flows, job = _compile(project, DEAF, 3)
    started = time.monotonic()
    result = execute(job)
    # 3 s, 10 s between SIGTERM and SIGKILL, and storing the log
    assert 12 < time.monotonic() - started < 20
    assert not result.success
    description = _only_failure(result, "start")
    expected = "Step start of flow LimitedFlow (attempt 0) was ended, because the run exceeded its time limit of 3 s"
    assert expected in description
    assert "timed out" not in description
    (task,) = flows.run_of(result)["start"]
    assert task.stdout == "in attempt 0\n"
    assert "because the run exceeded its time limit of 3 s" in task.stderr
    assert not flows.run_of(result).finished


def test_run_of_the_multiprocess_executor_ends_and_a_reexecution_has_its_own_time(project, tmp_path):
    flows, _ = _compile(project, SLOW, 15)
    job = persistent(flows.folder / "defs.py")
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        started = time.monotonic()
        first = dg.execute_job(job, instance)
        assert not first.success
        assert time.monotonic() - started < 30
        assert first.dagster_run.tags["dagster/max_runtime"] == "15"
        assert "was ended, because the run exceeded its time limit of 15 s" in _only_failure(first, "slow")
        assert first.events_for_node("end") == []
        flows.write("hurry", "")
        options = dg.ReexecutionOptions.from_failure(first.run_id, instance)
        assert dg.execute_job(job, instance, reexecution_options=options).success


def test_items_that_wait_are_not_started(project):
    _, job = _compile(project, ITEMS, 4, "--executor", "in_process")
    started = time.monotonic()
    result = execute(job)
    assert not result.success
    assert time.monotonic() - started < 10
    assert failures(result, "work[0]") == []
    assert "was ended, because the run exceeded its time limit of 4 s" in _only_failure(result, "work[1]")
    for waiting in ("work[2]", "work[3]"):
        description = _only_failure(result, waiting)
        assert "The run exceeded its time limit of 4 s" in description
        assert "step work of flow LimitedFlow was not started" in description
    assert failures(result, "join") == []


def test_retry_that_would_begin_after_the_limit_is_not_tried(project):
    _, job = _compile(project, FAILS, 30)
    started = time.monotonic()
    result = execute(job)
    assert time.monotonic() - started < 10
    description = _only_failure(result, "start")
    assert "Step start of flow LimitedFlow (attempt 0) failed: ValueError: no luck" in description
    assert "It is not tried again: the run's time limit of 30 s ends before the next attempt, in 60 s." in description


def test_retry_with_enough_time_is_tried(project):
    _, job = _compile(project, FAILS.replace("minutes_between_retries=1", "minutes_between_retries=0"), 600)
    assert len(failures(execute(job), "start")) == 4


@pytest.mark.parametrize(("fails", "seconds"), [(True, 30), (False, 4)])
def test_iterations_and_their_retries_keep_to_the_limit(project, fails, seconds):
    flows, job = _compile(project, LOOP.replace("FAILS", str(fails)), seconds)
    started = time.monotonic()
    result = execute(job)
    assert time.monotonic() - started < 10
    description = _only_failure(result, "loop")
    assert "ValueError: no luck" in description if fails else "exceeded its time limit of 4 s" in description
    assert (len(list(flows.run_of(result)["loop"])) > 1) is not fails


def test_run_in_time_is_not_touched(project):
    flows: Project = project("one_step.py")
    job = flows.job("one_step.py", "--workflow-timeout", "3600")
    assert job.tags["dagster/max_runtime"] == "3600"
    assert execute(job).success
    text = flows.compile("one_step.py").read_text()
    assert "timeout" not in text
    assert "max_runtime" not in text
