"""Asynchronous sessions, over `playhouse.pwasyncio`.

No query is written twice. A repository's method runs as it is in a greenlet; where it would wait
for the database, control goes to the event loop instead. `AsyncSession.run()` does that.

The databases here are those of `hopper_data.database` with the connections of asyncpg and
aiosqlite. There is one for each synchronous database and event loop, made when it is first asked
for, and its connections are closed when the loop shuts down.
"""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, ParamSpec, TypeVar, cast

import peewee

from hopper_data.aio_pool import Places
from hopper_data.config import Backend, DatabaseURL
from hopper_data.database import (
    ISOLATION,
    READ_COMMITTED,
    Database,
    PostgresqlDatabase,
    SqliteDatabase,
    begin_in_turn,
    enter,
    is_write,
    leave,
    looked_too_early,
    proxy,
)
from hopper_data.driver_errors import locked, translated
from hopper_data.errors import DatabaseError, DatabaseUnavailable, PoolTimeout
from hopper_data.libpq import keep_alive
from hopper_data.session import Session, check_retries
from hopper_data.statements import control_word
from hopper_data.transactions import ReadOnlyTransaction, Savepoint

try:
    import aiosqlite
    import asyncpg
    from playhouse import pwasyncio
except ImportError as error:
    raise DatabaseError(
        "asynchronous sessions need an extra: pip install 'hopper-data[async]'"
    ) from error

from hopper_data.aio_connections import (  # needs the extra, too
    PLAIN_BEGIN,
    PostgresConnection,
    SharedMemoryConnection,
    SqliteConnection,
    begin_read_only,
    bridged,
    is_quiet,
    terminate,
    was_never_sent,
)

__all__ = ["AsyncSession", "async_database", "open_async_session", "run_in_async_transaction"]

logger = logging.getLogger("hopper_data")
# It logs the values of every statement at DEBUG, and they may be credentials.
logging.getLogger("aiosqlite").setLevel(logging.WARNING)
P = ParamSpec("P")
T = TypeVar("T")
_BATCH = 500
_FRESH_S = 0.1
_PATIENCE_S = 0.001


# -- databases ------------------------------------------------------------------------------------


