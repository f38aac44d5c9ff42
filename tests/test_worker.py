"""Workers: what they take, how their tasks end, and how they end themselves."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from hopper_data import (
    DatabaseError,
    GiveBack,
    Task,
    TaskRepository,
    ValidationError,
    Worker,
    create_database,
    get_async_session,
    get_sync_session,
)
from hopper_data.database import Database
from hopper_data.session import open_session
from tests.servers import own_server

LONG_S = 60
Run = Callable[..., int]


def in_threads(worker: Worker, handle: Callable[[Task], Any], **options: Any) -> int:
    return worker.run(handle, **options)


def on_a_loop(worker: Worker, handle: Callable[[Task], Any], **options: Any) -> int:
    async def handle_there(task: Task) -> Any:
        return await asyncio.to_thread(handle, task)

    return asyncio.run(worker.run_async(handle_there, **options))


@pytest.fixture(params=[in_threads, on_a_loop], ids=["threads", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a worker."""
    return request.param  # type: ignore[no-any-return]


def add(database: Database, *titles: str, **fields: Any) -> list[str]:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        return [tasks.create(title=title, **fields).id for title in titles]


def stored(database: Database) -> dict[str, Task]:
    with open_session(database) as session:
        return {task.title: task for task in TaskRepository(session).get_all()}


