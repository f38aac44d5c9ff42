"""The data that everything is measured on: made from a seed, and put in by the fastest way.

Rows are tuples of what both backends read: times and JSON as text.
"""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, NamedTuple

from hopper_data.database import Database

SEED = 7
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
STEP = timedelta(seconds=15)
PROJECTS = 40
INSTANCES = 1_000
RARE_TAG = "rare"
RARE_WORD = "lattice"
ROOT = "instance-0000"
_CHUNK = 20_000


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TASK_COLUMNS = _names(
    "id title description project status priority requester owner external_id external_url "
    "external_platform source conversation_id context tags required_capabilities depends_on blocks "
    "routing_confidence routing_reasoning feedback created_at updated_at lease_expires_at "
    "lease_token lease_s attempts max_attempts run_after last_error dedupe_key"
)
PROJECT_COLUMNS = _names(
    "name slug repository capabilities tags executor_type executor_config auto_claim "
    "priority_boost velocity sla webhook_url api_endpoint sync_config created_at created_by "
    "last_sync"
)
INSTANCE_COLUMNS = _names(
    "id name scope parent_id config status description created_by terminated_at created_at "
    "updated_at"
)
DECISION_COLUMNS = _names(
    "task_id project confidence reasoning decided_by decided_at decision_time_ms context"
)
FEEDBACK_COLUMNS = _names("task_id quality_score was_good_match notes created_at")

_WORDS = [
    f"{begin}{end}"
    for begin in _names("acid bolt cedar delta ember flint grove harbor iron jade kelp lumen")
    for end in _names("ing er ory ation al ive ness ful less ward like ment ism ship hood dom")
]
_STATUSES = ("completed", "pending", "in_progress", "blocked", "failed", "cancelled")
_STATUS_WEIGHTS = (60, 25, 5, 3, 4, 3)
_PRIORITIES = ("low", "medium", "high", "urgent")
_PRIORITY_WEIGHTS = (20, 50, 25, 5)
_TAGS = ("bug", "feature", "docs", "infra", "security", "ui", "api", "data", "ops", "tests")
_CAPABILITIES = ("python", "sql", "react", "terraform", "review")
_STRATEGIES = ("rules", "llm", "sage")
_SOURCES = ("mcp", "cli", "http", "webhook")


def task_id(number: int) -> str:
    return f"task-{number:016d}"


def project_name(number: int) -> str:
    return f"project-{number:02d}"


def as_text(moment: datetime) -> str:
    """A time as SQLite keeps it; PostgreSQL reads it, too."""
    return moment.isoformat(" ", "microseconds")


def create_fields(count: int, seed: int = SEED) -> list[dict[str, Any]]:
    """The fields of new tasks, as a caller gives them."""
    chance = random.Random(seed)
    return [
        {
            "title": _sentence(chance, 5),
            "description": _sentence(chance, 12),
            "project": project_name(chance.randrange(PROJECTS)),
            "priority": chance.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0],
            "requester": f"person-{chance.randrange(50)}",
            "source": chance.choice(_SOURCES),
            "tags": chance.sample(_TAGS, 2),
            "required_capabilities": [chance.choice(_CAPABILITIES)],
        }
        for _ in range(count)
    ]


class World(NamedTuple):
    """What stands in a database of `size` tasks, for those who ask about it."""

    size: int
    database: Database

    @property
    def page_at(self) -> int:
        """How many rows the keyset page has before it."""
        return min(50_000, self.size // 2)

    @property
    def instances(self) -> int:
        return min(INSTANCES, self.size)


def _sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words)).capitalize()


def _tasks(count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(SEED)
    done: list[int] = [0]
    for number in range(count):
        status = chance.choices(_STATUSES, _STATUS_WEIGHTS)[0]
        # The last projects have nothing to do any more.
        quiet = status in ("completed", "failed", "cancelled")
        project = chance.randrange(PROJECTS if quiet else PROJECTS - 5)
        created = as_text(BEGINNING + number * STEP)
        tags = chance.sample(_TAGS, chance.randrange(4))
        if number % 1_000 == 500:
            tags.append(RARE_TAG)
        title = _sentence(chance, 5)
        if number % 500 == 250:
            title = f"{title} {RARE_WORD}"
        needed = None
        if number % 10 == 9:
            earlier = chance.choice(done[-100:] if number % 20 == 9 else range(number))
            needed = json.dumps([task_id(earlier)])
        yield (
            task_id(number),
            title,
            _sentence(chance, 12),
            project_name(project) if number % 25 else None,
            status,
            chance.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0],
            f"person-{number % 50}",
            None if status == "pending" else f"worker-{number % 20}",
            *(None, None, None),
            _SOURCES[number % 4],
            *(None, None),
            json.dumps(tags, separators=(",", ":")) if tags else None,
            json.dumps([_CAPABILITIES[number % 5]]),
            needed,
            None,
            round(chance.random(), 3),
            *(None, None),
            created,
            created,
            *(None, None, None),
            0 if status == "pending" else 1,
            3,
            *(None, None, None),
        )
        if status == "completed":
            done.append(number)


def _projects() -> Iterator[tuple[Any, ...]]:
    for number in range(PROJECTS):
        name = project_name(number)
        yield (
            *(name, name, f"https://git.example/{name}"),
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


def _decisions(count: int) -> Iterator[tuple[Any, ...]]:
    chance = random.Random(SEED + 1)
    for number in range(count):
        yield (
            task_id(number),
            project_name(chance.randrange(PROJECTS)) if number % 25 else None,
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


def fill(database: Database, count: int) -> World:
    """Put `count` tasks and what belongs to them into an empty database that is migrated."""
    connection = new_connection(database)
    copy = copy_into_sqlite if database.dialect == "sqlite" else copy_into_postgresql
    copy(connection, "projects", PROJECT_COLUMNS, _projects())
    copy(connection, "hopper_instances", INSTANCE_COLUMNS, _instances(min(INSTANCES, count)))
    with _without_indexes(connection, database.dialect):
        copy(connection, "tasks", TASK_COLUMNS, _tasks(count))
        if database.dialect == "sqlite":
            _fill_side_tables(connection)
    copy(connection, "routing_decisions", DECISION_COLUMNS, _decisions(count))
    copy(connection, "task_feedback", FEEDBACK_COLUMNS, _feedback(count))
    connection.commit()
    connection.close()
    tidy(database)
    return World(count, database)


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
