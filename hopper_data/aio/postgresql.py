"""PostgreSQL for asyncio, through asyncpg."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import select
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, cast

import asyncpg
from playhouse import pwasyncio

from hopper_data.aio.database import AsyncDatabase
from hopper_data.config import Backend, DatabaseURL
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError, DatabaseUnavailable
from hopper_data.libpq import keep_alive
from hopper_data.postgresql_database import ISOLATION, READ_COMMITTED, PostgresqlDatabase
from hopper_data.statements import LEADING, control_word

__all__ = ["AsyncPostgresqlDatabase", "PostgresConnection"]

logger = logging.getLogger("hopper_data")
PLAIN_BEGIN = "BEGIN"
_READ_ONLY = "REPEATABLE READ READ ONLY"
_BEGIN_READ_ONLY = f"{PLAIN_BEGIN} ISOLATION LEVEL {_READ_ONLY}"
_FRESH_S = 0.1
_JUST_NOW_S = 0.001
_BROKEN = (
    OSError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # it lost count of what the server has answered
)


_NEXT_HOST = (OSError, asyncpg.TargetServerAttributeNotMatched, asyncpg.CannotConnectNowError)


class AsyncPostgresqlDatabase(AsyncDatabase, pwasyncio.AsyncPostgresqlDatabase, PostgresqlDatabase):
    """A PostgreSQL database, through asyncpg."""

    def __init__(self, config: Any, url: Any) -> None:
        super().__init__(config, url=url)
        self._take_settings()

    async def _open_async(self) -> Any:
        connection = PostgresConnection(await self._connect_to_one())
        try:
            await self._initialize(connection.conn)
        except BaseException:
            terminate(connection.conn)
            raise
        return connection

    async def _connect_to_one(self) -> Any:
        """A connection to the first host that will do.

        Each has its part of the time, so that one that says nothing leaves some for the next;
        asyncpg would spend all of it there.
        """
        urls = _asyncpg_urls(self.url)
        part_s = self._connect_limit_s and self._connect_limit_s / len(urls)
        settings = {
            # Where a day begins, and what years there are, must not depend on the server.
            "timezone": "UTC",
            "application_name": dict(self.url.options).get("application_name", "hopper_data"),
        }
        failure: BaseException | None = None
        for url in urls:
            try:
                return await asyncpg.connect(url, timeout=part_s, server_settings=settings)
            except _NEXT_HOST as error:
                failure = error
        raise cast("BaseException", failure)

    async def _initialize(self, conn: Any) -> None:
        keep_alive(conn._transport.get_extra_info("socket"), self.url)
        for name in ("timestamptz", "timestamp", "uuid", "json", "jsonb"):
            # As text, which is what the fields write and read on every driver.
            await conn.set_type_codec(
                name, schema="pg_catalog", encoder=_as_text, decoder=str, format="text"
            )
        isolation = await conn.fetchval(f"SHOW {ISOLATION}")
        self.reads_early = isolation == READ_COMMITTED

    def _is_fresh(self, connection: Any) -> bool:
        if connection.stale() or self._outlived_async(connection):
            return False
        if not self.config.pre_ping:
            return True
        age_s = time.monotonic() - connection.answered
        return age_s < _FRESH_S and (age_s < _JUST_NOW_S or is_quiet(connection.conn))

    def _outlived_async(self, connection: Any) -> bool:
        limit_s = self.config.recycle_s
        return bool(limit_s) and time.monotonic() - connection.born > limit_s

    async def _answers(self, connection: Any) -> bool:
        if connection.stale() or self._outlived_async(connection):
            return False
        try:
            await connection.conn.execute("SELECT 1")
        except _BROKEN:
            return False
        return True

    def _is_clean(self, connection: Any) -> bool:
        inner = connection.conn
        if connection.stale() or inner._protocol._is_cancelling() or inner.is_in_transaction():
            return False
        connection.begin, connection.answered = "", time.monotonic()
        return True

    async def _clean(self, connection: Any) -> bool:
        inner = connection.conn
        if connection.stale() or not inner._protocol._is_cancelling():
            return False  # its rollback was not answered
        with suppress(TimeoutError, *_BROKEN):
            async with asyncio.timeout(self._connect_limit_s):
                await inner._protocol._wait_for_cancellation()
        return self._is_clean(connection)

    async def _discard(self, connection: Any) -> None:
        inner = connection.conn
        try:
            if not connection.stale() and not inner.is_in_transaction():
                with suppress(TimeoutError, *_BROKEN):
                    await inner.close(timeout=self._connect_limit_s)
        finally:
            terminate(inner)

    async def _run_async(self, sql: str, params: Any) -> Any:
        connection = await self.aconnect()
        if not self._state.transactions or connection is None:
            return await super()._run_async(sql, params)
        begin = connection.begin
        if begin:
            await connection.begun()
        word = control_word(sql)
        if word:
            await self._close_guard_async(connection, word)
            return await super()._run_async(sql, params)
        if not begin:  # else nothing is lost when the transaction begins again
            # Who may write can do so by a SELECT, too.
            own = not connection.is_read_only or not _SELECT.match(sql)
            await self._guard_async(connection, writes=own)
        try:
            return await super()._run_async(sql, params)
        except Exception:
            if not connection.stale():
                await self._undo_async(connection, begin)
            raise

    async def _guard_async(self, connection: Any, *, writes: bool) -> None:
        """Make the savepoint that undoes one statement; reads that follow each other share one."""
        if connection.covers_reads and not writes:
            return
        number = connection.guard + 1
        release = f"RELEASE SAVEPOINT hopper_{connection.guard}; " if connection.guard_open else ""
        await connection.conn.execute(f"{release}SAVEPOINT hopper_{number}")
        connection.guard, connection.guard_open = number, True
        connection.covers_reads = not writes

    async def _undo_async(self, connection: Any, begin: str) -> None:
        if begin:
            await connection.conn.execute("ROLLBACK")
            connection.begin = begin
        else:
            await connection.conn.execute(f"ROLLBACK TO SAVEPOINT hopper_{connection.guard}")
            connection.covers_reads = True

    async def _close_guard_async(self, connection: Any, word: str) -> None:
        was_open = connection.guard_open
        connection.guard_open = connection.covers_reads = False
        if was_open and word in ("SAVEPOINT", "SET"):
            await connection.conn.execute(f"RELEASE SAVEPOINT hopper_{connection.guard}")

    async def _fetch_async(self, sql: str, params: Sequence[Any]) -> list[Any]:
        start = time.perf_counter()
        with translated(self):
            connection = await self.aconnect()
            begin = connection.begin
            if not self._state.transactions or (self.reads_early and begin == PLAIN_BEGIN):
                rows: list[Any] = await connection.fetch(sql, params)
            else:
                rows = await self._fetch_inside(connection, begin, sql, params)
        self._note_time(sql, start)
        return rows

    async def _fetch_inside(
        self, connection: Any, begin: str, sql: str, params: Sequence[Any]
    ) -> list[Any]:
        """The rows of a query that, when it fails, leaves its transaction as it was."""
        if begin:
            await connection.begun()
        else:
            await self._guard_async(connection, writes=False)
        try:
            rows: list[Any] = await connection.fetch(sql, params)
        except Exception:
            if not connection.stale():
                await self._undo_async(connection, begin)
            raise
        return rows

    def begin(self, isolation_level: str | None = None) -> None:
        connection = self._state.conn or pwasyncio.await_(self.aconnect())
        level = f" ISOLATION LEVEL {isolation_level}" if isolation_level else ""
        connection.begin_with(f"{PLAIN_BEGIN}{level}")

    def begin_read_only(self) -> None:
        self.begin(_READ_ONLY)

    def begin_late(self, connection: Any, *, read_only: bool) -> None:
        connection.begin_with(_BEGIN_READ_ONLY if read_only else PLAIN_BEGIN)

    def end_quietly(self, connection: Any) -> bool:
        if not connection.begin:
            return False
        connection.begin = ""  # there were reads of ours alone
        return True

    def commit(self) -> None:
        connection = self._state.conn
        if connection is None or not self.end_quietly(connection):
            pwasyncio.await_(self.acommit(connection))

    async def acommit(self, connection: Any) -> None:
        lost = f"{self.label}: the connection was lost before the commit"
        if connection is None or connection.stale():
            raise DatabaseUnavailable(lost)
        try:
            with translated(self):
                status = await connection.commit()
        except DatabaseUnavailable as error:
            if was_never_sent(error.__cause__):
                raise DatabaseUnavailable(lost) from error.__cause__
            if not getattr(error.__cause__, "sqlstate", "08").startswith("08"):
                raise  # the server said why it did not commit
            raise self._commit_unanswered() from error.__cause__
        if status == "ROLLBACK":
            raise DatabaseError(
                "nothing was committed: an earlier error has ended this transaction"
            )

    def rollback(self) -> None:
        connection = self._state.conn
        if connection is not None and self.end_quietly(connection):
            return
        try:
            pwasyncio.await_(self._roll_back_in_time())
        except (DatabaseError, TimeoutError):
            logger.debug("rollback on a lost connection of %s", self.label, exc_info=True)

    async def _roll_back_in_time(self) -> None:
        connection = await self.aconnect()
        # A cancelled task must not wait for a server that says nothing any more.
        try:
            async with asyncio.timeout(self._connect_limit_s):
                await self.aexecute_sql("ROLLBACK")
        except (TimeoutError, asyncio.CancelledError):
            terminate(connection.conn)
            raise


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


_LIBPQ_ALONE = (
    "connect_timeout",
    "keepalives",
    "gssencmode",
    "channel_binding",
    "tcp_user_timeout",
)


def _asyncpg_urls(url: DatabaseURL) -> list[str]:
    """A URL for each host, in their order, without what libpq alone understands."""
    kept = {name: value for name, value in url.options if not name.startswith(_LIBPQ_ALONE)}
    rounds = [kept]
    if kept.get("target_session_attrs") == "prefer-standby":
        rounds = [{**kept, "target_session_attrs": wish} for wish in ("standby", "any")]
    return [
        DatabaseURL(
            Backend.POSTGRESQL, url.database, url.user, url.password, hosts, tuple(options.items())
        ).render(hide_password=False)
        for options in rounds
        for hosts in (url.hosts[n : n + 1] for n in range(len(url.hosts) or 1))
    ]


class PostgresConnection(pwasyncio.AsyncPostgresqlConnection):
    """A connection of asyncpg. Its statements are prepared once and kept."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self.born = time.monotonic()
        self.answered = self.born
        """When it was last known to be alive, on the clock of `time.monotonic()`."""
        self.guard = 0
        self.guard_open = False
        self.covers_reads = False
        """Whether nothing has been written since the guard was made."""
        self.begin = ""
        """The BEGIN that has to be sent before anything else."""
        self.is_read_only = False
        """Whether the transaction cannot write."""

    async def _execute(self, sql: str, params: Any = None) -> Any:
        if self.begin:
            await self.begun()
        statement = _numbered(sql)
        if _WITH.match(sql):
            # It may give rows or only write.
            prepared = await self.conn.prepare(statement)
            records = await prepared.fetch(*(params or ()))
            description = [(attribute.name,) for attribute in prepared.get_attributes()]
            return pwasyncio.CursorAdapter(
                records, rowcount=_row_count(prepared.get_statusmsg()), description=description
            )
        if _CHANGES.match(sql) and not _RETURNING.search(sql):
            status = await self.conn.execute(statement, *(params or ()))
            return pwasyncio.CursorAdapter([], rowcount=_row_count(status))
        if not params and not _ROWS.match(sql):
            # Transaction control; the server may answer COMMIT with ROLLBACK.
            status = await self.conn.execute(statement)
            return pwasyncio.CursorAdapter([], rowcount=_row_count(status), description=[])
        records = await self.conn.fetch(statement, *(params or ()))
        names = list(records[0].keys()) if records else []
        description = [(name,) for name in names]
        return pwasyncio.CursorAdapter(records, rowcount=len(records), description=description)

    async def fetch(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """The rows of a query."""
        if not self._streaming:  # a session asks one thing at a time, in one task
            rows: list[Any] = await self.conn.fetch(_numbered(sql), *params)
            return rows
        await self._acquire_lock()
        try:
            return cast("list[Any]", await self.conn.fetch(_numbered(sql), *params))
        finally:
            self._lock.release()

    def begin_with(self, begin: str) -> None:
        """Let a transaction begin with the next statement."""
        self.guard, self.guard_open, self.covers_reads, self.begin = 0, False, False, begin
        self.is_read_only = begin == _BEGIN_READ_ONLY

    async def begun(self) -> None:
        """Send the BEGIN that waits."""
        begin, self.begin = self.begin, ""
        try:
            await self.conn.execute(begin)
        except asyncio.CancelledError:
            terminate(self.conn)  # it may have begun
            raise

    async def execute_iter(self, sql: str, params: Any = None) -> Any:
        """The cursor for Peewee's `iterate()`, which has read all inside of a transaction of ours.

        asyncpg has cursors in its own transactions alone, and Peewee rolls that one back.
        """
        if self.begin:
            await self.begun()
        if self.conn.is_in_transaction():
            return await self.execute(sql, params)
        return await super().execute_iter(sql, params)

    async def commit(self) -> str:
        """Commit, and give what the server says that it did."""
        async with self._lock:
            return str(await self.conn.execute("COMMIT"))


_SELECT = re.compile(LEADING + r"(SELECT|VALUES|TABLE)\b", re.IGNORECASE)
_WITH = re.compile(LEADING + r"WITH\b", re.IGNORECASE)
_CHANGES = re.compile(LEADING + r"(INSERT|UPDATE|DELETE|MERGE)\b", re.IGNORECASE)
_RETURNING = re.compile(r"\bRETURNING\b", re.IGNORECASE)
_ROWS = re.compile(
    LEADING + r"(SELECT|FETCH|SHOW|VALUES|EXPLAIN|TABLE|INSERT|UPDATE|DELETE)\b", re.IGNORECASE
)
_PLACES = re.compile("%%|%s")


@functools.lru_cache(maxsize=2048)
def _numbered(sql: str) -> str:
    """`sql` with the placeholders of asyncpg."""
    if "%" not in sql:
        return sql
    numbers = iter(range(1, 40_000))
    return _PLACES.sub(lambda m: "%" if m[0] == "%%" else f"${next(numbers)}", sql)


def _row_count(status: str) -> int:
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else -1


def is_quiet(connection: Any) -> bool:
    """Whether a connection of asyncpg is open, with nothing to read that might be its end."""
    if connection.is_closed() or not hasattr(select, "poll"):
        return False
    watched = select.poll()
    watched.register(connection._transport.get_extra_info("socket").fileno(), select.POLLIN)
    return not watched.poll(0)


def terminate(connection: Any) -> None:
    """Close a connection of asyncpg without asking its server."""
    with suppress(asyncpg.InterfaceError):  # the pool has taken it back already
        connection.terminate()


def was_never_sent(error: BaseException | None) -> bool:
    """Whether asyncpg refused a statement before it sent it.

    It does so in the moment between the server's word that the connection ends and its end.
    """
    if isinstance(error, asyncpg.InterfaceError):
        return True
    return isinstance(error, asyncpg.InternalClientError) and str(error).startswith(
        ("cannot switch to state", "not connected")
    )
