"""Forks: a child makes its own connections, and the parent's stay usable."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

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
from hopper_data.session import open_session

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, make_url: Callable[..., str]) -> Iterator[Database]:
    made = create_database(make_url(request.param))
    with using(made):
        yield made
    made.close_pool()


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a fork; an error there is a failure here."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        os.close(reading)
        try:
            work()
        except BaseException:  # noqa: BLE001 - told to the parent
            os.write(writing, traceback.format_exc().encode())
        finally:
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        problem = told.read()
    _, status = os.waitpid(pid, 0)
    assert problem == ""
    assert os.WIFEXITED(status)


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


def test_a_fork_while_another_thread_has_a_session(database: Database) -> None:
    add("first")
    entered, go_on = threading.Event(), threading.Event()
    counts: list[int] = []

    def work() -> None:
        with open_session(database, read_only=True) as session:
            counts.append(ProjectRepository(session).count())
            entered.set()
            go_on.wait(60)
            counts.append(ProjectRepository(session).count())

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(30)
    try:
        for number in range(5):
            in_child(lambda number=number: add(f"child {number}"))
    finally:
        go_on.set()
        thread.join(30)
    assert counts == [1, 1]
    assert len(names()) == 6


def test_a_fork_while_other_threads_take_and_give_back(database: Database) -> None:
    # Without a statement between: SQLite's own locks, which one might hold, outlive no fork.
    add("first")
    stop, connected = threading.Event(), threading.Barrier(3, timeout=30)

    def work() -> None:
        with database.connection_context():
            connected.wait()  # each has opened one, and none is opened from now on
        while not stop.is_set():
            with database.connection_context():
                pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    connected.wait()
    try:
        for _ in range(5):
            in_child(lambda: names() and None)
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert names() == ["first"]


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
