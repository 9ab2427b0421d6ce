"""The plain data that the stages of the compiler hand to each other.

`FlowModel` says what a Metaflow flow is, `JobOptions` what the user asked of the compiler, and `JobModel` what
the Dagster job will be. None of them holds a Metaflow or a Dagster object.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
    """

    name: str
    kind: str
    multiple: bool = False
    separator: str | None = None
    required: bool = False
    has_default: bool = False
    default: Any = None
    help: str | None = None


@dataclass(frozen=True)
class StepModel:
    """A Metaflow step, with what its decorators ask of whoever runs it.

    Attributes:
        name: The step's name.
        is_join: Whether the step takes `inputs`.
        in_steps: The steps whose tasks it takes, in the order of Metaflow's `in_funcs`.
        description: The docstring, or the empty string.
        environment: The merged `vars` of `@environment`.
        resources: The attributes of `@resources`, as strings.
        user_code_retries: How often the user's code runs again (`@retry`).
        error_retries: How many attempts follow once the user's code has failed (`@catch`).
        retry_delay_seconds: The pause before each retry.
        timeout_seconds: The limit of `@timeout` for each attempt, or None.
    """

    name: str
    is_join: bool
    in_steps: tuple[str, ...]
    description: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    resources: Mapping[str, str] = field(default_factory=dict)
    user_code_retries: int = 0
    error_retries: int = 0
    retry_delay_seconds: int = 0
    timeout_seconds: int | None = None


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
        configs: For each `Config`, its value and whether it is `plain`.
        top_level_args: Metaflow's options before the command, without the datastore's root and the configs.
        datastore: The type of the datastore: `local`, `s3`, ...
        datastore_root: The absolute path or the URL of its root.
        settings: `METAFLOW_*` variables by which a step finds the same datastore and metadata.
        withheld_settings: `METAFLOW_*` variables in use that hold secrets and stay out of the file.
        user: Who compiled the flow: the Metaflow user where the run's environment names none.
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
    configs: Mapping[str, tuple[Any, bool]]
    top_level_args: tuple[str, ...]
    datastore: str
    datastore_root: str
    settings: Mapping[str, str]
    withheld_settings: tuple[str, ...]
    user: str


@dataclass(frozen=True)
class FromRunEnvironment:
    """A value of `step_env` that stays out of the file: the variable of the run's environment that holds it."""

    variable: str


@dataclass(frozen=True)
class JobOptions:
    """What the user asks of the compiler, beside the flow.

    Attributes:
        name: The job's name, or None for the flow's.
        tags: Metaflow tags of each run.
        namespace: The Metaflow namespace of the steps, or None for that of the run's user.
        step_env: Environment variables of all steps.
        max_workers: How many steps run at the same time, or None for the executor's own default.
        executor: `multiprocess`, `in_process` or `package.module:executor_def`.
    """

    name: str | None = None
    tags: tuple[str, ...] = ()
    namespace: str | None = None
    step_env: Mapping[str, str | FromRunEnvironment] = field(default_factory=dict)
    max_workers: int | None = None
    executor: str = "multiprocess"


@dataclass(frozen=True)
class ExecutorModel:
    """The job's executor: the expression that makes it, and the module to import a custom one from."""

    expression: str
    module: str | None = None
    attribute: str | None = None


@dataclass(frozen=True)
class OpModel:
    """A Dagster op that runs the task of one Metaflow step.

    Attributes:
        step: The Metaflow step.
        name: The op's name in Dagster.
        function: The name of the op's function in the generated file.
        variable: The name of its output in the job's body.
        upstream: The `variable`s it takes; none for the start step.
        is_join: Whether it takes them as a list.
        max_retries: Dagster retries of the op.
        tags: The op's tags.
    """

    step: StepModel
    name: str
    function: str
    variable: str
    upstream: tuple[str, ...]
    is_join: bool
    max_retries: int
    tags: Mapping[str, str]


@dataclass(frozen=True)
class JobModel:
    """A Dagster job, ready to be written.

    Attributes:
        name: The job's name in Dagster.
        function: The name of the job's function in the generated file.
        flow: The flow that it runs.
        options: What the user asked for.
        ops: The ops, each after those whose outputs it takes.
        executor: The job's executor.
        warnings: What the user should know before the file is used, each a sentence.
    """

    name: str
    function: str
    flow: FlowModel
    options: JobOptions
    ops: tuple[OpModel, ...]
    executor: ExecutorModel
    warnings: tuple[str, ...]
