"""The pool of connections, the same for PostgreSQL and for SQLite files.

It is Peewee's pool; `PooledConnections` says where it falls short of what a service needs, and why.
`in_time()` and `watchdog` bound what a driver would wait for without end.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import peewee
from playhouse.pool import PoolConnection, PooledDatabase

from hopper_data.config import DatabaseConfig
from hopper_data.errors import DatabaseError, PoolTimeout

__all__ = ["JUST_NOW_S", "PooledConnections", "in_time", "watchdog"]

T = TypeVar("T")
_LOOK_AGAIN_S = 1.0
_FRESH_S = 0.1
JUST_NOW_S = 0.0002
"""For so long after an answer a connection is not asked whether it is there."""


class PooledConnections(PooledDatabase):
    """Peewee's pool, extended where our table of guarantees asks for more.

    - Peewee opens and checks connections while it holds two locks, so a server that does not
      answer makes every thread queue behind the first one. Here a place in the pool is reserved
      under the lock, and the network is used outside of it.
    - Idle connections shrink to `pool_size` again; Peewee keeps all that were ever opened. One
      that somebody waits for is never closed.
    - The connection that was used last is handed out first, so that spare ones age and go.
    - An exhausted pool raises `PoolTimeout`, not a ValueError.
    - A connection that comes back in the middle of a transaction is thrown away; Peewee asks the
      server to roll back, which may be what does not answer.
    - A thread with a dead connection gets a new one with its next session. With Peewee it is
      stuck until it calls `close()`.
    - A thread that ends without giving its connection back does not take it along.
    - What was in use when the pool was closed is closed when it comes back.
    - After a fork the child forgets the connections of its parent.
    """

    config: DatabaseConfig
    label: str
    _connections: list[tuple[float, float, Any]]
    _in_use: dict[int, PoolConnection]
    _state: Any

    def _prepare_pool(self) -> None:
        self._opening = 0
        self._waiting = 0
        self._orphans: deque[Any] = deque()
        self._closed_at = 0.0
        self._recycle_s = self.config.recycle_s
        _live.add(self)

    # -- for one thread ---------------------------------------------------------------------------

    def connect(self, reuse_if_open: bool = False) -> bool:
        """Take a connection for this thread; False when it has one and may use it again."""
        state = self._state
        if not state.closed:
            if not reuse_if_open:
                raise DatabaseError("a connection is already open in this thread")
            if self.in_transaction() or not self._is_closed(state.conn):
                return False
            self.close()
        connection = self._connect()
        # All else is as `reset()` has left it.
        state.conn, state.closed = connection, False
        lease = getattr(state, "lease", None)
        if lease is None:
            lease = state.lease = _Lease(self)
        lease.connection = connection
        return True

    def close(self) -> bool:
        """Give this thread's connection back; False when it has none."""
        state = self._state
        if state.closed:
            return False
        if state.transactions:
            raise DatabaseError("a connection cannot be given back inside a transaction")
        connection = state.conn
        state.lease.connection = None
        state.reset()
        self._close(connection)
        return True

    # -- taking -----------------------------------------------------------------------------------

    def _connect(self) -> Any:
        deadline = 0.0
        while True:
            now = time.monotonic()
            deadline = deadline or now + self.config.pool_timeout_s
            reserved = self._reserve(deadline)
            if reserved is None:
                return self._open_reserved()
            entry, idle_since = reserved
            usable = False
            try:
                usable = self._usable(entry, now - idle_since)
            finally:
                if not usable:
                    self._forget(entry.connection)
            if usable:
                return entry.connection

    def _reserve(self, deadline: float) -> tuple[PoolConnection, float] | None:
        """An idle connection, marked as taken, and since when it was idle.

        None, and a place for a new one, where there is none.
        """
        with self._pool_lock:
            while True:
                if self._orphans:
                    self._take_back_orphans()
                if self._connections:
                    created, idle_since, connection = self._connections.pop()
                    return self._mark(connection, created), idle_since
                if len(self._in_use) + self._opening < self.config.max_connections:
                    self._opening += 1
                    return None
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._exhausted()
                self._waiting += 1
                try:
                    # Threads that end without giving back cannot wake anybody.
                    self._pool_available.wait(min(remaining, _LOOK_AGAIN_S))
                finally:
                    self._waiting -= 1

    def _exhausted(self) -> PoolTimeout:
        return PoolTimeout(
            f"{self.label}: all {self.config.max_connections} connections stayed in use for "
            f"{self.config.pool_timeout_s:g} s; one has been for {self.longest_use_s() or 0:g} s"
        )

    def _mark(self, connection: Any, created: float) -> PoolConnection:
        entry = self._in_use[id(connection)] = PoolConnection(created, connection, time.time())
        return entry

    def _open_reserved(self) -> Any:
        connection = None
        try:
            connection = self._open()
        finally:
            with self._pool_available:
                self._opening -= 1
                if connection is None:
                    self._pool_available.notify()
                else:
                    self._mark(connection, time.time())
        return connection

    def _open(self) -> Any:
        """A new connection of the driver, ready for use."""
        connection = super(PooledDatabase, self)._connect()
        if self.server_version is None:
            self._set_server_version(connection)
        return connection

    def _usable(self, entry: PoolConnection, idle_s: float) -> bool:
        if self._outlived(entry, entry.checked_out):
            return False
        if idle_s < JUST_NOW_S or not self.config.pre_ping:
            return True
        # Where the server has answered lately, what this machine knows of the connection will do.
        fresh = idle_s < _FRESH_S
        closed = self._has_hung_up if fresh else self._is_closed
        return not closed(entry.connection)

    def _has_hung_up(self, conn: Any) -> bool:
        """Whether this machine knows that a connection is closed, the server not being asked."""
        return bool(self._is_closed(conn))

    def _outlived(self, entry: PoolConnection, now: float) -> bool:
        born: float = entry.timestamp
        return born < self._closed_at or 0 < self._recycle_s < now - born

    # -- giving back ------------------------------------------------------------------------------

    def _close(self, conn: Any, close_conn: bool = False) -> None:
        key = id(conn)
        keep = not close_conn and self._can_reuse(conn)
        with self._pool_lock:
            entry = self._in_use.get(key)
            room = len(self._connections) < self.config.pool_size + self._waiting
            if keep and room and entry is not None and not self._outlived(entry, time.time()):
                del self._in_use[key]
                self._connections.append((entry.timestamp, time.monotonic(), conn))
                if self._waiting:
                    self._pool_available.notify()
                return
        try:
            # Before its place is free, or the server would see one too many.
            self._close_raw(conn)
        finally:
            with self._pool_available:
                self._in_use.pop(key, None)
                self._pool_available.notify()

    def _forget(self, connection: Any) -> None:
        self._close(connection, close_conn=True)

    def _take_back_orphans(self) -> None:
        while self._orphans:
            self._close(self._orphans.popleft())

    def pool_status(self) -> dict[str, int]:
        """How many connections are in use and idle, and how many there may be."""
        with self._pool_lock:
            self._take_back_orphans()
            return {
                "in_use": len(self._in_use) + self._opening,
                "idle": len(self._connections),
                "max": self.config.max_connections,
            }

    def longest_use_s(self) -> float | None:
        """For how many seconds the connection that was taken first is in use; None if none is."""
        with self._pool_lock:
            taken = [entry.checked_out for entry in self._in_use.values()]
        return round(time.time() - min(taken), 3) if taken else None

    def close_pool(self) -> None:
        """Close this thread's connection and the idle ones; the others when they come back."""
        if not self.in_transaction():
            self.close()
        with self._pool_lock:
            self._closed_at = time.time()
            self._take_back_orphans()
        self.close_idle()

    def _after_fork(self) -> None:
        # The parent goes on using its sockets and files; closing them here would disturb it.
        _inherited.append((self._connections, self._in_use, self._orphans, self._state))
        self._pool_lock = threading.RLock()
        self._pool_available = threading.Condition(self._pool_lock)
        self._connections, self._in_use = [], {}
        self._opening = self._waiting = 0
        self._orphans = deque()
        self._state = peewee._ConnectionLocal()
        self._lock = threading.Lock()


