"""Forks: a child makes its own connections, and the parent's stay usable."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from hopper_data import (
    ProjectRepository,
    TaskRepository,
    connect,
    create_database,
    get_sync_session,
    init_database,
    using,
)
from hopper_data.database import Database, proxy
from hopper_data.routing.models import new_task_id
from hopper_data.session import open_session
from tests.forks import PROGRAMS, in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, make_url: Callable[..., str]) -> Iterator[Database]:
    made = create_database(make_url(request.param))
    with using(made):
        yield made
    made.close_pool()


def names() -> list[str]:
    with get_sync_session() as session:
        return [row.name for row in ProjectRepository(session).get_all()]


def add(name: str) -> None:
    with get_sync_session() as session:
        ProjectRepository(session).create(name=name, slug=name)


def test_a_child_has_connections_of_its_own(database: Database) -> None:
    add("parent")
    assert database.pool_status()["idle"] == 1
    ids = {id(connection) for _, _, connection in database._connections}

    def child() -> None:
        assert database.pool_status() == {"in_use": 0, "idle": 0, "max": 20}
        add("child")
        assert names() == ["child", "parent"]
        assert not ids & {id(connection) for _, _, connection in database._connections}

    in_child(child)
    assert names() == ["child", "parent"]
    add("parent again")
    assert database.pool_status() == {"in_use": 0, "idle": 1, "max": 20}


def test_a_fork_in_the_middle_of_a_session(database: Database) -> None:
    def child() -> None:
        assert database.is_closed()
        assert not database.in_transaction()
        if database.dialect == "postgresql":  # on SQLite the parent holds the lock
            add("child")

    with get_sync_session() as session:
        ProjectRepository(session).create(name="before", slug="before")
        in_child(child)
        ProjectRepository(session).create(name="after", slug="after")
    expected = ["after", "before"] + (["child"] if database.dialect == "postgresql" else [])
    assert names() == expected


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_fork_while_other_threads_work(database: Database, program: str) -> None:
    quiet = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    url = database.url.render(hide_password=False)
    done = subprocess.run(
        [sys.executable, "-m", "tests.forks", url, program],
        cwd=Path(__file__).parents[1],
        env=quiet,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_the_default_database_is_forgotten_too(database: Database) -> None:
    connect(database.config)
    try:
        proxy.default.connect()
        in_child(lambda: names() and None)
        assert proxy.default.execute_sql("SELECT 1").fetchone()[0] == 1
        proxy.default.release()
    finally:
        proxy.initialize(None)


def test_a_child_has_a_copy_of_a_database_in_memory() -> None:
    database = create_database("sqlite:///:memory:")
    init_database(database)

    def child() -> None:
        with open_session(database) as session:
            assert TaskRepository(session).count() == 1
            TaskRepository(session).create(id="child", title="t")
            assert TaskRepository(session).count() == 2

    with open_session(database) as session:
        TaskRepository(session).create(id="parent", title="t")
    in_child(child)
    with open_session(database) as session:
        assert [row.id for row in TaskRepository(session).get_all()] == ["parent"]
    database.close_pool()


def test_grandchildren(database: Database) -> None:
    def child() -> None:
        add("child")
        in_child(lambda: add("grandchild"))
        add("child again")

    in_child(child)
    assert names() == ["child", "child again", "grandchild"]


def test_parent_and_children_make_ids_of_their_own(tmp_path: Path) -> None:
    new_task_id()  # there is chance left for more
    for number in range(2):
        in_child(lambda: (tmp_path / str(number)).write_text(new_task_id()))  # noqa: B023
    made = [new_task_id(), *(file.read_text() for file in tmp_path.iterdir())]
    assert len({key[-7:] for key in made}) == 3  # which are chance alone


def test_parent_and_child_make_ids_of_their_own_while_the_clock_is_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ids"
    new_task_id()
    behind = SimpleNamespace(time=lambda: time.time() - 60)
    monkeypatch.setattr("hopper_data.routing.models.time", behind)
    in_child(lambda: file.write_text(" ".join(new_task_id() for _ in range(3))))
    made = [new_task_id() for _ in range(3)]
    assert made == sorted(made)
    assert not {*made} & {*file.read_text().split()}
