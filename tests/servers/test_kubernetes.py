"""Steps with `@kubernetes`: Metaflow's own jobs, on a double of the Kubernetes API whose pods are local processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from ended_runs import until
from servers.cluster import NAMESPACE, Cluster
from support import Project, execute, failure_description, failures, job_of, output_metadata, supervisor

from metaflow_pipes.runtime.step_thread import StepThread, running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("kubernetes")  # one worker, with one cluster

S3 = ("--datastore", "s3")
# After all that ends a step, its job is to be gone.
SECONDS_TO_DELETE = 30
SECONDS_TO_START = 120
# Until the process that waits for a job knows it.
SECONDS_TO_KNOW = 2

LOOK = """
import json, sys
import metaflow
metaflow.metadata(f"local@{sys.argv[1]}")
metaflow.namespace(None)
seen = {}
for task in (task for step in metaflow.Run(sys.argv[2]) for task in step):
    attempts = [metaflow.Task(task.pathspec, attempt=number) for number in range(task.current_attempt + 1)]
    seen[task.id] = {
        "successful": task.successful,
        "stdout": [attempt.stdout for attempt in attempts],
        "stderr": [attempt.stderr for attempt in attempts],
        "artifacts": {a.id: a.data for a in task if a.id in ("seen", "results", "workload")}
        | {a.id: repr(a.data) for a in task if a.id == "problem"},
        "metadata": task.metadata_dict,
    }
