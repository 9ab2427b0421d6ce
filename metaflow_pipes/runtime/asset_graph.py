"""The assets of a flow, made of the graph of its job: each can be materialized, alone or with others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import ASSET_OUTPUT
from metaflow_pipes.runtime.asset_run import op_tags
from metaflow_pipes.runtime.assets.checks import asset_out, declared_checks
from metaflow_pipes.runtime.assets.specs import asset_specs, assets_of
from metaflow_pipes.runtime.assets.upstream import AssetInput, asset_inputs
from metaflow_pipes.runtime.resources import RESOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow


def flow_assets(flow: MetaflowFlow, job: dg.JobDefinition, events: Sequence[str] = ()) -> list[dg.AssetsDefinition]:
    """The assets of a flow, which its job and Dagster's own asset jobs materialize.

    The asset of a step is an output of its op that no other op takes; of a step in a foreach, one of the op that
    collects its tasks. So Dagster, which cuts a graph where an asset is, runs all ops before those of the selected
    assets, too: those of steps that are not selected clone what an earlier run has done.

    Args:
        flow: The flow.
        job: Its job.
        events: The names of the events that start it. Those assets that depend on no other depend on them.

    Returns:
        One definition of all of them; none if the translator gives no step an asset.
    """
    specs = asset_specs(flow, events)
    if not specs:
        return []
    materialized = [step for step in flow.steps if step.name in assets_of(flow)]
    inputs = asset_inputs(flow)
    checks = declared_checks(flow)
    outputs = {step.op_name: (step.materialized_by or step.op_name, ASSET_OUTPUT) for step in materialized}
    outputs.update({name: (op, output) for name, (op, output, _) in checks.items()})
    return [
        dg.AssetsDefinition(
            node_def=_asset_graph(flow, job, inputs, outputs),
            keys_by_input_name={given.name: dg.AssetKey.from_user_string(given.asset) for given in inputs},
            keys_by_output_name={step.op_name: assets_of(flow)[step.name].key for step in materialized},
            check_specs_by_output_name={name: check for name, (_, _, check) in checks.items()},
            specs=specs,
            can_subset=True,
            backfill_policy=None if flow.partitions is None else flow.partitions.backfill_policy,
            resource_defs=RESOURCES,
        )
    ]


def _asset_graph(
    flow: MetaflowFlow, job: dg.JobDefinition, inputs: Sequence[AssetInput], outputs: Mapping[str, tuple[str, str]]
) -> dg.GraphDefinition:
    """The graph of the assets: that of the job with inputs and outputs.

    Args:
        flow: The flow.
        job: Its job.
        inputs: The assets that its ops wait for.
        outputs: For each output, the op and its output.
    """
    graph = job.graph
    definitions = {definition.name: definition for definition in graph.node_defs}
    without = {step.materialized_by for step in flow.steps if step.materialized_by and step.op_name not in outputs}
    start = flow.steps[0]
    dependencies = {}
    for invocation, own_dependencies in graph.dependencies.items():
        node = invocation.alias or invocation.name
        if node in without:
            del definitions[invocation.name]
            continue
        own_inputs = [given for given in inputs if given.op == node]
        if node == start.op_name or own_inputs:
            op = definitions.pop(invocation.name)
            assert isinstance(op, dg.OpDefinition)
            changed = _op_of_assets(op, flow if node == start.op_name else None, own_inputs)
            definitions[changed.name] = changed
            invocation = invocation._replace(name=changed.name)
        tags = {**invocation.tags, **op_tags(job, is_start=node == start.op_name)}
        dependencies[invocation._replace(alias=node, tags=tags)] = own_dependencies
    return dg.GraphDefinition(
        # without a description: Dagster would give it to each asset that has none of its own
        name=job.name,
        node_defs=list(definitions.values()),
        dependencies=dependencies,
        input_mappings=[
            dg.InputMapping(graph_input_name=given.name, mapped_node_name=given.op, mapped_node_input_name=given.name)
            for given in inputs
        ],
        output_mappings=[
            _AssetOutput(graph_output_name=name, mapped_node_name=node, mapped_node_output_name=output)
            for name, (node, output) in outputs.items()
        ],
    )


class _AssetOutput(dg.OutputMapping):
    """An output of the graph, with the IO manager of the op's.

    By Dagster's own mapping it has the IO manager of the code location, which a run of selected assets lacks where none
    of them needs it.
    """

    def get_definition(self, is_dynamic: bool) -> Any:
        """The output's definition, as Dagster asks a mapping for it."""
        del is_dynamic  # the output of a foreach's asset is that of the op that collects its tasks
        of_any: Any = dg.Any
        out = asset_out()
        return out.to_definition(of_any, self.graph_output_name, self.graph_output_description, out.code_version)


def _op_of_assets(op: dg.OpDefinition, flow: MetaflowFlow | None, inputs: list[AssetInput]) -> dg.OpDefinition:
    """An op as a run of assets has it: a start op may clone an earlier start, which needs no parameters.

    Args:
        op: The op of the job.
        flow: The flow, if it is the start op.
        inputs: The assets that it waits for.
    """
    return dg.OpDefinition(
        compute_fn=op.compute_fn,
        name=f"{op.name}__assets",
        description=op.description,
        ins={**op.ins, **{given.name: dg.In(dg.Nothing) for given in inputs}},
        outs=op.outs,
        config_schema={} if flow is None else flow.config_schema(is_optional=True),
        required_resource_keys=op.required_resource_keys,
        tags=op.tags,
        retry_policy=op.retry_policy,
        pool=op.pool,
    )
