"""Ops in threads of the run's process: what any Dagster executor does, and a compute log for each step."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from dagster._core.execution.api import execute_run
from dagster._core.execution.plan.execute_plan import dagster_event_sequence_for_step
from dagster._core.storage.cloud_storage_compute_log_manager import CloudStorageComputeLogManager
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._serdes import ConfigurableClass
from support import Project, is_running, persistent

from metaflow_pipes.runtime import step_thread, threads
from metaflow_pipes.runtime.executors import limits
from step_wrapper import processes

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP_SECONDS = 0.4


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        yield instance


def logs_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, tuple[bytes, bytes]]:
    """The compute logs of each step, stdout and stderr."""
    found = {}
    for record in instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.LOGS_CAPTURED).records:
        event = record.event_log_entry.dagster_event
        assert event is not None
        data = event.logs_captured_data
        key = instance.compute_log_manager.build_log_key_for_run(run_id, data.file_key)
        assert instance.compute_log_manager.is_capture_complete(key)
        log = instance.compute_log_manager.get_log_data(key)
        for step_key in data.step_keys or ():
            found[step_key] = (found.get(step_key, (b"", b""))[0] + (log.stdout or b""), log.stderr or b"")
    return found


def test_each_step_of_a_flow_has_its_own_logs(project, instance):
    flows: Project = project("printing.py")
    definitions = flows.compile("printing.py", "--executor", "threads", "--max-workers", "4")
    with dg.execute_job(persistent(definitions), instance) as result:
        assert result.success
        logs = logs_of(instance, result.run_id)
    assert logs["start"] == (b"out of start\n", b"err of start\n")
    assert {key: logs[key][0] for key in logs if key.startswith("work")} == {
        f"work[{index}]": f"item {index}\n".encode() for index in range(5)
    }
    run = flows.metaflow_run("PrintingFlow", f"dagster-{result.run_id}")
    assert run.successful
    assert sorted(task.stdout for task in run["work"]) == [f"item {index}\n" for index in range(5)]


# plain jobs, for what is Dagster's and not Metaflow's: each is made anew where it is run


@dg.op(out=dg.DynamicOut(int))
def numbers():
    for number in range(4):
        yield dg.DynamicOutput(number, mapping_key=str(number))


@dg.op
def slow(number: int) -> int:
    time.sleep(SLEEP_SECONDS)
    return number


@dg.op
def total(found: list[int]) -> int:
    return sum(found)


@dg.job(executor_def=threads(4))
def side_by_side():
    total(numbers().map(slow).collect())


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


@dg.op(pool="narrow")
def pooled(number: int) -> int:
    INSIDE.append(number)
    inside = len(INSIDE)
    time.sleep(0.1)
    INSIDE.remove(number)
    return inside


INSIDE: list[int] = []


@dg.op
def widest(found: list[int]) -> int:
    return max(found)


@dg.job(executor_def=threads(4))
def in_a_pool():
    widest(numbers().map(pooled).collect())


LIMITS = [{"key": "kind", "value": "heavy", "limit": 1}]


@dg.op(tags={"kind": "heavy"})
def heavy(number: int) -> int:
    return pooled.compute_fn.decorated_fn(number)  # pyright: ignore


@dg.job(executor_def=threads(4).configured({"tag_concurrency_limits": LIMITS}, "limited"))
def with_tag_limits():
    widest(numbers().map(heavy).collect())


@dg.op
def one() -> int:
    return 1


def run(job: dg.JobDefinition, instance: dg.DagsterInstance, **options: Any) -> Any:
    return dg.execute_job(dg.reconstructable(job), instance, **options)


def keys(result: Any, kind: dg.DagsterEventType) -> list[str]:
    return sorted(event.step_key for event in result.filter_events(lambda event: event.event_type == kind))


def test_steps_run_side_by_side_in_threads_of_this_process(instance):
    started = time.monotonic()
    with run(side_by_side, instance) as result:
        assert result.success
        assert result.output_for_node("total") == 6
    assert time.monotonic() - started < 30
    starts = [e.timestamp for e in _records(instance, result.run_id, "STEP_START", "slow")]
    ends = [e.timestamp for e in _records(instance, result.run_id, "STEP_SUCCESS", "slow")]
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


def test_limit_below_one_is_refused(instance):
    config = {"execution": {"config": {"max_concurrent": -1}}}
    with pytest.raises(dg.DagsterInvalidConfigError, match="at least one step"):
        run(side_by_side, instance, run_config=config, raise_on_error=True)


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("max 100000", 3), ("150000 100000", 2), ("1000 100000", 1), ("900000 100000", 3), ("", 3), (None, 3)],
)
def test_default_limit_is_that_of_the_container(monkeypatch, tmp_path, quota, cpus):
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(f"{quota}\n")
    monkeypatch.setattr(limits, "CPU_QUOTA", file)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert limits.available_cpus() == cpus


def test_pools_limit_what_runs_side_by_side(instance):
    instance.event_log_storage.set_concurrency_slots("narrow", 1)
    with run(in_a_pool, instance) as result:
        assert result.success
        assert result.output_for_node("widest") == 1


def test_tags_limit_what_runs_side_by_side(instance):
    with run(with_tag_limits, instance) as result:
        assert result.success
        assert result.output_for_node("widest") == 1


PROCESSES = """
import time
import dagster as dg
from metaflow_pipes.runtime import multiprocess

