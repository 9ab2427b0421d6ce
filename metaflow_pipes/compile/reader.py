"""Stage 1: Metaflow's live objects become a `FlowModel`. The only stage that knows Metaflow."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
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
from metaflow.metaflow_config import DEFAULT_DECOSPECS

from metaflow_pipes.compile.compute import read_compute
from metaflow_pipes.compile.flow_decorators import read_exit_hooks, read_schedule
from metaflow_pipes.compile.flow_model import FlowModel, StepModel
from metaflow_pipes.compile.flow_parameters import read_configs, read_parameter
from metaflow_pipes.compile.flow_triggers import read_triggers
from metaflow_pipes.compile.settings import read_settings, username
from metaflow_pipes.compile.step_decorators import (
    read_checks,
    read_environment,
    read_launchers,
    read_resources,
    read_retries,
    read_retry_delay_seconds,
    read_timeout_seconds,
)
from metaflow_pipes.errors import CompileError
from metaflow_pipes.locations import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterable


# How many hexadecimal digits tell the versions of a step's source apart.
CODE_VERSION_LENGTH = 16


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
    settings, withheld_settings = read_settings()
    configs, lost_config_types = read_configs(state)
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
            read_parameter(state.flow.name, attribute, parameter)
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
    launchers = read_launchers(state, name, node.decorators)
    user_code_retries, error_retries = read_retries(state.flow.name, name, node.decorators)
    code_version, source_file, source_line = _source(getattr(state.flow.__class__, name))
    return StepModel(
        name=name,
        is_join=node.type == "join",
        in_steps=tuple(node.in_funcs),
        kind=_step_kind(node),
        out_steps=tuple(dict.fromkeys(node.out_funcs)),
        region=region,
        description=inspect.cleandoc(node.doc or ""),
        environment=read_environment(state.flow.name, name, node.decorators),
        resources=read_resources(node.decorators),
        launchers=launchers,
        compute=read_compute(node.decorators),
        user_code_retries=user_code_retries,
        error_retries=error_retries,
        retry_delay_seconds=read_retry_delay_seconds(state.flow.name, name, node.decorators),
        timeout_seconds=read_timeout_seconds(node.decorators),
        code_version=code_version,
        source_file=source_file,
        source_line=source_line,
        checks=read_checks(node.decorators),
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
