"""Writers of a SQLite file take turns, and SQLite waits by itself for whatever is not a turn."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hopper_data import Task, TaskRepository, create_database, using
from hopper_data.aio import open_async_session
from hopper_data.database import Database
from hopper_data.errors import DatabaseUnavailable
from hopper_data.migrations import migrate
from hopper_data.session import open_session
from hopper_data.sqlite_turns import FileConnection


def make(path: Path, **settings: object) -> Database:
    database = create_database(f"sqlite:///{path}", **settings)
    migrate(database=database)
    return database


def interrupt() -> None:
    raise KeyboardInterrupt


def busy_timeout(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA busy_timeout").fetchone()[0])


def test_sqlite_waits_wherever_a_caller_can_look(tmp_path: Path) -> None:
    database = make(tmp_path / "x.db")
    with open_session(database) as session:
        TaskRepository(session).create(id="a", title="A")
        own = database._state.conn
        assert isinstance(own, FileConnection)
        assert busy_timeout(own) == 0  # nothing waits in a transaction of the write-ahead log
        assert session.execute("PRAGMA busy_timeout") == [(5000,)]
    with open_session(database) as session:
        TaskRepository(session).create(id="b", title="B")
    with open_session(database, read_only=True) as session:
        assert database._state.conn is own
        assert busy_timeout(own) == 5000
    with open_session(database) as session:
        TaskRepository(session).create(id="c", title="C")
    assert busy_timeout(database.connection()) == 5000
    database.close_pool()


def test_sqlite_waits_outside_of_sessions(tmp_path: Path) -> None:
    database = make(tmp_path / "x.db", busy_timeout_ms=60_000)

    def write() -> None:
        with open_session(database) as session:
            TaskRepository(session).create(title="T")

    write()
    number, *_ = database.execute_sql("PRAGMA busy_timeout").fetchone()  # takes it from the pool
    assert number == 60_000
    database.release()
    write()
    with using(database), another_writer(tmp_path / "x.db", ends_after_s=0.2):
        Task.create(id="a", title="A")
    database.release()
    write()
    connection = database.connection()
    write()
    with another_writer(tmp_path / "x.db", ends_after_s=0.2):
        connection.execute("UPDATE tasks SET title = 'B' WHERE id = 'a'")
    with open_session(database):
        assert busy_timeout(connection) == 60_000
    database.close_pool()


@contextmanager
def another_writer(path: Path, *, ends_after_s: float | None = None) -> Iterator[None]:
    """Another connection has its turn, to the end of the block or for some seconds."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(ends_after_s or 0, other.execute, ["COMMIT"])
    if ends_after_s is not None:
        end.start()
    try:
        yield
    finally:
        if ends_after_s is None:
            end.start()
        end.join()
        other.close()


def test_an_interrupt_while_it_waits_leaves_sqlite_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make(tmp_path / "x.db", busy_timeout_ms=60_000)

    with another_writer(tmp_path / "x.db"), monkeypatch.context() as patch:
        patch.setattr("hopper_data.sqlite_turns.time.sleep", lambda _: interrupt())
        with pytest.raises(KeyboardInterrupt), open_session(database):
            pass
    assert database.pool_status()["in_use"] == 0
    assert database.execute_sql("PRAGMA busy_timeout").fetchone() == (60_000,)
    database.close_pool()


def test_sqlite_waits_in_every_transaction_without_a_write_ahead_log(tmp_path: Path) -> None:
    # Its COMMIT waits for readers.
    database = make(tmp_path / "x.db", journal_mode="delete", busy_timeout_ms=1234)
    with open_session(database) as session:
        TaskRepository(session).create(id="a", title="A")
        assert busy_timeout(database._state.conn) == 1234
    database.close_pool()


def test_a_turn_that_does_not_come_is_told(tmp_path: Path) -> None:
    database = make(tmp_path / "x.db", busy_timeout_ms=60)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(DatabaseUnavailable, match="locked by another writer"),
        open_session(database),
    ):
        pass
    other.execute("COMMIT")
    other.close()
    with open_session(database) as session:
        TaskRepository(session).create(id="a", title="A")
    database.close_pool()


def test_after_a_turn_that_did_not_come_sqlite_waits_for_asyncio_too(tmp_path: Path) -> None:
    database = make(tmp_path / "x.db", busy_timeout_ms=60)

    async def work() -> None:
        with another_writer(tmp_path / "x.db"), pytest.raises(DatabaseUnavailable, match="locked"):
            async with open_async_session(database) as session:
                await session.execute("SELECT 1")
        async with open_async_session(database, read_only=True) as session:
            assert await session.execute("PRAGMA busy_timeout") == [(60,)]

    asyncio.run(work())
    database.close_pool()


def test_a_writer_that_waits_for_its_turn_can_be_interrupted(tmp_path: Path) -> None:
    connection = sqlite3.connect(
        tmp_path / "x.db", isolation_level=None, factory=FileConnection, check_same_thread=False
    )
    refused = threading.Event()

    def write() -> None:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.begin_in_turn(600_000)
        refused.set()

    with another_writer(tmp_path / "x.db"):
        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(600):  # it does not hear what comes before it waits
            connection.interrupt()
            if refused.wait(0.1):
                break
        thread.join(30)
    assert refused.is_set()
    connection.begin_in_turn(60_000)
    connection.close()


def test_another_error_than_a_lock_is_not_waited_for(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "x.db", isolation_level=None, factory=FileConnection)
    connection.begin_in_turn(60_000)
    with pytest.raises(sqlite3.OperationalError, match="within a transaction"):
        connection.begin_in_turn(60_000)
    connection.close()


def test_a_newcomer_gets_its_turn_among_writers_that_never_pause(tmp_path: Path) -> None:
    database = make(tmp_path / "x.db", busy_timeout_ms=60_000)
    ended = threading.Event()
    counts = {"first": 0, "second": 0}

    def write(name: str) -> None:
        while not ended.is_set():
            with open_session(database) as session:
                TaskRepository(session).create(title=name)
            counts[name] += 1

    threads = [threading.Thread(target=write, args=(name,)) for name in counts]
    for thread in threads:
        thread.start()
    for number in range(20):
        with open_session(database) as session:
            TaskRepository(session).create(id=f"newcomer-{number}", title="Newcomer")
    ended.set()
    for thread in threads:
        thread.join()
    with open_session(database, read_only=True) as session:
        assert TaskRepository(session).count() == sum(counts.values()) + 20
    database.close_pool()


@pytest.mark.parametrize(("long_s", "pauses"), [(0, 2), (60, 0)])
def test_after_a_long_transaction_others_have_time_to_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, long_s: float, pauses: int
) -> None:
    database = make(tmp_path / "x.db")
    slept: list[float] = []
    monkeypatch.setattr("hopper_data.sqlite_turns._LONG_S", long_s)
    monkeypatch.setattr("hopper_data.sqlite_turns._NEXT_S", 60)  # the next one follows at once
    with monkeypatch.context() as patch:
        patch.setattr("hopper_data.sqlite_turns.time.sleep", slept.append)
        for number in range(3):
            with open_session(database) as session:
                TaskRepository(session).create(id=f"{number}", title="T")
            if not number:
                slept.clear()  # a migration came before
    assert slept == [120] * pauses
    database.close_pool()
