"""Stage 2: a `FlowModel` becomes a `JobModel`. Pure functions over plain data; all reasoning about graphs."""

from __future__ import annotations

import importlib
import keyword
import re
from typing import TYPE_CHECKING

from metaflow_pipes.credentials import looks_like_credential
from metaflow_pipes.errors import CompileError
from metaflow_pipes.graph import wire
from metaflow_pipes.model import ExecutorModel, FromRunEnvironment, ImportModel, JobModel, JobOptions, OpModel
from metaflow_pipes.tags import FLOW_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from metaflow_pipes.graph import Wiring
    from metaflow_pipes.model import FlowModel, StepModel

# What Dagster refuses as a name of an op or a job, beside Python's keywords.
RESERVED_NAMES = frozenset(
    [
        "context",
        "conf",
        "config",
        "meta",
        "arg_dict",
        "dict",
        "input_arg_dict",
        "output_arg_dict",
        "int",
        "str",
        "float",
        "bool",
        "input",
        "output",
        "type",
    ]
) | frozenset(keyword.kwlist)

# The names that a generated file defines or imports for itself.
MODULE_NAMES = frozenset(
    {"dg", "defs", "FLOW", "METAFLOW_STEP_ENV"}
    | {"MetaflowFlow", "MetaflowParameter", "MetaflowPipesClient", "MetaflowStep", "multiprocess", "run_step"}
    | {"custom_executor", "custom_translator", "fan_out", "gather", "regroup", "route"}
    | {"run_foreach_step", "run_loop_step", "run_routed_step", "run_split_step", "run_switch_step", "threads"}
)

# The levels of `logging` at which records of the steps can start to be sent to Dagster.
LOG_LEVELS = ("debug", "info", "warning", "error", "critical", "off")

_VALID_NAME = re.compile(r"[A-Za-z0-9_]+")
_IMPORT_PATH = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):(?P<attribute>[A-Za-z_]\w*)")
# What Dagster allows in the key of a run tag.
_NOT_IN_TAG_KEY = re.compile(r"[^A-Za-z0-9_.-]")
MAX_TAG_KEY_LENGTH = 63
# By this, Dagster's run monitoring ends a run whose worker can't do so itself (`dagster.MAX_RUNTIME_SECONDS_TAG`).
MAX_RUNTIME_TAG = "dagster/max_runtime"


def lower(flow: FlowModel, options: JobOptions) -> JobModel:
    """Turn a flow into a Dagster job.

    Args:
        flow: The flow.
        options: What the user asks for.

    Raises:
        CompileError: An option can't be used; names it and says what is allowed.
    """
    _check_log_level(options)
    _check_workflow_timeout(options)
    name = job_name(flow.name, flow.deployment_name, options.name, is_project=flow.is_project)
    names = op_names([step.name for step in flow.steps], taken={name})
    outputs = {
        step.name: {target: names[target] for target in step.exits}
        for step in flow.steps
        if step.kind == "switch" and len(step.exits) > 1
    }
    wiring = wire(flow.steps, outputs, names, taken={name})
    return JobModel(
        name=name,
        function=name if _is_free_identifier(name) else f"job_{name}",
        flow=flow,
        options=options,
        ops=tuple(_op(flow, step, names[step.name], outputs.get(step.name, {}), wiring) for step in flow.steps),
        helpers=wiring.helpers,
        statements=wiring.statements,
        executor=_executor(options),
        translator=_translator(options),
        tags=_run_tags(flow, options),
        warnings=(*_decorator_warnings(flow), *_credential_warnings(flow, options)),
    )


def job_name(flow: str, deployment_name: str, name: str | None, *, is_project: bool) -> str:
    """The name of a flow's job.

    Args:
        flow: The flow's name.
        deployment_name: With `@project`, that of project, branch and flow; else the flow's name.
        name: What the user asks for, or None for the default: the deployment's name.
        is_project: Whether the flow has `@project`.

    Raises:
        CompileError: Dagster or Metaflow does not allow the name.
    """
    if name is None:
        name = re.sub(r"[^A-Za-z0-9_]", "_", deployment_name)
        return f"{name}_" if name in RESERVED_NAMES else name
    if is_project:
        raise CompileError(
            f"--name can't be used with flow *{flow}*, because it has @project: the job's name is made of "
            "project, branch and flow. Use --branch or --production before `dagster` instead."
        )
    if not _VALID_NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise CompileError(
            f"{name!r} can't be the name of a Dagster job. A name consists of letters A-Z and a-z, digits "
            f"and underscores, and is none of the words that Dagster or Python reserve "
            f"({', '.join(sorted(RESERVED_NAMES - frozenset(keyword.kwlist)))}, and Python's keywords)."
        )
    return name


