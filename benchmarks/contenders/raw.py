"""The bare drivers: the best SQL for the job, and a dataclass for each row."""

from __future__ import annotations

import csv
import gc
import io
import json
import os
import sqlite3
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import psycopg2

from benchmarks import queries
from benchmarks.contenders import Rows
from benchmarks.data import INSTANCE_COLUMNS, PROJECT_COLUMNS, TASK_COLUMNS
from hopper_data.database import Database
from hopper_data.sqlite_turns import CHECKPOINT_PAGES


@dataclass(slots=True)
class Task:
    id: str
    title: str
    description: str | None
    project: str | None
    status: str
    priority: str
    requester: str | None
    owner: str | None
    external_id: str | None
    external_url: str | None
    external_platform: str | None
    source: str | None
    conversation_id: str | None
    context: str | None
    tags: list[str] | None
    required_capabilities: list[str] | None
    depends_on: list[str] | None
    blocks: list[str] | None
    routing_confidence: float | None
    routing_reasoning: str | None
    feedback: Any
    created_at: datetime
    updated_at: datetime
    lease_expires_at: datetime | None
    lease_token: str | None
    lease_s: float | None
    attempts: int
    max_attempts: int
    run_after: datetime | None
    last_error: str | None
    dedupe_key: str | None


@dataclass(slots=True)
class Project:
    name: str
    slug: str
    repository: str | None
    capabilities: Any
    tags: Any
    executor_type: str | None
    executor_config: Any
    auto_claim: bool
    priority_boost: Any
    velocity: str | None
    sla: Any
    webhook_url: str | None
    api_endpoint: str | None
    sync_config: Any
    created_at: datetime
    created_by: str | None
    last_sync: datetime | None


@dataclass(slots=True)
class Instance:
    id: str
    name: str
    scope: str
    parent_id: str | None
    config: Any
    status: str
    description: str | None
    created_by: str | None
    terminated_at: datetime | None
    created_at: datetime
    updated_at: datetime


TASKS, PROJECTS = ", ".join(TASK_COLUMNS), ", ".join(PROJECT_COLUMNS)
INSTANCES = ", ".join(f"t.{name}" for name in INSTANCE_COLUMNS)
_OF_T = ", ".join(f"t.{name}" for name in TASK_COLUMNS)
_ACTIVE = ", ".join(f"'{status}'" for status in queries.ACTIVE)
GET = f"SELECT {TASKS} FROM tasks WHERE id = ?"
_UPDATE = f"UPDATE tasks SET owner = ?, updated_at = ? WHERE id = ? RETURNING {TASKS}"


def new_task(row: dict[str, Any]) -> Task:
    """A task of what a caller gives, with what a new one has."""
    now, given = datetime.now(UTC), row.get
    return Task(
        id=f"task-{os.urandom(8).hex()}",
        title=row["title"],
        description=given("description"),
        project=given("project"),
        status=given("status", "pending"),
        priority=given("priority", "medium"),
        requester=given("requester"),
        owner=given("owner"),
        external_id=given("external_id"),
        external_url=given("external_url"),
        external_platform=given("external_platform"),
        source=given("source"),
        conversation_id=given("conversation_id"),
        context=given("context"),
        tags=given("tags"),
        required_capabilities=given("required_capabilities"),
        depends_on=given("depends_on"),
        blocks=given("blocks"),
        routing_confidence=given("routing_confidence"),
        routing_reasoning=given("routing_reasoning"),
        feedback=given("feedback"),
        created_at=now,
        updated_at=now,
        lease_expires_at=None,
        lease_token=None,
        lease_s=None,
        attempts=0,
        max_attempts=3,
        run_after=None,
        last_error=None,
        dedupe_key=given("dedupe_key"),
    )


_loads = json.JSONDecoder().decode  # `json.loads` looks at its arguments first


def task_of_text(row: Sequence[Any], loads: Callable[[str], Any] = _loads) -> Task:
    """A task of a row of SQLite's, where times and JSON are text."""
    task, moment = Task(*row), datetime.fromisoformat
    task.created_at, task.updated_at = moment(row[21]), moment(row[22])
    if row[14] is not None:
        task.tags = loads(row[14])
    if row[15] is not None:
        task.required_capabilities = loads(row[15])
    if row[16] is not None:
        task.depends_on = loads(row[16])
    if row[17] is not None:
        task.blocks = loads(row[17])
    if row[20] is not None:
        task.feedback = loads(row[20])
    if row[23] is not None:
        task.lease_expires_at = moment(row[23])
    if row[28] is not None:
        task.run_after = moment(row[28])
    return task