class AsyncDatabase(pwasyncio.AsyncDatabaseMixin):
    """What the asynchronous databases share.

    Connections: at most `max_connections` at a time, for which sessions wait `pool_timeout_s`;
    `pool_size` are kept. A connection belongs to the task that took it.
    """

    config: Any
    label: str
    _state: Any
    _pool: Places | None
    eager = 0
    """How many connections are given out without a wait; 0 is all that are kept."""

    def _take_settings(self) -> None:
        self._connect_limit_s = self.config.connect_timeout_s or None  # 0 is no limit
        self._open_ones: set[Any] = set()

    def connect(self, reuse_if_open: bool = False) -> bool:
        if not self.is_closed():
            if reuse_if_open:
                return False
            raise DatabaseError("a connection is already open in this task")
        pwasyncio.await_(self.aconnect())
        return True

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query of ours, whose values have been checked."""
        return Database.fetch_all(cast("Database", self), sql, params)

    copies = False

    def send(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """The cursor of a statement of ours."""
        return Database.send(cast("Database", self), sql, params)

    async def aconnect(self) -> Any:
        state = self._state._current()
        connection = state.conn
        if connection is not None:
            if not connection.stale():
                return connection
            if state.transactions:
                raise DatabaseUnavailable(
                    f"{self.label}: the connection was lost in the middle of a transaction"
                )
            # Peewee would give it back a second time where a new one is not to be had.
            state.reset()
            await self._release_conn(connection)
        if self._closing:
            raise DatabaseError(f"the connections of {self.label} are being closed")
        with translated(cast("Database", self)):
            connection = await self._acquire_conn_async()
        state.conn, state.closed = connection, False
        return connection

    async def aexecute_sql(self, sql: str, params: Any = None) -> Any:
        start = time.perf_counter()
        try:
            with translated(cast("Database", self)):
                return await self._run_async(sql, params)
        finally:
            cast("Database", self)._log_statement(sql, start)

    async def _run_async(self, sql: str, params: Any) -> Any:
        return await super().aexecute_sql(sql, params)

    async def _create_pool_async(self) -> Any:
        kept = self.config.pool_size
        return Places(
            self.config.max_connections, kept, eager=self.eager or kept, patience_s=_PATIENCE_S
        )

    async def _acquire_conn_async(self) -> Any:
        places = self._pool or await self._ensure_pool()
        try:
            connection = await places.take(self.config.pool_timeout_s)
        except TimeoutError:
            raise PoolTimeout(
                f"{self.label}: all {self.config.max_connections} connections stayed in use "
                f"for {self.config.pool_timeout_s:g} s"
            ) from None
        try:
            if connection is None or not self._is_fresh(connection):
                async with asyncio.timeout(self._connect_limit_s):
                    connection = await self._checked(connection)
        except BaseException as error:
            places.give_back(None)
            if not isinstance(error, TimeoutError):
                raise
            raise DatabaseUnavailable(
                f"{self.label} did not answer within {self.config.connect_timeout_s:g} s"
            ) from None
        connection._pool = places
        return connection

    async def _checked(self, connection: Any) -> Any:
        """`connection`, or a new one where it does not answer."""
        usable = False
        if connection is not None:
            try:
                usable = await self._answers(connection)
            finally:
                if not usable:  # or the task was cancelled
                    await self._close_async(connection)
        if usable:
            return connection
        opened = await self._open_async()
        self._open_ones.add(opened)
        return opened

    async def _close_async(self, connection: Any) -> None:
        self._open_ones.discard(connection)
        await self._discard(connection)

    async def _release_conn(self, conn: Any) -> None:
        places: Places = conn._pool
        usable = self._is_clean(conn)
        try:
            usable = usable or await self._clean(conn)
        finally:
            try:
                if not (usable and places is self._pool and places.is_wanted()):
                    usable = False
                    await self._close_async(conn)
            finally:
                places.give_back(conn if usable else None)

    def _is_fresh(self, connection: Any) -> bool:
        """Whether a connection that was kept can be used without being asked."""
        raise NotImplementedError

    async def _answers(self, connection: Any) -> bool:
        """Whether a connection that was kept can be used."""
        raise NotImplementedError

    async def _open_async(self) -> Any:
        """A new connection."""
        raise NotImplementedError

    def _is_clean(self, connection: Any) -> bool:
        """Whether nothing is open on a connection that comes back, nor under way."""
        raise NotImplementedError

    async def _clean(self, connection: Any) -> bool:
        """Undo what a cancelled task has left; whether the connection can be used again."""
        raise NotImplementedError

    async def _discard(self, connection: Any) -> None:
        """Close a connection."""
        raise NotImplementedError

    async def _pool_close(self) -> None:
        while self._pool is not None and self._pool.idle:
            await self._close_async(self._pool.idle.pop())

    def pool_status(self) -> dict[str, int]:
        """How many connections are in use and idle, and how many there may be."""
        return {
            "in_use": self._pool.in_use if self._pool else 0,
            "idle": len(self._pool.idle) if self._pool else 0,
            "max": self.config.max_connections,
        }

    async def make_ready(self, *, read_only: bool) -> Any:  # noqa: ARG002
        """The connection of the current task, with all that a session waits for."""
        return await self.aconnect()

    def begins_late(self) -> bool:
        """Whether a transaction begins with its first statement, and nothing waits before."""
        return True

    def end_quietly(self, connection: Any) -> bool:
        """End a transaction that has nothing to commit, without an answer; False where it may."""
        raise NotImplementedError

    def is_connection_usable(self) -> bool:
        connection = self._state.conn
        return connection is not None and not connection.stale()

    # Peewee's own, since `begin()` and `commit()` of ours translate and guard.
    def atomic(self, *args: Any, **kwargs: Any) -> Any:
        return peewee._atomic(self, *args, **kwargs)

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        return peewee._transaction(self, *args, **kwargs)

    def savepoint(self) -> Any:
        return Savepoint(self)

    def _after_fork(self) -> None:
        self._state = pwasyncio._ConnectionState(release=self._release_conn)
        self._pool = None

    async def aclose_pool(self) -> None:
        """Close every connection that is not in use."""
        await pwasyncio.AsyncDatabaseMixin.close_pool(self)

    async def aclose_all(self) -> None:
        """Close every connection, also one that a task has never given back."""
        await self.aclose_pool()
        while self._open_ones:
            await self._discard(self._open_ones.pop())


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
        recent = time.monotonic() - connection.answered < _FRESH_S
        return recent and is_quiet(connection.conn)

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
        if connection.begin:
            await self._begin_async(connection)
        if not is_write(sql):
            if connection.guard_open:
                await self._close_guard_async(connection, control_word(sql))
            return await super()._run_async(sql, params)
        number = connection.guard + 1
        release = f"RELEASE SAVEPOINT hopper_{connection.guard}; " if connection.guard_open else ""
        await connection.conn.execute(f"{release}SAVEPOINT hopper_{number}")
        connection.guard, connection.guard_open = number, True
        try:
            return await super()._run_async(sql, params)
        except Exception:
            if not connection.stale():
                await connection.conn.execute(f"ROLLBACK TO SAVEPOINT hopper_{number}")
            raise

    async def _begin_async(self, connection: Any) -> None:
        begin, connection.begin = connection.begin, ""
        try:
            await connection.conn.execute(begin)
        except asyncio.CancelledError:
            terminate(connection.conn)  # it may have begun
            raise

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query of ours that writes nothing."""
        if self._is_watched():
            return super().fetch_all(sql, params)
        return cast("list[Any]", pwasyncio.await_(self._fetch_async(sql, params)))

    async def _fetch_async(self, sql: str, params: Sequence[Any]) -> list[Any]:
        start = time.perf_counter()
        with translated(self):
            connection = await self.aconnect()
            early = self.reads_early and connection.begin == PLAIN_BEGIN
            if connection.begin and not early:
                await self._begin_async(connection)
            rows: list[Any] = await connection.fetch(sql, params)
        self._note_time(sql, start)
        return rows

    async def _close_guard_async(self, connection: Any, word: str) -> None:
        connection.guard_open = not word
        if word in ("SAVEPOINT", "SET"):
            await connection.conn.execute(f"RELEASE SAVEPOINT hopper_{connection.guard}")

    def begin(self, isolation_level: str | None = None) -> None:
        connection = self._state.conn or pwasyncio.await_(self.aconnect())
        connection.guard, connection.guard_open = 0, False
        level = f" ISOLATION LEVEL {isolation_level}" if isolation_level else ""
        connection.begin = f"{PLAIN_BEGIN}{level}"

    def begin_read_only(self) -> None:
        self.begin("REPEATABLE READ READ ONLY")

    def end_quietly(self, connection: Any) -> bool:
        if not connection.begin:
            return False
        connection.begin = ""  # there were reads of ours alone
        return True

    def commit(self) -> None:
        connection = self._state.conn
        if connection is not None and self.end_quietly(connection):
            return
        lost = f"{self.label}: the connection was lost before the commit"
        if connection is None or connection.stale():
            raise DatabaseUnavailable(lost)
        try:
            with translated(cast("Database", self)):
                status = pwasyncio.await_(connection.commit())
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
        self._turn = Places(1, 1, eager=1, patience_s=_PATIENCE_S)

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

    async def make_ready(self, *, read_only: bool) -> Any:
        if read_only or self.in_memory:
            return await self.aconnect()
        connection = self._state.conn
        if connection is not None:
            self._end_turn(connection)
        await self._take_turn()
        try:
            connection = await self.aconnect()
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
        connection.begin_with(partial(begin_in_turn, timeout_ms=self.config.busy_timeout_ms))

    def begin_read_only(self) -> Any:
        connection = self._state.conn or pwasyncio.await_(self.aconnect())
        if self.in_memory:
            return super().begin_read_only()
        connection.begin_with(begin_read_only, read_only=True)
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

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query of ours that writes nothing."""
        if self.in_memory or self._is_watched():
            return super().fetch_all(sql, params)
        return cast("list[Any]", pwasyncio.await_(self._fetch_async(sql, params)))

    async def _fetch_async(self, sql: str, params: Sequence[Any]) -> list[Any]:
        start = time.perf_counter()
        connection = await self.aconnect()
        if not connection.is_waiting():
            self._check_transaction(connection.conn, sql)
        try:
            rows: list[Any] = await connection.fetch(sql, params)
        except Exception as error:
            if looked_too_early(error):
                return cast("list[Any]", (await self.aexecute_sql(sql, params)).fetchall())
            with translated(self):
                raise
        self._note_time(sql, start)
        return rows

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


_by_loop: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()


async def async_database(database: Database) -> Any:
    """The asynchronous side of a database in the running event loop."""
    if isinstance(database, AsyncDatabase):
        return database
    loop = asyncio.get_running_loop()
    known = _by_loop.setdefault(loop, {})
    found = known.get(id(database))
    if found is None or found[0]() is not database:
        made = _make(database)
        closer = _close_with_loop(made)
        await anext(closer)
        found = known[id(database)] = (weakref.ref(database), made, closer)
    return found[1]


def _make(database: Database) -> Any:
    if isinstance(database, SqliteDatabase):
        return AsyncSqliteDatabase(database.config, database.url, database)
    return AsyncPostgresqlDatabase(database.config, database.url)


async def _close_with_loop(database: Any) -> AsyncIterator[None]:
    """Suspended until the loop shuts its generators down, which is when connections are closed."""
    try:
        yield
    finally:
        await database.aclose_all()


# -- sessions -------------------------------------------------------------------------------------


class AsyncSession:
    """An open transaction on one database, for the task that opened it.

    Repositories take it as they take a synchronous session; `run()` runs their methods.
    """

    def __init__(self, session: Session) -> None:
        self.sync_session = session
        self._task = asyncio.current_task()
        self.busy = False
        self._streams: list[Any] = []

    def __repr__(self) -> str:
        return f"<AsyncSession on {self.sync_session.database.label}>"

    @property
    def database(self) -> Any:
        """The Peewee database, which `await database.run(fn)` and the like work on."""
        return self.sync_session.database

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a synchronous function that uses this session: a repository's method.

        For methods that give rows one by one, use `stream()`.
        """
        self._check_task()
        self.busy = True
        try:
            return await bridged(fn, *args, **kwargs)
        finally:
            self.busy = False

    async def stream(
        self, fn: Callable[P, Iterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[T]:
        """The rows of a method such as `iterate`, one by one, in constant memory."""
        rows = await self.run(fn, *args, **kwargs)
        self._streams.append(rows)
        try:
            while batch := await self.run(self._take, rows):
                for row in batch:
                    yield row
        finally:
            # The event loop ends a stream that was left early in another task, where nothing can be
            # asked of the database: the session does, when it ends.
            if self.is_of_this_task():
                await self._end_stream(rows)

    def _take(self, rows: Iterator[T]) -> list[T]:
        _ = self.database  # refuses where the session has ended meanwhile
        return list(islice(rows, _BATCH))

    async def end_streams(self) -> None:
        """End the streams that were left early; for the end of the session."""
        for rows in self._streams[:]:
            await self._end_stream(rows)

    async def end_elsewhere(self) -> None:
        """Be at an end without the transaction; for a task that has not opened the session.

        The event loop ends a generator that was left early in a task of its own.
        """
        self.sync_session.end()
        for rows in self._streams:
            with suppress(Exception):  # its transaction is not that of this task
                await bridged(rows.close)

    async def _end_stream(self, rows: Any) -> None:
        self._streams = [other for other in self._streams if other is not rows]
        close = getattr(rows, "close", None)
        if close is not None:
            await self.run(close)

    async def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement of the caller's own and give its rows, as `Session.execute` does."""
        return await self.run(self.sync_session.execute, sql, params)

    def is_of_this_task(self) -> bool:
        """Whether the current task has opened the session."""
        return asyncio.current_task() is self._task

    def _check_task(self) -> None:
        if not self.is_of_this_task():
            raise DatabaseError(
                "a session belongs to the task that opened it: open one in each task, and use "
                "asyncio.timeout() where asyncio.wait_for() would make a task of its own"
            )
        if self.busy:
            raise DatabaseError("a session runs one thing at a time: await the first one")


@dataclass
class _Together:
    """The sessions of one transaction, one inside the other."""

    open: int = 0
    lost: bool = False
    """Whether the outermost one was ended by another task, so that nothing can be committed."""


_together: weakref.WeakKeyDictionary[Any, _Together] = weakref.WeakKeyDictionary()


def open_async_session(
    database: Database | None = None, *, read_only: bool = False
) -> AbstractAsyncContextManager[AsyncSession]:
    """A session on the asynchronous side of a database, or of the one the proxy stands for."""
    return _Opening(database, read_only)


class _Opening(AbstractAsyncContextManager[AsyncSession]):
    """What `open_session()` does, for asyncio.

    The outermost session of a task, which begins with its first statement and often has nothing to
    commit, does it in fewer steps: many live for one statement.
    """

    def __init__(self, database: Database | None, read_only: bool) -> None:
        self._given = database
        self._read_only = read_only
        self._opened = False

    async def __aenter__(self) -> AsyncSession:
        target = self._database = await async_database(self._given or proxy.obj)
        state = self._state = target._state._current()
        nested = bool(state.transactions)
        self._is_late = not nested and target.begins_late()
        if not nested:
            self._opened = state.closed
            self._connection = await target.make_ready(read_only=self._read_only)
        try:
            await self._begin(target)
            enter(target)
            session = Session(target, read_only=self._read_only, nested=nested)
        except BaseException:
            await self._release()
            raise
        self._session = AsyncSession(session)
        self._outermost = state.transactions[0]
        self._together = _together.setdefault(self._outermost, _Together())
        self._together.open += 1
        return self._session

    async def _begin(self, target: Any) -> None:
        if self._is_late:
            kind = ReadOnlyTransaction if self._read_only else peewee._transaction
            self._scope = kind(target)
            self._scope.__enter__()
        else:
            self._scope = target.read_only() if self._read_only else target.atomic()
            await bridged(self._scope.__enter__)

    async def __aexit__(self, *exc_info: Any) -> None:
        together, here = self._together, self._session.is_of_this_task()
        together.open -= 1
        try:
            if here:
                await self._end_streams_and(*exc_info)
            else:
                together.lost |= not self._session.sync_session.nested
                await self._session.end_elsewhere()
        finally:
            if together.lost and not together.open:
                await self._undo()
        if (together.lost or not here) and exc_info[0] is None:
            raise DatabaseError(
                "nothing was committed: a session ends in the task that opened it, and another "
                "task has ended this one, or the one around it"
            )

    async def _end_streams_and(self, *exc_info: Any) -> None:
        try:
            await self._session.end_streams()
        except BaseException as error:
            await self._end(type(error), error, error.__traceback__)
            raise
        await self._end(*exc_info)

    async def _end(self, *exc_info: Any) -> None:
        target, state = self._database, self._state
        self._session.sync_session.end()
        try:
            quiet = self._is_late and not state.commit_callbacks
            if quiet and target.end_quietly(self._connection):
                state.transactions.pop()
            else:
                await bridged(self._scope.__exit__, *exc_info)
        finally:
            leave(target)
            await self._release()

    async def _undo(self) -> None:
        """Undo a transaction that has lost its session, whose task may not even know."""
        state = self._state
        if state.transactions[:1] == [self._outermost] and not self._session.busy:
            connection = state.conn
            state.reset()
            await self._database._release_conn(connection)

    async def _release(self) -> None:
        if self._opened and not self._state.transactions:
            await self._database.aclose()


async def run_in_async_transaction(
    fn: Callable[[AsyncSession], Awaitable[T]],
    *,
    database: Database | None = None,
    retries: int = 1,
    delay_s: float = 1.0,
) -> T:
    """The result of `await fn(session)`, run again as `run_in_transaction()` does."""
    check_retries(retries, delay_s)
    target = await async_database(database or proxy.obj)
    attempts = 1 if target.transaction_depth() else retries + 1
    for attempt in range(1, attempts + 1):
        try:
            async with open_async_session(target) as session:
                return await fn(session)
        except DatabaseError as error:
            if not error.retryable or attempt == attempts:
                raise
            logger.warning("transaction failed, trying again in %g s: %s", delay_s, error)
            await asyncio.sleep(delay_s)
    raise AssertionError("unreachable")
