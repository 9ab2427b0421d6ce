"""Ops in threads of the run's process: what any Dagster executor does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run
from dagster._core.execution.plan.execute_plan import dagster_event_sequence_for_step
from dagster._core.storage.event_log import SqliteEventLogStorage
from plain_jobs import logs_of, records_of, run, side_by_side, slow, total
from support import Project, is_running

from metaflow_pipes.runtime import step_thread, threads
from step_wrapper import processes

ATTEMPTS: list[float] = []


def third_time_lucky() -> int:
    ATTEMPTS.append(time.monotonic())
    if len(ATTEMPTS) < 3:
        raise dg.Failure("not yet")
    return 1


flaky = dg.op(name="flaky", retry_policy=dg.RetryPolicy(max_retries=2, delay=0.2))(third_time_lucky)
flaky_at_once = dg.op(name="flaky_at_once", retry_policy=dg.RetryPolicy(max_retries=2))(third_time_lucky)


@dg.job(executor_def=threads(2))
def retried():
    total([flaky()])


@dg.job(executor_def=threads(2))
def retried_at_once():
    total([flaky_at_once()])


@dg.op(out={"left": dg.Out(int, is_required=False), "right": dg.Out(int, is_required=False)})
def choice():
    yield dg.Output(1, "left")


@dg.op
def fails(number: int) -> int:
    raise ValueError(f"no {number}")


HOOKED: list[str] = []


@dg.success_hook
def noted(context):
    HOOKED.append(context.op.name)


@dg.failure_hook
def mourned(context):
    HOOKED.append(f"{context.op.name} failed")


@dg.job(executor_def=threads(2), hooks={noted, mourned})
def mixed():
    left, right = choice()
    total.alias("skipped")([slow.alias("never")(right)])
    total.alias("abandoned")([fails(left)])
    slow(left)


@dg.resource
def broken(_):
    raise ValueError("no such database")


@dg.op(required_resource_keys={"broken"})
def uses_broken():
    pass


@dg.job(executor_def=threads(2), resource_defs={"broken": broken})
def without_resource():
    uses_broken()


@dg.op
def one() -> int:
    return 1


def keys(result: Any, kind: dg.DagsterEventType) -> list[str]:
    return sorted(event.step_key for event in result.filter_events(lambda event: event.event_type == kind))


def test_steps_run_side_by_side_in_threads_of_this_process(instance):
    started = time.monotonic()
    with run(side_by_side, instance) as result:
        assert result.success
        assert result.output_for_node("total") == 6
    assert time.monotonic() - started < 30
    starts = [e.timestamp for e in records_of(instance, result.run_id, "STEP_START", "slow")]
    ends = [e.timestamp for e in records_of(instance, result.run_id, "STEP_SUCCESS", "slow")]
    assert max(starts) < min(ends)
    assert threading.active_count() < 20


def test_failed_op_is_tried_again_after_its_delay(instance):
    ATTEMPTS.clear()
    with run(retried, instance) as result:
        assert result.success
        assert result.output_for_node("total") == 1
    assert ATTEMPTS[2] - ATTEMPTS[1] >= 0.2


def test_next_attempt_waits_for_the_end_of_the_one_before(instance, monkeypatch):
    def slow_to_end(context, events):
        time.sleep(0.3)
        yield from ()

    # what a thread still does when its step is up for retry
    monkeypatch.setattr("metaflow_pipes.runtime.executors.threads._trigger_hook", slow_to_end)
    ATTEMPTS.clear()
    assert run(retried_at_once, instance).success
    assert len(ATTEMPTS) == 3


def test_skips_failures_and_hooks_are_dagsters(instance):
    HOOKED.clear()
    with run(mixed, instance) as result:
        assert not result.success
        assert keys(result, dg.DagsterEventType.STEP_SKIPPED) == ["never", "skipped"]
        assert keys(result, dg.DagsterEventType.STEP_FAILURE) == ["fails"]
        assert keys(result, dg.DagsterEventType.STEP_SUCCESS) == ["choice", "slow"]
    assert sorted(HOOKED) == ["choice", "fails failed", "slow"]


def test_reexecution_from_failure_runs_what_is_left(instance):
    ATTEMPTS[:] = [0.0]
    failing = dg.reconstructable(retried_once)
    with dg.execute_job(failing, instance) as result:
        assert not result.success
    options = dg.ReexecutionOptions.from_failure(result.run_id, instance)
    with dg.execute_job(failing, instance, reexecution_options=options) as again:
        assert again.success
        assert keys(again, dg.DagsterEventType.STEP_SUCCESS) == ["fails_once", "total"]


@dg.op
def fails_once(number: int) -> int:
    ATTEMPTS.append(0.0)
    if len(ATTEMPTS) < 3:
        raise ValueError("not yet")
    return number


@dg.job(executor_def=threads(2))
def retried_once():
    total([fails_once(one())])


def test_error_of_an_op_is_raised_if_that_is_asked_for(instance):
    with pytest.raises(ValueError, match="no 1"), run(mixed, instance, raise_on_error=True):
        pass


def test_resource_that_fails_fails_the_run(instance):
    result = run(without_resource, instance)
    assert not result.success
    assert not instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.STEP_START).records
    failed = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
    assert "no such database" in str(failed)


def test_terminated_run_ends_all_steps_and_is_canceled(project, tmp_path):
    flows: Project = project("slow.py")
    flows.compile("slow.py", "--executor", "threads", to="slowflow_dagster.py")
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").touch()
    flows.metaflow("slow.py", "dagster", "trigger", "--run-id-file", "run_id", DAGSTER_HOME=str(home))
    pid_file = flows.folder / "pid"
    give_up_at = time.monotonic() + 120
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    run_id = (flows.folder / "run_id").read_text()
    flows.metaflow("slow.py", "dagster", "terminate", run_id, DAGSTER_HOME=str(home))
    assert not is_running(int(pid_file.read_text()))
    with dg.DagsterInstance.from_config(str(home)) as instance:
        (found,) = instance.get_runs()
        assert found.status == dg.DagsterRunStatus.CANCELED
        assert "wait" in logs_of(instance, found.run_id)


@dg.op
def hears_nothing():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)


@dg.job(executor_def=threads(2))
def deaf():
    hears_nothing()


def test_op_of_plain_python_that_does_not_end_is_left_when_the_time_to_end_is_over(instance, monkeypatch):
    monkeypatch.setattr("metaflow_pipes.runtime.executors.threads.TERMINATION_TIMEOUT_SECONDS", 1)
    started = time.monotonic()
    assert not run(deaf, instance).success
    assert time.monotonic() - started < 15
    (found,) = instance.get_runs()
    assert found.is_finished
    messages = [entry.message for entry in instance.all_logs(found.run_id, dg.DagsterEventType.ENGINE_EVENT)]
    assert any("left to themselves: hears_nothing" in message for message in messages)


def test_thread_that_crashes_fails_its_step_and_loses_no_event_of_others(instance, monkeypatch):
    def crashing(context):
        if context.step.key == "slow[2]":
            raise RuntimeError("the thread is broken")
        yield from dagster_event_sequence_for_step(context)

    monkeypatch.setattr("metaflow_pipes.runtime.executors.threads.dagster_event_sequence_for_step", crashing)
    result = run(side_by_side, instance)
    assert not result.success
    succeeded = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS).records
    assert sorted(record.event_log_entry.step_key for record in succeeded) == [
        *("numbers", "slow[0]", "slow[1]", "slow[3]")
    ]
    (failed,) = instance.get_records_for_run(result.run_id, of_type=dg.DagsterEventType.STEP_FAILURE).records
    assert failed.event_log_entry.step_key == "slow[2]"
    assert "the thread is broken" in str(failed.event_log_entry.dagster_event)


HAS_BEGUN = threading.Event()


@dg.op(tags={"dagster/priority": "1"})
def done_but_for_its_report() -> bool:
    step_thread.current().gives_way()
    return HAS_BEGUN.wait(30)


@dg.op
def begins():
    HAS_BEGUN.set()


@dg.job(executor_def=threads(1))
def giving_way():
    done_but_for_its_report()
    begins()


def test_op_begins_while_another_one_reports(instance):
    HAS_BEGUN.clear()
    with run(giving_way, instance) as result:
        assert result.success
        assert result.output_for_node("done_but_for_its_report")


@dg.op
def waits_to_be_seen(context):
    time.sleep(1)  # what went before has been seen by now
    context.log.info("here I am")
    assert HAS_BEGUN.wait(10)


@dg.job(executor_def=threads(1))
def watched():
    waits_to_be_seen()


def test_events_are_seen_as_they_come_and_the_event_log_is_left_as_it_was(instance):
    HAS_BEGUN.clear()
    other = dg.DagsterInstance.from_ref(instance.get_ref())
    run_id = "12345678-1234-1234-1234-123456789012"

    def note(entry, cursor):
        if entry.user_message == "here I am":
            HAS_BEGUN.set()

    # as the webserver does, which has files of SQLite watched
    dagster_run = instance.create_run_for_job(watched, run_id=run_id)
    other.watch_event_logs(run_id, None, note)
    try:
        assert execute_run(dg.reconstructable(watched), dagster_run, instance).success
    finally:
        other.dispose()
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    assert "_connect" not in vars(storage)
    assert not Path(f"{storage.path_for_shard(run_id)}-wal").exists()


WAITING = """
import dagster as dg
from metaflow_pipes.runtime import MetaflowPipesClient, threads

