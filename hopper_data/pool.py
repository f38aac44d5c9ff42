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
_PATIENCE_S = 0.01
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
    - Who has waited for some milliseconds goes before who comes now. With Peewee threads that come
      again at once can keep others waiting for ever.
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
        self._opening: set[int] = set()
        self._line: deque[_Waiter] = deque()
        self._orphans: deque[PoolConnection] = deque()
        self._closed_at = 0.0
        self._recycle_s = self.config.recycle_s
        _live.add(self)

    # -- for one thread ---------------------------------------------------------------------------

    def connect(self, reuse_if_open: bool = False, *, for_session: bool = False) -> bool:
        """Take a connection for this thread; False when it has one and may use it again."""
        state = self._state
        if not state.closed:
            if not reuse_if_open:
                raise DatabaseError("a connection is already open in this thread")
            if self.in_transaction() or not self._is_closed(state.conn):
                return False
            self.close()
        lease = getattr(state, "lease", None)
        if lease is None:
            lease = state.lease = _Lease(self)
        self._opening.discard(id(lease))
        if lease.entry is not None:
            self._reclaim(lease.entry)
            lease.entry = None
        connection = self._connect(lease)
        lease.is_for_session = for_session
        # All else is as `reset()` has left it.
        state.conn, state.closed = connection, False
        return True

    def connect_for_session(self) -> bool:
        """Have a connection; whether the session that asks is to give it back.

        It also gives back what an earlier session would have, had it not been interrupted.
        """
        if self.connect(reuse_if_open=True, for_session=True):
            return True
        lease = self._state.lease
        return lease.is_for_session and not lease.runs_callbacks

    def _run_commit_callbacks(self) -> None:
        lease = getattr(self._state, "lease", None)
        if lease is None:
            super()._run_commit_callbacks()
            return
        lease.runs_callbacks = True
        try:
            super()._run_commit_callbacks()
        finally:
            lease.runs_callbacks = False

    def close(self) -> bool:
        """Give this thread's connection back; False when it has none."""
        state = self._state
        if state.closed:
            return False
        if state.transactions:
            raise DatabaseError("a connection cannot be given back inside a transaction")
        connection, lease = state.conn, state.lease
        state.reset()
        self._close(connection, answered=self._last_answer())
        lease.entry, lease.is_for_session = None, False
        return True

    def _reclaim(self, entry: PoolConnection) -> None:
        """Give back what an interrupt has left in this thread's hands."""
        with self._pool_lock:
            is_idle = any(each is entry.connection for _, _, each in self._connections)
            owner = self._in_use.get(id(entry.connection), entry)
            if owner is entry and not is_idle:
                self._in_use[id(entry.connection)] = entry
                self._close(entry.connection)

    def _last_answer(self) -> float:
        """When this thread's connection has answered last, by `time.perf_counter()`."""
        return 0.0

    def _note_answer(self, at: float) -> None:
        """Keep that for this thread."""

    # -- taking -----------------------------------------------------------------------------------

    def _connect(self, lease: _Lease | None = None) -> Any:
        deadline = time.monotonic() + self.config.pool_timeout_s
        while True:
            reserved = self._reserve(deadline, lease)
            if reserved is None:
                connection = self._open_reserved(lease)
                self._note_answer(time.perf_counter())
                return connection
            entry, answered = reserved
            silent_s = time.perf_counter() - answered
            usable = False
            try:
                usable = self._is_usable(entry, silent_s)
            finally:
                if not usable:
                    self._forget(entry.connection)
            if usable:
                looked = silent_s >= JUST_NOW_S and self.config.pre_ping
                self._note_answer(answered + silent_s if looked else answered)
                return entry.connection

    def _reserve(
        self, deadline: float, lease: _Lease | None
    ) -> tuple[PoolConnection, float] | None:
        """An idle connection, marked as taken, and when it has answered last.

        None, and a place for a new one, where there is none.
        """
        with self._pool_lock:
            if self._orphans:
                self._take_back_orphans()
            if (not self._line or self._line[0].is_patient()) and self._has_room():
                return self._take(lease)
            self._wait_in_line(deadline)
            return self._take(lease)

    def _has_room(self) -> bool:
        in_use = len(self._in_use) + len(self._opening)
        return bool(self._connections) or in_use < self.config.max_connections

    def _take(self, lease: _Lease | None) -> tuple[PoolConnection, float] | None:
        if not self._connections:
            self._opening.add(id(lease) if lease else threading.get_ident())
            return None
        created, answered, connection = self._connections[-1]
        entry = self._mark(connection, created, lease)
        self._connections.pop()
        return entry, answered

    def _wait_in_line(self, deadline: float) -> None:
        """Wait until there is a connection or a place, and nobody has waited longer."""
        waiter = _Waiter(self._pool_lock)
        self._line.append(waiter)
        try:
            while not (self._line[0] is waiter and self._has_room()):
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self._exhausted()
                # Threads that end without giving back cannot wake anybody.
                waiter.turn.wait(min(remaining, _LOOK_AGAIN_S))
                if self._orphans:
                    self._take_back_orphans()
        finally:
            self._line.remove(waiter)
            self._wake()  # there may be enough for the next one, too

    def _wake(self) -> None:
        """Let the first of those who wait look whether there is a connection or a place."""
        if self._line:
            self._line[0].turn.notify()

    def _exhausted(self) -> PoolTimeout:
        return PoolTimeout(
            f"{self.label}: all {self.config.max_connections} connections stayed in use for "
            f"{self.config.pool_timeout_s:g} s; one has been for {self.longest_use_s() or 0:g} s"
        )

    def _mark(self, connection: Any, created: float, lease: _Lease | None) -> PoolConnection:
        entry = PoolConnection(created, connection, time.time())
        if lease is not None:
            lease.entry = entry
        self._in_use[id(connection)] = entry
        return entry

    def _open_reserved(self, lease: _Lease | None) -> Any:
        connection = None
        try:
            connection = self._open()
        finally:
            with self._pool_lock:
                self._opening.discard(id(lease) if lease else threading.get_ident())
                if connection is None:
                    self._wake()
                else:
                    self._mark(connection, time.time(), lease)
        return connection

    def _open(self) -> Any:
        """A new connection of the driver, ready for use."""
        connection = super(PooledDatabase, self)._connect()
        if self.server_version is None:
            self._set_server_version(connection)
        return connection

    def _is_usable(self, entry: PoolConnection, silent_s: float) -> bool:
        if self._outlived(entry, entry.checked_out):
            return False
        if silent_s < JUST_NOW_S or not self.config.pre_ping:
            return True
        # Where the server has answered lately, what this machine knows of the connection will do.
        closed = self._has_hung_up if silent_s < _FRESH_S else self._is_closed
        return not closed(entry.connection)

    def _has_hung_up(self, conn: Any) -> bool:
        """Whether this machine knows that a connection is closed, the server not being asked."""
        return bool(self._is_closed(conn))

    def _outlived(self, entry: PoolConnection, now: float) -> bool:
        born: float = entry.timestamp
        return born < self._closed_at or 0 < self._recycle_s < now - born

    # -- giving back ------------------------------------------------------------------------------

    def _close(self, conn: Any, close_conn: bool = False, answered: float = 0.0) -> None:
        key = id(conn)
        keep = not close_conn and self._can_reuse(conn)
        with self._pool_lock:
            entry = self._in_use.get(key)
            room = len(self._connections) < self.config.pool_size + len(self._line)
            if keep and room and entry is not None and not self._outlived(entry, time.time()):
                del self._in_use[key]
                self._connections.append((entry.timestamp, answered, conn))
                if self._line:
                    self._wake()
                return
        try:
            # Before its place is free, or the server would see one too many.
            self._close_raw(conn)
        finally:
            with self._pool_lock:
                self._in_use.pop(key, None)
                self._wake()

    def _forget(self, connection: Any) -> None:
        self._close(connection, close_conn=True)

    def _take_back_orphans(self) -> None:
        while self._orphans:
            entry = self._orphans.popleft()
            connection: Any = entry.connection
            if self._in_use.get(id(connection)) is entry:
                self._take_back(connection)

    def _take_back(self, connection: Any) -> None:
        """Take a connection from a thread that has ended."""
        self._close(connection)

    def pool_status(self) -> dict[str, int]:
        """How many connections are in use and idle, and how many there may be."""
        with self._pool_lock:
            self._take_back_orphans()
            return {
                "in_use": len(self._in_use) + len(self._opening),
                "idle": len(self._connections),
                "max": self.config.max_connections,
            }

    def longest_use_s(self) -> float | None:
        """For how many seconds the connection that was taken first is in use; None if none is."""
        with self._pool_lock:
            taken = [entry.checked_out for entry in self._in_use.values()]
        return round(time.time() - min(taken), 3) if taken else None

    def close_stale(self, age: float = 600) -> int:
        """Close the connections that are in use for so many seconds, and count them."""
        closed = int(super().close_stale(age))
        with self._pool_lock:
            self._wake()
        return closed

    def close_all(self) -> None:
        """Close all connections, those in use by other threads, too."""
        super().close_all()
        with self._pool_lock:
            self._wake()

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
        self._opening, self._line, self._orphans = set(), deque(), deque()
        self._state = peewee._ConnectionLocal()
        self._lock = threading.Lock()


class _Waiter:
    """A thread that waits for a connection."""

    __slots__ = ("since", "turn")

    def __init__(self, lock: Any) -> None:
        self.since = time.monotonic()
        self.turn = threading.Condition(lock)

    def is_patient(self) -> bool:
        """Whether others may still go before it, which saves all of them a change of threads."""
        return time.monotonic() - self.since < _PATIENCE_S


class _Lease:
    """Lives in the state of a thread, and dies with it.

    `entry` is what the thread has taken and not given back. It is noted before it counts as taken,
    and forgotten after it counts as given back, so that no interrupt can make it lost.
    """

    entry: PoolConnection | None = None
    is_for_session = False
    """Whether a session has taken it, and is to give it back."""
    runs_callbacks = False
    """Whether that session is about to do so, after what waits for its commit."""
    _pool: Any = None

    def __init__(self, pool: PooledConnections) -> None:
        self._pool = weakref.ref(pool)

    def __del__(self) -> None:
        # May run anywhere, in a thread that holds the pool's lock too: it only leaves a note.
        pool = self._pool and self._pool()
        if pool is not None:
            pool._opening.discard(id(self))
            if self.entry is not None:
                pool._orphans.append(self.entry)


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
