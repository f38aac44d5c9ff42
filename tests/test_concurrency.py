"""Threads and processes on one database: nothing is lost, nothing is left."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from hopper_data import (
    DatabaseConfig,
    IntegrityError,
    Project,
    ProjectRepository,
    Session,
    SessionFactory,
    TaskRepository,
    create_database,
    using,
)
from hopper_data.database import Database
from hopper_data.session import open_session

THREADS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, make_url: Callable[..., str]) -> str:
    return make_url(request.param)


def together(number: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives in some threads that begin at once; the first error is raised."""
    start = threading.Barrier(number)

    def run(place: int) -> Any:
        start.wait(60)
        return work(place)

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(run, range(number)))


def add_one(session: Session) -> None:
    """Read, change, write: in between nobody else may write."""
    if session.database.dialect == "postgresql":
        ((title,),) = session.execute("SELECT title FROM tasks WHERE id = 'n' FOR UPDATE")
    else:
        title = TaskRepository(session).get_or_raise("n").title
    TaskRepository(session).update("n", title=str(int(title) + 1))


def test_threads_that_read_and_write_a_row_lose_nothing(url: str) -> None:
    with SessionFactory(DatabaseConfig(url=url, busy_timeout_ms=60_000)) as factory:
        with factory.get_session() as session:
            TaskRepository(session).create(id="n", title="0")

        def work(_: int) -> None:
            for _ in range(15):
                factory.run_in_transaction(add_one)

        together(THREADS, work)
        with factory.get_session() as session:
            assert TaskRepository(session).get_or_raise("n").title == str(THREADS * 15)
        assert factory.database.pool_status()["in_use"] == 0


PROCESS = """
import sys
from hopper_data import DatabaseConfig, SessionFactory, TaskRepository
from tests.test_concurrency import add_one

url, name, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = DatabaseConfig(url=url, busy_timeout_ms=60_000, slow_query_ms=60_000)
with SessionFactory(config) as factory:
    for number in range(rounds):
        factory.run_in_transaction(add_one)
        with factory.get_session() as session:
            TaskRepository(session).create(id=f"{name}-{number}", title="mine", tags=[name])
"""


def test_processes_lose_nothing(url: str, pytestconfig: pytest.Config) -> None:
    with SessionFactory(url) as factory, factory.get_session() as session:
        TaskRepository(session).create(id="n", title="0")
    rounds, names = 12, ("a", "b", "c", "d")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, url, name, str(rounds)],
            cwd=pytestconfig.rootpath,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert errors == [""] * 4
    with SessionFactory(url) as factory, factory.get_session() as session:
        tasks = TaskRepository(session)
        assert tasks.get_or_raise("n").title == str(rounds * len(names))
        assert tasks.count({"title": "mine"}) == rounds * len(names)
        assert {name: len(tasks.get_tasks_by_tag(name)) for name in names} == dict.fromkeys(
            names, rounds
        )


def test_one_of_sixteen_upserts_inserts_and_none_fails(url: str) -> None:
    with SessionFactory(DatabaseConfig(url=url, busy_timeout_ms=60_000)) as factory:

        def work(place: int) -> list[bool]:
            answers = []
            for round_ in range(6):
                with factory.get_session() as session:
                    tasks = TaskRepository(session)
                    row = tasks.upsert(id=f"t{round_}", title="t", owner=f"w{place}")
                    answers.append(row.owner == f"w{place}")
            return answers

        assert all(all(answers) for answers in together(16, work))
        with factory.get_session() as session:
            tasks = TaskRepository(session)
            assert tasks.count() == 6
            assert all(row.created_at <= row.updated_at for row in tasks.get_all())


def test_one_of_sixteen_creates_wins_and_the_others_are_told(url: str) -> None:
    with SessionFactory(DatabaseConfig(url=url, busy_timeout_ms=60_000)) as factory:

        def work(place: int) -> tuple[str, str | None]:
            try:
                with factory.get_session() as session:
                    ProjectRepository(session).create(name="p", slug=f"s{place}")
            except IntegrityError as error:
                return str(error), error.constraint
            return "won", None

        told = ("Project name 'p' is already taken", "projects_pkey")
        assert sorted(together(16, work)) == [told] * 15 + [("won", None)]


def test_readers_are_not_stopped_by_a_writer(url: str) -> None:
    with SessionFactory(url) as factory:
        with factory.get_session() as session:
            TaskRepository(session).create(id="before", title="t")
        with factory.get_session() as writer:
            TaskRepository(writer).create(id="during", title="t")

            def read(_: int) -> list[str]:
                with factory.get_session(read_only=True) as session:
                    return [row.id for row in TaskRepository(session).get_all()]

            assert together(4, read) == [["before"]] * 4


def test_a_thread_that_ends_leaves_no_connection(url: str) -> None:
    """Queries outside of sessions take a connection that nobody gives back."""
    database = create_database(DatabaseConfig(url=url, max_connections=4, pool_timeout_s=30))

    def query() -> None:
        Project.select().count()
        assert not database.is_closed()

    import contextvars

    with using(database):
        for _ in range(20):
            context = contextvars.copy_context()
            thread = threading.Thread(target=context.run, args=(query,))
            thread.start()
            thread.join()
    gc.collect()
    with open_session(database) as session:
        assert ProjectRepository(session).count() == 0
    assert database.pool_status()["in_use"] == 0
    assert database.pool_status()["idle"] <= 4
    database.close_pool()


def test_a_hundred_threads_share_twenty_connections(url: str) -> None:
    with SessionFactory(url) as factory:
        most = []

        def work(_: int) -> int:
            with factory.get_session(read_only=True) as session:
                most.append(factory.database.pool_status()["in_use"])
                return len(session.execute("SELECT 1"))

        assert together(100, work) == [1] * 100
        assert max(most) <= 20
        status = factory.database.pool_status()
        assert status["in_use"] == 0
        assert status["idle"] <= 5


def test_new_ids_of_many_threads_are_all_different(database: Database) -> None:
    from hopper_data.routing.models import new_task_id

    found = together(8, lambda _: [new_task_id() for _ in range(500)])
    assert len({key for keys in found for key in keys}) == 4000
    assert all(keys == sorted(keys) for keys in found)


def test_models_are_read_by_many_threads_at_once(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_create(
            {"id": f"t{n:02}", "title": f"t{n}", "tags": [f"t{n}"]} for n in range(30)
        )

    def read(place: int) -> int:
        with open_session(database, read_only=True) as session:
            tasks = TaskRepository(session)
            rows = tasks.filter({"tags__contains": [f"t{place}"]})
            return len(rows) + len(tasks.get_all(limit=place, order_by="-created_at"))

    assert together(8, read) == [1 + place for place in range(8)]


def test_a_process_ends_without_a_word(url: str, pytestconfig: pytest.Config) -> None:
    """Connections that are open at the end of the interpreter are no noise."""
    script = (
        "from hopper_data import *; import sys\n"
        "connect(sys.argv[1])\n"
        "Project.select().count()\n"
        "with SessionFactory(sys.argv[1]).get_session() as session:\n"
        "    rows = TaskRepository(session).iterate(); next(rows, None)\n"
    )
    done = subprocess.run(
        # Python tells of open connections to SQLite from 3.13 on, where it is asked to.
        [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning", "-c", script, url],
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
