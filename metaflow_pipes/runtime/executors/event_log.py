"""Connections to the event log of a run, which stay open while it runs."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.event_log import SqlEventLogStorageTable, SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from sqlalchemy import create_engine
from sqlalchemy.event import listen
from sqlalchemy.pool import NullPool, StaticPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg
    from sqlalchemy.engine import Connection, Engine


_INSERT_EVENT = SqlEventLogStorageTable.insert()
# The events that are kept in a database of all runs, too.
_MIRRORED_EVENTS = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
# How many connections to a Postgres event log a run holds at most, beside those of a moment. Threads that find none
# free open another one, which closes behind them.
POSTGRES_CONNECTIONS = 4


@contextlib.contextmanager
def event_log_kept_open(instance: dg.DagsterInstance) -> Iterator[None]:
    """Keep the connections to an event log in files of SQLite, or in Postgres, open as long as the context is."""
    storage: Any = instance.event_log_storage
    if isinstance(storage, SqliteEventLogStorage):
        keeper = _sqlite_kept_open(storage)
    elif type(storage).__module__.partition(".")[0] == "dagster_postgres":
        keeper = _postgres_kept_open(storage)
    else:
        keeper = contextlib.nullcontext()
    with keeper:
        yield


@contextlib.contextmanager
def _sqlite_kept_open(storage: SqliteEventLogStorage) -> Iterator[None]:
    # another run of this process may keep them open already
    if "_connect" in vars(storage):
        yield
        return
    kept = _KeptConnections(storage)
    storage._connect = kept.connect
    storage.store_event = kept.store_event
    try:
        yield
    finally:
        del storage.store_event
        del storage._connect
        kept.close()


@contextlib.contextmanager
def _postgres_kept_open(storage: Any) -> Iterator[None]:
    """Let Dagster's Postgres event log, which connects anew for each event, take its connections from a pool.

    Its `optimize_for_webserver` does the same, but keeps one connection only, and one that the server has closed fails
    the event that takes it: an hour may lie between two events of a run.
    """
    from dagster_postgres.utils import create_pg_engine  # pyright: ignore[reportMissingImports] - an extra

    before: Engine = storage._engine
    if not isinstance(before.pool, NullPool):
        yield
        return
    pooled = create_pg_engine(
        storage.postgres_url,
        storage._token_provider,
        isolation_level="AUTOCOMMIT",
        pool_size=POSTGRES_CONNECTIONS,
        max_overflow=-1,
        pool_pre_ping=True,
    )
    storage._engine = pooled
    try:
        yield
    finally:
        storage._engine = before
        pooled.dispose()


class _KeptConnections:
    """Connections to the databases of Dagster's SQLite event log.

    For each event, Dagster makes an engine and a connection. That compiles the statement anew, and at the end of the
    only connection SQLite clears its write-ahead log away: three quarters of the 2 ms that an event takes.

    Args:
        storage: The event log.
    """

    def __init__(self, storage: SqliteEventLogStorage):
        self._storage = storage
        self._engines: dict[str, Engine] = {}

    @contextlib.contextmanager
    def connect(self, shard: str) -> Iterator[Connection]:
        """Open a connection, in place of `SqliteEventLogStorage._connect`.

        Args:
            shard: The run whose database is meant, or the name of another database.
        """
        if shard not in self._storage._initialized_dbs:
            with SqliteEventLogStorage._connect(self._storage, shard) as connection:
                yield connection
            return
        with self._storage._db_lock:
            if shard not in self._engines:
                self._engines[shard] = self._engine(shard)
            with self._engines[shard].connect() as connection:
                sqlite: Any = connection.connection.driver_connection
                changes = sqlite.total_changes
                with connection.begin():
                    yield connection
                if sqlite.total_changes != changes:
                    # the UI watches the database's file, which would only be written to once in a while
                    with contextlib.suppress(OSError):
                        os.utime(self._storage.path_for_shard(shard))

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store an event, in place of `SqliteEventLogStorage.store_event`.

        Of ten events of a step, nine have no other place than their run's database. For each, Dagster makes a statement
        anew, which SQLAlchemy has to look at: as much work as to insert the event.
        """
        if event.is_dagster_event and event.dagster_event_type in _MIRRORED_EVENTS:
            SqliteEventLogStorage.store_event(self._storage, event)
            return
        with self._storage.run_connection(event.run_id) as connection:
            connection.execute(_INSERT_EVENT, self._storage._event_to_row(event))

    def _engine(self, shard: str) -> Engine:
        engine = create_engine(
            self._storage.conn_string_for_shard(shard),
            poolclass=StaticPool,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "check_same_thread": False},
        )
        if shard != INDEX_SHARD_NAME:
            listen(engine, "connect", _wait_for_no_disk)
        return engine

    def close(self) -> None:
        """Close the connections."""
        with self._storage._db_lock:
            for engine in self._engines.values():
                engine.dispose()


def _wait_for_no_disk(sqlite: Any, _: Any) -> None:
    """Let the write-ahead log reach the disk when the system sees fit, and not with each of a step's twelve events.

    What a killed process has written stays. If the machine itself fails, the last events of a run that dies with it may
    be missing; without such a log, SQLite would not promise that the rest is sound.
    """
    if sqlite.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        sqlite.execute("PRAGMA synchronous = NORMAL")
