"""SQLAlchemy 2 with its ORM, written well: typed mappings, on the same tables."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    Dialect,
    Engine,
    ForeignKey,
    String,
    bindparam,
    column,
    create_engine,
    delete,
    event,
    exists,
    func,
    or_,
    select,
    text,
    update,
    values,
)
from sqlalchemy.dialects.postgresql import JSONB, TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from benchmarks import queries
from benchmarks.contenders import Rows
from benchmarks.data import INSTANCE_COLUMNS, TASK_COLUMNS
from hopper_data.database import Database

_TASKS = ", ".join(f"t.{name}" for name in TASK_COLUMNS)
_INSTANCES = ", ".join(f"t.{name}" for name in INSTANCE_COLUMNS)


def _now() -> datetime:
    return datetime.now(UTC)


class Moment(TypeDecorator[datetime]):
    """An aware time: a `timestamptz`, or the text of one."""

    impl = String
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> Any:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(TIMESTAMP(timezone=True))
        return dialect.type_descriptor(String())

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return value.isoformat(" ", "microseconds")

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return datetime.fromisoformat(value)


Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class Base(DeclarativeBase):
    type_annotation_map = {datetime: Moment, list[str]: Json, dict[str, Any]: Json}  # noqa: RUF012


class Task(Base):
    __tablename__ = "tasks"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: f"task-{os.urandom(8).hex()}")
    title: Mapped[str]
    description: Mapped[str | None]
    project: Mapped[str | None]
    status: Mapped[str] = mapped_column(default="pending")
    priority: Mapped[str] = mapped_column(default="medium")
    requester: Mapped[str | None]
    owner: Mapped[str | None]
    external_id: Mapped[str | None]
    external_url: Mapped[str | None]
    external_platform: Mapped[str | None]
    source: Mapped[str | None]
    conversation_id: Mapped[str | None]
    context: Mapped[str | None]
    tags: Mapped[list[str] | None]
    required_capabilities: Mapped[list[str] | None]
    depends_on: Mapped[list[str] | None]
    blocks: Mapped[list[str] | None]
    routing_confidence: Mapped[float | None]
    routing_reasoning: Mapped[str | None]
    feedback: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=_now)
    updated_at: Mapped[datetime] = mapped_column(default=_now)
    lease_expires_at: Mapped[datetime | None]
    lease_token: Mapped[str | None]
    lease_s: Mapped[float | None]
    attempts: Mapped[int] = mapped_column(default=0)
    max_attempts: Mapped[int] = mapped_column(default=3)
    run_after: Mapped[datetime | None]
    last_error: Mapped[str | None]
    dedupe_key: Mapped[str | None]


class Project(Base):
    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(primary_key=True)
    slug: Mapped[str]
    repository: Mapped[str | None]
    capabilities: Mapped[dict[str, Any] | None]
    tags: Mapped[list[str] | None]
    executor_type: Mapped[str | None]
    executor_config: Mapped[dict[str, Any] | None]
    auto_claim: Mapped[bool]
    priority_boost: Mapped[dict[str, Any] | None]
    velocity: Mapped[str | None]
    sla: Mapped[dict[str, Any] | None]
    webhook_url: Mapped[str | None]
    api_endpoint: Mapped[str | None]
    sync_config: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime]
    created_by: Mapped[str | None]
    last_sync: Mapped[datetime | None]


class Instance(Base):
    __tablename__ = "hopper_instances"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    scope: Mapped[str]
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("hopper_instances.id"))
    config: Mapped[dict[str, Any] | None]
    status: Mapped[str]
    description: Mapped[str | None]
    created_by: Mapped[str | None]
    terminated_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


def dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def engine_url(database: Database, driver: str) -> str:
    """The URL of a database for SQLAlchemy, with a driver's name."""
    plain = database.url.render(hide_password=False)
    return f"{database.dialect}+{driver}{plain[plain.index(':') :]}"


