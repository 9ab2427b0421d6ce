"""Metaflow's Deployer API for Dagster: `Deployer("flow.py").dagster().create()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from metaflow.runner.deployer_impl import DeployerImpl

if TYPE_CHECKING:
    from metaflow_pipes.api.deployed_flow import DagsterDeployedFlow


class DagsterDeployer(DeployerImpl):
    """Deployer implementation for Dagster.

    Parameters
    ----------
    name : str, optional, default None
        The name of the Dagster job. The flow name is used instead if this option is not specified.
    """

    TYPE: ClassVar[str | None] = "dagster"

    def __init__(self, deployer_kwargs: dict[str, Any], **kwargs: Any):
        self._deployer_kwargs = deployer_kwargs
        super().__init__(**kwargs)

    @property
    def deployer_kwargs(self) -> dict[str, Any]:
        """The options of the `dagster` command group."""
        return self._deployer_kwargs

    @staticmethod
    def deployed_flow_type() -> type[DagsterDeployedFlow]:
        """The class of what `create` returns."""
        from metaflow_pipes.api.deployed_flow import DagsterDeployedFlow

        return DagsterDeployedFlow

    def create(self, **kwargs: Any) -> DagsterDeployedFlow:
        """Compile the flow into a Dagster definitions file.

        Parameters
        ----------
        definitions_file : str, optional, default None
            The file to write. By default `<job name, lower case>_dagster.py` in the working directory.
        tags : List[str], optional, default None
            Annotate each run with these tags.
        decospecs : List[str], optional, default None
            Add these decorators to all steps, as by `run --with`.
        user_namespace : str, optional, default None
            Change the namespace from the default (production token) to the given tag.
        authorize : str, optional, default None
            Authorize using this production token.
        generate_new_token : bool, optional, default False
            Generate a new production token for this flow.
        given_token : str, optional, default None
            Use the given production token for this flow.
        step_env : List[str], optional, default None
            Environment variables for all steps, each `KEY=VALUE`, or `KEY` to take it from the run's environment.
        max_workers : int, optional, default None
            How many steps run at the same time.
        executor : str, optional, default "threads"
            The job's executor: threads, multiprocess, in_process, or package.module:executor_def.
        workflow_timeout : int, optional, default None
            The time limit of each run, in seconds.
        warm : str, optional, default "metaflow"
            How the threads executor starts the processes of steps: metaflow, flow or off.
        paused : bool, optional, default False
            Whether schedules and sensors are deployed stopped.
        notify_on_error : bool, optional, default False
            Send a message for each run that fails or is canceled.
        notify_on_success : bool, optional, default False
            Send a message for each run that succeeds.
        notify_slack_webhook_url : str, optional, default None
            The incoming webhook of Slack that takes the messages, or `env:NAME`.
        notify_webhook_url : str, optional, default None
            An address that takes the messages as JSON, or `env:NAME`.
        notify_email : str, optional, default None
            Who gets the messages as e-mail.
        schedule_params : List[str], optional, default None
            Values of parameters in the runs that `@schedule` starts, each `NAME=VALUE`. `{scheduled_time:%Y-%m-%d}` in
            a value is the time when a run is due.
        no_overlap : bool, optional, default False
            Whether schedules and triggers start no run while another one is under way.
        max_concurrent_runs : int, optional, default None
            How many runs can be under way before schedules and triggers start no other one.
        pools : List[str], optional, default None
            Dagster pools of steps, each `STEP=NAME`.
        priority : int, optional, default None
            The priority of the runs in Dagster's queue.
        depends_on : List[str], optional, default None
            The assets that the flow depends on, each `KEY` or `STEP=KEY`.
        param_from : List[str], optional, default None
            Parameters that the values of assets fill, each `NAME=KEY`.
        automation : str, optional, default None
            When Dagster materializes the flow by itself: eager, on_missing, or on_cron:EXPRESSION[@ZONE].
        partition_by : List[str], optional, default None
            The partitions of job and assets, each `PARAMETER=SPEC`, such as `date=daily:2026-01-01`.
        partition_format : str, optional, default None
            The form in which the parameter gets the key of a time, as strftime takes it.
        partition_range : str, optional, default None
            `START_PARAMETER,END_PARAMETER`: they get the first and the last key of a run of several partitions.
        kubernetes : str, optional, default None
            Where a step with @kubernetes runs: in the `pod` of its op, or in a `job` of Metaflow's.
        log_level : str, optional, default "warning"
            Which records of Python's `logging` Dagster's event log has, too.
        translator : str, optional, default None
            The import path MODULE:CLASS of a DagsterMetaflowTranslator.

        Returns:
        -------
        DagsterDeployedFlow
            The deployed flow.

        Raises:
        ------
        TypeError
            An option's value is of another type; the message names both.
        """
        from metaflow_pipes.api.command_options import command_options
        from metaflow_pipes.cli.group import dagster

        self._deployer_kwargs = command_options(dagster, self._deployer_kwargs)
        options = command_options(dagster.commands["create"], kwargs)
        return self._create(self.deployed_flow_type(), **options)  # pyright: ignore[reportReturnType]
