"""The body of a generated op: it runs one Metaflow task and shows what came of it."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.report import TaskReport, report_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.runtime.client import MetaflowPipesClient
    from metaflow_pipes.runtime.flow import MetaflowFlow

# The tag by which Dagster marks a re-execution from failure.
RESUME_RETRY_TAG = "dagster/is_resume_retry"
# How much of a Dagster run id tells the tasks of a re-execution from those before.
SHORT_RUN_ID_LENGTH = 8


def run_step(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str] | None = None,
    *,
    extra_env: Mapping[str, str] | None = None,
    user_code_retries: int = 0,
    timeout_seconds: int | None = None,
) -> str:
    """Run one attempt of a step's task, and attach what it reports to the op's output.

    Args:
        context: The op's context. Its retry number is the task's attempt; the start step's parameters are its
            config.
        pipes: The client that launches the task.
        flow: The flow.
        step: The step's name.
        upstream: The path of the task before it, or those of the tasks that it joins; None for the start step.
        extra_env: The variables of the step's `@environment`.
        user_code_retries: How many retries run the user's code (`@retry`); what comes after is `@catch`'s.
        timeout_seconds: How long the step's code may run in each attempt (`@timeout`).

    Returns:
        The task's path, `run_id/step/task_id`.

    Raises:
        dagster.Failure: The attempt failed; description and metadata say why.
    """
    _check_flow_file(context, flow)
    paths = [upstream] if isinstance(upstream, str) else list(upstream or ())
    run_id = paths[0].split("/")[0] if paths else _new_run_id(context)
    suffix = _task_suffix(context, run_id)
    parameters_id = f"parameters{suffix}"
    task = {"flow": flow.name, "run_id": run_id, "step": step, "task_id": f"{step}{suffix}"}
    pathspec = "/".join(task.values())
    attempt = context.retry_number
    context.log.info(f"Attempt {attempt} of Metaflow task {pathspec} starts.")
    invocation = pipes.run(
        context=context,
        command=[sys.executable, "-m", "step_wrapper", pathspec],
        extras={
            "metaflow": {
                **task,
                "attempt": attempt,
                "command": flow.step_command(
                    step,
                    run_id,
                    task["task_id"],
                    paths or [f"{run_id}/_parameters/{parameters_id}"],
                    attempt,
                    user_code_retries,
                ),
                "init": None if paths else flow.init_command(run_id, parameters_id, _config(context)),
                "configs": flow.configs,
                "datastore": flow.datastore,
                "datastore_root": flow.root,
                "timeout_seconds": timeout_seconds,
                "step_key": str(context.op_handle),
            }
        },
        base_env=flow.environment(os.environ),
        # Metaflow's own runner sets these two last as well
        env={**(extra_env or {}), "PYTHONUNBUFFERED": "x", "METAFLOW_RUN_ID": run_id},
        cwd=pipes.cwd or flow.folder,
    )
    report = report_of(invocation, pathspec, attempt)
    if report.failure is not None:
        if report.failure.traceback:
            # of an attempt that is retried, Dagster shows no metadata
            context.log.error(f"{report.failure.description}\n{report.failure.traceback}")
        raise _failure(report, flow)
    context.log.info(f"Metaflow task {pathspec} finished after {report.duration_seconds:.1f} s.")
    context.add_output_metadata(report.output_metadata())
    return report.task_path


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
    run = context.run
    while run.parent_run_id is not None and _continues_parent(context, run):
        parent = context.instance.get_run_by_id(run.parent_run_id)
        if parent is None:
            return f"dagster-{run.parent_run_id}"
        run = parent
    return f"dagster-{run.run_id}"


def _continues_parent(context: dg.OpExecutionContext, run: dg.DagsterRun) -> bool:
    # Dagster's Python API names all steps where its UI names none, so that only fewer steps are a selection
    selected = run.step_keys_to_execute
    is_selection = selected is not None and len(selected) < len(context.job_def.nodes)
    return is_selection or run.tags.get(RESUME_RETRY_TAG) == "true"


def _task_suffix(context: dg.OpExecutionContext, run_id: str) -> str:
    """What is added to the task ids of a re-execution, whose Metaflow run already has tasks of these steps."""
    dagster_run_id = context.run.run_id
    return "" if run_id == f"dagster-{dagster_run_id}" else f"-{dagster_run_id[:SHORT_RUN_ID_LENGTH]}"


def _config(context: dg.OpExecutionContext) -> Mapping[str, Any]:
    return context.op_config or {}


def _failure(report: TaskReport, flow: MetaflowFlow) -> dg.Failure:
    assert report.failure is not None
    logs = f"python {shlex.quote(os.path.relpath(flow.path, flow.folder))} logs {report.task_path}"
    return dg.Failure(report.failure.description, metadata=report.failure_metadata(logs))
