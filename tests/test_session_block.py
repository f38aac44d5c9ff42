"""The block of a session: used again, interrupted, and over a connection that was closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from hopper_data import TaskRepository, create_database, get_sync_session, using
from hopper_data.database import Database
from hopper_data.errors import DatabaseError
from hopper_data.migrations import migrate
from hopper_data.session import open_session


def interrupt() -> None:
    raise KeyboardInterrupt


def test_the_block_of_a_session_is_used_again_but_not_twice_at_once(database: Database) -> None:
    block = open_session(database)
    with block as session:
        TaskRepository(session).create(id="a", title="A")
        with pytest.raises(DatabaseError, match="open already"), block:
            pass
    with block as session:
        assert TaskRepository(session).exists("a")


def test_the_error_of_a_block_is_told_though_its_connection_was_closed(tmp_path: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path}/x.db")
    migrate(database=database)
    with pytest.raises(ValueError, match="enough"), open_session(database) as session:
        session.database.connection().close()
        raise ValueError("enough")
    with pytest.raises(DatabaseError, match="closed"), open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="a", title="A")
        session.database.connection().close()
        for work in (lambda: tasks.get("a"), lambda: tasks.create(title="B")):
            with pytest.raises(DatabaseError, match="closed"):
                work()
    with open_session(database) as session:
        assert not TaskRepository(session).exists("a")
    database.close_pool()


def test_an_interrupt_while_a_session_is_made_leaves_no_transaction(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(database, "count_changes", interrupt)
        with pytest.raises(KeyboardInterrupt), open_session(database):
            pass
    assert not database.in_transaction()
    assert database.pool_status()["in_use"] == 0


def test_an_interrupt_while_writes_are_refused_leaves_no_connection_that_refuses_them(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_writes = database.forbid_writes

    def forbid_and_be_interrupted() -> None:
        forbid_writes()
        interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(database, "forbid_writes", forbid_and_be_interrupted)
        with (
            pytest.raises(KeyboardInterrupt),
            open_session(database),
            open_session(database, read_only=True),
        ):
            pass
    with open_session(database) as session:
        TaskRepository(session).create(id="a", title="A")


def test_a_session_can_decorate_a_function(database: Database) -> None:
    with using(database):

        @get_sync_session()
        def fail(depth: int) -> None:
            assert database.in_transaction()
            if depth:
                fail(depth - 1)
            raise ValueError("enough")

        with pytest.raises(ValueError, match="enough"):
            fail(2)
    assert not database.in_transaction()
