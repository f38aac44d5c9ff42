"""Sessions: commit, rollback, savepoints, statements of a caller's own, and connections."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    DatabaseConfig,
    DatabaseError,
    DatabaseUnavailable,
    IntegrityError,
    PoolTimeout,
    ProjectRepository,
    RoutingDecisionRepository,
    Session,
    SessionFactory,
    Task,
    TaskFeedbackRepository,
    TaskRepository,
    TaskStatus,
    ValidationError,
    get_sync_session,
)
from hopper_data.database import Database
from hopper_data.session import open_session
from tests.cases import each

MOMENT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


class Boom(Exception):
    pass


def titles(session: Session) -> list[str]:
    return [row.title for row in TaskRepository(session).get_all(order_by="title")]


def add(session: Session, *names: str) -> None:
    for name in names:
        TaskRepository(session).create(id=name, title=name)


# -- commit and rollback ---------------------------------------------------------------------------


def test_a_session_commits_at_its_end(database: Database) -> None:
    with get_sync_session() as session:
        add(session, "a", "b")
    with get_sync_session() as session:
        assert titles(session) == ["a", "b"]


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_any_exception_rolls_back(database: Database, error: type[BaseException]) -> None:
    with pytest.raises(error), get_sync_session() as session:
        add(session, "a")
        session.execute("INSERT INTO tasks (id, title) VALUES ('b', 'b')")
        raise error
    with get_sync_session() as session:
        assert titles(session) == []


def test_leaving_by_return_or_break_commits(database: Database) -> None:
    def early() -> None:
        with get_sync_session() as session:
            add(session, "a")
            return

    early()
    for name in ("b", "c"):
        with get_sync_session() as session:
            add(session, name)
            break
    with get_sync_session() as session:
        assert titles(session) == ["a", "b"]


def test_nothing_is_seen_before_the_commit(
    make_url: Callable[..., str],
) -> None:
    for backend in ("sqlite", "postgresql"):
        url = make_url(backend)
        with SessionFactory(url) as writers, SessionFactory(url) as readers:
            with writers.get_session() as writer:
                add(writer, "a")
                with readers.get_session(read_only=True) as reader:
                    assert titles(reader) == []
            with readers.get_session(read_only=True) as reader:
                assert titles(reader) == ["a"]


def test_nested_sessions_are_savepoints(database: Database) -> None:
    with get_sync_session() as outer:
        add(outer, "a")
        with pytest.raises(Boom), get_sync_session() as inner:
            add(inner, "b")
            with get_sync_session() as innermost:
                add(innermost, "c")
                assert titles(outer) == titles(inner) == ["a", "b", "c"]
            raise Boom
        assert titles(outer) == ["a"]
        with get_sync_session() as inner:
            add(inner, "d")
            with pytest.raises(Boom), get_sync_session() as innermost:
                add(innermost, "e")
                raise Boom
        add(outer, "f")
    with get_sync_session() as session:
        assert titles(session) == ["a", "d", "f"]


def test_the_outer_rollback_takes_the_inner_commit_along(database: Database) -> None:
    with pytest.raises(Boom), get_sync_session():
        with get_sync_session() as inner:
            add(inner, "a")
        raise Boom
    with get_sync_session() as session:
        assert titles(session) == []


def test_deep_savepoints(database: Database) -> None:
    def descend(depth: int) -> None:
        with get_sync_session() as session:
            add(session, f"in{depth:02}")
            if depth < 30:
                try:
                    descend(depth + 1)
                except Boom:
                    add(session, f"out{depth:02}")
            if depth % 3 == 2:
                raise Boom

    descend(0)
    with get_sync_session() as session:
        found = titles(session)
    # Level 2 fails and takes all below along; level 1 notes it.
    assert found == ["in00", "in01", "out01"]


def test_a_session_that_has_ended_is_refused(database: Database) -> None:
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        rows = tasks.iterate()
    for attempt in (
        lambda: tasks.create(title="late"),
        lambda: tasks.get("a"),
        lambda: tasks.count(),
        lambda: session.execute("INSERT INTO tasks (id, title) VALUES ('late', 'late')"),
        lambda: session.database,
        lambda: next(rows),
    ):
        with pytest.raises(DatabaseError, match="this session has ended"):
            attempt()
    assert database.is_closed() or database.config.url.endswith(":memory:")
    with get_sync_session() as other:
        with pytest.raises(DatabaseError, match="this session has ended"):
            tasks.create(title="late")
        assert titles(other) == []


def test_a_session_belongs_to_its_thread(database: Database) -> None:
    caught: list[BaseException] = []

    def work(session: Session) -> None:
        try:
            add(session, "elsewhere")
        except DatabaseError as error:
            caught.append(error)

    with pytest.raises(Boom), get_sync_session() as session:
        thread = threading.Thread(target=work, args=(session,))
        thread.start()
        thread.join()
        raise Boom
    assert "another thread" in str(caught[0])
    with get_sync_session() as session:
        assert titles(session) == []


def test_a_repository_wants_a_session(database: Database) -> None:
    for wrong in (None, database, "session", Task, SessionFactory):
        with pytest.raises(ValidationError, match="takes a session"):
            TaskRepository(wrong)  # type: ignore[arg-type]


# -- connections -----------------------------------------------------------------------------------


def test_the_connection_is_given_back(database: Database) -> None:
    assert database.pool_status()["in_use"] == 0
    for error in (None, Boom):
        try:
            with get_sync_session() as session, get_sync_session():
                assert database.pool_status()["in_use"] == 1
                session.execute("SELECT 1")
                if error is not None:
                    raise error
        except Boom:
            pass
        assert database.pool_status()["in_use"] == 0
        assert database.is_closed()


def test_hundreds_of_sessions_take_one_connection(database: Database) -> None:
    for _ in range(200):
        with get_sync_session() as session:
            session.execute("SELECT 1")
    assert database.pool_status()["in_use"] == 0
    assert database.pool_status()["idle"] == 1


def test_idle_connections_shrink_to_the_size_of_the_pool(make_url: Callable[..., str]) -> None:
    for backend in ("sqlite", "postgresql"):
        with SessionFactory(
            DatabaseConfig(url=make_url(backend), pool_size=2, max_connections=6)
        ) as factory:
            entered, leave = threading.Barrier(7), threading.Event()

            def hold(factory: SessionFactory, entered: Any, leave: Any) -> None:
                with factory.get_session(read_only=True) as session:
                    session.execute("SELECT 1")
                    entered.wait(30)
                    leave.wait(30)

            threads = [
                threading.Thread(target=hold, args=(factory, entered, leave)) for _ in range(6)
            ]
            for thread in threads:
                thread.start()
            entered.wait(30)
            assert factory.database.pool_status() == {"in_use": 6, "idle": 0, "max": 6}
            leave.set()
            for thread in threads:
                thread.join()
            assert factory.database.pool_status() == {"in_use": 0, "idle": 2, "max": 6}


def test_an_exhausted_pool_says_so(make_url: Callable[..., str], backend: str) -> None:
    config = DatabaseConfig(
        url=make_url(backend), max_connections=1, pool_size=1, pool_timeout_s=0.05
    )
    with SessionFactory(config) as factory:
        outcome: list[BaseException] = []

        def second() -> None:
            try:
                with factory.get_session():
                    pass
            except DatabaseError as error:
                outcome.append(error)

        with factory.get_session() as session:
            session.execute("SELECT 1")
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert isinstance(outcome[0], PoolTimeout)
        assert isinstance(outcome[0], DatabaseUnavailable)
        assert "0.05 s" in str(outcome[0])
        with factory.get_session() as session:
            assert session.execute("SELECT 1") == [(1,)]
        assert factory.database.pool_status()["in_use"] == 0


def test_a_waiter_gets_the_connection_that_comes_back(
    make_url: Callable[..., str], backend: str
) -> None:
    config = DatabaseConfig(
        url=make_url(backend), max_connections=1, pool_size=1, pool_timeout_s=30
    )
    with SessionFactory(config) as factory:
        done: list[int] = []

        def second() -> None:
            with factory.get_session() as session:
                done.append(len(session.execute("SELECT 1")))

        with factory.get_session() as session:
            session.execute("SELECT 1")
            thread = threading.Thread(target=second)
            thread.start()
            assert done == []
        thread.join(30)
        assert done == [1]


def test_a_factory_has_a_database_of_its_own(make_url: Callable[..., str], backend: str) -> None:
    with SessionFactory(make_url(backend)) as factory, SessionFactory(make_url(backend)) as other:
        from hopper_data import init_database

        for one in (factory, other):
            init_database(one.database)
        with factory.get_session() as session:
            add(session, "a")
            with other.get_session() as second:
                assert titles(second) == []
                add(second, "b")
            assert titles(session) == ["a"]
        with other.get_session() as second:
            assert titles(second) == ["b"]
        assert factory.database is not other.database


def test_a_connection_older_than_its_time_is_not_used_again(make_url: Callable[..., str]) -> None:
    for backend in ("sqlite", "postgresql"):
        config = DatabaseConfig(url=make_url(backend), recycle_s=0.000001)
        with SessionFactory(config) as factory:
            seen = set()
            for _ in range(3):
                with factory.get_session() as session:
                    seen.add(id(session.database.connection()))
                    session.execute("SELECT 1")
                assert factory.database.pool_status()["idle"] == 0


# -- SQLite's settings -----------------------------------------------------------------------------


def test_a_sqlite_connection_is_set_up(database: Database) -> None:
    if database.dialect != "sqlite":
        return
    with open_session(database) as session:
        pragmas = {
            name: session.execute(f"PRAGMA {name}")[0][0]
            for name in (
                "foreign_keys",
                "journal_mode",
                "busy_timeout",
                "synchronous",
                "wal_autocheckpoint",
            )
        }
    in_memory = database.url.in_memory
    assert pragmas == {
        "wal_autocheckpoint": 1000 if in_memory else 4000,
        "foreign_keys": 1,
        "journal_mode": "memory" if in_memory else "wal",
        "busy_timeout": 5000,
        "synchronous": 1,
    }


def test_other_sqlite_settings_are_used(tmp_path: Path) -> None:
    config = DatabaseConfig(
        url=f"sqlite:///{tmp_path}/x.db",
        journal_mode="delete",
        synchronous="FULL",
        busy_timeout_ms=77,
        foreign_keys=False,
        file_mode=0o640,
    )
    with SessionFactory(config) as factory, factory.get_session() as session:
        found = [
            session.execute(f"PRAGMA {name}")[0][0]
            for name in ("journal_mode", "synchronous", "busy_timeout", "foreign_keys")
        ]
        assert found == ["delete", 2, 77, 0]
        assert mode(tmp_path / "x.db") == 0o640


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_database_file_is_private(tmp_path: Path) -> None:
    path = tmp_path / "hopper.db"
    with SessionFactory(f"sqlite:///{path}") as factory:
        with factory.get_session() as session:
            session.execute("CREATE TABLE t (x)")
            session.execute("INSERT INTO t VALUES (1)")
            files = {file.name: mode(file) for file in tmp_path.iterdir()}
        assert files == {"hopper.db": 0o600, "hopper.db-wal": 0o600, "hopper.db-shm": 0o600}


def test_a_file_that_is_open_to_all_is_closed_to_them(tmp_path: Path) -> None:
    path = tmp_path / "hopper.db"
    with SessionFactory(f"sqlite:///{path}") as keeper, keeper.get_session() as session:
        session.execute("CREATE TABLE t (x)")
        for file in tmp_path.iterdir():
            file.chmod(0o666)
        with SessionFactory(f"sqlite:///{path}") as other, other.get_session(read_only=True):
            pass
        assert {mode(file) for file in tmp_path.iterdir()} == {0o600}


def test_a_link_to_a_file_protects_the_file(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "real.db")
    with SessionFactory(f"sqlite:///{tmp_path}/link.db") as factory, factory.get_session() as s:
        s.execute("CREATE TABLE t (x)")
    assert mode(tmp_path / "real.db") == 0o600


def test_writers_on_sqlite_begin_at_once(make_url: Callable[..., str]) -> None:
    """Two transactions that read and then write would lock each other out for good."""
    url = make_url("sqlite")
    config = DatabaseConfig(url=url, busy_timeout_ms=50)
    with SessionFactory(config) as first, SessionFactory(config) as second:
        with first.get_session():
            with (
                pytest.raises(DatabaseUnavailable, match="locked by another writer") as caught,
                second.get_session(),
            ):
                pass
            assert not caught.value.retryable
            with second.get_session(read_only=True) as reader:
                assert titles(reader) == []
        with second.get_session() as session:
            add(session, "a")


# -- read-only sessions ----------------------------------------------------------------------------


def test_a_read_only_session_cannot_write(database: Database) -> None:
    with get_sync_session() as session:
        add(session, "a")
    with get_sync_session(read_only=True) as session:
        tasks = TaskRepository(session)
        for attempt in (
            lambda: tasks.create(title="b"),
            lambda: tasks.update("a", title="b"),
            lambda: tasks.delete("a"),
            lambda: tasks.bulk_create([{"title": "b"}]),
            lambda: tasks.upsert(id="a", title="b"),
            lambda: session.execute("DELETE FROM tasks"),
            lambda: session.execute("CREATE TABLE other (x INTEGER)"),
        ):
            with pytest.raises(DatabaseError):
                attempt()
            assert titles(session) == ["a"]
    with get_sync_session() as session:
        assert titles(session) == ["a"]
        add(session, "b")


FIRST_WRITES: tuple[Callable[[Session], Any], ...] = (
    lambda session: TaskRepository(session).create(title="b"),
    lambda session: TaskRepository(session).delete("a"),
    lambda session: TaskRepository(session).bulk_delete(["a", "b"]),
    lambda session: session.execute("DELETE FROM tasks"),
    lambda session: Task.delete().execute(),
)


@pytest.mark.parametrize("reads_first", [True, False])
def test_a_read_only_session_cannot_write_whatever_comes_first(
    database: Database, reads_first: bool
) -> None:
    with get_sync_session() as session:
        add(session, "a")
    for write in FIRST_WRITES:
        with get_sync_session(read_only=True) as session:
            if reads_first:
                assert titles(session) == ["a"]
            with pytest.raises(Exception, match=r"read-?only"):
                write(session)
        with get_sync_session() as session:
            assert titles(session) == ["a"]
            with get_sync_session(read_only=True) as inner:
                if reads_first:
                    assert titles(inner) == ["a"]
                with pytest.raises(Exception, match=r"read-?only"):
                    inner.execute("DELETE FROM tasks")
            add(session, "b")
            TaskRepository(session).delete("b")


def test_reads_of_a_repository_leave_a_connection_of_sqlite_as_it_is(
    make_url: Callable[..., str],
) -> None:
    with SessionFactory(make_url("sqlite")) as factory:
        connection = factory.database.connection()
        factory.database.close()

        def refuses_writes() -> bool:
            return bool(connection.execute("PRAGMA query_only").fetchone()[0])

        with factory.get_session(read_only=True) as session:
            TaskRepository(session).get("a")
            assert TaskRepository(session).count() == 0
            assert not refuses_writes()
            session.execute("SELECT 1")
            assert refuses_writes()
        assert not refuses_writes()
        for take in (lambda: factory.database.cursor(), lambda: factory.database.connection()):
            with factory.get_session(read_only=True):
                take()
                assert refuses_writes()
        assert not refuses_writes()
        with pytest.raises(Boom), factory.get_session(read_only=True) as session:
            TaskRepository(session).get("a")
            raise Boom
        assert not refuses_writes()


def test_a_read_only_session_inside_another_cannot_write(database: Database) -> None:
    with get_sync_session() as outer:
        add(outer, "a")
        for _ in range(2):
            with get_sync_session(read_only=True) as inner:
                assert titles(inner) == ["a"]
                with pytest.raises(DatabaseError):
                    add(inner, "b")
                with get_sync_session(read_only=True) as innermost:
                    assert titles(innermost) == ["a"]
                with pytest.raises(DatabaseError):
                    add(inner, "b")
                with pytest.raises(DatabaseError), get_sync_session() as innermost:
                    add(innermost, "b")
            with pytest.raises(Boom), get_sync_session(read_only=True):
                raise Boom
        add(outer, "c")
    with get_sync_session(read_only=True) as session, get_sync_session(read_only=True):
        assert titles(session) == ["a", "c"]
    with get_sync_session() as session:
        add(session, "d")
        assert titles(session) == ["a", "c", "d"]


def test_a_reader_sees_one_state_and_stops_nobody(make_url: Callable[..., str]) -> None:
    for backend in ("sqlite", "postgresql"):
        url = make_url(backend)
        with SessionFactory(url) as readers, SessionFactory(url) as writers:
            with writers.get_session() as writer:
                add(writer, "a")
            with readers.get_session(read_only=True) as reader:
                assert titles(reader) == ["a"]
                with writers.get_session() as writer:
                    add(writer, "b")
                assert titles(reader) == ["a"]
                assert TaskRepository(reader).count() == 1
            with readers.get_session(read_only=True) as reader:
                assert titles(reader) == ["a", "b"]


# -- a refused statement leaves the session usable -------------------------------------------------

REFUSED: list[Callable[[Session], Any]] = [
    lambda s: TaskRepository(s).create(id="a", title="again"),
    lambda s: TaskRepository(s).bulk_create([{"id": "n", "title": "n"}, {"id": "a", "title": "n"}]),
    lambda s: RoutingDecisionRepository(s).create(task_id="ghost"),
    lambda s: ProjectRepository(s).upsert(name="q", slug="taken"),
    lambda s: TaskRepository(s).filter({"title__regexp": "a{2,1}"}),
    lambda s: s.execute("SELEC 1"),
    lambda s: s.execute("INSERT INTO tasks (id, title) VALUES ('z', 'z'"),
    lambda s: s.execute("INSERT INTO tasks (id, title) VALUES ('a', 'again')"),
    lambda s: s.execute("/* why */ INSERT INTO tasks (id, title) VALUES ('a', 'again')"),
    lambda s: s.execute("-- why\nINSERT INTO tasks (id, title) VALUES ('a', 'again')"),
    lambda s: s.execute("WITH x AS (SELECT 1) INSERT INTO tasks (id, title) VALUES ('a', 'x')"),
    lambda s: s.execute("UPDATE tasks SET status = 'nonsense'"),
    lambda s: s.execute("UPDATE tasks SET title = NULL WHERE id = ?", ("a",)),
    lambda s: s.execute("SELECT * FROM no_such_table"),
    lambda s: s.execute("SELECT no_such_column FROM tasks"),
    lambda s: s.execute("SELECT no_such_function(1)"),
    lambda s: s.execute("CREATE TABLE tasks (x INTEGER)"),
    lambda s: s.execute("DROP TABLE no_such_table"),
    lambda s: s.execute("SELECT ?", ("a\0",)),
    lambda s: s.execute("SELECT ?", ("\ud800",)),
    lambda s: s.execute("SELECT ?", ({"a": 1},)),
    lambda s: s.execute("SELECT ?, ?", (1,)),
    lambda s: s.execute("ROLLBACK TO SAVEPOINT no_such_savepoint"),
    lambda s: s.execute("RELEASE no_such_savepoint"),
]


def test_a_refused_statement_undoes_itself_alone(database: Database) -> None:
    expected = ["a"]
    with get_sync_session() as session:
        add(session, "a")
        ProjectRepository(session).create(name="p", slug="taken")
        for number, attempt in enumerate(REFUSED[:-2]):
            with pytest.raises(DatabaseError):
                attempt(session)
            name = f"b{number:02}"
            add(session, name)
            expected.append(name)
            assert titles(session) == expected, number
    with get_sync_session() as session:
        assert titles(session) == expected


def test_a_refused_statement_after_another_in_savepoints(database: Database) -> None:
    with get_sync_session() as outer:
        add(outer, "a")
        ProjectRepository(outer).create(name="p", slug="taken")
        for number, attempt in enumerate(REFUSED[:-2]):
            with get_sync_session() as kept:
                with pytest.raises(DatabaseError):
                    attempt(kept)
                with pytest.raises(DatabaseError):
                    attempt(kept)
                add(kept, f"b{number:02}")
            with pytest.raises(DatabaseError), get_sync_session() as undone:
                add(undone, f"c{number:02}")
                attempt(undone)
    with get_sync_session() as session:
        assert titles(session) == ["a", *(f"b{n:02}" for n in range(len(REFUSED) - 2))]


def test_a_savepoint_that_does_not_exist_is_an_error(database: Database) -> None:
    for attempt in REFUSED[-2:]:
        with pytest.raises(DatabaseError), get_sync_session() as session:
            add(session, "a")
            attempt(session)
    with get_sync_session() as session:
        assert titles(session) == []


def test_savepoints_of_the_callers_own(session: Session) -> None:
    add(session, "a")
    session.execute("SAVEPOINT one")
    add(session, "b")
    session.execute("  savepoint two")
    add(session, "c")
    with pytest.raises(IntegrityError):
        add(session, "a")
    add(session, "d")
    session.execute("/* back */ ROLLBACK TO SAVEPOINT two")
    add(session, "e")
    assert titles(session) == ["a", "b", "e"]
    session.execute("ROLLBACK TO one")
    with pytest.raises(IntegrityError):
        add(session, "a")
    add(session, "f")
    session.execute("RELEASE SAVEPOINT one")
    add(session, "g")
    assert titles(session) == ["a", "f", "g"]
    with pytest.raises(IntegrityError):
        add(session, "f")
    assert titles(session) == ["a", "f", "g"]


def test_savepoints_of_peewees_own(session: Session) -> None:
    database = session.database
    add(session, "a")
    with database.atomic() as scope:
        add(session, "b")
        with pytest.raises(IntegrityError):
            add(session, "a")
        scope.rollback()
        add(session, "c")
    with database.savepoint():
        add(session, "d")
    with pytest.raises(Boom), database.atomic():
        add(session, "e")
        raise Boom
    assert titles(session) == ["a", "c", "d"]


def test_many_writes_and_refusals(database: Database) -> None:
    with get_sync_session() as session:
        for number in range(300):
            add(session, f"t{number:03}")
            if number % 3 == 0:
                with pytest.raises(IntegrityError):
                    add(session, f"t{number:03}")
            if number % 7 == 0:
                with pytest.raises(Boom), get_sync_session() as inner:
                    add(inner, f"x{number}")
                    raise Boom
    with get_sync_session() as session:
        assert titles(session) == [f"t{number:03}" for number in range(300)]


@pytest.mark.parametrize(
    "statement",
    [
        "COMMIT",
        "commit;",
        "  ROLLBACK",
        "ROLLBACK WORK",
        "ROLLBACK TRANSACTION",
        "END",
        "BEGIN",
        "BEGIN IMMEDIATE",
        "/* x */ COMMIT",
        "-- x\nCOMMIT",
        "START TRANSACTION",
        "ABORT",
        "PREPARE TRANSACTION 'x'",
    ],
)
def test_a_statement_cannot_end_the_transaction(database: Database, statement: str) -> None:
    with pytest.raises(Boom), get_sync_session() as session:
        add(session, "a")
        with pytest.raises(ValidationError, match="ends its own transaction"):
            session.execute(statement)
        add(session, "b")
        raise Boom
    with get_sync_session() as session:
        assert titles(session) == []


def test_white_space_costs_nothing(session: Session) -> None:
    for blank in (" " * 20_000, "\n\t" * 10_000, "/* */ " * 3_000, "-- x\n " * 3_000, ";" * 9):
        assert session.execute(f"{blank}SELECT 1") == [(1,)]
        with pytest.raises(ValidationError, match="ends its own transaction"):
            session.execute(f"{blank}COMMIT")


def test_an_isolation_level_may_be_chosen(make_url: Callable[..., str]) -> None:
    with SessionFactory(make_url("postgresql")) as factory, factory.get_session() as session:
        session.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        assert session.execute("SHOW transaction_isolation") == [("serializable",)]
        add(session, "a")
        session.execute("SET TRANSACTION READ ONLY")
        with pytest.raises(DatabaseError, match="read-only"):
            add(session, "b")
        assert titles(session) == ["a"]


def test_a_lock_or_an_answer_that_takes_too_long(make_url: Callable[..., str]) -> None:
    with SessionFactory(make_url("postgresql")) as factory:
        with factory.get_session() as session:
            add(session, "a")
        with factory.get_session() as holder:
            TaskRepository(holder).update("a", title="b")
            outcome: list[BaseException] = []

            def other() -> None:
                with factory.get_session() as session:
                    session.execute("SET LOCAL lock_timeout = '20ms'")
                    session.execute("SET LOCAL statement_timeout = '40ms'")
                    for attempt in (
                        lambda: TaskRepository(session).update("a", title="c"),
                        lambda: session.execute("SELECT pg_sleep(30)"),
                    ):
                        try:
                            attempt()
                        except DatabaseError as error:
                            outcome.append(error)
                    add(session, "d")

            thread = threading.Thread(target=other)
            thread.start()
            thread.join(60)
        assert [type(error) for error in outcome] == [DatabaseUnavailable] * 2
        assert not any(getattr(error, "retryable", True) for error in outcome)
        with factory.get_session() as session:
            assert titles(session) == ["b", "d"]


# -- statements of the caller's own ----------------------------------------------------------------


STATEMENTS: list[tuple[str, Any, list[Any]]] = [
    ("SELECT 1", (), [(1,)]),
    ("SELECT 1", None, [(1,)]),
    ("SELECT 1", {}, [(1,)]),
    ("SELECT ? + ?", (1, 2), [(3,)]),
    ("SELECT %s + %s", [1, 2], [(3,)]),
    ("SELECT :a + :b + :a", {"a": 1, "b": 2, "unused": 9}, [(4,)]),
    ("SELECT ?, 'what? %s :name', ?", ("a", "b"), [("a", "what? %s :name", "b")]),
    ("SELECT :a, ':a'", {"a": "x"}, [("x", ":a")]),
    ("SELECT '100%'", (), [("100%",)]),
    ("SELECT '100%', ?", (1,), [("100%", 1)]),
    ("SELECT '%s', '%%', '%(a)s'", (), [("%s", "%%", "%(a)s")]),
    ("SELECT '%%', ?", (1,), [("%%", 1)]),
    ("SELECT 7 % 4", (), [(3,)]),
    ("SELECT 7 % ?", (4,), [(3,)]),
    ("SELECT 7 %% ?", (4,), [(3,)]),
    ("SELECT 7 % :m", {"m": 4}, [(3,)]),
    ("SELECT ? -- and ? or %s or :x", (1,), [(1,)]),
    ("SELECT ? /* and ? or %s */", (1,), [(1,)]),
    ('SELECT ? AS "odd?%s:name"', (1,), [(1,)]),
    ("SELECT 'it''s ?', ?", (1,), [("it's ?", 1)]),
    ("SELECT CAST(? AS TEXT)", ("",), [("",)]),
    ("SELECT CAST(? AS TEXT)", ("'; DROP TABLE tasks; --",), [("'; DROP TABLE tasks; --",)]),
    ("SELECT CAST(? AS TEXT)", (TaskStatus.BLOCKED,), [("blocked",)]),
    ("SELECT CAST(? AS TEXT)", (UUID(int=7),), [(str(UUID(int=7)),)]),
    ("SELECT CAST(? AS TEXT)", (date(2026, 1, 2),), [("2026-01-02",)]),
    ("SELECT ?", (None,), [(None,)]),
    ("SELECT ?", (2**62,), [(2**62,)]),
    ("SELECT 1 WHERE 1 = ?", (2,), []),
    ("SELECT id FROM tasks WHERE title LIKE '%a%' AND id = ?", ("a",), [("a",)]),
    ("SELECT id FROM tasks WHERE title LIKE '%a%'", (), [("a",)]),
    ("INSERT INTO projects (name, slug) VALUES (?, ?)", ("p", "p"), []),
    ("INSERT INTO projects (name, slug) VALUES ('p', ?) RETURNING name", ("p",), [("p",)]),
    ("UPDATE tasks SET owner = ? RETURNING id, owner", ("o",), [("a", "o")]),
    ("DELETE FROM tasks", (), []),
    ("WITH x AS (SELECT ? AS n) SELECT n + 1 FROM x", (1,), [(2,)]),
]


def test_a_statement_with_its_values(database: Database) -> None:
    with get_sync_session() as session:
        add(session, "a")
        for sql, params, rows in STATEMENTS:
            with database.atomic() as scope:
                assert session.execute(sql, params) == rows, sql
                scope.rollback()


@each(
    "sql, params, message",
    [
        ("SELECT ?", (1, 2), "1 placeholders, params has 2 values"),
        ("SELECT ?, ?", (1,), "2 placeholders, params has 1 values"),
        ("SELECT 1", (1,), "0 placeholders, params has 1 values"),
        ("SELECT :a", {"b": 1}, "names :a"),
        ("SELECT ?", "x", "params is str"),
        ("SELECT ?", b"x", "params is bytes"),
        ("SELECT ?", 5, "params is int"),
        ("SELECT ?", {1}, "params is set"),
        ("SELECT ?", ("a\0b",), "NUL"),
        ("SELECT ?", ("\ud800",), "surrogate"),
        ("SELECT ?", (2**63,), "64 bits"),
        ("SELECT ?", (MOMENT.replace(tzinfo=None),), "naive"),
        ("SELECT ?", ({"a": 1},), "dict"),
        ("SELECT '\0'", (), "NUL"),
        ("SELECT '\ud800'", (), "surrogate"),
        ("", (), "statement as text"),
        ("  ", (), "statement as text"),
        (None, (), "statement as text"),
        (5, (), "statement as text"),
        (b"SELECT 1", (), "statement as text"),
    ],
)
def test_a_statement_that_cannot_be_sent(
    session: Session, sql: Any, params: Any, message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        session.execute(sql, params)
    assert session.execute("SELECT 1") == [(1,)]


def test_a_moment_as_a_value_meets_what_is_stored(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="t", title="t", created_at=MOMENT)
    for moment in (MOMENT, MOMENT.astimezone(timezone(timedelta(hours=-5)))):
        found = session.execute("SELECT id FROM tasks WHERE created_at = ?", (moment,))
        assert found == [("t",)]
    late = MOMENT + timedelta(microseconds=1)
    assert session.execute("SELECT id FROM tasks WHERE created_at >= ?", (late,)) == []
    session.execute("UPDATE tasks SET updated_at = ?", (late,))
    assert tasks.get_or_raise("t").updated_at == late


def test_casts_and_operators_of_postgresql(make_url: Callable[..., str]) -> None:
    with SessionFactory(make_url("postgresql")) as factory, factory.get_session() as session:
        execute = session.execute
        assert execute("SELECT '5'::int + ?", (1,)) == [(6,)]
        assert execute("SELECT '5'::int + :n", {"n": 1}) == [(6,)]
        assert execute("SELECT '{\"a\": 1}'::jsonb ?| ARRAY[?]", ("a",)) == [(True,)]
        assert execute("SELECT $tag$it's ? :x %s$tag$, ?", (1,)) == [("it's ? :x %s", 1)]
        assert execute(r"SELECT E'it\'s ?', ?", (1,)) == [("it's ?", 1)]
        assert execute("SELECT 1 = ANY(?)", ([1, 2],)) == [(True,)]
        assert execute("SELECT date_part('timezone', now())") == [(0,)]


def test_schema_changes_are_part_of_the_transaction(database: Database) -> None:
    with pytest.raises(Boom), get_sync_session() as session:
        session.execute("CREATE TABLE extra (n INTEGER)")
        session.execute("INSERT INTO extra VALUES (?)", (1,))
        assert session.execute("SELECT n FROM extra") == [(1,)]
        raise Boom
    with get_sync_session() as session, pytest.raises(DatabaseError):
        session.execute("SELECT n FROM extra")


def test_what_sqlite_keeps_aside_is_in_memory_except_for_long_sorts(
    make_url: Callable[..., str],
) -> None:
    with SessionFactory(make_url("sqlite")) as factory, factory.get_session() as session:
        tasks = TaskRepository(session)
        for number in range(300):
            tasks.create(id=f"t{number}", title=f"{number % 7}")

        def kept_in() -> int:
            ((where,),) = session.execute("PRAGMA temp_store")
            return int(where)

        assert kept_in() == 2
        with session.database.sorting_on_disk():
            assert kept_in() == 1
        assert kept_in() == 2
        rows = tasks.iterate(order_by="title")
        next(rows)
        assert kept_in() == 2
        rows.close()  # type: ignore[attr-defined]
        statements: list[str] = []
        session.database.connection().set_trace_callback(statements.append)
        RoutingDecisionRepository(session).get_decision_analytics()
        TaskFeedbackRepository(session).get_routing_accuracy()
        session.database.connection().set_trace_callback(None)
        assert [each.partition("= ")[2] for each in statements if "temp_store" in each] == [
            *("FILE", "MEMORY"),
            *("FILE", "MEMORY"),
        ]
        # SQLite would have to forget the table.
        session.execute("CREATE TEMP TABLE mine (value)")
        session.execute("INSERT INTO mine VALUES (1)")
        assert len(list(tasks.iterate(order_by="title"))) == 300
        assert session.execute("SELECT value FROM mine") == [(1,)]


def test_a_query_takes_one_statement(session: Session) -> None:
    tasks = TaskRepository(session)
    add(session, "a")
    with assert_query_count(1):
        tasks.get("a")
    with assert_query_count(1):
        tasks.get_all()


@contextmanager
def returned_to(database: Database) -> Iterator[None]:
    with open_session(database):
        yield


def test_a_session_may_be_wrapped(database: Database) -> None:
    scope: AbstractContextManager[None] = returned_to(database)
    with scope:
        add_here = Task.create(title="t")
    with get_sync_session() as session:
        assert TaskRepository(session).exists(add_here.id)
