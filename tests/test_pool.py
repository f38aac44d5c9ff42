"""The pool: what is kept, what goes, and who gets what."""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    PoolTimeout,
    SessionFactory,
    connect,
    create_database,
    get_sync_session,
)
from hopper_data.database import Database, proxy
from hopper_data.pool import Watchdog, in_time
from hopper_data.session import open_session

ON_BOTH = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])


@pytest.fixture
def open_database(make_url: Callable[..., str]) -> Iterator[Callable[..., Database]]:
    """Makes databases of a kind."""
    made: list[Database] = []

    def make(kind: str, **settings: Any) -> Database:
        made.append(create_database(make_url(kind), **settings))
        return made[-1]

    yield make
    for database in made:
        database.close_pool()


def hold_together(database: Database, count: int) -> None:
    """Have `count` sessions open at the same time, then none."""
    barrier = threading.Barrier(count)

    def hold(_: int) -> None:
        with open_session(database, read_only=True) as session:
            session.execute("SELECT 1")
            barrier.wait(30)

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(hold, range(count)))


def in_a_thread_that_ends(work: Callable[[], None]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    gc.collect()


def status(in_use: int, idle: int, most: int = 20) -> dict[str, int]:
    return {"in_use": in_use, "idle": idle, "max": most}


def connection_of(database: Database) -> int:
    with open_session(database, read_only=True):
        return id(database.connection())


@ON_BOTH
def test_idle_connections_shrink_to_what_is_kept(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind)
    assert database.pool_status() == status(0, 0)
    hold_together(database, 12)
    assert database.pool_status() == status(0, 5)
    with open_session(database):
        assert database.pool_status() == status(1, 4)
    database.close_pool()
    assert database.pool_status() == status(0, 0)
    assert open_database(kind, pool_size=0).pool_status() == status(0, 0)


@ON_BOTH
def test_the_connection_that_was_used_last_is_used_next(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind)
    hold_together(database, 4)
    used = [connection_of(database) for _ in range(5)]
    assert len(set(used)) == 1


@ON_BOTH
def test_an_old_connection_is_replaced(
    open_database: Callable[..., Database], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(kind, recycle_s=3600)
    with open_session(database, read_only=True):
        first = database.connection()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3599)
    assert connection_of(database) == id(first)
    monkeypatch.setattr(time, "time", lambda: now + 3601)
    with open_session(database, read_only=True):
        assert database.connection() is not first
    # One that grew old in use is not kept either.
    with open_session(database, read_only=True):
        monkeypatch.setattr(time, "time", lambda: now + 9000)
    assert database.pool_status() == status(0, 0)


@ON_BOTH
def test_a_database_whose_connections_are_never_recycled(
    open_database: Callable[..., Database], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(kind, recycle_s=0)
    with open_session(database, read_only=True):
        first = database.connection()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e6)
    assert connection_of(database) == id(first)


@ON_BOTH
def test_who_waits_gets_the_connection_that_comes_back(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind, max_connections=1, pool_size=0, pool_timeout_s=30)
    waiting = threading.Event()

    def ask() -> int:
        waiting.set()
        return connection_of(database)

    with ThreadPoolExecutor(1) as pool:
        with open_session(database, read_only=True):
            mine = database.connection()
            theirs = pool.submit(ask)
            waiting.wait(30)
            while not database._line:
                time.sleep(0.001)
        # It is not closed, though none is to be kept: somebody wants it.
        assert theirs.result(30) == id(mine)
    assert database.pool_status() == status(0, 0, 1)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])
def test_who_comes_again_at_once_does_not_keep_others_waiting(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind, max_connections=1, pool_size=1, pool_timeout_s=60)
    barrier, counts = threading.Barrier(4), [0] * 4

    def work(mine: int) -> None:
        barrier.wait(30)
        # Until everybody had some; with a pool that favours who is there already, never.
        while min(counts) < 20:
            with open_session(database, read_only=True) as session:
                session.execute("SELECT 1")
            counts[mine] += 1

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result(120)
    assert database.pool_status() == status(0, 1, 1)
    assert not database._line


@ON_BOTH
def test_a_full_pool_says_so(open_database: Callable[..., Database], kind: str) -> None:
    database = open_database(kind, max_connections=1, pool_size=1, pool_timeout_s=0.05)

    def ask() -> None:
        with pytest.raises(PoolTimeout, match=r"all 1 connections .* one has been for") as raised:
            connection_of(database)
        assert not raised.value.retryable

    with open_session(database, read_only=True), ThreadPoolExecutor(1) as pool:
        pool.submit(ask).result(30)
    assert connection_of(database)


@ON_BOTH
def test_an_exception_gives_the_connection_back(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind)
    for error in (ValueError, KeyboardInterrupt, DatabaseError):
        with pytest.raises(error), open_session(database):
            raise error("mine")
    with pytest.raises(DatabaseError), open_session(database) as session:
        session.execute("SELECT * FROM nowhere")
    assert database.pool_status() == status(0, 1)


@ON_BOTH
def test_a_thread_that_ends_does_not_take_its_connection_along(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind, max_connections=1, pool_size=1, pool_timeout_s=30)

    def forget() -> None:
        database.connect()
        database.execute_sql("SELECT 1")

    for _ in range(3):
        in_a_thread_that_ends(forget)
        assert database.pool_status() == status(0, 1, 1)
        assert connection_of(database)


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])
def test_a_thread_that_ends_in_a_read_only_session_leaves_one_that_writes(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind, max_connections=1, pool_size=1, pool_timeout_s=30)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER)")

    def forget() -> None:
        open_session(database, read_only=True).__enter__().execute("SELECT * FROM entries")

    in_a_thread_that_ends(forget)
    with open_session(database) as session:
        session.execute("INSERT INTO entries VALUES (1)")
    assert database.pool_status() == status(0, 1, 1)


