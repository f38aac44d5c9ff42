"""Waiting for work: who is woken, when, and at what cost. No test asserts how long it took."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import (
    DatabaseError,
    DatabaseUnavailable,
    Session,
    TaskRepository,
    ValidationError,
    async_wait_for_tasks,
    create_database,
    get_async_session,
    using,
    wait_for_tasks,
)
from hopper_data.database import Database
from hopper_data.routing.waiting import _registry
from hopper_data.session import open_session

LONG_S = 60
FILES = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


@pytest.fixture(autouse=True)
def _nobody_else_waits() -> Iterator[None]:
    _registry.stop()
    until(lambda: _registry.watchers == {})
    yield
    _registry.stop()


def create(database: Database, **fields: Any) -> str:
    with open_session(database) as session:
        return TaskRepository(session).create(title="x", **fields).id


class Waiting:
    """Threads that wait for tasks, and what they were told."""

    def __init__(self, database: Database, count: int = 1, **options: Any) -> None:
        self.pool = ThreadPoolExecutor(count)
        self.answers: list[Future[bool]] = [
            self.pool.submit(wait_for_tasks, LONG_S, database=database, **options)
            for _ in range(count)
        ]
        until(lambda: waiters() >= count)

    def result(self) -> list[bool]:
        found = [answer.result(LONG_S) for answer in self.answers]
        self.pool.shutdown()
        return found


def waiters() -> int:
    """How many wait, and have been looked for once."""
    with _registry.lock:
        found = [w for watcher in _registry.watchers.values() for w in watcher.waiters]
        return sum(waiter.looked for waiter in found)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.005)


def test_a_task_that_is_there_needs_no_wait(database: Database) -> None:
    create(database)
    assert wait_for_tasks(0)
    assert wait_for_tasks(timedelta(seconds=LONG_S), database=database)
    assert _registry.watchers == {}


def test_nothing_comes(database: Database) -> None:
    create(database, depends_on=["missing"])
    create(database, run_after=datetime.now(UTC) + timedelta(hours=1))
    assert wait_for_tasks(0) is False
    assert wait_for_tasks(0.05) is False


def test_a_new_task_wakes_those_who_wait(database: Database) -> None:
    waiting = Waiting(database, 3)
    create(database)
    assert waiting.result() == [True] * 3


def test_they_wake_for_what_they_take(database: Database) -> None:
    waiting = Waiting(database, projects=["p"], capabilities=["python"], tags="red")
    create(database, project="q", tags=["red"])
    create(database, project="p", tags=["red"], required_capabilities=["go"])
    create(database, project="p", tags=["blue"])
    create(database, project="p", tags=["red", "blue"], required_capabilities=["python"])
    assert waiting.result() == [True]
    with open_session(database) as session:
        claimed = TaskRepository(session).claim_next(
            "a", projects=["p"], capabilities=["python"], tags="red"
        )
    assert len(claimed) == 1


def _complete(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).update_status("first", "completed")


def _fail(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        held = tasks.get_or_raise("held")
        tasks.fail("held", str(held.lease_token), "boom", retry_in=0.05)


def _release(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.release("held", str(tasks.get_or_raise("held").lease_token))


def _bring_forward(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).update("later", run_after=None)


def _raw(database: Database) -> None:
    with open_session(database) as session:
        session.execute("INSERT INTO tasks (id, title) VALUES ('raw', 'x')")


def _unblock(database: Database) -> None:
    with open_session(database) as session:
        TaskRepository(session).bulk_update([{"id": "blocked", "status": "pending"}])


CAUSES: dict[str, Callable[[Database], None]] = {
    "a dependency is completed": _complete,
    "a task failed": _fail,
    "a task was released": _release,
    "its time was brought forward": _bring_forward,
    "another program wrote it": _raw,
    "it is not blocked any more": _unblock,
}


@pytest.mark.parametrize("cause", CAUSES)
def test_whatever_makes_a_task_ready_wakes(database: Database, cause: str) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="held", title="x")
        tasks.claim_next("agent-1")
        tasks.create(id="first", title="x", status="in_progress")
        tasks.create(id="second", title="x", depends_on=["first"])
        tasks.create(id="later", title="x", run_after=datetime.now(UTC) + timedelta(hours=1))
        tasks.create(id="blocked", title="x", status="blocked")
    waiting = Waiting(database)
    CAUSES[cause](database)
    assert waiting.result() == [True]


def test_time_wakes_too(database: Database) -> None:
    create(database, run_after=datetime.now(UTC) + timedelta(seconds=0.3))
    assert wait_for_tasks(LONG_S)
    with open_session(database) as session:
        TaskRepository(session).claim_next("agent-1", lease=0.3)
    assert wait_for_tasks(LONG_S)
    with open_session(database) as session:
        assert len(TaskRepository(session).claim_next("agent-2")) == 1


def test_what_does_not_matter_wakes_nobody(database: Database) -> None:
    key = create(database, status="blocked")
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(wait_for_tasks, 0.5, database=database)
        until(lambda: waiters() or answer.done())
        with open_session(database) as session:
            TaskRepository(session).update(key, title="y")
        create(database, depends_on=["missing"])
        assert answer.result(LONG_S) is False


def test_a_session_may_wait(session: Session) -> None:
    tasks = TaskRepository(session)
    assert tasks.wait_for_tasks(0.05) is False
    tasks.create(title="x")
    assert tasks.wait_for_tasks(LONG_S) is True


def test_a_session_wakes_when_its_time_comes(session: Session) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    moments = iter([now, now])
    tasks = TaskRepository(session, clock=lambda: next(moments, now + timedelta(seconds=5)))
    session.execute("SELECT 1")
    assert tasks.wait_for_tasks(0) is False
    assert tasks.wait_for_tasks(0.01) is False


@FILES
def test_a_session_that_waits_lets_others_write(database: Database) -> None:
    def wait() -> bool:
        with open_session(database) as session:
            tasks = TaskRepository(session)
            assert tasks.wait_for_tasks(LONG_S, projects="p")
            return len(tasks.claim_next("agent-1", projects="p")) == 1

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(wait)
        until(waiters)
        create(database, project="p")
        assert answer.result(LONG_S) is True


@FILES
def test_a_read_only_session_may_wait(database: Database) -> None:
    def wait() -> bool:
        with open_session(database, read_only=True) as session:
            return TaskRepository(session).wait_for_tasks(LONG_S)

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(wait)
        until(waiters)
        create(database)
        assert answer.result(LONG_S) is True


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_session_that_has_written_does_not_wait_on_sqlite(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="a", title="x", status="blocked")
        with pytest.raises(DatabaseError, match="wait in a session of its own"):
            tasks.wait_for_tasks(LONG_S)
        tasks.update("a", title="y")
    with (
        open_session(database),
        open_session(database) as inner,
        pytest.raises(DatabaseError, match="inside another one"),
    ):
        TaskRepository(inner).wait_for_tasks(LONG_S)
    with open_session(database) as session:
        assert TaskRepository(session).get_or_raise("a").title == "y"


def test_the_function_is_for_outside_of_sessions(database: Database) -> None:
    with open_session(database), pytest.raises(DatabaseError, match="outside of sessions"):
        wait_for_tasks(LONG_S)


@pytest.mark.parametrize("wrong", [-1, "5", None, True, float("nan"), timedelta(days=999)])
def test_a_timeout_must_make_sense(database: Database, wrong: Any) -> None:
    with pytest.raises(ValidationError, match="timeout is"):
        wait_for_tasks(wrong)


def test_the_tables_must_be_there(empty_database: Database) -> None:
    with pytest.raises(DatabaseError, match="tasks"):
        wait_for_tasks(LONG_S)


def test_a_server_that_is_not_there_is_no_timeout() -> None:
    database = create_database("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(DatabaseUnavailable):
        wait_for_tasks(LONG_S, database=database)


def test_an_error_that_nobody_expects_is_told(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no such thing")

    monkeypatch.setattr("hopper_data.routing.waiting._Signals.look", fail)
    with pytest.raises(DatabaseError, match="no such thing"):
        wait_for_tasks(LONG_S)


# -- asyncio --------------------------------------------------------------------------------------


@FILES
def test_the_event_loop_goes_on(database: Database) -> None:
    async def run() -> tuple[bool, bool, int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.005)

        async def in_session() -> bool:
            async with get_async_session() as session:
                return await session.run(TaskRepository(session).wait_for_tasks, LONG_S)

        async with asyncio.timeout(LONG_S):
            heart = asyncio.create_task(beat())
            one = asyncio.create_task(async_wait_for_tasks(LONG_S))
            two = asyncio.create_task(in_session())
            while waiters() < 2:
                await asyncio.sleep(0.005)
            before = beats
            await asyncio.to_thread(create, database)
            answers = (await one, await two)
            heart.cancel()
            return (*answers, before)

    one, two, beats = asyncio.run(run())
    assert (one, two) == (True, True)
    assert beats > 0


def test_nothing_comes_for_asyncio_either(database: Database) -> None:
    assert asyncio.run(async_wait_for_tasks(0.05)) is False
    create(database)
    assert asyncio.run(async_wait_for_tasks(LONG_S)) is True


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_session_that_is_cancelled_while_it_waits_says_so_whoever_writes(
    database: Database,
) -> None:
    impatient = create_database(database.config, busy_timeout_ms=50)

    async def wait() -> None:
        async with get_async_session() as session:
            tasks = TaskRepository(session)
            try:
                await session.run(tasks.wait_for_tasks, LONG_S)
            finally:
                with pytest.raises(DatabaseError, match="has ended this transaction"):
                    await session.run(tasks.create, title="alone")

    async def run() -> None:
        waiting = asyncio.create_task(wait())
        while not waiters():
            await asyncio.sleep(0.005)
        async with get_async_session() as session:
            await session.run(TaskRepository(session).create, title="x")
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with using(impatient):
        asyncio.run(run())
    with open_session(database) as session:
        assert [task.title for task in TaskRepository(session).get_all()] == ["x"]
    impatient.close_pool()


@FILES
def test_who_is_cancelled_waits_no_more(database: Database) -> None:
    async def run() -> None:
        waiting = asyncio.create_task(async_wait_for_tasks(LONG_S))
        while not waiters():
            await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert waiters() == 0

    asyncio.run(run())


# -- connections ----------------------------------------------------------------------------------


def connections(database: Database) -> list[Any]:
    """The other connections to a database, and when each was last asked for anything."""
    with open_session(database) as session:
        return session.execute(
            "SELECT pid, state_change FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@POSTGRESQL
def test_a_hundred_who_wait_need_one_connection_and_ask_nothing(database: Database) -> None:
    waiting = Waiting(database, 100)
    database.close_pool()
    until(lambda: len(connections(database)) == 1)
    before = connections(database)
    time.sleep(0.5)
    assert connections(database) == before
    create(database)
    assert waiting.result() == [True] * 100


@POSTGRESQL
def test_the_connection_goes_when_nobody_waits(database: Database) -> None:
    assert wait_for_tasks(0.05) is False
    until(lambda: _registry.watchers == {})
    until(lambda: connections(database) == [])


@POSTGRESQL
def test_those_who_wait_survive_a_lost_connection(database: Database) -> None:
    waiting = Waiting(database, 2)
    with open_session(database) as session:
        session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    create(database)
    assert waiting.result() == [True] * 2


def _wait_in_child(url: str, answers: Any) -> None:
    database = create_database(url)
    with using(database):
        answers.put(("waiting", None))
        answers.put(("answer", wait_for_tasks(LONG_S)))


@FILES
def test_another_process_wakes_them(database: Database) -> None:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    url = database.url.render(hide_password=False)
    process = context.Process(target=_wait_in_child, args=(url, answers), daemon=True)
    process.start()
    assert answers.get(timeout=LONG_S) == ("waiting", None)
    create(database)
    assert answers.get(timeout=LONG_S) == ("answer", True)
    process.join(LONG_S)
    assert process.exitcode == 0


@FILES
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_waits_for_itself(database: Database) -> None:
    waiting = Waiting(database)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            empty = _registry.watchers == {} and wait_for_tasks(0.05, database=database) is False
            code = 0 if empty else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    create(database)
    assert waiting.result() == [True]


def test_many_come_and_go(database: Database) -> None:
    stop = threading.Event()

    def wait() -> int:
        count = 0
        while not stop.is_set() and count < 50:
            wait_for_tasks(0.002, database=database)
            count += 1
        return count

    with ThreadPoolExecutor(4) as pool:
        rounds = [pool.submit(wait) for _ in range(4)]
        assert [item.result(LONG_S) for item in rounds] == [50] * 4
