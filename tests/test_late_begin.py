"""On PostgreSQL a transaction begins together with its first statement."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from hopper_data import DatabaseError, TaskRepository, create_database
from hopper_data.aio import open_async_session
from hopper_data.database import Database
from hopper_data.session import open_session


@pytest.fixture
def database(make_url: Callable[..., str]) -> Iterator[Database]:
    database = create_database(make_url("postgresql"))
    yield database
    database.close_pool()


def status(database: Database) -> str:
    """What the driver says of the connection."""
    return {0: "idle", 1: "active", 2: "in transaction", 3: "failed"}[
        database._state.conn.info.transaction_status
    ]


def test_an_empty_session_sends_nothing(database: Database) -> None:
    with open_session(database):
        assert status(database) == "idle"
    with open_session(database, read_only=True):
        assert status(database) == "idle"


@pytest.mark.parametrize("read_only", [False, True])
def test_the_first_statement_begins_it(database: Database, read_only: bool) -> None:
    with open_session(database, read_only=read_only) as session:
        TaskRepository(session).count()
        assert status(database) == ("in transaction" if read_only else "idle")
        ((isolation,),) = session.execute("SHOW transaction_isolation")
        assert isolation == ("repeatable read" if read_only else "read committed")
    with open_session(database) as session:
        session.execute("SELECT 1")
        assert status(database) == "in transaction"


def test_reads_alone_need_no_transaction(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.get_all(limit=1)
        with pytest.raises(DatabaseError, match="run `hopper-data migrate` first"):
            database.fetch_all("SELECT * FROM nowhere")
        assert tasks.count() == 0
        assert status(database) == "idle"
        tasks.create(id="a", title="a")
        assert status(database) == "in transaction"
        assert tasks.exists("a")
        with open_session(database) as other:
            assert TaskRepository(other).exists("a")


def test_where_a_transaction_is_one_state_reads_begin_it(database: Database) -> None:
    with open_session(database) as session:
        ((name,),) = session.execute("SELECT current_database()")
    with open_session(database) as session:
        session.execute(f"ALTER DATABASE {name} SET default_transaction_isolation TO serializable")
    database.close_pool()
    with open_session(database) as session:
        assert TaskRepository(session).count() == 0
        assert status(database) == "in transaction"

    async def work() -> list[tuple[str, ...]]:
        async with open_async_session(database) as session:
            await session.run(TaskRepository(session).count)
            return await session.execute(
                "SELECT CASE WHEN now() < statement_timestamp() THEN 'begun before' END"
            )

    assert asyncio.run(work()) == [("begun before",)]


def test_who_takes_the_connection_finds_it_begun(database: Database) -> None:
    with open_session(database):
        database.connection()
        assert status(database) == "in transaction"
    with open_session(database):
        database.cursor()
        assert status(database) == "in transaction"


def test_what_is_written_first_can_be_rolled_back(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), open_session(database) as session:
        TaskRepository(session).create(title="a")
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), open_session(database) as session:
        with open_session(database) as inner:
            TaskRepository(inner).create(title="b")
        raise ZeroDivisionError
    with open_session(database) as session:
        assert TaskRepository(session).count() == 0


@pytest.mark.parametrize("sql", ["SELECT nonsense", "no sql at all", "SELECT 1/0"])
def test_a_first_statement_that_fails_leaves_a_transaction(database: Database, sql: str) -> None:
    for run in ("execute", "send", "fetch_all", "execute_sql"):
        with pytest.raises(ZeroDivisionError), open_session(database) as session:
            with pytest.raises(DatabaseError):
                getattr(session if run == "execute" else database, run)(sql)
            TaskRepository(session).create(title="a")
            assert status(database) == "in transaction"
            raise ZeroDivisionError
    with open_session(database) as session:
        assert TaskRepository(session).count() == 0


def test_a_nested_session_first(database: Database) -> None:
    with open_session(database) as session:
        with pytest.raises(ZeroDivisionError), open_session(database) as inner:
            TaskRepository(inner).create(title="a")
            raise ZeroDivisionError
        TaskRepository(session).create(title="b")
    with open_session(database) as session:
        assert [task.title for task in TaskRepository(session).get_all()] == ["b"]
