"""The partitions of a flow: which there are, and which parameters the key of a run's partition fills."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.errors import PartitionError
from metaflow_pipes.names import PARTITION_RANGE
from metaflow_pipes.partition_keys import known_keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from metaflow_pipes.runtime.parameters import MetaflowParameter

# What the Metaflow tags of a run begin with that say its partition.
METAFLOW_TAG = "partition"
# What stands between the keys of two dimensions.
_AND = "|"


@dataclass(frozen=True)
class RunPartition:
    """The partition of a run; or those of a run that makes several at once.

    Attributes:
        first: The key, or that of the first partition; of two dimensions, `2026-01-01|eu`, as Dagster writes it.
        last: The key of the last partition; the same as `first` for one partition.
        dimensions: Of a key with two dimensions, the key of each, by the dimension's name; else empty.
    """

    first: str
    last: str
    dimensions: Mapping[str, str]

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}{PARTITION_RANGE}{self.last}"

    @property
    def metaflow_tags(self) -> tuple[str, ...]:
        """The tags of the Metaflow run.

        `partition:KEY`; of several partitions, `partition:FIRST...LAST`; of two dimensions, a tag for each:
        `partition:date=2026-01-01` and `partition:region=eu`.
        """
        if self.dimensions:
            return tuple(f"{METAFLOW_TAG}:{name}={key}" for name, key in self.dimensions.items())
        return (f"{METAFLOW_TAG}:{self}",)


@dataclass(frozen=True)
class MetaflowPartitions:
    """The partitions of a flow, which its job and its assets have.

    Attributes:
        definition: The partitions. With two dimensions, these have the names of the parameters.
        parameters: The parameters that the key fills: one, or one for each dimension.
        format: The form in which a parameter gets the key of a time: as `strftime` takes it, applied to the begin of
            the partition, in its time zone. None is the key itself.
        range_end: The parameter that gets the key of the last partition of a run which makes several at once, while
            `parameters` has the one that gets that of the first; None if each run makes one.
    """

    definition: dg.PartitionsDefinition
    parameters: Sequence[str]
    format: str | None = None
    range_end: str | None = None

    @property
    def filled(self) -> tuple[str, ...]:
        """The names of all parameters that a key fills."""
        return (*self.parameters, *([] if self.range_end is None else [self.range_end]))

    @property
    def backfill_policy(self) -> dg.BackfillPolicy | None:
        """The backfill policy: all partitions in one run, or, by default, a run of each."""
        return None if self.range_end is None else dg.BackfillPolicy.single_run()

    def values(self, partition: RunPartition, parameters: Sequence[MetaflowParameter]) -> dict[str, Any]:
        """The values of the parameters that a partition fills.

        Args:
            partition: The partition, which exists.
            parameters: The flow's parameters.

        Raises:
            PartitionError: A key is no value of its parameter's type, or the flow takes no range of partitions.
        """
        if self.range_end is None and partition.first != partition.last:
            raise PartitionError(
                f"the run is of the partitions {partition}, and the flow takes one. Launch a run for each, or compile "
                "it with --partition-range START_PARAMETER,END_PARAMETER"
            )
        keys = {name: partition.dimensions.get(name, partition.first) for name in self.parameters}
        if self.range_end is not None:
            keys[self.range_end] = partition.last
        by_name = {parameter.name: parameter for parameter in parameters}
        try:
            return {
                name: by_name[name].converted(self._formatted(name, key), f"the partition's key {key!r}")
                for name, key in keys.items()
            }
        except ValueError as error:
            raise PartitionError(str(error)) from None

    def _formatted(self, parameter: str, key: str) -> str:
        """A key in the form in which its parameter gets it."""
        definition = self.definition
        if isinstance(definition, dg.MultiPartitionsDefinition):
            definition = definition.get_partitions_def_for_dimension(parameter)
        if self.format is None or not isinstance(definition, dg.TimeWindowPartitionsDefinition):
            return key
        return definition.time_window_for_partition_key(key).start.strftime(self.format)


def partition_of_key(definition: dg.PartitionsDefinition | None, first: str, last: str | None = None) -> RunPartition:
    """A partition by its key; or several, by the first and the last one.

    Args:
        definition: The partitions, or None if they are not known.
        first: The key.
        last: The key of the last one, or None for one partition.
    """
    dimensions = {}
    is_single = last in (None, first)
    # a key of another form is not among the partitions; who checks that says so
    if is_single and isinstance(definition, dg.MultiPartitionsDefinition) and first.count(_AND) == 1:
        dimensions = dict(definition.get_partition_key_from_str(first).keys_by_dimension)
    return RunPartition(first, first if last is None else last, dimensions)


def key_of(dimensions: Mapping[str, str]) -> str:
    """The key of a partition, of one or two dimensions.

    Args:
        dimensions: The key of each, by its name.
    """
    return _AND.join(dimensions[name] for name in sorted(dimensions))


def check_partition(definition: dg.PartitionsDefinition, partition: RunPartition, instance: dg.DagsterInstance) -> None:
    """Check that a partition exists.

    Args:
        definition: The partitions.
        partition: The one, or several, that there shall be.
        instance: The Dagster instance, which keeps the keys of dynamic partitions.

    Raises:
        PartitionError: There is none of that key; says which there are.
    """
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        for key in dict.fromkeys((partition.first, partition.last)):
            if not definition.has_partition_key(key):
                raise PartitionError(f"there is no partition {key!r}. {known_keys(definition.get_partition_keys())}")


def latest_keys(definition: dg.PartitionsDefinition, now: datetime, instance: dg.DagsterInstance | None) -> list[str]:
    """The keys of the partitions that a schedule runs: of time, the latest one that is over; of others, all of them.

    Args:
        definition: The partitions. Of two dimensions, each key of the one is combined with each of the other.
        now: The time at which the latest one is to be over.
        instance: The Dagster instance, which keeps the keys of dynamic partitions; None if none is needed.
    """
    with dg.partition_loading_context(effective_dt=now, dynamic_partitions_store=instance):
        if isinstance(definition, dg.MultiPartitionsDefinition):
            # in the order of the keys' dimensions
            dimensions = [_latest(dimension.partitions_def) for dimension in definition.partitions_defs]
            return [_AND.join(keys) for keys in itertools.product(*dimensions)]
        return _latest(definition)


def _latest(definition: dg.PartitionsDefinition) -> list[str]:
    if isinstance(definition, dg.TimeWindowPartitionsDefinition):
        last = definition.get_last_partition_key()
        return [] if last is None else [last]
    return list(definition.get_partition_keys())
