"""Events as materializations of assets, with the payload as metadata: how they are written, and how they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import event_path
from step_wrapper import wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

# The metadata that are a value of JSON. Of others, such as tables, an event has no field.
_VALUES = (
    dg.TextMetadataValue,
    dg.IntMetadataValue,
    dg.FloatMetadataValue,
    dg.BoolMetadataValue,
    dg.JsonMetadataValue,
    dg.NullMetadataValue,
    dg.UrlMetadataValue,
    dg.PathMetadataValue,
    dg.MarkdownMetadataValue,
    dg.TimestampMetadataValue,
    dg.DagsterRunMetadataValue,
)
# The field that a partition's name is in, unless the metadata have one of that name.
PARTITION_FIELD = "partition"
# The field of a finished run's event that leads to the Dagster run.
DAGSTER_RUN_FIELD = "dagster_run_id"


def event_key(name: str) -> dg.AssetKey:
    """The asset of an event.

    Args:
        name: The event's name; `asset:` and a key such as `raw/events` for any other asset.
    """
    return dg.AssetKey(event_path(name))


def event_materialization(name: str, payload: Mapping[str, Any]) -> dg.AssetMaterialization:
    """An event, as Dagster keeps it.

    Args:
        name: The event's name.
        payload: Its fields: JSON values.
    """
    return dg.AssetMaterialization(event_key(name), metadata=dict(payload))


def payload_of(materialization: dg.AssetMaterialization) -> dict[str, Any]:
    """The fields of an event: the metadata of a materialization, and its partition, if it has one."""
    payload: dict[str, Any] = {}
    if materialization.partition is not None:
        payload[PARTITION_FIELD] = materialization.partition
    for field, entry in materialization.metadata.items():
        if isinstance(entry, _VALUES):
            payload[field] = entry.value
    return payload


def publisher(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> Callable[[Any], bool]:
    """A function that publishes the event that a custom Pipes message of an op's step holds, if it holds one.

    Args:
        context: The context of the op.

    Returns:
        The function. It says whether there was an event.
    """

    def publish(message: Any) -> bool:
        event = wire.event_in(message)
        if event is not None:
            context.log_event(event_materialization(*event))
        return event is not None

    return publish


def publish_rest(context: dg.OpExecutionContext, messages: Iterable[Any]) -> None:
    """Publish the events among the custom messages of a step that a message reader of the user's has read."""
    publish = publisher(context)
    for message in messages:
        publish(message)
