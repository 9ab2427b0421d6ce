"""The sensor of `@trigger` and `@trigger_on_finish`: it starts a run for each event, or each set of events."""

from __future__ import annotations

import heapq
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import dagster as dg
from dagster import DefaultSensorStatus

from metaflow_pipes.errors import PartitionError
from metaflow_pipes.runtime.assets.events import DAGSTER_RUN_FIELD, PARTITION_FIELD, event_key, payload_of
from metaflow_pipes.runtime.automation.limits import runs_under_way, too_many
from metaflow_pipes.runtime.automation.resets import Resets
from metaflow_pipes.runtime.automation.run_triggers import TriggeringEvent, trigger_tags
from metaflow_pipes.runtime.automation.trigger_cursor import Occurrence, TriggerCursor, advance
from metaflow_pipes.runtime.partitions import check_partition, key_of, partition_of_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from metaflow_pipes.runtime.flow import MetaflowFlow

# How often Dagster looks for events; its daemon does so every 5 s at most.
INTERVAL_SECONDS = 5
# How much one tick does, which has to end within a minute: launching a run takes some 50 ms. The next tick goes on.
MAX_RUNS_PER_TICK = 100
MAX_EVENTS_PER_TICK = 500
PAGE = 200
# How many events that are refused the tick itself names; its log has all of them.
MAX_SHOWN_REFUSALS = 5


class _NamedEvent(TypedDict):
    name: str


class Event(_NamedEvent, total=False):
    """An event that a flow waits for.

    Attributes:
        name: Its name.
        parameters: For each parameter of the flow that it sets, the field of its payload.
        flow: The flow whose finished runs it stands for.
    """

    parameters: Mapping[str, str]
    flow: str


class ResetAt(TypedDict):
    """The times at which pending events are dropped.

    Attributes:
        cron: The cron expression, of five fields.
        timezone: The time zone.
    """

    cron: str
    timezone: str


def trigger_sensor(
    flow: MetaflowFlow,
    job: dg.JobDefinition,
    *,
    name: str,
    events: Sequence[Event],
    reset_at: ResetAt | None = None,
    max_concurrent_runs: int | None = None,
    paused: bool = False,
) -> dg.SensorDefinition:
    """The sensor that starts a run of a flow when all of its events have been published.

    A run of a job with partitions is of the partition that the events name: by the field of the parameter that its key
    fills, or else as that of the materialization which the event is.

    Args:
        flow: The flow.
        job: Its job.
        name: The sensor's name.
        events: The events.
        reset_at: When events that wait for others are dropped; None for never.
        max_concurrent_runs: While that many runs of the job are under way, no other is started, and events wait.
        paused: Whether the sensor is stopped until somebody starts it.
    """
    trigger = _Trigger(flow, job, tuple(events), reset_at, max_concurrent_runs)
    return dg.SensorDefinition(
        name=name,
        job=job,
        evaluation_fn=trigger.evaluate,
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=DefaultSensorStatus.STOPPED if paused else DefaultSensorStatus.RUNNING,
        description=f"Starts {job.name} when {' and '.join(event['name'] for event in events)} "
        f"{'has' if len(events) == 1 else 'have'} been published.",
    )


