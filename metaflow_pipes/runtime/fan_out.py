"""Ops that run no task: they collect the tasks of mapped steps, for their assets or to emit them anew."""

import functools
from collections.abc import Iterator, Mapping

import dagster as dg

from metaflow_pipes.names import ASSET_OUTPUT, IO_RESOURCE
from metaflow_pipes.runtime.assets.check_results import mapped_check_results
from metaflow_pipes.runtime.assets.checks import asset_out, check_outs
from metaflow_pipes.runtime.assets.materializations import materialize_mapped
from metaflow_pipes.runtime.flow import MetaflowFlow
from metaflow_pipes.runtime.places import in_order, indices, items_of, parse_way

_ORDER = {"upstream": dg.In(dg.Nothing)}
# without a schema, Dagster takes anything: a parameter under the wrong op would be lost
_helper_op = functools.partial(dg.op, config_schema={})


def _io_manager_key(flow: MetaflowFlow | None) -> str | None:
    """The resource that hands on what a helper op puts out.

    Args:
        flow: The flow; None in definitions files of formats 1 and 2, whose jobs have Dagster's own IO manager alone.
    """
    return None if flow is None else IO_RESOURCE


def gather(name: str, *, flow: MetaflowFlow | None = None) -> dg.OpDefinition:
    """An op that passes the tasks of one mapped step on as one string.

    Args:
        name: The op's name.
        flow: The flow, since format 3.
    """
    out = dg.Out(str, io_manager_key=_io_manager_key(flow))

    @_helper_op(name=name, description="Collects the tasks of a mapped step.", out=out)
    def gather_tasks(upstream: list[str]) -> str:
        return ";".join(in_order(upstream))

    return gather_tasks


def collect(name: str, *, flow: MetaflowFlow, step: str) -> dg.OpDefinition:
    """An op that materializes the asset of a mapped step when all of its tasks are done.

    It loads nothing of them: that would be an event for each.

    Args:
        name: The op's name.
        flow: The flow.
        step: The step's name.
    """
    description = f"Materializes the asset of step {step}."
    outs = {ASSET_OUTPUT: asset_out(), **check_outs(flow, step)}

    @_helper_op(name=name, description=description, ins=_ORDER, out=outs)
    def collect_tasks(context: dg.OpExecutionContext) -> Iterator[dg.Output[str] | dg.AssetCheckResult]:
        yield from materialize_mapped(context, flow, step)
        yield from mapped_check_results(context, flow, step)

    return collect_tasks


def fan_out(name: str, *, flow: MetaflowFlow | None = None) -> dg.OpDefinition:
    """An op that emits the items of the foreach splits of a mapped step, under the mapping keys `outer_inner`.

    Args:
        name: The op's name.
        flow: The flow, since format 3.
    """
    out = dg.DynamicOut(str, io_manager_key=_io_manager_key(flow))

    @_helper_op(name=name, description="Emits the items of a foreach within a foreach.", out=out)
    def fan_out_items(upstream: list[str]) -> Iterator[dg.DynamicOutput[str]]:
        for split in in_order(upstream):
            for item, index in items_of(split):
                yield dg.DynamicOutput(item, mapping_key="_".join([*map(str, indices(split)), index]))

    return fan_out_items


def regroup(name: str, depth: int, *, flow: MetaflowFlow | None = None) -> dg.OpDefinition:
    """An op that emits the tasks of mapped steps again, together those of the same outer items.

    Args:
        name: The op's name.
        depth: How many indices tell the outer items.
        flow: The flow, since format 3.
    """
    out = dg.DynamicOut(str, io_manager_key=_io_manager_key(flow))

    @_helper_op(name=name, description="Brings the tasks of the same foreach items together.", out=out)
    def regroup_tasks(upstream: list[str]) -> Iterator[dg.DynamicOutput[str]]:
        groups: dict[tuple[int, ...], list[str]] = {}
        for unit in in_order(upstream):
            groups.setdefault(indices(unit)[:depth], []).append(unit)
        for group, units in groups.items():
            yield dg.DynamicOutput(";".join(units), mapping_key="_".join(map(str, group)))

    return regroup_tasks


def route(name: str, outputs: Mapping[str, str], *, flow: MetaflowFlow | None = None) -> dg.OpDefinition:
    """An op that emits the tasks of a mapped switch again, under the output of the step that each goes on to.

    Args:
        name: The op's name.
        outputs: For each step that the switch can go on to, the name of the output.
        flow: The flow, since format 3.
    """
    outs = dict.fromkeys(outputs.values(), dg.DynamicOut(str, io_manager_key=_io_manager_key(flow)))

    @_helper_op(name=name, description="Sends the items of a foreach the way that they take at a switch.", out=outs)
    def route_tasks(context: dg.OpExecutionContext, upstream: list[str]) -> Iterator[dg.DynamicOutput[str]]:
        selected = context.selected_output_names
        for unit in in_order(upstream):
            task, step = parse_way(unit)
            if outputs[step] in selected:
                yield dg.DynamicOutput(task, "_".join(map(str, indices(task))), output_name=outputs[step])

    return route_tasks
