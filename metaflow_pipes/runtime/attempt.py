"""One attempt of one Metaflow task: what its process is asked for, and what becomes of its report."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import MAX_RUNTIME_TAG, ORIGIN_RUN_ID_TAG, PARTITION_TAGS, RUN_ID_TAG, USER_TAG
from metaflow_pipes.runtime.asset_run import is_alone, refuse_missing_parameters, tags_of_run
from metaflow_pipes.runtime.assets.check_results import (
    log_evaluation,
    log_results_of_failure,
    other_evaluations,
)
from metaflow_pipes.runtime.assets.checks import blocking_checks
from metaflow_pipes.runtime.assets.events import publish_rest
from metaflow_pipes.runtime.assets.materializations import passed_on
from metaflow_pipes.runtime.assets.run_partition import partition_of, start_config
from metaflow_pipes.runtime.assets.specs import asset_key_of
from metaflow_pipes.runtime.assets.upstream import parameters_from_assets
from metaflow_pipes.runtime.automation.run_triggers import link_to_triggers, triggers_of
from metaflow_pipes.runtime.automation.schedules import system_tags
from metaflow_pipes.runtime.client.client import exit_code_of, plain, resolved, stderr_of
from metaflow_pipes.runtime.executors.reexecution import named, steps_left_out
from metaflow_pipes.runtime.ids import (
    earlier_ids,
    item_indices,
    new_run_id,
    reexecution_mark,
    step_key,
    task_id_of,
)
from metaflow_pipes.runtime.inputs import Inputs, shortened
from metaflow_pipes.runtime.places import parse_path
from metaflow_pipes.runtime.remote import job_of, with_job
from metaflow_pipes.runtime.report import no_report, report_of
from metaflow_pipes.runtime.resume import resumption_of
from metaflow_pipes.runtime.run_options import inherited_tags, run_options_of
from metaflow_pipes.runtime.selection import selection_of
from metaflow_pipes.runtime.time_limit import refuse_late_start, run_seconds_left, too_late_to_retry
from step_wrapper.wire import Request

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.run_options import RunOptions
    from metaflow_pipes.runtime.client.client import MetaflowPipesClient
    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.report import TaskReport
    from step_wrapper.wire import Job, Resumption


@dataclass(frozen=True)
class StepOptions:
    """Options of a step, as its decorators give them.

    Attributes:
        extra_env: The variables of the step's `@environment`.
        user_code_retries: How many retries run the user's code (`@retry`); what comes after is `@catch`'s.
        timeout_seconds: How long the step's code may run in each attempt (`@timeout`).
    """

    extra_env: Mapping[str, str] = field(default_factory=dict)
    user_code_retries: int = 0
    timeout_seconds: int | None = None


def run_task(
    context: dg.OpExecutionContext,
    pipes: MetaflowPipesClient,
    flow: MetaflowFlow,
    step: str,
    upstream: str | Sequence[str],
    options: StepOptions,
    iteration: int | None = None,
    attempt: int | None = None,
) -> TaskReport:
    """Run one attempt of one task to its end.

    Args:
        context: The op's context.
        pipes: The client that launches the task.
        flow: The flow.
        step: The step's name.
        upstream: The task before it, or those that it joins, as in `metaflow_pipes.runtime.places`.
        options: What the step's decorators ask for.
        iteration: The iteration of a recursive step, from 0.
        attempt: The attempt, from 0; by default Dagster's retry number.

    Returns:
        The report of a task that is done.

    Raises:
        dagster.Failure: The attempt failed; description, metadata and cause say why.
    """
    here = _with_code(context, pipes, flow)
    run_options = run_options_of(context, flow)
    partition = partition_of(context, flow)
    if partition is not None:
        tags = dict.fromkeys([*run_options.tags, *partition.metaflow_tags])
        run_options = replace(run_options, tags=tuple(tags))
    refuse_late_start(context, flow, step, run_options.workflow_timeout_seconds)
    inputs = Inputs.of([upstream] if isinstance(upstream, str) else list(upstream))
    run_id = parse_path(inputs.paths[0])[0] if inputs.paths else new_run_id(context)
    _tag_run(context, flow, run_id, run_options, is_start=not inputs.paths)
    number = context.retry_number if attempt is None else attempt
    resumption = resumption_of(context, flow)
    config = {} if inputs.paths else _values_of_parameters(context, flow, resumption)
    if not inputs.paths and number == 0:
        link_to_triggers(context)
    task = _Attempt(
        context, pipes, here, step, options, run_options, inputs, config, run_id, iteration, number, resumption
    )
    report, exit_code, _, job = task.launch()
    if report is None:
        context.log.warning(
            f"No report of Metaflow task {task.pathspec} has arrived. What is stored of it is reported."
        )
        report, exit_code, stderr, _ = task.launch(ended_with=exit_code, job=job)
        report = report or no_report(task.pathspec, number, exit_code, stderr)
    if job is not None:
        report = replace(report, metadata=with_job(report.metadata, job))
    return _outcome(context, flow, run_options, report)


def _values_of_parameters(
    context: dg.OpExecutionContext, flow: MetaflowFlow, resumption: Resumption | None
) -> Mapping[str, Any]:
    """The values of the flow's parameters, of the run config and all else that fills them."""
    values = start_config(context, flow, is_cloned=resumption is not None)
    if resumption is not None:
        return values
    refuse_missing_parameters(context, flow, values)
    return {**values, **parameters_from_assets(context, flow)}


