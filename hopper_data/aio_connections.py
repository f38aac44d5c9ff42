"""The connections of asyncpg and aiosqlite, as `playhouse.pwasyncio` wants them."""

from __future__ import annotations

import asyncio
import functools
import re
import select
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, ParamSpec, TypeVar, cast

import asyncpg
from playhouse import pwasyncio

from hopper_data.statements import LEADING, control_word

__all__ = [
    "PLAIN_BEGIN",
    "PostgresConnection",
    "SharedMemoryConnection",
    "SqliteConnection",
    "begin_read_only",
    "bridged",
    "is_quiet",
    "terminate",
    "was_never_sent",
]

P = ParamSpec("P")
T = TypeVar("T")


async def bridged(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `pwasyncio.greenlet_spawn` does, in half the time: `fn` may use `await_()`."""
    parent = pwasyncio.getcurrent()
    child = pwasyncio.greenlet(fn, parent)
    child.gr_context = parent.gr_context
    value = child.switch(*args, **kwargs)
    while not child.dead:
        try:
            answer = await value
        except BaseException as error:  # noqa: BLE001 - it is raised where `fn` waits
            value = child.throw(error)
        else:
            value = child.switch(answer)
    return cast("T", value)


class PostgresConnection(pwasyncio.AsyncPostgresqlConnection):
    """A connection of asyncpg. Its statements are prepared once and kept."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self.born = time.monotonic()
        self.answered = self.born
        """When it was last known to be alive, on the clock of `time.monotonic()`."""
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
    """A connection of aiosqlite, whose thread is asked once for each statement.

    A transaction begins together with its first statement, and the end of one that has written
    nothing is not waited for. One that must not write is told so before its first statement that
    is not a read of ours: SQLite then prepares all of its statements anew.
    """

    has_turn = False
    """Whether its task is the one writer among those of the event loop."""
    _begin: Callable[[sqlite3.Connection], object] | None = None
    _read_only = False
    _forbidden = False
    _reads_alone = True
    _unanswered = False
    _ending = False
    _end_is_due = False

    def begin_with(
        self, begin: Callable[[sqlite3.Connection], object], *, read_only: bool = False
    ) -> None:
        """Let the next statement begin a transaction."""
        self._begin, self._read_only, self._reads_alone = begin, read_only, True

    def is_waiting(self) -> bool:
        """Whether the transaction begins with the next statement."""
        return self._begin is not None

    def end_soon(self, *, others_wait: bool) -> bool:
        """End a transaction that has written nothing, in its turn; False where one may have.

        Where others wait for the connection, the next one's first statement takes it along.
        """
        if self._begin is not None:
            self._begin = None
            return True
        only_read = self._read_only or (self._reads_alone and not self._unanswered)
        if not only_read or self.stale():
            return False
        self._ending = self._end_is_due = True
        if others_wait:
            asyncio.get_running_loop().call_later(0, self._post_end)
        else:
            self._post_end()
        return True

    def _post_end(self) -> None:
        if self._end_is_due and not self.stale():
            self._end_is_due = False
            self.conn._tx.put_nowait((None, functools.partial(self._end, self.conn._conn)))

    async def _execute(self, sql: str, params: Any = None) -> Any:
        self._reads_alone = False
        return await self._run(_run, sql, params or ())

    async def fetch(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """The rows of a query of ours, which writes nothing."""
        return await self._run(_fetch, sql, params)

    async def forbid(self) -> bool:
        """Refuse writes until `allow()`; whether they were refused before."""
        before = self._forbidden
        await self._run(self._forbid, "")
        return before

    async def allow(self) -> None:
        """Refuse writes no longer."""
        await self._run(self._allow, "")

    async def begun(self) -> None:
        """Begin the transaction, where that has not been done."""
        self._reads_alone = False
        await self._run(_nothing, "")

    async def _run(self, fn: Callable[..., T], sql: str, *args: Any) -> T:
        """The result of `fn(connection, sql, *args)`, called in the connection's thread."""
        begin, self._begin = self._begin, None
        forbid = self._read_only and not self._reads_alone and not self._forbidden
        end_first, self._end_is_due = self._end_is_due, False
        self._unanswered, self._ending = True, False
        try:
            answer = await self.conn._execute(
                self._call, self.conn._conn, end_first, begin, forbid, fn, sql, *args
            )
        except asyncio.CancelledError:
            # Else the rollback would have to wait for the statement.
            if self.conn._connection is not None and not control_word(sql):
                self.conn._connection.interrupt()
            raise
        except _NotBegunError as error:
            self._begin, self._unanswered = begin, False
            raise error.cause from None
        except BaseException:
            self._unanswered = False
            raise
        self._unanswered = False
        return cast("T", answer)

    def is_clean(self) -> bool:
        """Whether no transaction is open, nor a statement under way, and writes are allowed."""
        if self.stale():
            return False
        self._begin = None
        doubtful = self._unanswered or self._forbidden or self.conn._conn.in_transaction
        return self._ending or not doubtful

    async def clean(self) -> bool:
        """Roll back what a cancelled task has left open; whether it can be used again."""
        if self.stale():
            return False
        try:
            # Behind whatever that task has left in the thread's queue.
            await self.conn._execute(self._end, self.conn._conn)
        except sqlite3.Error:
            return False
        self._unanswered = False
        return True

    def stop(self) -> None:
        """Close without waiting for it."""
        self.conn.stop()

    # What runs in the connection's thread.

    def _call(
        self,
        connection: sqlite3.Connection,
        end_first: bool,
        begin: Callable[[sqlite3.Connection], object] | None,
        forbid: bool,
        fn: Callable[..., T],
        *args: Any,
    ) -> T:
        if end_first:
            self._end(connection)
        if begin is not None:
            try:
                begin(connection)
            except sqlite3.Error as error:
                raise _NotBegunError(error) from error
        if forbid:
            self._forbid(connection)
        return fn(connection, *args)

    def _end(self, connection: sqlite3.Connection) -> None:
        end(connection)
        if self._forbidden:
            self._allow(connection)

    def _forbid(self, connection: sqlite3.Connection, sql: str = "") -> None:  # noqa: ARG002
        # Noted first: the task may be cancelled, and not hear what became of it.
        self._forbidden = True
        connection.execute("PRAGMA query_only = ON")

    def _allow(self, connection: sqlite3.Connection, sql: str = "") -> None:  # noqa: ARG002
        connection.execute("PRAGMA query_only = OFF")
        self._forbidden = False


class _NotBegunError(Exception):
    """A transaction that its first statement could not begin."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause


def _run(connection: sqlite3.Connection, sql: str, params: Any) -> Any:
    cursor = connection.execute(sql, params)
    return pwasyncio.CursorAdapter(
        cursor.fetchall(),
        lastrowid=cursor.lastrowid,
        rowcount=cursor.rowcount,
        description=cursor.description,
    )


def _fetch(connection: sqlite3.Connection, sql: str, params: Any) -> list[Any]:
    return connection.execute(sql, params).fetchall()


def _nothing(connection: sqlite3.Connection, sql: str) -> None:
    """A transaction is begun without a statement."""


def begin_read_only(connection: sqlite3.Connection) -> None:
    """Begin a transaction that keeps nobody from writing."""
    connection.execute("BEGIN DEFERRED")


def end(connection: sqlite3.Connection) -> None:
    """Undo what is open, if anything."""
    if connection.in_transaction:
        connection.rollback()


class SharedMemoryConnection(pwasyncio.AsyncConnectionWrapper):
    """The connection of a database in memory, lent by the synchronous side for one session."""

    has_turn = False
    _pending: Any = None

    def is_waiting(self) -> bool:
        """Whether the transaction begins with the next statement: it does not."""
        return False

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
        end(self.conn)
        if self.conn.execute("PRAGMA query_only").fetchone() == (1,):
            self.conn.execute("PRAGMA query_only = OFF")
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
