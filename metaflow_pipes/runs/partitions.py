"""The partition of a run that is to be launched, as a command names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from metaflow_pipes.errors import DeploymentError
from metaflow_pipes.names import (
    PARTITION_RANGE,
    PARTITION_RANGE_END_TAG,
    PARTITION_RANGE_START_TAG,
    PARTITION_TAG,
    PARTITION_TAGS,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow_pipes.deployment.definitions_file import Deployment


def ends_of(partition: str, deployment: Deployment) -> tuple[str, str | None]:
    """The key of a partition, and None; or the first and the last key of several.

    Args:
        partition: `KEY` or `FIRST...LAST`.
        deployment: The deployed flow.

    Raises:
        DeploymentError: A run of the flow takes one partition.
    """
    first, dots, last = partition.partition(PARTITION_RANGE)
    if not dots:
        return partition, None
    if not deployment.takes_partition_range:
        raise DeploymentError(
            f"--partition {partition} names several partitions, and a run of {deployment.name} takes one. Launch a run "
            "for each, or compile the flow with --partition-range START_PARAMETER,END_PARAMETER."
        )
    return first, last


def no_partitions(deployment: Deployment) -> DeploymentError:
    """The error that a partition is given to a job that has none."""
    return DeploymentError(
        f"--partition is given, but the job {deployment.name} has no partitions. Compile the flow with --partition-by "
        "PARAMETER=SPEC, or leave the option out."
    )


def partition_in(tags: Mapping[str, str]) -> str:
    """The partition of a run as people read it, by its tags; empty if it has none."""
    if PARTITION_RANGE_START_TAG in tags and PARTITION_TAG not in tags:
        first, last = tags[PARTITION_RANGE_START_TAG], tags.get(PARTITION_RANGE_END_TAG, "")
        return first if first == last else f"{first}{PARTITION_RANGE}{last}"
    return tags.get(PARTITION_TAG, "")


def kept_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run that say its partition, for a run that goes on from it."""
    return {tag: value for tag, value in tags.items() if tag in PARTITION_TAGS or tag.startswith(f"{PARTITION_TAG}/")}
