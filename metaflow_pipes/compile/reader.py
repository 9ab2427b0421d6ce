"""Stage 1: Metaflow's live objects become a `FlowModel`. The only stage that knows Metaflow."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaflow import current
from metaflow._vendor import click
from metaflow.decorators import (
    StepDecorator,
    _attach_decorators,
    extract_step_decorator_from_decospec,
    flow_decorators,
)
from metaflow.exception import MetaflowException
from metaflow.includefile import IncludeFile
from metaflow.metaflow_config import DEFAULT_DECOSPECS, MAX_ATTEMPTS
from metaflow.metaflow_config_funcs import config_values
from metaflow.parameters import DeployTimeField
from metaflow.plugins.environment_decorator import EnvironmentDecorator
from metaflow.plugins.parallel_decorator import ParallelDecorator
from metaflow.plugins.retry_decorator import RetryDecorator
from metaflow.plugins.timeout_decorator import TimeoutDecorator
from metaflow.user_configs.config_parameters import dump_config_values
from metaflow.util import get_username

from metaflow_pipes.compile.compute import read_compute
from metaflow_pipes.compile.credentials import looks_like_credential
from metaflow_pipes.compile.flow_decorators import read_exit_hooks, read_schedule
from metaflow_pipes.compile.flow_model import CheckModel, FlowModel, ParameterModel, StepModel
from metaflow_pipes.compile.flow_triggers import read_triggers
from metaflow_pipes.errors import CompileError
from metaflow_pipes.locations import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterable

# The settings of the Metaflow configuration that lead a step to the datastore and the metadata of the flow's
# other steps. What the local datastore needs is not among them: it is found from the definitions file.
BAKED_SETTINGS = frozenset(
    f"METAFLOW_{name}"
    for name in (
        "DEFAULT_DATASTORE",
        "DEFAULT_METADATA",
        "DEFAULT_AWS_CLIENT_PROVIDER",
        "DEFAULT_AZURE_CLIENT_PROVIDER",
        "DEFAULT_GCP_CLIENT_PROVIDER",
        "DEFAULT_SECRETS_BACKEND_TYPE",
        "DEFAULT_SECRETS_ROLE",
        "DATASTORE_SYSROOT_S3",
        "DATASTORE_SYSROOT_AZURE",
        "DATASTORE_SYSROOT_GS",
        "DATATOOLS_SUFFIX",
        "DATATOOLS_S3ROOT",
        "DATATOOLS_AZUREROOT",
        "DATATOOLS_GSROOT",
        "CARD_S3ROOT",
        "CARD_AZUREROOT",
        "CARD_GSROOT",
        "S3_ENDPOINT_URL",
        "S3_VERIFY_CERTIFICATE",
        "S3_SERVER_SIDE_ENCRYPTION",
        "AZURE_STORAGE_BLOB_SERVICE_ENDPOINT",
        "SERVICE_URL",
        "SERVICE_INTERNAL_URL",
        "SERVICE_VERSION_CHECK",
        "UI_URL",
        "AWS_SECRETS_MANAGER_DEFAULT_REGION",
        "AWS_SECRETS_MANAGER_DEFAULT_ROLE",
        "GCP_SECRET_MANAGER_PREFIX",
        "AZURE_KEY_VAULT_PREFIX",
    )
)
# Settings that carry keys, tokens or headers. A step takes them from the run's own environment.
SECRET_SETTINGS = frozenset(
    f"METAFLOW_{name}"
    for name in (
        "SERVICE_AUTH_KEY",
        "SERVICE_HEADERS",
        "DATATOOLS_CLIENT_PARAMS",
        "DATATOOLS_SESSION_VARS",
        "AWS_SANDBOX_API_KEY",
    )
)

# How many hexadecimal digits tell the versions of a step's source apart.
CODE_VERSION_LENGTH = 16

# The hooks by which a decorator has the step launched in another way.
LAUNCH_HOOKS = ("runtime_step_cli", "runtime_step_cli_ctx")


def has_mutators(state: Any, decospecs: Iterable[str]) -> bool:
    """Whether decorators that are attached by now come too late for some mutator, or for a mutator among them.

    Args:
        state: As for `read_flow`.
        decospecs: The decorators, as in `run --with`; none can't come too late.

    Raises:
        MetaflowException: There is no such decorator.
    """
    attached = [extract_step_decorator_from_decospec(spec)[0] for spec in decospecs]
    if not attached:
        return False
    are_users = any(not isinstance(decorator, StepDecorator) for decorator in attached)
    return are_users or bool(state.flow._flow_mutators) or any(step.config_decorators for step in state.flow)


def own_top_level_options() -> list[str]:
    """Metaflow's options before the command that this process runs, as they were given."""
    context: Any = click.get_current_context()
    from_command_on = context.find_root().saved_args
    return sys.argv[1 : len(sys.argv) - len(from_command_on)]


