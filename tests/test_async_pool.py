"""The places of an asynchronous pool, and whose turn it is to write."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from hopper_data import DatabaseError, create_database, init_database
from hopper_data.aio import AsyncSession, async_database, open_async_session
from hopper_data.aio.pool import Places
from hopper_data.chat.asynchronous import AsyncUserRepository
from hopper_data.database import Database
from hopper_data.routing.asynchronous import AsyncTaskRepository


def run(work: Coroutine[Any, Any, None]) -> None:
    async def in_time() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(in_time())


async def given(places: Places, limit_s: float = 30) -> asyncio.Task[Any]:
    """A task that waits for a place, or has one."""
    task = asyncio.create_task(places.take(limit_s))
    await asyncio.sleep(0)
    return task


# -- places ---------------------------------------------------------------------------------------


def test_what_comes_back_goes_to_the_one_that_has_waited_longest() -> None:
    async def work() -> None:
        places = Places(1, 1, eager=1, patience_s=0.001)
        assert await places.take(1) is None
        first, second = await given(places), await given(places)
        assert places.has_waiters()
        places.give_back("connection")
        assert await first == "connection"
        assert not second.done()
        places.give_back("connection")
        assert await second == "connection"
        places.give_back("connection")
        assert (places.in_use, places.idle) == (0, ["connection"])
        assert await places.take(1) == "connection"

    run(work())


def test_more_places_are_given_out_when_nothing_comes_back() -> None:
    async def work() -> None:
        places = Places(3, 2, eager=1, patience_s=0.001)
        waiting = [await given(places) for _ in range(4)]
        assert [task.done() for task in waiting] == [True, False, False, False]
        await asyncio.gather(*waiting[:3])
        assert (places.in_use, waiting[3].done()) == (3, False)
        places.give_back(None)
        await waiting[3]

    run(work())


def test_no_place_is_a_timeout() -> None:
    async def work() -> None:
        places = Places(1, 1, eager=1, patience_s=0.001)
        await places.take(0)
        with pytest.raises(TimeoutError):
            await places.take(0.01)
        assert not places.has_waiters()
        places.give_back("connection")
        assert await places.take(0) == "connection"

    run(work())


def test_a_short_wait_takes_a_new_place_before_it_gives_up() -> None:
    async def work() -> None:
        places = Places(2, 1, eager=1, patience_s=10)
        await places.take(0)
        assert await places.take(0.01) is None
        assert places.in_use == 2

    run(work())


def test_a_place_that_came_too_late_for_a_cancelled_task_is_kept() -> None:
    async def work() -> None:
        places = Places(1, 1, eager=1, patience_s=0.001)
        await places.take(1)
        gone, next_one = await given(places), await given(places)
        places.give_back("connection")
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert await next_one == "connection"
        assert places.in_use == 1

    run(work())


@pytest.mark.parametrize("seed", range(5))
def test_places_are_neither_lost_nor_doubled(seed: int) -> None:
    luck = random.Random(seed)

    async def work() -> None:
        places = Places(4, 2, eager=seed % 3, patience_s=0.001)
        busy: set[str] = set()

        async def one(number: int) -> None:
            connection = await places.take(30) or f"connection {number}"
            assert connection not in busy
            busy.add(connection)
            try:
                assert places.in_use <= 4
                await asyncio.sleep(luck.choice((0, 0, 0.0005, 0.002)))
            finally:
                busy.discard(connection)
                places.give_back(connection if places.is_wanted() else None)

        tasks = [asyncio.create_task(one(number)) for number in range(200)]
        await asyncio.sleep(0.001)
        for task in luck.sample(tasks, 60):
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError)
        assert places.in_use == 0
        assert len(places.idle) <= 2

    run(work())


# -- SQLite: turns, and ends that nobody waits for -----------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = create_database(f"sqlite:///{tmp_path / 'x.db'}", busy_timeout_ms=20_000)
    init_database(made)
    yield made
    made.close_pool()


async def assert_free(database: Database) -> None:
    """Nobody keeps another process from writing."""
    await asyncio.to_thread(_begin_and_roll_back, database.database)


def _begin_and_roll_back(path: str) -> None:
    other = sqlite3.connect(path, timeout=30, isolation_level=None)
    other.executescript("BEGIN IMMEDIATE; ROLLBACK")
    other.close()


async def read(database: Database, *, read_only: bool = False) -> None:
    async with open_async_session(database, read_only=read_only) as session:
        await AsyncTaskRepository(session).count()


def test_a_session_that_has_only_read_keeps_nobody_from_writing(database: Database) -> None:
    async def work() -> None:
        for _ in range(3):
            await read(database)
            await assert_free(database)
            await asyncio.gather(*(read(database) for _ in range(20)))
            await assert_free(database)

    run(work())


def test_the_end_is_not_left_to_a_task_that_does_not_come(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).count()
            next_one = asyncio.create_task(read(database))
            await asyncio.sleep(0)
            inner = await async_database(database)
            assert inner._turn.has_waiters()
            asyncio.get_running_loop().call_soon(next_one.cancel)
        await asyncio.gather(next_one, return_exceptions=True)
        await assert_free(database)

    run(work())


def test_connections_are_not_closed_inside_a_session(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title="t")
            with pytest.raises(DatabaseError, match="inside a session"):
                await (await async_database(database)).aclose_pool()
        await (await async_database(database)).aclose_pool()
        async with open_async_session(database) as session:
            assert await AsyncTaskRepository(session).count() == 1

    run(work())


def test_writers_take_turns_and_lose_nothing(database: Database) -> None:
    async def add(number: int) -> None:
        async with open_async_session(database) as session:
            users = AsyncUserRepository(session)
            before = await users.count()
            await asyncio.sleep(0)
            await users.create(email=f"{before}@example.org", subject_id=f"s-{number}")

    async def work() -> None:
        await asyncio.gather(
            *(add(number) for number in range(30)), *(read(database) for _ in range(30))
        )
        async with open_async_session(database) as session:
            emails = {user.email for user in await AsyncUserRepository(session).get_all()}
        assert emails == {f"{number}@example.org" for number in range(30)}

    run(work())


def test_a_connection_that_was_read_only_may_write_again(database: Database) -> None:
    async def look(session: AsyncSession) -> None:
        await session.execute("SELECT COUNT(*) FROM tasks")
        with pytest.raises(DatabaseError, match="readonly"):
            await session.execute("DELETE FROM tasks")

    async def work() -> None:
        for number in range(3):
            async with open_async_session(database, read_only=True) as session:
                await AsyncTaskRepository(session).count()
                if number:
                    await look(session)
            async with open_async_session(database) as session:
                await AsyncTaskRepository(session).create(title="t")
        async with open_async_session(database) as session:
            assert await AsyncTaskRepository(session).count() == 3

    run(work())


def test_a_read_only_session_sees_one_state(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database, read_only=True) as session:
            tasks = AsyncTaskRepository(session)
            assert await tasks.count() == 0
            await asyncio.create_task(write())
            assert await tasks.count() == 0
        async with open_async_session(database, read_only=True) as session:
            assert await AsyncTaskRepository(session).count() == 1

    async def write() -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title="t")

    run(work())


def test_what_is_to_happen_after_a_commit_happens_when_nothing_was_written(
    database: Database,
) -> None:
    done: list[str] = []

    async def work() -> None:
        async with open_async_session(database) as session:
            session.database.after_commit(lambda: done.append("nothing asked"))
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).count()
            session.database.after_commit(lambda: done.append("read"))
        with pytest.raises(ZeroDivisionError):
            async with open_async_session(database) as session:
                session.database.after_commit(lambda: done.append("never"))
                _ = 1 / 0

    run(work())
    assert done == ["nothing asked", "read"]