@dataclass(frozen=True)
class _Attempt:
    """One attempt of one task, ready to be launched."""

    context: dg.OpExecutionContext
    pipes: MetaflowPipesClient
    flow: MetaflowFlow
    step: str
    options: StepOptions
    run_options: RunOptions
    inputs: Inputs
    config: Mapping[str, Any]
    run_id: str
    iteration: int | None
    number: int
    resumption: Resumption | None

    @property
    def task_id(self) -> str:
        return task_id_of(self.context, self.step, self.iteration) + self._mark

    @property
    def pathspec(self) -> str:
        return f"{self.flow.name}/{self.run_id}/{self.step}/{self.task_id}"

    @property
    def shell_command(self) -> str:
        """The launched command, for a shell: without the environment, which may hold secrets, and configs."""
        flow_file, *arguments = self._command
        shown = shlex.join([sys.executable, flow_file, *map(shortened, arguments)])
        return f"cd {shlex.quote(self._folder)} && {shown}"

    @property
    def _folder(self) -> str:
        return self.pipes.cwd or self.flow.folder

    @property
    def _command(self) -> list[str]:
        """The arguments of Metaflow's `step` command."""
        paths = self.inputs.paths or [f"{self.run_id}/_parameters/{self._parameters_id}"]
        retries = self.options.user_code_retries
        command = self.flow.step_command(
            self.step, self.run_id, self.task_id, paths, self.number, retries, self.run_options
        )
        # of a run of selected assets, the step's side finds the origin
        known = None if self.resumption is None or self.resumption.search is not None else self.resumption.origin_run_id
        origin = [] if known is None else [f"--clone-run-id={known}"]
        return [*command, *self.inputs.arguments, *origin]

    @property
    def _parameters_id(self) -> str:
        return f"parameters{self._mark}"

    @property
    def _mark(self) -> str:
        return reexecution_mark(self.context.run.run_id, self.run_id)

    def launch(
        self, ended_with: int | None = None, job: Job | None = None
    ) -> tuple[TaskReport | None, int, str, Job | None]:
        """Run the wrapper to its end.

        Args:
            ended_with: The exit code of the process that has run the attempt, if it shall only be reported.
            job: The job on another system that it has then left, or None.

        Returns:
            Its report, if there is one, its exit code, its stderr, if kept, and its job on another system, if any.
        """
        request = self._request(ended_with, job)
        invocation = self.pipes.run(
            context=self.context,
            command=[sys.executable, "-m", "step_wrapper", self.pathspec],
            extras=request.as_extras(),
            base_env={**self.flow.environment(os.environ), **self.inputs.environment},
            # Metaflow's own runner sets these two last as well
            env={
                **self.flow.step_env,
                **self.options.extra_env,
                "PYTHONUNBUFFERED": "x",
                "METAFLOW_RUN_ID": self.run_id,
            },
            cwd=self._folder,
            # an interpreter that can't start says why there, now as before
            keep_stderr=ended_with is not None,
            flow=self.flow if ended_with is None else None,
            may_be_cloned=request.may_be_cloned,
            on_launch=self._say_that_it_starts if ended_with is None else None,
        )
        own_key = asset_key_of(self.flow, self.step)
        results = invocation.get_results(implicit_materializations=False)
        for materialization in passed_on(results, own_key):
            self.context.log_event(materialization)
        for evaluation in other_evaluations(results, own_key):
            log_evaluation(self.context, evaluation)
        publish_rest(self.context, invocation.get_custom_messages())
        report = report_of(invocation, self.pathspec, self.number, own_key)
        return report, exit_code_of(invocation), stderr_of(invocation), job_of(invocation)

    def _say_that_it_starts(self) -> None:
        self.context.log.info(f"Attempt {self.number} of Metaflow task {self.pathspec} starts.\n{self.shell_command}")

    def _request(self, ended_with: int | None, job: Job | None) -> Request:
        """The request to the wrapper."""
        flow, inputs, resumption = self.flow, self.inputs, self.resumption
        given = None if resumption is None else resumption.overridden_parameters
        is_loop = self.iteration is not None
        # there is always time to report
        limit_seconds = None if ended_with is not None else self.run_options.workflow_timeout_seconds
        return Request(
            flow=flow.name,
            run_id=self.run_id,
            step=self.step,
            task_id=self.task_id,
            attempt=self.number,
            command=self._command,
            init=None
            if inputs.paths
            else flow.init_command(self.run_id, self._parameters_id, self.config, self.run_options, given),
            configs=flow.configs,
            datastore=flow.datastore,
            datastore_root=flow.root,
            timeout_seconds=self.options.timeout_seconds,
            log_level=None if flow.log_level is None else logging.getLevelName(flow.log_level),
            indices=item_indices(self.context),
            iteration=self.iteration,
            done_as=earlier_ids(self.context, self.run_id, self.task_id.removesuffix(self._mark)) if is_loop else [],
            asset_key=asset_key_of(flow, self.step).to_escaped_user_string(),
            ended_with=ended_with,
            resumption=resumption,
            system_tags=system_tags(self.context),
            dagster_run_id=self.context.run_id,
            dagster_job_name=self.context.job_name,
            dagster_step_key=step_key(self.context),
            run_limit_seconds=limit_seconds,
            run_seconds_left=None if limit_seconds is None else run_seconds_left(self.context, limit_seconds),
            triggers=triggers_of(self.context),
            blocking_checks=blocking_checks(flow, self.step),
            remote_env=plain({**self.pipes.env, **flow.step_env}),
            is_own_pod=flow.kubernetes == "pod",
            job=job,
        )


