"""The body of a generated op: it runs one Metaflow task, and gives its report."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

import dagster as dg

from metaflow_pipes.names import RESULT_OUTPUT
from metaflow_pipes.runtime import step_thread
from metaflow_pipes.runtime.assets.check_results import carried, check_results
from metaflow_pipes.runtime.assets.materializations import materialize
from metaflow_pipes.runtime.attempt import StepOptions, run_task
from metaflow_pipes.runtime.automation.finish import publish_finish
from metaflow_pipes.runtime.executors.event_log import event_log_kept_open
from metaflow_pipes.runtime.executors.planning import fail_if_items_would_be_lost
from metaflow_pipes.runtime.report import iterations_table
from metaflow_pipes.runtime.run_options import run_options_of
from metaflow_pipes.runtime.time_limit import too_late_to_retry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.runtime.client.client import MetaflowPipesClient
    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport


# The first format of definitions files whose ops yield `dagster.Output`s.
FORMAT_WITH_OUTPUTS = 3


def run_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] = (),
    *,
    extra_env: Mapping[str, str] | None = None,
    user_code_retries: int = 0,
    timeout_seconds: int | None = None,
    iteration_retries: dg.RetryPolicy | None = None,
) -> TaskReport:
    """Run one attempt of a step's task; of a recursive step, all of its tasks, one after another.

    The report is attached to the op's output and to the step's asset. The op's body says which shape that output has:
    `.as_path()`, `.as_split()`, `.as_way()`, `.as_items()` or `.as_choice({...})` of the report.

    Args:
        context: The op's context. Its retry number is the task's attempt; the start step's parameters are its
            config.
        pipes: The client that launches the task.
        flow: The flow.
        step: The step's name.
        upstream: The task before it, or those that it joins, as in `metaflow_pipes.runtime.places`; none for
            the start step.
        extra_env: The variables of the step's `@environment`.
        user_code_retries: How many retries run the user's code (`@retry`); what comes after is `@catch`'s.
        timeout_seconds: How long the step's code may run in each attempt (`@timeout`).
        iteration_retries: How each iteration of a recursive step is tried again. Any other step is tried again by the
            retry policy of its op.

    Returns:
        The report of the task; of a recursive step, that of its last one.

    Raises:
        dagster.Failure: The attempt failed; description and metadata say why.
    """
    options = StepOptions(extra_env or {}, user_code_retries, timeout_seconds)
    # the threads executor keeps it open anyway; under any other one this may be another process than the run's
    with event_log_kept_open(context.instance):
        report = completed(context, pipes, flow, step, upstream, options, iteration_retries)
    if flow.compiled_by is None:
        # an op that release 0.1 wrote returns this itself as its output
        return cast("TaskReport", report.path)
    return report


def completed(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str],
    options: StepOptions,
    iteration_retries: dg.RetryPolicy | None = None,
) -> TaskReport:
    """As `run_step`, for a definitions file of any release.

    Args:
        context: As for `run_step`.
        pipes: As for `run_step`.
        flow: As for `run_step`.
        step: As for `run_step`.
        upstream: As for `run_step`.
        options: What the step's decorators ask for.
        iteration_retries: As for `run_step`.
    """
    if any(output.is_dynamic for output in context.op_def.output_defs):
        fail_if_items_would_be_lost(context, step)
    if flow[step].is_recursive:
        reports = _iterations(context, pipes, flow, step, upstream, options, iteration_retries or dg.RetryPolicy(0))
    else:
        reports = [run_task(context, pipes, flow, step, upstream, options)]
    step_thread.current().gives_way()
    report = reports[-1]
    passed_by = _passed_by(context, flow, report)
    if passed_by:
        context.log.info(
            f"Step {step} goes on to {report.next_steps[0]}: what comes only behind {', '.join(passed_by)} is skipped."
        )
    outputs = [*materialize(context, flow, report), *check_results(context, flow, step, reports)]
    publish_finish(context, flow, report)
    if flow[step].is_recursive:
        report = replace(report, metadata={**report.metadata, "iterations": iterations_table(reports)})
    report = replace(report, metadata={**report.metadata, **carried(flow, step, reports)})
    if _yields_outputs(flow):
        return replace(report, asset_outputs=tuple(outputs), selected_outputs=frozenset(context.selected_output_names))
    if _has_one_value(context):
        context.add_output_metadata(report.output_metadata())
    return report


def _passed_by(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> list[str]:
    """The steps that a switch outside of every foreach has not chosen."""
    outputs = context.op_def.output_dict
    if RESULT_OUTPUT in outputs:
        return []
    return [step.name for step in flow.steps if step.op_name in outputs and step.name not in report.next_steps]


def _yields_outputs(flow: MetaflowFlow) -> bool:
    """Whether the ops yield their outputs with all of their metadata, as since format 3."""
    return flow.compiled_by is not None and flow.compiled_by.format >= FORMAT_WITH_OUTPUTS


def _has_one_value(context: dg.OpExecutionContext) -> bool:
    """Whether the op has the same one output whatever the report says. Other outputs bring the metadata themselves."""
    outputs = context.op_def.output_defs
    return len(outputs) == 1 and not outputs[0].is_dynamic


def _iterations(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str],
    options: StepOptions,
    retries: dg.RetryPolicy,
) -> list[TaskReport]:
    """The reports of a recursive step's tasks.

    Each iteration is tried again by itself, as by Metaflow: a retry policy of the op would count for all of them.
    """
    reports: list[TaskReport] = []
    while not reports or reports[-1].next_steps == (step,):
        inputs = reports[-1].task_path if reports else upstream
        reports.append(_iteration(context, pipes, flow, step, inputs, options, retries, iteration=len(reports)))
    return reports


def _iteration(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    inputs: str | Sequence[str],
    options: StepOptions,
    retries: dg.RetryPolicy,
    iteration: int,
) -> TaskReport:
    """The report of one iteration that is done, in whichever attempt."""
    delay_seconds = retries.delay or 0
    attempt = 0
    while True:
        try:
            return run_task(context, pipes, flow, step, inputs, options, iteration=iteration, attempt=attempt)
        except dg.Failure as failure:
            if attempt == retries.max_retries or not failure.allow_retries:
                raise
            limit_seconds = run_options_of(context, flow).workflow_timeout_seconds
            too_late = too_late_to_retry(context, limit_seconds, delay_seconds)
            if too_late is not None:
                context.log.warning(too_late)
                raise
            context.log.warning(
                f"{failure.description} It is tried again in {delay_seconds:g} s.", exc_info=failure.__cause__
            )
        step_thread.current().pause(delay_seconds)
        attempt += 1
