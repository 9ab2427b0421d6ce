"""The asset checks of a flow, as its steps and its translator declare them."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.names import CHECK_OUTPUT_PREFIX, IO_RESOURCE
from metaflow_pipes.runtime.assets.specs import MAX_KNOWN_FLOWS, assets_of, upstream_assets
from metaflow_pipes.runtime.assets.translator import DagsterMetaflowTranslator

if TYPE_CHECKING:
    from collections.abc import Mapping

    from metaflow_pipes.runtime.flow import MetaflowFlow

# The check that the flow has ended, where its last step has no asset that says so, and the output of that step's op.
FINISHED = "flow_finished"
FINISHED_OUTPUT = "metaflow_finished"


@functools.lru_cache(maxsize=MAX_KNOWN_FLOWS)
def checks_of(flow: MetaflowFlow) -> Mapping[str, Mapping[str, dg.AssetCheckSpec]]:
    """The checks that are declared, by their names, for each step that has an asset.

    Raises:
        dagster.DagsterInvalidDefinitionError: The translator gives a step a check of another asset, or two of a name.
    """
    translator = flow.translator or DagsterMetaflowTranslator()
    checks: dict[str, dict[str, dg.AssetCheckSpec]] = {}
    for step, asset in assets_of(flow).items():
        checks[step] = {}
        for check in translator.get_check_specs(flow, flow[step]):
            where = f"get_check_specs of the translator {type(translator).__name__}, step {step} of flow {flow.name}"
            if check.asset_key != asset.key:
                raise dg.DagsterInvalidDefinitionError(
                    f"{where}: the check {check.name} is one of asset {check.asset_key.to_user_string()}. Let it be "
                    f"one of the step's own: asset=self.get_asset_key(flow, step), {asset.key.to_user_string()}."
                )
            if check.name in checks[step] or check.name == FINISHED:
                raise dg.DagsterInvalidDefinitionError(
                    f"{where}: the check {check.name} is there twice, or has the name of one that metaflow-pipes adds. "
                    "Give it another name."
                )
            checks[step][check.name] = check
    return checks


def blocking_checks(flow: MetaflowFlow, step: str) -> list[str]:
    """The names of the checks that let a step fail if they do."""
    return [check.name for check in checks_of(flow).get(step, {}).values() if check.blocking]


def asset_out() -> dg.Out:
    """The output that stands for an asset or a check: Metaflow's datastore has what is behind it."""
    return dg.Out(is_required=False, io_manager_key=IO_RESOURCE)


def check_outs(flow: MetaflowFlow, step: str) -> dict[str, dg.Out]:
    """The outputs that stand for the checks of a step: of its own op, or of that which collects its tasks."""
    return {output: asset_out() for output in _outputs(flow, step)}


def finished_outs(flow: MetaflowFlow, step: str) -> dict[str, dg.Out]:
    """The output of the flow's last step that stands for the check that it has ended, if there is that check."""
    is_last = step == flow.steps[-1].name
    return {FINISHED_OUTPUT: asset_out()} if is_last and finished_check(flow) is not None else {}


def declared_checks(flow: MetaflowFlow) -> dict[str, tuple[str, str, dg.AssetCheckSpec]]:
    """The checks of a flow's assets: the op and output of each, by the name of the output of the assets' graph."""
    found = {}
    for step, checks in checks_of(flow).items():
        op = flow[step].materialized_by or flow[step].op_name
        for output, check in zip(_outputs(flow, step), checks.values(), strict=True):
            found[f"{flow[step].op_name}__{output}"] = (op, output, check)
    finished = finished_check(flow)
    if finished is not None:
        found[FINISHED_OUTPUT] = (flow.steps[-1].op_name, FINISHED_OUTPUT, finished)
    return found


def _outputs(flow: MetaflowFlow, step: str) -> list[str]:
    return [f"{CHECK_OUTPUT_PREFIX}{name}" for name in checks_of(flow).get(step, {})]


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
