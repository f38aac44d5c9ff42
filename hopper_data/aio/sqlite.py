"""SQLite for asyncio: a file through aiosqlite, a database in memory as it is."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeVar, cast

import aiosqlite
import peewee
from playhouse import pwasyncio

from hopper_data.aio.database import AsyncDatabase
from hopper_data.aio.pool import Places
from hopper_data.driver_errors import locked, translated
from hopper_data.errors import DatabaseError, DatabaseUnavailable
from hopper_data.sqlite_database import SqliteDatabase, looked_too_early
from hopper_data.sqlite_turns import FileConnection
from hopper_data.statements import control_word

__all__ = ["AsyncSqliteDatabase"]

logger = logging.getLogger("hopper_data")
# It logs the values of every statement at DEBUG, and they may be credentials.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)
T = TypeVar("T")
_BATCH = 500


class AsyncSqliteDatabase(AsyncDatabase, pwasyncio.AsyncSqliteDatabase, SqliteDatabase):
    """A SQLite database, through aiosqlite; in memory, the one of the synchronous side.

    A hop to the thread of a connection costs more than a statement does. So a transaction begins
    together with its first statement, and the end of one that has only read is not waited for.
    """

    # More threads than one that all want the interpreter are slower than one.
    eager = 1

    def __init__(self, config: Any, url: Any, shared: SqliteDatabase) -> None:
        super().__init__(config, url=url)
        self._take_settings()
        self._shared = shared
        if self.in_memory:
            self._connect_limit_s = None  # the synchronous side has a limit of its own
        self._turn = Places(1, 1, eager=1)

    # -- connections --

    async def _open_async(self) -> Any:
        if self.in_memory:
            return SharedMemoryConnection(await self._borrow())
        return SqliteConnection(await aiosqlite.Connection(self._open, 1000))

    def _is_fresh(self, connection: Any) -> bool:
        return not connection.stale()

    async def _answers(self, connection: Any) -> bool:
        return not connection.stale()

    def _is_clean(self, connection: Any) -> bool:
        self._end_turn(connection)
        return not self.in_memory and bool(connection.is_clean())

    async def _clean(self, connection: Any) -> bool:
        return not self.in_memory and bool(await connection.clean())

    async def _discard(self, connection: Any) -> None:
        if self.in_memory:
            await connection.give_back(self._shared._close)
            return
        try:
            await connection.close()
        except BaseException:
            # Cancelled once more. Its thread would keep the process from ending.
            connection.stop()
            raise

    async def _borrow(self) -> Any:
        """The connection of the synchronous side, which has it back if nobody takes it."""
        borrowing = asyncio.get_running_loop().run_in_executor(None, self._shared._connect)
        try:
            return await asyncio.shield(borrowing)
        except asyncio.CancelledError:
            borrowing.add_done_callback(self._return_borrowed)
            raise

    def _return_borrowed(self, borrowing: asyncio.Future[Any]) -> None:
        if borrowing.exception() is None:
            self._shared._close(borrowing.result())

    # -- transactions --

    async def make_ready(self, state: Any, *, read_only: bool) -> Any:
        if read_only or self.in_memory:
            return await self._connected(state)
        if state.conn is not None:
            self._end_turn(state.conn)
        await self._take_turn()
        try:
            connection = await self._connected(state)
        except BaseException:
            self._turn.give_back(None)
            raise
        connection.has_turn = True
        return connection

    def begins_late(self) -> bool:
        return not self.in_memory

    def end_quietly(self, connection: Any) -> bool:
        line = self._turn if connection.has_turn else self._pool
        if not connection.end_soon(others_wait=line is not None and line.has_waiters()):
            return False
        self._end_turn(connection)
        return True

    async def _take_turn(self) -> None:
        # SQLite has one writer at a time; the tasks of one loop need not try and try again.
        try:
            await self._turn.take(self.config.busy_timeout_ms / 1000)
        except TimeoutError:
            raise locked(self) from None

    def _end_turn(self, connection: Any) -> None:
        if connection.has_turn:
            connection.has_turn = False
            self._turn.give_back(None)

    def begin(self, lock_type: str | None = None) -> None:
        connection = self._state.conn or pwasyncio.await_(self.aconnect())
        if self.in_memory or lock_type:
            super().begin(lock_type)
            return
        if not connection.has_turn:
            pwasyncio.await_(self._take_turn())
            connection.has_turn = True
        self.begin_late(connection, read_only=False)

    def begin_late(self, connection: Any, *, read_only: bool) -> None:
        if read_only:
            connection.begin_with(_begin_deferred, read_only=True)
        else:
            connection.begin_with(partial(_begin_in_turn, timeout_ms=self.config.busy_timeout_ms))

    def begin_read_only(self) -> Any:
        connection = self._state.conn or pwasyncio.await_(self.aconnect())
        if self.in_memory:
            return super().begin_read_only()
        self.begin_late(connection, read_only=True)
        return None

    def forbid_writes(self) -> Any:
        if self.in_memory:
            return super().forbid_writes()
        with translated(self):
            return pwasyncio.await_(self._state.conn.forbid())

    def allow_writes(self, before: Any) -> None:
        if self.in_memory:
            super().allow_writes(before)
        elif before is False:  # else the end of the transaction does it
            with translated(self):
                pwasyncio.await_(self._state.conn.allow())

    def commit(self) -> None:
        connection = self._state.conn
        if self.in_memory or connection is None:
            super().commit()
            return
        if connection.stale():
            raise DatabaseUnavailable(f"{self.label}: the connection was lost before the commit")
        try:
            if not self.end_quietly(connection):
                super().commit()
        finally:
            self._end_turn(connection)

    def rollback(self) -> None:
        connection = self._state.conn
        try:
            if self.in_memory or connection is None or not self.end_quietly(connection):
                self.execute_sql("ROLLBACK")
        except DatabaseError:
            # SQLite ends the transaction by itself on some errors.
            logger.debug("nothing to roll back in %s", self.label, exc_info=True)
        finally:
            if connection is not None:
                self._end_turn(connection)

    # -- statements --

    async def _run_async(self, sql: str, params: Any) -> Any:
        connection = await self.aconnect()
        if not connection.is_waiting():
            self._check_transaction(connection.conn, sql)
        try:
            return await super()._run_async(sql, params)
        except peewee.OperationalError as error:
            if not looked_too_early(error):
                raise
            return await super()._run_async(sql, params)

    def _fetches_at_once(self) -> bool:
        return not (self.in_memory or self._is_watched())

    def fetch_sorted(self, sql: str) -> list[Any]:
        if not self._fetches_at_once():
            return self.fetch_all(sql)
        rows: list[Any] = pwasyncio.await_(self._fetch_async(sql, (), sorts=True))
        return rows

    async def _fetch_async(
        self, sql: str, params: Sequence[Any], *, sorts: bool = False
    ) -> list[Any]:
        start = time.perf_counter()
        connection = await self.aconnect()
        if not connection.is_waiting():
            self._check_transaction(connection.conn, sql)
        try:
            fetch = connection.fetch_sorted if sorts else connection.fetch
            rows: list[Any] = await fetch(sql, params)
        except Exception as error:
            if looked_too_early(error):
                return cast("list[Any]", (await self.aexecute_sql(sql, params)).fetchall())
            with translated(self):
                raise
        self._note_time(sql, start)
        return rows

    def _keep_aside_in(self, place: str) -> None:
        with suppress(sqlite3.Error, ValueError):  # the latter from one that is closed
            pwasyncio.await_(self._state.conn.fetch(f"PRAGMA temp_store = {place}", ()))

    def stream(self, sql: str, params: Any) -> Generator[Any, None, None]:
        if self.in_memory:
            yield from self.execute_sql(sql, params)
            return
        # Straight to aiosqlite, whose cursors do not keep other statements out.
        connection = pwasyncio.await_(self.aconnect())
        cursor: Any = None
        with translated(self):
            try:
                pwasyncio.await_(connection.begun())
                with self.sorting_on_disk():
                    cursor = pwasyncio.await_(connection.conn.execute(sql, params))
                while rows := pwasyncio.await_(cursor.fetchmany(_BATCH)):
                    yield from rows
            finally:
                if cursor is not None:
                    pwasyncio.await_(cursor.close())

    # The file is opened as the synchronous side opens it.
    def _add_conn_hooks(self, conn: Any) -> None:
        SqliteDatabase._add_conn_hooks(self, conn)

    def _load_functions(self, conn: Any) -> None:
        _peewee_sqlite._load_functions(self, conn)

    def _load_aggregates(self, conn: Any) -> None:
        _peewee_sqlite._load_aggregates(self, conn)

    def _load_collations(self, conn: Any) -> None:
        _peewee_sqlite._load_collations(self, conn)

    def _load_window_functions(self, conn: Any) -> None:
        _peewee_sqlite._load_window_functions(self, conn)


_peewee_sqlite: Any = peewee.SqliteDatabase


class SqliteConnection(pwasyncio.AsyncSqliteConnection):
    """A connection of aiosqlite, whose thread is asked once for each statement.

    A transaction begins together with its first statement, and the end of one that has written
    nothing is not waited for. One that must not write is told so before its first statement that
    is not a read of ours: SQLite then prepares all of its statements anew.
    """

    has_turn = False
    """Whether its task is the one writer among those of the event loop."""
    _begin: Callable[[FileConnection], object] | None = None
    _read_only = False
    _forbidden = False
    _reads_alone = True
    _unanswered = False
    _ending = False
    _end_is_due = False

    def begin_with(
        self, begin: Callable[[FileConnection], object], *, read_only: bool = False
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
            self._begin, self._read_only = None, False
            return True
        only_read = self._read_only or (self._reads_alone and not self._unanswered)
        if not only_read or self.stale():
            return False
        self._read_only = False
        self._ending = self._end_is_due = True
        if others_wait:
            asyncio.get_running_loop().call_later(0, self._post_end)
        else:
            self._post_end()
        return True

    def _post_end(self) -> None:
        if self._end_is_due and not self.stale():
            self._end_is_due = False
            self.conn._tx.put_nowait((None, partial(self._end, self.conn._conn)))

    async def _execute(self, sql: str, params: Any = None) -> Any:
        self._reads_alone = False
        return await self._run(_run, sql, params or ())

    async def fetch(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """The rows of a query of ours, which writes nothing."""
        return await self._run(_fetch, sql, params)

    async def fetch_sorted(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """The same for one that sorts a whole table."""
        return await self._run(_fetch_sorted, sql, params)

    async def forbid(self) -> bool:
        """Refuse writes until `allow()`; whether they were refused before."""
        return await self._run(self._forbid, "")

    async def allow(self) -> None:
        """Refuse writes no longer."""
        await self._run(self._allow, "")

    async def begun(self) -> None:
        """Begin the transaction, where that has not been done."""
        self._reads_alone = False
        await self._run(_nothing, "")

    async def execute_iter(self, sql: str, params: Any = None) -> Any:
        """The cursor for Peewee's `iterate()`, inside of the transaction."""
        await self.begun()
        return await super().execute_iter(sql, params)

    async def _run(self, fn: Callable[..., T], sql: str, *args: Any) -> T:
        """The result of `fn(connection, sql, *args)`, called in the connection's thread."""
        begin, self._begin = self._begin, None
        forbid = self._read_only and not self._reads_alone
        end_first, self._end_is_due = self._end_is_due, False
        self._unanswered, self._ending = True, False
        try:
            with _ending(self.conn._connection, sql):
                answer = await self.conn._execute(
                    self._call, self.conn._conn, end_first, begin, forbid, fn, sql, *args
                )
        except asyncio.CancelledError:
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
        self._begin, self._read_only = None, False
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
        connection: FileConnection,
        end_first: bool,
        begin: Callable[[FileConnection], object] | None,
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
        if forbid and not self._forbidden:  # which the end of the one before may just have changed
            self._forbid(connection)
        return fn(connection, *args)

    def _end(self, connection: sqlite3.Connection) -> None:
        _roll_back(connection)
        if self._forbidden:
            self._allow(connection)

    def _forbid(self, connection: sqlite3.Connection, sql: str = "") -> bool:  # noqa: ARG002
        before = self._forbidden
        # Noted first: the task may be cancelled, and not hear what became of it.
        self._forbidden = True
        connection.execute("PRAGMA query_only = ON")
        return before

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


