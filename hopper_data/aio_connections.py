"""The connections of asyncpg and aiosqlite, as `playhouse.pwasyncio` wants them."""

from __future__ import annotations

import asyncio
import functools
import re
import select
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import asyncpg
from playhouse import pwasyncio

from hopper_data.statements import LEADING, control_word

__all__ = [
    "PLAIN_BEGIN",
    "PostgresConnection",
    "SharedMemoryConnection",
    "SqliteConnection",
    "is_quiet",
    "roll_back",
    "terminate",
    "was_never_sent",
]

T = TypeVar("T")


class PostgresConnection(pwasyncio.AsyncPostgresqlConnection):
    """A connection of asyncpg. Its statements are prepared once and kept."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self.guard = 0
        self.guard_open = False
        self.begin = ""
        """The BEGIN that has to be sent before anything else."""

    async def _execute(self, sql: str, params: Any = None) -> Any:
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
        await self._acquire_lock()
        try:
            return cast("list[Any]", await self.conn.fetch(_numbered(sql), *params))
        finally:
            self._lock.release()

    async def commit(self) -> str:
        """Commit, and give what the server says that it did."""
        async with self._lock:
            return str(await self.conn.execute("COMMIT"))


PLAIN_BEGIN = "BEGIN"
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


class SqliteConnection(pwasyncio.AsyncSqliteConnection):
    """A connection of aiosqlite, whose thread is asked once for each statement."""

    unanswered = False

    async def _execute(self, sql: str, params: Any = None) -> Any:
        with _ending(self.conn._connection, sql):
            return await self.ask(_run, sql, params or ())

    async def ask(self, fn: Callable[..., T], *args: Any) -> T:
        """The result of `fn(connection, *args)`, called in the connection's thread."""
        self.unanswered = True
        try:
            answer = await self.conn._execute(fn, self.conn._conn, *args)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.unanswered = False
            raise
        self.unanswered = False
        return cast("T", answer)

    def is_clean(self) -> bool:
        """Whether nothing is under way, and no transaction is open."""
        return not self.unanswered and not self.conn._conn.in_transaction


def _run(connection: sqlite3.Connection, sql: str, params: Any) -> Any:
    cursor = connection.execute(sql, params)
    return pwasyncio.CursorAdapter(
        cursor.fetchall(),
        lastrowid=cursor.lastrowid,
        rowcount=cursor.rowcount,
        description=cursor.description,
    )


class SharedMemoryConnection(pwasyncio.AsyncConnectionWrapper):
    """The connection of a database in memory, lent by the synchronous side for one session."""

    _pending: Any = None

    async def _execute(self, sql: str, params: Any = None) -> Any:
        if self._is_pending():
            await asyncio.wait({self._pending})  # else another thread might be the first
        loop = asyncio.get_running_loop()
        self._pending = loop.run_in_executor(None, self._execute_here, sql, params or ())
        self._pending.add_done_callback(asyncio.Future.exception)  # a cancelled task looks at none
        with _ending(self.conn, sql):
            return await asyncio.shield(self._pending)

    def _is_pending(self) -> bool:
        """Whether the statement of a cancelled task goes on."""
        return self._pending is not None and not self._pending.done()

    async def give_back(self, close: Callable[[Any], object]) -> None:
        """Take back what a cancelled task did, and close, once its last statement is done."""
        if not self._is_pending():
            self._undo_and(close)
            return
        self._pending.add_done_callback(lambda _: self._undo_and(close))
        await asyncio.wait({self._pending})

    def _undo_and(self, close: Callable[[Any], object]) -> None:
        roll_back(self.conn)
        close(self.conn)

    def _execute_here(self, sql: str, params: Any) -> Any:
        cursor = self.conn.execute(sql, params)
        rows = cursor.fetchall()
        return pwasyncio.CursorAdapter(
            rows,
            lastrowid=cursor.lastrowid,
            rowcount=cursor.rowcount,
            description=cursor.description,
        )


@contextmanager
def _ending(connection: sqlite3.Connection | None, sql: str) -> Iterator[None]:
    """Where the task is cancelled, end its statement, which the rollback would have to wait for."""
    try:
        yield
    except asyncio.CancelledError:
        if connection is not None and not control_word(sql):
            connection.interrupt()
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """Undo what is open, if anything."""
    if connection.in_transaction:
        connection.rollback()


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