def _project_of_text(row: Sequence[Any]) -> Project:
    project = Project(*row)
    for name in ("capabilities", "tags", "executor_config", "priority_boost", "sla", "sync_config"):
        text = getattr(project, name)
        if text is not None:
            setattr(project, name, _loads(text))
    project.auto_claim = bool(project.auto_claim)
    project.created_at = datetime.fromisoformat(row[14])
    if row[16] is not None:
        project.last_sync = datetime.fromisoformat(row[16])
    return project


def _instance_of_text(row: Sequence[Any]) -> Instance:
    instance, moment = Instance(*row), datetime.fromisoformat
    if row[4] is not None:
        instance.config = _loads(row[4])
    if row[8] is not None:
        instance.terminated_at = moment(row[8])
    instance.created_at, instance.updated_at = moment(row[9]), moment(row[10])
    return instance


def parameters(task: Task, dumps: Callable[[Any], str] = json.dumps) -> tuple[Any, ...]:
    """The values of a new task in the order of the columns, JSON as text."""
    return (
        task.id,
        task.title,
        task.description,
        task.project,
        task.status,
        task.priority,
        task.requester,
        task.owner,
        task.external_id,
        task.external_url,
        task.external_platform,
        task.source,
        task.conversation_id,
        task.context,
        None if task.tags is None else dumps(task.tags),
        None if task.required_capabilities is None else dumps(task.required_capabilities),
        None if task.depends_on is None else dumps(task.depends_on),
        None if task.blocks is None else dumps(task.blocks),
        task.routing_confidence,
        task.routing_reasoning,
        None if task.feedback is None else dumps(task.feedback),
        task.created_at.isoformat(" ", "microseconds"),
        task.updated_at.isoformat(" ", "microseconds"),
        task.lease_expires_at,
        task.lease_token,
        task.lease_s,
        task.attempts,
        task.max_attempts,
        task.run_after,
        task.last_error,
        task.dedupe_key,
    )


