"""The data that everything is measured on, put in by the fastest way.

Rows are tuples of what both backends read: times and JSON as text.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from hopper_data.database import Database

if TYPE_CHECKING:
    from benchmarks.sources import Source

SEED = 7
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=15)
INSTANCES = 1_000
RARE_TAG = "rare"
RARE_WORD = "lattice"
ROOT = "instance-0000"
_CHUNK = 20_000


def names(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


TASK_COLUMNS = names(
    "id title description project status priority requester owner external_id external_url "
    "external_platform source conversation_id context tags required_capabilities depends_on blocks "
    "routing_confidence routing_reasoning feedback created_at updated_at lease_expires_at "
    "lease_token lease_s attempts max_attempts run_after last_error dedupe_key"
)
PROJECT_COLUMNS = names(
    "name slug repository capabilities tags executor_type executor_config auto_claim "
    "priority_boost velocity sla webhook_url api_endpoint sync_config created_at created_by "
    "last_sync"
)
INSTANCE_COLUMNS = names(
    "id name scope parent_id config status description created_by terminated_at created_at "
    "updated_at"
)
DECISION_COLUMNS = names(
    "task_id project confidence reasoning decided_by decided_at decision_time_ms context"
)
FEEDBACK_COLUMNS = names("task_id quality_score was_good_match notes created_at")

_STRATEGIES = ("rules", "llm", "sage")


def task_id(number: int) -> str:
    return f"task-{number:016d}"


def as_text(moment: datetime) -> str:
    """A time as SQLite keeps it; PostgreSQL reads it, too."""
    return moment.isoformat(" ", "microseconds")


class World(NamedTuple):
    """What stands in a database of `size` tasks, for those who ask about it.

    `bulk` is how many are created at once.
    """

    size: int
    database: Database
    source: Source
    bulk: int

    @property
    def page_at(self) -> int:
        """How many rows the keyset page has before it."""
        return min(50_000, self.size // 2)

    @property
    def instances(self) -> int:
        return min(INSTANCES, self.size)


def _projects(names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for number, name in enumerate(names):
        slug = f"project-{number:02d}"
        yield (
            *(name, slug, f"https://git.example/{slug}"),
            '{"languages":["python","sql"]}',
            f'["team-{number % 7}"]',
            "agent",
            '{"model":"small","timeout_s":600}',
            number % 2 == 0,
            None,
            "fast",
            *(None, None, None, None),
            as_text(BEGINNING),
            "bench",
            None,
        )


def _instances(count: int) -> Iterator[tuple[Any, ...]]:
    # Parents first: each has up to ten right under it, so 1,000 are three levels deep.
    for number in range(count):
        made = as_text(BEGINNING + number * STEP)
        yield (
            f"instance-{number:04d}",
            f"Instance {number:04d}",
            "ORCHESTRATION" if number else "GLOBAL",
            f"instance-{(number - 1) // 10:04d}" if number else None,
            '{"depth":3,"queue":"default"}',
            "active",
            *(None, "bench", None),
            made,
            made,
        )


def _decisions(projects: Sequence[str], count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(SEED + 1)
    for number in range(count):
        yield (
            task_id(number),
            chance.choice(projects) if number % 25 else None,
            round(chance.random(), 3),
            "The rule says so",
            chance.choice(_STRATEGIES),
            as_text(BEGINNING + number * STEP),
            round(chance.random() * 100, 2),
            '{"rule":"default"}',
        )


def _feedback(count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(SEED + 2)
    for number in range(0, count, 5):
        good = None if number % 50 == 0 else chance.random() < 0.8
        made = as_text(BEGINNING + number * STEP)
        yield (task_id(number), round(chance.random(), 3), good, "As expected", made)


# -- putting it in --------------------------------------------------------------------------------


def fill(database: Database, count: int, source: Source, bulk: int = 10_000) -> World:
    """Put `count` tasks and what belongs to them into an empty database that is migrated."""
    connection = new_connection(database)
    copy = copy_into_sqlite if database.dialect == "sqlite" else copy_into_postgresql
    copy(connection, "projects", PROJECT_COLUMNS, _projects(source.projects))
    copy(connection, "hopper_instances", INSTANCE_COLUMNS, _instances(min(INSTANCES, count)))
    with _without_indexes(connection, database.dialect):
        copy(connection, "tasks", TASK_COLUMNS, source.rows(count))
        if database.dialect == "sqlite":
            _fill_side_tables(connection)
    copy(connection, "routing_decisions", DECISION_COLUMNS, _decisions(source.projects, count))
    copy(connection, "task_feedback", FEEDBACK_COLUMNS, _feedback(count))
    connection.commit()
    connection.close()
    tidy(database)
    return World(count, database, source, min(bulk, count))


def insert_tasks(database: Database, rows: Iterable[Sequence[Any]]) -> None:
    """Add rows of `TASK_COLUMNS` to those that are there."""
    connection = new_connection(database)
    copy = copy_into_sqlite if database.dialect == "sqlite" else copy_into_postgresql
    copy(connection, "tasks", TASK_COLUMNS, rows)
    connection.commit()
    connection.close()


def tidy(database: Database) -> None:
    """Let the planner know what is there, and forget what was deleted."""
    connection = new_connection(database)
    if database.dialect == "sqlite":
        connection.isolation_level = None
        connection.execute("ANALYZE")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    else:
        connection.autocommit = True
        connection.cursor().execute("VACUUM ANALYZE")
    connection.close()


def tidy_tasks(database: Database) -> None:
    """Let the planner know of tasks that came, and indexes forget those that went."""
    connection = new_connection(database)
    if database.dialect == "sqlite":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    else:
        connection.autocommit = True
        connection.cursor().execute("VACUUM (ANALYZE, INDEX_CLEANUP ON) tasks, task_events")
    connection.close()


def catch_up(database: Database) -> None:
    """Do what earlier writes have left for later ones, which would hit one contender at random."""
    connection = new_connection(database)
    if database.dialect == "sqlite":
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    else:
        connection.autocommit = True
        connection.cursor().execute(
            "SELECT gin_clean_pending_list(index.oid) FROM pg_class AS index "
            "JOIN pg_am AS method ON method.oid = index.relam WHERE method.amname = 'gin'"
        )
    connection.close()


def new_connection(database: Database) -> Any:
    if database.dialect == "sqlite":
        import sqlite3

        connection = sqlite3.connect(database.database)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection
    import psycopg2

    return psycopg2.connect(database.url.render(hide_password=False))


def copy_into_sqlite(
    connection: Any, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Insert rows, in the transaction of the connection."""
    marks = ", ".join("?" * len(columns))
    connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def copy_into_postgresql(
    connection: Any, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Insert rows by COPY, in the transaction of the connection."""
    cursor, iterator = connection.cursor(), iter(rows)
    while chunk := list(islice(iterator, _CHUNK)):
        text = io.StringIO()
        csv.writer(text).writerows(chunk)
        text.seek(0)
        cursor.copy_expert(f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT csv)", text)


@contextmanager
def _without_indexes(connection: Any, dialect: str) -> Iterator[None]:
    """Leave the indexes of the tasks, and SQLite's triggers, aside, and make them again."""
    cursor = connection.cursor()
    if dialect == "sqlite":
        cursor.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE tbl_name = 'tasks' "
            "AND type IN ('index', 'trigger') AND sql IS NOT NULL"
        )
    else:
        cursor.execute(
            "SELECT 'index', indexname, indexdef FROM pg_indexes "
            "WHERE tablename = 'tasks' AND indexname NOT LIKE '%pkey'"
        )
    found = cursor.fetchall()
    for kind, name, _ in found:
        cursor.execute(f'DROP {kind} "{name}"')
    yield
    for _, _, sql in found:
        cursor.execute(sql)


def _fill_side_tables(connection: Any) -> None:
    """What SQLite's triggers would have written, by one statement each."""
    for table, item, column in (
        ("task_tags", "tag", "tags"),
        ("task_dependencies", "needed_id", "depends_on"),
    ):
        connection.execute(
            f"INSERT INTO {table} ({item}, task_id) "
            f"SELECT DISTINCT value, tasks.id FROM tasks, json_each(tasks.{column}) ORDER BY 1, 2"
        )
    connection.execute("INSERT INTO task_documents (task_id) SELECT id FROM tasks ORDER BY id")
    connection.execute(
        "INSERT INTO task_search (rowid, title, description, context) "
        "SELECT d.id, title, description, context FROM task_documents AS d "
        "JOIN tasks ON tasks.id = d.task_id ORDER BY d.id"
    )