@contextmanager
def working(worker: Worker, run: Run, handle: Callable[[Task], Any]) -> Iterator[Any]:
    """A worker that runs in a thread of its own; it is stopped at the end of the block."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(run, worker, handle)
        try:
            yield future
        finally:
            while not future.done():
                worker.stop()
                time.sleep(0.01)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_all_tasks_are_handled_best_first(database: Database, run: Run) -> None:
    add(database, "later", priority="low")
    add(database, "first", priority="urgent")
    seen: list[tuple[str, str]] = []
    worker = Worker("agent-1", database=database)
    count = run(worker, lambda t: seen.append((t.title, t.status)), until_empty=True)
    assert count == 2
    assert seen == [("first", "claimed"), ("later", "claimed")]
    for task in stored(database).values():
        assert (task.status, task.owner, task.attempts) == ("completed", "agent-1", 1)
        assert task.lease_token is None


def test_what_a_handler_returns_is_the_feedback(database: Database, run: Run) -> None:
    add(database, "report")
    run(Worker("a", database=database), lambda _: {"pages": 3}, until_empty=True)
    assert stored(database)["report"].feedback == {"pages": 3}


def test_what_a_handler_raises_is_kept_and_tried_again(database: Database, run: Run) -> None:
    add(database, "breaks")

    def handle(task: Task) -> None:
        raise LookupError(f"no file for {task.title}")

    assert run(Worker("a", database=database), handle, until_empty=True) == 1
    task = stored(database)["breaks"]
    assert (task.status, task.attempts) == ("pending", 1)
    assert task.last_error == "LookupError: no file for breaks"
    assert task.run_after is not None


def test_feedback_that_cannot_be_stored_fails_the_task(database: Database, run: Run) -> None:
    add(database, "odd")
    run(Worker("a", database=database), lambda _: object(), until_empty=True)
    task = stored(database)["odd"]
    assert task.status == "pending"
    assert "JSON cannot express" in str(task.last_error)


def test_a_handler_may_give_its_task_back(database: Database, run: Run) -> None:
    add(database, "not now")

    def handle(task: Task) -> None:
        worker.stop()
        raise GiveBack

    worker = Worker("a", database=database)
    assert run(worker, handle) == 0
    task = stored(database)["not now"]
    assert (task.status, task.attempts, task.owner, task.last_error) == ("pending", 0, None, None)


def test_what_is_given_back_is_not_taken_at_once(database: Database, run: Run) -> None:
    add(database, "later", "now")
    rests = {"later": timedelta(minutes=1), "now": 0}
    seen: list[str] = []

    def handle(task: Task) -> None:
        seen.append(task.title)
        if seen.count(task.title) == 1:
            raise GiveBack("not now", retry_in=rests[task.title])

    worker = Worker("a", database=database)
    assert run(worker, handle, until_empty=True) == 1
    assert sorted(seen) == ["later", "now", "now"]
    task = stored(database)["later"]
    assert (task.status, task.attempts, task.last_error) == ("pending", 0, None)
    assert task.run_after is not None
    assert task.run_after > task.updated_at + timedelta(seconds=50)
    assert GiveBack().retry_in_s == 1
    with pytest.raises(ValidationError, match="retry_in is -1"):
        GiveBack(retry_in=-1)


def test_a_worker_takes_what_it_is_for(database: Database, run: Run) -> None:
    add(database, "mine", project="web", required_capabilities=["python"], tags=["a", "b"])
    add(database, "elsewhere", project="api", tags=["a"])
    add(database, "too hard", project="web", required_capabilities=["rust"], tags=["a"])
    add(database, "untagged", project="web")
    worker = Worker(
        "a", projects="web", capabilities=["python", "sql"], tags=["a"], database=database
    )
    assert run(worker, lambda _: None, until_empty=True) == 1
    assert stored(database)["mine"].status == "completed"


def test_a_limit_of_tasks(database: Database, run: Run) -> None:
    add(database, *"abcde")
    worker = Worker("a", concurrency=2, database=database)
    assert run(worker, lambda _: None, max_tasks=3) == 3
    assert run(worker, lambda _: None, max_tasks=0) == 0
    assert sum(task.status == "pending" for task in stored(database).values()) == 2


def test_tasks_are_handled_side_by_side(database: Database, run: Run) -> None:
    add(database, *"abc")
    together = threading.Barrier(3)
    worker = Worker("a", concurrency=3, database=database)
    assert run(worker, lambda _: together.wait(LONG_S) and None, until_empty=True) == 3
    assert {task.status for task in stored(database).values()} == {"completed"}


def test_a_handler_works_on_the_workers_database(database: Database, run: Run) -> None:
    add(database, "work")

    def handle(task: Task) -> None:
        with get_sync_session() as session:
            TaskRepository(session).update(task.id, context="was here")

    run(Worker("a", database=database), handle, until_empty=True)
    assert stored(database)["work"].context == "was here"


def test_a_coroutine_works_in_asynchronous_sessions(database: Database) -> None:
    add(database, "work")

    async def handle(task: Task) -> None:
        async with get_async_session() as session:
            await session.run(TaskRepository(session).update, task.id, context="was here")

    asyncio.run(Worker("a", database=database).run_async(handle, until_empty=True))
    task = stored(database)["work"]
    assert (task.context, task.status) == ("was here", "completed")


def test_a_new_task_wakes_an_idle_worker(database: Database, run: Run) -> None:
    seen: list[str] = []
    worker = Worker("a", database=database)
    with working(worker, run, lambda task: seen.append(task.title)):
        for title in ("one", "two"):
            add(database, title)
            until(lambda title=title: title in seen)
    assert {task.status for task in stored(database).values()} == {"completed"}


def test_a_lease_is_renewed_while_the_handler_works(database: Database, run: Run) -> None:
    add(database, "long")

    def handle(task: Task) -> None:
        begun = stored(database)["long"].lease_expires_at
        until(lambda: stored(database)["long"].lease_expires_at > begun)
        assert worker.holds(task)

    worker = Worker("a", lease=20, heartbeat=0.05, database=database)
    assert run(worker, handle, until_empty=True) == 1
    assert stored(database)["long"].status == "completed"


def test_a_lost_lease_is_noticed_and_the_result_dropped(
    database: Database, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    add(database, "taken")

    def handle(task: Task) -> str:
        with open_session(database) as session:
            TaskRepository(session).update_status(task.id, "cancelled")
        until(lambda: not worker.holds(task))
        return "too late"

    worker = Worker("a", lease=20, heartbeat=0.05, database=database)
    with caplog.at_level(logging.WARNING, "hopper_data.worker"):
        assert run(worker, handle, until_empty=True) == 0
    task = stored(database)["taken"]
    assert (task.status, task.feedback) == ("cancelled", None)
    assert "lost" in caplog.text


def test_a_coroutine_whose_lease_is_lost_is_cancelled(database: Database) -> None:
    add(database, "taken")
    ended: list[str] = []

    async def handle(task: Task) -> None:
        with open_session(database) as session:
            TaskRepository(session).update_status(task.id, "cancelled")
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            ended.append(task.title)
            raise

    worker = Worker("a", lease=20, heartbeat=0.05, database=database)
    assert asyncio.run(worker.run_async(handle, until_empty=True)) == 0
    assert ended == ["taken"]
    assert stored(database)["taken"].status == "cancelled"


def test_a_worker_that_is_stopped_lets_its_handlers_end(database: Database, run: Run) -> None:
    add(database, "running", priority="high")
    add(database, "waiting")

    def handle(task: Task) -> None:
        worker.stop()
        time.sleep(0.1)
        assert worker.stopping

    worker = Worker("a", database=database)
    assert run(worker, handle) == 1
    tasks = stored(database)
    assert (tasks["running"].status, tasks["waiting"].status) == ("completed", "pending")


def test_what_does_not_end_in_time_is_given_back(database: Database, run: Run) -> None:
    add(database, "endless")
    give_up = threading.Event()

    def handle(_: Task) -> None:
        worker.stop()
        give_up.wait(LONG_S)

    async def endless(_: Task) -> None:
        worker.stop()
        await asyncio.sleep(LONG_S)

    worker = Worker("a", grace=0.1, database=database)
    try:
        if run is in_threads:
            assert worker.run(handle) == 0
        else:
            assert asyncio.run(worker.run_async(endless)) == 0
    finally:
        give_up.set()
    task = stored(database)["endless"]
    assert (task.status, task.attempts, task.owner) == ("pending", 0, None)


def test_a_worker_that_is_stopped_before_it_runs_ends_at_once(database: Database, run: Run) -> None:
    add(database, "work")
    worker = Worker("a", database=database)
    worker.stop()
    assert run(worker, lambda _: None) == 0
    assert run(worker, lambda _: None, until_empty=True) == 1


def test_a_choice_may_be_any_iterable(database: Database, run: Run) -> None:
    add(database, "one", "two", project="web")
    worker = Worker("a", projects=(name for name in ["web"]), tags=iter(()), database=database)  # type: ignore[arg-type]
    assert run(worker, lambda _: None, until_empty=True) == 2


def test_an_error_that_cannot_say_what_it_is_fails_the_task(database: Database, run: Run) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

    def handle(_: Task) -> None:
        raise Mute

    add(database, "odd")
    run(Worker("a", database=database), handle, until_empty=True)
    assert stored(database)["odd"].last_error == "Mute"


def test_a_second_stop_waits_for_nobody(database: Database) -> None:
    add(database, "endless")
    give_up = threading.Event()

    def handle(_: Task) -> None:
        worker.stop()
        worker.stop()
        give_up.wait(LONG_S)

    worker = Worker("a", grace=LONG_S, database=database)
    assert worker.run(handle) == 0
    give_up.set()
    assert stored(database)["endless"].status == "pending"


def test_a_cancelled_run_gives_its_tasks_back(database: Database) -> None:
    add(database, "endless")

    async def work() -> None:
        begun = asyncio.Event()

        async def handle(_: Task) -> None:
            begun.set()
            await asyncio.sleep(LONG_S)

        running = asyncio.create_task(Worker("a", database=database).run_async(handle))
        await asyncio.wait_for(begun.wait(), LONG_S)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(work())
    task = stored(database)["endless"]
    assert (task.status, task.attempts) == ("pending", 0)


def test_a_handler_that_ends_the_process_gives_its_task_back(database: Database) -> None:
    add(database, "exit")

    def handle(_: Task) -> None:
        raise SystemExit

    assert Worker("a", database=database).run(handle) == 0
    assert stored(database)["exit"].status == "pending"


def test_a_worker_runs_once_at_a_time(database: Database) -> None:
    worker = Worker("a", database=database)
    with working(worker, in_threads, lambda _: None):
        until(lambda: not worker.stopping)
        with pytest.raises(DatabaseError, match="running already"):
            worker.run(lambda _: None)
    assert worker.stopping


def test_many_workers_do_each_task_once(database: Database, run: Run) -> None:
    count = 60
    add(database, *(f"task {number}" for number in range(count)))
    seen: list[str] = []

    def work(number: int) -> int:
        worker = Worker(f"agent-{number}", concurrency=2, database=database)
        return run(worker, lambda task: seen.append(task.title), until_empty=True)

    with ThreadPoolExecutor(4) as pool:
        handled = sum(pool.map(work, range(4)))
    assert handled == count
    assert len(seen) == len(set(seen)) == count
    assert {task.status for task in stored(database).values()} == {"completed"}


# -- what is wrong --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"owner": ""}, "owner"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"lease": 5, "heartbeat": 5}, "lease"),
        ({"lease": 5, "heartbeat": 6}, "lease"),
        ({"lease": 0}, "lease"),
        ({"heartbeat": 0}, "heartbeat"),
        ({"grace": -1}, "grace"),
        ({"projects": 3}, "projects"),
        ({"capabilities": [""]}, "capabilities"),
    ],
)
def test_arguments_must_make_sense(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Worker(**{"owner": "a", **options})
    assert raised.value.field == field


def test_each_kind_of_handler_has_its_run(database: Database) -> None:
    async def handle(_: Task) -> None: ...

    with pytest.raises(ValidationError, match="run_async"):
        Worker("a", database=database).run(handle)
    with pytest.raises(ValidationError, match=r"run\(handle\)"):
        asyncio.run(Worker("a", database=database).run_async(lambda _: None))  # type: ignore[arg-type,return-value]
    with pytest.raises(ValidationError, match="max_tasks"):
        Worker("a", database=database).run(lambda _: None, max_tasks=-1)


def test_a_database_without_tables_is_an_error_at_once(empty_database: Database, run: Run) -> None:
    with pytest.raises(DatabaseError, match="hopper-data migrate"):
        run(Worker("a", database=empty_database), lambda _: None)


# -- signals, and servers that go away ------------------------------------------------------------

PROGRAM = """
import sys, time
from hopper_data import Worker, connect