class Raw:
    """What both drivers share: the questions whose SQL is the same."""

    name = "driver"
    dialect: str
    param: str

    def __init__(self, database: Database) -> None:
        self.connection = self.open(database)
        marks = ", ".join([self.param] * len(TASK_COLUMNS))
        self._insert = f"INSERT INTO tasks ({TASKS}) VALUES ({marks})"
        self._get, self._update = self.sql(GET), self.sql(_UPDATE)

    @abstractmethod
    def open(self, database: Database) -> Any:
        """A connection that commits each statement by itself."""

    @abstractmethod
    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """The rows of a statement."""

    @abstractmethod
    def send(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement; how many rows it has written."""

    @abstractmethod
    def writing(self) -> Any:
        """A transaction."""

    @abstractmethod
    def tasks(self, rows: Iterable[Sequence[Any]]) -> list[Task]:
        """Rows as records."""

    @abstractmethod
    def bulk_create(self, rows: Rows) -> list[Task]: ...

    def sql(self, text: str) -> str:
        return text.replace("?", self.param)

    def close(self) -> None:
        self.connection.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    def plain(self, record: Any) -> dict[str, Any]:
        return {field.name: getattr(record, field.name) for field in fields(record)}

    # -- one row ----------------------------------------------------------------------------------

    @abstractmethod
    def get(self, id: str) -> Task: ...

    def get_alone(self, id: str) -> Task:
        return self.get(id)

    def create_each(self, rows: Rows) -> list[Task]:
        made = []
        for row in rows:
            task = new_task(row)
            with self.writing():
                self.send(self._insert, parameters(task))
            made.append(task)
        return made

    def create_together(self, rows: Rows) -> list[Task]:
        made, insert = [], self._insert
        with self.writing():
            for row in rows:
                task = new_task(row)
                self.send(insert, parameters(task))
                made.append(task)
        return made

    def update_together(self, owners: dict[str, str]) -> list[Task]:
        sql = self._update
        with self.writing():
            return [
                self.tasks(self.fetch(sql, (owner, str(datetime.now(UTC)), key)))[0]
                for key, owner in owners.items()
            ]

    # -- lists ------------------------------------------------------------------------------------

    def newest(self, project: str, status: str) -> list[Task]:
        sql = self.sql(
            f"SELECT {TASKS} FROM tasks WHERE project = ? AND status = ? "
            "ORDER BY created_at DESC, id LIMIT 50"
        )
        return self.tasks(self.fetch(sql, (project, status)))

    def page(self, created_at: datetime, id: str) -> list[Task]:
        sql = self.sql(
            f"SELECT {TASKS} FROM tasks WHERE created_at <= ? AND (created_at < ? OR id > ?) "
            "ORDER BY created_at DESC, id LIMIT 51"
        )
        moment = created_at.isoformat(" ", "microseconds")
        return self.tasks(self.fetch(sql, (moment, moment, id))[:50])

    def search(self) -> list[Task]:
        sql = self.sql(queries.SEARCH[self.dialect].format(columns=_OF_T))
        return self.tasks(self.fetch(sql, queries.SEARCH_PARAMETERS[self.dialect]))

    def ready(self) -> list[Task]:
        sql = self.sql(queries.READY[self.dialect].format(columns=_OF_T))
        return self.tasks(self.fetch(sql, (str(datetime.now(UTC)),)))

    def rows(self, count: int) -> list[Task]:
        sql = self.sql(f"SELECT {TASKS} FROM tasks ORDER BY id LIMIT ?")
        return self.tasks(self.fetch(sql, (count,)))

    # -- numbers ----------------------------------------------------------------------------------

    def statistics(self, project: str) -> dict[str, int]:
        sql = self.sql("SELECT status, COUNT(*) FROM tasks WHERE project = ? GROUP BY status")
        return queries.statistics(dict(self.fetch(sql, (project,))))

    def analytics(self) -> dict[str, Any]:
        groups = self.fetch(queries.DECISIONS[self.dialect])
        return queries.analytics(groups, self.fetch(queries.RATED)[0])


_ACTIVE_PROJECTS = (
    f"SELECT {PROJECTS} FROM projects AS p WHERE EXISTS "
    f"(SELECT 1 FROM tasks WHERE project = p.name AND status IN ({_ACTIVE})) ORDER BY name"
)


class RawSqlite(Raw):
    dialect, param = "sqlite", "?"

    def open(self, database: Database) -> sqlite3.Connection:
        connection = sqlite3.connect(database.database, isolation_level=None)
        for pragma in ("foreign_keys = ON", "synchronous = NORMAL", "busy_timeout = 5000"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        return self.connection.execute(sql, params).fetchall()  # type: ignore[no-any-return]

    def send(self, sql: str, params: Sequence[Any] = ()) -> int:
        return self.connection.execute(sql, params).rowcount  # type: ignore[no-any-return]

    def get(self, id: str) -> Task:
        return task_of_text(self.connection.execute(GET, (id,)).fetchone())

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        yield
        self.connection.execute("COMMIT")

    def tasks(self, rows: Iterable[Sequence[Any]]) -> list[Task]:
        return [task_of_text(row) for row in rows]

    def bulk_create(self, rows: Rows) -> list[Task]:
        made = [new_task(row) for row in rows]
        # One statement, since the full-text index costs each statement that writes to it.
        values = ", ".join(f"value ->> {place}" for place in range(len(TASK_COLUMNS)))
        with self.writing():
            self.send(
                f"INSERT INTO tasks ({TASKS}) SELECT {values} FROM json_each(?)",
                (json.dumps([parameters(task) for task in made]),),
            )
        return made

    def bulk_update(self, rows: Rows) -> int:
        values = [[row["id"], row["owner"], row["priority"]] for row in rows]
        with self.writing():
            return self.send(
                "UPDATE tasks SET owner = v.owner, priority = v.priority, updated_at = ? FROM ("
                "SELECT value ->> 0 AS id, value ->> 1 AS owner, value ->> 2 AS priority "
                "FROM json_each(?)) AS v WHERE tasks.id = v.id",
                (str(datetime.now(UTC)), json.dumps(values)),
            )

    def bulk_delete(self, ids: Sequence[str]) -> int:
        with self.writing():
            return self.send(
                "DELETE FROM tasks WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(ids),)
            )

    def tagged(self, tag: str) -> list[Task]:
        sql = (
            f"SELECT {TASKS} FROM tasks WHERE id IN (SELECT task_id FROM task_tags WHERE tag = ?) "
            "ORDER BY created_at DESC, id LIMIT 50"
        )
        return self.tasks(self.fetch(sql, (tag,)))

    def active_projects(self) -> list[Project]:
        return [_project_of_text(row) for row in self.fetch(_ACTIVE_PROJECTS)]

    def hierarchy(self, id: str) -> list[Instance]:
        rows = self.fetch(queries.HIERARCHY.format(columns=INSTANCES), (id, id))
        return [_instance_of_text(row) for row in rows]


class RawPostgresql(Raw):
    dialect, param = "postgresql", "%s"

    def open(self, database: Database) -> Any:
        url = database.url.render(hide_password=False)
        connection = psycopg2.connect(url, options="-c timezone=UTC")
        connection.autocommit = True
        return connection

    def fetch(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        cursor = self.connection.cursor()
        cursor.execute(sql, params or None)
        return cursor.fetchall()  # type: ignore[no-any-return]

    def send(self, sql: str, params: Sequence[Any] = ()) -> int:
        cursor = self.connection.cursor()
        cursor.execute(sql, params or None)
        return cursor.rowcount  # type: ignore[no-any-return]

    def get(self, id: str) -> Task:
        cursor = self.connection.cursor()
        cursor.execute(self._get, (id,))
        return Task(*cursor.fetchone())

    @contextmanager
    def writing(self) -> Iterator[None]:
        self.connection.autocommit = False
        yield
        self.connection.commit()
        self.connection.autocommit = True

    def tasks(self, rows: Iterable[Sequence[Any]]) -> list[Task]:
        return [Task(*row) for row in rows]

    def bulk_create(self, rows: Rows) -> list[Task]:
        made, text = [new_task(row) for row in rows], io.StringIO()
        csv.writer(text).writerows(map(parameters, made))
        text.seek(0)
        with self.writing():
            sql = f"COPY tasks ({TASKS}) FROM STDIN (FORMAT csv)"
            self.connection.cursor().copy_expert(sql, text)
        return made

    def bulk_update(self, rows: Rows) -> int:
        values = [[row[name] for row in rows] for name in ("id", "owner", "priority")]
        with self.writing():
            return self.send(
                "UPDATE tasks SET owner = v.owner, priority = v.priority, updated_at = %s "
                "FROM unnest(%s::text[], %s::text[], %s::text[]) AS v(id, owner, priority) "
                "WHERE tasks.id = v.id",
                (datetime.now(UTC), *values),
            )

    def bulk_delete(self, ids: Sequence[str]) -> int:
        with self.writing():
            return self.send("DELETE FROM tasks WHERE id = ANY(%s)", (list(ids),))

    def tagged(self, tag: str) -> list[Task]:
        sql = (
            f"SELECT {TASKS} FROM tasks WHERE tags @> CAST(%s AS JSONB) "
            "ORDER BY created_at DESC, id LIMIT 50"
        )
        return self.tasks(self.fetch(sql, (json.dumps([tag]),)))

    def active_projects(self) -> list[Project]:
        return [Project(*row) for row in self.fetch(_ACTIVE_PROJECTS)]

    def hierarchy(self, id: str) -> list[Instance]:
        sql = self.sql(queries.HIERARCHY.format(columns=INSTANCES))
        return [Instance(*row) for row in self.fetch(sql, (id, id))]


class TunedSqlite(RawSqlite):
    """The same with the pragmas that ours sets, and many rows made without garbage collections."""

    name = "driver, tuned"

    def open(self, database: Database) -> sqlite3.Connection:
        connection = super().open(database)
        for pragma in (f"wal_autocheckpoint = {CHECKPOINT_PAGES}", "temp_store = MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    def rows(self, count: int) -> list[Task]:
        with _uncollected():
            return super().rows(count)


class TunedPostgresql(RawPostgresql):
    """The same where it prepares what is about one row, which psycopg2 does not do by itself."""

    name = "driver, tuned"

    def rows(self, count: int) -> list[Task]:
        with _uncollected():
            return super().rows(count)

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._get = self._prepare("get_task", self._get)
        self._insert = self._prepare("insert_task", self._insert)
        self._update = self._prepare("update_task", self._update)

    def _prepare(self, name: str, sql: str) -> str:
        first, *others = sql.split(self.param)
        numbered = "".join(f"${number}{part}" for number, part in enumerate(others, 1))
        self.connection.cursor().execute(f"PREPARE {name} AS {first}{numbered}")
        return f"EXECUTE {name}({', '.join([self.param] * len(others))})"


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()
