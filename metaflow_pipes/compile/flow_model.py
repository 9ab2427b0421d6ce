"""A Metaflow flow as plain data, which the reader fills, and which holds no object of Metaflow's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from collections.abc import Mapping


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
        is_text: Of a `file`, whether its content is text, as `IncludeFile` has it; else it is bytes.
        encoding: Of a `file` that is text, its encoding.
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
    is_text: bool = True
    encoding: str = "utf-8"

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