print(json.dumps(seen))
"""


@dataclass
class Ran:
    """A run of CloudFlow."""

    flows: Project
    created: str
    result: dg.ExecuteInProcessResult
    output: str
    errors: str
    tasks: dict[str, Any]
    log: list[str]


@pytest.fixture(scope="module")
def ran(cluster, tmp_path_factory) -> Ran:
    flows = Project.of(tmp_path_factory.mktemp("cloud") / "project", "cloud.py")
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        patch.setenv("TOKEN", "hush")
        options = ("--step-env", "PLAIN=plain", "--step-env", "TOKEN")
        created = flows.metaflow("cloud.py", *S3, "dagster", "create", "defs.py", *options).stdout
        output, errors = (flows.folder / name for name in ("stdout", "stderr"))

        def hear() -> None:
            until(lambda: output.exists() and output.read_text().count("\nworking on 1\n") == 2)
            (cluster.folder / "heard").touch()

        threading.Thread(target=hear, daemon=True).start()
        with (
            output.open("w") as stdout,
            errors.open("w") as stderr,
            running(StepThread(stdout=stdout.fileno(), stderr=stderr.fileno())),
        ):
            result = job_of(flows.folder / "defs.py").execute_in_process(
                run_config={"ops": {"start": {"config": {"alpha": 2.0}}}}, instance=instance, raise_on_error=False
            )
        log = [entry.user_message for entry in instance.all_logs(result.run_id)]
    run = f"CloudFlow/dagster-{result.run_id}"
    looked = subprocess.run(
        [sys.executable, "-c", LOOK, str(flows.folder), run], stdout=subprocess.PIPE, check=True
    ).stdout
    return Ran(flows, created, result, output.read_text(), errors.read_text(), json.loads(looked), log)


def test_flow_runs_through_in_pods(ran, cluster):
    assert ran.result.success
    assert ran.tasks["join"]["artifacts"]["results"] == [2.0]
    assert ran.tasks["work-0"]["artifacts"]["workload"]
    bodies = cluster.jobs(f"dagster-{ran.result.run_id}")
    tasks = [body["metadata"]["annotations"]["metaflow/task_id"] for body in bodies]
    assert tasks == ["work-0", "work-0", "end"]
    requests = bodies[0]["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]
    assert (requests["cpu"], requests["memory"]) == ("2", "1000M")
    (package,) = {_env(body)["METAFLOW_CODE_URL"] for body in bodies}
    assert package.startswith("s3://")
    assert "@kubernetes: steps work, end run as jobs of its own" in ran.created


def _env(body: dict[str, Any]) -> dict[str, str]:
    (container,) = body["spec"]["template"]["spec"]["containers"]
    return {variable["name"]: variable.get("value") for variable in container["env"]}


def test_attempt_that_fails_says_why_and_is_retried(ran):
    (raised,) = failures(ran.result, "work[0]")
    assert "(attempt 0) failed: ValueError: on purpose" in failure_description(raised)
    assert "ValueError: on purpose" in ran.tasks["work-0"]["stderr"][0]


def test_fallback_of_catch_runs_here(ran):
    (died,) = failures(ran.result, "end")
    assert "ran out of memory" in failure_description(died)
    assert "FailureHandledByCatch" in ran.tasks["end"]["artifacts"]["problem"]
    assert "compute" not in output_metadata(ran.result, "end")


def test_variables_reach_the_pod_and_secrets_only_by_reference(ran, cluster):
    seen = ran.tasks["work-0"]["artifacts"]["seen"]
    assert seen == {
        "COLOR": "green",
        "PLAIN": "plain",
        "TOKEN": None,
        "KEY": "from the cluster",
        "METAFLOW_RUNTIME_NAME": "dagster",
    }
    assert "hush" not in (cluster.folder / "requests.jsonl").read_text()


def test_dagster_shows_the_job_and_what_the_step_made(ran):
    metadata = output_metadata(ran.result, "work[0]")
    assert metadata["compute"].value == "kubernetes"
    assert metadata["job"].value.startswith("pod t-")
    assert metadata["namespace"].value == NAMESPACE
    assert f"kubectl --namespace {NAMESPACE} describe pod t-" in metadata["job_link"].value
    assert metadata["result"].value == 2.0
    assert "# In the pod" in metadata["card content"].value
    origins = {record.data["name"]: record.data["origin"] for record in metadata["artifacts"].records}
    assert (origins["result"], origins["items"]) == ("new", "inherited")


def test_checks_of_a_step_in_a_pod_are_evaluated(ran):
    evaluations = [e for e in ran.result.all_events if e.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION]
    assert evaluations
    assert all(event.event_specific_data.passed for event in evaluations)


def test_metadata_are_those_of_the_pod_and_of_the_dagster_step(ran):
    metadata = ran.tasks["work-0"]["metadata"]
    assert metadata["kubernetes-pod-namespace"] == NAMESPACE
    assert metadata["dagster-run-id"] == ran.result.run_id


def test_waiting_and_starting_are_in_the_event_log(ran):
    assert any(f"in the namespace {NAMESPACE} is starting: Pod is" in message for message in ran.log)
    assert any(f"in the namespace {NAMESPACE} has started after" in message for message in ran.log)
    # of a step's own process Dagster hears what it logs by Pipes; of one in a pod it does not
    assert not any("nobody hears this" in message for message in ran.log)


def test_output_comes_live_has_no_prefixes_and_is_stored_once(ran):
    # the second attempt waits until its first line has come
    assert ran.tasks["work-0"]["successful"]
    assert ran.output.count("\nworking on 1\n") == 2
    assert "\nto stderr\n" in "\n" + ran.errors
    assert "MFLOG" not in ran.output + ran.errors
    for stream, line in (("stdout", "working on 1"), ("stderr", "to stderr")):
        _, stored = ran.tasks["work-0"][stream]
        assert stored.splitlines().count(line) == 1
        assert "MFLOG" not in stored


# what ends a step ends its job; a pod that waits costs nothing


@pytest.fixture
def pending(cluster, monkeypatch) -> Iterator[Cluster]:
    """The cluster, as long as new pods have to wait."""
    (cluster.folder / "pending").touch()
    yield cluster
    for name in ("pending", "forbidden"):
        (cluster.folder / name).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def waiting(cluster, tmp_path_factory) -> Path:
    """The definitions file of a flow with a step in Kubernetes."""
    flows = Project.of(tmp_path_factory.mktemp("waits") / "project", "waits_in_cloud.py")
    return flows.compile("waits_in_cloud.py", top_level=S3)


def _new_job(cluster: Cluster, known: int) -> str:
    return until(lambda: [entry["job"] for entry in cluster.requests("POST")][known:], SECONDS_TO_START)[0]


def _when_job_is_there(cluster: Cluster, known: int, number: int) -> None:
    """Send a signal to the step's supervisor when there is one more job."""

    def send():
        _new_job(cluster, known)
        time.sleep(SECONDS_TO_KNOW)
        os.kill(supervisor(), number)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL], ids=["run is terminated", "run worker and op are killed"]
)
def test_job_is_deleted_when_its_run(pending, waiting, tmp_path, number):
    known = len(pending.requests("POST"))
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(waiting), "-j", "WaitsInCloudFlow"]
    process = subprocess.Popen(
        command,
        cwd=waiting.parent,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path / "home")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        job = _new_job(pending, known)
        time.sleep(SECONDS_TO_KNOW)
        process.send_signal(number)
        until(lambda: job in dict(pending.ended()), SECONDS_TO_DELETE)
    finally:
        process.kill()
        process.wait()


def test_job_is_deleted_when_its_supervisor_is_killed(pending, waiting):
    known = len(pending.requests("POST"))

    _when_job_is_there(pending, known, signal.SIGKILL)
    result = execute(job_of(waiting))
    (failed,) = failures(result, "only")
    assert "its supervisor was killed by signal 9" in failure_description(failed)
    job = pending.requests("POST")[known]["job"]
    assert job in dict(pending.ended())


def test_job_that_can_not_be_deleted_is_named_in_the_failure(pending, waiting):
    known = len(pending.requests("POST"))
    (pending.folder / "forbidden").touch()
    _when_job_is_there(pending, known, signal.SIGTERM)
    with dg.instance_for_test() as instance:
        result = execute(job_of(waiting), instance=instance)
        messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    (failed,) = failures(result, "only")
    description = failure_description(failed)
    job = pending.requests("POST")[known]["job"]
    assert "(attempt 0) was terminated" in description
    assert f"in the namespace {NAMESPACE} could not be deleted, and may go on" in description
    assert f"kubectl --namespace {NAMESPACE} delete job {job}" in description
    assert "Forbidden" in description
    assert any("could not be deleted" in message for message in messages)
    assert any("is starting: Pod is pending, Container is waiting - ContainerCreating." in m for m in messages)
