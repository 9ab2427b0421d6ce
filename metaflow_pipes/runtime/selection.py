"""A selection of a flow's assets: which steps their run runs, and which it clones from an earlier Metaflow run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from metaflow_pipes.runtime.assets.checks import FINISHED
from metaflow_pipes.runtime.assets.specs import assets_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    import dagster as dg

    from metaflow_pipes.runtime.flow import MetaflowFlow


@dataclass(frozen=True)
class Selection:
    """The steps that a run of some of a flow's assets runs, and those that it clones.

    Attributes:
        runs: The steps that run: those whose assets or checks are selected, and those without an asset behind them.
        clones: The steps before those, which are cloned.
        upstream: For each step of both, the steps that it takes.
    """

    runs: frozenset[str]
    clones: tuple[str, ...]
    upstream: Mapping[str, tuple[str, ...]]


def selection_of(context: dg.OpExecutionContext, flow: MetaflowFlow) -> Selection | None:
    """The selection of an op's run; None if that runs the whole flow, or is a run of the job.

    Args:
        context: The op's context.
        flow: The flow.
    """
    if not context.has_assets_def:
        return None
    # a check is made by the code of its step; that the flow has ended is made by its end
    checked = {check.asset_key for check in context.selected_asset_check_keys if check.name != FINISHED}
    keys = checked.union(context.selected_asset_keys)
    return selection(flow, [step for step, spec in assets_of(flow).items() if spec.key in keys])


def selection(flow: MetaflowFlow, selected: Collection[str]) -> Selection | None:
    """The selection of a run of a flow's assets; None if all are selected.

    A step without an asset can't be selected. It runs if a step runs whose tasks it takes; its data would else be
    others than what the next asset's are made of.

    Args:
        flow: The flow.
        selected: The steps whose assets are selected.
    """
    assets = assets_of(flow)
    if len(selected) == len(assets):
        return None
    runs = set(selected)
    for step in flow.steps:
        if step.name not in assets and runs.intersection(step.upstream):
            runs.add(step.name)
    needed = flow.with_steps_before(selected)
    return Selection(
        runs=frozenset(runs),
        clones=tuple(step.name for step in flow.steps if step.name in needed - runs),
        upstream={step.name: tuple(step.upstream) for step in flow.steps if step.name in needed},
    )
