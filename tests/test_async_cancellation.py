"""Tasks that are cancelled, at whatever moment and however often: nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, TypeVar

import pytest

from hopper_data import DatabaseError, PoolTimeout, TaskRepository, create_database
from hopper_data.aio import async_database, open_async_session
from hopper_data.database import Database, using
from hopper_data.routing.asynchronous import AsyncTaskRepository
from hopper_data.session import get_sync_session, open_session

T = TypeVar("T")
WORKERS = "_connection_worker_thread"


@types.coroutine
def cancelling(work: Awaitable[Any], steps: set[int]) -> Generator[Any, Any, int]:
    """Let `work` cancel its own task after some of its steps; how many steps it took."""
    running = work.__await__()
    proceed: Callable[[Any], Any] = running.send
    value: Any = None
    taken = 0
    while True:
        try:
            waited_for = proceed(value)
        except StopIteration:
            return taken
        taken += 1
        if taken in steps:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
        try:
            value, proceed = (yield waited_for), running.send
        except BaseException as error:  # noqa: BLE001  # it goes on to `work`
            value, proceed = error, running.throw


async def run_cancelling(work: Awaitable[Any], steps: set[int]) -> int:
    return await cancelling(work, steps)


async def write(database: Database, title: str) -> None:
    async with open_async_session(database) as session:
        tasks = AsyncTaskRepository(session)
        await tasks.create(title=title)
        async with open_async_session(database) as inner:
            await AsyncTaskRepository(inner).count()
        async for _ in tasks.iterate():
            pass


async def unwrapped(work: Awaitable[T]) -> T:
    return await work


async def assert_nothing_in_use(database: Database) -> None:
    inner = await async_database(database)
    async with asyncio.timeout(60):
        # A statement in a thread of its own may outlast the task that was cancelled.
        while inner.pool_status()["in_use"] or database.pool_status()["in_use"]:
            await asyncio.sleep(0.01)


def wait_for_threads() -> None:
    """Until no connection has a thread, which would keep the process from ending."""
    gc.collect()
    deadline = time.monotonic() + 60
    while any(WORKERS in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def titles(database: Database) -> list[str]:
    with open_session(database) as session:
        return sorted(task.title for task in TaskRepository(session).get_all())


@pytest.mark.parametrize("again_after", [None, 1, 2, 3])
def test_a_task_may_be_cancelled_at_every_step(
    database: Database, again_after: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    if not getattr(database, "in_memory", False):
        database = create_database(
            database.config, max_connections=2, pool_size=1, pool_timeout_s=30
        )

    async def work() -> None:
        committed = 0
        step = 0
        while True:
            step += 1
            steps = {step} if again_after is None else {step, step + again_after}
            # Once more than there are connections.
            for _ in range(3):
                task = asyncio.create_task(run_cancelling(write(database, "x"), steps))
                (result,) = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(result, int | asyncio.CancelledError), result
                committed += isinstance(result, int)
            await assert_nothing_in_use(database)
            async with asyncio.timeout(60):
                await asyncio.gather(*(write(database, "after") for _ in range(3)))
            if isinstance(result, int) and result < step:
                return

    asyncio.run(work())
    kept = titles(database)
    # The first ones that the steps did not reach, and those that were told too late.
    assert kept.count("x") >= 3
    assert kept.count("after") % 3 == 0
    wait_for_threads()
    assert not [record for record in caplog.records if record.name == "asyncio"]
    database.close_pool()


def test_a_timeout_cancels_what_a_group_began(database: Database) -> None:
    async def forever(number: int, ready: asyncio.Semaphore) -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title=f"lost {number}")
            ready.release()
            await asyncio.Event().wait()

    async def work() -> None:
        ready = asyncio.Semaphore(0)
        count = 1 if database.dialect == "sqlite" else 5  # how many can write at a time

        async def together() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(count):
                    group.create_task(forever(number, ready))

        # Two ways to give up, and the failure of a sibling.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(together(), 0.3)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await together()

        async def fail() -> None:
            await ready.acquire()
            raise LookupError("mine")

        ready = asyncio.Semaphore(0)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(forever(0, ready))
                group.create_task(fail())
        assert raised.group_contains(LookupError, match="mine")
        await assert_nothing_in_use(database)
        await write(database, "kept")

    asyncio.run(work())
    assert titles(database) == ["kept"]


def test_a_stream_whose_task_is_cancelled_leaves_nothing(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"title": f"Task {n}"} for n in range(1500)])

    async def read(begun: asyncio.Event) -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title="lost")
            async for _ in AsyncTaskRepository(session).iterate():
                begun.set()
                await asyncio.sleep(0)

    async def work() -> None:
        for _ in range(3):
            begun = asyncio.Event()
            task = asyncio.create_task(read(begun))
            async with asyncio.timeout(60):
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        await assert_nothing_in_use(database)

    asyncio.run(work())
    with open_session(database) as session:
        assert TaskRepository(session).count() == 1500


def test_a_task_that_ends_a_stream_hears_that_it_is_cancelled(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"title": "before"} for _ in range(600)])

    async def leave_early() -> None:
        async with open_async_session(database) as session:
            async for _ in AsyncTaskRepository(session).iterate():
                break
            await AsyncTaskRepository(session).create(title="x")

    async def work() -> None:
        step = 0
        while True:
            step += 1
            task = asyncio.create_task(run_cancelling(leave_early(), {step}))
            (result,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(result, int):
                assert result < step
                return
            assert isinstance(result, asyncio.CancelledError)

    asyncio.run(work())


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("again_after", [None, 1])
def test_a_read_only_session_that_is_cancelled_keeps_nobody_from_writing(
    database: Database, nested: bool, again_after: int | None
) -> None:
    async def read() -> None:
        async with open_async_session(database, read_only=True) as session:
            await session.execute("SELECT 1")
            await AsyncTaskRepository(session).count()

    async def read_inside() -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title="x")
            await read()

    async def work() -> None:
        step = 0
        while True:
            step += 1
            steps = {step} if again_after is None else {step, step + again_after}
            reading = run_cancelling(read_inside() if nested else read(), steps)
            (result,) = await asyncio.gather(asyncio.create_task(reading), return_exceptions=True)
            assert isinstance(result, int | asyncio.CancelledError), result
            async with asyncio.timeout(60), open_async_session(database) as session:
                await AsyncTaskRepository(session).create(title="after")
            if isinstance(result, int) and result < step:
                return

    asyncio.run(work())
    assert titles(database).count("after") > 1


def test_a_generator_that_is_left_early_ends_its_session(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"title": "before"} for _ in range(600)])

    async def rows() -> AsyncIterator[Any]:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title="lost")
            async for task in AsyncTaskRepository(session).iterate():
                yield task

    async def work() -> None:
        async for _ in rows():
            break
        gc.collect()
        await assert_nothing_in_use(database)  # the event loop has ended it in another task
        for task_is_another in (True, False):
            writing = write(database, "kept")
            await (asyncio.create_task(writing) if task_is_another else writing)

    asyncio.run(work())
    assert [title for title in titles(database) if title != "before"] == ["kept", "kept"]
    wait_for_threads()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_a_session_that_another_task_ends_commits_nothing(database: Database) -> None:
    async def work() -> None:
        outer = open_async_session(database)
        session = await outer.__aenter__()
        await AsyncTaskRepository(session).create(title="lost")
        with pytest.raises(DatabaseError, match="ends in the task that opened it"):
            await asyncio.create_task(unwrapped(outer.__aexit__(None, None, None)))
        with pytest.raises(DatabaseError, match="has ended"):
            await AsyncTaskRepository(session).create(title="lost")
        await write(database, "kept")

    asyncio.run(work())
    assert titles(database) == ["kept"]


def test_a_session_whose_outer_one_another_task_ends_is_told(database: Database) -> None:
    async def work() -> None:
        outer = open_async_session(database)
        await outer.__aenter__()
        with pytest.raises(DatabaseError, match="nothing was committed"):
            async with open_async_session(database) as session:
                with pytest.raises(DatabaseError, match="nothing was committed"):
                    await asyncio.create_task(unwrapped(outer.__aexit__(None, None, None)))
                await AsyncTaskRepository(session).create(title="lost")
        await write(database, "kept")
        await assert_nothing_in_use(database)

    asyncio.run(work())
    assert titles(database) == ["kept"]


ENDLESS = {
    "postgresql": "SELECT pg_sleep(1000000)",
    "sqlite": "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT MAX(x) "
    "FROM n",
}


def test_the_statement_of_a_cancelled_task_ends(database: Database) -> None:
    async def work() -> None:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), open_async_session(database) as session:
                    await AsyncTaskRepository(session).create(title="lost")
                    await session.execute(ENDLESS[database.dialect])
        await assert_nothing_in_use(database)
        await write(database, "kept")

    asyncio.run(work())
    assert titles(database) == ["kept"]


def test_a_session_goes_on_after_a_statement_that_took_too_long(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(title="first")
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.execute(ENDLESS[database.dialect])
            await AsyncTaskRepository(session).create(title="second")

    asyncio.run(work())
    assert titles(database) == ["first", "second"]


def test_an_error_in_the_middle_of_a_stream_is_the_callers(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_create([{"title": f"Task {n}"} for n in range(600)])

    async def work() -> None:
        with pytest.raises(LookupError, match="mine"):
            async with open_async_session(database) as session:
                async for _ in AsyncTaskRepository(session).iterate():
                    raise LookupError("mine")
        await assert_nothing_in_use(database)
        await write(database, "kept")

    asyncio.run(work())
    assert titles(database).count("kept") == 1


def test_event_loops_one_after_the_other(database: Database) -> None:
    """Each has connections of its own, and closes them."""

    async def work(name: str) -> None:
        await asyncio.gather(*(write(database, name) for _ in range(5)))

    for name in ("first", "second", "third"):
        asyncio.run(work(name))
        wait_for_threads()
    assert [titles(database).count(name) for name in ("first", "second", "third")] == [5, 5, 5]


def test_a_session_of_a_loop_that_is_gone_is_refused(database: Database) -> None:
    kept = []

    async def keep() -> None:
        async with open_async_session(database) as session:
            kept.append(session)

    async def use() -> None:
        with pytest.raises(DatabaseError, match="belongs to the task"):
            await AsyncTaskRepository(kept[0]).count()

    asyncio.run(keep())
    asyncio.run(use())


def test_a_session_inside_two_tasks_refuses_the_second_one(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database) as session:
            tasks = AsyncTaskRepository(session)
            await tasks.create(title="kept")
            results = await asyncio.gather(
                tasks.count(), tasks.create(title="lost"), return_exceptions=True
            )
            for result in results:
                assert isinstance(result, DatabaseError)
                assert "belongs to the task" in str(result)
            with pytest.raises(ExceptionGroup) as raised:
                async with asyncio.TaskGroup() as group:
                    group.create_task(unwrapped(tasks.count()))
            assert isinstance(raised.value.exceptions[0], DatabaseError)
            assert await tasks.count() == 1

    asyncio.run(work())
    assert titles(database) == ["kept"]


def test_memory_that_a_thread_holds_is_a_full_pool() -> None:
    database = create_database("sqlite:///:memory:", pool_timeout_s=0.2, connect_timeout_s=0.1)

    async def work() -> None:
        with open_session(database):
            with pytest.raises(PoolTimeout, match="stayed in use"):
                async with open_async_session(database):
                    pass
            waiting = asyncio.create_task(write(database, "lost"))
            await asyncio.sleep(0.05)
            waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await assert_nothing_in_use(database)
        async with open_async_session(database) as session:
            assert await session.execute("SELECT 1") == [(1,)]

    asyncio.run(work())
    database.close_pool()


def test_threads_and_tasks_on_one_database_and_on_two(make_url: Callable[..., str]) -> None:
    databases = [create_database(make_url(kind)) for kind in ("postgresql", "sqlite")]

    def in_threads(number: int) -> None:
        for turn in range(6):
            database = databases[(number + turn) % 2]
            with using(database), get_sync_session() as session:
                made = TaskRepository(session).create(title="thread", tags=["t"], context="{}")
                assert TaskRepository(session).get_or_raise(made.id).tags == ["t"]

    async def in_tasks(number: int) -> None:
        for turn in range(6):
            database, other = databases[(number + turn) % 2], databases[(number + turn + 1) % 2]
            async with open_async_session(database) as session:
                made = await AsyncTaskRepository(session).create(title="task", tags=["a"])
                # A synchronous session on the other one, in the middle of it.
                with open_session(other, read_only=True) as inside:
                    assert TaskRepository(inside).get(made.id) is None
                assert (await AsyncTaskRepository(session).get_or_raise(made.id)).tags == ["a"]

    async def work() -> None:
        async with asyncio.timeout(120):
            await asyncio.gather(
                *(in_tasks(number) for number in range(6)),
                *(asyncio.to_thread(in_threads, number) for number in range(4)),
            )

    asyncio.run(work())
    for database in databases:
        assert titles(database) == ["task"] * 18 + ["thread"] * 12
        database.close_pool()
