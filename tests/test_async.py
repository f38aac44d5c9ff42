"""Asynchronous sessions: what is theirs alone. The repositories' own tests run through them too."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from unittest import mock

import pytest
from playhouse.pwasyncio import await_, greenlet_spawn

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    IntegrityError,
    NotFound,
    PoolTimeout,
    SessionFactory,
    Task,
    TaskRepository,
    ValidationError,
    create_database,
    get_async_session,
    get_sync_session,
    run_in_async_transaction,
    run_migrations,
    using,
)
from hopper_data.aio import AsyncSession, async_database, open_async_session
from hopper_data.chat.asynchronous import AsyncUserRepository
from hopper_data.database import Database
from hopper_data.routing.asynchronous import AsyncTaskRepository
from hopper_data.session import open_session
from tests.conftest import AdminCursor


def count(database: Database) -> int:
    with open_session(database) as session:
        return TaskRepository(session).count()


async def create(session: AsyncSession, title: str = "A task") -> str:
    return (await AsyncTaskRepository(session).create(title=title)).id


def test_a_session_commits(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            await create(session)

    asyncio.run(work())
    assert count(database) == 1


def test_an_exception_rolls_back(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            await create(session)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(work())
    assert count(database) == 0


def test_a_nested_session_is_a_savepoint(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            await create(session, "outer")
            with pytest.raises(ZeroDivisionError):
                async with get_async_session() as inner:
                    await create(inner, "inner")
                    raise ZeroDivisionError
            assert await AsyncTaskRepository(session).count() == 1

    asyncio.run(work())
    assert count(database) == 1


def test_a_refused_write_leaves_the_session_usable(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = AsyncTaskRepository(session)
            first = await tasks.create(title="first")
            for _ in range(2):
                with pytest.raises(IntegrityError, match="already taken"):
                    await tasks.create(id=first.id, title="again")
            await tasks.create(title="second")

    asyncio.run(work())
    assert count(database) == 2


@pytest.mark.parametrize("first", ["write", "read"])
def test_a_refused_statement_undoes_itself_alone(database: Database, first: str) -> None:
    refusals = {
        "write": "INSERT INTO users (id, email) VALUES ('1', NULL)",
        "read": "SELECT no_such_function()",
    }

    async def refused(session: AsyncSession, kind: str) -> None:
        with pytest.raises(DatabaseError):
            await session.run(session.database.execute_sql, refusals[kind])

    async def work() -> None:
        async with open_async_session(database) as session:
            users = AsyncUserRepository(session)
            await refused(session, first)
            assert await users.count() == 0
            await users.create(email="a@example.org", subject_id="a")
            for kind in ("read", "write", "read", "read"):
                await refused(session, kind)
                assert await users.count() == 1
            async with open_async_session(database) as inner:
                await refused(inner, first)
                await AsyncUserRepository(inner).create(email="b@example.org", subject_id="b")
                await refused(inner, "read")
            await refused(session, "write")
            await users.create(email="c@example.org", subject_id="c")
        async with open_async_session(database) as session:
            assert await AsyncUserRepository(session).count() == 3

    asyncio.run(work())


def test_run_keeps_the_result_and_the_arguments(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = TaskRepository(session)
            made = await session.run(tasks.create, title="x", tags=["a"])
            assert await session.run(tasks.get, made.id) == made
            assert await session.run(tasks.get, "nothing") is None
            assert await session.execute("SELECT COUNT(*) FROM tasks WHERE id = ?", (made.id,)) == [
                (1,)
            ]

    asyncio.run(work())


class OwnTasks(TaskRepository):
    """What others own does not exist."""

    def get(self, id: Any, /) -> Task | None:
        task = super().get(id)
        return task if task is not None and task.owner == "me" else None


class AsyncOwnTasks(AsyncTaskRepository):
    repository = OwnTasks


def test_a_get_of_ones_own_is_asked_by_all(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database) as session:
            tasks = AsyncOwnTasks(session)
            mine = await tasks.create(title="x", owner="me")
            yours = await tasks.create(title="x", owner="you")
            assert await tasks.get(yours.id) is None
            assert await tasks.get_or_raise(mine.id) == mine
            with pytest.raises(NotFound):
                await tasks.get_or_raise(yours.id)
            with pytest.raises(NotFound):
                await session.run(OwnTasks(session).get_or_raise, yours.id)
            with (
                mock.patch.object(TaskRepository, "get", return_value=None),
                pytest.raises(NotFound),
            ):
                await session.run(TaskRepository(session).get_or_raise, mine.id)

    asyncio.run(work())


def test_wrong_arguments_are_those_of_the_method(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database) as session:
            run: Any = session.run
            with pytest.raises(TypeError, match=r"get\(\) missing 1 required positional"):
                await run(TaskRepository(session).get)

    asyncio.run(work())


def test_peewees_own_iteration_is_part_of_the_transaction(database: Database) -> None:
    async def change(session: AsyncSession) -> list[str]:
        query = Task.update(title="changed").returning(Task)
        return [task.title async for task in session.database.iterate(query)]

    async def work() -> None:
        async with open_async_session(database) as session:
            await create(session, "before")
        with pytest.raises(KeyError):
            async with open_async_session(database) as session:
                assert await change(session) == ["changed"]
                raise KeyError
        with pytest.raises(Exception, match=r"read-?only"):  # Peewee's, or the driver's
            async with open_async_session(database, read_only=True) as session:
                await change(session)
        async with open_async_session(database) as session:
            assert [task.title for task in await AsyncTaskRepository(session).get_all()] == [
                "before"
            ]
            assert await change(session) == ["changed"]

    asyncio.run(work())
    with open_session(database) as session:
        assert [task.title for task in TaskRepository(session).get_all()] == ["changed"]


def test_a_cursor_of_ones_own_is_part_of_the_transaction(database: Database) -> None:
    def insert(session: AsyncSession) -> None:
        session.database.cursor().execute(
            "INSERT INTO tasks (id, title, status, priority, created_at, updated_at) VALUES "
            "('a', 'x', 'pending', 'low', '2026-01-01', '2026-01-01')"
        )

    async def work() -> None:
        with pytest.raises(KeyError):
            async with open_async_session(database) as session:
                await session.run(insert, session)
                raise KeyError

    asyncio.run(work())
    assert count(database) == 0


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"])
def test_a_session_whose_connection_was_closed_commits_nothing(
    make_url: Callable[..., str], backend: str
) -> None:
    database = create_database(make_url(backend))

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable, match="lost before the commit"):
            async with open_async_session(database) as session:
                await create(session)
                inner = await async_database(database)
                await asyncio.create_task(inner.aclose_all())
        async with open_async_session(database) as session:
            assert await AsyncTaskRepository(session).count() == 0

    asyncio.run(work())
    database.close_pool()


def test_after_a_read_only_session_peewee_may_write_without_one(database: Database) -> None:
    async def work() -> None:
        async with open_async_session(database, read_only=True) as session:
            await AsyncTaskRepository(session).count()
        inner = await async_database(database)
        with using(inner):
            await inner.run(Task.insert(id="a", title="x").execute)
            await inner.run(inner.close)

    asyncio.run(work())
    assert count(database) == 1


def test_rows_stream_while_others_are_written(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = AsyncTaskRepository(session)
            await tasks.bulk_create([{"title": f"Task {n}"} for n in range(1200)])
            seen = 0
            async for task in tasks.iterate(order_by="updated_at"):
                seen += 1
                if seen % 100 == 0:
                    await tasks.update(task.id, title="seen")
            assert seen == 1200
            assert await tasks.count({"title": "seen"}) == 12

    asyncio.run(work())


def test_a_stream_may_be_left_early(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = AsyncTaskRepository(session)
            await tasks.bulk_create([{"title": f"Task {n}"} for n in range(600)])
            rows = tasks.iterate()
            async for _ in rows:
                break
            await rows.aclose()  # type: ignore[attr-defined]
            assert await tasks.count() == 600

    asyncio.run(work())


def test_a_stream_that_is_left_early_ends_with_its_session(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = AsyncTaskRepository(session)
            await tasks.bulk_create([{"title": f"Task {n}"} for n in range(1200)])
            async for _ in tasks.iterate():
                break
            gc.collect()
            await asyncio.sleep(0)
            assert await tasks.count() == 1200
            async for _ in tasks.iterate():
                break
        with pytest.raises(LookupError):
            async with get_async_session() as session:
                async for _ in AsyncTaskRepository(session).iterate():
                    raise LookupError
        gc.collect()
        await asyncio.sleep(0)
        assert (await async_database(database)).pool_status()["in_use"] == 0

    asyncio.run(work())
    gc.collect()
    assert "never retrieved" not in caplog.text
    assert count(database) == 1200


def test_a_stream_does_not_outlive_its_session(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = AsyncTaskRepository(session)
            await tasks.bulk_create([{"title": f"Task {n}"} for n in range(1200)])
            rows = tasks.iterate()
            await anext(rows)
        with pytest.raises(DatabaseError, match="has ended"):
            async for _ in rows:
                pass

    asyncio.run(work())


def by_gather(work: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    return asyncio.gather(work)


def by_wait_for(work: Coroutine[Any, Any, Any]) -> Awaitable[Any]:
    async def in_a_task() -> Any:
        # What wait_for() does before Python 3.12.
        return await asyncio.wait_for(asyncio.ensure_future(work), 30)

    return in_a_task()


async def by_group(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(work)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def by_thread(work: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.to_thread(asyncio.run, work)


@pytest.mark.parametrize("elsewhere", [by_gather, by_wait_for, by_group, by_thread])
def test_a_session_belongs_to_one_task(
    database: Database, elsewhere: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
) -> None:
    async def list_ids(session: AsyncSession) -> list[str]:
        return [task.id async for task in AsyncTaskRepository(session).iterate()]

    async def work() -> None:
        async with get_async_session() as session:
            for job in (create(session), session.execute("SELECT 1"), list_ids(session)):
                with pytest.raises(DatabaseError, match="belongs to the task"):
                    await elsewhere(job)
            with pytest.raises(DatabaseError, match="belongs to another thread"):
                await asyncio.gather(
                    greenlet_spawn(TaskRepository(session.sync_session).count)  # round the guard
                )
            await create(session)

    asyncio.run(work())
    assert count(database) == 1


def test_two_tasks_that_share_a_session_lose_nothing_of_the_first(database: Database) -> None:
    async def meddle(session: AsyncSession, begun: asyncio.Event) -> None:
        await begun.wait()
        await create(session, "the second's")

    async def work() -> None:
        begun = asyncio.Event()
        async with get_async_session() as session:
            other = asyncio.create_task(meddle(session, begun))
            begun.set()
            for number in range(5):
                await create(session, f"Task {number}")
                await asyncio.sleep(0)
            with pytest.raises(DatabaseError, match="belongs to the task"):
                await other

    asyncio.run(work())
    assert count(database) == 5


def test_one_event_loop_after_the_other(make_url: Callable[..., str]) -> None:
    url = make_url("postgresql")
    for kind in (url, make_url("sqlite")):
        database = create_database(kind)

        async def work(database: Database = database) -> None:
            async with open_async_session(database) as session:
                await create(session)
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(one(database))

        async def one(database: Database) -> None:
            async with open_async_session(database) as session:
                await create(session)

        for _ in range(3):
            asyncio.run(work())
            # What a loop had open is closed with it.
            for thread in threading.enumerate():
                if "_connection_worker_thread" in thread.name:
                    thread.join(30)
                    assert not thread.is_alive()
        assert count(database) == 12
        database.close_pool()
    name = url.rpartition("/")[2].partition("?")[0]
    with AdminCursor(url) as cursor:
        cursor.execute(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = %s "
            "AND pid <> pg_backend_pid() AND application_name = 'hopper_data'",
            (name,),
        )
        assert cursor.fetchone() == (0,)


def test_a_session_runs_one_thing_at_a_time(database: Database) -> None:
    async def work() -> None:
        async with get_async_session() as session:
            tasks = TaskRepository(session)

            def count_inside() -> None:
                await_(session.run(tasks.count))

            with pytest.raises(DatabaseError, match="one thing at a time"):
                await session.run(count_inside)
            assert await session.run(tasks.count) == 0

    asyncio.run(work())


def test_a_read_only_session_cannot_write(database: Database) -> None:
    async def work() -> None:
        async with get_async_session(read_only=True) as session:
            assert await AsyncTaskRepository(session).count() == 0
            with pytest.raises(DatabaseError):
                await create(session)
        async with get_async_session() as session:
            await create(session)

    asyncio.run(work())
    assert count(database) == 1


def test_a_read_only_session_after_another_cannot_write_either(database: Database) -> None:
    async def read() -> None:
        async with open_async_session(database, read_only=True) as session:
            await session.execute("SELECT 1")

    async def write(session: AsyncSession) -> None:
        with pytest.raises(DatabaseError):
            await AsyncTaskRepository(session).update("a", title="changed")

    async def write_alone() -> None:
        async with open_async_session(database, read_only=True) as session:
            await write(session)

    async def work() -> None:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(id="a", title="A task")
        for _ in range(5):
            await read()
            await write_alone()
            await read()
            async with open_async_session(database) as session:
                async with open_async_session(database, read_only=True) as inner:
                    await write(inner)
                await AsyncTaskRepository(session).update("a", context="written")
            await asyncio.gather(*(each() for each in (read, write_alone) * 5))

    asyncio.run(work())
    with open_session(database) as session:
        task = TaskRepository(session).get_or_raise("a")
        assert (task.title, task.context) == ("A task", "written")


def test_a_factory_for_each_job_is_not_mixed_up_with_the_one_before(
    backend: str, make_url: Callable[..., str]
) -> None:
    url = make_url(backend.rpartition("-")[2])

    async def job() -> None:
        # The databases of some are where those of others have been.
        factory = SessionFactory(url)
        if "memory" in url:
            run_migrations(database=factory.database)
        async with factory.get_async_session() as session:
            made = await create(session)
            await asyncio.sleep(0.001)
            async with factory.get_async_session() as inner:
                assert await AsyncTaskRepository(inner).get(made)

    async def work() -> None:
        for _ in range(20):
            await job()

    asyncio.run(work())


def test_a_synchronous_session_runs_on_the_asynchronous_side(database: Database) -> None:
    def work(target: Database) -> int:
        with open_session(target) as session:
            TaskRepository(session).create(title="x")
            with using(target), get_sync_session() as inner:
                return TaskRepository(inner).count()

    async def ask() -> int:
        target = await async_database(database)
        return int(await target.run(work, target))

    assert asyncio.run(ask()) == 1
    assert count(database) == 1


def test_no_event_loop_is_kept(database: Database) -> None:
    loops = []

    async def work() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await create_in_own_session(database)

    for _ in range(3):
        asyncio.run(work())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


async def create_in_own_session(database: Database) -> None:
    async with open_async_session(database) as session:
        await create(session)


def test_a_timeout_rolls_back_and_gives_the_connection_back(database: Database) -> None:
    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                async with get_async_session() as session:
                    await create(session)
                    await asyncio.sleep(30)
        status = (await async_database(database)).pool_status()
        assert status["in_use"] == 0
        async with get_async_session() as session:
            await create(session)

    asyncio.run(work())
    assert count(database) == 1


async def cancel_when(started: asyncio.Event, work: Awaitable[Any]) -> None:
    task = asyncio.ensure_future(work)
    await started.wait()
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_cancelled_statement_leaves_nothing(database: Database) -> None:
    slow = (
        "SELECT pg_sleep(20)"
        if database.dialect == "postgresql"
        else "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000000) "
        "SELECT MAX(x) FROM n"
    )

    async def work() -> None:
        started = asyncio.Event()

        async def victim() -> None:
            async with get_async_session() as session:
                await create(session)
                started.set()
                await session.execute(slow)

        await cancel_when(started, victim())
        assert (await async_database(database)).pool_status()["in_use"] == 0
        async with get_async_session() as session:
            await create(session, "after")

    asyncio.run(work())
    assert count(database) == 1


def test_fifty_sessions_share_few_connections(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("postgresql"), max_connections=4, pool_size=2)

    async def one(number: int) -> None:
        async with open_async_session(database) as session:
            await create(session, f"Task {number}")
            assert (await async_database(database)).pool_status()["in_use"] <= 4

    async def work() -> None:
        await asyncio.gather(*(one(number) for number in range(50)))
        status = (await async_database(database)).pool_status()
        assert status["in_use"] == 0
        assert status["idle"] <= 2

    asyncio.run(work())
    assert count(database) == 50
    database.close_pool()


def test_a_full_pool_is_a_timeout(make_url: Callable[..., str]) -> None:
    database = create_database(
        make_url("postgresql"), max_connections=1, pool_size=1, pool_timeout_s=0.1
    )

    async def second() -> None:
        async with open_async_session(database):
            pass

    async def work() -> None:
        async with open_async_session(database):
            with pytest.raises(PoolTimeout, match="stayed in use"):
                await asyncio.create_task(second())
        await second()

    asyncio.run(work())
    database.close_pool()


def test_no_server_is_unavailable() -> None:
    database = create_database("postgresql://somebody:sesame@127.0.0.1:1/none")

    async def work() -> None:
        async with open_async_session(database):
            pass

    with pytest.raises(DatabaseUnavailable) as caught:
        asyncio.run(work())
    assert "sesame" not in str(caught.value)


async def terminate(session: AsyncSession, database: Database) -> None:
    """End the session's connection from outside."""
    ((pid,),) = await session.execute("SELECT pg_backend_pid()")
    with open_session(database) as other:
        other.execute("SELECT pg_terminate_backend(%s)", (pid,))


