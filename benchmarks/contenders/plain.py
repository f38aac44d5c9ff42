"""Plain Peewee, written well: its own models, on the same tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import peewee
from peewee import SQL, EnclosedNodeList, Value, fn

from benchmarks import queries
from benchmarks.contenders import Rows
from benchmarks.data import INSTANCE_COLUMNS, TASK_COLUMNS
from hopper_data.database import Database

_TASKS = ", ".join(f"t.{name}" for name in TASK_COLUMNS)
_INSTANCES = ", ".join(f"t.{name}" for name in INSTANCE_COLUMNS)


def _new_id() -> str:
    return f"task-{os.urandom(8).hex()}"


def _now() -> datetime:
    return datetime.now(UTC)


class MomentField(peewee.Field):
    """An aware time: a `timestamptz`, or the text of one."""

    field_type = "TIMESTAMPTZ"

    def db_value(self, value: Any) -> Any:
        return value.isoformat(" ", "microseconds") if isinstance(value, datetime) else value

    def python_value(self, value: Any) -> Any:
        return datetime.fromisoformat(value) if isinstance(value, str) else value


def make_models(database: Any) -> tuple[Any, Any, Any]:
    """Models of the tasks, the projects and the instances of a database."""

    class Base(peewee.Model):
        class Meta:
            pass

    Base._meta.database = database

    class Task(Base):
        id = peewee.CharField(primary_key=True, default=_new_id)
        title = peewee.CharField()
        description = peewee.TextField(null=True)
        project = peewee.CharField(null=True)
        status = peewee.CharField(default="pending")
        priority = peewee.CharField(default="medium")
        requester = peewee.CharField(null=True)
        owner = peewee.CharField(null=True)
        external_id = peewee.CharField(null=True)
        external_url = peewee.CharField(null=True)
        external_platform = peewee.CharField(null=True)
        source = peewee.CharField(null=True)
        conversation_id = peewee.CharField(null=True)
        context = peewee.TextField(null=True)
        tags = peewee.JSONField(null=True)
        required_capabilities = peewee.JSONField(null=True)
        depends_on = peewee.JSONField(null=True)
        blocks = peewee.JSONField(null=True)
        routing_confidence = peewee.FloatField(null=True)
        routing_reasoning = peewee.TextField(null=True)
        feedback = peewee.JSONField(null=True)
        created_at = MomentField(default=_now)
        updated_at = MomentField(default=_now)
        lease_expires_at = MomentField(null=True)
        lease_token = peewee.CharField(null=True)
        lease_s = peewee.FloatField(null=True)
        attempts = peewee.IntegerField(default=0)
        max_attempts = peewee.IntegerField(default=3)
        run_after = MomentField(null=True)
        last_error = peewee.TextField(null=True)
        dedupe_key = peewee.CharField(null=True)

        class Meta:
            table_name = "tasks"

    class Project(Base):
        name = peewee.CharField(primary_key=True)
        slug = peewee.CharField()
        repository = peewee.CharField(null=True)
        capabilities = peewee.JSONField(null=True)
        tags = peewee.JSONField(null=True)
        executor_type = peewee.CharField(null=True)
        executor_config = peewee.JSONField(null=True)
        auto_claim = peewee.BooleanField(default=False)
        priority_boost = peewee.JSONField(null=True)
        velocity = peewee.CharField(null=True)
        sla = peewee.JSONField(null=True)
        webhook_url = peewee.CharField(null=True)
        api_endpoint = peewee.CharField(null=True)
        sync_config = peewee.JSONField(null=True)
        created_at = MomentField(default=_now)
        created_by = peewee.CharField(null=True)
        last_sync = MomentField(null=True)

        class Meta:
            table_name = "projects"

    class Instance(Base):
        id = peewee.CharField(primary_key=True)
        name = peewee.CharField()
        scope = peewee.CharField()
        parent = peewee.ForeignKeyField("self", column_name="parent_id", null=True)
        config = peewee.JSONField(null=True)
        status = peewee.CharField(default="active")
        description = peewee.TextField(null=True)
        created_by = peewee.CharField(null=True)
        terminated_at = MomentField(null=True)
        created_at = MomentField(default=_now)
        updated_at = MomentField(default=_now)

        class Meta:
            table_name = "hopper_instances"

    return Task, Project, Instance


def _connect(database: Database) -> Any:
    if database.dialect == "sqlite":
        pragmas = {"foreign_keys": 1, "synchronous": "NORMAL", "busy_timeout": 5000}
        return peewee.SqliteDatabase(
            database.database, pragmas=pragmas, returning_clause=True, lock_type="IMMEDIATE"
        )
    url = database.url.render(hide_password=False)
    return peewee.PostgresqlDatabase(url, options="-c timezone=UTC")


class PlainPeewee:
    name = "peewee"

    def __init__(self, database: Database) -> None:
        self.dialect = database.dialect
        self.database = _connect(database)
        self.database.connect()
        self.task, self.project, self.instance = make_models(self.database)

    def close(self) -> None:
        self.database.close()

    @contextmanager
    def reading(self) -> Iterator[None]:
        yield

    def plain(self, record: Any) -> dict[str, Any]:
        values = record.__data__
        return {field.column_name: values.get(field.name) for field in record._meta.sorted_fields}

    def _raw(self, model: Any, sql: str, *params: Any) -> list[Any]:
        return list(model.raw(sql.replace("?", self.database.param), *params))

    # -- one row ----------------------------------------------------------------------------------

    def get(self, id: str) -> Any:
        return self.task.get_or_none(self.task.id == id)

    get_alone = get

    def create_each(self, rows: Rows) -> list[Any]:
        made = []
        for row in rows:
            with self.database.atomic():
                made.append(self.task.create(**row))
        return made

    def create_together(self, rows: Rows) -> list[Any]:
        with self.database.atomic():
            return [self.task.create(**row) for row in rows]

    def update_together(self, owners: dict[str, str]) -> list[Any]:
        task = self.task
        with self.database.atomic():
            return [
                task.update(owner=owner, updated_at=_now())
                .where(task.id == key)
                .returning(task)
                .execute()[0]
                for key, owner in owners.items()
            ]

    # -- many rows --------------------------------------------------------------------------------

    def bulk_create(self, rows: Rows) -> list[Any]:
        made = [self.task(**row) for row in rows]
        with self.database.atomic():
            self.task.bulk_create(made, batch_size=500)
        return made

    def bulk_update(self, rows: Rows) -> int:
        task, now = self.task, _now()
        values = [(row["id"], row["owner"], row["priority"]) for row in rows]
        new = peewee.ValuesList(values).alias("v").columns("id", "owner", "priority")
        with self.database.atomic():
            if self.dialect == "sqlite":
                # There, a list of values has no names of its own.
                changed = [task(updated_at=now, **row) for row in rows]
                fields = [task.owner, task.priority, task.updated_at]
                return task.bulk_update(changed, fields, batch_size=100)  # type: ignore[no-any-return]
            query = task.update(owner=new.c.owner, priority=new.c.priority, updated_at=now)
            return query.from_(new).where(task.id == new.c.id).execute()  # type: ignore[no-any-return]

    def bulk_delete(self, ids: Sequence[str]) -> int:
        with self.database.atomic():
            return self.task.delete().where(self.task.id.in_(ids)).execute()  # type: ignore[no-any-return]

    # -- lists ------------------------------------------------------------------------------------

    def newest(self, project: str, status: str) -> list[Any]:
        task = self.task
        query = task.select().where(task.project == project, task.status == status)
        return list(query.order_by(task.created_at.desc(), task.id).limit(50))

    def page(self, created_at: datetime, id: str) -> list[Any]:
        task = self.task
        after = (task.created_at < created_at) | (task.id > id)
        query = task.select().where(task.created_at <= created_at, after)
        return list(query.order_by(task.created_at.desc(), task.id).limit(50))

    def tagged(self, tag: str) -> list[Any]:
        task = self.task
        if self.dialect == "sqlite":
            term = task.id.in_(SQL("(SELECT task_id FROM task_tags WHERE tag = ?)", (tag,)))
        else:
            term = task.tags.contains([tag])
        return list(task.select().where(term).order_by(task.created_at.desc(), task.id).limit(50))

    def search(self) -> list[Any]:
        sql = queries.SEARCH[self.dialect].format(columns=_TASKS)
        return self._raw(self.task, sql, *queries.SEARCH_PARAMETERS[self.dialect])

    def ready(self) -> list[Any]:
        sql = queries.READY[self.dialect].format(columns=_TASKS)
        return self._raw(self.task, sql, str(_now()))

    def rows(self, count: int) -> list[Any]:
        return list(self.task.select().order_by(self.task.id).limit(count))

    def active_projects(self) -> list[Any]:
        task, project = self.task, self.project
        # In the words of the partial index.
        active = EnclosedNodeList([Value(word, converter=False) for word in queries.ACTIVE])
        if self.dialect == "sqlite":
            active = SQL("('" + "', '".join(queries.ACTIVE) + "')")
        busy = task.select(SQL("1")).where(task.project == project.name, task.status.in_(active))
        return list(project.select().where(fn.EXISTS(busy)).order_by(project.name))

    def hierarchy(self, id: str) -> list[Any]:
        return self._raw(self.instance, queries.HIERARCHY.format(columns=_INSTANCES), id, id)

    # -- numbers ----------------------------------------------------------------------------------

    def statistics(self, project: str) -> dict[str, int]:
        task = self.task
        query = task.select(task.status, fn.COUNT(SQL("*"))).where(task.project == project)
        return queries.statistics(dict(query.group_by(task.status).tuples()))

    def analytics(self) -> dict[str, Any]:
        groups = self.database.execute_sql(queries.DECISIONS[self.dialect]).fetchall()
        return queries.analytics(groups, self.database.execute_sql(queries.RATED).fetchone())
