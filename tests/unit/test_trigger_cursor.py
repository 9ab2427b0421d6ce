"""The memory of a trigger sensor: which events start runs, whatever the order in which they are seen."""

from __future__ import annotations

import pytest

from metaflow_pipes.runtime.automation.resets import Resets
from metaflow_pipes.runtime.automation.trigger_cursor import Occurrence, Position, TriggerCursor, advance


def read(cursor: TriggerCursor, *events: str, refused: str = "", **options):
    """The cursor and the runs, as storage ids, after events such as `a1`: the name and the storage id."""
    occurrences = [Occurrence(int(event[1:]), event[0], float(event[1:])) for event in events]
    settings = {"max_runs": 10, "max_events": 10, "now": 0.0, "last_reset": lambda _: 0.0, **options}
    after, runs = advance(
        cursor,
        [o for o in occurrences if not cursor.positions[o.name].has_read(o.storage_id)],
        accepts=lambda o: f"{o.name}{o.storage_id}" not in refused.split(),
        **settings,
    )
    return after, [[o.storage_id for o in run] for run in runs]


def waiting_for(names: str) -> TriggerCursor:
    return TriggerCursor().of_events(list(names), lambda _: 0)


@pytest.mark.parametrize(
    ("names", "events", "runs", "pending"),
    [
        ("a", "", [], []),
        ("a", "a1 a2 a3", [[1], [2], [3]], []),
        ("ab", "a1", [], [1]),
        ("ab", "a1 b2", [[1, 2]], []),
        ("ab", "a1 a2 b3", [[2, 3]], []),
        ("ab", "b1 a2 b3", [[1, 2]], [3]),
        ("ab", "a1 b2 a3 b4", [[1, 2], [3, 4]], []),
        ("abc", "c1 a2 c3 b4", [[2, 3, 4]], []),
    ],
)
def test_all_events_start_a_run_and_the_latest_of_each_counts(names, events, runs, pending):
    cursor, started = read(waiting_for(names), *events.split())

    assert started == runs
    assert [o.storage_id for o in cursor.pending] == pending
    assert TriggerCursor.from_json(cursor.to_json()) == cursor


def test_an_event_that_a_database_shows_late_is_read_once():
    cursor, runs = read(waiting_for("a"), "a5", "a7")
    assert runs == [[5], [7]]

    later = cursor.of_events(["a"], lambda _: 0)
    late = TriggerCursor({"a": Position(0, (5, 7))})
    assert read(late, "a5", "a6", "a7")[1] == [[6]]
    assert read(later, "a5", "a7", "a8")[1] == [[8]]


def test_what_is_behind_the_limits_is_read_by_the_next_tick():
    events = [f"a{number}" for number in range(1, 6)]

    cursor, runs = read(waiting_for("a"), *events, max_runs=2)
    assert runs == [[1], [2]]
    assert read(cursor, *events, max_events=1)[1] == [[3]]


def test_a_refused_event_neither_starts_a_run_nor_replaces_one_that_waits():
    assert read(waiting_for("ab"), "a1", "a2", "b3", refused="a2")[1] == [[1, 3]]


def test_a_reset_between_two_events_drops_the_first():
    def at_five(timestamp: float) -> float:
        return 5.0 if timestamp >= 5 else 0.0

    cursor, runs = read(waiting_for("ab"), "a1", "b9", last_reset=at_five)
    assert runs == []
    assert [o.storage_id for o in cursor.pending] == [9]
    assert read(waiting_for("ab"), "a6", "b9", last_reset=at_five)[1] == [[6, 9]]
    # also one that nothing has come after
    assert read(waiting_for("ab"), "a1", last_reset=at_five, now=8.0)[0].pending == ()


def test_a_deployment_that_waits_for_other_events_starts_with_those_that_are_new():
    cursor, _ = read(waiting_for("ab"), "a1", "b2", "a3")

    changed = cursor.of_events(["b", "c"], lambda _: 40)

    assert changed.positions == {"b": Position(2), "c": Position(40)}
    assert changed.pending == ()


@pytest.mark.parametrize("text", [None, "", "no JSON", "[]", '{"events": {"a": 1}}'])
def test_a_cursor_that_is_none_begins_anew(text):
    assert TriggerCursor.from_json(text) == TriggerCursor()


@pytest.mark.parametrize(
    ("timestamp", "reset"),
    [(86400.0, 86400.0), (86399.0, 0.0), (86400.0 + 3600, 86400.0)],
)
def test_the_last_reset_is_at_or_before_a_time(timestamp, reset):
    assert Resets("0 0 * * *", "UTC").last_before(timestamp) == reset
