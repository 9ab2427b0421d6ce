"""The assets of others that a flow depends on: what its steps wait for, and whose values fill its parameters."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.runtime.assets.specs import dependencies_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.parameters import MetaflowParameter

# How long the JSON of a value may be that fills a parameter, in characters: it travels on Metaflow's command line, in
# one argument, and Linux takes 128 KiB there.
MAX_VALUE_CHARACTERS = 100_000


@dataclass(frozen=True)
class AssetInput:
    """An input of the graph of a flow's assets.

    Attributes:
        op: The op that has it.
        name: Its name, for the graph and the op.
        asset: The key of the asset, as `AssetKey.to_user_string` writes it.
    """

    op: str
    name: str
    asset: str


def asset_inputs(flow: MetaflowFlow) -> list[AssetInput]:
    """The inputs by which the ops of a flow's assets wait for the assets of others that they depend on.

    None of them takes a value, for which Dagster wants to know the asset's definition: the flow's own definitions file
    does not have it.

    Args:
        flow: The flow.
    """
    return [
        AssetInput(step.op_name, f"{step.op_name}_after_{number}", dep.asset_key.to_user_string())
        for step in flow.steps
        for number, dep in enumerate(dependencies_of(flow, step))
    ]


def parameters_from_assets(context: dg.OpExecutionContext, flow: MetaflowFlow) -> dict[str, Any]:
    """The values of the parameters that assets fill (`create --param-from`), in the types of the run config.

    Args:
        context: The start op's context: of a run of assets, or of the job.
        flow: The flow.

    Raises:
        dagster.Failure: A value is also in the run config, can't be loaded, or is none that a parameter can have.
    """
    config = context.op_config or {}
    found = {}
    for parameter in flow.parameters:
        if parameter.asset is None:
            continue
        if config.get(parameter.name) is not None:
            raise _failure(
                flow,
                parameter,
                f"{config[parameter.name]!r} in the run config, and is filled by the asset, too. Leave it out of the "
                "run config, or compile the flow without that --param-from",
            )
        found[parameter.name] = _converted(flow, parameter, _loaded(context, flow, parameter))
    return found


def _converted(flow: MetaflowFlow, parameter: MetaflowParameter, value: Any) -> Any:
    """The value of an asset as that of a parameter, which Metaflow takes as text."""
    advice = "Let the asset write it to a file, and return the path"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
        raise _failure(flow, parameter, f"a {kind}, which JSON does not have. {advice}") from None
    if len(text) > MAX_VALUE_CHARACTERS:
        raise _failure(
            flow,
            parameter,
            f"{len(text):,} characters long as JSON, and a parameter can have {MAX_VALUE_CHARACTERS:,}. {advice}",
        )
    try:
        return parameter.converted(json.loads(text), "It")
    except ValueError as error:
        raise _failure(flow, parameter, f"of another type. {error}") from None


def _loaded(context: dg.OpExecutionContext, flow: MetaflowFlow, parameter: MetaflowParameter) -> Any:
    """The value of an asset, loaded by its own IO manager; of several partitions, a dict with their keys."""
    assert parameter.asset is not None
    key = dg.AssetKey.from_user_string(parameter.asset)
    try:
        graph = context.repository_def.asset_graph
    except Exception:  # an error of a private class, where there is no code location, as of `dagster.materialize`
        graph = context.job_def.asset_layer.asset_graph
    if not graph.has(key) or not graph.get(key).is_executable:
        raise _failure(
            flow,
            parameter,
            "not at hand: what the run was launched from does not define the asset. Load both in one code location "
            "(`dagster.Definitions.merge`), and launch the flow there",
        )
    definitions = dg.Definitions(assets=[asset for asset in graph.assets_defs if asset.is_executable])
    partitions = _partitions(context, flow, parameter, graph.get(key).partitions_def)
    try:
        values = {
            partition: definitions.load_asset_value(key, instance=context.instance, partition_key=partition)
            for partition in partitions
        }
    except Exception as error:  # the IO manager is the user's, which may raise anything
        raise _failure(
            flow, parameter, f"not to be had ({type(error).__name__}: {error}). Has it been materialized?"
        ) from error
    return values if len(values) > 1 else values[partitions[0]]


def _partitions(
    context: dg.OpExecutionContext,
    flow: MetaflowFlow,
    parameter: MetaflowParameter,
    partitions_def: dg.PartitionsDefinition | None,
) -> Sequence[str | None]:
    """The partitions of the asset that a run takes: of a run of assets as Dagster maps them, else its own."""
    if partitions_def is None:
        return [None]
    keys: Sequence[str] = [context.partition_key] if context.has_partition_key else []
    if context.has_assets_def:
        names = {given.asset: given.name for given in asset_inputs(flow)}
        keys = list(context.asset_partition_keys_for_input(names[parameter.asset or ""]))
    with dg.partition_loading_context(dynamic_partitions_store=context.instance):
        if keys and all(partitions_def.has_partition_key(key) for key in keys):
            return keys
    run = f"{', '.join(keys)} is none of them" if keys else "the run has none"
    raise _failure(
        flow,
        parameter,
        f"partitioned, and {run}. Materialize the flow's assets instead of launching its job: their partitions are "
        "mapped",
    )


def _failure(flow: MetaflowFlow, parameter: MetaflowParameter, problem: str) -> dg.Failure:
    return dg.Failure(
        f"Flow {flow.name} can't start: parameter {parameter.name} takes the value of asset {parameter.asset}, which "
        f"is {problem}.",
        allow_retries=False,
    )
