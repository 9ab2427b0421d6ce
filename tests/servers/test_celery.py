"""Flows on Celery: two workers with disks and homes of their own, which have the definitions file alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from ended_runs import until
from servers.celery_cluster import Cluster, run_config, running_cluster

from metaflow_pipes.deployment.definitions_file import read_deployment
from metaflow_pipes.names import ORIGIN_RUN_ID_TAG
from metaflow_pipes.runs.local import LocalInstance

if TYPE_CHECKING:
    from collections.abc import Iterator

# A step that is to end asks every 10 s, and has some more to do so.
PATIENCE_SECONDS = 25
S3_GONE_SECONDS = 30

# By Metaflow's client, which reads its configuration when it is imported.
LOOK = """
import json, os, sys
import metaflow
metaflow.metadata(f"local@{os.environ['METAFLOW_DATASTORE_SYSROOT_LOCAL']}")
metaflow.namespace(None)
run = metaflow.Run(sys.argv[1])
seen = {
    task.id: {
        "stdout": [metaflow.Task(task.pathspec, attempt=n).stdout for n in range(task.current_attempt + 1)],
        "artifacts": {artifact.id: artifact.data for artifact in task if not artifact.id.startswith("_")},
        "origin": task.origin_pathspec,
    }
    for step in run for task in step
}
print(json.dumps({"successful": run.successful, "code": run.code.flowspec.decode(), "tasks": seen}))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def failed(cluster: Cluster) -> str:
    """A run whose last step fails."""
    cluster.signal("ready").unlink(missing_ok=True)
    return cluster.run()


def seen_by_client(run_id: str) -> dict[str, Any]:
    command = [sys.executable, "-c", LOOK, f"FarFlow/dagster-{run_id}"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def records_of(cluster: Cluster, run_id: str, type_: dg.DagsterEventType) -> list[Any]:
    return list(cluster.instance.get_records_for_run(run_id, of_type=type_).records)


def steps_of(cluster: Cluster, run_id: str, type_: dg.DagsterEventType) -> list[str]:
    return sorted(str(record.event_log_entry.step_key) for record in records_of(cluster, run_id, type_))


def launched(cluster: Cluster, waits: str) -> tuple[LocalInstance, str]:
    """A run in a process of its own, as `trigger` launches it."""
    service = LocalInstance(cluster.instance.root_directory)
    deployment = read_deployment(cluster.definitions)
    return service, service.launch(deployment, run_config(waits), {}, lambda _: None).dagster_run_id


def pid_of(signal: Path) -> int:
    return int(signal.name.rpartition("-")[2])


def test_steps_run_on_both_workers_of_which_neither_has_the_flow_file(cluster, failed):
    assert steps_of(cluster, failed, dg.DagsterEventType.STEP_FAILURE) == ["end"]
    seen = seen_by_client(failed)
    assert seen["tasks"]["join"]["artifacts"]["results"] == [0, 10]
    assert seen["code"] == (cluster.flows.folder / "far.py").read_text()
    assert [path.name for path in cluster.definitions.parent.iterdir() if path.is_file()] == ["defs.py"]
    for worker in cluster.workers:
        # each has run steps, and has fetched their code for that
        assert list(worker.disk.glob(f"{failed}/compute_logs/*.complete"))
        (package,) = (worker.folder / "home/.metaflow-pipes/code").glob("*[!.lock]")
        assert (package / "far.py").read_text() == seen["code"]


def test_values_between_ops_are_on_no_disk(cluster, failed):
    for worker in cluster.workers:
        assert {path.name for path in worker.disk.glob("*/*")} == {"compute_logs"}
        assert not (worker.disk / "storage").exists()


def test_attempts_that_fail_are_retried_and_each_has_its_log(cluster, failed):
    assert steps_of(cluster, failed, dg.DagsterEventType.STEP_UP_FOR_RETRY) == ["work[0]"]
    tasks = seen_by_client(failed)["tasks"]
    assert tasks["join"]["artifacts"]["attempts"] == [1, 0]
    assert tasks["work-0"]["stdout"] == ["item 0 attempt 0\n", "item 0 attempt 1\n"]
    assert tasks["end"]["stdout"] == ["at the end\n"]


def test_reexecution_goes_on_where_the_run_failed(cluster, failed):
    cluster.signal("ready").touch()
    again = cluster.run(reexecution_options=dg.ReexecutionOptions.from_failure(failed, cluster.instance))
    assert cluster.instance.get_run_by_id(again).is_success
    assert steps_of(cluster, again, dg.DagsterEventType.STEP_SUCCESS) == ["end"]
    assert seen_by_client(failed)["successful"]


def test_run_that_resumes_another_clones_what_that_has_done(cluster, failed):
    cluster.signal("ready").touch()
    resumed = cluster.run(tags={ORIGIN_RUN_ID_TAG: f"dagster-{failed}"})
    assert cluster.instance.get_run_by_id(resumed).is_success
    seen = seen_by_client(resumed)
    assert seen["successful"]
    cloned = {"start", "work-0", "work-1", "join"}
    assert {task for task, entry in seen["tasks"].items() if entry["origin"]} >= cloned


def test_terminate_ends_the_step_and_the_run(cluster):
    service, run_id = launched(cluster, "start")
    pid = pid_of(until(lambda: next(cluster.signals.glob("start-*"), None)))
    started = time.monotonic()
    service.terminate(service.run(run_id))
    assert cluster.instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.CANCELED
    until(lambda: not Path("/proc", str(pid)).exists())
    assert time.monotonic() - started < PATIENCE_SECONDS
    # Celery's own has let it go on; the worker says what has ended it
    (failure,) = until(lambda: records_of(cluster, run_id, dg.DagsterEventType.STEP_FAILURE))
    assert "DagsterExecutionInterruptedError" in failure.event_log_entry.dagster_event.event_specific_data.error.message


def test_run_outlives_its_servers_and_a_worker(cluster):
    cluster.signal("ready").touch()
    cluster.signal("go on").unlink(missing_ok=True)
    _, run_id = launched(cluster, "work")
    worker = cluster.workers[1]
    until(lambda: len(list(cluster.signals.glob("work-*"))) == 2)
    pids = [pid_of(signal) for signal in cluster.signals.glob("work-*")]
    cluster.redis.restart()
    cluster.postgres.restart()
    worker.kill()
    # its step ends with it
    until(lambda: sum(Path("/proc", str(pid)).exists() for pid in pids) == 1)
    cluster.signal("go on").touch()
    with cluster.store.gone():
        time.sleep(S3_GONE_SECONDS)
    # a worker looks for what others have left undone when it is started, and then every 100 s
    worker.start()
    worker.wait()
    until(lambda: cluster.instance.get_run_by_id(run_id).is_finished)
    assert cluster.instance.get_run_by_id(run_id).is_success
    assert seen_by_client(run_id)["tasks"]["join"]["artifacts"]["results"] == [0, 10]