def test_a_lost_connection_never_turns_into_autocommit(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("postgresql"))

    async def work() -> None:
        with pytest.raises(DatabaseUnavailable):
            async with open_async_session(database) as session:
                await create(session, "before")
                await terminate(session, database)
                await asyncio.sleep(0.05)
                with pytest.raises(DatabaseUnavailable):
                    await create(session, "lost")
                await create(session, "lost too")
        async with open_async_session(database) as session:
            await create(session, "after")
        assert (await async_database(database)).pool_status()["in_use"] == 0

    asyncio.run(work())
    assert count(database) == 1
    database.close_pool()


def test_a_transaction_is_run_again_when_its_connection_drops(
    make_url: Callable[..., str],
) -> None:
    database = create_database(make_url("postgresql"))
    attempts = []

    async def transfer(session: AsyncSession) -> str:
        attempts.append(1)
        await create(session)
        if len(attempts) == 1:
            await terminate(session, database)
            await asyncio.sleep(0.05)
        await create(session)
        return "done"

    async def work() -> str:
        return await run_in_async_transaction(transfer, database=database, delay_s=0)

    assert asyncio.run(work()) == "done"
    assert len(attempts) == 2
    assert count(database) == 2
    database.close_pool()


def test_a_transaction_is_run_again_when_a_column_has_another_type(
    make_url: Callable[..., str],
) -> None:
    database = create_database(make_url("postgresql"))

    async def rename(session: AsyncSession) -> str:
        tasks = AsyncTaskRepository(session)
        await tasks.create(id="b", title="x")
        task = await tasks.update("a", owner="somebody")
        assert task is not None
        return str(task.owner)

    async def work() -> str:
        async with open_async_session(database) as session:
            await AsyncTaskRepository(session).create(id="a", title="x")
            await AsyncTaskRepository(session).update("a", owner="nobody")
        with open_session(database) as session:
            session.execute("ALTER TABLE tasks ALTER COLUMN owner TYPE TEXT")
        return await run_in_async_transaction(rename, database=database, delay_s=0)

    assert asyncio.run(work()) == "somebody"
    assert count(database) == 2
    database.close_pool()


