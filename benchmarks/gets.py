"""50 asynchronous gets at once, each in a session of its own where there are sessions.

Two lines: in what a caller gets who says nothing of reading, and in read-only sessions, which see
one state of the data throughout. For that PostgreSQL needs a transaction, so there the others have
one as well. The driver of SQLite has one connection for all, and never has any.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from benchmarks.contenders.plain import make_models
from benchmarks.contenders.raw import GET, Task, task_of_text
from benchmarks.data import World
from benchmarks.measuring import AnswersDiffer, Measured, comparable
from benchmarks.operations import some_ids
from benchmarks.timing import collected, in_turn
from hopper_data import TaskRepository
from hopper_data.aio import open_async_session

KEY = "async"
SNAPSHOT_KEY = "async-snapshot"
GETS = 50
TITLES = {
    KEY: f"{GETS} concurrent asynchronous gets",
    SNAPSHOT_KEY: f"{GETS} asynchronous gets, each in a snapshot",
}
GOALS = {"sqlite": 1.4, "postgresql": 1.3}
_POOL = 20
_SNAPSHOT: dict[str, Any] = {"isolation": "repeatable_read", "readonly": True}
"""The transaction of asyncpg that is as ours is in a read-only session."""
Get = Callable[[str], Awaitable[Any]]
Open = Callable[[World], AbstractAsyncContextManager[Get]]


def measure_gets(world: World, key: str, rounds: int) -> Measured:
    """What the 50 take together."""
    seconds = asyncio.run(_measure(world, key, some_ids(world, GETS), rounds))
    backend, real = str(world.database.dialect), world.source.is_real
    return Measured(key, TITLES[key], backend, world.size, seconds, GOALS[backend], real)


def _ways(backend: str, key: str) -> dict[str, Open]:
    snapshot = key == SNAPSHOT_KEY
    ways: dict[str, Open] = {
        "driver": _aiosqlite if backend == "sqlite" else partial(_asyncpg, snapshot=snapshot),
        "hopper_data": partial(_ours, read_only=snapshot),
        "driver, tuned": (
            partial(_aiosqlite, at_once=True)
            if backend == "sqlite"
            else partial(_asyncpg, snapshot=snapshot, reset=_nothing)
        ),
        "peewee": partial(_peewee, snapshot=snapshot),
    }
    if importlib.util.find_spec("sqlalchemy"):
        ways["sqlalchemy"] = partial(_alchemy, snapshot=snapshot)
    return ways


async def _measure(world: World, key: str, ids: list[str], rounds: int) -> dict[str, float]:
    ways = _ways(str(world.database.dialect), key)
    times: dict[str, list[float]] = {name: [] for name in ways}
    async with AsyncExitStack() as stack:
        gets = {name: await stack.enter_async_context(way(world)) for name, way in ways.items()}
        await _compare(gets, ids)
        with collected():
            for number in range(rounds):
                for name in in_turn(list(gets), number):
                    gc.collect()
                    start = time.perf_counter()
                    await asyncio.gather(*map(gets[name], ids))
                    times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) for name, taken in times.items()}


async def _compare(gets: dict[str, Get], ids: list[str]) -> None:
    """Ask each twice, once to open its connections; all must find the same tasks."""
    for name, get in gets.items():
        await asyncio.gather(*map(get, ids))
        found = await asyncio.gather(*map(get, ids))
        if [record.title for record in found] != [
            record.title for record in await asyncio.gather(*map(gets["driver"], ids))
        ]:
            raise AnswersDiffer(f"asynchronous gets: {name} answers {comparable(found)}")


@asynccontextmanager
async def _aiosqlite(world: World, *, at_once: bool = False) -> AsyncIterator[Get]:
    import aiosqlite

    async with aiosqlite.connect(world.database.database, isolation_level=None) as connection:

        async def get(key: str) -> Task:
            cursor = await connection.execute(GET, (key,))
            row = await cursor.fetchone()
            await cursor.close()
            assert row is not None
            return task_of_text(row)

        async def get_at_once(key: str) -> Task:
            (row,) = await connection.execute_fetchall(GET, (key,))
            return task_of_text(tuple(row))

        yield get_at_once if at_once else get


async def _nothing(_connection: Any) -> None:
    """In place of what asyncpg's pool does to a connection that comes back."""


@asynccontextmanager
async def _asyncpg(
    world: World, *, snapshot: bool, reset: Callable[[Any], Awaitable[None]] | None = None
) -> AsyncIterator[Get]:
    import asyncpg

    async def prepare(connection: Any) -> None:
        await connection.set_type_codec(
            "jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads
        )

    sql = GET.replace("?", "$1")
    url = world.database.url.render(hide_password=False)
    async with asyncpg.create_pool(
        url, min_size=5, max_size=_POOL, init=prepare, reset=reset
    ) as pool:

        async def get(key: str) -> Task:
            return Task(*await pool.fetchrow(sql, key))

        async def get_in_snapshot(key: str) -> Task:
            async with (
                pool.acquire() as connection,
                connection.transaction(**_SNAPSHOT),
            ):
                return Task(*await connection.fetchrow(sql, key))

        yield get_in_snapshot if snapshot else get


@asynccontextmanager
async def _ours(world: World, *, read_only: bool) -> AsyncIterator[Get]:
    async def get(key: str) -> Any:
        async with open_async_session(world.database, read_only=read_only) as session:
            return await session.run(TaskRepository(session).get, key)

    yield get


@asynccontextmanager
async def _peewee(world: World, *, snapshot: bool) -> AsyncIterator[Get]:
    from playhouse.pwasyncio import AsyncPostgresqlDatabase, AsyncSqliteDatabase

    if world.database.dialect == "sqlite":
        pragmas = {"foreign_keys": 1, "synchronous": "NORMAL", "busy_timeout": 5000}
        database = AsyncSqliteDatabase(world.database.database, pragmas=pragmas, pool_size=_POOL)
    else:
        url = world.database.url.render(hide_password=False)
        database = AsyncPostgresqlDatabase(url, pool_size=_POOL)
    task, *_ = make_models(database)
    options = {} if world.database.dialect == "sqlite" else _SNAPSHOT

    def get_in_snapshot(key: str) -> Any:
        with database.atomic(**options):
            return task.get_by_id(key)

    async def get(key: str) -> Any:
        try:
            return await database.run(get_in_snapshot if snapshot else task.get_by_id, key)
        finally:
            await database.aclose()  # gives the connection back

    yield get
    await database.close_pool()


@asynccontextmanager
async def _alchemy(world: World, *, snapshot: bool) -> AsyncIterator[Get]:
    from sqlalchemy import event
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    from benchmarks.contenders.orm import Task as Mapped
    from benchmarks.contenders.orm import dumps, engine_url, set_pragmas

    driver = "aiosqlite" if world.database.dialect == "sqlite" else "asyncpg"
    options: dict[str, Any] = {}
    if not snapshot:
        options["isolation_level"] = "AUTOCOMMIT"
    elif driver == "asyncpg":
        options["isolation_level"] = "REPEATABLE READ"
        options["execution_options"] = {"postgresql_readonly": True}
    engine = create_async_engine(
        engine_url(world.database, driver),
        json_serializer=dumps,
        pool_size=_POOL,
        max_overflow=0,
        **options,
    )
    if driver == "aiosqlite":
        event.listen(engine.sync_engine, "connect", set_pragmas)

    async def get(key: str) -> Any:
        async with AsyncSession(engine) as session:
            return await session.get(Mapped, key)

    yield get
    await engine.dispose()