def read_flow(state: Any, decospecs: tuple[str, ...] = ()) -> FlowModel:
    """Read the flow of a Metaflow command.

    Args:
        state: Metaflow's `CliState`, the `obj` of its click context, after `metaflow.cli.start` has run.
        decospecs: More decorators for every step, as in `run --with`.

    Returns:
        The flow's model.

    Raises:
        MetaflowException: The flow fails Metaflow's lint, or a decorator or its use is refused by Metaflow.
        CompileError: The flow needs something that can't run on Dagster; names flow, step and reason.
    """
    _add_decorators(state, decospecs)
    _check(state)
    settings, withheld_settings = _settings()
    configs, lost_config_types = _configs(state)
    file = Path(os.path.abspath(state.entrypoint[-1]))
    return FlowModel(
        name=state.flow.name,
        deployment_name=current.get("project_flow_name") or state.flow.name,
        is_project=bool(current.get("project_name")),
        description=inspect.cleandoc(state.flow.__class__.__dict__.get("__doc__") or ""),
        file=str(file),
        working_directory=str(Path.cwd()),
        fingerprint=fingerprint_of(file),
        steps=tuple(_read_step(state, name, region) for name, region in _regions(state.graph).items()),
        parameters=tuple(
            _read_parameter(state.flow.name, attribute, parameter)
            for attribute, parameter in state.flow._get_parameters()
            if not parameter.IS_CONFIG_PARAMETER
        ),
        configs=configs,
        lost_config_types=lost_config_types,
        top_level_args=_top_level_args(state, decospecs),
        datastore=state.flow_datastore.TYPE,
        datastore_root=_datastore_root(state),
        settings=settings,
        withheld_settings=withheld_settings,
        user=username(),
        exit_hooks=read_exit_hooks(state),
        schedule=read_schedule(state.flow),
        triggers=read_triggers(state.flow),
    )


def _check(state: Any) -> None:
    """Metaflow's own checks, as before each `run`."""
    try:
        state.check(state.graph, state.flow, state.environment, pylint=state.pylint)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise CompileError(
            f"Metaflow's checks can't make sense of the graph of flow *{state.flow.name}* "
            f"({type(error).__name__}: {error}). Does `python {Path(state.entrypoint[-1]).name} check` pass?"
        ) from None


def _add_decorators(state: Any, decospecs: tuple[str, ...]) -> None:
    """Attach decorators after Metaflow has initialized those of the flow and of its top-level `--with`.

    The flow has no mutators. As those of `run --with`, they come before decorators of the same name from the top level.
    """
    if not decospecs:
        return
    names = {spec.partition(":")[0] for spec in decospecs}
    for step in state.flow:
        step.decorators[:] = [
            decorator for decorator in step.decorators if decorator.statically_defined or decorator.name not in names
        ]
    known = {id(decorator) for step in state.flow for decorator in step.decorators}
    _attach_decorators(state.flow, decospecs)
    state.flow.__class__._init_graph()
    state.graph = state.flow._graph
    for step in state.flow:
        for decorator in [d for d in step.decorators if id(d) not in known]:
            try:
                decorator.external_init()
                decorator.step_init(
                    state.flow,
                    state.graph,
                    step.__name__,
                    step.decorators,
                    state.environment,
                    state.flow_datastore,
                    state.logger,
                )
            except (TypeError, ValueError, KeyError) as error:
                spec = next(spec for spec in decospecs if spec.partition(":")[0] == decorator.name)
                raise CompileError(f"--with {spec}: the decorator does not take these values: {error}") from None


