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
