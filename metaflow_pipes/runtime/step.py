"""The body of a generated op: it runs one Metaflow task and shows what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.assets.materializations import materialize
from metaflow_pipes.runtime.attempt import StepOptions, run_task
from metaflow_pipes.runtime.executors import step_thread
from metaflow_pipes.runtime.executors.planning import fail_if_items_would_be_lost
from metaflow_pipes.runtime.places import items_of, split_of, way_of
from metaflow_pipes.runtime.report import TaskReport, iterations_table
from metaflow_pipes.runtime.time_limit import too_late_to_retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metaflow_pipes.runtime.client.client import MetaflowPipesClient
    from metaflow_pipes.runtime.flow import MetaflowFlow

# The name of an op's output if it has one.
DEFAULT_OUTPUT = "result"


def run_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> str:
    """Run one attempt of a step's task, and attach what it reports to the op's output.

    Args:
        context: The op's context. Its retry number is the task's attempt; the start step's parameters are its
            config.
        pipes: The client that launches the task.
        flow: The flow.
        step: The step's name.
        upstream: The task before it, or those that it joins, as in `metaflow_pipes.runtime.places`; none for
            the start step.
        options: What the step's decorators ask for, as in `StepOptions`.

    Returns:
        The task's path, `run_id/step/task_id`; of a control task, also those that it has started.

    Raises:
        dagster.Failure: The attempt failed; description and metadata say why.
    """
    report = _completed(context, pipes, flow, step, upstream, options)
    context.add_output_metadata(report.output_metadata())
    return report.tasks


def run_split_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> str:
    """As `run_step`, for a step that ends in a foreach or in `num_parallel`.

    Returns:
        The task's path and the number of its items.
    """
    report = _completed(context, pipes, flow, step, upstream, options)
    context.add_output_metadata(report.output_metadata())
    return split_of(report.task_path, report.num_splits)


def run_foreach_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> Iterator[dg.DynamicOutput[str]]:
    """As `run_step`, for a step that ends in a foreach outside of any other.

    Yields:
        The items, under their indices as mapping keys. The first one has the task's metadata.
    """
    fail_if_items_would_be_lost(context, step)
    report = _completed(context, pipes, flow, step, upstream, options)
    metadata = report.output_metadata()
    for item, key in items_of(split_of(report.task_path, report.num_splits)):
        yield dg.DynamicOutput(item, mapping_key=key, metadata=metadata)
        metadata = {}


def run_switch_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    *,
    outputs: Mapping[str, str],
    **options: Any,
) -> Iterator[dg.Output[str]]:
    """As `run_step`, for a step that ends in a switch.

    Args:
        context: The op's context.
        pipes: The client that launches the task.
        flow: The flow.
        step: The step's name.
        upstream: As for `run_step`.
        outputs: For each step that it can go on to, the name of the output.
        options: As for `run_step`.

    Yields:
        The task's path, as the output of the step that it goes on to.
    """
    report = _completed(context, pipes, flow, step, upstream, options)
    yield dg.Output(report.task_path, outputs[report.next_steps[0]], metadata=report.output_metadata())


def run_routed_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    **options: Any,
) -> str:
    """As `run_step`, for a step within a foreach that ends in a switch.

    Returns:
        The task's path and the step that it goes on to, for a `route` helper.
    """
    report = _completed(context, pipes, flow, step, upstream, options)
    context.add_output_metadata(report.output_metadata())
    return way_of(report.task_path, report.next_steps[0])


def run_loop_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    *,
    outputs: Mapping[str, str] | None = None,
    is_routed: bool = False,
    max_retries: int = 0,
    retry_delay_seconds: int = 0,
    **options: Any,
) -> Iterator[dg.Output[str]]:
    """As `run_switch_step`, for a step that can go on to itself: runs its tasks one after another.

    Each iteration is tried again by itself, as by Metaflow: a retry policy of the op would count for all of them.

    Args:
        context: The op's context.
        pipes: The client that launches the tasks.
        flow: The flow.
        step: The step's name.
        upstream: As for `run_step`.
        outputs: As for `run_switch_step`; None if the op has one output.
        is_routed: Whether that output says where the loop goes on, as for `run_routed_step`.
        max_retries: How often each iteration is tried again.
        retry_delay_seconds: The pause before each retry.
        options: As for `run_step`.

    Yields:
        The path of the last iteration's task, with a table of all iterations.
    """
    reports: list[TaskReport] = []
    while not reports or reports[-1].next_steps == (step,):
        inputs = reports[-1].task_path if reports else upstream
        for attempt in range(max_retries + 1):
            try:
                report = run_task(
                    context, pipes, flow, step, inputs, StepOptions(**options), iteration=len(reports), attempt=attempt
                )
            except dg.Failure as failure:
                if attempt == max_retries or not failure.allow_retries:
                    raise
                too_late = too_late_to_retry(context, flow, retry_delay_seconds)
                if too_late is not None:
                    context.log.warning(too_late)
                    raise
                context.log.warning(
                    f"{failure.description} It is tried again in {retry_delay_seconds} s.",
                    exc_info=failure.__cause__,
                )
                step_thread.current().pause(retry_delay_seconds)
            else:
                reports.append(report)
                break
    step_thread.current().gives_way()
    last = reports[-1]
    materialize(context, flow, last)
    output = outputs[last.next_steps[0]] if outputs else DEFAULT_OUTPUT
    value = way_of(last.task_path, last.next_steps[0]) if is_routed else last.task_path
    yield dg.Output(value, output, metadata={**last.output_metadata(), "iterations": iterations_table(reports)})


def _completed(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str],
    options: Mapping[str, Any],
) -> TaskReport:
    """The report of a task that is done, with its assets materialized."""
    report = run_task(context, pipes, flow, step, upstream, StepOptions(**options))
    step_thread.current().gives_way()
    materialize(context, flow, report)
    return report
