"""The body of a generated op: it runs one Metaflow task and shows what came of it."""

from __future__ import annotations

import os
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.places import (
    is_split,
    items_of,
    parse_item,
    parse_path,
    parse_split,
    split_of,
    tasks_of,
    way_of,
)
from metaflow_pipes.runtime.report import TaskReport, iterations_table, report_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from metaflow_pipes.runtime.client import MetaflowPipesClient
    from metaflow_pipes.runtime.flow import MetaflowFlow

# The tag by which Dagster marks a re-execution from failure.
RESUME_RETRY_TAG = "dagster/is_resume_retry"
# The name of an op's output if it has one.
DEFAULT_OUTPUT = "result"
# What tells Metaflow that a task starts others (`metaflow.unbounded_foreach.UBF_CONTROL`).
CONTROL_ARGUMENT = "--ubf-context=ubf_control"
# How much of a Dagster run id tells the tasks of a re-execution from those before.
SHORT_RUN_ID_LENGTH = 8


@dataclass(frozen=True)
class StepOptions:
    """What the decorators of a step ask for.

    Attributes:
        extra_env: The variables of the step's `@environment`.
        user_code_retries: How many retries run the user's code (`@retry`); what comes after is `@catch`'s.
        timeout_seconds: How long the step's code may run in each attempt (`@timeout`).
    """

    extra_env: Mapping[str, str] = field(default_factory=dict)
    user_code_retries: int = 0
    timeout_seconds: int | None = None


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
    report = _run_task(context, pipes, flow, step, upstream, StepOptions(**options))
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
    report = _run_task(context, pipes, flow, step, upstream, StepOptions(**options))
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
    report = _run_task(context, pipes, flow, step, upstream, StepOptions(**options))
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
    report = _run_task(context, pipes, flow, step, upstream, StepOptions(**options))
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
    report = _run_task(context, pipes, flow, step, upstream, StepOptions(**options))
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
                report = _run_task(
                    context, pipes, flow, step, inputs, StepOptions(**options), iteration=len(reports), attempt=attempt
                )
            except dg.Failure as failure:
                if attempt == max_retries or not failure.allow_retries:
                    raise
                context.log.warning(f"{failure.description} It is tried again in {retry_delay_seconds} s.")
                time.sleep(retry_delay_seconds)
            else:
                reports.append(report)
                break
    last = reports[-1]
    output = outputs[last.next_steps[0]] if outputs else DEFAULT_OUTPUT
    value = way_of(last.task_path, last.next_steps[0]) if is_routed else last.task_path
    yield dg.Output(value, output, metadata={**last.output_metadata(), "iterations": iterations_table(reports)})


def _run_task(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str],
    options: StepOptions,
    iteration: int | None = None,
    attempt: int | None = None,
) -> TaskReport:
    """Run one attempt of one task to its end; the attempt is Dagster's retry number unless it is given."""
    attempt = context.retry_number if attempt is None else attempt
    _check_flow_file(context, flow)
    inputs = _Inputs.of([upstream] if isinstance(upstream, str) else list(upstream))
    run_id = parse_path(inputs.paths[0])[0] if inputs.paths else _new_run_id(context)
    again = _reexecution_mark(context.run.run_id, run_id)
    parameters_id = f"parameters{again}"
    task = {"flow": flow.name, "run_id": run_id, "step": step, "task_id": _task_id(context, step, iteration) + again}
    pathspec = "/".join(task.values())
    context.log.info(f"Attempt {attempt} of Metaflow task {pathspec} starts.")
    invocation = pipes.run(
        context=context,
        command=[sys.executable, "-m", "step_wrapper", pathspec],
        extras={
            "metaflow": {
                **task,
                "attempt": attempt,
                "command": [
                    *flow.step_command(
                        step,
                        run_id,
                        task["task_id"],
                        inputs.paths or [f"{run_id}/_parameters/{parameters_id}"],
                        attempt,
                        options.user_code_retries,
                    ),
                    *inputs.arguments,
                ],
                "init": None if inputs.paths else flow.init_command(run_id, parameters_id, _config(context)),
                "configs": flow.configs,
                "datastore": flow.datastore,
                "datastore_root": flow.root,
                "timeout_seconds": options.timeout_seconds,
                "step_key": _step_key(context),
                "done_as": []
                if iteration is None
                else _earlier_ids(context, run_id, _task_id(context, step, iteration)),
            }
        },
        base_env={**flow.environment(os.environ), **inputs.environment},
        # Metaflow's own runner sets these two last as well
        env={**options.extra_env, "PYTHONUNBUFFERED": "x", "METAFLOW_RUN_ID": run_id},
        cwd=pipes.cwd or flow.folder,
    )
    report = report_of(invocation, pathspec, attempt)
    if report.failure is not None:
        if report.failure.traceback:
            # of an attempt that is retried, Dagster shows no metadata
            context.log.error(f"{report.failure.description}\n{report.failure.traceback}")
        raise _failure(report, flow)
    context.log.info(f"Metaflow task {pathspec} finished after {report.duration_seconds:.1f} s.")
    return report


