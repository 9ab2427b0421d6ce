"""The asset checks of a flow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.runtime.assets.specs import assets_of, upstream_assets

if TYPE_CHECKING:
    from metaflow_pipes.runtime.flow import MetaflowFlow

# The check that the flow has ended, where its last step has no asset that says so, and the output of that step's op.
FINISHED = "flow_finished"
FINISHED_OUTPUT = "metaflow_finished"


def check_results(context: dg.OpExecutionContext, flow: MetaflowFlow, step: str) -> list[dg.AssetCheckResult]:
    """The results of the checks that a step whose task is done has passed, in a run of assets that has selected them.

    Args:
        context: The context of the op that ran the task.
        flow: The flow.
        step: The step's name.
    """
    check = finished_check(flow) if step == flow.steps[-1].name else None
    if check is None or check.key not in context.selected_asset_check_keys:
        return []
    return [dg.AssetCheckResult(passed=True, check_name=check.name, asset_key=check.asset_key)]


def finished_check(flow: MetaflowFlow) -> dg.AssetCheckSpec | None:
    """The check that is passed when the flow has ended; None if its last step has an asset, or no step has one.

    Dagster runs what assets and their checks need, and nothing else: without the check, a run of assets would leave out
    the last steps of a flow that the translator gives no assets, and Metaflow's run would never be finished.
    """
    last, assets = flow.steps[-1], assets_of(flow)
    if last.name in assets or not assets:
        return None
    return dg.AssetCheckSpec(
        FINISHED,
        asset=upstream_assets(flow, last.name)[-1],
        description=f"The flow's run has gone on to its last step, {last.name}, which has no asset.",
    )
