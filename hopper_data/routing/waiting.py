"""Waiting for work, without asking for it again and again.

For each database one thread looks on behalf of all who wait in this process, over one connection.
PostgreSQL tells it when a task may have become ready; of a SQLite file it watches the counter that
every commit moves on. What becomes ready by time alone, such as the end of a back-off or of a
lease, it waits for itself. The thread and its connection go when nobody waits any more.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import selectors
import socket
import threading
import time
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import lru_cache
from random import uniform
from typing import Any, TypeVar

from hopper_data.database import Database, create_database, proxy
from hopper_data.errors import DatabaseError
from hopper_data.routing.arguments import seconds
from hopper_data.routing.models import Task
from hopper_data.routing.readiness import (
    SELECTION_TYPES,
    Clock,
    Selection,
    Texts,
    ask_sql,
    candidates_sql,
    lapsed_sql,
    moment,
    readable_sql,
    ready_sql,
)
from hopper_data.routing.schema import WAKING_CHANNEL
from hopper_data.session import Session

__all__ = ["async_wait_for_tasks", "wait_for_tasks", "wait_in_session", "waiting_for"]

T = TypeVar("T")

_LINGER_S = 1.0
_LONGEST_S = 60.0  # between two looks, whatever happens: clocks may be set
_SHORTEST_POLL_S, _LONGEST_POLL_S = 0.005, 0.04
_FIRST_RETRY_S, _LAST_RETRY_S = 0.05, 2.0


def wait_for_tasks(
    timeout: timedelta | float,
    *,
    projects: Texts = None,
    capabilities: Texts = None,
    tags: Texts = None,
    database: Database | None = None,
) -> bool:
    """Wait until there is a task that `claim_next` with these arguments would give, or may give.

    True at once when there is one, False after `timeout`, a timedelta or seconds. Another worker
    may be faster, so True does not promise a claim. Uses the database that the proxy stands for,
    unless another one is given; inside a session use `TaskRepository(session).wait_for_tasks`.
    """
    selection = Selection.of(projects, capabilities, tags)
    timeout_s = seconds(timeout, "timeout")
    target = database or proxy.obj
    deadline = time.monotonic() + timeout_s
    if _look_outside(target, selection):
        return True
    with waiting_for(target, selection, None) as answer:
        return _result(answer, deadline - time.monotonic())


async def async_wait_for_tasks(
    timeout: timedelta | float,
    *,
    projects: Texts = None,
    capabilities: Texts = None,
    tags: Texts = None,
    database: Database | None = None,
) -> bool:
    """`wait_for_tasks`, for asyncio: the event loop goes on meanwhile."""
    selection = Selection.of(projects, capabilities, tags)
    timeout_s = seconds(timeout, "timeout")
    target = database or proxy.obj
    deadline = time.monotonic() + timeout_s
    if await asyncio.to_thread(_look_outside, target, selection):
        return True
    with waiting_for(target, selection, None) as answer:
        return await _async_result(answer, deadline - time.monotonic())


def wait_in_session(
    session: Session, selection: Selection, timeout_s: float, clock: Clock | None
) -> bool:
    """The same, inside a session, synchronous or not; `clock` says what time it is.

    On SQLite a session keeps all others from writing. One that has written nothing yet lets go of
    its transaction meanwhile; one that has is refused.
    """
    database = session.database
    deadline = time.monotonic() + timeout_s
    claimable, delay_s = look(database, selection, clock)
    if claimable or timeout_s == 0:
        return claimable
    if getattr(database, "in_memory", False):
        # The session has the only connection, so nothing but the time can change.
        return _wait_alone(session, selection, deadline, delay_s, clock)
    with session.suspended(), waiting_for(database, selection, clock) as answer:
        left_s = deadline - time.monotonic()
        if is_asynchronous(database):
            return _await(_async_result(answer, left_s))
        return _result(answer, left_s)


def _wait_alone(
    session: Session,
    selection: Selection,
    deadline: float,
    delay_s: float | None,
    clock: Clock | None,
) -> bool:
    claimable = False
    while not claimable and (left_s := deadline - time.monotonic()) > 0:
        pause_s = left_s if delay_s is None else min(left_s, delay_s)
        if is_asynchronous(session.database):
            _await(asyncio.sleep(pause_s))
        else:
            time.sleep(pause_s)
        claimable, delay_s = look(session.database, selection, clock)
    return claimable


def is_asynchronous(database: Database) -> bool:
    """Whether a database waits on an event loop."""
    return hasattr(database, "aclose_pool")


def _await(awaitable: Awaitable[T]) -> T:
    from playhouse.pwasyncio import await_

    result: T = await_(awaitable)
    return result


def _result(answer: Future[bool], timeout_s: float) -> bool:
    try:
        return answer.result(max(timeout_s, 0))
    except TimeoutError:
        return False


async def _async_result(answer: Future[bool], timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(answer)
    except TimeoutError:
        return False


# -- looking --------------------------------------------------------------------------------------


def look(
    database: Database, selection: Selection, clock: Clock | None = None
) -> tuple[bool, float | None]:
    """Whether there is a task to claim, and in how many seconds the time may bring another one."""
    sql = _look_sql(database.dialect, tuple(value is not None for value in selection))
    row = database.execute_sql(sql, (moment(database.dialect, clock), *selection)).fetchone()
    now, next_at = (Task.run_after.python_value(value) for value in row[1:])
    return bool(row[0]), None if next_at is None else (next_at - now).total_seconds()


@lru_cache(maxsize=16)
def _look_sql(dialect: str, given: tuple[bool, ...]) -> str:
    chosen = Selection.shaped(given).sql(dialect, "task") + readable_sql(dialect, "task")
    now = "(SELECT now FROM ask)"

    def some(condition: str, index: str) -> str:
        source = candidates_sql(dialect, index)
        return f"EXISTS (SELECT 1 FROM {source} WHERE {condition}{chosen})"

    ready = ready_sql(dialect, "task", now, claim=True)
    lapsed = f"{lapsed_sql('task', now)} AND task.attempts < task.max_attempts"
    moments = (
        "SELECT min(run_after) AS moment FROM tasks "
        f"WHERE (status = 'pending') IS TRUE AND run_after > {now} "
        "UNION ALL SELECT min(lease_expires_at) FROM tasks "
        f"WHERE lease_token IS NOT NULL AND lease_expires_at > {now}"
    )
    return (
        f"{ask_sql(dialect, SELECTION_TYPES)} "
        f"SELECT {some(ready, 'idx_tasks_claim')} OR {some(lapsed, 'idx_tasks_lease')}, {now}, "
        f"(SELECT min(moment) FROM ({moments}) AS moments)"
    )


def _look_outside(database: Database, selection: Selection) -> bool:
    if database.in_transaction():
        raise DatabaseError(
            "wait_for_tasks is for outside of sessions; inside of one use "
            "TaskRepository(session).wait_for_tasks(…)"
        )
    opened = database.connect(reuse_if_open=True)
    try:
        return look(database, selection)[0]
    finally:
        if opened:
            database.release()


# -- the thread that looks for all ----------------------------------------------------------------


class _Waiter:
    """Somebody who waits, and the answer that will be given."""

    def __init__(self, selection: Selection, clock: Clock | None) -> None:
        self.wish = (selection, clock)
        self.answer: Future[bool] = Future()
        self.looked = False

    def tell(self, error: DatabaseError | None = None) -> None:
        """Answer that there is a task, or with an error."""
        with suppress(InvalidStateError):  # given up in the same moment
            if error is None:
                self.answer.set_result(True)
            else:
                self.answer.set_exception(error)


@contextmanager
def waiting_for(
    database: Database, selection: Selection, clock: Clock | None
) -> Iterator[Future[bool]]:
    """The answer that a waiter will be given, for as long as it waits."""
    waiter = _Waiter(selection, clock)
    watcher = _join(database, waiter)
    try:
        yield waiter.answer
    finally:
        watcher.leave(waiter)


class _Watcher:
    """The thread that looks for the waiters of one database."""

    def __init__(self, key: Any, signals: _Signals) -> None:
        self.key = key
        self.signals = signals
        self.waiters: list[_Waiter] = []
        self.stopping = False
        self._idle_since = self._next_look = 0.0
        self.thread = threading.Thread(target=self._run, name="hopper-waiting", daemon=True)

    def leave(self, waiter: _Waiter) -> None:
        """Look for a waiter no longer."""
        with _registry.lock:
            self.waiters.remove(waiter)
            if self.waiters:
                return
            self._idle_since = time.monotonic()
        self.signals.nudge()

    def stop(self) -> None:
        """End the thread and close its connection, before the process ends."""
        self.stopping = True
        self.signals.nudge()
        self.thread.join(_LINGER_S)

    def _run(self) -> None:
        retry_s, changed = _FIRST_RETRY_S, True
        while not self._is_over():
            try:
                changed = self.signals.open() or changed
                delay_s = self._look_for(changed)
                changed = self.signals.wait(_LINGER_S if delay_s is None else delay_s)
                retry_s = _FIRST_RETRY_S
            except Exception as error:  # noqa: BLE001  # else they would wait for a dead thread
                self._report(error)
                with suppress(Exception):
                    self.signals.close()
                time.sleep(uniform(retry_s / 2, retry_s))  # noqa: S311  # no secret
                retry_s = min(2 * retry_s, _LAST_RETRY_S)
        with suppress(Exception):  # of a connection that is lost
            self.signals.end()

    def _is_over(self) -> bool:
        """Whether nobody waits, nor has for a while."""
        with _registry.lock:
            idle = not self.waiters and time.monotonic() - self._idle_since >= _LINGER_S
            if not idle and not self.stopping:
                return False
            _registry.watchers.pop(self.key, None)
            return True

    def _look_for(self, everybody: bool) -> float | None:
        """Answer those for whom there is a task; how long to wait, None when nobody does."""
        with _registry.lock:
            waiters = list(self.waiters)
        if not waiters:
            return None
        wishes: dict[Any, list[_Waiter]] = {}
        for waiter in waiters:
            if everybody or not waiter.looked:
                wishes.setdefault(waiter.wish, []).append(waiter)
        if everybody:
            self._next_look = time.monotonic() + _LONGEST_S
        for wish, members in wishes.items():
            claimable, delay_s = self.signals.look(*wish)
            for waiter in members:
                waiter.looked = True
                if claimable:
                    waiter.tell()
            if delay_s is not None:
                self._next_look = min(self._next_look, time.monotonic() + delay_s)
        return max(self._next_look - time.monotonic(), 0)

    def _report(self, error: Exception) -> None:
        """Tell those who have had no look yet; the others wait for the database to come back."""
        if not isinstance(error, DatabaseError):
            error = DatabaseError(f"{self.signals.database.label}: {error!r}")
        with _registry.lock:
            waiters = [waiter for waiter in self.waiters if not waiter.looked]
        for waiter in waiters:
            waiter.tell(error)


class _Registry:
    """The watchers of this process, by database."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.watchers: dict[Any, _Watcher] = {}
        self.abandoned: list[_Watcher] = []

    def forget(self) -> None:
        """In the child of a fork: the threads are not there, the connections are the parent's.

        They are kept, since closing them would end them for the parent.
        """
        self.lock = threading.Lock()
        self.abandoned.extend(self.watchers.values())
        self.watchers = {}

    def stop(self) -> None:
        """End all threads."""
        with self.lock:
            watchers = list(self.watchers.values())
        for watcher in watchers:
            watcher.stop()