def test_inside_of_a_session_there_is_no_second_try(database: Database) -> None:
    attempts = []

    async def lose(session: AsyncSession) -> None:
        attempts.append(1)
        raise DatabaseError("lost a race", retryable=True)

    async def work() -> None:
        async with get_async_session() as session:
            with pytest.raises(DatabaseError, match="lost a race"):
                await run_in_async_transaction(lose, delay_s=0)
            await create(session)

    asyncio.run(work())
    assert len(attempts) == 1
    assert count(database) == 1


@pytest.mark.parametrize("options", [{"retries": -1}, {"retries": True}, {"delay_s": -0.1}])
def test_a_wrong_number_of_tries_is_refused(database: Database, options: Any) -> None:
    attempts = []

    async def work() -> None:
        async def write(session: AsyncSession) -> None:
            attempts.append(1)

        with pytest.raises(ValidationError, match="must be 0 or more"):
            await run_in_async_transaction(write, **options)

    asyncio.run(work())
    assert attempts == []


def test_an_error_that_is_no_accident_is_not_run_again(database: Database) -> None:
    attempts = []

    async def refuse(session: AsyncSession) -> None:
        attempts.append(1)
        await AsyncTaskRepository(session).create(title="x" * 501)

    async def work() -> None:
        await run_in_async_transaction(refuse, delay_s=0)

    with pytest.raises(DatabaseError):
        asyncio.run(work())
    assert len(attempts) == 1


