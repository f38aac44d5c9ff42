"""Faults of a real server: what callers see, and that all is well afterwards."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import peewee
import psycopg2
import pytest

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    PoolTimeout,
    Session,
    check_database_health,
    create_database,
    get_database_health,
    run_in_transaction,
    using,
)
from hopper_data.database import Database
from hopper_data.driver_errors import translated
from hopper_data.session import open_session
from tests.conftest import AdminCursor
from tests.servers import Server, end, make_entries, numbers, own_server


@pytest.fixture(scope="module")
def the_server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def server(the_server: Server) -> Server:
    """The server, running."""
    if not the_server.is_running():
        the_server.start()
    return the_server


@pytest.fixture
def open_database(server: Server) -> Iterator[Callable[..., Database]]:
    """Makes databases on the server, with an empty table `entries`."""
    made: list[Database] = []
    make_entries(server)

    def make(**settings: Any) -> Database:
        made.append(create_database(server.url, **settings))
        return made[-1]

    yield make
    for database in made:
        database.close_pool()


def add(session: Session, number: int) -> None:
    session.execute("INSERT INTO entries (number) VALUES (?)", (number,))


def pid_of(session: Session) -> int:
    return int(session.execute("SELECT pg_backend_pid()")[0][0])


def assert_well(database: Database) -> None:
    """No connection has leaked, and this thread's next session works."""
    assert database.pool_status()["in_use"] == 0
    assert database.transaction_depth() == 0
    with open_session(database) as session:
        assert session.execute("SELECT 1") == [(1,)]
    assert database.pool_status()["in_use"] == 0


# -- the server goes and comes --------------------------------------------------------------------


def test_a_server_that_is_not_there(server: Server, open_database: Callable[..., Database]) -> None:
    database = open_database()
    server.stop()
    for _ in range(3):
        with pytest.raises(DatabaseUnavailable) as raised, open_session(database):
            pytest.fail("there is no server")
        assert raised.value.retryable
        assert isinstance(raised.value.__cause__, psycopg2.OperationalError)
    assert not check_database_health(database)
    health = get_database_health(database)
    assert health["reachable"] is False
    assert "refused" in health["error"] or "No such file" in health["error"]
    assert database.pool_status() == {"in_use": 0, "idle": 0, "max": 20}
    server.start()
    assert_well(database)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_between_two_sessions_is_not_seen(
    server: Server, open_database: Callable[..., Database], mode: str
) -> None:
    database = open_database()
    with ThreadPoolExecutor(5) as pool:
        barrier = threading.Barrier(5)
        assert list(pool.map(lambda n: hold(database, n, barrier), range(5))) == [None] * 5
    assert database.pool_status()["idle"] == 5
    server.restart(mode)
    assert numbers(database) == [0, 1, 2, 3, 4]
    assert_well(database)


def hold(database: Database, number: int, barrier: threading.Barrier) -> None:
    with open_session(database) as session:
        add(session, number)
        barrier.wait(30)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_inside_a_session_leaves_no_half_of_it(
    server: Server, open_database: Callable[..., Database], mode: str
) -> None:
    database = open_database()
    with pytest.raises(DatabaseUnavailable) as raised, open_session(database) as session:
        add(session, 1)
        server.restart(mode)
        add(session, 2)
    assert raised.value.retryable
    assert_well(database)
    assert numbers(database) == []


