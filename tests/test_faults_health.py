"""What a person on call is told about a database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from hopper_data import DatabaseError, create_database, get_database_health
from hopper_data.database import Database
from hopper_data.migrations import migration_names
from hopper_data.session import open_session

KEYS = {
    "url",
    "reachable",
    "pool",
    "oldest_transaction_s",
    "latency_ms",
    "server_version",
    "size_bytes",
    "schema_version",
    "pending_migrations",
}


@contextmanager
def open_elsewhere(database: Database) -> Iterator[None]:
    """A session that another thread has open."""
    begun, done = threading.Event(), threading.Event()

    def hold() -> None:
        with open_session(database, read_only=True) as session:
            session.execute("SELECT 1")
            begun.set()
            done.wait(30)

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(hold)
        begun.wait(30)
        try:
            yield
        finally:
            done.set()
            holder.result(30)


def test_a_database_that_is_well(database: Database) -> None:
    health = get_database_health(database)
    assert set(health) == KEYS
    assert health["reachable"] is True
    assert health["url"] == database.label
    assert health["latency_ms"] >= 0
    assert health["server_version"].startswith(("SQLite 3.", "PostgreSQL "))
    assert health["schema_version"] == migration_names()[-1]
    assert health["pending_migrations"] == []
    assert health["oldest_transaction_s"] is None
    assert health["pool"]["in_use"] == 0
    assert health["pool"]["max"] == (1 if database.url.in_memory else 20)
    assert (health["size_bytes"] == 0) == database.url.in_memory
    assert database.pool_status()["in_use"] == 0


def test_a_database_without_tables(empty_database: Database) -> None:
    with open_session(empty_database):
        pass  # makes the file
    health = get_database_health(empty_database)
    assert health["reachable"] is True
    assert health["schema_version"] is None
    assert health["pending_migrations"] == migration_names()
    assert "migratehistory" not in empty_database.get_tables()
    empty_database.release()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_transaction_that_is_open(make_url: Callable[..., str], kind: str) -> None:
    database = create_database(make_url(kind))
    with open_elsewhere(database):
        health = get_database_health(database)
        assert health["oldest_transaction_s"] >= 0
        assert health["pool"]["in_use"] == 1
    assert get_database_health(database)["oldest_transaction_s"] is None
    # A session may ask, too, and is then the one that is open.
    with open_session(database) as session:
        session.execute("SELECT 1")
        assert get_database_health(database)["oldest_transaction_s"] >= 0
    database.close_pool()


def test_the_oldest_transaction_may_be_another_programs(make_url: Callable[..., str]) -> None:
    url = make_url("postgresql")
    database, other = create_database(url), create_database(url)
    with open_elsewhere(other):
        health = get_database_health(database)
        assert health["oldest_transaction_s"] >= 0
        assert health["pool"]["in_use"] == 0
    for item in (database, other):
        item.close_pool()


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "missing.db"
    health = get_database_health(create_database(f"sqlite:///{path}"))
    assert health["reachable"] is False
    assert health["error"] == f"the SQLite file {path} does not exist"
    assert not path.exists()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("Dear diary, " * 1000)
    health = get_database_health(create_database(f"sqlite:///{path}"))
    assert health["reachable"] is False
    assert "is not a sound SQLite database" in health["error"]


def test_a_writer_does_not_keep_the_answer_back(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("sqlite"), max_connections=1, pool_size=1)
    with open_session(database) as session:
        session.execute("CREATE TABLE entries (number INTEGER)")
        health = get_database_health(database)
    assert health["reachable"] is True
    assert health["pool"] == {"in_use": 1, "idle": 0, "max": 1}
    database.close_pool()


def test_a_password_is_in_no_answer() -> None:
    database = create_database(
        "postgresql://ada:s3cr3t@/nothing?host=/nowhere", connect_timeout_s=0.5
    )
    health = get_database_health(database)
    assert health["reachable"] is False
    assert "s3cr3t" not in repr(health)
    with pytest.raises(DatabaseError) as raised, open_session(database):
        pytest.fail("there is no server")
    assert "s3cr3t" not in str(raised.value)