def _read_step(state: Any, name: str, region: tuple[str, ...]) -> StepModel:
    node = state.graph[name]
    launchers = _launchers(state, name, node.decorators)
    user_code_retries, error_retries = _retries(state.flow.name, name, node.decorators)
    code_version, source_file, source_line = _source(getattr(state.flow.__class__, name))
    return StepModel(
        name=name,
        is_join=node.type == "join",
        in_steps=tuple(node.in_funcs),
        kind=_step_kind(node),
        out_steps=tuple(dict.fromkeys(node.out_funcs)),
        region=region,
        description=inspect.cleandoc(node.doc or ""),
        environment=_environment(state.flow.name, name, node.decorators),
        resources=_resources(node.decorators),
        launchers=launchers,
        compute=read_compute(node.decorators),
        user_code_retries=user_code_retries,
        error_retries=error_retries,
        retry_delay_seconds=_retry_delay_seconds(state.flow.name, name, node.decorators),
        timeout_seconds=next((d.secs for d in node.decorators if isinstance(d, TimeoutDecorator)), None),
        code_version=code_version,
        source_file=source_file,
        source_line=source_line,
        checks=_checks(node.decorators),
    )


def _source(step: Any) -> tuple[str | None, str | None, int | None]:
    """A digest of a step's source, its file and its first line; None of each if the source is not at hand."""
    try:
        lines, first_line = inspect.getsourcelines(step)
        file = inspect.getsourcefile(inspect.unwrap(step))
    except (OSError, TypeError):
        return None, None, None
    code_version = hashlib.sha256("".join(lines).encode()).hexdigest()[:CODE_VERSION_LENGTH]
    return code_version, None if file is None else os.path.abspath(file), first_line


def _step_kind(node: Any) -> Any:
    if node.parallel_foreach:
        return "parallel"
    return {"foreach": "foreach", "split-switch": "switch"}.get(node.type, "plain")


def _regions(graph: Any) -> dict[str, tuple[str, ...]]:
    """The foreach loops around each step, each by its first step, since several foreach steps can share that."""
    regions: dict[str, tuple[str, ...]] = {}
    for name in graph.sorted_nodes:
        node = graph[name]
        region = regions[node.in_funcs[0]] if node.in_funcs else ()
        if any(_step_kind(graph[in_step]) == "foreach" for in_step in node.in_funcs):
            region = (*region, name)
        elif node.type == "join" and _step_kind(graph[node.split_parents[-1]]) == "foreach":
            region = region[:-1]
        regions[name] = region
    return regions


def changes_launch(decorator: Any) -> bool:
    """Whether a decorator has the step launched by another command, in a process or on a system of its own."""
    return not isinstance(decorator, (EnvironmentDecorator, ParallelDecorator)) and any(
        getattr(type(decorator), hook, None) is not getattr(StepDecorator, hook, None) for hook in LAUNCH_HOOKS
    )


def _launchers(state: Any, step: str, decorators: Iterable[Any]) -> tuple[str, ...]:
    """The decorators that have a step launched in another way, all of which can be used.

    Raises:
        CompileError: They can't be used; names the decorator.
    """
    decorators = list(decorators)
    names_of_launchers = []
    for decorator in decorators:
        if not changes_launch(decorator) or getattr(decorator, "disabled", False):
            continue
        # Metaflow attaches a @conda for each @pypi, and the user has not written it
        names = {other.name for other in decorators if other.statically_defined}
        name = "pypi" if decorator.name == "conda" and "conda" not in names and "pypi" in names else decorator.name
        where = f"Step *{step}* of flow *{state.flow.name}* has the decorator @{name}"
        if decorator.name in ("conda", "pypi") and not _has_micromamba(state.environment):
            raise CompileError(
                f"{where}: Metaflow makes the step's environment by micromamba, which is not here. Install it, and set "
                "METAFLOW_PATH_TO_MICROMAMBA to its path where it is not on the PATH, also where the steps run."
            )
        if any(isinstance(other, ParallelDecorator) for other in decorators):
            raise CompileError(
                f"{where} and starts parallel tasks (num_parallel), which is not supported on Dagster: those of "
                "several nodes are started by the one that this decorator launches elsewhere. Use a foreach for them."
            )
        try:
            if decorator.package_init_ctx is not None:
                decorator.package_init_ctx(step)
            else:
                decorator.package_init(state.flow, step, state.environment)
        except MetaflowException as error:
            raise CompileError(f"{where}, which can't be used here: {error}") from None
        names_of_launchers.append(name)
    return tuple(names_of_launchers)


def _has_micromamba(environment: Any) -> bool:
    """Whether the environment of `@conda` and `@pypi` finds micromamba, which it would else load from the internet."""
    micromamba = getattr(environment, "solvers", {}).get("conda")
    return micromamba is None or getattr(micromamba, "_bin", "") is not None


