"""The proxy that the models are bound to, and the databases it can stand for.

`proxy`, `connect()` and `using()` say which database the models mean; `create_database()` makes
one.
"""

from __future__ import annotations

import logging
import os
import re
import sqlite3
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any, cast
from uuid import uuid4

import peewee
from playhouse.pool import PoolConnection, PooledPostgresqlDatabase, PooledSqliteDatabase

from hopper_data.base_database import POSTGRESQL, SQLITE, Database
from hopper_data.config import (
    DEFAULT_URL,
    MEMORY,
    Backend,
    DatabaseConfig,
    DatabaseURL,
    Environment,
)
from hopper_data.driver_errors import translated
from hopper_data.errors import (
    DatabaseError,
    DatabaseUnavailable,
    ValidationError,
)
from hopper_data.libpq import copy_text, hung_up, keep_text, libpq_parameters
from hopper_data.pool import in_time, watchdog
from hopper_data.ready import ReadyStatements
from hopper_data.sqlite_files import path_of, prepare_file
from hopper_data.sqlite_turns import CHECKPOINT_PAGES, FileConnection
from hopper_data.statements import LEADING, control_word

__all__ = [
    "Database",
    "PostgresqlDatabase",
    "SqliteDatabase",
    "connect",
    "create_database",
    "proxy",
    "using",
]

logger = logging.getLogger("hopper_data")

# -- databases ------------------------------------------------------------------------------------


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

    def _outlived(self, entry: PoolConnection) -> bool:
        # A database in memory is gone when its connection closes.
        return not self.in_memory and super()._outlived(entry)

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
        if getattr(self._guard, "forbids_late", False):
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
        connection = self._state.conn or super().connection()
        if lock_type or not isinstance(connection, FileConnection):
            super().begin(lock_type)
            return
        with translated(self):
            connection.begin_in_turn(self.config.busy_timeout_ms)

    def commit(self) -> None:
        connection = self._state.conn
        if not isinstance(connection, sqlite3.Connection):
            super().commit()
            return
        with translated(self):
            connection.execute("COMMIT")
        if isinstance(connection, FileConnection):
            connection.note_end()

    def rollback(self) -> None:
        # SQLite ends the transaction by itself on some errors, such as a full disk.
        connection = self._state.conn
        with suppress(sqlite3.ProgrammingError):  # closed, which has rolled back
            if connection is not None and connection.in_transaction:
                super().rollback()

    @contextmanager
    def sorting_on_disk(self) -> Iterator[None]:
        # SQLite refuses where a transaction has made temporary tables, which would be lost.
        with suppress(DatabaseError):
            self.execute_sql("PRAGMA temp_store = FILE")
        try:
            yield
        finally:
            with suppress(DatabaseError):
                self.execute_sql("PRAGMA temp_store = MEMORY")

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
        if getattr(self._guard, "forbids_late", False):
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
        if getattr(self._guard, "forbids", False):
            self._guard.forbids = False
            with suppress(sqlite3.ProgrammingError):  # closed
                conn.execute("PRAGMA query_only = OFF")
        return bool(super()._can_reuse(conn))

    def close_pool(self) -> None:
        super().close_pool()
        if not self.in_memory:
            return
        with self._pool_lock:
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


_WRITES = re.compile(LEADING + r"(INSERT|UPDATE|DELETE|WITH|MERGE)\b", re.IGNORECASE)
ISOLATION, READ_COMMITTED = "default_transaction_isolation", "read committed"
_STREAM_ROWS = 1000
_PLAIN_BEGIN = "BEGIN; "
_COPY_BYTES = 2**18


def is_write(sql: str) -> bool:
    """Whether a statement may change rows."""
    return _WRITES.match(sql) is not None