@dg.op(out=dg.DynamicOut(int))
def numbers():
    for number in range(200):
        yield dg.DynamicOutput(number, mapping_key=str(number))

@dg.op
def waits(context: dg.OpExecutionContext, pipes: MetaflowPipesClient, number: int):
    pipes.run(context=context, command=["dd", "if=gate", "of=/dev/null", "bs=1", "count=1", "status=none"])

@dg.job(executor_def=threads(200), resource_defs={"pipes": MetaflowPipesClient()})
def waiting():
    numbers().map(waits)
"""
MEGABYTES_OF_RUN_WORKER = 400


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_run_worker_with_200_waiting_steps_is_small(tmp_path):
    (tmp_path / "waiting.py").write_text(WAITING)
    (tmp_path / "dagster.yaml").touch()
    os.mkfifo(tmp_path / "gate")
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", "waiting.py", "-j", "waiting"]
    with (tmp_path / "output").open("w") as output:
        run_worker = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "DAGSTER_HOME": str(tmp_path)}, stdout=output, stderr=output
        )
    try:
        give_up_at = time.monotonic() + 120
        while len(processes.descendants(run_worker.pid)) < 200:
            assert time.monotonic() < give_up_at
            assert run_worker.poll() is None, (tmp_path / "output").read_text()
            time.sleep(0.2)
        status = Path(f"/proc/{run_worker.pid}/status").read_text()
        with (tmp_path / "gate").open("wb") as gate:
            gate.write(b"x" * 200)
            gate.flush()
            assert run_worker.wait(60) == 0
    finally:
        run_worker.kill()
        run_worker.wait()
    (resident,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    assert int(resident) / 1000 < MEGABYTES_OF_RUN_WORKER
