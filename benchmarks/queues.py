"""Queues that several processes work at: ours, the driver with SQL of its own, and peers.

Each fills itself, and works until nothing is left. The tasks do nothing.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import hopper_data
from benchmarks.contenders.raw import TASKS, Raw, RawPostgresql, RawSqlite, Task
from benchmarks.data import (
    BEGINNING,
    STEP,
    TASK_COLUMNS,
    as_text,
    copy_into_postgresql,
    copy_into_sqlite,
    new_connection,
    task_id,
    tidy,
)
from hopper_data import TaskRepository, create_database
from hopper_data.database import Database
from hopper_data.routing.schema import CLAIM_KEY
from hopper_data.session import open_session

LEASE_S = 300


class Queue(Protocol):
    """A queue on a database of its own."""

    def __init__(self, database: Database) -> None: ...

    def fill(self, count: int) -> None:
        """Put in `count` tasks; nothing else is left."""

    def work(self, many: int, finish: bool) -> int:
        """Take tasks, `many` at a time, until none is left, and finish them; how many."""

    def close(self) -> None: ...


def queues(backend: str) -> dict[str, type[Queue]]:
    """Those that are installed; the first two only are able to take without finishing."""
    found: dict[str, type[Queue]] = {
        "driver": DriverOnSqlite if backend == "sqlite" else DriverOnPostgresql,
        "hopper_data": Ours,
    }
    peers = {"huey": Huey} if backend == "sqlite" else _POSTGRESQL_PEERS
    found.update({name: kind for name, kind in peers.items() if importlib.util.find_spec(name)})
    return found


def _fill(database: Database, count: int) -> None:
    """Pending tasks, one in ten of which depends on a completed one."""
    rows = []
    for number in range(count):
        made = as_text(BEGINNING + number * STEP)
        row = dict.fromkeys(TASK_COLUMNS)
        row.update(id=task_id(number), title=f"Task {number}", status="pending", attempts=0)
        row.update(priority="medium" if number % 3 else "high", max_attempts=3)
        row.update(created_at=made, updated_at=made, tags='["a","b"]')
        if number % 10 == 9:
            row.update(depends_on=json.dumps(["done"]))
        rows.append(tuple(row.values()))
    done = dict(zip(TASK_COLUMNS, rows[0], strict=True))
    done.update(id="done", status="completed")
    connection = new_connection(database)
    connection.cursor().execute("DELETE FROM tasks")
    copy = copy_into_sqlite if database.dialect == "sqlite" else copy_into_postgresql
    copy(connection, "tasks", TASK_COLUMNS, [tuple(done.values()), *rows])
    connection.commit()
    connection.close()
    tidy(database)


class Ours:
    def __init__(self, database: Database) -> None:
        self.database = database
        with open_session(database, read_only=True):
            pass  # the others connect here, too

    def fill(self, count: int) -> None:
        _fill(self.database, count)

    def work(self, many: int, finish: bool) -> int:
        owner, taken = f"worker-{os.getpid()}", 0
        while True:
            with open_session(self.database) as session:
                claimed = TaskRepository(session).claim_next(owner, limit=many, lease=LEASE_S)
            if not claimed:
                return taken
            taken += len(claimed)
            if finish:
                with open_session(self.database) as session:
                    self._finish(TaskRepository(session), claimed)

    def _finish(self, tasks: TaskRepository, claimed: list[hopper_data.Task]) -> None:
        if len(claimed) > 1:
            assert not tasks.complete_many(claimed).lost
        else:
            tasks.complete(claimed[0].id, claimed[0].lease_token)

    def close(self) -> None:
        self.database.close_pool()


# -- the drivers ----------------------------------------------------------------------------------


class _Driver:
    raw: Raw
    claim: str
    complete: str

    def __init__(self, database: Database) -> None:
        self.database = database

    def fill(self, count: int) -> None:
        _fill(self.database, count)

    def take(self, owner: str, many: int) -> list[Task]:
        raise NotImplementedError

    def finish(self, tasks: Sequence[Task]) -> list[Task]:
        raise NotImplementedError

    def work(self, many: int, finish: bool) -> int:
        owner, taken = f"worker-{os.getpid()}", 0
        while claimed := self.take(owner, many):
            taken += len(claimed)
            if finish:
                assert len(self.finish(claimed)) == len(claimed)
        return taken

    def close(self) -> None:
        self.raw.close()


def _met(items: str) -> str:
    return (
        f"(depends_on IS NULL OR NOT EXISTS (SELECT 1 FROM {items}(t.depends_on) AS needed "
        "WHERE coalesce((SELECT n.status FROM tasks AS n WHERE n.id = needed.value), '') "
        "<> 'completed'))"
    )


class DriverOnSqlite(_Driver):
    claim = (
        "UPDATE tasks SET status = 'claimed', owner = ?, lease_token = lower(hex(randomblob(16))), "
        "lease_s = ?, lease_expires_at = ?, attempts = attempts + 1, updated_at = ? WHERE id IN ("
        "SELECT id FROM tasks AS t INDEXED BY idx_tasks_claim WHERE (status = 'pending') IS TRUE "
        f"AND (run_after IS NULL OR run_after <= ?) AND {_met('json_each')} "
        f"ORDER BY {CLAIM_KEY['sqlite']}, id LIMIT ?) RETURNING {TASKS}"
    )
    complete = (
        "UPDATE tasks SET status = 'completed', lease_token = NULL, lease_s = NULL, "
        "lease_expires_at = NULL, updated_at = ? FROM "
        "(SELECT value ->> 0 AS task_id, value ->> 1 AS token FROM json_each(?)) "
        f"WHERE id = task_id AND lease_token = token RETURNING {TASKS}"
    )

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.raw = RawSqlite(database)

    def take(self, owner: str, many: int) -> list[Task]:
        now = datetime.now(UTC)
        moment, end = as_text(now), as_text(now + timedelta(seconds=LEASE_S))
        rows = self.raw.fetch(self.claim, (owner, LEASE_S, end, moment, moment, many))
        return self.raw.tasks(rows)

    def finish(self, tasks: Sequence[Task]) -> list[Task]:
        pairs = json.dumps([[task.id, task.lease_token] for task in tasks])
        rows = self.raw.fetch(self.complete, (as_text(datetime.now(UTC)), pairs))
        return self.raw.tasks(rows)


class DriverOnPostgresql(_Driver):
    claim = (
        "UPDATE tasks SET status = 'claimed', owner = %s, lease_token = gen_random_uuid()::text, "
        "lease_s = %s, lease_expires_at = now() + %s * interval '1 s', attempts = attempts + 1, "
        "updated_at = now() WHERE id = ANY(ARRAY("
        "SELECT id FROM tasks AS t WHERE (status = 'pending') IS TRUE "
        f"AND (run_after IS NULL OR run_after <= now()) "
        f"AND {_met('jsonb_array_elements_text')} ORDER BY {CLAIM_KEY['postgresql']}, id LIMIT %s "
        f"FOR UPDATE SKIP LOCKED)) RETURNING {TASKS}"
    )
    complete = (
        "UPDATE tasks SET status = 'completed', lease_token = NULL, lease_s = NULL, "
        "lease_expires_at = NULL, updated_at = now() "
        "FROM unnest(%s::text[], %s::text[]) AS given(task_id, token) "
        f"WHERE id = task_id AND lease_token = token RETURNING {TASKS}"
    )

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.raw = RawPostgresql(database)

    def take(self, owner: str, many: int) -> list[Task]:
        return self.raw.tasks(self.raw.fetch(self.claim, (owner, LEASE_S, LEASE_S, many)))

    def finish(self, tasks: Sequence[Task]) -> list[Task]:
        given = ([task.id for task in tasks], [task.lease_token for task in tasks])
        return self.raw.tasks(self.raw.fetch(self.complete, given))


# -- peers, each in its own normal way ------------------------------------------------------------


class Huey:
    """Its storage in SQLite; what its own consumer does: dequeue and execute."""

    def __init__(self, database: Database) -> None:
        from huey import SqliteHuey

        logging.getLogger("huey").setLevel(logging.ERROR)
        self.huey = SqliteHuey(filename=f"{database.database}-huey", fsync=False)
        self.done = 0

        @self.huey.task()
        def nothing() -> None:
            self.done += 1

        self.nothing = nothing

    def fill(self, count: int) -> None:
        self.huey.flush()
        for _ in range(count):
            self.nothing()

    def work(self, many: int, finish: bool) -> int:
        assert many == 1
        assert finish
        while (task := self.huey.dequeue()) is not None:
            self.huey.execute(task)
        return self.done

    def close(self) -> None:
        self.huey.storage.close()


def _plain_url(database: Database) -> str:
    return str(database.url.render(hide_password=False))


class Procrastinate:
    """A worker that ends when it has caught up, one job at a time."""

    def __init__(self, database: Database) -> None:
        self.url = _plain_url(database)
        self.done = 0
        logging.getLogger("procrastinate").setLevel(logging.ERROR)

    def _app(self) -> Any:
        from procrastinate import App, PsycopgConnector

        app = App(connector=PsycopgConnector(conninfo=self.url))

        @app.task(name="nothing")
        async def nothing() -> None:
            self.done += 1

        return app

    def fill(self, count: int) -> None:
        asyncio.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        app = self._app()
        async with app.open_async():
            if not await app.check_connection_async():
                await app.schema_manager.apply_schema_async()
            await app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")
            await app.tasks["nothing"].batch_defer_async(*[{} for _ in range(count)])
            await app.connector.execute_query_async("ANALYZE procrastinate_jobs")

    def work(self, many: int, finish: bool) -> int:
        assert many == 1
        assert finish
        asyncio.run(self._work())
        return self.done

    async def _work(self) -> None:
        app = self._app()
        async with app.open_async():
            await app.run_worker_async(wait=False, install_signal_handlers=False)

    def close(self) -> None:
        """Nothing stays open."""


class PgQueuer:
    """A worker that ends when the queue is drained; it takes jobs `many` at a time."""

    def __init__(self, database: Database) -> None:
        self.url = _plain_url(database)
        self.done = 0
        logging.getLogger("pgqueuer").setLevel(logging.ERROR)

    def fill(self, count: int) -> None:
        asyncio.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        import asyncpg
        from pgqueuer import AsyncpgDriver, Queries

        connection = await asyncpg.connect(self.url)
        queries = Queries(AsyncpgDriver(connection))
        if await connection.fetchval("SELECT to_regclass('pgqueuer')") is None:
            await queries.install()
        await connection.execute("TRUNCATE pgqueuer, pgqueuer_log")
        await queries.enqueue(["nothing"] * count, [None] * count, [0] * count)
        await connection.execute("ANALYZE pgqueuer")
        await connection.close()

    def work(self, many: int, finish: bool) -> int:
        assert finish
        asyncio.run(self._work(many))
        return self.done

    async def _work(self, many: int) -> None:
        import asyncpg
        from pgqueuer import AsyncpgDriver, Queries, QueueManager
        from pgqueuer.types import QueueExecutionMode

        connection = await asyncpg.connect(self.url)
        manager = QueueManager(Queries(AsyncpgDriver(connection)))

        @manager.entrypoint("nothing")
        async def nothing(_job: Any) -> None:
            self.done += 1

        await manager.run(batch_size=many, mode=QueueExecutionMode.drain)
        await connection.close()

    def close(self) -> None:
        """Nothing stays open."""


_POSTGRESQL_PEERS: dict[str, type[Queue]] = {"procrastinate": Procrastinate, "pgqueuer": PgQueuer}
TAKES_ONE = {"huey", "procrastinate"}


def open_queue(name: str, backend: str, url: str) -> Queue:
    """A queue by its name, in the process of a worker."""
    return queues(backend)[name](create_database(url, slow_query_ms=60_000))