def _retries(flow: str, step: str, decorators: list[Any]) -> tuple[int, int]:
    """User code retries and error retries, combined as `metaflow.runtime.Task` combines them."""
    counts = [decorator.step_task_retry_count() for decorator in decorators]
    if any(count == (None, None) for count in counts):
        return 0, 0
    user_code_retries = max((0, *(user for user, _ in counts)))
    error_retries = max((0, *(error for _, error in counts)))
    fallback = 1 if error_retries else 0
    if 1 + user_code_retries + fallback > MAX_ATTEMPTS:
        raise CompileError(
            f"Step *{step}* of flow *{flow}* asks for {user_code_retries} retries, but Metaflow holds at most "
            f"{MAX_ATTEMPTS} attempts of a task (the first one, its retries"
            f"{', and the fallback of @catch' if fallback else ''}). Lower the `times` of @retry to "
            f"{MAX_ATTEMPTS - 1 - fallback} or less."
        )
    return user_code_retries, min(error_retries, MAX_ATTEMPTS - 1 - user_code_retries)


def _retry_delay_seconds(flow: str, step: str, decorators: list[Any]) -> int:
    for decorator in decorators:
        if isinstance(decorator, RetryDecorator):
            minutes = decorator.attributes["minutes_between_retries"]
            try:
                return max(0, round(float(minutes) * 60))
            except (TypeError, ValueError):
                raise CompileError(
                    f"Step *{step}* of flow *{flow}*: @retry has minutes_between_retries={minutes!r}, "
                    "which is not a number."
                ) from None
    return 0


def _environment(flow: str, step: str, decorators: list[Any]) -> dict[str, str]:
    """The variables of all `@environment` decorators of a step, the later ones first in rank, as in Metaflow."""
    merged: dict[str, str] = {}
    for decorator in decorators:
        if not isinstance(decorator, EnvironmentDecorator):
            continue
        variables = decorator.attributes["vars"]
        if not hasattr(variables, "items"):
            raise CompileError(
                f"Step *{step}* of flow *{flow}*: @environment needs vars={{name: value}}, got {variables!r}."
            )
        for key, value in variables.items():
            where = f"Step *{step}* of flow *{flow}*, @environment variable {key!r}"
            if not isinstance(key, str) or not key or "=" in key or "\0" in key:
                raise CompileError(f"{where}: a name must be a non-empty string without '=' and NUL.")
            if value is not None and not isinstance(value, (str, int, float)):
                raise CompileError(
                    f"{where} is a {type(value).__name__}, but environment variables are strings. "
                    "Use json.dumps(...) for a structured value and json.loads(...) in the step."
                )
            if "\0" in str(value):
                raise CompileError(f"{where}: a value can't hold a NUL character.")
            merged[key] = str(value)
    return merged


def _resources(decorators: list[Any]) -> dict[str, str]:
    for decorator in decorators:
        if decorator.name == "resources":
            return {key: str(value) for key, value in decorator.attributes.items() if value is not None}
    return {}


def _checks(decorators: list[Any]) -> tuple[CheckModel, ...]:
    """The asset checks that the decorators of a step declare, in the order in which they stand above it."""
    return tuple(
        CheckModel(
            name=decorator.attributes["name"],
            blocking=bool(decorator.attributes["blocking"]),
            description=decorator.attributes["description"],
        )
        for decorator in reversed(decorators)
        if decorator.name == "dagster_check"
    )


def _read_parameter(flow: str, attribute: str, parameter: Any) -> ParameterModel:
    click_type = click.types.convert_type(parameter.kwargs.get("type"))
    is_file = isinstance(parameter, IncludeFile)
    multiple = bool(parameter.kwargs.get("multiple"))
    default = _default(flow, parameter, click_type, is_file=is_file, multiple=multiple)
    model = ParameterModel(
        name=parameter.name,
        kind="file" if is_file else _kind(click_type),
        multiple=multiple,
        separator=parameter.separator,
        required=bool(parameter.kwargs.get("required")),
        has_default=default is not None,
        default=default,
        help=parameter.kwargs.get("help"),
    )
    return model if attribute == model.usual_attribute else replace(model, attribute=attribute)


def _kind(click_type: Any) -> str:
    if click_type.name == "JSON":
        return "json"
    # bool before int: click's boolean type is no subclass of its integer type, but be explicit about the order
    for kind, types in (
        ("bool", click.types.BoolParamType),
        ("int", click.types.IntParamType),
        ("float", click.types.FloatParamType),
    ):
        if isinstance(click_type, types):
            return kind
    return "str"


