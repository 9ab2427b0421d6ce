"""The asset specs of a flow: one for each step that its translator gives an asset, with the flow's graph as lineage."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import dagster as dg

    from metaflow_pipes.runtime.assets.translator import DagsterMetaflowTranslator
    from metaflow_pipes.runtime.flow import MetaflowFlow
    from metaflow_pipes.runtime.steps import MetaflowStep


def asset_specs(
    flow: MetaflowFlow, steps: Sequence[MetaflowStep], translator: DagsterMetaflowTranslator
) -> dict[str, dg.AssetSpec]:
    """The assets of the steps that have one, by the steps' names.

    Args:
        flow: The flow.
        steps: Its steps, each after those that it takes the tasks of.
        translator: Says how steps become assets.
    """
    specs: dict[str, dg.AssetSpec] = {}
    # for each step the assets that a step behind it depends on: its own, or those before it if it has none
    reached: dict[str, list[dg.AssetKey]] = {}
    for step in steps:
        upstream = list(dict.fromkeys(key for name in step.upstream if name != step.name for key in reached[name]))
        if translator.includes(flow, step):
            specs[step.name] = translator.get_asset_spec(flow, step, upstream)
        reached[step.name] = [specs[step.name].key] if step.name in specs else upstream
    return specs
