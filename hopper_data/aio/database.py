"""What the asynchronous databases share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import peewee
from playhouse import pwasyncio

from hopper_data.aio.bridge import bridged
from hopper_data.aio.pool import Places
from hopper_data.database import Database
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError, DatabaseUnavailable, PoolTimeout
from hopper_data.transactions import Savepoint

__all__ = ["AsyncDatabase"]


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

    def connect(self, reuse_if_open: bool = False, *, for_session: bool = False) -> bool:  # noqa: ARG002
        if not self.is_closed():
            if reuse_if_open:
                return False
            raise DatabaseError("a connection is already open in this task")
        pwasyncio.await_(self.aconnect())
        return True

    def connect_for_session(self) -> bool:
        """Have a connection; whether the session that asks is to give it back."""
        return bool(self.connect(reuse_if_open=True))

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query of ours that writes nothing."""
        if self._fetches_at_once():
            rows: list[Any] = pwasyncio.await_(self._fetch_async(sql, params))
            return rows
        return Database.fetch_all(cast("Database", self), sql, params)

    async def afetch_all(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """What `fetch_all()` gives, for a coroutine."""
        if self._fetches_at_once():
            return await self._fetch_async(sql, params)
        return await bridged(self.fetch_all, sql, params)

    def _fetches_at_once(self) -> bool:
        """Whether rows may come straight from the driver, since nobody watches each statement."""
        return not cast("Database", self)._is_watched()

    async def _fetch_async(self, sql: str, params: Sequence[Any]) -> list[Any]:
        """The rows of a query, straight from the driver."""
        raise NotImplementedError

    copies = False

    def send(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """The cursor of a statement of ours."""
        return Database.send(cast("Database", self), sql, params)

    async def aconnect(self) -> Any:
        return await self._connected(self._state._current())

    async def _connected(self, state: Any) -> Any:
        """The connection in the state of a task; a new one where it has none that is open."""
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
        return Places(self.config.max_connections, kept, eager=self.eager or kept)

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

    async def make_ready(self, state: Any, *, read_only: bool) -> Any:  # noqa: ARG002
        """The connection of a task, with all that a session waits for."""
        return await self._connected(state)

    def begins_late(self) -> bool:
        """Whether a transaction begins with its first statement, and nothing waits before."""
        return True

    def begin_late(self, connection: Any, *, read_only: bool) -> None:
        """Let a transaction begin with the next statement of a connection that is ready."""
        raise NotImplementedError

    def end_quietly(self, connection: Any) -> bool:
        """End a transaction that has nothing to commit, without an answer; False where it may."""
        raise NotImplementedError

    async def acommit(self, connection: Any) -> None:  # noqa: ARG002
        """Commit the transaction on the connection of the current task."""
        await bridged(cast("Database", self).commit)

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
        """Close every connection that is not in use; a `DatabaseError` inside a session."""
        if self._state.transactions:
            raise DatabaseError("the connections cannot be closed inside a session of this task")
        await pwasyncio.AsyncDatabaseMixin.close_pool(self)

    async def aclose_all(self) -> None:
        """Close every connection, also one that a task has never given back."""
        await self.aclose_pool()
        while self._open_ones:
            await self._discard(self._open_ones.pop())