connect(sys.argv[1])

def handle(task):
    print("begun", flush=True)
    time.sleep(float(task.context))
    print("ended", flush=True)

count = Worker("agent-1", grace=0.2).run(handle)
print("handled", count, flush=True)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(("length_s", "status"), [("0.1", "completed"), ("600", "pending")])
def test_a_signal_ends_a_worker_well(
    make_url: Callable[..., str], kind: str, number: int, length_s: str, status: str
) -> None:
    url = make_url(kind)
    database = create_database(url)
    add(database, "work", context=length_s)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, url], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.kill(process.pid, number)
    rest, _ = process.communicate(timeout=LONG_S)
    assert process.returncode == 0
    assert rest == ("ended\nhandled 1\n" if status == "completed" else "handled 0\n")
    task = stored(database)["work"]
    assert (task.status, task.lease_token) == (status, None)
    database.close_pool()


def test_signals_mean_what_they_did_when_all_workers_have_ended(database: Database) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    async def handle(task: Task) -> None:
        await asyncio.sleep(0 if task.title == "short" else 0.2)

    async def together() -> list[int]:
        workers = (Worker(name, database=database) for name in "ab")
        return await asyncio.gather(*(w.run_async(handle, max_tasks=1) for w in workers))

    add(database, "short", "long")
    assert asyncio.run(together()) == [1, 1]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_worker_outlives_a_restart_of_the_server(run: Run) -> None:
    from hopper_data import run_migrations

    with own_server() as server:
        database = create_database(server.url)
        run_migrations(database=database)
        add(database, "before", "during")
        seen: list[str] = []
        restarted = threading.Event()

        def handle(task: Task) -> None:
            seen.append(task.title)
            if task.title == "during":
                server.stop("immediate")
                time.sleep(0.3)
                server.start()
                restarted.set()

        worker = Worker("a", lease=LONG_S, heartbeat=0.1, database=database)
        with working(worker, run, handle):
            assert restarted.wait(LONG_S)
            until(lambda: stored(database)["during"].status == "completed")
            add(database, "after")
            until(lambda: stored(database)["after"].status == "completed")
        assert seen == ["before", "during", "after"]
        database.close_pool()