class _Lease:
    """Lives in the state of a thread, and dies with it.

    `connection` is what the thread has taken and not given back.
    """

    def __init__(self, pool: PooledConnections) -> None:
        self._pool = weakref.ref(pool)
        self.connection: Any = None

    def __del__(self) -> None:
        # May run anywhere, in a thread that holds the pool's lock too: it only leaves a note.
        pool = self._pool()
        if pool is not None and self.connection is not None:
            pool._orphans.append(self.connection)


_inherited: list[Any] = []
_live: weakref.WeakSet[PooledConnections] = weakref.WeakSet()


def _forget_after_fork() -> None:
    watchdog.forget()
    for database in list(_live):
        database._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


# -- what takes too long --------------------------------------------------------------------------


def in_time(seconds: float, connect: Callable[[], T], close: Callable[[T], object]) -> T:
    """What `connect()` gives, or a TimeoutError; what it gives later is closed. 0 is no limit.

    libpq has a limit of its own, but one for each address that a name stands for, in whole seconds
    from 2 up, and none for finding the addresses.
    """
    from concurrent.futures import Future

    result: Future[T] = Future()

    def work() -> None:
        try:
            connection = connect()
        except BaseException as error:  # noqa: BLE001  # goes to the thread that waits
            if result.set_running_or_notify_cancel():
                result.set_exception(error)
        else:
            if result.set_running_or_notify_cancel():
                result.set_result(connection)
            else:
                close(connection)

    threading.Thread(target=work, name="hopper_data connecting", daemon=True).start()
    try:
        return result.result(seconds or None)
    except TimeoutError:
        if result.cancel():
            raise
        return result.result()  # it came at the last moment
    except BaseException:
        if not result.cancel() and result.exception() is None:
            close(result.result())
        raise


