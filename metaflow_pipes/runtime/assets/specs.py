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
    from metaflow_pipes.runtime.steps import MetaflowStep

# How many flows a process knows the assets of: a code location loads many, and a run needs those of one for each task.
MAX_KNOWN_FLOWS = 256


def asset_specs(flow: MetaflowFlow, events: Sequence[str] = ()) -> list[dg.AssetSpec]:
    """The specs of the assets of a flow.

    In definitions files of formats 1 and 2 they are external assets, which the runs of the job materialize.

    Args:
        flow: The flow.
        events: The names of the events that start it. Those assets that depend on no other of the flow depend on them.
    """
    keys = [event_key(name) for name in events]
    return [
        spec if upstream_assets(flow, step) or not keys else spec.replace_attributes(deps=[*spec.deps, *keys])
        for step, spec in assets_of(flow).items()
    ]


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


def dependencies_of(flow: MetaflowFlow, step: MetaflowStep) -> list[dg.AssetDep]:
    """The assets of others that a step depends on: as the translator says, and those that fill the parameters."""
    translator = flow.translator or DagsterMetaflowTranslator()
    filling = (
        [] if step.upstream else [dg.AssetKey.from_user_string(p.asset) for p in flow.parameters if p.asset is not None]
    )
    said = [dg.AssetKey.from_user_string(d) if isinstance(d, str) else d for d in translator.get_deps(flow, step)]
    deps = [dg.AssetDep.from_coercible(dep) for dep in [*said, *filling]]
    return list({dep.asset_key: dep for dep in reversed(deps)}.values())[::-1]


@functools.lru_cache(maxsize=MAX_KNOWN_FLOWS)
def _lineage(flow: MetaflowFlow) -> tuple[Mapping[str, dg.AssetSpec], Mapping[str, list[dg.AssetKey]]]:
    """The assets of the steps that have one, and the assets before each step."""
    translator = flow.translator or DagsterMetaflowTranslator()
    specs: dict[str, dg.AssetSpec] = {}
    upstream: dict[str, list[dg.AssetKey]] = {}
    # for each step the assets that a step behind it depends on: its own, or those before it if it has none
    reached: dict[str, dict[dg.AssetKey, dg.AssetKey | dg.AssetDep]] = {}
    for step in flow.steps:
        before = {key: dep for name in step.upstream if name != step.name for key, dep in reached[name].items()}
        own = {spec.key for spec in specs.values()}
        upstream[step.name] = [key for key in before if key in own]
        before.update({dep.asset_key: dep for dep in dependencies_of(flow, step) if dep.asset_key not in own})
        if translator.includes(flow, step):
            specs[step.name] = translator.get_asset_spec(flow, step, list(before.values()))
        key = specs[step.name].key if step.name in specs else None
        reached[step.name] = before if key is None else {key: key}
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
