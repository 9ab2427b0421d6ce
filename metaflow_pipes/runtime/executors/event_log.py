"""Connections to the event log of a run, which stay open while it runs."""

from __future__ import annotations

import contextlib
import functools
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS, EVENT_TYPE_TO_PIPELINE_RUN_STATUS
from dagster._core.storage.event_log import SqlEventLogStorageTable, SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from sqlalchemy import create_engine
from sqlalchemy.dialects import sqlite
from sqlalchemy.event import listen
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

    import dagster as dg
    from sqlalchemy.engine import Connection, Engine


# The events that are kept in a database of all runs, too.
_MIRRORED_EVENTS = {*ASSET_EVENTS, *ASSET_CHECK_EVENTS, *EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
# How long to wait for a database that another process writes to; as long as newer releases of Dagster do.
BUSY_SECONDS = 30
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
    storage.store_event = functools.partial(_store_again_if_cut_off, storage)
    try:
        yield
    finally:
        del storage.store_event
        storage._engine = before
        pooled.dispose()


def _store_again_if_cut_off(storage: Any, event: dg.EventLogEntry) -> None:
    """Store an event in Postgres; once more, if the server closes the connection before it answers, as in a restart.

    Dagster tries to connect again and again, but an event that is on its way then would be lost.
    """
    store = type(storage).store_event
    try:
        store(storage, event)
    except DBAPIError as error:
        if not error.connection_invalidated:
            raise
        store(storage, event)


class _Database(NamedTuple):
    """One of the files of an event log: SQLAlchemy's engine, and the one connection that this has."""

    engine: Engine
    sqlite: sqlite3.Connection


class _KeptConnections:
    """Connections to the databases of Dagster's SQLite event log.

    For each event, Dagster makes an engine and a connection. That compiles the statement anew, and at the end of the
    only connection SQLite clears its write-ahead log away: three quarters of the 2 ms that an event takes.

    Args:
        storage: The event log.
    """

    def __init__(self, storage: SqliteEventLogStorage):
        self._storage = storage
        self._databases: dict[str, _Database] = {}

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
        with self._opened(shard) as database, database.engine.connect() as connection, connection.begin():
            yield connection

    def store_event(self, event: dg.EventLogEntry) -> None:
        """Store an event, in place of `SqliteEventLogStorage.store_event`.

        Of ten events of a step, nine have no other place than their run's database. For each, Dagster makes a statement
        anew, which SQLAlchemy has to look at: twice as much work as to insert the event.
        """
        is_mirrored = event.is_dagster_event and event.dagster_event_type in _MIRRORED_EVENTS
        if is_mirrored or event.run_id not in self._storage._initialized_dbs:
            SqliteEventLogStorage.store_event(self._storage, event)
            return
        row = self._storage._event_to_row(event)
        statement, converters = _insertion(tuple(row))
        values = [convert(row[column]) for column, convert in converters.items()]
        with self._opened(event.run_id) as database, database.sqlite:
            database.sqlite.execute(statement, values)

    @contextlib.contextmanager
    def _opened(self, shard: str) -> Iterator[_Database]:
        """Open a database, for this thread alone; others hear of what it has written."""
        with self._storage._db_lock:
            if shard not in self._databases:
                engine = self._engine(shard)
                connection: Any = engine.raw_connection().driver_connection
                self._databases[shard] = _Database(engine, connection)
            database = self._databases[shard]
            changes = database.sqlite.total_changes
            yield database
            if database.sqlite.total_changes != changes:
                # the UI watches the database's file, which would only be written to once in a while
                with contextlib.suppress(OSError):
                    os.utime(self._storage.path_for_shard(shard))

    def _engine(self, shard: str) -> Engine:
        engine = create_engine(
            self._storage.conn_string_for_shard(shard),
            poolclass=StaticPool,
            connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
        )
        if shard != INDEX_SHARD_NAME:
            listen(engine, "connect", _wait_for_no_disk)
        return engine

    def close(self) -> None:
        """Close the connections."""
        with self._storage._db_lock:
            for database in self._databases.values():
                database.engine.dispose()


@functools.cache
def _insertion(columns: tuple[str, ...]) -> tuple[str, dict[str, Callable[[Any], Any]]]:
    """The statement that inserts an event, and for each of its parameters what makes of a value one of SQLite."""
    dialect = sqlite.dialect()
    statement = SqlEventLogStorageTable.insert().compile(dialect=dialect, column_keys=columns)
    processors = {
        name: SqlEventLogStorageTable.c[name].type.dialect_impl(dialect).bind_processor(dialect)
        for name in statement.positiontup or ()
    }
    return str(statement), {name: processor or _as_it_is for name, processor in processors.items()}


def _as_it_is(value: Any) -> Any:
    return value


def _wait_for_no_disk(sqlite: Any, _: Any) -> None:
    """Let the write-ahead log reach the disk when the system sees fit, and not with each of a step's twelve events.

    What a killed process has written stays. If the machine itself fails, the last events of a run that dies with it may
    be missing; without such a log, SQLite would not promise that the rest is sound.
    """
    if sqlite.execute("PRAGMA journal_mode").fetchone() == ("wal",):
        sqlite.execute("PRAGMA synchronous = NORMAL")
