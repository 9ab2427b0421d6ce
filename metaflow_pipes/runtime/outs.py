"""The outputs of a generated op: what other ops take of its task, and what stands for the step's asset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.names import ASSET_OUTPUT, IO_RESOURCE
from metaflow_pipes.runtime.assets.checks import FINISHED_OUTPUT, check_outs, finished_check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow

RESULT = "result"


def step_outs(
    flow: MetaflowFlow, step: str, *, ways: Sequence[str] = (), emits_items: bool = False
) -> dict[str, dg.Out | dg.DynamicOut]:
    """The outputs of a step's op.

    Args:
        flow: The flow.
        step: The step's name.
        ways: For a switch outside of every foreach, the names of the outputs of which it chooses one.
        emits_items: Whether it has a dynamic output, one for each item of its foreach.
    """
    if emits_items:
        outs: dict[str, dg.Out | dg.DynamicOut] = {
            RESULT: dg.DynamicOut(str, is_required=False, io_manager_key=IO_RESOURCE)
        }
    elif ways:
        outs = {way: dg.Out(str, is_required=False, io_manager_key=IO_RESOURCE) for way in ways}
    else:
        # where nothing that is selected takes it, Dagster refuses it
        is_mapped = flow[step].materialized_by is not None
        outs = {RESULT: dg.Out(str, is_required=is_mapped, io_manager_key=IO_RESOURCE)}
    if flow[step].materialized_by is None:
        outs.update({ASSET_OUTPUT: asset_out(), **check_outs(flow, step)})
    if step == flow.steps[-1].name and finished_check(flow) is not None:
        outs[FINISHED_OUTPUT] = dg.Out(is_required=False, io_manager_key=IO_RESOURCE)
    return outs


def asset_out() -> dg.Out:
    """The output that stands for a step's asset: Metaflow's datastore has what is behind it."""
    return dg.Out(is_required=False, io_manager_key=IO_RESOURCE)
