"""The block of a session: used again, interrupted, and over a connection that was closed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from hopper_data import TaskRepository, create_database, get_sync_session, using
from hopper_data.database import Database, leave
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


def test_a_session_ends_in_its_thread(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).create(id="a", title="A")
    block, told = open_session(database, read_only=True), []

    def end_here(own: bool) -> None:
        try:
            with open_session(database) if own else nullcontext() as session:
                if own:
                    TaskRepository(session).create(id="b", title="B")
                with pytest.raises(DatabaseError, match="ends in the thread that opened it"):
                    block.__exit__(None, None, None)
                raise ValueError("mine")
        except ValueError:
            told.append(own)

    # A file of SQLite that one thread writes is read by others; one in memory has one connection.
    owns = [False] if getattr(database, "in_memory", False) else [False, True]
    for own in owns:
        block = open_session(database, read_only=True)
        block.__enter__()
        thread = threading.Thread(target=end_here, args=(own,))
        thread.start()
        thread.join(30)
        with suppress(DatabaseError):  # it has ended, but not in this thread
            database._state.transactions[0].__exit__(None, None, None)
        database.release()
        leave(database)
    assert told == owns
    with open_session(database) as session:
        assert [task.id for task in TaskRepository(session).get_all()] == ["a"]
    assert database.pool_status()["in_use"] == 0


def test_an_inner_session_whose_outer_one_has_ended_says_so(database: Database) -> None:
    outer, inner = open_session(database), open_session(database)
    outer.__enter__()
    TaskRepository(inner.__enter__()).create(id="a", title="A")
    outer.__exit__(None, None, None)
    with pytest.raises(DatabaseError, match="before the session around it"):
        inner.__exit__(None, None, None)
    assert database.pool_status()["in_use"] == 0


def test_a_session_whose_block_nobody_keeps_goes_on(database: Database) -> None:
    session = open_session(database).__enter__()
    TaskRepository(session).create(id="a", title="A")
    with open_session(database) as inner:
        assert inner.nested
        assert TaskRepository(inner).exists("a")
    assert TaskRepository(session).exists("a")
    database.abandon()
    leave(database)
    database.release()
    with open_session(database) as later:
        assert not TaskRepository(later).exists("a")


def test_a_session_in_a_callback_leaves_the_connection_where_it_is(database: Database) -> None:
    open_after = []

    def work() -> None:
        with open_session(database) as session:
            TaskRepository(session).create(title="later")
        open_after.append(not database.is_closed())

    with open_session(database) as session:
        TaskRepository(session).create(title="first")
        database.after_commit(work)
        database.after_commit(work)
    assert open_after == [True, True]
    assert database.pool_status()["in_use"] == 0
    with open_session(database) as session:
        assert TaskRepository(session).count() == 3


INTERRUPTED = """
import random, signal, sys
from hopper_data import TaskRepository, create_database, run_migrations
from hopper_data.session import open_session

def interrupt(*_):
    raise KeyboardInterrupt

database = create_database(sys.argv[1], pool_timeout_s=5, max_connections=2, pool_size=1)
run_migrations(database=database)
with open_session(database) as session:
    TaskRepository(session).create(id="a", title="before")
signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda _: None
chance = random.Random(1)
for number in range(300):
    read_only = bool(number % 2)
    try:
        signal.setitimer(signal.ITIMER_REAL, chance.uniform(0.0002, 0.0012), 0.02)
        while True:
            with open_session(database, read_only=read_only) as session:
                TaskRepository(session).get("a")
    except KeyboardInterrupt:
        pass
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
    with open_session(database) as session:
        TaskRepository(session).update("a", title=f"{number}")
    assert not database.in_transaction(), number
    with open_session(database) as session:
        assert TaskRepository(session).get("a").title == f"{number}"
    assert database.pool_status()["in_use"] == 0, (number, database.pool_status())
print("done")
"""


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgresql"])
def test_after_an_interrupt_the_next_session_finds_all_in_order(
    kind: str, make_url: Callable[..., str], tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, make_url(kind)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == "done\n", done.stderr
