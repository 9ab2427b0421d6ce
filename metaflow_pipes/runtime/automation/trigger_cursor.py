"""The memory of a trigger sensor: how far each event has been read, and which events wait for others."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, order=True)
class Occurrence:
    """An event that was published.

    Attributes:
        storage_id: Its place in Dagster's event log, in which all events have one order.
        name: The event's name.
        timestamp: When it was published, in seconds since 1970.
    """

    storage_id: int
    name: str
    timestamp: float


@dataclass(frozen=True)
class Position:
    """The place up to which an event has been read.

    Attributes:
        after: All occurrences up to this storage id have been read.
        seen: Storage ids above it that have been read. A database may show an id after a higher one, if two processes
            publish at once: so a tick reads again behind what the tick before it began with.
    """

    after: int
    seen: tuple[int, ...] = ()

    def caught_up(self) -> Position:
        """The position when what was seen last is old enough for lower ids to have come."""
        return Position(max((self.after, *self.seen)))

    def has_read(self, storage_id: int) -> bool:
        """Whether an occurrence has been read."""
        return storage_id <= self.after or storage_id in self.seen

    def past(self, storage_id: int) -> Position:
        """The position when an occurrence has been read, too."""
        return replace(self, seen=(*self.seen, storage_id))


@dataclass(frozen=True)
class TriggerCursor:
    """The state of a trigger sensor between two ticks.

    Attributes:
        positions: For each event how far it has been read.
        pending: The occurrences that wait for other events, at most one of each.
    """

    positions: Mapping[str, Position] = field(default_factory=dict)
    pending: tuple[Occurrence, ...] = ()

    def to_json(self) -> str:
        """The cursor as Dagster keeps it."""
        return json.dumps(
            {
                "events": {name: [position.after, list(position.seen)] for name, position in self.positions.items()},
                "pending": [[o.storage_id, o.name, o.timestamp] for o in self.pending],
            }
        )

    @classmethod
    def from_json(cls, text: str | None) -> TriggerCursor:
        """The cursor that Dagster has kept; an empty one if it has none, or one that somebody has broken."""
        try:
            kept: Any = json.loads(text or "{}")
            positions = {
                str(name): Position(int(after), tuple(map(int, seen)))
                for name, (after, seen) in kept.get("events", {}).items()
            }
            pending = tuple(Occurrence(int(i), str(name), float(at)) for i, name, at in kept.get("pending", []))
        except (AttributeError, TypeError, ValueError):
            return cls()
        return cls(positions, pending)

    def of_events(self, names: Sequence[str], start: Callable[[str], int]) -> TriggerCursor:
        """The cursor for the events that a deployment waits for now.

        Args:
            names: Their names.
            start: Says behind which storage id a new one is read.
        """
        positions = {
            name: self.positions[name].caught_up() if name in self.positions else Position(start(name))
            for name in names
        }
        return TriggerCursor(positions, tuple(o for o in self.pending if o.name in positions))


def advance(
    cursor: TriggerCursor,
    occurrences: Iterable[Occurrence],
    *,
    max_runs: int,
    max_events: int,
    accepts: Callable[[Occurrence], bool],
    last_reset: Callable[[float], float],
    now: float,
) -> tuple[TriggerCursor, list[tuple[Occurrence, ...]]]:
    """Read occurrences, and tell which of them start runs.

    A run starts when all events of the cursor have occurred. Of an event that occurs again while it waits for others,
    the latest occurrence counts, as on Argo Workflows.

    Args:
        cursor: The cursor.
        occurrences: The occurrences behind it, by storage ids.
        max_runs: How many runs may start; what is behind the last one stays unread.
        max_events: How many occurrences are read.
        accepts: Says whether an occurrence that is read counts.
        last_reset: Says when, at some time, the last reset was before. What was pending then is dropped.
        now: The present.

    Returns:
        The cursor behind what was read, and for each run the occurrences that start it, by storage ids.
    """
    positions = dict(cursor.positions)
    pending = {o.name: o for o in cursor.pending}
    runs: list[tuple[Occurrence, ...]] = []
    count = 0
    for occurrence in occurrences:
        if len(runs) == max_runs or count == max_events:
            break
        count += 1
        positions[occurrence.name] = positions[occurrence.name].past(occurrence.storage_id)
        if not accepts(occurrence):
            continue
        pending = _since(pending, last_reset(occurrence.timestamp))
        pending[occurrence.name] = occurrence
        if len(pending) == len(positions):
            runs.append(tuple(sorted(pending.values())))
            pending = {}
    pending = _since(pending, last_reset(now))
    return TriggerCursor(positions, tuple(sorted(pending.values()))), runs


def _since(pending: Mapping[str, Occurrence], reset: float) -> dict[str, Occurrence]:
    """The pending occurrences that a reset leaves."""
    return {name: o for name, o in pending.items() if o.timestamp >= reset}
