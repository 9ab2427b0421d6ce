"""The assets of others that a flow depends on: `--depends-on` and `--param-from`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from metaflow_pipes.compile.option_values import check_list
from metaflow_pipes.compile.translator import refuse_said_twice
from metaflow_pipes.errors import CompileError

if TYPE_CHECKING:
    from metaflow_pipes.compile.flow_model import FlowModel
    from metaflow_pipes.compile.job_options import JobOptions


def dependencies_of(flow: FlowModel, options: JobOptions) -> dict[str | None, tuple[str, ...]]:
    """The assets that a flow depends on.

    Args:
        flow: The flow.
        options: What the user asks for.

    Returns:
        The keys for each step that has its own, and under None those of the flow's first assets.

    Raises:
        CompileError: There is no such step, no such key, or the translator says what the flow depends on, too.
    """
    check_list("depends_on", options.depends_on)
    if options.depends_on:
        refuse_said_twice(options, "--depends-on", "get_deps")
    steps = [step.name for step in flow.steps]
    found: dict[str | None, tuple[str, ...]] = {}
    for item in options.depends_on:
        step, separator, key = item.partition("=")
        if not separator:
            step, key = None, item
        elif step not in steps:
            raise CompileError(
                f"--depends-on {item} names the step {step}, which flow *{flow.name}* does not have. Its steps are "
                f"{', '.join(steps)}."
            )
        _check_key("--depends-on", item, key, flow)
        found[step] = tuple(dict.fromkeys([*found.get(step, ()), key]))
    return found


def with_asset_parameters(flow: FlowModel, options: JobOptions) -> FlowModel:
    """The flow, with the assets whose values fill its parameters.

    Args:
        flow: The flow.
        options: What the user asks for.

    Raises:
        CompileError: There is no such parameter or key, or something else gives the parameter its value, too.
    """
    given = options.param_from
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for item in given.items() for key in item):
        raise CompileError(f"param_from is {given!r}, but has to be a mapping of parameters to keys of assets.")
    assets: dict[str, str] = {}
    for name, key in given.items():
        parameter = flow.parameter(name, "--param-from")
        _check_key("--param-from", f"{name}={key}", key, flow)
        others = {
            "--schedule-param": options.schedule_parameters,
            **{
                f"@{trigger.decorator}": {n: None for event in trigger.events for n in event.parameters}
                for trigger in flow.triggers
            },
        }
        for what, parameters in others.items():
            if not {parameter.name, parameter.usual_attribute}.isdisjoint(parameters):
                raise CompileError(
                    f"--param-from {name}={key} and {what} of flow *{flow.name}* both give the parameter "
                    f"{parameter.name} its value. Use one of them."
                )
        assets[parameter.name] = key
    return replace(flow, parameters=tuple(replace(p, asset=assets.get(p.name)) for p in flow.parameters))


def _check_key(option: str, item: str, key: str, flow: FlowModel) -> None:
    """Check the key of an asset."""
    parts = key.split("/")
    if not all(part.strip() for part in parts):
        raise CompileError(
            f"{option} {item}: {key!r} is no key of an asset. Write its parts with slashes between them, as in "
            "raw/events."
        )
    if parts[0] == flow.deployment_name and parts[1:] in [[step.name] for step in flow.steps]:
        raise CompileError(
            f"{option} {item}: {key} is an asset of flow *{flow.name}* itself, whose steps depend on each other anyway."
        )
