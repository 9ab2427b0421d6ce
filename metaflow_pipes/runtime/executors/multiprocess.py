"""The multiprocess executor: Dagster's own, with processes that start fast."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from metaflow_pipes.runtime.executors.limits import config_schema
from metaflow_pipes.runtime.executors.reexecution import with_steps_left_out
from metaflow_pipes.runtime.heartbeats import Heartbeats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan

# What the processes of the multiprocess executor are forked with. The last one, which opening an instance takes, saves
# each op 0.2 s.
PRELOADED_MODULES = ("dagster", "metaflow_pipes.runtime", "dagster._core.storage.sqlite_storage")


@functools.cache
def multiprocess(max_concurrent: int | None = None) -> dg.ExecutorDefinition:
    """Dagster's multiprocess executor, with processes that start fast: they are forked from one that has Dagster.

    The same arguments give the same executor: `dg.Definitions.merge` takes several definitions only if they have one.

    Args:
        max_concurrent: How many ops run at the same time; None is Dagster's default, the number of CPUs. The
            run config `execution: {config: {max_concurrent: 4}}` overrides it.
    """

    @dg.executor(
        name="multiprocess_executor",
        config_schema=config_schema(max_concurrent),
        requirements=dg.multiple_process_executor_requirements(),
    )
    def multiprocess_executor(context: dg.InitExecutorContext) -> ForkingExecutor:
        config: Any = context.executor_config
        return ForkingExecutor(
            retries=RetryMode.from_config(config["retries"]) or RetryMode.ENABLED,
            max_concurrent=config["max_concurrent"],
            tag_concurrency_limits=config.get("tag_concurrency_limits"),
            start_method="forkserver",
            explicit_forkserver_preload=PRELOADED_MODULES,
        )

    return multiprocess_executor


class ForkingExecutor(MultiprocessExecutor):
    """Runs steps in processes of their own, and in a re-execution also those that Dagster's plan leaves out."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        """Execute a plan, as Dagster asks an executor to."""
        plan_context, execution_plan, added = with_steps_left_out(plan_context, execution_plan)
        if added is not None:
            yield added
        job = plan_context.job.get_definition()
        with contextlib.closing(Heartbeats(plan_context.dagster_run, job, plan_context.instance)) as heartbeats:
            for event in super().execute(plan_context, execution_plan):
                heartbeats.watch(event)
                yield event