class PostgresqlDatabase(Database, PooledPostgresqlDatabase):
    """A PostgreSQL database.

    A statement that PostgreSQL refuses spoils its whole transaction; SQLite undoes the statement
    alone. So that a caller who handles a refusal can go on on both, each statement inside a
    transaction stands behind a savepoint. It travels in the same round trip as the statement, and
    is released together with the next one; reads that follow each other share one. The first
    statement needs none, since nothing is lost when its transaction begins again. That is too late
    for a text that does not even parse: `statement_guard()` sends a savepoint ahead.

    The server keeps a `KeyedStatement` ready, so that it is read and planned once for a connection.
    """

    dialect = POSTGRESQL
    keeps_ready = True
    """Whether the server can keep statements ready."""
    reads_early = False
    """Whether transactions are READ COMMITTED, so that reads before the first write need none."""

    def __init__(self, config: DatabaseConfig, url: DatabaseURL) -> None:
        self._setup(config, url)
        self._ready = ReadyStatements(enabled=self.keeps_ready)
        super().__init__(
            url.database or url.user or "postgres",
            max_connections=config.max_connections,
            **libpq_parameters(config, url),
        )

    def _open(self) -> Any:
        limit_s = self.config.connect_timeout_s
        try:
            connection = in_time(limit_s, super()._open, self._close_raw)
        except TimeoutError:
            raise self._silent(limit_s) from None
        # JSON arrives as text on every driver, and the field parses it.
        from psycopg2.extras import register_default_json, register_default_jsonb

        register_default_json(connection, loads=keep_text)
        register_default_jsonb(connection, loads=keep_text)
        if connection.get_parameter_status("TimeZone") not in ("UTC", "Etc/UTC"):
            # Where a day begins, and what the years 1 and 9999 are, must not depend on the server.
            connection.cursor().execute("SET TIME ZONE 'UTC'")
        cursor = connection.cursor()
        cursor.execute(f"SHOW {ISOLATION}")
        self.reads_early = cursor.fetchone() == (READ_COMMITTED,)
        return connection

    def statement_guard(self) -> AbstractContextManager[Any]:
        return cast("AbstractContextManager[Any]", self.savepoint())

    def _run_statement(self, sql: str, params: Any, **options: Any) -> Any:
        if not self._state.transactions:
            return super()._run_statement(sql, params, **options)
        word, begin = control_word(sql), self._take_begin()
        number, ahead = (None, self._close_guard(word)) if word else self._next_guard(begin)
        try:
            cursor = super()._run_statement(begin + ahead + sql, params, **options)
        except peewee.PeeweeException:
            self._undo_statement(number, begin)
            raise
        if number is not None:
            self._set_guard(number)
        return cursor

    def send(self, sql: str, params: Sequence[Any] = ()) -> Any:
        state = self._state
        if not state.transactions or state.conn is None or self._is_watched():
            return super().send(sql, params)
        start = time.perf_counter()
        begin = self._take_begin()
        number, ahead = self._next_guard(begin)
        try:
            cursor = state.conn.cursor()
            self._ready.execute(cursor, begin + ahead, sql, params)
        except Exception as error:
            self._undo_statement(number, begin)
            if self._ready.must_repeat(state.conn, error, sql):
                return self.send(sql, params)
            with translated(self):
                raise
        self._set_guard(number)
        self._note_time(sql, start)
        return cursor

    copies = True

    def copy_rows(self, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        sql = f"COPY {table} ({columns}) FROM STDIN"
        document = BytesIO(copy_text(rows).encode())
        begin = self._take_begin()
        number, ahead = self._next_guard(begin)
        start = time.perf_counter()
        self._log_query(sql, None)
        try:
            cursor = self._state.conn.cursor()
            cursor.execute(begin + ahead)
            cursor.copy_expert(sql, document, _COPY_BYTES)
        except Exception:
            self._undo_statement(number, begin)
            with translated(self):
                raise
        self._set_guard(number)
        self._log_statement(sql, start)
        self._notify_hooks(sql, None, start, None)

    def _next_guard(self, begin: str) -> tuple[int, str]:
        """The number of the next guard, and what makes it; 0 where its transaction begins."""
        if begin:
            return 0, ""
        # A new name each time: were the savepoint not made, because the statement does not even
        # parse, returning to an older one would undo the write before.
        last = self._guard_number
        release = f"RELEASE SAVEPOINT hopper_{last}; " if self._guard_open else ""
        return last + 1, f"{release}SAVEPOINT hopper_{last + 1}; "

    def _set_guard(self, number: int, *, is_open: bool = True) -> None:
        self._guard.number, self._guard.open = number, is_open and number > 0
        self._guard.covers_reads = False

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        state = self._state
        # Before anything else, a read of ours needs no transaction: each statement of one would see
        # the data anew all the same.
        early = self.reads_early and getattr(self._guard, "begin", "") == _PLAIN_BEGIN
        covered = early or self._guard_covers_reads
        if not (state.transactions and covered) or self._is_watched():
            rows = super().fetch_all(sql, params)
            # What follows, until something is written again, needs no savepoint of its own.
            self._guard.covers_reads = bool(state.transactions) and self._guard_open
            return rows
        start = time.perf_counter()
        try:
            cursor = state.conn.cursor()
            self._ready.execute(cursor, "", sql, params)
            rows = cast("list[Any]", cursor.fetchall())
        except Exception as error:
            if not early:
                self._undo_statement(self._guard_number)
            if self._ready.must_repeat(state.conn, error, sql):
                return self.fetch_all(sql, params)
            with translated(self):
                raise
        self._note_time(sql, start)
        return rows

    def _close_guard(self, word: str) -> str:
        """Release the open guard before a caller's savepoint, which it would otherwise enclose."""
        was_open = self._guard_open
        self._set_guard(self._guard_number, is_open=False)
        encloses = was_open and word in ("SAVEPOINT", "SET")
        return f"RELEASE SAVEPOINT hopper_{self._guard_number}; " if encloses else ""

    def _undo_statement(self, number: int | None, begin: str = "") -> None:
        connection = self._state.conn
        if connection is None or connection.closed:
            return
        if self._adapter.txn_status(connection) == self._adapter.txn_idle:
            self._guard.begin = begin  # nothing of it was done
        if (number is None and not begin) or self.is_connection_usable():
            return  # in the last case the driver did not even send it
        self._set_guard(self._guard_number, is_open=False)
        back = "ROLLBACK" if begin else f"ROLLBACK TO SAVEPOINT hopper_{number}"
        try:
            connection.cursor().execute(back)
        except Exception as error:  # noqa: BLE001  # of the driver, which is not imported here
            # Without the traceback, which would show the statement that was refused.
            logger.debug("nothing to return to in %s: %s", self.label, type(error).__name__)
        else:
            self._guard.begin = begin
            self._set_guard(number or 0)
            self._guard.covers_reads = not begin

    def has_lost_connection(self) -> bool:
        connection = self._state.conn
        return hasattr(connection, "fileno") and hung_up(connection)

    def _has_hung_up(self, conn: Any) -> bool:
        return hung_up(conn)

    # A server may be silent, and libpq has no limit once it is connected.
    def _is_closed(self, conn: Any) -> bool:
        if conn.closed:
            return True
        # Half of the time, so that a session that finds no answer has failed within all of it.
        limit_s = self.config.connect_timeout_s / 2
        if not limit_s:
            return bool(super()._is_closed(conn))
        with watchdog.watch(conn.fileno(), limit_s) as call:
            closed = bool(super()._is_closed(conn))
        if call.overdue:
            raise self._silent(limit_s)
        return closed

    def _can_reuse(self, conn: Any) -> bool:
        # The driver knows; rolling back would ask the server.
        return bool(self._adapter.txn_status(conn) == self._adapter.txn_idle)

    def _silent(self, limit_s: float) -> DatabaseUnavailable:
        return DatabaseUnavailable(f"{self.label} did not answer within {limit_s:g} s")

    @property
    def _guard_number(self) -> int:
        return getattr(self._guard, "number", 0)

    @property
    def _guard_open(self) -> bool:
        return getattr(self._guard, "open", False)

    @property
    def _guard_covers_reads(self) -> bool:
        """Whether nothing was written since the savepoint was made."""
        return getattr(self._guard, "covers_reads", False)

    # A transaction begins together with its first statement, which saves a round trip, or not at
    # all when there are only reads of ours.

    def begin(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            self._set_guard(0, is_open=False)
            super().begin(*args, **kwargs)
        else:
            self._begin_late(_PLAIN_BEGIN)

    def _begin_late(self, statement: str) -> None:
        self.connection()
        if self._may_be_lost():
            raise DatabaseUnavailable(f"{self.label}: the connection was lost before it was used")
        self._set_guard(0, is_open=False)
        self._guard.begin = statement

    def _take_begin(self) -> str:
        """The BEGIN that has to travel now, if any."""
        begin: str = getattr(self._guard, "begin", "")
        self._guard.begin = ""
        return begin

    def _begin_now(self) -> None:
        begin = self._take_begin()
        if begin:
            with translated(self):
                self._state.conn.cursor().execute(begin)

    def connection(self) -> Any:
        self._begin_now()
        return super().connection()

    def cursor(self, named_cursor: Any = None) -> Any:
        self._begin_now()
        return super().cursor(named_cursor)

    def rollback(self) -> None:
        if not self._take_begin():
            super().rollback()

    def commit(self) -> None:
        if self._take_begin():
            return
        connection = self._state.conn
        if connection is None:
            super().commit()  # which says what is wrong
            return
        if connection.closed or self._may_be_lost():
            raise DatabaseUnavailable(f"{self.label}: the connection was lost before the commit")
        if not self.is_connection_usable():
            # PostgreSQL answers COMMIT with a silent ROLLBACK here.
            raise DatabaseError(
                "nothing was committed: an earlier error has ended this transaction"
            )
        try:
            with translated(self):
                connection.cursor().execute("COMMIT")
        except DatabaseUnavailable as error:
            if getattr(error.__cause__, "pgcode", None):
                raise  # the server said why it did not commit
            raise self._commit_unanswered() from error.__cause__

    def _commit_unanswered(self) -> DatabaseUnavailable:
        return DatabaseUnavailable(
            f"{self.label}: the connection was lost during the commit; whether the transaction "
            "was committed is not known",
            retryable=False,
        )

    def stream(self, sql: str, params: Any) -> Generator[Any, None, None]:
        name = f"hopper_stream_{uuid4().hex}"
        self.execute_sql(f"DECLARE {name} NO SCROLL CURSOR FOR {sql}", params)
        transaction = self._state.transactions[0]
        try:
            while rows := self.execute_sql(f"FETCH {_STREAM_ROWS} FROM {name}").fetchall():
                yield from rows
        finally:
            # It may have gone already, with its transaction or with a savepoint.
            if transaction in self._state.transactions and self.is_connection_usable():
                with suppress(DatabaseError):
                    self.execute_sql(f"CLOSE {name}")

    def begin_read_only(self) -> None:
        self._begin_late("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ")

    def forbid_writes(self) -> None:
        # It ends with the savepoint.
        self.execute_sql("SET TRANSACTION READ ONLY")


@cache
def _cockroach_class() -> type[PostgresqlDatabase]:
    from playhouse.cockroachdb import CockroachDatabase as PeeweeCockroach

    class CockroachDatabase(PostgresqlDatabase, PeeweeCockroach):
        """A CockroachDB cluster: PostgreSQL's protocol, with Peewee's own adjustments."""

        copies = False
        keeps_ready = False

        def begin_read_only(self) -> None:
            self.execute_sql("BEGIN READ ONLY")

    return CockroachDatabase


def create_database(
    url: str | DatabaseConfig | None = None, *, echo: bool = False, **settings: Any
) -> Database:
    """A database of its own: from a URL, from a `DatabaseConfig`, or as the environment says.

    `echo=True` logs every statement at INFO on the logger `hopper_data`; `settings` are fields of
    `DatabaseConfig`. No connection is opened yet.
    """
    if echo:
        settings["echo"] = True
    if isinstance(url, DatabaseConfig):
        config = replace(url, **settings)
    else:
        config = DatabaseConfig.from_env(url=url, **settings)
    parsed = config.parsed_url
    if parsed.backend is Backend.SQLITE:
        if parsed.in_memory:
            # One connection, in turns: a second one would see an empty database.
            config = replace(config, max_connections=1, pool_size=1)
        return SqliteDatabase(config, parsed)
    if parsed.backend is Backend.COCKROACHDB:
        return _cockroach_class()(config, parsed)
    return PostgresqlDatabase(config, parsed)


# -- the proxy ------------------------------------------------------------------------------------

_current: ContextVar[tuple[Database, ...]] = ContextVar("hopper_data_databases", default=())
_default_lock = threading.Lock()


class ContextProxy(peewee.DatabaseProxy):
    """Stands for the database of the present context, and for the default one outside of any.

    `using()` and every session set the context's database, so that two threads, or two tasks of
    an event loop, work on two databases with the same models.
    """

    __slots__ = ("_default", "_implicit_key")

    def __init__(self) -> None:
        self._callbacks: list[Any] = []
        self._default: Database | None = None
        self._implicit_key: tuple[str | None, ...] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    @property
    def obj(self) -> Database:
        open_here = _current.get()
        return open_here[-1] if open_here else self.default

    @property
    def default(self) -> Database:
        """The database of `connect()`; without one, of the environment as it is now."""
        if self._default is not None and self._implicit_key is None:
            return self._default
        key = _environment_key()
        with _default_lock:
            if self._default is None or self._implicit_key not in (None, key):
                previous, self._default = self._default, create_database()
                self._implicit_key = key
                if previous is not None:
                    previous.close_idle()
            return self._default

    def initialize(self, obj: Database | None) -> None:
        with _default_lock:
            previous, self._default = self._default, obj
            self._implicit_key = None
        if previous is not None and previous is not obj:
            previous.close_pool()

    def atomic(self, *args: Any, **kwargs: Any) -> Any:
        return self.obj.atomic(*args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        return self.obj.transaction(*args, **kwargs)

    def savepoint(self) -> Any:
        return self.obj.savepoint()

    def manual_commit(self) -> Any:
        return self.obj.manual_commit()

    def connection_context(self) -> Any:
        return self.obj.connection_context()


def _unlock_after_fork() -> None:
    global _default_lock
    _default_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock_after_fork)


def _environment_key() -> tuple[str | None, ...]:
    get = os.environ.get
    url, environment = get("DATABASE_URL"), get("HOPPER_ENV")
    path = (url or ("" if environment == Environment.TEST else DEFAULT_URL)).partition(":///")[2]
    # A file of a relative name is another one in another folder.
    relative = path and path != MEMORY and not path.startswith("/")
    folder = str(path_of("").absolute()) if relative else None
    return (url, environment, get("HOPPER_SLOW_QUERY_MS"), folder)


proxy = ContextProxy()


def connect(url: str | DatabaseConfig | None = None, **settings: Any) -> Database:
    """Point the proxy at a database for the whole process, and return that database.

    Without a URL it is the environment's, read now. Opens no connection. Connections to the
    database that the proxy stood for before are closed as they come back.
    """
    database = create_database(url, **settings)
    proxy.initialize(database)
    return database


@contextmanager
def using(database: Database) -> Iterator[Database]:
    """Point the proxy at `database` inside a `with` block, for this thread or task alone."""
    if not isinstance(database, Database):
        raise ValidationError(
            f"using() takes a database from create_database(), not {type(database).__name__}",
            "database",
        )
    enter(database)
    was_closed = database.is_closed()
    try:
        yield database
    finally:
        leave(database)
        if was_closed and not database.in_transaction():
            database.release()


def enter(database: Database) -> None:
    """Point the proxy at `database`, until `leave()`, for this thread or task alone."""
    _current.set((*_current.get(), database))


def leave(database: Database) -> None:
    """Point the proxy at what it stood for before `enter()`."""
    # Blocks may end in another order than they began in.
    open_here = _current.get()
    if database not in open_here:
        return  # a generator is ended in another context
    last = len(open_here) - 1 - open_here[::-1].index(database)
    _current.set(open_here[:last] + open_here[last + 1 :])
