"""Executors that can't run a foreach: they go through the plan as it stands before the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.executors.kubernetes import package_of

if TYPE_CHECKING:
    from dagster import ExecutorDefinition

# The packages of executors that never learn of the steps which a dynamic output adds to the plan: their runs succeed
# without them. Nothing in an `ExecutorDefinition` tells, so this is by name. dagster-dask takes all steps from
# `ExecutionPlan.get_steps_to_execute_by_level` when the run begins.
PACKAGES_WITH_FIXED_PLANS = frozenset({"dagster_dask"})


def has_fixed_plan(executor: ExecutorDefinition) -> bool:
    """Whether an executor, also a configured one, is known to skip the steps behind a dynamic output."""
    return package_of(executor) in PACKAGES_WITH_FIXED_PLANS


def fail_if_items_would_be_lost(context: dg.OpExecutionContext, step: str) -> None:
    """Fail a foreach step before it runs, under an executor that would skip its items and all that follows.

    The compiler refuses such an executor; but in Python, a job can be made anew with another one.

    Raises:
        dagster.Failure: The job's executor is one.
    """
    executor = context.job_def.executor_def
    if has_fixed_plan(executor):
        raise dg.Failure(
            f"Job {context.job_name} has the executor {executor.name}, which can't run the foreach of step {step}: it "
            "plans all steps before the run, and would leave out the items and what follows them. Use "
            "metaflow_pipes.runtime.threads, or another executor that resolves dynamic outputs.",
            allow_retries=False,
        )