def _is_free_identifier(name: str) -> bool:
    is_taken = name in MODULE_NAMES or name.startswith(("op_", "fan_out_", "gather_", "regroup_", "route_"))
    return name.isidentifier() and not is_taken


def _op(flow: FlowModel, step: StepModel, name: str, switch: Mapping[str, str], wiring: Wiring) -> OpModel:
    return OpModel(
        step=step,
        name=name,
        function=f"op_{step.name}",
        inputs=wiring.inputs[step.name],
        takes_list=step.name in wiring.list_steps,
        emits_items=step.name in wiring.item_steps,
        switch={} if step.region else switch,
        is_routed=step.name in wiring.routed_steps,
        collected_by=_collected_by(step, flow),
        max_retries=step.user_code_retries + step.error_retries,
        tags=_op_tags(step),
    )


def _collected_by(step: StepModel, flow: FlowModel) -> str | None:
    """The join that ends the outermost foreach around a step."""
    if not step.region:
        return None
    loop = step.region[0]
    inside = {other.name for other in flow.steps if other.region[:1] == (loop,)}
    joins = (other.name for other in flow.steps if not other.region and not inside.isdisjoint(other.in_steps))
    return next(joins, None)


def _run_tags(flow: FlowModel, options: JobOptions) -> dict[str, str]:
    """The tags of each run: the flow, its limit, and the Metaflow tags, of which Dagster's have a key and a value.

    `model:linear` becomes `metaflow.tag/model: linear`, and `nightly` becomes `metaflow.tag/nightly: true`.
    """
    tags: dict[str, list[str]] = {}
    for tag in options.tags:
        name, _, value = tag.partition(":")
        key = _NOT_IN_TAG_KEY.sub("_", name)[:MAX_TAG_KEY_LENGTH] or "_"
        tags.setdefault(f"metaflow.tag/{key}", []).append(value or "true")
    limit = {} if options.workflow_timeout is None else {MAX_RUNTIME_TAG: str(options.workflow_timeout)}
    return {FLOW_TAG: flow.name, **limit, **{key: ", ".join(values) for key, values in tags.items()}}


def op_names(steps: Iterable[str], taken: set[str]) -> dict[str, str]:
    """An op name for each step: the step's own where Dagster allows it, else with underscores behind it.

    Args:
        steps: The names of the flow's steps.
        taken: Names that are taken already: that of the job.
    """
    steps = list(steps)
    taken = taken | RESERVED_NAMES
    names: dict[str, str] = {}
    # the steps that can keep their names come first, so that no escaped name takes one of theirs
    for step in sorted(steps, key=lambda step: (step in taken or not _VALID_NAME.fullmatch(step), step)):
        name = re.sub(r"[^A-Za-z0-9_]", lambda match: f"_x{ord(match.group()):x}", step)
        while name in taken:
            name += "_"
        taken.add(name)
        names[step] = name
    return names


def _op_tags(step: StepModel) -> dict[str, str]:
    return {f"metaflow/{resource}": amount for resource, amount in sorted(step.resources.items())}


def _executor(options: JobOptions) -> ExecutorModel:
    if options.max_workers is not None and options.max_workers < 1:
        raise CompileError(f"--max-workers is {options.max_workers}, but at least one step must be able to run.")
    if options.executor in ("threads", "multiprocess"):
        limit = "" if options.max_workers is None else f"max_concurrent={options.max_workers}"
        return ExecutorModel(expression=f"{options.executor}({limit})")
    if options.max_workers is not None:
        raise CompileError(
            f"--max-workers can't be used with --executor {options.executor}: it sets the limit of the "
            "threads and multiprocess executors. Configure another executor where it is defined."
        )
    if options.executor == "in_process":
        return ExecutorModel(expression="dg.in_process_executor")
    return _custom_executor(options.executor)


def _custom_executor(path: str) -> ExecutorModel:
    if _IMPORT_PATH.fullmatch(path) is None:
        raise CompileError(
            f"--executor is {path!r}. Use multiprocess, in_process, or the import path of an executor "
            "definition, as in dagster_k8s:k8s_job_executor."
        )
    imported, executor = _imported("--executor", path, alias="custom_executor")
    from dagster import ExecutorDefinition

    if not isinstance(executor, ExecutorDefinition):
        raise CompileError(f"--executor {path} is a {type(executor).__name__}, not a dagster.ExecutorDefinition.")
    return ExecutorModel("custom_executor", imported)


