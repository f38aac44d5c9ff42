"""What the indexes and the triggers of `tasks` add to the cost of a new row."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.raw import TASKS, new_task, parameters
from benchmarks.data import TASK_COLUMNS, World, new_connection

KEY = "upkeep"
TITLE = "upkeep of the indexes"
Parts = dict[str, list[str]]
_SEARCH, _LISTS = "search", "tags and dependencies"


@dataclass(frozen=True)
class Upkeep:
    """Microseconds of a new row: with everything, with nothing, and what each part adds."""

    backend: str
    whole: float
    bare: float
    parts: dict[str, float]


def measure_upkeep(world: World, rows: int = 1_000, rounds: int = 9) -> Upkeep:
    """Insert rows with each part left out in turn, in transactions that are rolled back.

    The fastest of the rounds counts: a difference of medians would mostly be noise.
    """
    dialect = str(world.database.dialect)
    connection = new_connection(world.database)
    cursor = connection.cursor()
    parts = _sqlite_parts(cursor) if dialect == "sqlite" else _postgresql_parts(cursor)
    connection.rollback()
    without = {"whole": [], **parts, "bare": [sql for part in parts.values() for sql in part]}
    best = dict.fromkeys(without, float("inf"))
    values = [parameters(new_task(row)) for row in world.source.new(rows)]
    for _ in range(rounds):
        for name, statements in without.items():
            seconds = _insert_without(connection, dialect, statements, values)
            best[name] = min(best[name], seconds / rows * 1e6)
    connection.close()
    whole, bare = best.pop("whole"), best.pop("bare")
    return Upkeep(dialect, whole, bare, {name: whole - left for name, left in best.items()})


def _insert_without(
    connection: Any, dialect: str, statements: Sequence[str], values: Sequence[Sequence[Any]]
) -> float:
    mark = "?" if dialect == "sqlite" else "%s"
    insert = f"INSERT INTO tasks ({TASKS}) VALUES ({', '.join([mark] * len(TASK_COLUMNS))})"
    cursor = connection.cursor()
    if dialect == "sqlite":
        cursor.execute("BEGIN")  # which its driver leaves out ahead of a DROP
    for statement in statements:
        cursor.execute(statement)
    gc.collect()
    start = time.perf_counter()
    for row in values:
        cursor.execute(insert, row)
    taken = time.perf_counter() - start
    connection.rollback()
    return taken


def _sqlite_parts(cursor: Any) -> Parts:
    cursor.execute(
        "SELECT name FROM sqlite_master WHERE tbl_name = 'tasks' AND sql IS NOT NULL "
        "AND type = 'index'"
    )
    return {
        _SEARCH: ["DROP TRIGGER task_search_insert"],
        _LISTS: ["DROP TRIGGER task_tags_insert", "DROP TRIGGER task_dependencies_insert"],
        **_ordered(cursor.fetchall()),
    }


def _postgresql_parts(cursor: Any) -> Parts:
    cursor.execute(
        "SELECT indexname FROM pg_indexes WHERE tablename = 'tasks' "
        "AND indexname NOT LIKE '%pkey' AND indexdef LIKE '%USING btree%'"
    )
    return {
        # The words of a task are a column, which takes its index along.
        _SEARCH: ["ALTER TABLE tasks DROP COLUMN search_tsvector"],
        _LISTS: ["DROP INDEX idx_tasks_tags", "DROP INDEX idx_tasks_depends_on"],
        **_ordered(cursor.fetchall()),
        "waking workers": ["DROP TRIGGER task_waking_insert ON tasks"],
    }


def _ordered(indexes: Sequence[tuple[str]]) -> Parts:
    return {f"{len(indexes)} ordered indexes": [f'DROP INDEX "{name}"' for (name,) in indexes]}
