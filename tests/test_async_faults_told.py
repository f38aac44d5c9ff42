"""Asynchronous sessions: what is said when a server falls silent, refuses, or breaks off."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    TaskRepository,
    create_database,
    run_in_async_transaction,
)
from hopper_data.aio import AsyncSession, async_database, open_async_session
from hopper_data.database import Database
from hopper_data.routing.asynchronous import AsyncTaskRepository
from hopper_data.session import open_session
from tests.async_entries import add, assert_well, pid_of
from tests.conftest import AdminCursor
from tests.servers import Server, end, make_entries, numbers, own_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def open_database(server: Server) -> Iterator[Callable[..., Database]]:
    """Opens the server's database, with an empty table `entries`."""
    make_entries(server)
    opened: list[Database] = []

    def open_it(**settings: Any) -> Database:
        opened.append(create_database(server.url, **settings))
        return opened[-1]

    yield open_it
    for database in opened:
        database.close_pool()


async def change(session: AsyncSession, number: int) -> None:
    await session.execute("UPDATE entries SET value = value + 1 WHERE number = ?", (number,))


async def refused(database: Database) -> DatabaseUnavailable:
    with pytest.raises(DatabaseUnavailable) as raised:
        async with asyncio.timeout(30), open_async_session(database):
            pytest.fail("it is not there")
    return raised.value


# -- silence --------------------------------------------------------------------------------------


def test_a_server_that_falls_silent(
    server: Server, open_database: Callable[..., Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Else what has just answered is not asked again.
    monkeypatch.setattr("hopper_data.aio.postgresql._FRESH_S", 0)
    database = open_database(connect_timeout_s=0.5)

    async def work() -> None:
        async with open_async_session(database) as session:
            await add(session, 1)
        with server.frozen():
            for error in await asyncio.gather(*(refused(database) for _ in range(3))):
                assert "did not answer within 0.5 s" in str(error)
                assert error.retryable
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == [1]


@pytest.mark.parametrize("waits_for", ["a statement", "the rollback", "the commit"])
def test_a_timeout_holds_while_the_server_is_silent(
    server: Server, open_database: Callable[..., Database], waits_for: str
) -> None:
    database = open_database(connect_timeout_s=0.5)

    async def write() -> None:
        async with asyncio.timeout(0.3), open_async_session(database) as session:
            await add(session, 1)
            freeze.set()
            await frozen.wait()
            if waits_for == "a statement":
                await add(session, 2)
            elif waits_for == "the rollback":
                await asyncio.sleep(30)

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                writing = asyncio.create_task(write())
                await freeze.wait()
                with server.frozen():
                    frozen.set()
                    await writing
        await assert_well(database)

    freeze, frozen = asyncio.Event(), asyncio.Event()
    asyncio.run(work())
    # A COMMIT that the server has received is done when it wakes up.
    assert numbers(database) in ([[], [1]] if waits_for == "the commit" else [[]])


# -- connections that drop ------------------------------------------------------------------------


def test_a_transaction_whose_connection_drops_twice_fails(
    server: Server, open_database: Callable[..., Database]
) -> None:
    database = open_database()
    runs: list[int] = []

    async def write(session: AsyncSession) -> None:
        runs.append(await pid_of(session))
        await asyncio.to_thread(end, server, runs[-1])
        await add(session, 1)

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable):
            await run_in_async_transaction(write, database=database, delay_s=0.01)
        await assert_well(database)

    asyncio.run(work())
    assert len(runs) == 2
    assert numbers(database) == []


@pytest.mark.parametrize("nested", [False, True])
def test_the_end_of_a_session_does_not_hide_what_went_wrong(
    server: Server, open_database: Callable[..., Database], nested: bool
) -> None:
    database = open_database()

    async def fail(session: AsyncSession) -> None:
        await asyncio.to_thread(end, server, await pid_of(session))
        raise LookupError("mine")

    async def work() -> None:
        with pytest.raises(LookupError, match="mine"):
            async with open_async_session(database) as session:
                await add(session, 1)
                if not nested:
                    await fail(session)
                async with open_async_session(database) as inner:
                    await fail(inner)
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == []


def test_a_stream_whose_connection_drops_is_told(
    server: Server, open_database: Callable[..., Database], make_url: Callable[..., str]
) -> None:
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"title": f"Task {n}"} for n in range(3000)])

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable):
            async with open_async_session(database) as session:
                pid = await pid_of(session)
                seen = 0
                async for _ in AsyncTaskRepository(session).iterate():
                    seen += 1
                    if seen == 1:
                        with open_session(database) as other:
                            other.execute("SELECT pg_terminate_backend(?, 10000)", (pid,))
        await assert_well(database)

    asyncio.run(work())
    database.close_pool()


# -- no room, no first host -----------------------------------------------------------------------


def test_a_server_without_room_for_us(
    server: Server, open_database: Callable[..., Database]
) -> None:
    open_database()
    with AdminCursor(server.url) as cursor:
        cursor.execute("DROP ROLE IF EXISTS crowded")
        cursor.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 1")
    crowded = create_database(
        server.url.replace("postgres:", "crowded:").replace("//postgres@", "//crowded@")
    )

    async def work() -> None:
        async with open_async_session(crowded):
            error = await asyncio.create_task(refused(crowded))
            assert "too many connections" in str(error)
        await assert_well(crowded)

    asyncio.run(work())
    crowded.close_pool()