def _translator(options: JobOptions) -> ImportModel | None:
    path = options.translator
    if path is None:
        return None
    if _IMPORT_PATH.fullmatch(path) is None:
        raise CompileError(f"--translator is {path!r}. Use the import path of a class: package.module:ShopTranslator.")
    imported, translator = _imported("--translator", path, alias="custom_translator")
    from metaflow_pipes.runtime import DagsterMetaflowTranslator

    if not (isinstance(translator, type) and issubclass(translator, DagsterMetaflowTranslator)):
        raise CompileError(f"--translator {path} is no subclass of metaflow_pipes.runtime.DagsterMetaflowTranslator.")
    return imported


def _imported(option: str, path: str, alias: str) -> tuple[ImportModel, object]:
    """What stands at an import path, and how the generated file gets at it."""
    module, _, attribute = path.partition(":")
    try:
        return ImportModel(module, attribute, alias), getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CompileError(f"{option} {path} can't be imported: {error}") from None


def _check_log_level(options: JobOptions) -> None:
    if options.log_level not in LOG_LEVELS:
        raise CompileError(f"--log-level is {options.log_level!r}. Use one of {', '.join(LOG_LEVELS)}.")


def _check_workflow_timeout(options: JobOptions) -> None:
    if options.workflow_timeout is not None and options.workflow_timeout < 1:
        raise CompileError(
            f"--workflow-timeout is {options.workflow_timeout}, but a run needs at least 1 second. Leave the option "
            "out for runs without a limit."
        )


def _decorator_warnings(flow: FlowModel) -> Iterable[str]:
    for name in flow.inert_decorators:
        yield (
            f"@{name} of flow {flow.name} has no effect on Dagster. Attach what it does to the job there: schedules, "
            "sensors and hooks."
        )


def _credential_warnings(flow: FlowModel, options: JobOptions) -> Iterable[str]:
    advice = (
        "To keep it out, leave the value to the environment of the Dagster run: `--step-env {name}` (without a "
        "value), or dagster.EnvVar in DagsterCompiler(step_env=...)."
    )
    for name, value in options.step_env.items():
        if not isinstance(value, FromRunEnvironment) and looks_like_credential(name, value):
            yield (
                f"The step_env variable {name} looks like a credential, and its value is written into the "
                f"definitions file, in METAFLOW_STEP_ENV. {advice.format(name=name)}"
            )
    for step in flow.steps:
        for name, value in step.environment.items():
            if looks_like_credential(name, value):
                yield (
                    f"The @environment variable {name} of step {step.name} looks like a credential, and its value "
                    f"is written into the definitions file, in extra_env of op_{step.name}. Remove it from "
                    f"@environment. {advice.format(name=name)}"
                )
    for parameter in flow.parameters:
        if parameter.has_default and looks_like_credential(parameter.name, parameter.default):
            yield (
                f"The default of parameter {parameter.name} looks like a credential, and is written into the "
                "definitions file, in FLOW. Use an environment variable or @secrets in its place."
            )
    for config, value in flow.configs.items():
        for key in _credential_keys(config, value):
            yield (
                f"The config value {key} looks like a credential, and is written into the definitions file, in "
                "FLOW. Use an environment variable or @secrets in its place."
            )


def _credential_keys(path: str, value: object) -> Iterable[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _credential_keys(f"{path}.{key}", item)
    elif isinstance(value, list):
        for item in value:
            yield from _credential_keys(path, item)
    elif looks_like_credential(path.rpartition(".")[2], value):
        yield path


def parse_step_env(items: Iterable[str]) -> Mapping[str, str | FromRunEnvironment]:
    """Parse `--step-env` options.

    Args:
        items: Each `KEY=VALUE`, or `KEY` for a value that the run's own environment holds.

    Raises:
        CompileError: An item has no name before the first `=`, or a name or value that no environment can hold.
    """
    step_env: dict[str, str | FromRunEnvironment] = {}
    for item in items:
        name, separator, value = item.partition("=")
        step_env[name] = value if separator else FromRunEnvironment(name)
    return check_step_env(step_env)


def check_step_env(
    step_env: Mapping[str, str | FromRunEnvironment],
) -> Mapping[str, str | FromRunEnvironment]:
    """Check the names and values of `step_env`, and give it back.

    Raises:
        CompileError: A name or value can't be put into an environment.
    """
    for name, value in step_env.items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise CompileError(
                f"The step_env variable {name!r} has no usable name. Write --step-env KEY=VALUE, or "
                "--step-env KEY for a value that the run's environment holds; a name is not empty and holds no '='."
            )
        if not isinstance(value, (str, FromRunEnvironment)):
            raise CompileError(
                f"The step_env variable {name} is a {type(value).__name__}, but environment variables are "
                "strings. Use str(...), or json.dumps(...) for a structured value."
            )
        if isinstance(value, str) and "\0" in value:
            raise CompileError(f"The step_env variable {name} has a value with a NUL character.")
    return step_env