_registry = _Registry()
atexit.register(_registry.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_registry.forget)


def _join(database: Database, waiter: _Waiter) -> _Watcher:
    """Have the watcher of a database look for a waiter, too."""
    memory = getattr(database, "in_memory", False)
    key = id(database) if memory else (database.config, database.database)
    with _registry.lock:
        watcher = _registry.watchers.get(key)
        if watcher is None:
            kind = _Notifications if database.dialect == "postgresql" else _Polling
            watcher = _Watcher(key, kind(database))
            watcher.thread.start()  # it waits for the lock
            _registry.watchers[key] = watcher
        watcher.waiters.append(waiter)
    watcher.signals.nudge()
    return watcher


# -- signals --------------------------------------------------------------------------------------


class _Signals:
    """A connection of its own to a database, and what tells that something has changed there."""

    def __init__(self, database: Database) -> None:
        if getattr(database, "in_memory", False):
            self.database = database
        else:
            config = replace(database.config, echo=False, pool_size=1, max_connections=1)
            self.database = create_database(config)
            # The same file, also when the current folder is another one meanwhile.
            self.database.database = database.database

    def open(self) -> bool:
        """Be connected; whether something may have changed of which there will be no signal."""
        raise NotImplementedError

    def look(self, selection: Selection, clock: Clock | None) -> tuple[bool, float | None]:
        """What `look()` finds over this connection."""
        return look(self.database, selection, clock)

    def wait(self, delay_s: float) -> bool:
        """Wait for a signal, a nudge or the delay; False when it was the nudge."""
        raise NotImplementedError

    def nudge(self) -> None:
        """End the present or the next `wait()`, from another thread."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection; `open()` makes a new one."""
        self.database.release()
        if not getattr(self.database, "in_memory", False):
            self.database.close_pool()

    def end(self) -> None:
        """Close all there is."""
        self.close()


