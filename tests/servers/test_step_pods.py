"""Flows whose ops run in pods of their own: dagster-k8s's executor and run launcher, on the cluster's double."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import yaml
from ended_runs import until
from servers.celery_cluster import INSTANCE
from servers.cluster import DAGSTER_IMAGES, NAMESPACE, Cluster
from servers.postgres import running_postgres
from support import Project

from metaflow_pipes.run_ids import metaflow_run_id
from metaflow_pipes.runs.loading import load_job
from metaflow_pipes.runs.local import LocalInstance

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.xdist_group("kubernetes")  # one worker, with one cluster

EXECUTOR = ("--executor", "dagster_k8s:k8s_job_executor")
# For eight pods, each with an interpreter to start, on a busy machine.
PATIENCE_SECONDS = 400
SECONDS_TO_DELETE = 30
# How the names of Metaflow's own jobs begin.
METAFLOWS_JOBS = "t-"

# By Metaflow's client, which reads its configuration when it is imported.
LOOK = """
import json, os, sys
import metaflow
metaflow.metadata(f"local@{os.environ['METAFLOW_DATASTORE_SYSROOT_LOCAL']}")
metaflow.namespace(None)
run = metaflow.Run(sys.argv[1])
tasks = {
    task.id: {
        "stdout": [metaflow.Task(task.pathspec, attempt=n).stdout for n in range(task.current_attempt + 1)],
        "artifacts": {artifact.id: artifact.data for artifact in task if not artifact.id.startswith("_")},
    }
    for step in run for task in step
}
print(json.dumps({"successful": run.successful, "tasks": tasks}))
"""


@dataclass(frozen=True)
class Deployment:
    """A Dagster deployment whose run launcher is `K8sRunLauncher`.

    Attributes:
        cluster: Where its pods run.
        instance: Dagster's instance, as the daemon has it.
        home: The instance's folder.
        folder: The folder of the definitions files, all that the image has of the flows.
        flows: The folder of whoever compiles the flows.
    """

    cluster: Cluster
    instance: dg.DagsterInstance
    home: Path
    folder: Path
    flows: Project

    def deploy(self, flow: str, *options: str) -> tuple[Path, str]:
        """Compile a flow, leave its definitions file alone where pods find it, and return that and what is said."""
        name = f"defs_of_{flow}"
        said = self.flows.metaflow(flow, "--datastore", "s3", "dagster", "create", name, *EXECUTOR, *options).stdout
        return (self.flows.folder / name).rename(self.folder / name), said

    def launch(self, definitions: Path, job: str, **parameters: Any) -> str:
        """Launch a run as the daemon does, and return its id."""
        reconstructable = dg.build_reconstructable_job(
            load_job.__module__,
            load_job.__name__,
            (str(definitions), job),  # pyright: ignore[reportArgumentType]
        )
        run = self.instance.create_run_for_job(
            reconstructable.get_definition(),
            run_config={"ops": {"start": {"config": parameters}}} if parameters else {},
            job_code_origin=reconstructable.get_python_origin(),
        )
        workspace: Any = None  # which the launcher does not ask
        return self.instance.launch_run(run.run_id, workspace).run_id

    def jobs(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The jobs that Dagster has launched for a run, by their names."""
        bodies = [entry["body"] for entry in self.cluster.requests("POST")]
        return {
            body["metadata"]["name"]: body
            for body in bodies
            if body["metadata"]["labels"].get("dagster/run-id") == run_id
        }

    def events(self, run_id: str, type_: dg.DagsterEventType) -> list[Any]:
        return [record.event_log_entry for record in self.instance.get_records_for_run(run_id, of_type=type_).records]


@pytest.fixture(scope="module")
def deployment(kubernetes, shelf, tmp_path_factory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("deployment")
    for name in ("home", "deployed", "metadata"):
        (folder / name).mkdir()
    environment = {
        **shelf.environment,
        **kubernetes.environment,
        "METAFLOW_USER": "tester",
        "METAFLOW_DEFAULT_DATASTORE": "s3",
        # in place of a metadata service
        "METAFLOW_DATASTORE_SYSROOT_LOCAL": str(folder / "metadata"),
        # of each pod: relative to where that runs
        "WORKER_DISK": "disk",
        # a volume: who is first fetches the code
        "METAFLOW_PIPES_CODE_CACHE": str(folder / "code"),
    }
    (kubernetes.folder / "secrets" / "metaflow").write_text(
        json.dumps({**environment, "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.2"})
    )
    launcher = {
        "load_incluster_config": False,
        "kubeconfig_file": kubernetes.environment["KUBECONFIG"],
        "job_namespace": NAMESPACE,
        "job_image": DAGSTER_IMAGES[0],
        "service_account_name": "dagster",
        "instance_config_map": "dagster-instance",
        "dagster_home": str(folder / "home"),
        "env_secrets": ["metaflow"],
        "resources": {"requests": {"cpu": "250m", "memory": "512Mi"}},
    }
    run_launcher = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher}
    with running_postgres() as postgres, pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "WORKER_DISK": str(folder / "disk")}.items():
            patch.setenv(name, value)
        text = INSTANCE.format(url=postgres.url) + yaml.safe_dump({"run_launcher": run_launcher})
        (folder / "home" / "dagster.yaml").write_text(text)
        with dg.DagsterInstance.from_config(str(folder / "home")) as instance:
            flows = Project.of(folder / "project", "pods.py", "waits_in_cloud.py")
            yield Deployment(kubernetes, instance, folder / "home", folder / "deployed", flows)