def _default(flow: str, parameter: Any, click_type: Any, *, is_file: bool, multiple: bool) -> Any:
    """A parameter's default as a JSON value; deploy-time functions are called, as by Metaflow's deployers."""
    default = parameter.kwargs.get("default")
    if isinstance(default, DeployTimeField):
        # for an IncludeFile, deploy_time=True would upload the file now: `packaging` does, else each run reads it anew
        default = default(deploy_time=not is_file)
    if default is None or is_file:
        return default
    try:
        if multiple:
            converted = [click_type.convert(item, None, None) for item in default]
        elif parameter.separator and not isinstance(default, str):
            converted = list(default)
        else:
            converted = click_type.convert(default, None, None)
        json.dumps(converted)
    except (click.UsageError, TypeError, ValueError) as error:
        raise CompileError(
            f"Parameter *{parameter.name}* of flow *{flow}* has a default that does not fit its type: {error}"
        ) from None
    return converted


def _configs(state: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The values of the flow's `Config`s, as Metaflow's runner hands them to its tasks, and types that are lost."""
    configs, lost = {}, {}
    for name, (value, is_plain) in dump_config_values(state.flow).get("user_configs", {}).items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise CompileError(
                f"Config *{name}* of flow *{state.flow.name}* has a value that can't be written as JSON "
                f"({error}), so Metaflow can't hand it to the steps. Let its parser return plain values."
            ) from None
        others: dict[str, None] = {}
        # a list, as JSON makes of it: files of the first release have that
        configs[name] = [_builtin(value, others), is_plain]
        if others:
            lost[name] = ", ".join(others)
    return configs, lost


def _builtin(value: Any, others: dict[str, None]) -> Any:
    """A value that JSON can hold, made of Python's own types, for which there are literals.

    Args:
        value: The value.
        others: Takes the names of the other types in it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, dict):
        built: Any = {_builtin(key, others): _builtin(item, others) for key, item in value.items()}
    elif isinstance(value, (list, tuple)):
        built = (list if isinstance(value, list) else tuple)(_builtin(item, others) for item in value)
    elif isinstance(value, str):
        built = str.__str__(value)
    else:
        built = int(value) if isinstance(value, int) else float(value)
    if type(value) is not type(built):
        others[type(value).__name__] = None
    return built


def _top_level_args(state: Any, decospecs: tuple[str, ...]) -> tuple[str, ...]:
    """Metaflow's own options for each step, as `metaflow.runtime.CLIArgs` passes them on."""
    options: list[tuple[str, Any]] = [
        ("metadata", state.metadata.TYPE),
        ("environment", state.environment.TYPE),
        ("datastore", state.flow_datastore.TYPE),
        ("event-logger", state.event_logger.TYPE),
        ("monitor", state.monitor.TYPE),
    ]
    for decorator in flow_decorators(state.flow):
        # `--trigger` pretends that a run has triggered one that Metaflow's own runner begins
        options.extend((name, value) for name, value in decorator.get_top_level_options() if name != "trigger")
    # the same specs in the same order make the same decorators in each step as here
    options.extend(("with", spec) for spec in (*decospecs, *state.tl_decospecs, *DEFAULT_DECOSPECS.split()))
    args: list[str] = []
    for name, several in options:
        for value in several if isinstance(several, (list, tuple)) else [several]:
            if value is not None and value is not False:
                args.append(f"--{name}" if value is True else f"--{name}={value}")
    return tuple(args)


def _datastore_root(state: Any) -> str:
    root = state.flow_datastore.datastore_root
    return str(Path(root).resolve()) if state.flow_datastore.TYPE == "local" else root


def username() -> str:
    """Metaflow's user."""
    return str(get_username() or "dagster")


def _settings() -> tuple[dict[str, str], tuple[str, ...]]:
    """The settings that go into the file, and the names of those in use that must not."""
    baked: dict[str, str] = {}
    withheld: list[str] = []
    for name, value in config_values():
        if name in SECRET_SETTINGS or (name in BAKED_SETTINGS and looks_like_credential(name, value)):
            withheld.append(name)
        elif name in BAKED_SETTINGS:
            baked[name] = value
    if current.get("project_name"):
        # the user's branch of a @project stays that of whoever compiled, as with Metaflow's other schedulers
        baked["METAFLOW_OWNER"] = os.environ.get("METAFLOW_OWNER") or username()
    return dict(sorted(baked.items())), tuple(sorted(withheld))