def _last_attempt(context: dg.OpExecutionContext, limit_seconds: int | None) -> tuple[bool, str | None]:
    """Whether an attempt that failed is the last one, and why, if that is the run's time limit."""
    policy = context.job_def.get_retry_policy_for_handle(context.op_handle)
    if policy is None:
        return False, None
    if context.retry_number >= policy.max_retries:
        return True, None
    too_late = too_late_to_retry(context, limit_seconds, policy.delay or 0)
    return too_late is not None, too_late


def _outcome(
    context: dg.OpExecutionContext, flow: MetaflowFlow, run_options: RunOptions, report: TaskReport
) -> TaskReport:
    """Tell the event log how an attempt has ended, and raise if it failed."""
    if report.failure is not None:
        is_last, because = _last_attempt(context, run_options.workflow_timeout_seconds)
        left_out = _left_out(context, flow, report)
        log_results_of_failure(context, flow, report)
        raise dg.Failure(
            "\n".join(text for text in (report.failure.description, left_out, because) if text),
            metadata=report.failure_metadata(flow.logs_command(report.task_path)),
            # Dagster tells of the last attempt that it exceeds the policy, unless it is not to be retried
            allow_retries=report.failure.allow_retries and not is_last and left_out is None,
        ) from report.failure.exception
    if report.cloned_from is not None:
        context.log.info(f"Metaflow task {report.pathspec} is cloned from {report.cloned_from}: it does not run.")
        if selection_of(context, flow) is not None:
            _tag_origin(context, report.cloned_from.split("/")[1])
    elif report.is_cached:
        context.log.info(f"Metaflow task {report.pathspec} was done before: its result is cached, and it does not run.")
    else:
        context.log.info(f"Metaflow task {report.pathspec} finished after {report.duration_seconds:.1f} s.")
    return report