def test_the_next_host_is_taken_when_the_first_one_is_not_there(
    server: Server, open_database: Callable[..., Database]
) -> None:
    open_database()
    database = create_database(
        f"postgresql://postgres@/postgres?host=/nowhere,{server.folder}&port=5432,5432"
        "&target_session_attrs=read-write"
    )

    async def work() -> None:
        async with open_async_session(database) as session:
            await add(session, 1)

    asyncio.run(work())
    assert numbers(database) == [1]
    database.close_pool()


# -- transactions in each other's way -------------------------------------------------------------


def test_one_of_two_transactions_in_a_deadlock_is_told(
    open_database: Callable[..., Database],
) -> None:
    database = open_database()
    with open_session(database) as session:
        session.execute("INSERT INTO entries (number) VALUES (1), (2)")

    async def move(first: int, second: int, ready: asyncio.Barrier) -> None:
        async with open_async_session(database) as session:
            await change(session, first)
            await ready.wait()
            await change(session, second)

    async def work() -> None:
        ready = asyncio.Barrier(2)
        async with asyncio.timeout(60):
            results = await asyncio.gather(
                move(1, 2, ready), move(2, 1, ready), return_exceptions=True
            )
        (error,) = filter(None, results)
        assert isinstance(error, DatabaseError)
        assert error.retryable
        assert "deadlock" in str(error)
        await assert_well(database)

    asyncio.run(work())
    with open_session(database) as session:
        assert session.execute("SELECT value FROM entries") == [(1,), (1,)]


def test_a_serialization_failure_says_what_it_is(open_database: Callable[..., Database]) -> None:
    database = open_database()

    async def work() -> None:
        async with open_async_session(database) as session:
            await add(session, 1)
        with pytest.raises(DatabaseError, match="lost a race") as raised:
            async with asyncio.timeout(60), open_async_session(database) as session:
                await session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                await session.execute("SELECT value FROM entries")
                await asyncio.create_task(
                    run_in_async_transaction(lambda other: change(other, 1), database=database)
                )
                await change(session, 1)
        assert raised.value.retryable
        assert isinstance(raised.value.__cause__, peewee.PeeweeException)
        await assert_well(database)

    asyncio.run(work())


# -- SQLite ---------------------------------------------------------------------------------------


def make_file(path: Path, **settings: Any) -> Database:
    database = create_database(f"sqlite:///{path}", **settings)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER PRIMARY KEY)")
    return database


def test_nothing_is_written_alone_after_sqlite_has_ended_a_transaction(tmp_path: Path) -> None:
    database = make_file(tmp_path / "x.db")
    with open_session(database) as session:
        session.execute(
            "CREATE TRIGGER picky BEFORE INSERT ON entries WHEN new.number = 13 "
            "BEGIN SELECT RAISE(ROLLBACK, 'not that one'); END"
        )

    async def work() -> None:
        with pytest.raises(DatabaseError, match="has ended this transaction"):
            async with open_async_session(database) as session:
                await add(session, 1)
                with pytest.raises(DatabaseError, match="not that one"):
                    await add(session, 13)
                await add(session, 2)
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == []
    database.close_pool()


def test_a_writer_that_waits_too_long_is_told(tmp_path: Path) -> None:
    database = make_file(tmp_path / "x.db", busy_timeout_ms=50)
    other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    async def work() -> None:
        async with open_async_session(database) as session:  # it begins with its first statement
            for _ in range(2):
                with pytest.raises(DatabaseUnavailable, match="locked by another writer") as raised:
                    await add(session, 2)
                assert not raised.value.retryable
        async with open_async_session(database, read_only=True) as session:
            assert await session.execute("SELECT COUNT(*) FROM entries") == [(0,)]
        other.execute("COMMIT")
        async with open_async_session(database) as session:
            await add(session, 1)
        await assert_well(database)

    asyncio.run(work())
    other.close()
    assert numbers(database) == [1]
    database.close_pool()


def test_a_task_whose_turn_to_write_does_not_come_is_told(tmp_path: Path) -> None:
    database = make_file(tmp_path / "x.db", busy_timeout_ms=50)

    async def work() -> None:
        async with open_async_session(database) as session:
            await add(session, 1)
            error = await asyncio.create_task(refused(database))
            assert "locked by another writer" in str(error)
            async with open_async_session(database):  # a savepoint
                await add(session, 2)
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == [1, 2]
    database.close_pool()


# -- load -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_hundred_tasks_at_once_lose_nothing(make_url: Callable[..., str], kind: str) -> None:
    database = create_database(make_url(kind), max_connections=8, pool_size=3)

    async def write(number: int) -> None:
        for turn in range(3):
            async with open_async_session(database) as session:
                await AsyncTaskRepository(session).create(title=f"{number} {turn}")
                if turn == 1:
                    raise LookupError("mine")

    async def work() -> None:
        results = await asyncio.gather(
            *(write(number) for number in range(100)), return_exceptions=True
        )
        assert {type(result) for result in results} == {LookupError}
        status = (await async_database(database)).pool_status()
        assert status["in_use"] == 0
        assert status["idle"] <= 3

    asyncio.run(work())
    with open_session(database) as session:
        titles = sorted(task.title for task in TaskRepository(session).iterate())
    assert titles == sorted(f"{number} 0" for number in range(100))
    database.close_pool()