@dg.op(tags={"kind": "heavy"})
def heavy():
    time.sleep(0.5)

@dg.job(executor_def=multiprocess(4))
def processes():
    for number in range(3):
        heavy.alias(f"heavy_{number}")()

defs = dg.Definitions(jobs=[processes])
"""


def test_tags_limit_what_runs_side_by_side_in_processes(instance, tmp_path):
    (tmp_path / "processes.py").write_text(PROCESSES)
    config = {"execution": {"config": {"tag_concurrency_limits": LIMITS, "max_concurrent": 3}}}
    job = persistent(tmp_path / "processes.py")
    assert dg.execute_job(job, instance, run_config=config).success
    records = _records(instance, instance.get_runs()[0].run_id, "STEP_START", "heavy")
    assert len(records) == 3
    assert all(later.timestamp - earlier.timestamp >= 0.5 for earlier, later in pairwise(records))


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


def _records(instance: dg.DagsterInstance, run_id: str, kind: str, step: str) -> list[Any]:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType(kind)).records
    return [
        record
        for record in records
        if (event := record.event_log_entry.dagster_event) is not None and (event.step_key or "").startswith(step)
    ]


# compute logs in cloud storages, whose managers upload a log and delete the local files when it is closed


class CloudLogs(CloudStorageComputeLogManager[dg.DagsterInstance], ConfigurableClass):
    """A cloud that is a folder."""

    def __init__(self, folder: str, inst_data: Any = None):
        self._folder = Path(folder)
        self._inst_data = inst_data
        self._local = LocalComputeLogManager(f"{folder}/local")
        self.uploads: list[tuple[str, bool]] = []

    inst_data = property(lambda self: self._inst_data)
    local_manager = property(lambda self: self._local)  # pyright: ignore
    upload_interval = property(lambda self: None)  # pyright: ignore

    @classmethod
    def config_type(cls) -> Any:
        return {"folder": str}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> CloudLogs:
        return cls(inst_data=inst_data, **config_value)

    def path(self, log_key: Any, io_type: Any) -> Path:
        return self._folder / "cloud" / "-".join((*log_key, io_type.value))

    def upload_to_cloud_storage(self, log_key, io_type, partial=False):
        extension = {"stdout": "out", "stderr": "err"}[io_type.value]
        local = Path(self._local.get_captured_local_path(log_key, extension))
        self.path(log_key, io_type).parent.mkdir(exist_ok=True, parents=True)
        self.path(log_key, io_type).write_bytes(local.read_bytes())

    def delete_logs(self, log_key=None, prefix=None):
        raise NotImplementedError

    def download_url_for_type(self, log_key, io_type):
        return None

    def display_path_for_type(self, log_key, io_type):
        return str(self.path(log_key, io_type))

    def cloud_storage_has_logs(self, log_key, io_type, partial=False):
        return self.path(log_key, io_type).exists()

    def download_from_cloud_storage(self, log_key, io_type, partial=False):
        local = Path(self._local.get_captured_local_path(log_key, {"stdout": "out", "stderr": "err"}[io_type.value]))
        local.parent.mkdir(exist_ok=True, parents=True)
        local.write_bytes(self.path(log_key, io_type).read_bytes())


def test_both_streams_of_a_step_reach_a_cloud_storage(project, tmp_path):
    flows: Project = project("printing.py")
    definitions = flows.compile("printing.py", "--executor", "threads")
    overrides = {
        "compute_logs": {
            "module": "test_threads_executor",
            "class": "CloudLogs",
            "config": {"folder": str(tmp_path / "logs")},
        }
    }
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides=overrides) as instance:
        with dg.execute_job(persistent(definitions), instance) as result:
            assert result.success
        logs = logs_of(instance, result.run_id)
    assert logs["start"] == (b"out of start\n", b"err of start\n")
    assert logs["work[3]"][0] == b"item 3\n"


def test_compute_log_that_can_not_be_uploaded_is_told_of_and_fails_no_step(tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    (folder / "cloud").write_text("a file in the way")
    logs = {"module": "test_threads_executor", "class": "CloudLogs", "config": {"folder": str(folder)}}
    with dg.instance_for_test(temp_dir=str(tmp_path), overrides={"compute_logs": logs}) as instance:
        result = run(side_by_side, instance)
        assert result.success
        entries = instance.all_logs(result.run_id, dg.DagsterEventType.ENGINE_EVENT)
    told = {entry.step_key: entry.message for entry in entries if "could not be stored" in entry.message}
    assert set(told) == {"numbers", *(f"slow[{index}]" for index in range(4)), "total"}
    assert told["slow[2]"].startswith("The compute log of step slow[2] could not be stored: FileExistsError: ")


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


@dg.job(executor_def=threads(1))
def one_at_a_time():
    widest(numbers().map(pooled).collect())


def test_limit_is_kept(instance):
    with run(one_at_a_time, instance) as result:
        assert result.success
        assert result.output_for_node("widest") == 1


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
