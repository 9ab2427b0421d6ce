"""The job on another system that runs a step, as its process reports it and as Dagster shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any


def job_of(invocation: dg.PipesClientCompletedInvocation) -> wire.Job | None:
    """The job that has run a step, as far as is known; None for a step that ran here."""
    return job_in(invocation.get_custom_messages())


def job_in(messages: Iterable[Any]) -> wire.Job | None:
    """The last job that custom Pipes messages hold, or None."""
    jobs = [job for message in messages if (job := wire.job_in(message)) is not None]
    return jobs[-1] if jobs else None


def noting_jobs(jobs: list[wire.Job], publish: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A function as `publish` that also takes note of the jobs that a step's messages tell of.

    Args:
        jobs: Takes the jobs.
        publish: The function.
    """

    def note(message: Any) -> bool:
        job = wire.job_in(message)
        if job is not None:
            jobs.append(job)
        return publish(message)

    return note


def with_job(metadata: Mapping[str, dg.MetadataValue], job: wire.Job) -> dict[str, dg.MetadataValue]:
    """The metadata of a step, and those of its job; an artifact that is called like one of these is still shown."""
    about = job_metadata(job)
    return {**{f"{name} (artifact)" if name in about else name: value for name, value in metadata.items()}, **about}


def job_metadata(job: wire.Job) -> dict[str, dg.MetadataValue]:
    """The metadata of a step that ran elsewhere: where, as which job, and how to look at it."""
    metadata: dict[str, dg.MetadataValue] = {"compute": dg.MetadataValue.text(job["system"])}
    if job["id"] is not None:
        metadata["job"] = dg.MetadataValue.text(job["id"])
    if job["namespace"] is not None:
        metadata["namespace"] = dg.MetadataValue.text(job["namespace"])
    if job["url"] is not None:
        metadata["job_link"] = dg.MetadataValue.url(job["url"])
    elif job["system"] == "kubernetes" and job["id"] is not None:
        kind, _, name = job["id"].rpartition(" ")
        namespace = job["namespace"] or "default"
        metadata["job_link"] = dg.MetadataValue.md(f"`kubectl --namespace {namespace} describe {kind} {name}`")
    return metadata
