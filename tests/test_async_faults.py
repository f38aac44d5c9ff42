"""Asynchronous sessions when something breaks: the right error, no leak, and the next one works."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import asyncpg
import psycopg2
import pytest

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    PoolTimeout,
    TaskRepository,
    create_database,
    run_in_async_transaction,
)
from hopper_data.aio import AsyncSession, async_database, open_async_session
from hopper_data.aio.postgresql import PostgresConnection
from hopper_data.chat import UserRepository
from hopper_data.chat.asynchronous import AsyncUserRepository
from hopper_data.database import Database
from hopper_data.routing.asynchronous import AsyncProjectRepository, AsyncTaskRepository
from hopper_data.session import open_session
from tests.async_entries import add, assert_well, in_use, pid_of
from tests.servers import Server, end, make_entries, numbers, own_server


@pytest.fixture
def server(make_url: Callable[..., str]) -> Iterator[Database]:
    """A PostgreSQL database with two tasks."""
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"id": name, "title": name} for name in ("a", "b")])
    yield database
    database.close_pool()


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
                        retries=5,  # the next attempt may overtake the other one, and meet it again
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


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_read_that_fails_undoes_itself_alone(
    server: Database, asked_before: bool, read_only: bool
) -> None:
    async def work() -> None:
        async with open_async_session(server, read_only=read_only) as session:
            tasks = AsyncTaskRepository(session)
            if not read_only:
                await tasks.update("a", context="written")
            if asked_before:
                assert await tasks.get("b")
            await session.execute("SET LOCAL lock_timeout = '50ms'")
            with psycopg2.connect(server.url.render(hide_password=False)) as other:
                other.cursor().execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
                with pytest.raises(DatabaseUnavailable):
                    await AsyncProjectRepository(session).get("a")
            other.close()
            assert await AsyncProjectRepository(session).get("a") is None
            assert await tasks.get("b")
        assert await in_use(server) == 0

    asyncio.run(work())
    assert contexts(server).count("written") == (not read_only)


def test_what_follows_a_read_is_not_undone_with_a_later_one(server: Database) -> None:
    async def fail(session: AsyncSession) -> None:
        with psycopg2.connect(server.url.render(hide_password=False)) as other:
            other.cursor().execute("LOCK TABLE projects IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(DatabaseUnavailable):
                await AsyncProjectRepository(session).get("a")
        other.close()

    async def work() -> None:
        async with open_async_session(server) as session:
            tasks = AsyncTaskRepository(session)
            await tasks.update("a", context="written")
            await session.execute("SET LOCAL lock_timeout = '50ms'")
            assert await tasks.get("b")
            await session.execute("CREATE TABLE kept (number INTEGER)")
            await session.execute("SELECT setval(pg_get_serial_sequence('task_events', 'id'), 77)")
            await fail(session)
            await session.execute("INSERT INTO kept VALUES (1)")
            found = []
            async with aclosing(session.stream(TaskRepository(session).iterate)) as stream:
                async for task in stream:
                    found.append(task.id)
                    await fail(session)
            assert sorted(found) == ["a", "b"]

    asyncio.run(work())
    with open_session(server) as session:
        assert session.execute("SELECT number FROM kept") == [(1,)]


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


# -- a server that goes and comes -----------------------------------------------------------------


@pytest.fixture(scope="module")
def the_server() -> Iterator[Server]:
    with own_server() as server:
        yield server


@pytest.fixture
def own(the_server: Server) -> Iterator[tuple[Server, Database]]:
    """A server that may be mistreated, and a database there with an empty table `entries`."""
    if not the_server.is_running():
        the_server.start()
    make_entries(the_server)
    database = create_database(the_server.url, max_connections=4, pool_size=2, pool_timeout_s=20)
    yield the_server, database
    database.close_pool()


def test_a_server_that_is_not_there(own: tuple[Server, Database]) -> None:
    server, database = own

    async def work() -> None:
        server.stop()
        with pytest.raises(DatabaseUnavailable) as raised:
            async with asyncio.timeout(30), open_async_session(database):
                pass
        assert raised.value.retryable
        server.start()
        await assert_well(database)

    asyncio.run(work())


def test_a_restart_between_two_sessions_is_not_seen(own: tuple[Server, Database]) -> None:
    server, database = own

    async def work() -> None:
        for number, mode in enumerate(("fast", "immediate")):
            async with open_async_session(database) as session:
                await add(session, number)
            await asyncio.to_thread(server.restart, mode)
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == [0, 1]


def test_a_restart_inside_a_session_leaves_no_half_of_it(own: tuple[Server, Database]) -> None:
    server, database = own

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable):
            async with open_async_session(database) as session:
                await add(session, 1)
                await asyncio.to_thread(server.restart)
                for number in (2, 3):
                    with pytest.raises(DatabaseUnavailable):
                        await add(session, number)
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == []


def test_a_transaction_waits_for_a_restart(own: tuple[Server, Database]) -> None:
    server, database = own
    runs = []

    async def write(session: AsyncSession) -> str:
        runs.append(1)
        await add(session, len(runs))
        if len(runs) == 1:
            await asyncio.to_thread(server.restart)
        await add(session, 10 + len(runs))
        return "done"

    async def work() -> None:
        answer = await run_in_async_transaction(write, database=database, delay_s=0.05)
        assert answer == "done"
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == [2, 12]


def test_connections_that_ended_while_idle_are_replaced(own: tuple[Server, Database]) -> None:
    server, database = own

    async def work() -> None:
        async with open_async_session(database) as session:
            pid = await pid_of(session)
        await asyncio.to_thread(end, server, pid)
        async with open_async_session(database) as session:
            assert await pid_of(session) != pid
        await assert_well(database)

    asyncio.run(work())


def test_a_connection_that_drops_before_the_commit_is_noticed(
    own: tuple[Server, Database],
) -> None:
    server, database = own
    runs: list[int] = []

    async def write(session: AsyncSession) -> None:
        runs.append(await pid_of(session))
        await add(session, len(runs))
        if len(runs) == 1:
            await asyncio.to_thread(end, server, runs[-1])

    async def work() -> None:
        await run_in_async_transaction(write, database=database, delay_s=0.01)
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == [2]


@pytest.mark.parametrize(
    "refusal",
    [
        asyncpg.InternalClientError(
            "cannot switch to state 15; another operation (2) is in progress"
        ),
        asyncpg.InterfaceError("connection is closed"),
    ],
    ids=["ending", "closed"],
)
def test_a_commit_that_was_never_sent_is_tried_again(
    own: tuple[Server, Database], monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    _, database = own
    commit, refusals = PostgresConnection.commit, [refusal]
    runs: list[int] = []

    async def refuse_first(connection: PostgresConnection) -> str:
        if refusals:
            raise refusals.pop()
        return await commit(connection)

    async def write(session: AsyncSession) -> None:
        runs.append(len(runs) + 1)
        await add(session, runs[-1])

    monkeypatch.setattr(PostgresConnection, "commit", refuse_first)
    asyncio.run(run_in_async_transaction(write, database=database, delay_s=0.01))
    assert (runs, numbers(database)) == ([1, 2], [2])


def test_a_commit_without_an_answer_is_not_tried_again(own: tuple[Server, Database]) -> None:
    _, database = own
    pids: list[int] = []

    async def write(session: AsyncSession) -> None:
        pids.append(await pid_of(session))
        await add(session, 1)
        os.kill(pids[-1], signal.SIGSTOP)
        transport = session.database._state.conn.conn._transport
        asyncio.get_running_loop().call_later(0.3, transport.abort)

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable, match="is not known") as raised:
            async with asyncio.timeout(60):
                await run_in_async_transaction(write, database=database, delay_s=0.01)
        assert not raised.value.retryable
        os.kill(pids[-1], signal.SIGCONT)
        await assert_well(database)

    asyncio.run(work())
    assert len(pids) == 1


def test_every_connection_is_taken(own: tuple[Server, Database]) -> None:
    _, database = own
    small = create_database(database.config, max_connections=2, pool_timeout_s=0.2)

    async def hold(taken: asyncio.Barrier, given_up: asyncio.Event) -> None:
        async with open_async_session(small):
            await taken.wait()
            await given_up.wait()

    async def work() -> None:
        taken, given_up = asyncio.Barrier(3), asyncio.Event()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(hold(taken, given_up))
            await taken.wait()
            with pytest.raises(PoolTimeout, match="all 2 connections"):
                async with open_async_session(small):
                    pass
            given_up.set()
        await assert_well(small)

    asyncio.run(work())
    small.close_pool()


def test_every_write_is_accounted_for_while_the_server_restarts(
    own: tuple[Server, Database],
) -> None:
    server, database = own
    done: list[int] = []
    unknown: list[int] = []
    failed: list[int] = []

    async def write(stop: asyncio.Event, worker: int) -> None:
        number = worker * 1_000_000
        while not stop.is_set():
            number += 1
            try:
                await run_in_async_transaction(
                    lambda session, n=number: add(session, n),
                    database=database,
                    delay_s=0.2,
                )
            except DatabaseUnavailable as error:
                (failed if error.retryable else unknown).append(number)
                await asyncio.sleep(0.01)
            else:
                done.append(number)

    async def work() -> None:
        stop = asyncio.Event()
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for worker in range(8):
                group.create_task(write(stop, worker))
            for mode in ("fast", "immediate"):
                await asyncio.sleep(0.3)
                await asyncio.to_thread(server.restart, mode)
            await asyncio.sleep(0.5)
            stop.set()
        await assert_well(database)

    asyncio.run(work())
    stored = set(numbers(database))
    assert set(done) <= stored
    assert not set(failed) & stored
    assert stored <= {*done, *unknown}
    assert len(done) > 20  # as many as a slow machine does in that time


def test_a_restart_without_a_warning_inside_a_session_leaves_no_half_of_it(
    own: tuple[Server, Database],
) -> None:
    server, database = own

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable) as raised:
            async with open_async_session(database) as session:
                await add(session, 1)
                await asyncio.to_thread(server.restart, "immediate")
        assert raised.value.retryable
        await assert_well(database)

    asyncio.run(work())
    assert numbers(database) == []


def test_a_host_that_says_nothing_leaves_time_for_the_next(
    own: tuple[Server, Database],
) -> None:
    server, database = own
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        port = silent.getsockname()[1]
        several = create_database(
            f"postgresql://postgres@/postgres?host=/nowhere,127.0.0.1,{server.folder}"
            f"&port=5432,{port},5432&target_session_attrs=read-write"
        )

        async def work() -> None:
            async with open_async_session(several) as session:
                await add(session, 1)
            await assert_well(several)

        asyncio.run(work())
    assert numbers(database) == [1]


def test_a_standby_is_preferred_but_not_needed(own: tuple[Server, Database]) -> None:
    server, database = own
    several = create_database(
        f"postgresql://postgres@/postgres?host=/nowhere,{server.folder}"
        "&port=5432,5432&target_session_attrs=prefer-standby"
    )
    only = create_database(
        f"postgresql://postgres@/postgres?host={server.folder}&target_session_attrs=standby"
    )

    async def work() -> None:
        async with open_async_session(several) as session:
            await add(session, 1)
        with pytest.raises(DatabaseUnavailable, match="target attribute"):
            async with open_async_session(only):
                pytest.fail("it is no standby")
        await assert_well(several)

    asyncio.run(work())
    assert numbers(database) == [1]


def test_every_connection_is_given_back_under_errors(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("postgresql"))

    async def fail(number: int) -> None:
        for turn in range(5):
            with pytest.raises(LookupError):
                async with open_async_session(database) as session:
                    await AsyncUserRepository(session).create(
                        email=f"a{number}.{turn}@b.example", subject_id="1"
                    )
                    raise LookupError("mine")

    async def work() -> None:
        await asyncio.gather(*(fail(number) for number in range(30)))
        status = (await async_database(database)).pool_status()
        assert status["in_use"] == 0
        assert status["idle"] <= 5

    asyncio.run(work())
    with open_session(database) as session:
        assert UserRepository(session).count() == 0
    database.close_pool()