@ON_BOTH
def test_a_thread_that_ends_in_a_transaction_leaves_nothing_of_it(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind, max_connections=1, pool_size=1, pool_timeout_s=30)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER)")

    def forget() -> None:
        database.connect()
        database.begin()
        database.execute_sql("INSERT INTO entries VALUES (1)")

    in_a_thread_that_ends(forget)
    with open_session(database) as session:
        assert session.execute("SELECT * FROM entries") == []
    assert database.pool_status() == status(0, 1, 1)


@ON_BOTH
def test_who_waits_gets_the_connection_of_a_thread_that_ended(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind, max_connections=1, pool_size=1, pool_timeout_s=30)
    taken, leave = threading.Event(), threading.Event()

    def forget() -> None:
        database.connect()
        taken.set()
        leave.wait(30)

    thread = threading.Thread(target=forget)
    thread.start()
    taken.wait(30)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(connection_of, database)
        while not database._line:
            time.sleep(0.001)
        leave.set()
        assert theirs.result(30)
    thread.join(30)


@ON_BOTH
def test_what_was_in_use_when_the_pool_was_closed_is_closed_on_its_return(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind)
    with open_session(database) as session:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(database.close_pool).result(30)
        session.execute("SELECT 1")
        database.close_pool()
        session.execute("SELECT 1")
    assert database.pool_status() == status(0, 0)
    assert connection_of(database)
    assert database.pool_status() == status(0, 1)


def test_the_connections_of_the_database_before_are_closed(make_url: Callable[..., str]) -> None:
    first = connect(make_url("sqlite"))
    try:
        with get_sync_session() as session:
            second = connect(make_url("sqlite"))
            assert proxy.default is second
            session.execute("SELECT 1")
        assert first.pool_status() == status(0, 0)
    finally:
        proxy.initialize(None)


@ON_BOTH
def test_connections_are_taken_and_given_once(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind)
    assert database.connect() is True
    assert database.connect(reuse_if_open=True) is False
    with pytest.raises(DatabaseError, match="already open in this thread"):
        database.connect()
    with database.atomic(), pytest.raises(DatabaseError, match="inside a transaction"):
        database.close()
    assert database.close() is True
    assert database.close() is False
    assert database.pool_status() == status(0, 1)


def test_a_database_in_memory_has_one_connection_for_all_threads() -> None:
    database = create_database("sqlite:///:memory:", pool_timeout_s=30)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER)")

    def add(number: int) -> None:
        with open_session(database) as session:
            session.execute("INSERT INTO entries VALUES (?)", (number,))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(50)))
    with open_session(database) as session:
        assert session.execute("SELECT COUNT(*) FROM entries") == [(50,)]
    assert database.pool_status() == status(0, 1, 1)


def test_a_factory_closes_its_connections(make_url: Callable[..., str]) -> None:
    with SessionFactory(make_url("postgresql")) as factory:
        with factory.get_session() as session:
            session.execute("SELECT 1")
        assert factory.database.pool_status() == status(0, 1)
    assert factory.database.pool_status() == status(0, 0)


# -- forks ----------------------------------------------------------------------------------------


@ON_BOTH
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_has_connections_of_its_own(
    open_database: Callable[..., Database], kind: str
) -> None:
    database = open_database(kind)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER)")
    with open_session(database, read_only=True) as session:
        mine = id(database.connection())
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with open_session(database) as own:
                    assert id(database.connection()) != mine
                    own.execute("INSERT INTO entries VALUES (1)")
                assert database.pool_status() == status(0, 1)
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert session.execute("SELECT COUNT(*) FROM entries") is not None
    with open_session(database) as session:
        assert session.execute("SELECT * FROM entries") == [(1,)]
    assert database.pool_status() == status(0, 1)


# -- what takes too long --------------------------------------------------------------------------


def test_a_connection_that_comes_in_time_is_given() -> None:
    assert in_time(30, lambda: "connection", list.clear) == "connection"  # type: ignore[arg-type]
    assert in_time(0, lambda: "connection", list.clear) == "connection"  # type: ignore[arg-type]


def test_an_error_that_comes_in_time_is_raised() -> None:
    def refuse() -> str:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        in_time(30, refuse, str)


def test_a_connection_that_comes_too_late_is_closed() -> None:
    arrived, closed = threading.Event(), threading.Event()

    def connect_late() -> str:
        arrived.wait(30)
        return "connection"

    with pytest.raises(TimeoutError):
        in_time(0.01, connect_late, lambda connection: closed.set())
    arrived.set()
    assert closed.wait(30)


def test_the_watchdog_rests_when_nothing_is_under_way() -> None:
    watchdog = Watchdog()
    for _ in range(2):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            with watchdog.watch(ours.fileno(), 0.01) as call:
                assert ours.recv(1) == b""
            assert call.overdue
            with watchdog.watch(theirs.fileno(), 30) as call:
                assert not call.overdue
        while watchdog._running:
            time.sleep(0.001)


def test_no_limit_means_no_watchdog(open_database: Callable[..., Database]) -> None:
    database = open_database("postgresql", connect_timeout_s=0)
    assert connection_of(database) == connection_of(database)
    unchecked = open_database("postgresql", pre_ping=False)
    with open_session(unchecked) as session:
        (pid,) = session.execute("SELECT pg_backend_pid()")[0]
    with open_session(database) as session:
        session.execute("SELECT pg_terminate_backend(?, 10000)", (pid,))
    with pytest.raises(DatabaseUnavailable), open_session(unchecked):
        pytest.fail("the connection is dead")
    assert connection_of(unchecked)
