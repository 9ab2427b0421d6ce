"""The events that have triggered a run: in its tags, and in what its steps and its page are told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from metaflow_pipes.names import (
    EVENT_TAG,
    TRIGGER_TAGS,
    TRIGGERED_BY_RUN_TAG,
    TRIGGERED_BY_TAG,
    TRIGGERS_TAG,
)
from metaflow_pipes.runtime.assets.events import event_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# An id comes from the publisher, and a tag is shown and kept with each run.
MAX_ID_CHARACTERS = 500


@dataclass(frozen=True)
class TriggeringEvent:
    """An event that triggers a run.

    Attributes:
        name: Its name.
        id: What its publisher calls it; of a finished run, the pathspec of its last task: `Flow/run_id/step/task_id`.
        timestamp: When it was published, in whole seconds since 1970.
        is_run: Whether it is a run that has finished.
        dagster_run_id: The Dagster run that has published it, or None.
    """

    name: str
    id: str
    timestamp: int
    is_run: bool
    dagster_run_id: str | None = None


def trigger_tags(events: Sequence[TriggeringEvent]) -> dict[str, str]:
    """The tags of a run that events trigger.

    Args:
        events: The events, the latest last.
    """
    triggers = [
        {
            "name": event.name,
            "id": event.id[:MAX_ID_CHARACTERS],
            "timestamp": event.timestamp,
            "type": "run" if event.is_run else "event",
        }
        for event in events
    ]
    tags = {TRIGGERS_TAG: json.dumps(triggers), EVENT_TAG: ", ".join(event.name for event in events)}
    runs = ["/".join(event.id.split("/")[:2]) for event in events if event.is_run]
    if runs:
        tags[TRIGGERED_BY_TAG] = ", ".join(runs)
    publishers = [event.dagster_run_id for event in events if event.dagster_run_id]
    if publishers:
        tags[TRIGGERED_BY_RUN_TAG] = publishers[-1]
    return tags


def triggers_of(context: dg.OpExecutionContext) -> list[dict[str, Any]]:
    """The events that have triggered an op's run, as Metaflow's `Trigger` takes them.

    Raises:
        dagster.Failure: The tag that says so is no list of events.
    """
    text = _tags(context).get(TRIGGERS_TAG, "")
    if not text:
        return []
    try:
        triggers = json.loads(text)
    except ValueError:
        triggers = None
    fields = {"name", "id", "timestamp", "type"}
    if not isinstance(triggers, list) or any(not isinstance(t, dict) or set(t) != fields for t in triggers):
        raise dg.Failure(
            f"The tag {TRIGGERS_TAG} of the run is {text!r}, which is no JSON list of events with the fields "
            f"{', '.join(sorted(fields))}. Launch the run without it, or correct it.",
            allow_retries=False,
        )
    return triggers


def link_to_triggers(context: dg.OpExecutionContext) -> None:
    """Let the run's page lead to what has triggered the run, and the page of an event to the runs that it has started.

    Args:
        context: The context of the run's first op, whose events are the first ones that the page shows.
    """
    triggers = triggers_of(context)
    if not triggers:
        return
    publisher = _tags(context).get(TRIGGERED_BY_RUN_TAG)
    for trigger in triggers:
        metadata: dict[str, Any] = {"id": str(trigger["id"])}
        if publisher is not None and trigger is triggers[-1]:
            metadata["published_by"] = dg.MetadataValue.dagster_run(publisher)
        description = f"Event {trigger['name']} has triggered run {context.run_id}."
        key = event_key(str(trigger["name"]))
        context.log_event(dg.AssetObservation(key, description=description, metadata=metadata))


def _tags(context: dg.OpExecutionContext) -> Mapping[str, str]:
    """The tags of an op's run that say what triggered it.

    Dagster's Python API does not hand tags down to re-executions: one that lacks them has those of the run that it
    re-executes.
    """
    run: dg.DagsterRun | None = context.run
    while run is not None:
        if TRIGGERS_TAG in run.tags:
            return {tag: value for tag, value in run.tags.items() if tag in TRIGGER_TAGS}
        run = None if run.parent_run_id is None else context.instance.get_run_by_id(run.parent_run_id)
    return {}