def _fetch_sorted(connection: sqlite3.Connection, sql: str, params: Any) -> list[Any]:
    with suppress(sqlite3.Error):  # where there are temporary tables
        connection.execute("PRAGMA temp_store = FILE")
    try:
        return _fetch(connection, sql, params)
    finally:
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA temp_store = MEMORY")


def _nothing(connection: sqlite3.Connection, sql: str) -> None:
    """A transaction is begun without a statement."""


def _begin_in_turn(connection: FileConnection, timeout_ms: int) -> None:
    """Begin a transaction that may write."""
    try:
        connection.begin_in_turn(timeout_ms)
    finally:
        connection.wait_again(timeout_ms)


def _begin_deferred(connection: sqlite3.Connection) -> None:
    """Begin a transaction that keeps nobody from writing."""
    connection.execute("BEGIN DEFERRED")


def _roll_back(connection: sqlite3.Connection) -> None:
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
        self._pending = loop.run_in_executor(None, _run, self.conn, sql, params or ())
        self._pending.add_done_callback(asyncio.Future.exception)  # a cancelled task looks at none
        with _ending(self.conn, sql):
            return await asyncio.shield(self._pending)

    async def execute_iter(self, sql: str, params: Any = None) -> Any:
        """The cursor for Peewee's `iterate()`, which has read all."""
        return await self.execute(sql, params)

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
        _roll_back(self.conn)
        if self.conn.execute("PRAGMA query_only").fetchone() == (1,):
            self.conn.execute("PRAGMA query_only = OFF")
        close(self.conn)


@contextmanager
def _ending(connection: sqlite3.Connection | None, sql: str) -> Iterator[None]:
    """Where the task is cancelled, end its statement, which the rollback would have to wait for."""
    try:
        yield
    except asyncio.CancelledError:
        if connection is not None and not control_word(sql):
            connection.interrupt()
        raise
