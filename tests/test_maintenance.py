"""What an operator does to a database as a whole."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hopper_data import (
    DatabaseConfig,
    DatabaseError,
    ProjectRepository,
    TaskRepository,
    ValidationError,
    analyze_database_statistics,
    check_database_health,
    check_schema,
    create_database,
    dump_schema,
    get_database_health,
    get_database_info,
    get_schema_version,
    init_database,
    reset_database,
    vacuum_database,
)
from hopper_data.config import Environment
from hopper_data.database import Database
from hopper_data.maintenance import all_models, analyze_task_statistics
from hopper_data.migrations import migration_names
from hopper_data.session import open_session

BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
STATES = ("pending", "claimed", "in_progress", "blocked", "completed", "failed", "cancelled")


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def fill(database: Database, count: int = 3) -> None:
    with open_session(database) as session:
        ProjectRepository(session).create(name="web", slug="web")
        TaskRepository(session).bulk_create(
            {"title": f"task {n}", "project": "web" if n % 2 else None, "tags": ["x"]}
            for n in range(count)
        )


# -- making and emptying --------------------------------------------------------------------------


def test_init_migrates(empty_database: Database) -> None:
    assert init_database() is empty_database
    assert get_schema_version() == migration_names()[-1]
    fill(empty_database)
    assert init_database(empty_database) is empty_database
    assert analyze_database_statistics()["row_counts"]["tasks"] == 3


def test_init_can_make_the_tables_right_from_the_models(empty_database: Database) -> None:
    assert init_database(create_tables=True) is empty_database
    assert check_schema() == []
    assert get_schema_version() is None
    fill(empty_database)
    init_database(create_tables=True)
    with open_session(empty_database) as session:
        tasks = TaskRepository(session)
        assert len(tasks.search_tasks("task")) == len(tasks.get_tasks_by_tag("x")) == 3


def test_init_makes_what_is_missing(database: Database) -> None:
    with open_session(database) as session:
        session.execute("DROP TABLE external_mappings")
        session.execute("DROP INDEX idx_tasks_owner_newest")
    assert len(check_schema()) == 2
    init_database(create_tables=True)
    assert check_schema() == []


def test_reset_empties_and_migrates(database: Database) -> None:
    fill(database)
    with open_session(database) as session:
        session.execute("CREATE TABLE of_others (id INTEGER)")
        session.execute("INSERT INTO of_others VALUES (1)")
    reset_database(confirm=True)
    assert analyze_database_statistics()["total_rows"] == 0
    assert check_schema() == []
    assert get_schema_version() == migration_names()[-1]
    fill(database)
    with open_session(database) as session:
        assert len(TaskRepository(session).search_tasks("task")) == 3
        assert session.execute("SELECT id FROM of_others") == [(1,)]


def test_reset_makes_an_empty_database_ready(empty_database: Database) -> None:
    reset_database(confirm=True)
    assert check_schema() == []


def test_reset_wants_to_be_confirmed(database: Database) -> None:
    fill(database)
    wrong: list[Any] = [False, None, 0]
    for confirm in wrong:
        with pytest.raises(ValidationError, match="say confirm=True") as caught:
            reset_database(confirm=confirm)
        assert caught.value.field == "confirm"
    with pytest.raises(ValidationError, match="say confirm=True"):
        reset_database(database)
    assert analyze_database_statistics()["row_counts"]["tasks"] == 3


@BOTH
def test_reset_is_refused_in_production_whatever_the_name(
    database: Database, make_url: Callable[..., str], backend: str
) -> None:
    config = DatabaseConfig(url=database.config.url, environment=Environment.PRODUCTION)
    production = create_database(config)
    fill(production)
    with pytest.raises(DatabaseError, match="HOPPER_ENV is production"):
        reset_database(production, confirm=True)
    assert analyze_database_statistics(production)["row_counts"]["tasks"] == 3
    production.close_pool()


def test_not_inside_a_session(database: Database) -> None:
    with open_session(database):
        for call in (
            lambda: reset_database(confirm=True),
            vacuum_database,
            lambda: init_database(create_tables=True),
        ):
            with pytest.raises(DatabaseError, match="inside a session"):
                call()


# -- looking --------------------------------------------------------------------------------------


def test_statistics_count_every_table(database: Database) -> None:
    empty = analyze_database_statistics()
    assert empty["total_rows"] == 0
    assert empty["table_count"] == len(empty["tables"]) == len(all_models())
    fill(database)
    statistics = analyze_database_statistics()
    kind = "postgresql" if database.dialect == "postgresql" else "sqlite"
    assert statistics["database_type"] == kind
    assert statistics["row_counts"]["tasks"] == 3
    assert statistics["row_counts"]["projects"] == 1
    assert statistics["total_rows"] == sum(statistics["row_counts"].values()) == 4
    assert set(statistics["row_counts"]) == set(statistics["tables"])
    assert {"tasks", "projects", "hopper_instances", "routing_decisions"} < set(
        statistics["tables"]
    )
    json.dumps(statistics)


def test_statistics_of_the_tasks(database: Database) -> None:
    assert analyze_task_statistics() == []
    fill(database)
    with open_session(database) as session:
        ProjectRepository(session).create(name="empty", slug="empty")
        tasks = TaskRepository(session)
        tasks.bulk_create({"title": "x", "project": "later", "status": state} for state in STATES)
    zeros = dict.fromkeys(STATES, 0)
    assert analyze_task_statistics() == [
        {"project": "empty", "registered": True, "total_tasks": 0, **zeros},
        {"project": "later", "registered": False, "total_tasks": 7, **dict.fromkeys(STATES, 1)},
        {"project": "web", "registered": True, "total_tasks": 1, **zeros, "pending": 1},
        {"project": None, "registered": False, "total_tasks": 2, **zeros, "pending": 2},
    ]


def test_statistics_of_a_database_without_tables_say_what_to_do(
    empty_database: Database,
) -> None:
    with pytest.raises(DatabaseError, match="run `hopper-data migrate` first"):
        analyze_database_statistics()


def test_the_schema_is_dumped(database: Database) -> None:
    schema = dump_schema()
    assert list(schema) == sorted(schema)
    tasks = schema["tasks"]
    assert tasks["primary_key"] == ["id"]
    assert tasks["columns"]["title"]["nullable"] is False
    assert tasks["columns"]["description"]["nullable"] is True
    assert tasks["columns"]["id"]["primary_key"] is True
    assert "VARCHAR(500)" in tasks["columns"]["title"]["type"].upper().replace(
        "CHARACTER VARYING", "VARCHAR"
    )
    assert "pending" in tasks["columns"]["status"]["default"]
    assert {"idx_tasks_project", "idx_tasks_status", "idx_tasks_created_at"} <= set(
        tasks["indexes"]
    )
    assert "ck_tasks_status" in tasks["constraints"]
    assert "CASCADE" in schema["task_feedback"]["constraints"]["fk_task_feedback_task_id"]
    json.dumps(schema)


def test_the_schema_of_nothing_is_empty(empty_database: Database) -> None:
    assert dump_schema() == {}


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_no_password_is_told(database: Database) -> None:
    url = re.sub("postgres:?@", "postgres:s3cr%40et@", database.config.url, count=1)
    assert url != database.config.url
    secret = create_database(url)
    told = [
        get_database_info(secret),
        get_database_health(secret),
        dump_schema(secret),
        analyze_database_statistics(secret),
    ]
    for text in (json.dumps(told, default=str), repr(secret), str(secret.config)):
        assert "s3cr" not in text
    assert get_database_info(secret)["url"].startswith("postgresql://postgres:***@")
    secret.close_pool()


def test_where_the_database_is(database: Database) -> None:
    info = get_database_info()
    assert info["environment"] == "development"
    if database.dialect == "sqlite":
        path = database.url.database
        assert info["type"] == "sqlite"
        assert info["url"] == f"sqlite:///{path}"
        assert info["async_url"] == f"sqlite+aiosqlite:///{path}"
    else:
        assert info["type"] == "postgresql"
        assert info["async_url"].startswith("postgresql+asyncpg://")
    json.dumps(info)


# -- health ---------------------------------------------------------------------------------------


def test_a_sound_database_is_healthy(database: Database) -> None:
    assert check_database_health() is True
    assert check_database_health(database) is True
    health = get_database_health()
    assert health["reachable"] is True
    assert health["latency_ms"] >= 0
    assert health["schema_version"] == migration_names()[-1]
    assert health["pending_migrations"] == []
    assert "error" not in health
    name = "SQLite" if database.dialect == "sqlite" else "PostgreSQL"
    assert health["server_version"].startswith(name)
    assert set(health["pool"]) == {"in_use", "idle", "max"}
    assert health["size_bytes"] >= 0
    json.dumps(health)


def test_a_database_without_tables_is_healthy_and_pending(empty_database: Database) -> None:
    assert check_database_health() is True
    health = get_database_health()
    assert health["schema_version"] is None
    assert health["pending_migrations"] == migration_names()


def test_without_a_server_it_is_not(closed_port: int) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{closed_port}/hopper"
    database = create_database(url)
    assert check_database_health(database) is False
    health = get_database_health(database)
    assert health["reachable"] is False
    assert str(closed_port) in health["error"]
    assert "secret" not in json.dumps(health)
    database.close_pool()


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield int(listener.getsockname()[1])


def test_a_server_that_says_nothing_is_given_up(black_hole: int) -> None:
    """Within the connect timeout, for several callers side by side."""
    config = DatabaseConfig(
        url=f"postgresql://me:secret@127.0.0.1:{black_hole}/hopper", connect_timeout_s=2
    )
    database = create_database(config)
    results: list[bool] = []
    threads = [
        threading.Thread(target=lambda: results.append(check_database_health(database)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [False] * 4
    database.close_pool()


def test_a_file_that_must_exist_and_does_not_is_not_healthy(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    database = create_database(DatabaseConfig(url=f"sqlite:///{path}", must_exist=True))
    assert check_database_health(database) is False
    health = get_database_health(database)
    assert health["reachable"] is False
    assert "does not exist" in health["error"]
    assert not path.exists()


def test_a_file_that_is_no_database_is_not_healthy(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is no database, and it is long enough to be one " * 100)
    database = create_database(f"sqlite:///{path}")
    assert check_database_health(database) is False
    assert "not a sound SQLite database" in get_database_health(database)["error"]
    assert path.read_text().startswith("this is no database")
    database.close_pool()


# -- vacuum ---------------------------------------------------------------------------------------


def test_vacuum_keeps_every_row(database: Database) -> None:
    fill(database, 500)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        keys = [task.id for task in tasks.get_all()]
        tasks.bulk_delete(keys[::2])
    vacuum_database()
    vacuum_database(database)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        assert [task.id for task in tasks.get_all()] == keys[1::2]
        assert len(tasks.search_tasks("task")) == 250
        assert [task.title for task in tasks.search_tasks('"task 7"')] == ["task 7"]
        tasks.update(keys[7], title="other")
        assert tasks.search_tasks('"task 7"') == []


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_vacuum_gives_space_back(database: Database) -> None:
    fill(database, 3_000)
    with open_session(database) as session:
        session.execute("DELETE FROM tasks")
    path = Path(database.url.database)
    before = path.stat().st_size + Path(f"{path}-wal").stat().st_size
    vacuum_database()
    database.connect()
    database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    assert path.stat().st_size < before / 2
