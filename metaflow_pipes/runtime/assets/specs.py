"""The asset specs of a flow: one for each step that its translator gives an asset, with the flow's graph as lineage."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.assets.events import event_key
from metaflow_pipes.runtime.assets.translator import DagsterMetaflowTranslator

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow

# How many flows a process knows the assets of: a code location loads many, and a run needs those of one for each task.
MAX_KNOWN_FLOWS = 256


def asset_specs(flow: MetaflowFlow, events: Sequence[str] = ()) -> list[dg.AssetSpec]:
    """The specs of the assets of a flow.

    In definitions files of formats 1 and 2 they are external assets, which the runs of the job materialize.

    Args:
        flow: The flow.
        events: The names of the events that start it. Those assets that depend on no other depend on them.
    """
    specs = list(assets_of(flow).values())
    keys = [event_key(name) for name in events]
    return [spec if spec.deps or not keys else spec.replace_attributes(deps=keys) for spec in specs]


def partitions_def_of(flow: MetaflowFlow) -> dg.PartitionsDefinition | None:
    """The partitions of a flow's assets, which its job has, too; None if they have none.

    Raises:
        dagster.DagsterInvalidDefinitionError: Its steps have different ones.
    """
    return next((spec.partitions_def for spec in assets_of(flow).values()), None)


def asset_key_of(flow: MetaflowFlow, step: str) -> dg.AssetKey:
    """The key that a step's task reports its metadata for, also where the step has no asset."""
    assets = assets_of(flow)
    return assets[step].key if step in assets else dg.AssetKey([flow.deployment_name, step])


def assets_of(flow: MetaflowFlow) -> Mapping[str, dg.AssetSpec]:
    """The assets of the steps that have one, by the steps' names."""
    return _lineage(flow)[0]


def upstream_assets(flow: MetaflowFlow, step: str) -> list[dg.AssetKey]:
    """The assets before a step: those of the steps that it takes, or where one has none, those before that."""
    return _lineage(flow)[1][step]


@functools.lru_cache(maxsize=MAX_KNOWN_FLOWS)
def _lineage(flow: MetaflowFlow) -> tuple[Mapping[str, dg.AssetSpec], Mapping[str, list[dg.AssetKey]]]:
    """The assets of the steps that have one, and the assets before each step."""
    translator = flow.translator or DagsterMetaflowTranslator()
    specs: dict[str, dg.AssetSpec] = {}
    upstream: dict[str, list[dg.AssetKey]] = {}
    # for each step the assets that a step behind it depends on: its own, or those before it if it has none
    reached: dict[str, list[dg.AssetKey]] = {}
    for step in flow.steps:
        before = list(dict.fromkeys(key for name in step.upstream if name != step.name for key in reached[name]))
        upstream[step.name] = before
        if translator.includes(flow, step):
            specs[step.name] = translator.get_asset_spec(flow, step, before)
        reached[step.name] = [specs[step.name].key] if step.name in specs else before
    _check_partitions(flow, specs)
    return specs, upstream


def _check_partitions(flow: MetaflowFlow, specs: Mapping[str, dg.AssetSpec]) -> None:
    """Refuse steps whose assets have different partitions, or some none: one run makes them all.

    Raises:
        dagster.DagsterInvalidDefinitionError: They have.
    """
    for step, spec in specs.items():
        first, other = next(iter(specs.items()))
        if spec.partitions_def != other.partitions_def:
            raise dg.DagsterInvalidDefinitionError(
                f"The translator {type(flow.translator).__name__} gives the steps of flow {flow.name} different "
                f"partitions: {first} has {other.partitions_def or 'none'}, and {step} has "
                f"{spec.partitions_def or 'none'}. A run of the flow makes the assets of all steps, for one partition: "
                "let get_partitions_def return the same for each step."
            )
