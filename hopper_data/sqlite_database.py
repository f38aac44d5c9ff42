"""SQLite: a file, or a database in memory."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import peewee
from playhouse.pool import PooledSqliteDatabase

from hopper_data.base_database import SQLITE, Database
from hopper_data.config import DatabaseConfig, DatabaseURL
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError
from hopper_data.sqlite_files import path_of, prepare_file
from hopper_data.sqlite_turns import CHECKPOINT_PAGES, FileConnection

__all__ = ["SqliteDatabase", "looked_too_early"]


class SqliteDatabase(Database, PooledSqliteDatabase):
    """A SQLite file, or a database in memory that every thread of the process shares."""

    dialect = SQLITE
    returning_clause = True

    def __init__(self, config: DatabaseConfig, url: DatabaseURL) -> None:
        path = url.database
        if not url.in_memory:
            path = str(path_of(path).absolute())
        self.in_memory = url.in_memory
        self._setup(config, url)
        super().__init__(
            path,
            returning_clause=True,
            lock_type="IMMEDIATE",
            regexp_function=True,
            max_connections=config.max_connections,
            check_same_thread=False,
            factory=sqlite3.Connection if url.in_memory else FileConnection,
        )
        # Not an argument above: the pool has one of the same name.
        self._timeout = config.busy_timeout_ms / 1000
        if url.in_memory:
            self._recycle_s = 0  # it is gone when its connection closes

    def _open(self) -> Any:
        if not self.in_memory:
            self._prepare_file()
        return super()._open()

    def is_missing(self) -> bool:
        return not self.in_memory and not path_of(self.database).exists()

    def _prepare_file(self) -> None:
        prepare_file(self.database, self.config)

    def _add_conn_hooks(self, conn: sqlite3.Connection) -> None:
        config = self.config
        conn.execute(f"PRAGMA busy_timeout = {config.busy_timeout_ms:d}")
        conn.execute(f"PRAGMA foreign_keys = {'ON' if config.foreign_keys else 'OFF'}")
        conn.execute(f"PRAGMA synchronous = {config.synchronous}")
        # Inside a transaction SQLite notes how to undo each statement, and opens a file for that
        # as soon as a write with its triggers has touched sixteen pages.
        conn.execute("PRAGMA temp_store = MEMORY")
        if isinstance(conn, FileConnection):
            conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
            self._set_journal_mode(conn, config.journal_mode)
            conn.in_wal = _journal_mode(conn) == "WAL"
        super()._add_conn_hooks(conn)

    def _set_journal_mode(self, conn: sqlite3.Connection, mode: str) -> None:
        if _journal_mode(conn) == mode.upper():
            return
        # SQLite does not call its busy handler for this pragma, so processes that open a new
        # file together must try again.
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                conn.execute(f"PRAGMA journal_mode = {mode}")
                return
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise
                time.sleep(0.005)

    def count_changes(self) -> int:
        connection = self._state.conn
        # An asynchronous connection wraps another one.
        return int(getattr(getattr(connection, "conn", connection), "total_changes", 0))

    def _run_statement(self, sql: str, params: Any, **options: Any) -> Any:
        self._check_transaction(self._state.conn, sql)
        try:
            return super()._run_statement(sql, params, **options)
        except peewee.OperationalError as error:
            if not looked_too_early(error):
                raise
            return super()._run_statement(sql, params, **options)

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        connection = self._state.conn
        if connection is None or self._is_watched():
            return super().fetch_all(sql, params)
        start = time.perf_counter()
        try:
            if not connection.in_transaction:
                return super().fetch_all(sql, params)
            rows: list[Any] = connection.execute(sql, params).fetchall()
        except sqlite3.Error:
            return super().fetch_all(sql, params)  # which says what is wrong
        self._note_time(sql, start)
        return rows

    def send(self, sql: str, params: Sequence[Any] = ()) -> Any:
        if self._guard.forbids_late:
            self._forbid_now()
        connection = self._state.conn
        if connection is None or self._is_watched():
            return super().send(sql, params)
        start = time.perf_counter()
        try:
            if not connection.in_transaction:
                return super().send(sql, params)
            cursor = connection.execute(sql, params)
        except sqlite3.Error as error:
            if looked_too_early(error):
                return super().send(sql, params)
            with translated(self):
                raise
        self._note_time(sql, start)
        return cursor

    def _check_transaction(self, connection: Any, sql: str) -> None:
        """A DatabaseError where SQLite has ended the transaction that `sql` is meant for."""
        if not self.in_transaction() or connection.in_transaction or sql.startswith("BEGIN"):
            return
        if not isinstance(self.top_transaction(), peewee._manual):
            # What is written now would stay, whatever becomes of the rest.
            raise DatabaseError("nothing more is done: an earlier error has ended this transaction")

    def begin(self, lock_type: str | None = None) -> None:
        self._guard.forbids_late = False
        if self._guard.forbids:
            self.allow_writes(before=False)  # the end of a read-only one was interrupted
        connection = self._state.conn or super().connection()
        if lock_type or not isinstance(connection, FileConnection):
            super().begin(lock_type)
            return
        try:
            connection.begin_in_turn(self.config.busy_timeout_ms)
        except sqlite3.Error:
            with translated(self):
                raise

    def commit(self) -> None:
        connection = self._state.conn
        if not isinstance(connection, sqlite3.Connection):
            super().commit()
            return
        try:
            connection.execute("COMMIT")
        except sqlite3.Error:
            with translated(self):
                raise
        if isinstance(connection, FileConnection):
            connection.note_end()

    def rollback(self) -> None:
        # SQLite ends the transaction by itself on some errors, such as a full disk.
        connection = self._state.conn
        with suppress(sqlite3.ProgrammingError):  # closed, which has rolled back
            if connection is not None and connection.in_transaction:
                super().rollback()

    def abandon(self) -> None:
        self._guard.forbids_late = False
        super().abandon()
        if self._guard.forbids:
            self.allow_writes(before=False)

    @contextmanager
    def sorting_on_disk(self) -> Iterator[None]:
        if self.in_memory:
            yield
            return
        self._keep_aside_in("FILE")
        try:
            yield
        finally:
            self._keep_aside_in("MEMORY")

    def _keep_aside_in(self, place: str) -> None:
        if self._state.conn is None:
            self.connect()
        # SQLite refuses where a transaction has made temporary tables, which would be lost.
        with suppress(sqlite3.Error):
            self._state.conn.execute(f"PRAGMA temp_store = {place}")

    def stream(self, sql: str, params: Any) -> Generator[Any, None, None]:
        with self.sorting_on_disk():  # it sorts before the first row
            rows = self.execute_sql(sql, params)
        yield from rows

    # SQLite prepares every statement of a connection anew when it is told to refuse writes, which
    # costs more than many a read. So it is told before the first statement that is not a read of
    # ours: what goes through `fetch_all()` writes nothing.

    def begin_read_only(self) -> Any:
        self.begin("DEFERRED")
        if not isinstance(self._state.conn, sqlite3.Connection):
            return self.forbid_writes()
        self._guard.forbids_late = True
        return _LATE

    def _forbid_now(self) -> None:
        if self._guard.forbids_late:
            self._guard.forbids_late = False
            self._guard.before = self.forbid_writes()

    def connection(self) -> Any:
        self._forbid_now()
        connection = super().connection()
        if isinstance(connection, FileConnection):
            connection.is_shown = True
            connection.wait_again(self.config.busy_timeout_ms)
        return connection

    def cursor(self, named_cursor: Any = None) -> Any:
        self._forbid_now()
        cursor = super().cursor(named_cursor)
        connection = self._state.conn  # which may have come just now, from the pool
        if isinstance(connection, FileConnection):
            connection.wait_again(self.config.busy_timeout_ms)
        return cursor

    def forbid_writes(self) -> Any:
        (before,) = self.execute_sql("PRAGMA query_only").fetchone()
        self._guard.forbids = True  # noted first, since an interrupt may come at any time
        self.execute_sql("PRAGMA query_only = ON")
        return before

    def allow_writes(self, before: Any) -> None:
        if before is not _LATE:
            self.execute_sql(f"PRAGMA query_only = {before:d}")
            self._guard.forbids = bool(before)
        elif self._guard.forbids_late:
            self._guard.forbids_late = False
        else:
            self.allow_writes(self._guard.before)

    def _can_reuse(self, conn: Any) -> bool:
        if self._guard.forbids:
            self._guard.forbids = False
            with suppress(sqlite3.ProgrammingError):  # closed
                conn.execute("PRAGMA query_only = OFF")
        try:
            if conn.in_transaction:
                conn.rollback()
        except sqlite3.Error:
            return False
        return True

    def _forget(self, connection: Any) -> None:
        # A database in memory goes with its connection, so that one is given back.
        self._close(connection, close_conn=not self.in_memory)

    def _take_back(self, connection: Any) -> None:
        # What its thread knew of it is gone with the thread.
        with suppress(sqlite3.ProgrammingError):  # closed
            connection.execute("PRAGMA query_only = OFF")
        super()._take_back(connection)

    def close_pool(self) -> None:
        super().close_pool()
        if not self.in_memory:
            return
        with self._pool_lock:
            self._closed_at = 0.0
            self._connections.clear()

    def _after_fork(self) -> None:
        connections = self._connections
        super()._after_fork()
        if self.in_memory:
            # The child has a copy of the whole database.
            self._connections = connections


_LATE = object()
"""In place of what `forbid_writes()` gives, which is then not known yet."""


def _journal_mode(connection: sqlite3.Connection) -> str:
    return str(connection.execute("PRAGMA journal_mode").fetchone()[0]).upper()


def looked_too_early(error: Exception) -> bool:
    """Whether SQLite may find the table that it missed when it is asked again.

    A statement whose trigger is the first of its connection to open the full-text index, after
    another connection has changed the schema, does not find its own table.
    """
    return str(error).startswith("no such table: ")
