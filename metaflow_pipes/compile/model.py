"""The plain data that the stages of the compiler hand to each other.

`FlowModel` says what a Metaflow flow is, `JobOptions` what the user asked of the compiler, and `JobModel` what
the Dagster job will be. None of them holds a Metaflow or a Dagster object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class ParameterModel:
    """A Metaflow `Parameter` or `IncludeFile`.

    Attributes:
        name: The name on the command line; may hold dashes or be a Python keyword.
        kind: `str`, `int`, `float`, `bool`, `json` or `file` (the path of an `IncludeFile`).
        multiple: Whether the parameter takes a list of values (click's `multiple`).
        separator: The character at which Metaflow splits a string value into a list, or None.
        required: Metaflow's own `required`: the value None is refused too.
        has_default: Whether `default` is a value.
        default: The default, a JSON value; deploy-time functions are already called.
        help: The help text, or None.
        attribute: The flow's attribute that holds its value; None if that is the name with underscores for dashes.
        asset: The key of the asset whose value fills it, or None.
    """

    name: str
    kind: str
    multiple: bool = False
    separator: str | None = None
    required: bool = False
    has_default: bool = False
    default: Any = None
    help: str | None = None
    attribute: str | None = None
    asset: str | None = None

    @property
    def is_required(self) -> bool:
        """Whether a run can't begin without a value from outside."""
        return self.required and not self.has_default and self.asset is None

    @property
    def usual_attribute(self) -> str:
        """The attribute that a parameter of this name usually has: `learning_rate` for `learning-rate`."""
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class CheckModel:
    """A `@dagster_check` of a step.

    Attributes:
        name: The check's name.
        blocking: Whether the step fails if the check does.
        description: What it makes sure of, or None.
    """

    name: str
    blocking: bool = False
    description: str | None = None


@dataclass(frozen=True)
class StepModel:
    """A Metaflow step, with what its decorators ask of whoever runs it.

    Attributes:
        name: The step's name.
        is_join: Whether the step takes `inputs`.
        in_steps: The steps whose tasks it takes, in the order of Metaflow's `in_funcs`.
        kind: How it goes on: `plain` (to one step, to all of a split, or nowhere), `foreach`, `parallel`
            (`num_parallel`) or `switch`.
        out_steps: The steps that it can go on to, itself among them if it is recursive.
        region: The foreach loops around it, the outermost first, each by its first step; those of `num_parallel` are
            not among them.
        description: The docstring, or the empty string.
        environment: The merged `vars` of `@environment`.
        resources: The attributes of `@resources`, as strings.
        launchers: The decorators that have the step launched on another system, or by another interpreter.
        compute: The attributes of `@kubernetes`, or else of `@resources`, that differ from the default.
        user_code_retries: How often the user's code runs again (`@retry`).
        error_retries: How many attempts follow once the user's code has failed (`@catch`).
        retry_delay_seconds: The pause before each retry.
        timeout_seconds: The limit of `@timeout` for each attempt, or None.
        code_version: A digest of its source, or None if that is not at hand.
        source_file: The absolute path of the file with its source, or None.
        source_line: The line of its first decorator there, from 1, or None.
        checks: The asset checks that it declares.
    """

    name: str
    is_join: bool
    in_steps: tuple[str, ...]
    kind: Literal["plain", "foreach", "parallel", "switch"] = "plain"
    out_steps: tuple[str, ...] = ()
    region: tuple[str, ...] = ()
    description: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    launchers: tuple[str, ...] = ()
    compute: Mapping[str, Any] = field(default_factory=dict)
    user_code_retries: int = 0
    error_retries: int = 0
    retry_delay_seconds: int = 0
    timeout_seconds: int | None = None
    code_version: str | None = None
    source_file: str | None = None
    source_line: int | None = None
    checks: tuple[CheckModel, ...] = ()

    @property
    def is_recursive(self) -> bool:
        """Whether it is a switch that can go on to itself."""
        return self.name in self.out_steps

    @property
    def exits(self) -> tuple[str, ...]:
        """The steps that it can go on to, without itself."""
        return tuple(step for step in self.out_steps if step != self.name)


@dataclass(frozen=True)
class ExitHooksModel:
    """The functions that run when a run of a flow has ended (`@exit_hook`).

    Attributes:
        on_success: The hooks after a success: names of functions of the flow file, and import paths.
        on_error: The hooks after any other end.
        timeout_seconds: How long a hook may take, or None for the default.
        not_importable: For each import path that can't be imported where the flow is compiled, the reason.
    """

    on_success: tuple[str, ...] = ()
    on_error: tuple[str, ...] = ()
    timeout_seconds: int | None = None
    not_importable: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ScheduleModel:
    """The `@schedule` of a flow.

    Attributes:
        expression: The cron expression, of AWS, Quartz or cron, as the decorator has it.
        timezone: The name of its time zone, or None.
    """

    expression: str
    timezone: str | None = None


@dataclass(frozen=True)
class EventModel:
    """An event that a flow waits for.

    Attributes:
        name: Its name.
        parameters: For each parameter of the flow that it sets, the field of its payload.
        flow: The flow whose finished runs it stands for, or None.
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    flow: str | None = None


@dataclass(frozen=True)
class TriggerModel:
    """The `@trigger` or the `@trigger_on_finish` of a flow: all of its events together start a run.

    Attributes:
        decorator: The decorator's name.
        events: The events.
        reset_cron: When those are dropped that wait for others: the cron expression of `reset_at`, or None for never.
        reset_timezone: The name of its time zone.
        unknown_options: What its `options` have that does nothing.
    """

    decorator: Literal["trigger", "trigger_on_finish"]
    events: tuple[EventModel, ...]
    reset_cron: str | None = None
    reset_timezone: str = "UTC"
    unknown_options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DimensionModel:
    """One dimension of the partitions of a flow.

    Attributes:
        parameter: The parameter that its keys fill.
        kind: `hourly`, `daily`, `weekly`, `monthly`, `cron`, `static` or `dynamic`.
        definition: The Dagster class of its partitions.
        arguments: The named arguments of that.
        keys: The keys of static partitions; else none.
        start: The first key of partitions of time, or None.
    """

    parameter: str
    kind: str
    definition: str
    arguments: Mapping[str, str] = field(default_factory=dict)
    keys: tuple[str, ...] = ()
    start: str | None = None


@dataclass(frozen=True)
class PartitionsModel:
    """The partitions of a flow's job and assets.

    Attributes:
        dimensions: One or two, in the order of Dagster's keys: by the names of their parameters.
        format: The form in which parameters get the keys of time, as `strftime` takes it; None for the key itself.
        range_end: The parameter that gets the last key of a run of several partitions, or None.
    """

    dimensions: tuple[DimensionModel, ...]
    format: str | None = None
    range_end: str | None = None

    @property
    def filled(self) -> tuple[str, ...]:
        """The parameters that a key fills."""
        ends = () if self.range_end is None else (self.range_end,)
        return (*(dimension.parameter for dimension in self.dimensions), *ends)


@dataclass(frozen=True)
class PackageModel:
    """The code package of a flow, as it is stored in the flow's datastore.

    Attributes:
        url: Where it is.
        sha: The SHA-1 digest of its bytes, by which the datastore knows it.
        metadata: How Metaflow reads it, as JSON.
    """

    url: str
    sha: str
    metadata: str


@dataclass(frozen=True)
class FlowModel:
    """A Metaflow flow, as the options on its command line make it.

    Attributes:
        name: The flow's name: that of its class.
        deployment_name: The name of its deployment: with `@project`, that of project, branch and flow.
        is_project: Whether the flow has `@project`.
        description: The docstring, or the empty string.
        file: The absolute path of the flow file.
        working_directory: The absolute path of the folder where it is compiled.
        fingerprint: `sha256:` and the digest of the flow file's bytes.
        steps: The steps, each after those whose tasks it takes.
        parameters: The parameters, in the order of the flow.
        configs: The values of the `Config`s, as Metaflow's runner hands them to its tasks.
        top_level_args: Metaflow's options before the command, without the datastore's root and the configs.
        datastore: The type of the datastore: `local`, `s3`, ...
        datastore_root: The absolute path or the URL of its root.
        settings: `METAFLOW_*` variables by which a step finds the same datastore and metadata.
        withheld_settings: `METAFLOW_*` variables in use that hold secrets and stay out of the file.
        user: Who compiled the flow: the Metaflow user where the run's environment names none.
        lost_config_types: For each `Config` that holds more than Python's own types, the names of those others.
        exit_hooks: What runs when a run of it has ended.
        schedule: Its `@schedule`, or None.
        triggers: Its `@trigger` and its `@trigger_on_finish`.
        package: Its code package, or None.
    """

    name: str
    deployment_name: str
    is_project: bool
    description: str
    file: str
    working_directory: str
    fingerprint: str
    steps: tuple[StepModel, ...]
    parameters: tuple[ParameterModel, ...]
    configs: Mapping[str, Any]
    top_level_args: tuple[str, ...]
    datastore: str
    datastore_root: str
    settings: Mapping[str, str]
    withheld_settings: tuple[str, ...]
    user: str
    lost_config_types: Mapping[str, str] = field(default_factory=dict)
    exit_hooks: ExitHooksModel = field(default_factory=ExitHooksModel)
    schedule: ScheduleModel | None = None
    triggers: tuple[TriggerModel, ...] = ()
    package: PackageModel | None = None

    def parameter(self, name: str, option: str) -> ParameterModel:
        """A parameter that an option names, also by the attribute that it usually has.

        Args:
            name: The name.
            option: The option, as on the command line.

        Raises:
            CompileError: There is none; names those there are.
        """
        for parameter in self.parameters:
            if name in (parameter.name, parameter.usual_attribute):
                return parameter
        known = ", ".join(parameter.name for parameter in self.parameters)
        raise CompileError(
            f"{option} names the parameter {name}, which flow *{self.name}* does not have. "
            + (f"Its parameters are: {known}." if known else "It has no parameters.")
        )


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


@dataclass(frozen=True)
class ImportModel:
    """Something of the user's that the generated file imports: `from module import attribute as alias`."""

    module: str
    attribute: str
    alias: str


@dataclass(frozen=True)
class ExecutorModel:
    """The job's executor.

    Attributes:
        expression: The expression that makes it.
        imported: What that needs of the user's, or None.
        launches_pods: Whether it launches each op in a Kubernetes pod.
        config: The defaults of its config.
    """

    expression: str
    imported: ImportModel | None = None
    launches_pods: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reference:
    """The output of an op, as another one takes it.

    Attributes:
        variable: The variable that holds the op's outputs in the job's body.
        output: The name of the output if the op has several.
        is_collected: Whether it is taken for all items of a foreach at once.
    """

    variable: str
    output: str | None = None
    is_collected: bool = False


@dataclass(frozen=True)
class OpModel:
    """A Dagster op that runs the tasks of one Metaflow step.

    Attributes:
        step: The Metaflow step.
        name: The op's name in the job: what step keys and the run config call it.
        definition: The name of its definition, which is the only one in a code location.
        function: The name of the op's function in the generated file.
        inputs: The names of its inputs; none for the start step.
        takes_list: Whether its one input is a list.
        emits_items: Whether it has a dynamic output, one for each item of its foreach.
        switch: For each step that it can go on to, the name of the output; empty if it has one output.
        is_routed: Whether its one output says where its task goes on.
        collected_by: The join that ends the outermost foreach around the step, or None.
        items_of: The foreach step whose items it takes, if it takes all of them; else None.
        max_retries: Dagster retries of the op.
        tags: The op's tags.
        pool: The pool that the user gives the step, or None.
        materialized_by: The helper op that materializes the step's asset, or None if its own does.
        depends_on: The assets of others that the step's asset depends on, beside those of the flow.
    """

    step: StepModel
    name: str
    definition: str
    function: str
    inputs: tuple[str, ...]
    takes_list: bool
    emits_items: bool
    switch: Mapping[str, str]
    is_routed: bool
    collected_by: str | None
    items_of: str | None
    max_retries: int
    tags: Mapping[str, Any] = field(default_factory=dict)
    pool: str | None = None
    materialized_by: str | None = None
    depends_on: tuple[str, ...] = ()


@dataclass(frozen=True)
class HelperModel:
    """A Dagster op that runs no task, and brings the outputs of others into another order.

    Attributes:
        name: The op's name in the job, and its variable in the generated file.
        factory: The function of `metaflow_pipes.runtime` that makes it.
        depth: For `regroup`, how many indices its items have.
        outputs: For `route`, the output's name for each step that the switch can go on to.
        step: For `collect`, the step whose tasks it collects.
    """

    name: str
    factory: Literal["collect", "fan_out", "gather", "regroup", "route"]
    depth: int | None = None
    outputs: Mapping[str, str] = field(default_factory=dict)
    step: str | None = None


@dataclass(frozen=True)
class Call:
    """A statement of the job's body: an op is applied to outputs of others.

    Attributes:
        variable: The variable for its outputs.
        function: The op's function or helper.
        op: The op's name in the job.
        arguments: What it takes; a tuple of references is a list.
    """

    variable: str
    function: str
    op: str
    arguments: tuple[Reference | tuple[Reference, ...], ...]


@dataclass(frozen=True)
class Body:
    """A statement of the job's body: the calls for each item of one dynamic output.

    Attributes:
        function: The name of the local function that makes the calls for one item.
        item: The name of its parameter.
        source: The dynamic output.
        calls: The calls, each after those whose outputs it takes.
        results: The outputs that are needed outside, each with the variable that holds it there.
    """

    function: str
    item: str
    source: Reference
    calls: tuple[Call, ...]
    results: tuple[tuple[Reference, str], ...]


@dataclass(frozen=True)
class AutomationModel:
    """A Dagster schedule or sensor beside the job: one call in the `Definitions` of the generated file.

    Attributes:
        name: Its name in Dagster.
        factory: The function of `metaflow_pipes.runtime` that makes it of the flow, the job, and `arguments`.
        arguments: The keyword arguments: strings, numbers, booleans, None, and lists, tuples and mappings of them.
        summary: When it starts the flow, or what it does after a run: a sentence without its full stop.
    """

    name: str
    factory: str
    arguments: Mapping[str, Any]
    summary: str


@dataclass(frozen=True)
class JobModel:
    """A Dagster job, ready to be written.

    Attributes:
        name: The job's name in Dagster.
        function: The job's variable in the generated file.
        flow: The flow that it runs.
        options: What the user asked for.
        ops: The ops of the steps, each after those whose outputs it takes.
        helpers: The other ops.
        statements: The job's body.
        executor: The job's executor.
        kubernetes: Where a step with `@kubernetes` runs: in the `pod` of its op, or in a `job` of Metaflow's.
        translator: The user's translator, or None for the default one.
        partitions: The partitions of the job and the assets, or None.
        tags: The job's tags.
        schedules: The schedules that start it.
        sensors: The sensors that start it, or that act when a run of it has ended.
        warnings: What the user should know before the file is used, each a sentence.
        depends_on: The assets of others that the flow's first assets depend on.
        condition: The expression of the automation condition of the flow's assets, or None.
    """

    name: str
    function: str
    flow: FlowModel
    options: JobOptions
    ops: tuple[OpModel, ...]
    helpers: tuple[HelperModel, ...]
    statements: tuple[Call | Body, ...]
    executor: ExecutorModel
    kubernetes: str
    translator: ImportModel | None
    partitions: PartitionsModel | None
    tags: Mapping[str, str]
    schedules: tuple[AutomationModel, ...]
    sensors: tuple[AutomationModel, ...]
    warnings: tuple[str, ...]
    depends_on: tuple[str, ...] = ()
    condition: str | None = None

    def steps_by_launcher(self) -> dict[str, list[str]]:
        """For each decorator that has steps launched in another way, the names of these steps."""
        found: dict[str, list[str]] = {}
        for step in self.flow.steps:
            for launcher in step.launchers:
                found.setdefault(launcher, []).append(step.name)
        return found

    @property
    def automation(self) -> tuple[AutomationModel, ...]:
        """The schedules and sensors: what needs a Dagster daemon."""
        return (*self.schedules, *self.sensors)
