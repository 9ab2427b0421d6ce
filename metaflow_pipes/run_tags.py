"""The tags that say which flows a Dagster run runs: a run of a job runs one, a run of assets can run several."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from metaflow_pipes.names import FLOW_TAG, FLOW_TAG_PREFIX, JOB_TAG_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

# Dagster allows these in the key of a run tag, and no more of them.
_NOT_IN_TAG_KEY = re.compile(r"[^A-Za-z0-9_.-]")
MAX_TAG_KEY_LENGTH = 63


def tag_key(prefix: str, name: str) -> str:
    """The key of a tag for a name.

    Args:
        prefix: What the key begins with, such as `metaflow.job/`.
        name: The name. What Dagster does not allow in a key becomes `_`.
    """
    return f"{prefix}{_NOT_IN_TAG_KEY.sub('_', name)[:MAX_TAG_KEY_LENGTH] or '_'}"


def tags_of_jobs(jobs: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run of assets: its flow, or all of them, and their jobs.

    The assets of one flow give `metaflow/flow: TrainFlow` and `metaflow.job/TrainFlow: TrainFlow`. With several,
    `metaflow/flow: SweepFlow, TrainFlow` names all, and for each there is `metaflow.flow/TrainFlow: true`: Dagster
    finds runs by whole values.

    Args:
        jobs: The flows of the jobs whose assets the run materializes, by the jobs' names.
    """
    flows = sorted(set(jobs.values()))
    of_flows = {tag_key(FLOW_TAG_PREFIX, flow): "true" for flow in flows} if len(flows) > 1 else {}
    of_jobs = {tag_key(JOB_TAG_PREFIX, job): flow for job, flow in sorted(jobs.items())}
    return {FLOW_TAG: ", ".join(flows), **of_flows, **of_jobs}


def job_of_assets(tags: Mapping[str, str], flow: str) -> str | None:
    """The job whose assets a run materializes; None of a run of a job, and if the run has none of the flow.

    Args:
        tags: The tags of the run.
        flow: The flow.
    """
    found = (tag for tag, value in tags.items() if tag.startswith(JOB_TAG_PREFIX) and value == flow)
    return next((tag.removeprefix(JOB_TAG_PREFIX) for tag in found), None)


def is_run_of(job_name: str, tags: Mapping[str, str], flow: str, job: str) -> bool:
    """Whether a run is one of a flow's job, or of its assets.

    Args:
        job_name: The name of the run's job, which is Dagster's own of a run of assets.
        tags: The tags of the run.
        flow: The flow.
        job: The flow's job.
    """
    return (job_name == job and tags.get(FLOW_TAG) == flow) or tags.get(tag_key(JOB_TAG_PREFIX, job)) == flow
