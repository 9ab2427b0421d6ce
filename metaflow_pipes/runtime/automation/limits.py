"""The number of a job's runs that are under way, for what starts runs by itself and is not to start too many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.run_tags import is_run_of
from metaflow_pipes.runtime.assets.specs import assets_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow

# The statuses of runs that have not ended, also of those that wait in Dagster's queue.
UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# How many runs a message names.
_NAMED_RUNS = 5


def runs_under_way(instance: dg.DagsterInstance, flow: MetaflowFlow, job: dg.JobDefinition) -> list[dg.DagsterRun]:
    """The runs of a flow's job, or of its assets, that have not ended, however they were started, the latest first.

    Args:
        instance: The instance that keeps the runs.
        flow: The flow.
        job: The job. Of another one that has its name in another code location, runs of the same flow count, too.
    """
    assets = {spec.key for spec in assets_of(flow).values()}
    return [
        run
        for run in instance.get_runs(dg.RunsFilter(statuses=UNDER_WAY))
        # a run of assets has no tags before a flow of it begins
        if is_run_of(run.job_name, run.tags, flow.name, job.name) or not assets.isdisjoint(run.asset_selection or ())
    ]


def too_many(job: dg.JobDefinition, runs: Sequence[dg.DagsterRun], limit: int | None) -> str | None:
    """The reason why no other run of a job is to be started now; None if one is.

    Args:
        job: The job.
        runs: Its runs that are under way.
        limit: How many may be, or None for any number.
    """
    if limit is None or len(runs) < limit:
        return None
    count = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    ids = ", ".join(run.run_id for run in runs[:_NAMED_RUNS])
    more = f" and {len(runs) - _NAMED_RUNS} more" if len(runs) > _NAMED_RUNS else ""
    return f"{count} of job {job.name} {'is' if len(runs) == 1 else 'are'} under way, of at most {limit}: {ids}{more}."
