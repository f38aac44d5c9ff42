"""On PostgreSQL statements about one row are kept ready, and the first needs no savepoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hopper_data import (
    DatabaseError,
    IntegrityError,
    NotFound,
    TaskRepository,
    create_database,
    ready,
)
from hopper_data.database import Database
from hopper_data.ready import KeyedStatement
from hopper_data.session import Session, open_session


@pytest.fixture
def database(make_url: Callable[..., str]) -> Iterator[Database]:
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        for name in "abc":
            TaskRepository(session).create(id=name, title=name)
    yield database
    database.close_pool()


def kept(session: Session) -> list[str]:
    """What the server keeps ready for the connection, as far as it is ours."""
    rows = session.execute(
        "SELECT statement FROM pg_prepared_statements WHERE name LIKE 'hopper%' ORDER BY 1"
    )
    return [text.split(" AS ")[1] for (text,) in rows]


def titles(session: Session) -> list[str]:
    return [task.title for task in TaskRepository(session).get_all(order_by="title")]


def warm(database: Database) -> None:
    """Have the server keep a get, an insert, an update and a delete ready."""
    with open_session(database) as session:
        tasks = TaskRepository(session)
        for number in range(3):
            assert tasks.get("a") is not None
            name = f"warm-{number}"
            tasks.create(id=name, title=name)
            tasks.update(name, owner="somebody")
            assert tasks.delete(name)


# -- what is kept ready ----------------------------------------------------------------------------


def test_a_statement_about_a_row_is_kept_from_its_second_time_on(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.get("a")
        assert len(kept(session)) == 1  # the insert, of which there were three
        tasks.get("b")
        assert len(kept(session)) == 2
        for _ in range(3):
            tasks.filter({"title": "a"})
            tasks.get_all(limit=2)
        assert len(kept(session)) == 2


def test_a_keyed_statement_is_called_by_a_name_made_of_its_text() -> None:
    statement = KeyedStatement("SELECT * FROM x WHERE a = %s AND b = CAST(%s AS JSONB)")
    name = statement.call.removeprefix("EXECUTE ").removesuffix("(%s, %s)")
    assert statement == "SELECT * FROM x WHERE a = %s AND b = CAST(%s AS JSONB)"
    assert statement.prepare == (
        f"PREPARE {name} AS SELECT * FROM x WHERE a = $1 AND b = CAST($2 AS JSONB); "
    )
    assert KeyedStatement(str(statement)).call == statement.call
    assert KeyedStatement("SELECT %s").call != statement.call
    assert KeyedStatement("SELECT 1").call.startswith("EXECUTE hopper_")
    assert "(" not in KeyedStatement("SELECT 1").call


def test_a_statement_without_values_is_kept_too(database: Database) -> None:
    with open_session(database) as session:
        for _ in range(3):
            assert database.send(KeyedStatement("SELECT 1")).fetchall() == [(1,)]
        assert any(text.startswith("SELECT 1; ") for text in kept(session))


def test_what_was_written_stays_when_the_server_has_thrown_it_away(database: Database) -> None:
    warm(database)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="d", title="d")
        session.execute("DEALLOCATE ALL")
        assert tasks.get("a") is not None
        tasks.update("d", title="e")
        tasks.create(id="f", title="f")
        assert not tasks.delete("nothing")
        assert kept(session) == []
    with open_session(database) as session:
        assert titles(session) == ["a", "b", "c", "e", "f"]


FIRST: tuple[Callable[[TaskRepository], Any], ...] = (
    lambda tasks: tasks.get("a"),
    lambda tasks: tasks.create(id="d", title="d"),
    lambda tasks: tasks.update("a", owner="me"),
    lambda tasks: tasks.delete("c"),
)


@pytest.mark.parametrize("read_only", [False, True])
def test_the_first_statement_is_repeated_when_it_was_thrown_away(
    database: Database, read_only: bool
) -> None:
    for work in FIRST[:1] if read_only else FIRST:
        warm(database)
        database.connection().cursor().execute("DEALLOCATE ALL")
        database.release()
        with open_session(database, read_only=read_only) as session:
            work(TaskRepository(session))
            if read_only:
                assert session.execute("SHOW transaction_isolation") == [("repeatable read",)]
        database._ready.enabled = True  # type: ignore[attr-defined]
    with open_session(database) as session:
        assert titles(session) == (["a", "b", "c"] if read_only else ["a", "b", "d"])


def test_what_another_has_made_ready_under_the_same_name_is_used(database: Database) -> None:
    warm(database)
    database._ready._of(database.connection()).clear()  # type: ignore[attr-defined]
    database.release()
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="d", title="d")
        tasks.create(id="e", title="e")
        tasks.update("d", title="x")
        tasks.update("d", title="y")
        for _ in range(3):
            assert tasks.get("d") is not None
        assert database._ready.enabled  # type: ignore[attr-defined]
    with open_session(database) as session:
        assert titles(session) == ["a", "b", "c", "e", "y"]


def test_a_column_of_another_type_is_read_all_the_same(database: Database) -> None:
    warm(database)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="d", title="d")
        session.execute("ALTER TABLE tasks ALTER COLUMN source TYPE VARCHAR(60)")
        for _ in range(3):
            assert tasks.get("a") is not None
        tasks.update("d", owner="me")
        tasks.update("d", title="e")
    with open_session(database) as session:
        assert titles(session) == ["a", "b", "c", "e"]


def test_the_plan_of_a_small_table_does_not_stay(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_RENEWED_S", 0.0)
    with open_session(database) as session:
        session.execute("ANALYZE tasks")
    with open_session(database) as session:
        for _ in range(10):
            TaskRepository(session).get("a")

    def scans(session: Session) -> int:
        ((number,),) = session.execute(
            "SELECT seq_scan FROM pg_stat_xact_user_tables WHERE relname = 'tasks'"
        )
        return int(number)

    with open_session(database) as session:
        # Statistics are not renewed inside of a transaction.
        session.execute(
            "INSERT INTO tasks (id, title) SELECT 'n' || i, 't' FROM generate_series(1, 3000) AS i"
        )
        monkeypatch.setattr(ready, "_LONG_S", 0.0)
        TaskRepository(session).get("a")
        monkeypatch.setattr(ready, "_LONG_S", 60.0)
        before = scans(session)
        for _ in range(10):
            assert TaskRepository(session).get("a") is not None
        assert scans(session) == before


def test_no_more_are_kept_than_a_connection_can_bear(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_MOST", 1)
    warm(database)
    with open_session(database) as session:
        assert len(kept(session)) == 1
        assert titles(session) == ["a", "b", "c"]


def test_who_watches_sees_the_statement_itself(database: Database) -> None:
    seen: list[str] = []
    warm(database)
    database.query_hooks.append(lambda event: seen.append(event.sql))
    with open_session(database) as session:
        TaskRepository(session).get("a")
    assert any('FROM "tasks"' in sql for sql in seen)
    assert not any("EXECUTE" in sql for sql in seen)


def test_values_that_are_refused_are_refused_as_ever(database: Database) -> None:
    warm(database)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="d", title="d")
        for _ in range(3):
            with pytest.raises(IntegrityError, match="'d' is already taken"):
                tasks.create(id="d", title="d")
            with pytest.raises(NotFound):
                tasks.get_or_raise("é'\\$1 %s")
        tasks.create(id="%s $1 '", title="quoted")
        assert tasks.get_or_raise("%s $1 '").title == "quoted"
        assert titles(session) == ["a", "b", "c", "d", "quoted"]


# -- the first statement ---------------------------------------------------------------------------

REFUSED: tuple[Callable[[Session], Any], ...] = (
    lambda session: TaskRepository(session).create(id="a", title="again"),
    lambda session: TaskRepository(session).bulk_create([{"id": "a", "title": "again"}] * 30),
    lambda session: session.execute("SELECT 1 / 0"),
    lambda session: session.execute("no statement at all"),
    lambda session: session.database.execute_sql("SELECT 1 / 0"),
    lambda session: session.database.fetch_all("SELECT * FROM nowhere"),
    lambda session: session.database.send("SELECT * FROM nowhere"),
    lambda session: session.database.copy_rows("tasks", "id", [("x",)]),
)


def test_a_refused_first_statement_leaves_the_session_usable(database: Database) -> None:
    for number, refused in enumerate(REFUSED):
        with open_session(database) as session:
            for _ in range(2):
                with pytest.raises(DatabaseError):
                    refused(session)
            TaskRepository(session).create(id=f"d{number}", title="d")
            with pytest.raises(DatabaseError):
                refused(session)
            assert session.execute("SELECT COUNT(*) FROM tasks WHERE title = 'd'") == [
                (number + 1,)
            ]
        with open_session(database) as session, pytest.raises(DatabaseError):
            refused(session)
    with open_session(database) as session:
        assert titles(session) == ["a", "b", "c"] + ["d"] * len(REFUSED)


@pytest.mark.parametrize("sql", ["ROLLBACK TO SAVEPOINT nowhere", "no statement at all"])
def test_a_first_statement_that_makes_no_sense(database: Database, sql: str) -> None:
    with open_session(database) as session:
        for _ in range(2):
            with pytest.raises(DatabaseError):
                database.execute_sql(sql)
        TaskRepository(session).create(id="d", title="d")
    with open_session(database) as session:
        assert titles(session) == ["a", "b", "c", "d"]


def test_a_refused_first_read_begins_the_same_transaction_again(database: Database) -> None:
    with open_session(database, read_only=True) as session:
        for _ in range(2):
            with pytest.raises(DatabaseError):
                database.fetch_all("SELECT * FROM nowhere")
        assert titles(session) == ["a", "b", "c"]
        with open_session_elsewhere(database) as other:
            TaskRepository(other).create(id="d", title="d")
        with pytest.raises(DatabaseError):
            database.fetch_all("SELECT * FROM nowhere")
        assert titles(session) == ["a", "b", "c"]
        with pytest.raises(DatabaseError, match="read-only"):
            TaskRepository(session).create(id="e", title="e")
        assert session.execute("SHOW transaction_isolation") == [("repeatable read",)]


def open_session_elsewhere(database: Database) -> Any:
    """A session on a connection of its own."""
    return open_session(create_database(database.config))


def test_a_first_statement_is_undone_with_its_session(database: Database) -> None:
    class Boom(Exception):
        pass

    with pytest.raises(Boom), open_session(database) as session:
        TaskRepository(session).create(id="d", title="d")
        raise Boom
    with open_session(database) as session:
        TaskRepository(session).create(id="e", title="e")
        with pytest.raises(Boom), open_session(database) as inner:
            TaskRepository(inner).create(id="f", title="f")
            raise Boom
        assert titles(session) == ["a", "b", "c", "e"]


@pytest.mark.parametrize("code", ["26000", "42P05", "0A000"])
def test_an_error_of_a_trigger_that_looks_like_one_of_ours_is_told(
    database: Database, code: str
) -> None:
    warm(database)
    with open_session(database) as session:
        session.execute(
            "CREATE FUNCTION refuse() RETURNS TRIGGER LANGUAGE plpgsql AS "
            f"$f$ BEGIN RAISE EXCEPTION 'not today' USING ERRCODE = '{code}'; END $f$"
        )
        session.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON tasks FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    with open_session(database) as session:
        for _ in range(3):
            with pytest.raises(DatabaseError, match="not today"):
                TaskRepository(session).create(title="t")
        assert titles(session) == ["a", "b", "c"]