def _tag_origin(context: dg.OpExecutionContext, origin_run_id: str) -> None:
    """Let a run of selected assets say which Metaflow run it clones the other steps from, as soon as that is known."""
    run = context.instance.get_run_by_id(context.run_id)
    if run is not None and ORIGIN_RUN_ID_TAG not in run.tags:
        context.log.info(f"The steps that are not selected are cloned from Metaflow run {origin_run_id}.")
        context.instance.add_run_tags(context.run_id, {ORIGIN_RUN_ID_TAG: origin_run_id})


def _left_out(context: dg.OpExecutionContext, flow: MetaflowFlow, report: TaskReport) -> str | None:
    """The reason why a join of a re-execution can't have all of its items, and what to do; None if it can."""
    step_keys = steps_left_out(context)
    if not step_keys:
        return None
    run_id = parse_path(report.task_path)[0]
    return (
        f"The run that this one re-executes ended before these steps were done: {named(step_keys)}. With this "
        f"executor, Dagster leaves them out. Go on with another run, by {flow.resume_advice(run_id)}"
    )


def _with_code(context: dg.OpExecutionContext, pipes: MetaflowPipesClient, flow: MetaflowFlow) -> MetaflowFlow:
    """The flow with its file: as it was compiled if it has a code package, else the one beside the definitions file."""
    if flow.package is not None:
        own = {**flow.environment(os.environ), **resolved(pipes.env), **resolved(flow.step_env)}
        return flow.at(flow.code.provide({**os.environ, **own}))
    problem = flow.staleness()
    if problem is not None:
        if not flow.path.is_file():
            raise dg.Failure(problem, allow_retries=False)
        context.log.warning(problem)
    return flow


def _tag_run(
    context: dg.OpExecutionContext, flow: MetaflowFlow, run_id: str, run_options: RunOptions, *, is_start: bool
) -> None:
    """Let the Dagster run say which Metaflow run it is, and whose: a run can be found by its tags.

    The start step knows first. A re-execution may begin elsewhere, with the tags of the run that it goes on with.
    """
    if is_start or context.run.parent_run_id is not None:
        tags: dict[str, Any] = {RUN_ID_TAG: run_id, USER_TAG: flow.user_in(os.environ)}
        if context.has_assets_def:
            # the job, which would say so, is Dagster's own
            tags.update(tags_of_run(context, flow, run_options.tags))
        if run_options.workflow_timeout_seconds is not None and (not context.has_assets_def or is_alone(context)):
            # the job's, where Dagster has not handed down that of the run that this one goes on with
            tags[MAX_RUNTIME_TAG] = str(run_options.workflow_timeout_seconds)
        # those that Dagster's Python API does not hand down to a re-execution
        tags.update(inherited_tags(context.instance, context.run, PARTITION_TAGS))
        if any(context.run.tags.get(name) != value for name, value in tags.items()):
            context.instance.add_run_tags(context.run_id, tags)