@dataclass(frozen=True)
class _Inputs:
    """The tasks that a task takes, and what Metaflow must be told about them."""

    paths: list[str]
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, upstream: list[str]) -> _Inputs:
        if len(upstream) == 1 and (item := parse_item(upstream[0])) is not None:
            path, index = item
            if index is not None:
                return cls([path], [f"--split-index={index}"])
            return cls([path], [CONTROL_ARGUMENT], _control_environment())
        if len(upstream) == 1 and is_split(upstream[0]):
            path, size = parse_split(upstream[0])
            # as `metaflow.plugins.parallel_decorator` asks of the runner
            arguments = [CONTROL_ARGUMENT, "--split-index=0", f"--num-parallel={size}"]
            return cls([path], arguments, _control_environment())
        return cls(tasks_of(upstream), [])


def _control_environment() -> dict[str, str]:
    """What a control task needs, since Metaflow starts its workers with the first `python` of the PATH."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return {"PATH": os.pathsep.join(folders)}


def _earlier_ids(context: dg.OpExecutionContext, run_id: str, task_id: str) -> list[str]:
    """The ids under which the Dagster runs that this one goes on with ran an iteration.

    A loop goes on behind the iterations that are done, unless all of it was done, and is run again on purpose.
    """
    ids = []
    for run in _continued_runs(context):
        stats = context.instance.get_run_step_stats(run.run_id, [_step_key(context)])
        if any(step.status is not None and step.status.value == "SUCCESS" for step in stats):
            break
        ids.append(task_id + _reexecution_mark(run.run_id, run_id))
    return ids


def _task_id(context: dg.OpExecutionContext, step: str, iteration: int | None) -> str:
    """The step's name, the indices of its items, and the iteration: `step-3-0-i2`."""
    key = context.get_mapping_key()
    parts = [step, *(key.split("_") if key else ())]
    return "-".join(parts if iteration is None else [*parts, f"i{iteration}"])


def _step_key(context: dg.OpExecutionContext) -> str:
    key = context.get_mapping_key()
    return f"{context.op_handle}[{key}]" if key else str(context.op_handle)


def _check_flow_file(context: dg.OpExecutionContext, flow: MetaflowFlow) -> None:
    problem = flow.staleness()
    if problem is None:
        return
    if not flow.path.is_file():
        raise dg.Failure(problem, allow_retries=False)
    context.log.warning(problem)


def _new_run_id(context: dg.OpExecutionContext) -> str:
    """The Metaflow run of a start step.

    A re-execution from failure, or of selected steps, goes on with the Metaflow run of the Dagster run that it
    re-executes; one of all steps makes a new Metaflow run.
    """
    return f"dagster-{[context.run, *_continued_runs(context)][-1].run_id}"


def _continued_runs(context: dg.OpExecutionContext) -> list[dg.DagsterRun]:
    """The Dagster runs whose Metaflow run this one goes on with, the latest first."""
    runs: list[dg.DagsterRun] = []
    run: dg.DagsterRun | None = context.run
    while run is not None and run.parent_run_id is not None and _continues_parent(context, run):
        run = context.instance.get_run_by_id(run.parent_run_id)
        if run is not None:
            runs.append(run)
    return runs


def _continues_parent(context: dg.OpExecutionContext, run: dg.DagsterRun) -> bool:
    # Dagster's Python API names all steps where its UI names none, so that only fewer steps are a selection
    selected = run.step_keys_to_execute
    is_selection = selected is not None and len(selected) < len(context.job_def.nodes)
    return is_selection or run.tags.get(RESUME_RETRY_TAG) == "true"


def _reexecution_mark(dagster_run_id: str, run_id: str) -> str:
    """What is added to the task ids of a re-execution, whose Metaflow run already has tasks of these steps."""
    return "" if run_id == f"dagster-{dagster_run_id}" else f"-r{dagster_run_id[:SHORT_RUN_ID_LENGTH]}"


def _config(context: dg.OpExecutionContext) -> Mapping[str, Any]:
    return context.op_config or {}


def _failure(report: TaskReport, flow: MetaflowFlow) -> dg.Failure:
    assert report.failure is not None
    logs = f"python {shlex.quote(os.path.relpath(flow.path, flow.folder))} logs {report.task_path}"
    return dg.Failure(report.failure.description, metadata=report.failure_metadata(logs))