def test_connections_that_were_closed_while_idle_are_replaced(
    make_url: Callable[..., str],
) -> None:
    database = create_database(make_url("postgresql"))

    async def work() -> None:
        async with open_async_session(database) as session:
            await create(session)
        with open_session(database) as session:
            session.execute(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity "
                "WHERE pid <> pg_backend_pid() AND datname = current_database()"
            )
        async with open_async_session(database) as again:
            await create(again)

    asyncio.run(work())
    assert count(database) == 2
    database.close_pool()


def test_both_kinds_of_session_and_two_databases_at_once(make_url: Callable[..., str]) -> None:
    from hopper_data import run_migrations

    server = create_database(make_url("postgresql"))
    file = create_database(make_url("sqlite"))
    memory = create_database(make_url("memory"))
    run_migrations(database=memory)

    async def write(database: Database, name: str) -> None:
        for number in range(10):
            async with open_async_session(database) as session:
                tasks = AsyncTaskRepository(session)
                made = await tasks.create(title=f"{name} {number}", tags=[name], context="{}")
                await asyncio.sleep(0)
                assert (await tasks.get_or_raise(made.id)).tags == [name]
                assert await tasks.count({"tags__contains": name}) == number * 2 + 1
            with using(database), get_sync_session() as inner:
                TaskRepository(inner).create(title=f"{name} sync {number}", tags=[name])

    async def work() -> None:
        await asyncio.gather(write(server, "server"), write(file, "file"), write(memory, "memory"))

    asyncio.run(work())
    for database in (server, file, memory):
        assert count(database) == 20
        database.close_pool()


def test_threads_with_event_loops_of_their_own(make_url: Callable[..., str]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    database = create_database(make_url("postgresql"))

    async def work() -> None:
        for _ in range(5):
            async with open_async_session(database) as session:
                await create(session)

    def run(_: int) -> None:
        asyncio.run(work())

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    assert count(database) == 20
    database.close_pool()


def test_a_factory_has_asynchronous_sessions(make_url: Callable[..., str]) -> None:
    async def work(factory: SessionFactory) -> None:
        async with factory.get_async_session() as session:
            await create(session)
        assert await factory.run_in_async_transaction(create)

    with SessionFactory(make_url("sqlite")) as factory:
        asyncio.run(work(factory))
        assert count(factory.database) == 2


def test_the_faces_are_up_to_date() -> None:
    from tests.conftest import ROOT

    done = subprocess.run(
        [sys.executable, "-m", "tools.async_faces", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_the_extra_the_error_names_the_command() -> None:
    script = (
        "import sys; sys.modules['asyncpg'] = None\n"
        "import hopper_data\n"
        "try: hopper_data.get_async_session()\n"
        "except hopper_data.DatabaseError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "pip install 'hopper-data[async]'" in done.stdout