class _Notifications(_Signals):
    """What a trigger on PostgreSQL notifies of."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._nudged, self._nudge = socket.socketpair()
        for end in (self._nudged, self._nudge):
            end.settimeout(0)

    def open(self) -> bool:
        if not self.database.is_closed():
            return False
        self.database.connect()
        self.database.execute_sql(f"LISTEN {WAKING_CHANNEL}")
        return True

    def wait(self, delay_s: float) -> bool:
        connection = self.database.connection()
        if self._heard(connection):
            return True
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._nudged, selectors.EVENT_READ)
            ready = {key.fileobj for key, _ in selector.select(delay_s)}
        if self._nudged in ready:
            with suppress(BlockingIOError):
                self._nudged.recv(4096)
        if connection in ready:
            self._receive(connection)
        return self._heard(connection) or not ready

    def _receive(self, connection: Any) -> None:
        try:
            connection.poll()
        except Exception as error:
            # Of the driver, which is not imported here.
            raise DatabaseError(f"{self.database.label}: {error}", retryable=True) from error

    def _heard(self, connection: Any) -> bool:
        heard = bool(connection.notifies)
        connection.notifies.clear()
        return heard

    def nudge(self) -> None:
        with suppress(BlockingIOError, OSError):
            self._nudge.send(b"\0")

    def end(self) -> None:
        self._nudged.close()
        self._nudge.close()
        super().end()


class _Polling(_Signals):
    """The counter of SQLite that every commit of another connection moves on.

    A database in memory has one connection alone, which has to be looked at.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._in_memory = bool(getattr(database, "in_memory", False))
        self._nudged = threading.Event()
        self._version: Any = None

    def open(self) -> bool:
        opened = self.database.connect(reuse_if_open=True)
        before, self._version = self._version, self._read_version()
        return opened or before != self._version

    def _read_version(self) -> Any:
        if self._in_memory:
            return None
        return self.database.connection().execute("PRAGMA data_version").fetchone()

    def wait(self, delay_s: float) -> bool:
        if self._in_memory:
            self.database.release()
        deadline = time.monotonic() + delay_s
        pause_s = _SHORTEST_POLL_S
        while (left_s := deadline - time.monotonic()) > 0:
            if self._nudged.wait(min(left_s, uniform(pause_s / 2, pause_s))):  # noqa: S311
                self._nudged.clear()
                return False
            if self._in_memory and pause_s >= _LONGEST_POLL_S:
                return True
            if not self._in_memory and self._read_version() != self._version:
                return True
            pause_s = min(pause_s * 1.5, _LONGEST_POLL_S)
        return True

    def nudge(self) -> None:
        self._nudged.set()
