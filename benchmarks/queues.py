"""Queues that several processes work at: ours, the driver with SQL of its own, and peers.

The tasks do nothing. Ours and the driver work at tables of tasks that others have filled, until
they have taken what they may. Peers fill tables of their own, and work until nothing is left.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import hopper_data
from benchmarks.contenders.raw import TASKS, Raw, RawPostgresql, RawSqlite, Task, TunedSqlite
from benchmarks.data import as_text
from hopper_data import TaskRepository, create_database
from hopper_data.database import Database
from hopper_data.routing.schema import CLAIM_KEY
from hopper_data.session import open_session

LEASE_S = 300

Tickets = Callable[[], int]
"""Gives how many times more to take tasks; 0 at the end."""


class Queue(Protocol):
    """A queue on a database."""

    def __init__(self, database: Database) -> None: ...

    def work(self, many: int, finish: bool, tickets: Tickets) -> int:
        """Take tasks, `many` at a time, and finish them; how many. Peers know of no tickets."""

    def close(self) -> None: ...


class Peer(Queue, Protocol):
    """A queue with tables of its own."""

    def fill(self, count: int) -> None:
        """Put in `count` tasks; nothing else is left."""


def queues(backend: str) -> dict[str, type[Queue]]:
    """Those on tables of tasks. They can take without finishing."""
    if backend == "postgresql":
        return {"driver": DriverOnPostgresql, "hopper_data": Ours}
    return {"driver": DriverOnSqlite, "hopper_data": Ours, "driver, tuned": TunedOnSqlite}


def peers(backend: str) -> dict[str, type[Peer]]:
    """Those that are installed."""
    known = _SQLITE_PEERS if backend == "sqlite" else _POSTGRESQL_PEERS
    return {name: kind for name, kind in known.items() if importlib.util.find_spec(name)}


def _times(tickets: Tickets) -> Iterator[None]:
    while count := tickets():
        yield from [None] * count


class Ours:
    def __init__(self, database: Database) -> None:
        self.database = database
        with open_session(database, read_only=True):
            pass  # the others connect here, too

    def work(self, many: int, finish: bool, tickets: Tickets) -> int:
        owner, taken = f"worker-{os.getpid()}", 0
        for _ in _times(tickets):
            with open_session(self.database) as session:
                claimed = TaskRepository(session).claim_next(owner, limit=many, lease=LEASE_S)
            taken += len(claimed)
            if finish:
                with open_session(self.database) as session:
                    self._finish(TaskRepository(session), claimed)
        return taken

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

    def take(self, owner: str, many: int) -> list[Task]:
        raise NotImplementedError

    def finish(self, tasks: Sequence[Task]) -> list[Task]:
        raise NotImplementedError

    def work(self, many: int, finish: bool, tickets: Tickets) -> int:
        owner, taken = f"worker-{os.getpid()}", 0
        for _ in _times(tickets):
            claimed = self.take(owner, many)
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


class TunedOnSqlite(DriverOnSqlite):
    def __init__(self, database: Database) -> None:
        self.raw = TunedSqlite(database)


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

    def work(self, many: int, finish: bool, tickets: Tickets) -> int:  # noqa: ARG002
        assert many == 1
        assert finish
        while (task := self.huey.dequeue()) is not None:
            self.huey.execute(task)
        return self.done

    def close(self) -> None:
        self.huey.storage.close()


class _OfLoop:
    """One with an event loop of its own, in which it is connected before it works."""

    def __init__(self, database: Database) -> None:
        self.url = str(database.url.render(hide_password=False))
        self.done = 0
        self.runner = asyncio.Runner()
        self.runner.run(self.start())

    async def start(self) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self.runner.run(self.stop())
        self.runner.close()


class Procrastinate(_OfLoop):
    """A worker that ends when it has caught up, one job at a time."""

    async def start(self) -> None:
        from procrastinate import App, PsycopgConnector

        logging.getLogger("procrastinate").setLevel(logging.ERROR)
        self.app: Any = App(connector=PsycopgConnector(conninfo=self.url))

        @self.app.task(name="nothing")
        async def nothing() -> None:
            self.done += 1

        await self.app.open_async()

    async def stop(self) -> None:
        await self.app.close_async()

    def fill(self, count: int) -> None:
        self.runner.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        app = self.app
        if not await app.check_connection_async():
            await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async("TRUNCATE procrastinate_jobs CASCADE")
        await app.tasks["nothing"].batch_defer_async(*[{} for _ in range(count)])
        await app.connector.execute_query_async("ANALYZE procrastinate_jobs")

    def work(self, many: int, finish: bool, tickets: Tickets) -> int:  # noqa: ARG002
        assert many == 1
        assert finish
        self.runner.run(self.app.run_worker_async(wait=False, install_signal_handlers=False))
        return self.done


class PgQueuer(_OfLoop):
    """A worker that ends when the queue is drained; it takes jobs `many` at a time."""

    async def start(self) -> None:
        import asyncpg
        from pgqueuer import AsyncpgDriver, Queries, QueueManager

        logging.getLogger("pgqueuer").setLevel(logging.ERROR)
        self.connection = await asyncpg.connect(self.url)
        self.queries = Queries(AsyncpgDriver(self.connection))
        self.manager = QueueManager(self.queries)

        @self.manager.entrypoint("nothing")
        async def nothing(_job: Any) -> None:
            self.done += 1

    async def stop(self) -> None:
        await self.connection.close()

    def fill(self, count: int) -> None:
        self.runner.run(self._fill(count))

    async def _fill(self, count: int) -> None:
        connection = self.connection
        if await connection.fetchval("SELECT to_regclass('pgqueuer')") is None:
            await self.queries.install()
        await connection.execute("TRUNCATE pgqueuer, pgqueuer_log")
        await self.queries.enqueue(["nothing"] * count, [None] * count, [0] * count)
        await connection.execute("ANALYZE pgqueuer")

    def work(self, many: int, finish: bool, tickets: Tickets) -> int:  # noqa: ARG002
        from pgqueuer.types import QueueExecutionMode

        assert finish
        self.runner.run(self.manager.run(batch_size=many, mode=QueueExecutionMode.drain))
        return self.done


_SQLITE_PEERS: dict[str, type[Peer]] = {"huey": Huey}
_POSTGRESQL_PEERS: dict[str, type[Peer]] = {"procrastinate": Procrastinate, "pgqueuer": PgQueuer}
TAKES_ONE = {"huey", "procrastinate"}


def open_queue(name: str, backend: str, url: str) -> Queue:
    """A queue by its name, in the process of a worker."""
    kind = {**queues(backend), **peers(backend)}[name]
    return kind(create_database(url, slow_query_ms=60_000))