@dataclass(frozen=True)
class Ran:
    """A run of PodsFlow."""

    created: str
    run_id: str
    seen: dict[str, Any]
    jobs: dict[str, dict[str, Any]]

    def job_of(self, step: str) -> dict[str, Any]:
        """The only job of an op."""
        (job,) = [body for body in self.jobs.values() if body["metadata"]["labels"].get("dagster/op") == step]
        return job

    def container_of(self, step: str) -> dict[str, Any]:
        (container,) = self.job_of(step)["spec"]["template"]["spec"]["containers"]
        return container


@pytest.fixture(scope="module")
def ran(deployment) -> Ran:
    definitions, created = deployment.deploy("pods.py")
    run_id = deployment.launch(definitions, "PodsFlow", alpha=2.0)
    until(lambda: deployment.instance.get_run_by_id(run_id).is_finished, PATIENCE_SECONDS)
    assert deployment.instance.get_run_by_id(run_id).is_success
    looked = subprocess.run(
        [sys.executable, "-c", LOOK, f"PodsFlow/{metaflow_run_id(run_id)}"], stdout=subprocess.PIPE, check=True
    )
    return Ran(created, run_id, json.loads(looked.stdout), deployment.jobs(run_id))


def test_each_attempt_of_a_task_is_a_pod(ran):
    assert ran.seen["successful"]
    assert ran.seen["tasks"]["join"]["artifacts"]["results"] == [2.0, 4.0]
    # a step with @kubernetes is the pod of its op, and launches no other one
    assert "@kubernetes: steps work run in the pods of their ops (--kubernetes)" in ran.created
    ops = sorted(body["metadata"]["labels"].get("dagster/op", "") for body in ran.jobs.values())
    assert ops == ["", "collect_work", "end", "join", "start", "work-0", "work-1", "work-1"]


def test_attempt_that_fails_is_retried_in_another_pod(ran, deployment):
    (failed,) = deployment.events(ran.run_id, dg.DagsterEventType.STEP_UP_FOR_RETRY)
    assert failed.step_key == "work[1]"
    assert "(attempt 0) failed: ValueError: on purpose" in str(failed.dagster_event.event_specific_data.error)
    assert ran.seen["tasks"]["work-1"]["stdout"] == ["working on 2\n", "working on 2\n"]


def test_pod_asks_for_what_the_decorators_of_its_step_say(ran):
    assert ran.container_of("start")["resources"] == {"requests": {"cpu": "2", "memory": "1000M"}}
    container = ran.container_of("work-0")
    assert container["resources"] == {"requests": {"cpu": "1", "memory": "2000M"}}
    assert container["image"] == "registry.test/train:1"
    assert ran.job_of("work-0")["spec"]["template"]["metadata"]["labels"]["team"] == "science"
    # what the run launcher has
    container = ran.container_of("join")
    assert container["resources"] == {"requests": {"cpu": "250m", "memory": "512Mi"}}
    assert container["image"] == "registry.test/flows:1"


def test_secrets_and_variables_reach_the_pod(ran):
    seen = {"COLOR": "green", "KEY": "from the cluster", "DAGSTER_RUN_STEP_KEY": "work[0]"}
    assert ran.seen["tasks"]["work-0"]["artifacts"]["seen"] == seen


def test_code_is_fetched_where_the_pods_have_the_definitions_file_alone(ran, deployment):
    assert all(path.name.startswith("defs_of_") for path in deployment.folder.iterdir() if path.is_file())
    folder = ran.seen["tasks"]["start"]["artifacts"]["folder"]
    assert folder.startswith(os.environ["METAFLOW_PIPES_CODE_CACHE"])


def test_terminate_deletes_the_jobs_of_the_run_of_its_ops_and_of_their_steps(deployment):
    """A step is not its op's pod here, but Metaflow's own job, which waits."""
    definitions, created = deployment.deploy("waits_in_cloud.py", "--kubernetes", "job")
    assert "@kubernetes: steps only run as jobs of its own (--kubernetes)" in created
    pending = deployment.cluster.folder / "pending"
    pending.write_text(METAFLOWS_JOBS)
    known, known_ends = (len(deployment.cluster.requests(method)) for method in ("POST", "END"))

    def launched() -> list[str]:
        return [entry["job"] for entry in deployment.cluster.requests("POST")][known:]

    service = LocalInstance(str(deployment.home))
    run_id = deployment.launch(definitions, "WaitsInCloudFlow")
    try:
        until(lambda: len(launched()) == 3)
        service.terminate(service.run(run_id))
        until(lambda: set(launched()) <= dict(deployment.cluster.ended()).keys(), SECONDS_TO_DELETE)
        until(lambda: deployment.instance.get_run_by_id(run_id).is_finished)
    finally:
        pending.unlink()
    assert deployment.instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.CANCELED
    # both pods of Dagster's end by themselves, and have seen to it that their processes do
    until(lambda: len(deployment.cluster.requests("END")) == known_ends + 2, SECONDS_TO_DELETE)
    assert [entry["code"] for entry in deployment.cluster.requests("END")[known_ends:]] == [0, 1]
