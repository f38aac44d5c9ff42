"""What is measured, and the goals: how many times the driver's time it may take."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.data import (
    BEGINNING,
    RARE_TAG,
    ROOT,
    STEP,
    TASK_COLUMNS,
    World,
    as_text,
    insert_tasks,
    new_connection,
    task_id,
    tidy,
)

GETS = 200
_OWN = ("id", "created_at", "updated_at")


@dataclass(frozen=True)
class Operation:
    """One line of the table.

    `run(contender, arguments)` is timed; `arguments(world, round)` and `undo(world, answer)` are
    not. `times` is how often it does the thing. `differs` are columns in which the answers of two
    contenders need not be the same. `tuned` are the backends whose driver can do more for it.
    One that is `alone` reads outside of the session that others read in.
    """

    key: str
    title: str
    run: Callable[[Contender, Any], Any]
    arguments: Callable[[World], Any]
    goals: tuple[float | None, float | None]
    times: int = 1
    reads: bool = True
    undo: Callable[[World, Any, Any], None] | None = None
    differs: Sequence[str] = ()
    tuned: Sequence[str] = ()
    alone: bool = False

    def title_for(self, world: World) -> str:
        """The title, with the numbers of this world."""
        return self.title.format(page_at=world.page_at, bulk=world.bulk)

    def goal(self, backend: str) -> float | None:
        return self.goals[backend == "postgresql"]


def some_ids(world: World, count: int) -> list[str]:
    numbers = random.Random(count).sample(range(world.size), min(count, world.size))
    return [task_id(number) for number in numbers]


def _cursor(world: World) -> tuple[datetime, str]:
    number = world.size - world.page_at
    return BEGINNING + number * STEP, task_id(number)


def _delete_made(world: World, _arguments: Any, answer: Any) -> None:
    _delete(world, [record.id for record in answer])


def _delete(world: World, ids: Sequence[str]) -> None:
    connection = new_connection(world.database)
    cursor = connection.cursor()
    if world.database.dialect == "sqlite":
        some = "SELECT value FROM json_each(?)"
        cursor.execute(f"DELETE FROM tasks WHERE id IN ({some})", (json.dumps(ids),))
    else:
        cursor.execute("DELETE FROM tasks WHERE id = ANY(%s)", (list(ids),))
    connection.commit()
    connection.close()
    if len(ids) > world.size // 50:
        tidy(world.database)


def _owners(world: World) -> dict[str, str]:
    return {key: f"owner-{number}" for number, key in enumerate(some_ids(world, 100))}


def _changes(world: World) -> list[dict[str, Any]]:
    ids = some_ids(world, 1000)
    return [
        {"id": key, "owner": f"owner-{number}", "priority": "high"}
        for number, key in enumerate(ids)
    ]


def _restore(world: World, arguments: Any, _answer: Any) -> None:
    """Take back what an update has changed."""
    ids = list(arguments) if isinstance(arguments, dict) else [row["id"] for row in arguments]
    connection = new_connection(world.database)
    mark = world.database.param
    sql = f"UPDATE tasks SET owner = {mark}, priority = 'low', updated_at = created_at "
    connection.cursor().executemany(f"{sql} WHERE id = {mark}", [("nobody", key) for key in ids])
    connection.commit()
    connection.close()


def _passing_tasks(world: World) -> list[str]:
    """The ids of 1,000 tasks that are there to be deleted."""
    now = as_text(BEGINNING)
    rows = []
    for number, fields in enumerate(world.source.new(min(1000, world.size))):
        row = dict.fromkeys(TASK_COLUMNS)
        row.update(fields, id=f"passing-{number:04d}", created_at=now, updated_at=now)
        row.update(status="pending", attempts=0, max_attempts=3)
        row.update(tags='["passing","by"]', required_capabilities='["python"]')
        rows.append(tuple(row.values()))
    insert_tasks(world.database, rows)
    return [row[0] for row in rows]


_PREPARES, _PRAGMAS, _BOTH = ("postgresql",), ("sqlite",), ("sqlite", "postgresql")
"""What is about one row PostgreSQL can prepare; SQLite writes by its pragmas."""

OPERATIONS = (
    Operation(
        "get",
        "get by key",
        lambda c, ids: [c.get(key) for key in ids],
        lambda world: some_ids(world, GETS),
        (1.5, 1.15),
        times=GETS,
        tuned=_PREPARES,
    ),
    Operation(
        "session",
        "get by key, each in a session of its own",
        lambda c, ids: [c.get_alone(key) for key in ids],
        lambda world: some_ids(world, 50),
        (None, None),
        times=50,
        alone=True,
        tuned=_PREPARES,
    ),
    Operation(
        "create",
        "create, each committed",
        lambda c, rows: c.create_each(rows),
        lambda world: world.source.new(50),
        (1.5, 1.15),
        times=50,
        reads=False,
        undo=_delete_made,
        differs=_OWN,
        tuned=_BOTH,
    ),
    Operation(
        "create-1000",
        "create 1,000 in one transaction",
        lambda c, rows: c.create_together(rows),
        lambda world: world.source.new(min(1000, world.size)),
        (1.5, 1.1),
        reads=False,
        undo=_delete_made,
        differs=_OWN,
        tuned=_BOTH,
    ),
    Operation(
        "bulk-create",
        "bulk create {bulk:,}",
        lambda c, rows: c.bulk_create(rows),
        lambda world: world.source.new(world.bulk),
        (1.3, 1.3),
        reads=False,
        undo=_delete_made,
        differs=_OWN,
        tuned=_PRAGMAS,
    ),
    Operation(
        "update",
        "update one",
        lambda c, owners: c.update_together(owners),
        _owners,
        (1.3, 1.15),
        times=100,
        reads=False,
        undo=_restore,
        differs=("updated_at", "priority"),
        tuned=_BOTH,
    ),
    Operation(
        "bulk-update",
        "bulk update 1,000",
        lambda c, rows: c.bulk_update(rows),
        _changes,
        (1.3, 1.15),
        reads=False,
        undo=_restore,
        tuned=_PRAGMAS,
    ),
    Operation(
        "bulk-delete",
        "bulk delete 1,000",
        lambda c, ids: c.bulk_delete(ids),
        _passing_tasks,
        (1.3, 1.15),
        reads=False,
        tuned=_PRAGMAS,
    ),
    Operation(
        "filter",
        "filter, order, limit 50",
        lambda c, given: [c.newest(*given) for _ in range(10)],
        lambda world: (world.source.project, "pending"),
        (1.3, 1.15),
        times=10,
    ),
    Operation(
        "page",
        "keyset page at {page_at:,}",
        lambda c, after: [c.page(*after) for _ in range(10)],
        _cursor,
        (1.3, 1.15),
        times=10,
    ),
    Operation(
        "tag",
        "tag, 1 row in 1,000",
        lambda c, tag: [c.tagged(tag) for _ in range(10)],
        lambda _: RARE_TAG,
        (1.5, 1.3),
        times=10,
    ),
    Operation(
        "search",
        "search",
        lambda c, _: [c.search() for _ in range(5)],
        lambda _: None,
        (1.5, 1.3),
        times=5,
    ),
    Operation(
        "ready",
        "ready tasks, the best 50",
        lambda c, _: [c.ready() for _ in range(5)],
        lambda _: None,
        (1.5, 1.3),
        times=5,
    ),
    Operation(
        "active",
        "projects with active tasks",
        lambda c, _: [c.active_projects() for _ in range(10)],
        lambda _: None,
        (1.5, 1.3),
        times=10,
    ),
    Operation(
        "statistics",
        "statistics of a project",
        lambda c, project: [c.statistics(project) for _ in range(10)],
        lambda world: world.source.project,
        (1.5, 1.3),
        times=10,
    ),
    Operation(
        "hierarchy",
        "hierarchy of 1,000",
        lambda c, root: c.hierarchy(root),
        lambda _: ROOT,
        (1.5, 1.2),
    ),
    Operation(
        "analytics",
        "analytics over all decisions",
        lambda c, _: c.analytics(),
        lambda _: None,
        (1.5, 1.2),
    ),
    Operation(
        "rows",
        "10,000 rows as models",
        lambda c, count: c.rows(count),
        lambda _: 10_000,
        (1.4, 1.4),
        tuned=_BOTH,
    ),
)
