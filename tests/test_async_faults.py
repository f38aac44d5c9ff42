"""Asynchronous sessions when something breaks: the right error, no leak, and the next one works."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

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


@pytest.fixture
def server(make_url: Callable[..., str]) -> Iterator[Database]:
    """A PostgreSQL database with two tasks."""
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"id": name, "title": name} for name in ("a", "b")])
    yield database
    database.close_pool()


async def in_use(database: Database) -> int:
    return int((await async_database(database)).pool_status()["in_use"])


def contexts(database: Database) -> list[Any]:
    with open_session(database) as session:
        return [task.context for task in TaskRepository(session).get_all()]


def test_a_deadlock_is_run_again_and_both_are_done(server: Database) -> None:
    attempts = []

    async def write(session: AsyncSession, first: str, second: str, ready: asyncio.Barrier) -> None:
        attempts.append(first)
        tasks = AsyncTaskRepository(session)
        await tasks.update(first, context=f"by {first}")
        if len(attempts) <= 2:
            await ready.wait()
        await tasks.update(second, context=f"by {first}")

    async def work() -> None:
        ready = asyncio.Barrier(2)
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(
                    run_in_async_transaction(
                        lambda session, pair=pair: write(session, *pair, ready),
                        database=server,
                        delay_s=0,
                    )
                    for pair in (("a", "b"), ("b", "a"))
                )
            )
        assert await in_use(server) == 0

    asyncio.run(work())
    assert len(attempts) >= 3
    assert len(set(contexts(server))) == 1


def test_a_lost_serialization_race_is_run_again(server: Database) -> None:
    attempts = []

    async def add(session: AsyncSession, ready: asyncio.Barrier) -> None:
        attempts.append(1)
        await session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        tasks = AsyncTaskRepository(session)
        task = await tasks.get_or_raise("a")
        if len(attempts) <= 2:
            await ready.wait()
        await tasks.update("a", context=str(int(task.context or 0) + 1))

    async def work() -> None:
        ready = asyncio.Barrier(2)
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(
                    run_in_async_transaction(
                        lambda session: add(session, ready), database=server, delay_s=0
                    )
                    for _ in range(2)
                )
            )

    asyncio.run(work())
    assert len(attempts) >= 3
    assert contexts(server)[0] == "2"


def test_a_race_that_is_lost_again_is_the_error(server: Database) -> None:
    attempts = []

    async def lose(session: AsyncSession) -> None:
        attempts.append(1)
        raise DatabaseError("lost a race", retryable=True)

    async def work() -> None:
        await run_in_async_transaction(lose, database=server, delay_s=0)

    with pytest.raises(DatabaseError, match="lost a race"):
        asyncio.run(work())
    assert len(attempts) == 2


def test_a_server_that_never_answers_keeps_nobody_waiting() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        port = listener.getsockname()[1]
        database = create_database(
            f"postgresql://somebody:sesame@127.0.0.1:{port}/none", connect_timeout_s=1
        )

        async def one() -> None:
            async with open_async_session(database):
                pass

        async def work() -> list[BaseException | None]:
            async with asyncio.timeout(30):
                results = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
            assert await in_use(database) == 0
            return results

        for error in asyncio.run(work()):
            assert isinstance(error, DatabaseUnavailable)
            assert "sesame" not in str(error)


def test_a_transaction_that_failed_is_not_taken_for_committed(server: Database) -> None:
    async def work() -> None:
        async with open_async_session(server) as session:
            await AsyncTaskRepository(session).update("a", context="lost")
            # Round the package's guard, straight to the driver.
            connection = session.database._state.conn.conn
            with pytest.raises(Exception, match="division by zero"):
                await connection.execute("SELECT 1 / 0")

    with pytest.raises(DatabaseError, match="nothing was committed"):
        asyncio.run(work())
    assert contexts(server) == [None, None]


def test_load_loses_nothing(server: Database) -> None:
    async def one(number: int) -> None:
        async with open_async_session(server) as session:
            tasks = AsyncTaskRepository(session)
            await tasks.create(title=f"Task {number}")
            if number % 10 == 0:
                raise ZeroDivisionError

    async def work() -> int:
        results = await asyncio.gather(*(one(n) for n in range(200)), return_exceptions=True)
        assert await in_use(server) == 0
        assert {type(result) for result in results} == {type(None), ZeroDivisionError}
        return sum(result is None for result in results)

    done = asyncio.run(work())
    with open_session(server) as session:
        assert TaskRepository(session).count() == done + 2
