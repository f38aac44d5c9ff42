"""What an operator does to a database as a whole.

Each function works on the database that the proxy stands for, or on the one given as `database`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hopper_data import chat, planning, routing
from hopper_data.config import Environment, present_environment
from hopper_data.database import Database, create_database, using
from hopper_data.errors import DatabaseError, SchemaVersionMismatch, ValidationError
from hopper_data.introspection import compare, create_tables, describe
from hopper_data.migrations import (
    HISTORY_TABLE,
    get_schema_version,
    migrate,
    migration_names,
    migration_turn,
    pending_migrations,
    refuse_newer,
    target_database,
)
from hopper_data.model import BaseModel
from hopper_data.rowsets import table_name
from hopper_data.session import open_session

__all__ = [
    "all_models",
    "analyze_database_statistics",
    "analyze_task_statistics",
    "check_database_health",
    "check_schema",
    "dump_schema",
    "get_database_health",
    "get_database_info",
    "init_database",
    "require_schema",
    "reset_database",
    "vacuum_database",
]

logger = logging.getLogger("hopper_data")


def all_models() -> tuple[type[BaseModel], ...]:
    """The models of all domains, parents first."""
    return (
        *routing.models.ROUTING_MODELS,
        *planning.models.PLANNING_MODELS,
        *chat.models.CHAT_MODELS,
    )


def _namespaces() -> set[str]:
    return {model._meta.namespace for model in all_models() if model._meta.namespace}


def init_database(database: Database | None = None, *, create_tables: bool = False) -> Database:
    """Make a database ready for use, and return it.

    `create_tables=True` creates what is missing right from the models, for development and tests;
    otherwise the migrations are run. `SchemaVersionMismatch` when the database is newer than the
    code.
    """
    target = target_database(database)
    refuse_newer(target, migration_names())
    if create_tables:
        with migration_turn(target):
            _create_all(target)
    else:
        migrate("head", database=target)
    return target


def _create_all(database: Database) -> None:
    create_tables(database, all_models())


def require_schema(database: Database | None = None) -> None:
    """Refuse a database that is not ready for use, with a `SchemaVersionMismatch` that says why.

    Ready is one with all migrations, or one whose tables were created right from the models.
    """
    target = target_database(database)
    known = migration_names()
    refuse_newer(target, known)
    missing = pending_migrations(target)
    if not missing:
        return
    current = get_schema_version(target)
    if current is None:
        with open_session(target, read_only=True):
            if target.table_exists(all_models()[0]._meta.table_name):
                return
    state = f"lacks {', '.join(missing)}" if current else "is not migrated yet"
    raise SchemaVersionMismatch(
        current, known[-1], f"{target.label} {state}: run `hopper-data migrate`"
    )


def reset_database(database: Database | None = None, *, confirm: bool = False) -> None:
    """Drop every table of the package with all its data, and create them anew.

    Refused without `confirm=True`, where HOPPER_ENV is production, and when the database is newer
    than the code (`SchemaVersionMismatch`).
    """
    target = target_database(database)
    if confirm is not True:
        raise ValidationError(
            f"reset_database drops all data of {target.label}; say confirm=True to do it", "confirm"
        )
    if Environment.PRODUCTION in (target.config.environment, present_environment()):
        raise DatabaseError(f"HOPPER_ENV is production: {target.label} is not reset")
    refuse_newer(target, migration_names())
    with migration_turn(target):
        for model in reversed(all_models()):
            model.drop_table(safe=True)
        target.execute_sql(f'DROP TABLE IF EXISTS "{HISTORY_TABLE}"')
    migrate("head", database=target)


def check_database_health(database: Database | None = None) -> bool:
    """Whether the database answers a query."""
    try:
        target = target_database(database)
        with open_session(target, read_only=True) as session:
            session.execute("SELECT 1")
    except DatabaseError:
        logger.warning("the database is not healthy", exc_info=True)
        return False
    return True


def get_database_health(database: Database | None = None) -> dict[str, Any]:
    """What a person on call wants to know, within the connect timeout and also when all is busy.

    `reachable`, and `pool`: how many connections of this process are `in_use` and `idle`, and the
    `max` there may be. Where the database answers: `latency_ms` of a query, `server_version`,
    `schema_version`, `pending_migrations`, `size_bytes` on disk, and `oldest_transaction_s`, for
    how long the oldest transaction has been open: on PostgreSQL of all clients, on SQLite of this
    process; None when there is none. `error` says what failed. Creates nothing.
    """
    target = target_database(database)
    health: dict[str, Any] = {
        "url": target.label,
        "reachable": False,
        "pool": target.pool_status(),
        "oldest_transaction_s": target.longest_use_s(),
    }
    probe = _probe(target)
    try:
        with open_session(probe, read_only=True) as session:
            start = time.perf_counter()
            session.execute("SELECT 1")
            health["latency_ms"] = round((time.perf_counter() - start) * 1000, 2)
            health["reachable"] = True
            health["server_version"] = _server_version(probe)
            health["size_bytes"] = _size_bytes(probe)
            if probe.dialect == "postgresql":
                health["oldest_transaction_s"] = _oldest_transaction_s(probe)
            health["schema_version"] = get_schema_version(probe)
            health["pending_migrations"] = pending_migrations(probe)
    except DatabaseError as error:
        health["error"] = str(error)
    finally:
        if probe is not target:
            probe.close_pool()
    return health


def _probe(database: Database) -> Database:
    """The same database with a connection beside the pool, which may be exhausted."""
    if database.url.in_memory:
        return database
    return create_database(
        replace(database.config, max_connections=1, pool_size=0, must_exist=True)
    )


def _server_version(database: Database) -> str:
    sql = "SELECT sqlite_version()" if database.dialect == "sqlite" else "SHOW server_version"
    name = "SQLite" if database.dialect == "sqlite" else "PostgreSQL"
    return f"{name} {database.execute_sql(sql).fetchone()[0]}"


def _size_bytes(database: Database) -> int:
    if database.dialect == "postgresql":
        sql = "SELECT pg_database_size(current_database())"
        return int(database.execute_sql(sql).fetchone()[0])
    if database.url.in_memory:
        return 0
    files = (Path(f"{database.database}{suffix}") for suffix in ("", "-wal", "-shm"))
    return sum(file.stat().st_size for file in files if file.exists())


def _oldest_transaction_s(database: Database) -> float | None:
    (age,) = database.execute_sql(
        "SELECT extract(epoch FROM max(clock_timestamp() - xact_start)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend' "
        "AND pid <> pg_backend_pid()"
    ).fetchone()
    return None if age is None else round(float(age), 3)


def get_database_info(database: Database | None = None) -> dict[str, Any]:
    """Where the database is: `url` and `async_url` without a password, and `type`."""
    target = target_database(database)
    return {
        "url": str(target.url),
        "type": str(target.url.backend),
        "async_url": target.url.render_async(),
        "environment": str(target.config.environment),
    }


def dump_schema(database: Database | None = None) -> dict[str, dict[str, Any]]:
    """Every table of the database with its columns, constraints, indexes and triggers."""
    target = target_database(database)
    with open_session(target, read_only=True):
        tables = describe(target, _namespaces())
    return {name: table.to_dict() for name, table in sorted(tables.items())}


def analyze_database_statistics(database: Database | None = None) -> dict[str, Any]:
    """`database_type`, `table_count`, `tables`, `row_counts` and `total_rows` of the package."""
    target = target_database(database)
    names = [".".join(model._meta.path(target)) for model in all_models()]
    counts = " UNION ALL ".join(
        f"SELECT '{name}', COUNT(*) FROM {table_name(model, target)}"
        for name, model in zip(names, all_models(), strict=True)
    )
    with open_session(target, read_only=True) as session:
        row_counts = {name: int(count) for name, count in session.execute(counts)}
    return {
        "database_type": str(target.url.backend),
        "table_count": len(names),
        "tables": names,
        "row_counts": row_counts,
        "total_rows": sum(row_counts.values()),
    }


def analyze_task_statistics(database: Database | None = None) -> list[dict[str, Any]]:
    """How the tasks stand, project by project, in the order of the names.

    Each is a dict of `project`, `registered`, `total_tasks` and a count for every status. The
    last one is of the tasks without a project (None). Two things make an entry: a project that is
    registered, and a task that names one.
    """
    counts = (
        "SELECT project, status, COUNT(*), 0 FROM tasks GROUP BY project, status "
        "UNION ALL SELECT name, NULL, 0, 1 FROM projects"
    )
    found: dict[str | None, dict[str, Any]] = {}
    with open_session(target_database(database), read_only=True) as session:
        for project, status, count, registered in session.execute(counts):
            entry = found.setdefault(project, _no_tasks(project))
            entry["registered"] = entry["registered"] or bool(registered)
            if status is not None:
                entry[str(status)] = int(count)
                entry["total_tasks"] += int(count)
    return sorted(found.values(), key=lambda entry: (entry["project"] is None, entry["project"]))


def _no_tasks(project: str | None) -> dict[str, Any]:
    zeros = {str(status): 0 for status in routing.TaskStatus}
    return {"project": project, "registered": False, "total_tasks": 0, **zeros}


def vacuum_database(database: Database | None = None) -> None:
    """Give unused space back, and refresh the statistics of the query planner."""
    target = target_database(database)
    if target.transaction_depth():
        raise DatabaseError("a database cannot be vacuumed inside a session: end it first")
    opened = target.connect(reuse_if_open=True)
    try:
        with using(target), target.sorting_on_disk():
            target.execute_sql("VACUUM")
            target.execute_sql("ANALYZE")
    finally:
        if opened:
            target.release()


def check_schema(database: Database | None = None) -> list[str]:
    """In which ways the database is not what the models declare, a sentence each.

    Compares tables, columns, types, NOT NULL, defaults, CHECKs, keys, indexes and triggers, with
    the models built afresh: in a schema of its own that is rolled back on PostgreSQL, in memory
    for SQLite. `SchemaVersionMismatch` when the database is newer than the code.
    """
    target = target_database(database)
    refuse_newer(target, migration_names())
    with open_session(target, read_only=True):
        found = describe(target, _namespaces())
    with _built_afresh(target) as model_database:
        expected = describe(model_database, _namespaces())
    return compare(found, expected)


@contextmanager
def _built_afresh(database: Database) -> Iterator[Database]:
    if database.dialect == "sqlite":
        fresh = create_database("sqlite:///:memory:")
        with open_session(fresh):
            _create_all(fresh)
            yield fresh
        fresh.close_pool()
        return
    # Of its own, since other threads must not see the names that it uses.
    shadow = create_database(replace(database.config, max_connections=1, pool_size=0))
    shadow.schema_prefix = "hopper_check_"
    try:
        with open_session(shadow), shadow.atomic() as scope:
            try:
                shadow.execute_sql("CREATE SCHEMA hopper_check")
            except DatabaseError as error:
                raise DatabaseError(
                    f"{database.label} cannot be checked without the right to create schemas: "
                    f"{error}"
                ) from error
            shadow.execute_sql("SET LOCAL search_path TO hopper_check")
            _create_all(shadow)
            yield shadow
            scope.rollback()
    finally:
        shadow.close_pool()
