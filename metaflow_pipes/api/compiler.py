"""`create` from Python: `DagsterCompiler("flow.py").write()`."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow_pipes.compile.job_options import JobOptions
from metaflow_pipes.compile.keywords import command_line_options, without_dagsters_types
from metaflow_pipes.compile.option_values import check_list, check_types
from metaflow_pipes.compile.options import check_options, concurrent_runs
from metaflow_pipes.compile.rendering import render
from metaflow_pipes.compile.stages import CompileRequest, compile_file
from metaflow_pipes.deployment.deploy import deploy, resolve_definitions_file, with_token
from metaflow_pipes.deployment.production_tokens import TokenOptions, resolve_token
from metaflow_pipes.errors import CompileError
from metaflow_pipes.executor_config import executor_config_in

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dagster import EnvVar

    from metaflow_pipes.compile.job_model import JobModel


class CompileWarning(UserWarning):
    """A warning about a definitions file: a credential in it, or a decorator without effect."""


class DagsterCompiler:
    """Compiles a Metaflow flow into a Dagster definitions file.

    The same as `python flow.py [Metaflow options] dagster create`, from Python. The flow is read in a process of
    its own, so that nothing of it stays behind in this one.

    Args:
        flow_file: The path of the flow file.
        name: The job's name; by default the flow's, with `@project` that of project, branch and flow.
        tags: Metaflow tags of each run.
        decospecs: Decorators for every step, as in `run --with`: `["retry:times=2"]`.
        namespace: The Metaflow namespace of the steps; by default that of the production token.
        step_env: Environment variables of all steps. A `dagster.EnvVar` is looked up in the run's environment when
            a step starts, and only its name is written into the file.
        kubernetes: Where a step with `@kubernetes` runs: `pod` is the pod that the executor launches for its op, `job`
            a job that Metaflow launches; by default `pod` if the executor launches pods.
        max_workers: How many steps run at the same time; by default as many as there are CPUs.
        executor: `threads`, `multiprocess`, `in_process`, or the import path `package.module:executor_def`.
        log_level: Which records of Python's `logging` in the steps appear in Dagster's event log, too: those of this
            level and above; `debug`, `info`, `warning`, `error`, `critical` or `off`.
        translator: The import path `package.module:Class` of a `metaflow_pipes.runtime.DagsterMetaflowTranslator`.
        workflow_timeout: How long a run may take, in seconds. It fails when that is over.
        warm: How the threads executor starts the processes of steps: `metaflow` forks them from a process that has
            imported Metaflow, `flow` from one that has imported what the flow file imports, too, `off` does neither.
        paused: Whether schedules and sensors are deployed stopped.
        notify_on_error: Whether a message is sent for each run that fails or is canceled.
        notify_on_success: Whether one is sent for each run that succeeds.
        notify_slack_webhook_url: The incoming webhook of Slack that takes the messages, or `env:` and the name of the
            variable that holds it.
        notify_webhook_url: The address that takes the messages as JSON, or `env:` and the name of the variable.
        notify_email: Who gets the messages as e-mail; several addresses are separated by commas.
        schedule_parameters: The values of parameters in the runs that `@schedule` starts. In text,
            `{scheduled_time:%Y-%m-%d}` is the time when a run is due; other braces are written twice.
        no_overlap: Whether schedules and triggers start no run while another one of the job is under way: the same as
            `max_concurrent_runs=1`.
        max_concurrent_runs: How many runs can be under way before schedules and triggers start no other one.
        pools: The Dagster pool of each step that has one, whose limit holds for its tasks in all runs.
        priority: The priority of the runs in Dagster's queue.
        depends_on: The assets that the flow depends on, such as `raw/events`: its first assets, or with `STEP=KEY` that
            of the step.
        param_from: For each parameter that the value of an asset fills, the key of the asset.
        automation: When Dagster materializes the flow by itself: `eager`, `on_missing` or `on_cron:EXPRESSION[@ZONE]`.
        partition_by: For each parameter that the key of a run's partition fills, the partitions of job and assets:
            `{"date": "daily:2026-01-01"}`. Two are two dimensions.
        partition_format: The form in which the parameter gets the key of a time, as `strftime` takes it.
        partition_range: Two parameters, which get the first and the last key of a run that makes several partitions.
        package: Whether the flow's code package is stored in its datastore, from which workers without the flow file
            fetch it; by default with any datastore but the local one.
        executor_config: Fields of the executor's config, as defaults of what a run config has for it: a mapping, or the
            path of a YAML or JSON file.
        authorize: The production token of the deployment that this one replaces, if another user has made it.
        generate_new_token: Whether to move the flow to a new production token, and so to a new namespace.
        new_token: The production token to move the flow to.
        python: The interpreter that reads the flow; by default this one.
        top_level: Metaflow's options before its command, with underscores for dashes: `metadata="local"`,
            `datastore_root="/data"`, `branch="test"`, `production=True`,
            `config_value=[("settings", {"depth": 3})]`.

    Raises:
        CompileError: An option can't be used, or the flow file does not exist.
    """

    def __init__(
        self,
        flow_file: str | os.PathLike[str],
        *,
        name: str | None = None,
        tags: Sequence[str] = (),
        decospecs: Sequence[str] = (),
        namespace: str | None = None,
        step_env: Mapping[str, str | EnvVar] | None = None,
        kubernetes: str | None = None,
        max_workers: int | None = None,
        executor: str = "threads",
        log_level: str = "warning",
        translator: str | None = None,
        workflow_timeout: int | None = None,
        warm: str = "metaflow",
        paused: bool = False,
        notify_on_error: bool = False,
        notify_on_success: bool = False,
        notify_slack_webhook_url: str | None = None,
        notify_webhook_url: str | None = None,
        notify_email: str | None = None,
        schedule_parameters: Mapping[str, Any] | None = None,
        no_overlap: bool = False,
        max_concurrent_runs: int | None = None,
        pools: Mapping[str, str] | None = None,
        priority: int | None = None,
        depends_on: Sequence[str] = (),
        param_from: Mapping[str, str] | None = None,
        automation: str | None = None,
        partition_by: Mapping[str, str] | None = None,
        partition_format: str | None = None,
        partition_range: Sequence[str] = (),
        package: bool | None = None,
        executor_config: Mapping[str, Any] | str | os.PathLike[str] | None = None,
        authorize: str | None = None,
        generate_new_token: bool = False,
        new_token: str | None = None,
        python: str = sys.executable,
        **top_level: Any,
    ):
        self._flow_file = Path(os.path.abspath(flow_file))
        if not self._flow_file.is_file():
            raise CompileError(f"There is no flow file {self._flow_file}.")
        check_types({"no_overlap": no_overlap}, {"no_overlap": bool})
        options = JobOptions(
            name=name,
            tags=tags,
            namespace=namespace,
            step_env=without_dagsters_types(step_env or {}),
            kubernetes=kubernetes,
            max_workers=max_workers,
            executor=executor,
            log_level=log_level,
            translator=translator,
            workflow_timeout=workflow_timeout,
            warm=warm,
            paused=paused,
            notify_on_error=notify_on_error,
            notify_on_success=notify_on_success,
            notify_slack_webhook_url=notify_slack_webhook_url,
            notify_webhook_url=notify_webhook_url,
            notify_email=notify_email,
            schedule_parameters={} if schedule_parameters is None else schedule_parameters,
            max_concurrent_runs=concurrent_runs(max_concurrent_runs, no_overlap=no_overlap),
            pools={} if pools is None else pools,
            priority=priority,
            depends_on=depends_on,
            param_from={} if param_from is None else param_from,
            automation=automation,
            partition_by={} if partition_by is None else partition_by,
            partition_format=partition_format,
            partition_range=partition_range,
            package=package,
            executor_config={} if executor_config is None else executor_config_in(executor_config),
        )
        check_options(options)
        check_list("decospecs", decospecs)
        check_types(
            {
                "authorize": authorize,
                "generate_new_token": generate_new_token,
                "new_token": new_token,
                "python": python,
            },
            {"authorize": str, "generate_new_token": bool, "new_token": str, "python": str},
        )
        self._request = CompileRequest(options, tuple(decospecs))
        self._tokens = TokenOptions(authorize, generate_new_token, new_token)
        self._python = python
        self._top_level = command_line_options(top_level)
        self._compiled: JobModel | None = None

    def compile(self, definitions_file: str | os.PathLike[str] | None = None) -> str:
        """Compile the flow.

        Args:
            definitions_file: Where the text will stand, since the flow's path is written relative to it; by default
                `<job name, lower case>_dagster.py` in the current directory.

        Returns:
            The source of the definitions file.

        Raises:
            CompileError: The flow can't be read, or can't run on Dagster; the message says why.
            DeploymentError: The file that stands there is another user's deployment, and `authorize` is not its
                production token.
        """
        job = self._job()
        path = resolve_definitions_file(job, definitions_file)
        return render(with_token(job, resolve_token(job, path, self._tokens)), path)

    def write(self, definitions_file: str | os.PathLike[str] | None = None) -> Path:
        """Compile the flow, write the definitions file, whole or not at all, and register it under the job's name.

        Args:
            definitions_file: The path of the file; the default is that of `compile`.

        Returns:
            The absolute path of the file.

        Raises:
            CompileError: As for `compile`; or the file can't be written.
            DeploymentError: As for `compile`.
        """
        deployed = deploy(self._job(), definitions_file, self._tokens)
        for problem in deployed.problems:
            warnings.warn(problem, CompileWarning, stacklevel=2)
        return deployed.deployment.definitions_file

    def _job(self) -> JobModel:
        if self._compiled is None:
            self._compiled = compile_file(self._python, self._flow_file, self._top_level, self._request)
        for message in self._compiled.warnings:
            warnings.warn(message, CompileWarning, stacklevel=3)
        return self._compiled
