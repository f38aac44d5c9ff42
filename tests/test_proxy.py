"""The proxy: which database the models mean, here, in another thread, and in a copy."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from peewee import DoesNotExist

from hopper_data import (
    ExternalMapping,
    ExternalMappingRepository,
    HopperInstanceRepository,
    Project,
    ProjectRepository,
    RoutingDecisionRepository,
    SessionFactory,
    Task,
    TaskFeedbackRepository,
    TaskRepository,
    ValidationError,
    connect,
    create_database,
    get_sync_session,
    init_database,
    using,
)
from hopper_data.database import Database, proxy
from hopper_data.session import open_session


@pytest.fixture
def pair(make_url: Callable[..., str]) -> Iterator[tuple[Database, Database]]:
    """A SQLite file and a PostgreSQL database."""
    databases = [create_database(make_url(backend)) for backend in ("sqlite", "postgresql")]
    yield databases[0], databases[1]
    for database in databases:
        database.close_pool()


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    proxy.initialize(None)


def names() -> list[str]:
    return [row.name for row in Project.select().order_by(Project.name)]


def add(name: str) -> None:
    with get_sync_session() as session:
        ProjectRepository(session).create(name=name, slug=name)


def test_connect_points_the_whole_process(pair: tuple[Database, Database]) -> None:
    first, second = pair
    database = connect(first.config)
    assert proxy.obj is database
    add("here")
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(names).result() == ["here"]
        other = connect(second.config)
        assert threads.submit(names).result() == []
        assert threads.submit(lambda: proxy.obj).result() is other
    database.release()
    other.release()


def test_connect_opens_nothing(tmp_path: Path) -> None:
    connect(f"sqlite:///{tmp_path}/x.db")
    connect("postgresql://ann:secret@127.0.0.1:1/none")
    assert list(tmp_path.iterdir()) == []


def test_connect_inside_a_session_does_not_disturb_it(pair: tuple[Database, Database]) -> None:
    connect(pair[0].config)
    with get_sync_session() as session:
        ProjectRepository(session).create(name="a", slug="a")
        other = connect(pair[1].config)
        ProjectRepository(session).create(name="b", slug="b")
        assert names() == ["a", "b"]
    assert names() == []
    other.release()
    with using(pair[0]):
        assert names() == ["a", "b"]


def test_connect_closes_what_was_before(pair: tuple[Database, Database]) -> None:
    before = connect(pair[1].config)
    with get_sync_session() as session:
        session.execute("SELECT 1")
    assert before.pool_status()["idle"] == 1
    connect(pair[0].config)
    assert before.pool_status() == {"in_use": 0, "idle": 0, "max": 20}


def test_using_holds_for_a_block_and_a_thread(pair: tuple[Database, Database]) -> None:
    first, second = pair
    connect(first.config)
    with using(second):
        add("second")
        assert names() == ["second"]
        with using(first):
            add("first")
            assert names() == ["first"]
        assert names() == ["second"]
        with ThreadPoolExecutor(1) as threads:
            # A new thread inherits no context; who wants it takes it along.
            assert threads.submit(names).result() == ["first"]
            context = contextvars.copy_context()
            assert threads.submit(context.run, names).result() == ["second"]
    assert names() == ["first"]
    proxy.obj.release()


def test_using_ends_with_an_exception(pair: tuple[Database, Database]) -> None:
    connect(pair[0].config)
    with pytest.raises(ZeroDivisionError), using(pair[1]):
        raise ZeroDivisionError
    assert proxy.obj.config is not pair[1].config
    assert proxy.obj.dialect == "sqlite"
    assert pair[1].is_closed()


@pytest.mark.parametrize("wrong", [None, "sqlite:///x.db", 5, Task])
def test_using_takes_a_database(wrong: Any) -> None:
    with pytest.raises(ValidationError, match=r"create_database\(\)"), using(wrong):
        pass


def test_two_threads_work_on_two_databases_at_once(pair: tuple[Database, Database]) -> None:
    rounds, together = 40, threading.Barrier(2)
    problems: list[BaseException] = []

    def work(database: Database, name: str) -> None:
        try:
            with using(database):
                for number in range(rounds):
                    together.wait(30)
                    with get_sync_session() as session:
                        tasks = TaskRepository(session)
                        tasks.create(
                            id=f"{name}{number}", title=name, tags=[name], feedback={"who": name}
                        )
                        assert session.database is database
                        found = tasks.filter({"feedback__contains": {"who": name}})
                        assert len(found) == number + 1
                        term = Task.feedback["who"] == name
                        assert Task.select().where(term).count() == number + 1
                        assert {row.title for row in tasks.iterate()} == {name}
        except BaseException as error:  # noqa: BLE001 - for the thread that looks at them
            problems.append(error)
            together.abort()

    threads = [
        threading.Thread(target=work, args=(database, name))
        for database, name in zip(pair, ("lite", "post"), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_two_sessions_at_once_copy_row_by_row(pair: tuple[Database, Database]) -> None:
    source, target = pair
    with open_session(source) as session:
        tasks = TaskRepository(session)
        tasks.bulk_create(
            {"id": f"t{n}", "title": f"Task {n}", "tags": [f"tag{n}"], "feedback": {"n": [n, None]}}
            for n in range(50)
        )
        ProjectRepository(session).create(name="p", slug="p", auto_claim=True)
        instances = HopperInstanceRepository(session)
        instances.create(id="top", name="top", scope="GLOBAL")
        instances.create(id="low", name="low", scope="PROJECT", parent_id="top")
        RoutingDecisionRepository(session).create(task_id="t1", project="p", confidence=0.1)
        TaskFeedbackRepository(session).create(task_id="t1", complexity_rating=3)
        ExternalMappingRepository(session).create(task_id="t1", platform="x", external_id="1")
    kinds = (
        ProjectRepository,
        TaskRepository,
        HopperInstanceRepository,
        RoutingDecisionRepository,
        TaskFeedbackRepository,
        ExternalMappingRepository,
    )
    order = {HopperInstanceRepository: "-id"}
    with open_session(source, read_only=True) as reading, open_session(target) as writing:
        for kind in kinds:
            for row in kind(reading).iterate(order_by=order.get(kind)):
                values = {field.name: row.__data__[field.name] for field in row._meta.sorted_fields}
                kind(writing).create(**values)
                assert kind(writing).exists(row._pk)
    with open_session(source) as reading, open_session(target) as writing:
        for kind in kinds:
            rows = [row.to_dict() for row in kind(reading).get_all()]
            assert rows == [row.to_dict() for row in kind(writing).get_all()]
            assert rows


def test_a_row_is_saved_where_the_context_is(pair: tuple[Database, Database]) -> None:
    source, target = pair
    with open_session(source) as session:
        TaskRepository(session).create(id="t", title="t", tags=["a"])
    with open_session(source) as reading:
        task = TaskRepository(reading).get_or_raise("t")
        with open_session(target):
            assert task.save(force_insert=True) == 1
            task.tags.append("b")
            task.save()
        assert TaskRepository(reading).get_or_raise("t").tags == ["a"]
    with open_session(target) as session:
        assert TaskRepository(session).get_or_raise("t").tags == ["a", "b"]


def test_a_reference_is_followed_where_the_context_is(pair: tuple[Database, Database]) -> None:
    for database in pair:
        with open_session(database) as session:
            TaskRepository(session).create(id="t", title=database.dialect)
            ExternalMappingRepository(session).create(
                task_id="t", platform="x", external_id=database.dialect
            )
    for database in pair:
        with open_session(database):
            mapping = ExternalMapping.get()
            assert mapping.external_id == mapping.task.title == database.dialect


def test_sessions_interleave(pair: tuple[Database, Database]) -> None:
    """Not nested like brackets: one may end while the other goes on."""
    with SessionFactory(pair[0].config) as one, SessionFactory(pair[1].config) as two:
        first, second = one.get_session(), two.get_session()
        a, b = first.__enter__(), second.__enter__()
        TaskRepository(a).create(id="a", title="a")
        TaskRepository(b).create(id="b", title="b")
        second.__exit__(None, None, None)
        TaskRepository(a).create(id="c", title="c")
        first.__exit__(None, None, None)
        with one.get_session() as session:
            assert TaskRepository(session).count() == 2
        with two.get_session() as session:
            assert TaskRepository(session).count() == 1


def test_blocks_may_end_in_another_order(pair: tuple[Database, Database]) -> None:
    default = connect("sqlite:///:memory:")
    for order in ((0, 1), (1, 0)):
        blocks = [using(database) for database in pair]
        for block in blocks:
            block.__enter__()
        for number in order:
            assert proxy.obj in pair
            blocks[number].__exit__(None, None, None)
        assert proxy.obj is default


def test_a_database_in_memory_is_one_for_all_threads() -> None:
    database = connect("sqlite:///:memory:")
    init_database()
    add("main")

    def work(name: str) -> list[str]:
        with get_sync_session() as session:
            ProjectRepository(session).create(name=name, slug=name)
            return [row.name for row in ProjectRepository(session).get_all()]

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(work, [f"p{n}" for n in range(8)]))
    assert all("main" in row for row in found)
    assert max(len(row) for row in found) == 9
    assert database.pool_status() == {"in_use": 0, "idle": 1, "max": 1}


def test_two_databases_in_memory_are_two() -> None:
    one, two = (create_database("sqlite:///:memory:") for _ in range(2))
    for database in (one, two):
        init_database(database)
    with open_session(one) as session:
        TaskRepository(session).create(id="t", title="t")
        with open_session(two) as other:
            assert TaskRepository(other).count() == 0
    with open_session(one) as session:
        assert TaskRepository(session).count() == 1
    one.close_pool()
    two.close_pool()


def test_the_proxy_gives_what_a_database_gives(pair: tuple[Database, Database]) -> None:
    for database in pair:
        with using(database):
            with proxy.atomic(), proxy.atomic() as scope:
                Project.create(name="p", slug="p")
                scope.rollback()
            with proxy.transaction(), proxy.savepoint():
                Project.create(name="q", slug="q")
            with proxy.connection_context():
                assert names() == ["q"]
            assert Project.select().count() == 1
            assert proxy.table_exists("projects")
            with pytest.raises(DoesNotExist):
                Project.get_by_id("none")


def test_the_decorator_of_peewee_means_the_context(pair: tuple[Database, Database]) -> None:
    def write(name: str) -> None:
        with proxy.atomic():
            Project.create(name=name, slug=name)

    for database in pair:
        with using(database):
            write(database.dialect)
    for database in pair:
        with using(database):
            assert names() == [database.dialect]


def test_a_query_outside_of_sessions_takes_a_connection(pair: tuple[Database, Database]) -> None:
    for database in pair:
        with using(database):
            assert Project.select().count() == 0
            Project.create(name="auto", slug="auto")
            assert database.pool_status()["in_use"] == 1
        assert database.pool_status()["in_use"] == 0
        with open_session(database) as session:
            assert ProjectRepository(session).count() == 1