def set_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("foreign_keys = ON", "synchronous = NORMAL", "busy_timeout = 5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


class Alchemy:
    name = "sqlalchemy"

    def __init__(self, database: Database) -> None:
        self.dialect = database.dialect
        self.engine = self._engine(database)
        # Reads need no transaction, and here they pay for none.
        self.reader = self._engine(database, isolation_level="AUTOCOMMIT")
        self._session: Session

    def _engine(self, database: Database, **options: Any) -> Engine:
        if self.dialect == "postgresql":
            options["connect_args"] = {"options": "-c timezone=UTC"}
        driver = {"sqlite": "pysqlite", "postgresql": "psycopg2"}[self.dialect]
        engine = create_engine(engine_url(database, driver), json_serializer=dumps, **options)
        if self.dialect == "sqlite":
            event.listen(engine, "connect", set_pragmas)
        return engine

    def close(self) -> None:
        self.engine.dispose()
        self.reader.dispose()

    @contextmanager
    def reading(self) -> Iterator[None]:
        with Session(self.reader) as self._session:
            yield

    def plain(self, record: Any) -> dict[str, Any]:
        return {column.key: getattr(record, column.key) for column in record.__table__.columns}

    def _list(self, statement: Any, parameters: Any = None) -> list[Any]:
        # What the session knows already would not be built again.
        self._session.expunge_all()
        return list(self._session.scalars(statement, parameters))

    def _text(self, model: Any, sql: str, *params: Any) -> list[Any]:
        names = iter(range(len(params)))
        while "?" in sql:
            sql = sql.replace("?", f":p{next(names)}", 1)
        given = {f"p{number}": value for number, value in enumerate(params)}
        return self._list(select(model).from_statement(text(sql)), given)

    # -- one row ----------------------------------------------------------------------------------

    def get(self, id: str) -> Any:
        return self._session.get(Task, id)

    def get_alone(self, id: str) -> Any:
        with Session(self.reader) as session:
            return session.get(Task, id)

    def create_each(self, rows: Rows) -> list[Any]:
        made = []
        for row in rows:
            with Session(self.engine, expire_on_commit=False) as session:
                task = Task(**row)
                session.add(task)
                session.commit()
            made.append(task)
        return made

    def create_together(self, rows: Rows) -> list[Any]:
        made = []
        with Session(self.engine, expire_on_commit=False) as session:
            for row in rows:
                task = Task(**row)
                session.add(task)
                session.flush()
                made.append(task)
            session.commit()
        return made

    def update_together(self, owners: dict[str, str]) -> list[Any]:
        with Session(self.engine, expire_on_commit=False) as session:
            found = [
                session.scalars(
                    update(Task)
                    .where(Task.id == key)
                    .values(owner=owner, updated_at=_now())
                    .returning(Task),
                    execution_options={"synchronize_session": False},
                ).one()
                for key, owner in owners.items()
            ]
            session.commit()
        return found

    # -- many rows --------------------------------------------------------------------------------

    def bulk_create(self, rows: Rows) -> list[Any]:
        made = [Task(**row) for row in rows]
        with Session(self.engine, expire_on_commit=False) as session:
            session.add_all(made)
            session.commit()
        return made

    def bulk_update(self, rows: Rows) -> int:
        if self.dialect == "postgresql":
            return self._update_from_values(rows)
        now = _now()
        with Session(self.engine) as session:
            session.execute(update(Task), [{**row, "updated_at": now} for row in rows])
            session.commit()
        return len(rows)

    def _update_from_values(self, rows: Rows) -> int:
        names = ("id", "owner", "priority")
        given = values(*(column(name, String) for name in names), name="given").data(
            [tuple(row[name] for name in names) for row in rows]
        )
        statement = (
            update(Task)
            .values(owner=given.c.owner, priority=given.c.priority, updated_at=_now())
            .where(Task.id == given.c.id)
        )
        with Session(self.engine) as session:
            done: Any = session.execute(statement, execution_options={"synchronize_session": False})
            session.commit()
        return done.rowcount  # type: ignore[no-any-return]

    def bulk_delete(self, ids: Sequence[str]) -> int:
        statement = delete(Task).where(Task.id.in_(bindparam("ids", expanding=True)))
        with Session(self.engine) as session:
            done: Any = session.execute(
                statement, {"ids": ids}, execution_options={"synchronize_session": False}
            )
            session.commit()
        return done.rowcount  # type: ignore[no-any-return]

    # -- lists ------------------------------------------------------------------------------------

    def newest(self, project: str, status: str) -> list[Any]:
        return self._list(
            select(Task)
            .where(Task.project == project, Task.status == status)
            .order_by(Task.created_at.desc(), Task.id)
            .limit(50)
        )

    def page(self, created_at: datetime, id: str) -> list[Any]:
        after = or_(Task.created_at < created_at, Task.id > id)
        return self._list(
            select(Task)
            .where(Task.created_at <= created_at, after)
            .order_by(Task.created_at.desc(), Task.id)
            .limit(50)
        )

    def tagged(self, tag: str) -> list[Any]:
        query = select(Task).order_by(Task.created_at.desc(), Task.id).limit(50)
        if self.dialect == "sqlite":
            term = Task.id.in_(text("SELECT task_id FROM task_tags WHERE tag = :tag"))
            return self._list(query.where(term), {"tag": tag})
        return self._list(query.where(Task.tags.op("@>")([tag])))

    def search(self) -> list[Any]:
        sql = queries.SEARCH[self.dialect].format(columns=_TASKS)
        return self._text(Task, sql, *queries.SEARCH_PARAMETERS[self.dialect])

    def ready(self) -> list[Any]:
        return self._text(Task, queries.READY[self.dialect].format(columns=_TASKS), str(_now()))

    def rows(self, count: int) -> list[Any]:
        return self._list(select(Task).order_by(Task.id).limit(count))

    def active_projects(self) -> list[Any]:
        # In the words of the partial index.
        active = text("status IN ('" + "', '".join(queries.ACTIVE) + "')")
        busy = exists().select_from(Task).where(Task.project == Project.name, active)
        return self._list(select(Project).where(busy).order_by(Project.name))

    def hierarchy(self, id: str) -> list[Any]:
        return self._text(Instance, queries.HIERARCHY.format(columns=_INSTANCES), id, id)

    # -- numbers ----------------------------------------------------------------------------------

    def statistics(self, project: str) -> dict[str, int]:
        query = select(Task.status, func.count()).where(Task.project == project)
        rows = self._session.execute(query.group_by(Task.status))
        return queries.statistics({row[0]: row[1] for row in rows})

    def analytics(self) -> dict[str, Any]:
        groups = self._session.execute(text(queries.DECISIONS[self.dialect])).all()
        rated = self._session.execute(text(queries.RATED)).one()
        return queries.analytics([tuple(row) for row in groups], (rated[0], rated[1]))
