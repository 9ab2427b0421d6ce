"""The partition of a run: what its tags say, and what it gives to the flow's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.errors import PartitionError
from metaflow_pipes.names import PARTITION_RANGE_END_TAG, PARTITION_RANGE_START_TAG, PARTITION_TAG, PARTITION_TAGS
from metaflow_pipes.runtime.assets.specs import partitions_def_of
from metaflow_pipes.runtime.partitions import RunPartition, check_partition, partition_of_key
from metaflow_pipes.runtime.run_options import inherited_tags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow


def partition_of(context: dg.OpExecutionContext, flow: MetaflowFlow) -> RunPartition | None:
    """The partition of an op's run, or of the run that it re-executes; None if it, or the flow, has none.

    Args:
        context: The op's context.
        flow: The flow.
    """
    definition = _definition(flow)
    if definition is None:
        return None
    tags = inherited_tags(context.instance, context.run, PARTITION_TAGS)
    if PARTITION_TAG in tags:
        return partition_of_key(definition, tags[PARTITION_TAG])
    if PARTITION_RANGE_START_TAG in tags:
        first = tags[PARTITION_RANGE_START_TAG]
        return partition_of_key(definition, first, tags.get(PARTITION_RANGE_END_TAG, first))
    return None


def partition_keys_of(context: dg.OpExecutionContext, flow: MetaflowFlow) -> Sequence[str]:
    """The keys of all partitions of an op's run; none if it has none. Of two dimensions, a key knows both.

    Args:
        context: The op's context.
        flow: The flow.
    """
    partition = partition_of(context, flow)
    if partition is None:
        return []
    definition = _definition(flow)
    if partition.first != partition.last and definition is not None:
        with dg.partition_loading_context(dynamic_partitions_store=context.instance):
            return definition.get_partition_keys_in_range(dg.PartitionKeyRange(partition.first, partition.last))
    return [dg.MultiPartitionKey(partition.dimensions) if partition.dimensions else partition.first]


def start_config(context: dg.OpExecutionContext, flow: MetaflowFlow, *, is_cloned: bool) -> dict[str, Any]:
    """The values of the flow's parameters: those of the start op's run config, and those that the partition fills.

    Args:
        context: The start op's context.
        flow: The flow.
        is_cloned: Whether another run's parameters are taken over, so that none of these need be there.

    Raises:
        dagster.Failure: There is no such partition; its key is no value of the parameter; or the run config has
            another value.
    """
    config = dict(context.op_config or {})
    if flow.partitions is None:
        return config
    partition = partition_of(context, flow)
    if partition is None:
        lacking = [p.name for p in flow.parameters if p.name in flow.partitions.filled and not p.has_default]
        lacking = [name for name in lacking if name not in config]
        if lacking and not is_cloned:
            raise _failure(
                flow,
                f"the run has no partition, whose key is the value of parameter {', '.join(lacking)}. Launch it with "
                "one, or with a value in its run config.",
            )
        return config
    try:
        check_partition(flow.partitions.definition, partition, context.instance)
        values = flow.partitions.values(partition, flow.parameters)
    except PartitionError as error:
        raise _failure(flow, str(error)) from None
    for name, value in values.items():
        if config.get(name) not in (None, value):
            raise _failure(
                flow,
                f"the run config gives the parameter {name} the value {config[name]!r}, and the run's partition "
                f"{partition} gives it {value!r}. Leave it out of the run config, or launch another partition.",
            )
    return {**config, **values}


def _definition(flow: MetaflowFlow) -> dg.PartitionsDefinition | None:
    """The partitions of a flow: those that fill parameters, or those that its translator says."""
    return partitions_def_of(flow) if flow.partitions is None else flow.partitions.definition


def _failure(flow: MetaflowFlow, problem: str) -> dg.Failure:
    return dg.Failure(f"Flow {flow.name} can't start: {problem}", allow_retries=False)