def test_a_transaction_waits_for_a_restart(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    runs = []

    def write(session: Session) -> int:
        runs.append(session)
        add(session, 1)
        if len(runs) == 1:
            server.restart()
        add(session, 2)
        return len(runs)

    assert run_in_transaction(write, database=database, delay_s=0.01) == 2
    assert numbers(database) == [1, 2]
    assert_well(database)


# -- one connection ends --------------------------------------------------------------------------


def test_a_connection_that_ended_while_idle_is_replaced(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    with open_session(database) as session:
        pid = pid_of(session)
    end(server, pid)
    with open_session(database) as session:
        assert pid_of(session) != pid
        add(session, 1)
    assert numbers(database) == [1]
    assert database.pool_status() == {"in_use": 0, "idle": 1, "max": 20}


def test_a_thread_that_keeps_a_connection_gets_another_one(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    database.connect()
    end(server, database.connection().info.backend_pid)
    with open_session(database) as session:
        add(session, 1)
    database.release()
    # The same without a session: the first statement fails, the next one does not.
    end(server, int(database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]))
    with pytest.raises(DatabaseUnavailable):
        database.execute_sql("SELECT 1")
    assert database.execute_sql("SELECT number FROM entries").fetchall() == [(1,)]
    database.release()
    assert_well(database)


def test_a_connection_that_ends_inside_a_session_takes_its_writes_along(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    with pytest.raises(DatabaseUnavailable), open_session(database) as session:
        add(session, 1)
        end(server, pid_of(session))
        add(session, 2)
    assert_well(database)
    assert numbers(database) == []


def test_a_connection_that_ends_while_a_session_rests_is_not_the_next_ones(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database(max_connections=1)
    for _ in range(3):
        with open_session(database):
            ((pid,),) = database.fetch_all("SELECT pg_backend_pid()")
            end(server, pid)
        assert_well(database)


def test_what_libpq_says_without_a_code_it_says_of_the_connection(database: Database) -> None:
    # psycopg2 has no better class where a restart ends a connection, which may be gone by then.
    silent = psycopg2.DatabaseError("server closed the connection unexpectedly")
    told = peewee.DatabaseError("server closed the connection unexpectedly")
    told.orig = silent
    for error in (silent, told):
        with pytest.raises(DatabaseUnavailable, match="closed the") as caught, translated(database):
            raise error
        assert caught.value.retryable
    with pytest.raises(DatabaseError) as refused, translated(database):
        raise psycopg2.ProgrammingError("can't execute an empty query")
    assert not isinstance(refused.value, DatabaseUnavailable)


def test_what_follows_a_lost_connection_is_never_written_alone(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    with pytest.raises(DatabaseUnavailable), open_session(database) as session:
        add(session, 1)
        end(server, pid_of(session))
        for number in (2, 3):
            with pytest.raises(DatabaseUnavailable):
                add(session, number)
    assert numbers(database) == []


def test_the_end_of_a_session_does_not_hide_what_went_wrong(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    for nested in (False, True):
        with pytest.raises(LookupError, match="mine"), open_session(database) as session:
            add(session, 1)
            with open_session(database) if nested else nullcontext():
                end(server, pid_of(session))
                raise LookupError("mine")
        assert_well(database)
    assert numbers(database) == []


def test_a_transaction_whose_connection_drops_is_tried_once_more(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    runs: list[int] = []

    def write(session: Session) -> str:
        runs.append(pid_of(session))
        add(session, len(runs))
        if len(runs) == 1:
            end(server, runs[-1])
        add(session, 10 + len(runs))
        return "done"

    assert run_in_transaction(write, database=database, delay_s=0.01) == "done"
    assert numbers(database) == [2, 12]
    assert_well(database)


def test_a_transaction_whose_connection_drops_twice_fails(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    runs: list[int] = []

    def write(session: Session) -> None:
        runs.append(pid_of(session))
        end(server, runs[-1])
        add(session, 1)

    with pytest.raises(DatabaseUnavailable):
        run_in_transaction(write, database=database, delay_s=0.01)
    assert len(runs) == 2
    assert_well(database)
    assert numbers(database) == []


def test_a_connection_that_drops_before_the_commit_is_noticed(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    runs: list[int] = []

    def write(session: Session) -> None:
        runs.append(pid_of(session))
        add(session, len(runs))
        if len(runs) == 1:
            end(server, runs[-1])

    run_in_transaction(write, database=database, delay_s=0.01)
    assert numbers(database) == [2]
    assert_well(database)


def test_a_commit_without_an_answer_is_not_tried_again(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    runs = []

    def cut(number: int) -> None:
        time.sleep(0.3)
        connection = socket.socket(fileno=os.dup(number))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def write(session: Session) -> None:
        runs.append(session)
        add(session, 1)
        os.kill(pid_of(session), signal.SIGSTOP)
        stopped.append(database.connection().info.backend_pid)
        threading.Thread(target=cut, args=(database.connection().fileno(),)).start()

    stopped: list[int] = []
    with pytest.raises(DatabaseUnavailable, match="is not known") as raised:
        run_in_transaction(write, database=database, delay_s=0.01)
    os.kill(stopped[0], signal.SIGCONT)
    assert not raised.value.retryable
    assert len(runs) == 1
    assert_well(database)


# -- nobody answers, nothing is free --------------------------------------------------------------


def test_a_server_that_takes_connections_and_says_nothing(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        database = create_database(
            f"postgresql://nobody@127.0.0.1:{port}/nothing", connect_timeout_s=0.5
        )
        start = time.monotonic()

        def ask(_: int) -> str:
            with pytest.raises(DatabaseUnavailable) as raised, open_session(database):
                pytest.fail("there is no server")
            return str(raised.value)

        with ThreadPoolExecutor(10) as pool:
            messages = list(pool.map(ask, range(10)))
        # One after the other they would have taken five seconds.
        assert time.monotonic() - start < 4
        assert {message.rpartition("/")[2] for message in messages} == {
            "nothing did not answer within 0.5 s"
        }
        assert database.pool_status() == {"in_use": 0, "idle": 0, "max": 20}
        health = get_database_health(database)
        assert health["reachable"] is False
        assert "did not answer within 0.5 s" in health["error"]


def test_a_server_that_falls_silent(
    server: Server, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else what has just answered is not asked again.
    monkeypatch.setattr("hopper_data.pool._FRESH_S", 0)
    database = open_database(connect_timeout_s=0.5)
    with open_session(database) as session:
        add(session, 1)
    assert database.pool_status()["idle"] == 1
    with server.frozen():
        with ThreadPoolExecutor(3) as pool:
            for error in pool.map(lambda _: refused(database), range(3)):
                assert "did not answer within" in str(error)
                assert error.retryable
        assert get_database_health(database)["reachable"] is False
        assert database.pool_status() == {"in_use": 0, "idle": 0, "max": 20}
    assert_well(database)
    assert numbers(database) == [1]


def refused(database: Database) -> DatabaseUnavailable:
    with pytest.raises(DatabaseUnavailable) as raised, open_session(database):
        pytest.fail("there was an answer")
    return raised.value


def test_every_connection_is_taken(open_database: Callable[..., Database]) -> None:
    database = open_database(max_connections=2, pool_size=2, pool_timeout_s=0.2)
    taken, done = threading.Barrier(3), threading.Event()

    def keep(number: int) -> None:
        with open_session(database) as session:
            add(session, number)
            taken.wait(30)
            done.wait(30)

    with ThreadPoolExecutor(2) as pool:
        keepers = [pool.submit(keep, number) for number in range(2)]
        taken.wait(30)
        for _ in range(3):
            with pytest.raises(PoolTimeout, match=r"all 2 .* stayed in use for 0\.2 s"):
                numbers(database)
        assert database.pool_status() == {"in_use": 2, "idle": 0, "max": 2}
        health = get_database_health(database)
        assert health["reachable"] is True
        assert health["pool"]["in_use"] == 2
        assert health["oldest_transaction_s"] >= 0
        done.set()
        for keeper in keepers:
            keeper.result(30)
    assert numbers(database) == [0, 1]
    assert_well(database)


def test_a_server_without_room_for_us(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    with AdminCursor(server.url) as cursor:
        cursor.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    crowded = create_database(
        server.url.replace("postgres:", "crowded:").replace("//postgres@", "//crowded@")
    )
    with open_session(crowded), ThreadPoolExecutor(1) as pool:
        assert "too many connections" in str(pool.submit(refused, crowded).result(30))
    assert_well(crowded)
    crowded.close_pool()
    assert_well(database)


def test_the_next_host_is_taken_when_the_first_one_is_not_there(
    server: Server, open_database: Callable[..., Database]
) -> None:
    open_database()
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        database = create_database(
            f"postgresql://postgres@/postgres?host=/nowhere,127.0.0.1,{server.folder}"
            f"&port=5432,{port},5432&target_session_attrs=read-write"
        )
        with open_session(database) as session:
            add(session, 1)
        assert numbers(database) == [1]
        database.close_pool()


# -- transactions in each other's way -------------------------------------------------------------


def test_one_of_two_transactions_in_a_deadlock_is_told(
    open_database: Callable[..., Database],
) -> None:
    database = open_database()
    with open_session(database) as session:
        add(session, 1)
        add(session, 2)
    barrier = threading.Barrier(2)

    def move(first: int, second: int) -> DatabaseError | None:
        try:
            with open_session(database) as session:
                change(session, first)
                barrier.wait(30)
                change(session, second)
        except DatabaseError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as pool:
        results = [f.result(60) for f in (pool.submit(move, 1, 2), pool.submit(move, 2, 1))]
    (error,) = filter(None, results)
    assert error.retryable
    assert "deadlock" in str(error)
    with open_session(database) as session:
        assert session.execute("SELECT value FROM entries") == [(1,), (1,)]
    assert_well(database)


def change(session: Session, number: int) -> None:
    session.execute("UPDATE entries SET value = value + 1 WHERE number = ?", (number,))


def test_a_transaction_that_lost_a_deadlock_is_run_again(
    open_database: Callable[..., Database],
) -> None:
    database = open_database()
    with open_session(database) as session:
        add(session, 1)
        add(session, 2)
    barrier = threading.Barrier(2)
    runs = []

    def move(first: int, second: int) -> None:
        mine: list[int] = []

        def both(session: Session) -> None:
            change(session, first)
            if not mine:
                mine.append(first)
                barrier.wait(30)
            change(session, second)
            runs.append(first)

        run_in_transaction(both, database=database, delay_s=0.01)

    with ThreadPoolExecutor(2) as pool:
        for future in (pool.submit(move, 1, 2), pool.submit(move, 2, 1)):
            future.result(60)
    with open_session(database) as session:
        assert session.execute("SELECT value FROM entries") == [(2,), (2,)]
    assert sorted(runs) == [1, 2]
    assert_well(database)


def test_a_transaction_that_lost_a_serialization_race_is_run_again(
    open_database: Callable[..., Database],
) -> None:
    database = open_database()
    with open_session(database) as session:
        add(session, 1)
    barrier = threading.Barrier(2)
    attempts: list[int] = []

    def work(number: int) -> None:
        mine: list[int] = []

        def count_up(session: Session) -> None:
            attempts.append(number)
            session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
            ((value,),) = session.execute("SELECT value FROM entries WHERE number = 1")
            if not mine:
                mine.append(value)
                barrier.wait(30)
            session.execute("UPDATE entries SET value = ? WHERE number = 1", (value + 1,))

        run_in_transaction(count_up, database=database, delay_s=0.01)

    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(work, number) for number in range(2)]:
            future.result(60)
    with open_session(database) as session:
        assert session.execute("SELECT value FROM entries") == [(2,)]
    assert len(attempts) == 3
    assert_well(database)


def test_a_serialization_failure_says_what_it_is(open_database: Callable[..., Database]) -> None:
    database = open_database()
    with open_session(database) as session:
        add(session, 1)
    with (
        pytest.raises(DatabaseError, match="lost a race") as raised,
        open_session(database) as session,
    ):
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT value FROM entries")
        with ThreadPoolExecutor(1) as pool:
            pool.submit(run_in_transaction, lambda s: change(s, 1), database=database).result(30)
        change(session, 1)
    assert raised.value.retryable
    assert isinstance(raised.value.__cause__, peewee.PeeweeException)
    assert_well(database)


# -- load while the server is restarted -----------------------------------------------------------


def test_every_write_is_accounted_for_while_the_server_restarts(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database(max_connections=6, pool_size=3)
    stop = threading.Event()
    done: list[int] = []
    unknown: list[int] = []
    failed: list[int] = []

    def work(worker: int) -> None:
        number = worker * 1_000_000
        while not stop.is_set():
            number += 1
            try:
                run_in_transaction(
                    lambda s, n=number: add(s, n),  # type: ignore[misc]
                    database=database,
                    delay_s=0.2,
                )
            except DatabaseUnavailable as error:
                (failed if error.retryable else unknown).append(number)
                time.sleep(0.01)
            else:
                done.append(number)

    with ThreadPoolExecutor(8) as pool:
        workers = [pool.submit(work, number) for number in range(8)]
        try:
            for mode in ("fast", "immediate"):
                time.sleep(0.3)
                server.restart(mode)
            time.sleep(0.5)
        finally:
            stop.set()
        for worker in workers:
            worker.result(60)
    stored = set(numbers(database))
    assert set(done) <= stored
    assert not set(failed) & stored
    assert stored <= {*done, *unknown}
    assert len(done) > 100
    assert_well(database)


# -- SQLite ---------------------------------------------------------------------------------------


def test_nothing_is_written_alone_after_sqlite_has_ended_a_transaction(tmp_path: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path}/x.db")
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY)")
        database.execute_sql(
            "CREATE TRIGGER picky BEFORE INSERT ON entries WHEN new.number = 13 "
            "BEGIN SELECT RAISE(ROLLBACK, 'not that one'); END"
        )
    with (
        pytest.raises(DatabaseError, match="has ended this transaction"),
        open_session(database) as session,
    ):
        add(session, 1)
        with pytest.raises(DatabaseError, match="not that one"):
            add(session, 13)
        add(session, 2)
    assert numbers(database) == []
    assert_well(database)
    database.close_pool()


def test_a_writer_that_waits_too_long_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    database = create_database(f"sqlite:///{path}", busy_timeout_ms=50)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY)")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(DatabaseUnavailable, match="locked by another writer") as raised,
        open_session(database),
    ):
        pytest.fail("it is locked")
    assert not raised.value.retryable
    with open_session(database, read_only=True) as session:
        assert session.execute("SELECT COUNT(*) FROM entries") == [(0,)]
    other.execute("COMMIT")
    other.close()
    with open_session(database) as session:
        add(session, 1)
        assert session.execute("PRAGMA busy_timeout") == [(50,)]
    assert_well(database)
    database.close_pool()


def test_using_gives_its_connection_back_after_a_fault(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    with using(database):
        end(server, int(database.execute_sql("SELECT pg_backend_pid()").fetchone()[0]))
        with pytest.raises(DatabaseUnavailable):
            database.execute_sql("SELECT 1")
    assert_well(database)
