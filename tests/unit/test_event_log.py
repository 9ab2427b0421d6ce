"""The connections of a run to its event log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
import pytest
from dagster._core.storage.event_log import SqliteEventLogStorage

from metaflow_pipes.runtime.executors.event_log import event_log_kept_open

if TYPE_CHECKING:
    from pathlib import Path

NORMAL, FULL = 1, 2


@pytest.mark.parametrize(("journal", "synchronous"), [("wal", NORMAL), ("delete", FULL)])
def test_only_a_write_ahead_log_of_a_run_is_left_to_the_system_to_bring_to_the_disk(
    tmp_path: Path, journal: str, synchronous: int
) -> None:
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:
        storage = instance.event_log_storage
        assert isinstance(storage, SqliteEventLogStorage)
        for opened in (storage.run_connection("a-run"), storage.index_connection()):
            with opened as connection:
                connection.exec_driver_sql(f"PRAGMA journal_mode = {journal}")
        with event_log_kept_open(instance):
            found = []
            for opened in (storage.run_connection("a-run"), storage.index_connection()):
                with opened as connection:
                    found.append(connection.exec_driver_sql("PRAGMA synchronous").scalar())
    assert found == [synchronous, FULL]


def test_an_event_is_stored_as_by_dagster(tmp_path: Path) -> None:
    columns = "run_id, event, dagster_event_type, typeof(timestamp), length(timestamp), step_key, asset_key, partition"
    with dg.instance_for_test(temp_dir=str(tmp_path)) as instance:

        def stored() -> list[tuple[object, ...]]:
            with instance.event_log_storage.run_connection("a-run") as connection:
                query = f"SELECT {columns}, timestamp > '2020-01-01 00:00:00.000000' FROM event_logs ORDER BY id"
                return [tuple(row) for row in connection.exec_driver_sql(query)]

        event = dg.DagsterEvent("STEP_START", "AJob", step_key="a_step", message="It starts: \N{SNOWMAN}")
        entries = [
            dg.EventLogEntry(
                error_info=None,
                level=10,
                user_message="said",
                run_id="a-run",
                timestamp=1_795_000_000.125,
                job_name="AJob",
                step_key="a_step",
                dagster_event=dagster_event,
            )
            for dagster_event in (event, None)
        ]
        for entry in entries:
            instance.event_log_storage.store_event(entry)
        by_dagster = stored()
        with event_log_kept_open(instance):
            for entry in entries:
                instance.event_log_storage.store_event(entry)
            assert stored() == [*by_dagster, *by_dagster]
        assert list(instance.all_logs("a-run")) == [*entries, *entries]
