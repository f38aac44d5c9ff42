"""PostgreSQL, and CockroachDB, which speaks its protocol."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cache
from io import BytesIO
from typing import Any, cast
from uuid import uuid4

import peewee
from playhouse.pool import PooledPostgresqlDatabase

from hopper_data.base_database import POSTGRESQL, Database
from hopper_data.config import DatabaseConfig, DatabaseURL
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError, DatabaseUnavailable
from hopper_data.libpq import copy_text, hung_up, keep_text, libpq_parameters
from hopper_data.pool import in_time, watchdog
from hopper_data.ready import ReadyStatements
from hopper_data.statements import control_word

__all__ = [
    "ISOLATION",
    "READ_COMMITTED",
    "PostgresqlDatabase",
    "cockroach_class",
]

logger = logging.getLogger("hopper_data")
ISOLATION, READ_COMMITTED = "default_transaction_isolation", "read committed"
_STREAM_ROWS = 1000
_PLAIN_BEGIN = "BEGIN; "
_COPY_BYTES = 2**18


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
        last = self._guard.number
        release = f"RELEASE SAVEPOINT hopper_{last}; " if self._guard.open else ""
        return last + 1, f"{release}SAVEPOINT hopper_{last + 1}; "

    def _set_guard(self, number: int, *, is_open: bool = True) -> None:
        self._guard.number, self._guard.open = number, is_open and number > 0
        self._guard.covers_reads = False

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        state = self._state
        # Before anything else, a read of ours needs no transaction: each statement of one would see
        # the data anew all the same.
        early = self.reads_early and self._guard.begin == _PLAIN_BEGIN
        covered = early or self._guard.covers_reads
        if not (state.transactions and covered) or self._is_watched():
            rows = super().fetch_all(sql, params)
            # What follows, until something is written again, needs no savepoint of its own.
            self._guard.covers_reads = bool(state.transactions) and self._guard.open
            return rows
        start = time.perf_counter()
        try:
            cursor = state.conn.cursor()
            self._ready.execute(cursor, "", sql, params)
            rows = cast("list[Any]", cursor.fetchall())
        except Exception as error:
            if not early:
                self._undo_statement(self._guard.number)
            if self._ready.must_repeat(state.conn, error, sql):
                return self.fetch_all(sql, params)
            with translated(self):
                raise
        self._note_time(sql, start)
        return rows

    def _close_guard(self, word: str) -> str:
        """Release the open guard before a caller's savepoint, which it would otherwise enclose."""
        was_open = self._guard.open
        self._set_guard(self._guard.number, is_open=False)
        encloses = was_open and word in ("SAVEPOINT", "SET")
        return f"RELEASE SAVEPOINT hopper_{self._guard.number}; " if encloses else ""

    def _undo_statement(self, number: int | None, begin: str = "") -> None:
        connection = self._state.conn
        if connection is None or connection.closed:
            return
        if self._adapter.txn_status(connection) == self._adapter.txn_idle:
            self._guard.begin = begin  # nothing of it was done
        if (number is None and not begin) or self.is_connection_usable():
            return  # in the last case the driver did not even send it
        self._set_guard(self._guard.number, is_open=False)
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

    # A transaction begins together with its first statement, which saves a round trip, or not at
    # all when there are only reads of ours.

    def begin(self, *args: Any, **kwargs: Any) -> None:
        if args or kwargs:
            self._set_guard(0, is_open=False)
            super().begin(*args, **kwargs)
        else:
            self._begin_late(_PLAIN_BEGIN)

    def _begin_late(self, statement: str) -> None:
        if self._guard.begin or self._state.conn is None:
            self.connection()
        if self._may_be_lost():
            raise DatabaseUnavailable(f"{self.label}: the connection was lost before it was used")
        self._set_guard(0, is_open=False)
        self._guard.begin = statement

    def _take_begin(self) -> str:
        """The BEGIN that has to travel now, if any."""
        begin, self._guard.begin = self._guard.begin, ""
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
        if not self._adapter.is_connection_usable(connection):
            # PostgreSQL answers COMMIT with a silent ROLLBACK here.
            raise DatabaseError(
                "nothing was committed: an earlier error has ended this transaction"
            )
        try:
            connection.cursor().execute("COMMIT")
            self._guard.answered = time.perf_counter()
        except Exception:  # noqa: BLE001  # translated, and raised in any case
            try:
                with translated(self):
                    raise
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
def cockroach_class() -> type[PostgresqlDatabase]:
    """The database for `cockroachdb://`, whose parent not every program imports."""
    from playhouse.cockroachdb import CockroachDatabase as PeeweeCockroach

    class CockroachDatabase(PostgresqlDatabase, PeeweeCockroach):
        """A CockroachDB cluster: PostgreSQL's protocol, with Peewee's own adjustments."""

        copies = False
        keeps_ready = False

        def begin_read_only(self) -> None:
            self.execute_sql("BEGIN READ ONLY")

    return CockroachDatabase
