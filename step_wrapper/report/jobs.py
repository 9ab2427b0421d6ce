"""Jobs on other systems that an attempt has left: found and deleted, each attempt's own and no other's."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from step_wrapper.handover import TRAMPOLINE_VARIABLE
from step_wrapper.logs import say
from step_wrapper.remote import job_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dagster_pipes import PipesContext

    from step_wrapper import wire
    from step_wrapper.launch import Launch

# Which jobs of a namespace are Metaflow's, and how its Kubernetes jobs call themselves done.
_LABELS = "app.kubernetes.io/part-of=metaflow"
_DONE = ("Complete", "Failed")
KILL_SECONDS = 7


def delete_left(launch: Launch, context: PipesContext, job: wire.Job, kill: Sequence[str] | None = None) -> str | None:
    """Delete the job that an attempt may have left, and return the sentences about one that goes on, or None.

    Args:
        launch: The attempt.
        context: The open Pipes session, which hears of it at once: nobody may wait for the report.
        job: The job.
        kill: The command that ends all jobs of the run on a system that is not known here, or None if the run goes on.
    """
    left = _delete(launch, job, kill)
    if left is not None:
        say(left)
        context.log.error(left)
    return left


def _delete(launch: Launch, job: wire.Job, kill: Sequence[str] | None) -> str | None:
    """Delete the job of an attempt, whether or not its id is known; see `delete_left`."""
    delete: Callable[[], object] | None = {
        "kubernetes": lambda: _delete_from_kubernetes(launch, job),
        "batch": lambda: _delete_from_batch(launch, job),
    }.get(job["system"])
    if delete is None and kill is not None:
        delete = lambda: _run(kill)  # noqa: E731
    if delete is None:
        return None
    try:
        delete()
    except Exception as error:  # of any kind: the clients of other systems raise their own
        return undeleted(job, f"{type(error).__name__}: {error}".strip())
    return None


def undeleted(job: wire.Job, problem: str) -> str:
    """Sentences that name a job which may go on, and say how to delete it.

    Args:
        job: The job.
        problem: Why it could not be deleted.
    """
    named = job_name(job)
    command = _command(job)
    advice = f" Delete it: `{command}`." if command else " Look after it there."
    return f"{named[:1].upper()}{named[1:]} could not be deleted, and may go on ({problem}).{advice}"


def _command(job: wire.Job) -> str | None:
    """The shell command that deletes a job, if its id is known."""
    kind, _, name = (job["id"] or "").rpartition(" ")
    if job["system"] == "kubernetes" and name:
        job_id = name.rpartition("-")[0] if kind == "pod" else name
        return f"kubectl --namespace {job['namespace'] or 'default'} delete job {job_id}"
    if job["system"] == "batch" and name:
        return f"aws batch terminate-job --job-id {name} --reason left"
    return None


def _delete_from_kubernetes(launch: Launch, job: wire.Job) -> None:
    from metaflow.metaflow_config import KUBERNETES_NAMESPACE
    from metaflow.plugins.kubernetes.kubernetes_client import KubernetesClient

    client: Any = KubernetesClient().get()
    namespace = job["namespace"] or str(KUBERNETES_NAMESPACE)
    jobs = client.BatchV1Api()
    refused: Any = None
    for name in _names_in_kubernetes(client, jobs, namespace, launch, job):
        try:
            jobs.delete_namespaced_job(name=name, namespace=namespace, propagation_policy="Background")
        except client.rest.ApiException as error:
            if error.status != 404:
                refused = error
    if refused is not None:
        raise refused


def _names_in_kubernetes(client: Any, jobs: Any, namespace: str, launch: Launch, job: wire.Job) -> Iterator[str]:
    """The names of the attempt's jobs that have not ended."""
    facts = {
        "metaflow/flow_name": launch.flow,
        "metaflow/run_id": launch.run_id,
        "metaflow/step_name": launch.step,
        "metaflow/task_id": launch.task_id,
        "metaflow/attempt": str(launch.attempt),
    }
    try:
        found = jobs.list_namespaced_job(namespace=namespace, label_selector=_LABELS).items
    except client.rest.ApiException as error:
        kind, _, name = (job["id"] or "").rpartition(" ")
        if error.status != 403 or not name:
            raise
        # whoever may not list them knows one by its name
        yield name.rpartition("-")[0] if kind == "pod" else name
        return
    for each in found:
        annotations = each.metadata.annotations or {}
        conditions = each.status.conditions or []
        is_done = any(condition.type in _DONE and condition.status == "True" for condition in conditions)
        if not is_done and all(annotations.get(name) == value for name, value in facts.items()):
            yield each.metadata.name


def _delete_from_batch(launch: Launch, job: wire.Job) -> None:
    from metaflow.plugins.aws.batch.batch_client import BatchClient

    client = BatchClient()
    for job_id in [job["id"]] if job["id"] else _ids_in_batch(client, launch):
        client.attach_job(job_id).kill()


def _ids_in_batch(client: Any, launch: Launch) -> Iterator[str]:
    """The ids of the attempt's jobs that have not ended."""
    facts = {
        "metaflow.flow_name": launch.flow,
        "metaflow.run_id": launch.run_id,
        "metaflow.step_name": launch.step,
        "metaflow.task_id": launch.task_id,
        "metaflow.retry_count": str(launch.attempt),
    }
    ids = [job["jobId"] for job in client.unfinished_jobs() if f"-{launch.run_id}-" in job["jobName"]]
    for job in client.describe_jobs(ids):
        if all(job["parameters"].get(name) == value for name, value in facts.items()):
            yield job["jobId"]


def _run(command: Sequence[str]) -> None:
    """Run a command of Metaflow's that ends jobs.

    Raises:
        RuntimeError: It has failed.
    """
    ended = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=KILL_SECONDS,
        env={**os.environ, TRAMPOLINE_VARIABLE: ""},
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.stderr.write(ended.stdout)
        raise RuntimeError(ended.stdout.strip().splitlines()[-1] if ended.stdout.strip() else "it has said nothing")
