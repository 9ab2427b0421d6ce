"""The outputs of a generated op: what other ops take of its task, and what stands for the step's asset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from metaflow_pipes.names import ASSET_OUTPUT, IO_RESOURCE, RESULT_OUTPUT
from metaflow_pipes.runtime.assets.checks import asset_out, check_outs, finished_outs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow


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
            RESULT_OUTPUT: dg.DynamicOut(str, is_required=False, io_manager_key=IO_RESOURCE)
        }
    elif ways:
        outs = {way: dg.Out(str, is_required=False, io_manager_key=IO_RESOURCE) for way in ways}
    else:
        # where nothing that is selected takes it, Dagster refuses it
        is_mapped = flow[step].materialized_by is not None
        outs = {RESULT_OUTPUT: dg.Out(str, is_required=is_mapped, io_manager_key=IO_RESOURCE)}
    if flow[step].materialized_by is None:
        outs.update({ASSET_OUTPUT: asset_out(), **check_outs(flow, step)})
    return {**outs, **finished_outs(flow, step)}
