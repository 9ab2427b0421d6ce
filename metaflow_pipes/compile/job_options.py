"""The user's options of the compiler as plain data, from whichever side they come: command line, Python or YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.compile.flow_model import EventModel, ScheduleModel


@dataclass(frozen=True)
class FromRunEnvironment:
    """A value of `step_env` that stays out of the file: the variable of the run's environment that holds it."""

    variable: str


@dataclass(frozen=True)
class JobOptions:
    """The user's options of the compiler, beside the flow.

    Attributes:
        name: The job's name, or None for the flow's.
        tags: Metaflow tags of each run.
        namespace: The Metaflow namespace of the steps, or None for that of the production token.
        step_env: Environment variables of all steps.
        kubernetes: Where a step with `@kubernetes` runs: `pod` or `job`, or None for the default of the executor.
        max_workers: How many steps run at the same time, or None for the executor's own default.
        executor: `threads`, `multiprocess`, `in_process` or `package.module:executor_def`.
        log_level: The lowest level of the steps' `logging` records that Dagster gets too: `debug`, `info`, `warning`,
            `error`, `critical` or `off`, in any case.
        translator: `package.module:Class` of the translator that says how steps become assets, or None for the default.
        workflow_timeout: How long a run may take, in seconds, or None.
        paused: Whether schedules and sensors are deployed stopped.
        notify_on_error: Whether a message is sent for each run that fails or is canceled.
        notify_on_success: Whether one is sent for each run that succeeds.
        notify_slack_webhook_url: The address of a Slack webhook that takes them, or `env:` and the name of the
            variable that holds it; None for none.
        notify_webhook_url: The same of a receiver that takes JSON.
        notify_email: The addresses that get them as e-mail, separated by commas, or None.
        schedule_parameters: The values of parameters in scheduled runs: text is converted to the parameter's type, and
            can hold `{scheduled_time:...}`; a value of another type is as JSON has it.
        max_concurrent_runs: How many runs can be under way before no other one is started by itself, or None.
        pools: For each step that has one, its Dagster pool.
        priority: The priority of the runs in Dagster's queue, or None.
        warm: How the threads executor starts the processes of steps: `metaflow`, `flow` or `off`.
        depends_on: The assets that the flow's assets depend on: `KEY` for its first ones, or `STEP=KEY`.
        param_from: For each parameter that the value of an asset fills, the key of the asset.
        automation: When Dagster materializes the flow by itself: `eager`, `on_missing`, `on_cron:EXPR[@ZONE]` or None.
        partition_by: For each parameter that a partition's key fills, the partitions, such as `daily:2026-01-01`.
        partition_format: The form in which they get keys of time, as `strftime` takes it, or None for the key itself.
        partition_range: The parameters that get the first and the last key of a run of several partitions, or none.
        package: Whether the flow's code package is stored for workers without the flow file; None is with a datastore
            that other machines reach.
        executor_config: Fields of the executor's config, as defaults of what a run config has for it.
        parameter_defaults: For each parameter that has another default in this deployment, that default.
        schedule: The schedule in place of the flow's `@schedule`; True is that of the flow, and False none.
        triggers: The events in place of the flow's `@trigger` and `@trigger_on_finish`, all of which together start a
            run; True is what the flow says, and False none. Of a single event that sets no parameters, the fields set
            those of their names.
    """

    name: str | None = None
    tags: Sequence[str] = ()
    namespace: str | None = None
    step_env: Mapping[str, str | FromRunEnvironment] = field(default_factory=dict)
    kubernetes: str | None = None
    max_workers: int | None = None
    executor: str = "threads"
    log_level: str = "warning"
    translator: str | None = None
    workflow_timeout: int | None = None
    paused: bool = False
    notify_on_error: bool = False
    notify_on_success: bool = False
    notify_slack_webhook_url: str | None = None
    notify_webhook_url: str | None = None
    notify_email: str | None = None
    schedule_parameters: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent_runs: int | None = None
    pools: Mapping[str, str] = field(default_factory=dict)
    priority: int | None = None
    warm: str = "metaflow"
    depends_on: Sequence[str] = ()
    param_from: Mapping[str, str] = field(default_factory=dict)
    automation: str | None = None
    partition_by: Mapping[str, str] = field(default_factory=dict)
    partition_format: str | None = None
    partition_range: Sequence[str] = ()
    package: bool | None = None
    executor_config: Mapping[str, Any] = field(default_factory=dict)
    parameter_defaults: Mapping[str, Any] = field(default_factory=dict)
    schedule: ScheduleModel | bool = True
    triggers: Sequence[EventModel] | bool = True