class _Call:
    """A call of a driver that is under way on the socket with a number."""

    __slots__ = ("deadline", "overdue", "socket_number")

    def __init__(self, socket_number: int, deadline: float) -> None:
        self.socket_number = socket_number
        self.deadline = deadline
        self.overdue = False


class Watchdog:
    """Ends calls that a server leaves without an answer.

    libpq has no limit for a statement. While there are calls, a thread looks after them and shuts
    the socket of one that is overdue, which then fails as on a connection that was lost.
    """

    _TICK_S = 0.05

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start anew, as in the child after a fork."""
        self._lock = threading.Lock()
        self._calls: set[_Call] = set()
        self._running = False

    @contextmanager
    def watch(self, socket_number: int, seconds: float) -> Iterator[_Call]:
        """Watch over the calls inside a `with` block; `overdue` says that they were ended."""
        call = _Call(socket_number, time.monotonic() + seconds)
        with self._lock:
            self._calls.add(call)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="hopper_data watchdog", daemon=True).start()
        try:
            yield call
        finally:
            with self._lock:
                self._calls.discard(call)

    def _run(self) -> None:
        while True:
            time.sleep(self._TICK_S)
            with self._lock:
                if not self._calls:
                    self._running = False
                    return
                now = time.monotonic()
                for call in self._calls:
                    if call.deadline <= now and not call.overdue:
                        call.overdue = True
                        _shut(call.socket_number)


def _shut(number: int) -> None:
    with suppress(OSError):
        opened = socket.socket(fileno=number)
        try:
            opened.shutdown(socket.SHUT_RDWR)
        finally:
            opened.detach()


watchdog = Watchdog()
