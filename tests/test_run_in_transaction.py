"""`run_in_transaction()`: what it tries again, what it does not, and how often."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    IntegrityError,
    InvalidTransition,
    NotFound,
    PoolTimeout,
    ProjectRepository,
    Session,
    SessionFactory,
    TaskRepository,
    ValidationError,
    create_database,
    get_sync_session,
    run_in_transaction,
    using,
)
from hopper_data.database import Database
from hopper_data.session import open_session


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long it waited between two tries; it does not really wait."""
    found: list[float] = []
    monkeypatch.setattr("hopper_data.session.time", SimpleNamespace(sleep=found.append))
    return found


@pytest.fixture
def server(make_url: Callable[..., str]) -> Iterator[Database]:
    """A PostgreSQL database, which the proxy stands for."""
    database = create_database(make_url("postgresql"))
    with using(database):
        yield database
    database.close_pool()


class Work:
    """Writes a task, and fails as often as it is told."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.tries = 0

    def __call__(self, session: Session) -> int:
        self.tries += 1
        TaskRepository(session).create(id=f"try{self.tries}", title="t")
        if self.failures:
            raise self.failures.pop(0)
        return self.tries


def kept(database: Database) -> list[str]:
    with open_session(database) as session:
        return [row.id for row in TaskRepository(session).get_all()]


def test_the_result_is_given_and_the_work_is_kept(database: Database, sleeps: list[float]) -> None:
    work = Work()
    assert run_in_transaction(work) == 1
    assert (kept(database), sleeps) == (["try1"], [])


def test_what_may_pass_is_tried_once_more_after_a_second(
    database: Database, sleeps: list[float]
) -> None:
    for error in (DatabaseUnavailable("gone"), DatabaseError("lost", retryable=True)):
        work = Work(error)
        assert run_in_transaction(work) == 2
        assert kept(database) == ["try2"]
        with open_session(database) as session:
            TaskRepository(session).delete("try2")
    assert sleeps == [1.0, 1.0]


def test_twice_is_an_error(database: Database, sleeps: list[float]) -> None:
    work = Work(DatabaseUnavailable("first"), DatabaseUnavailable("second"))
    with pytest.raises(DatabaseUnavailable, match="second"):
        run_in_transaction(work)
    assert (work.tries, sleeps, kept(database)) == (2, [1.0], [])


def test_tries_and_delay_may_be_chosen(database: Database, sleeps: list[float]) -> None:
    work = Work(*(DatabaseUnavailable(str(n)) for n in range(3)))
    assert run_in_transaction(work, retries=3, delay_s=0.25) == 4
    assert sleeps == [0.25] * 3
    work = Work(DatabaseUnavailable("once"))
    with pytest.raises(DatabaseUnavailable, match="once"):
        run_in_transaction(work, retries=0)
    assert work.tries == 1
    assert kept(database) == ["try4"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no"),
        KeyError("k"),
        ValidationError("no", "f"),
        IntegrityError("no", "c"),
        InvalidTransition("a", "b"),
        NotFound("no"),
        PoolTimeout("no"),
        DatabaseError("no"),
        DatabaseUnavailable("locked", retryable=False),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_is_tried_again(sleeps: list[float], error: BaseException) -> None:
    database = create_database("sqlite:///:memory:")
    from hopper_data import init_database

    init_database(database)
    work = Work(error)
    with pytest.raises(type(error)):
        run_in_transaction(work, database=database)
    assert (work.tries, sleeps, kept(database)) == (1, [], [])
    database.close_pool()


def test_a_real_refusal_is_not_tried_again(database: Database, sleeps: list[float]) -> None:
    tries = []

    def work(session: Session) -> None:
        tries.append(1)
        for _ in range(2):
            ProjectRepository(session).create(name="p", slug="p")

    with pytest.raises(IntegrityError):
        run_in_transaction(work)
    assert (tries, sleeps) == ([1], [])


def test_inside_a_session_there_is_no_second_try(database: Database, sleeps: list[float]) -> None:
    work = Work(DatabaseUnavailable("gone"))
    with get_sync_session() as session:
        TaskRepository(session).create(id="outer", title="t")
        with pytest.raises(DatabaseUnavailable):
            run_in_transaction(work)
        assert run_in_transaction(Work(), retries=5) == 1
    assert work.tries == 1
    assert sleeps == []
    assert kept(database) == ["outer", "try1"]


def test_it_may_have_a_database_of_its_own(make_url: Callable[..., str], backend: str) -> None:
    from hopper_data import init_database

    with SessionFactory(make_url(backend)) as factory:
        init_database(factory.database)
        assert factory.run_in_transaction(Work(), retries=2, delay_s=0) == 1
        assert kept(factory.database) == ["try1"]
        other = Work()
        with pytest.raises(DatabaseError):
            run_in_transaction(
                other, database=create_database("postgresql://127.0.0.1:1/x"), delay_s=0, retries=0
            )
        assert other.tries == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", -1),
        ("retries", 1.5),
        ("retries", True),
        ("retries", None),
        ("delay_s", -1),
        ("delay_s", "1"),
        ("delay_s", float("nan")),
        ("delay_s", None),
    ],
)
def test_other_options_are_refused(name: str, value: Any) -> None:
    database = create_database("sqlite:///:memory:")
    work = Work()
    with pytest.raises(ValidationError, match=name):
        run_in_transaction(work, database=database, **{name: value})
    assert work.tries == 0


def test_each_try_is_told(
    database: Database, sleeps: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    run_in_transaction(Work(DatabaseUnavailable("the cable")), delay_s=2)
    assert "trying again in 2 s: the cable" in caplog.text


# -- real losses -----------------------------------------------------------------------------------


def end_connection(server: Database, session: Session) -> None:
    """The server ends the connection of a session, as a restart would."""
    ((pid,),) = session.execute("SELECT pg_backend_pid()")
    with SessionFactory(server.config) as other, other.get_session() as killer:
        killer.execute("SELECT pg_terminate_backend(?)", (pid,))


def test_a_dropped_connection_is_tried_again(server: Database, sleeps: list[float]) -> None:
    tries = []

    def work(session: Session) -> str:
        tries.append(1)
        TaskRepository(session).create(id="t", title=f"try {len(tries)}")
        if len(tries) == 1:
            end_connection(server, session)
        TaskRepository(session).create(id="u", title="t")
        return TaskRepository(session).get_or_raise("t").title

    assert run_in_transaction(work) == "try 2"
    assert (len(tries), sleeps, kept(server)) == (2, [1.0], ["t", "u"])
    assert server.pool_status()["in_use"] == 0


def test_a_connection_that_drops_each_time_is_an_error(
    server: Database, sleeps: list[float]
) -> None:
    def work(session: Session) -> None:
        TaskRepository(session).create(id="t", title="t")
        end_connection(server, session)
        session.execute("SELECT 1")

    with pytest.raises(DatabaseUnavailable) as caught:
        run_in_transaction(work)
    assert caught.value.__cause__ is not None
    assert (sleeps, kept(server)) == ([1.0], [])


def test_a_lost_deadlock_is_tried_again(server: Database) -> None:
    with open_session(server) as session:
        for key in ("a", "b"):
            TaskRepository(session).create(id=key, title="0")
    meet = threading.Barrier(2)
    tries: list[str] = []

    def work(first: str, second: str) -> None:
        waited = False

        def change(session: Session) -> None:
            nonlocal waited
            tries.append(first)
            tasks = TaskRepository(session)
            title = tasks.get_or_raise(first).title
            tasks.update(first, title=f"{title}{first}")
            if not waited:
                waited = True
                meet.wait(30)
            tasks.update(second, owner=first)

        with using(server):
            run_in_transaction(change, delay_s=0.01)

    threads = [threading.Thread(target=work, args=pair) for pair in (("a", "b"), ("b", "a"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(tries) == 3
    with open_session(server) as session:
        rows = TaskRepository(session).get_all()
        assert [(row.title, row.owner) for row in rows] == [("0a", "b"), ("0b", "a")]


def test_a_lost_serialization_race_is_tried_again(server: Database) -> None:
    with open_session(server) as session:
        TaskRepository(session).create(id="n", title="0")
    workers, rounds = 4, 5

    def add_one(session: Session) -> None:
        session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        tasks = TaskRepository(session)
        tasks.update("n", title=str(int(tasks.get_or_raise("n").title) + 1))

    problems: list[BaseException] = []

    def work() -> None:
        try:
            with using(server):
                for _ in range(rounds):
                    run_in_transaction(add_one, retries=200, delay_s=0.001)
        except BaseException as error:  # noqa: BLE001 - for the thread that looks at them
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    with open_session(server) as session:
        assert TaskRepository(session).get_or_raise("n").title == str(workers * rounds)


def test_a_server_that_is_not_there_is_tried_again(sleeps: list[float]) -> None:
    database = create_database("postgresql://127.0.0.1:1/x", connect_timeout_s=2)
    work = Work()
    with pytest.raises(DatabaseUnavailable):
        run_in_transaction(work, database=database)
    assert (work.tries, sleeps) == (0, [1.0])