@dataclass(frozen=True)
class _Trigger:
    flow: MetaflowFlow
    job: dg.JobDefinition
    events: tuple[Event, ...]
    reset_at: ResetAt | None
    max_concurrent_runs: int | None

    def evaluate(self, context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        """One tick: what the events that have come since the last one start."""
        max_runs = MAX_RUNS_PER_TICK
        if self.max_concurrent_runs is not None:
            under_way = runs_under_way(context.instance, self.flow, self.job)
            full = too_many(self.job, under_way, self.max_concurrent_runs)
            if full is not None:
                return dg.SkipReason(f"{full} The events wait.")
            max_runs = min(max_runs, self.max_concurrent_runs - len(under_way))
        log = _EventLog(context.instance)
        refused: list[str] = []
        names = [event["name"] for event in self.events]
        before = TriggerCursor.from_json(context.cursor).of_events(names, self._start(log))
        after, runs = advance(
            before,
            log.unread(before),
            max_runs=max_runs,
            max_events=MAX_EVENTS_PER_TICK,
            accepts=lambda occurrence: self._accepts(context, log.payload(occurrence), occurrence, refused),
            last_reset=Resets(**self.reset_at).last_before if self.reset_at else _never,
            now=time.time(),
        )
        requests = [request for run in runs if (request := self._request(context, log, run, refused)) is not None]
        if requests:
            return dg.SensorResult(run_requests=requests, cursor=after.to_json())
        waits = [name for name in names if name not in {o.name for o in after.pending}]
        reason = "No event has come." if len(waits) == len(names) else f"Waiting for {', '.join(waits)}."
        reasons = [*refused[:MAX_SHOWN_REFUSALS], *([] if refused and not after.pending else [reason])]
        return dg.SensorResult(skip_reason="\n".join(reasons), cursor=after.to_json())

    def _start(self, log: _EventLog) -> Callable[[str], int]:
        """The place where the reading of a new event begins: with what was published since the flow was deployed."""
        try:
            deployed_at = Path(self.flow.definitions_file).stat().st_mtime
        except OSError:
            deployed_at = time.time()
        return lambda name: log.last_id_before(name, deployed_at)

    def _accepts(
        self,
        context: dg.SensorEvaluationContext,
        payload: Mapping[str, Any] | None,
        occurrence: Occurrence,
        refused: list[str],
    ) -> bool:
        """Whether an event can start a run; one that can't is refused for good, and the tick says why."""
        try:
            self._values(occurrence.name, payload or {})
        except ValueError as error:
            refused.append(f"Event {occurrence.name} ({occurrence.storage_id}) starts no run: {error}.")
            context.log.warning(refused[-1])
            return False
        return True

    def _values(self, name: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the parameters that an event sets.

        Raises:
            ValueError: A field has no value of its parameter's type, or a required parameter has none.
        """
        mapping = self._mapping(name)
        values: dict[str, Any] = {}
        for parameter in self.flow.parameters:
            if parameter.name not in mapping or parameter.name in self.flow.filled_parameters:
                continue
            event_field = mapping[parameter.name]
            value = payload.get(event_field)
            if value is not None:
                values[parameter.name] = parameter.converted(value, f"the event's field {event_field}")
            elif parameter.is_required:
                raise ValueError(
                    f"the flow requires the parameter {parameter.name}, and the event has no field {event_field}"
                )
        return values

    def _mapping(self, name: str) -> Mapping[str, str]:
        """For each parameter that an event sets, the field of its payload."""
        return next(event.get("parameters", {}) for event in self.events if event["name"] == name)

    def _partition(self, instance: dg.DagsterInstance, payloads: Mapping[str, Mapping[str, Any]]) -> str | None:
        """The key of the partition that events start; None if the job has none, or if nothing says which.

        Args:
            instance: The Dagster instance.
            payloads: The payloads of the events, by their names.

        Raises:
            PartitionError: They name no partition, or one that is not there.
        """
        definition = self.job.partitions_def
        if definition is None:
            return None
        dimensions = () if self.flow.partitions is None else self.flow.partitions.parameters
        keys: dict[str, str] = {}
        whole: str | None = None
        for name, payload in payloads.items():
            fields = {parameter: payload.get(field) for parameter, field in self._mapping(name).items()}
            keys.update({d: str(fields[d]) for d in dimensions if fields.get(d) is not None})
            whole = payload.get(PARTITION_FIELD, whole)
        key = key_of(keys) if dimensions and len(keys) == len(dimensions) else whole
        if key is None:
            if not dimensions:
                return None
            lacking = ", ".join(dimension for dimension in dimensions if dimension not in keys)
            raise PartitionError(
                f"no field sets the parameter {lacking}, which is the key of the run's partition, and there is no "
                f"field {PARTITION_FIELD}"
            )
        check_partition(definition, partition_of_key(definition, str(key)), instance)
        return str(key)

    def _request(
        self,
        context: dg.SensorEvaluationContext,
        log: _EventLog,
        run: tuple[Occurrence, ...],
        refused: list[str],
    ) -> dg.RunRequest | None:
        values: dict[str, Any] = {}
        payloads: dict[str, Mapping[str, Any]] = {}
        triggering: list[TriggeringEvent] = []
        for occurrence in run:
            payload = log.payload(occurrence)
            if payload is None:
                context.log.warning(
                    f"Event {occurrence.name} ({occurrence.storage_id}) has been deleted while it waited for others: "
                    "no run starts."
                )
                return None
            payloads[occurrence.name] = payload
            values.update(self._values(occurrence.name, payload))
            triggering.append(self._triggering(log, occurrence, payload))
        try:
            partition = self._partition(context.instance, payloads)
        except PartitionError as error:
            names = " and ".join(f"{o.name} ({o.storage_id})" for o in run)
            refused.append(f"Event {names} starts no run: {error}.")
            context.log.warning(refused[-1])
            return None
        known = {*values, *self.flow.filled_parameters}
        for parameter in self.flow.parameters:
            if parameter.name not in known and not parameter.has_default:
                values[parameter.name] = None
        config = {"ops": {self.flow.steps[0].op_name: {"config": values}}} if values else {}
        run_key = "+".join(f"{o.name}:{o.storage_id}" for o in run)
        tags = trigger_tags(triggering)
        return dg.RunRequest(run_key=run_key, run_config=config, tags=tags, partition_key=partition)

    def _triggering(self, log: _EventLog, occurrence: Occurrence, payload: Mapping[str, Any]) -> TriggeringEvent:
        is_run = any("flow" in event for event in self.events if event["name"] == occurrence.name)
        timestamp = payload.get("timestamp")
        return TriggeringEvent(
            name=occurrence.name,
            id=str(payload.get("id") or occurrence.storage_id),
            timestamp=timestamp if type(timestamp) is int else int(occurrence.timestamp),
            is_run=is_run,
            dagster_run_id=payload.get(DAGSTER_RUN_FIELD) if is_run else log.publisher(occurrence),
        )


class _EventLog:
    """The events in Dagster's event log, each of which is read once in a tick."""

    def __init__(self, instance: dg.DagsterInstance):
        self._instance = instance
        self._records: dict[int, dg.EventLogRecord] = {}

    def unread(self, cursor: TriggerCursor) -> Iterator[Occurrence]:
        """The occurrences that have not been read, of all events, by storage ids."""
        streams = [self._of(name, position.after) for name, position in cursor.positions.items()]
        return (o for o in heapq.merge(*streams) if not cursor.positions[o.name].has_read(o.storage_id))

    def last_id_before(self, name: str, timestamp: float) -> int:
        """The storage id of the last occurrence before a time; 0 if there is none."""
        filter_ = dg.AssetRecordsFilter(event_key(name), before_timestamp=timestamp)
        records = self._instance.fetch_materializations(filter_, limit=1).records
        return records[0].storage_id if records else 0

    def payload(self, occurrence: Occurrence) -> dict[str, Any] | None:
        """The fields of an occurrence; None if it is deleted."""
        record = self._record(occurrence)
        materialization = None if record is None else record.asset_materialization
        return None if materialization is None else payload_of(materialization)

    def publisher(self, occurrence: Occurrence) -> str | None:
        """The Dagster run in which an occurrence was published, or None."""
        record = self._record(occurrence)
        # Dagster gives what is published outside of runs a run id that is no run's
        return record.run_id if record is not None and self._instance.has_run(record.run_id) else None

    def _of(self, name: str, after: int) -> Iterator[Occurrence]:
        key = event_key(name)
        while True:
            filter_ = dg.AssetRecordsFilter(key, after_storage_id=after)
            page = self._instance.fetch_materializations(filter_, limit=PAGE, ascending=True)
            for record in page.records:
                self._records[record.storage_id] = record
                yield Occurrence(record.storage_id, name, record.timestamp)
            if len(page.records) < PAGE:
                return
            after = page.records[-1].storage_id

    def _record(self, occurrence: Occurrence) -> dg.EventLogRecord | None:
        if occurrence.storage_id not in self._records:
            filter_ = dg.AssetRecordsFilter(event_key(occurrence.name), storage_ids=[occurrence.storage_id])
            for record in self._instance.fetch_materializations(filter_, limit=1).records:
                self._records[record.storage_id] = record
        return self._records.get(occurrence.storage_id)


def _never(_: float) -> float:
    """No reset, before whatever time."""
    return 0.0
