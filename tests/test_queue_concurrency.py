"""One queue, many threads, processes and tasks of an event loop: each task is done once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import (
    DatabaseConfig,
    LeaseLost,
    SessionFactory,
    TaskRepository,
)
from hopper_data.routing.asynchronous import AsyncTaskRepository
from tests.test_concurrency import together

LONG_S = 120
START = datetime(2100, 3, 1, tzinfo=UTC)
WORKERS = 8


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, make_url: Callable[..., str]) -> str:
    return make_url(request.param)


def open_factory(url: str) -> SessionFactory:
    return SessionFactory(DatabaseConfig(url=url, busy_timeout_ms=60_000, slow_query_ms=60_000))


def fill(factory: SessionFactory, count: int) -> None:
    with factory.get_session() as session:
        TaskRepository(session).bulk_create({"title": "x"} for _ in range(count))


def work(factory: SessionFactory, owner: str, limit: int) -> list[str]:
    """Claim and complete until nothing is left; the tasks that were done."""
    done: list[str] = []
    while True:
        with factory.get_session() as session:
            claimed = TaskRepository(session).claim_next(owner, limit=limit)
        if not claimed:
            return done
        for task in claimed:
            with factory.get_session() as session:
                TaskRepository(session).complete(task.id, str(task.lease_token))
            done.append(task.id)


def check_each_was_done_once(factory: SessionFactory, count: int) -> None:
    with factory.get_session() as session:
        assert TaskRepository(session).count({"status": "completed", "attempts": 1}) == count
        steps = Counter(
            session.execute("SELECT task_id, from_status, to_status FROM task_events")
        ).values()
        assert len(steps) == 2 * count
        assert set(steps) == {1}
        tokens = session.execute("SELECT COUNT(DISTINCT lease_token) FROM task_events")
        assert tokens == [(count,)]


@pytest.mark.parametrize("limit", [1, 7])
def test_threads_share_a_queue(url: str, limit: int) -> None:
    with open_factory(url) as factory:
        fill(factory, 120)
        done = together(WORKERS, lambda place: work(factory, f"agent-{place}", limit))
        assert len([key for keys in done for key in keys]) == 120
        assert len({key for keys in done for key in keys}) == 120
        check_each_was_done_once(factory, 120)


def test_a_claim_locks_what_it_returns_and_nothing_else(make_url: Callable[..., str]) -> None:
    with open_factory(make_url("postgresql")) as factory:
        with factory.get_session() as session:
            tasks = TaskRepository(session)
            tasks.bulk_create({"id": f"t{number}", "title": "x"} for number in range(8))
            tasks.claim_next("dead", limit=4, lease=0.001)
            time.sleep(0.01)

        def claim(owner: str, limit: int) -> list[str]:
            with factory.get_session() as session:
                found = TaskRepository(session).claim_next(owner, limit=limit)
            return [task.id for task in found]

        # While the first transaction is open, the others see all that it has not taken.
        with factory.get_session() as session:
            assert [t.id for t in TaskRepository(session).claim_next("a", limit=2)] == ["t0", "t1"]
            assert together(1, lambda _: claim("b", 4)) == [["t2", "t3", "t4", "t5"]]
            assert together(1, lambda _: claim("c", 4)) == [["t6", "t7"]]
            session.database.rollback()
            session.database.begin()
            assert together(1, lambda _: claim("d", 4)) == [["t0", "t1"]]


def test_what_a_long_transaction_holds_is_passed_over(make_url: Callable[..., str]) -> None:
    with open_factory(make_url("postgresql")) as factory:
        fill(factory, 600)
        with factory.get_session() as session:
            dead = TaskRepository(session).claim_next("dead", limit=590, lease=0.001)
            assert len(dead) == 590
        time.sleep(0.01)

        def claim(_: int) -> list[str]:
            with factory.get_session() as session:
                return [task.id for task in TaskRepository(session).claim_next("b", limit=1)]

        with factory.get_session() as session:
            assert len(TaskRepository(session).claim_next("a", limit=590)) == 590
            ((left,),) = together(1, claim)
            assert left not in {task.id for task in dead}


def test_workers_share_what_dead_ones_have_left(url: str) -> None:
    with open_factory(url) as factory:
        fill(factory, 60)
        with factory.get_session() as session:
            assert len(TaskRepository(session).claim_next("dead", limit=40, lease=0.001)) == 40
        time.sleep(0.01)
        done = together(WORKERS, lambda place: work(factory, f"agent-{place}", 3))
        keys = [key for keys in done for key in keys]
        assert len(keys) == len(set(keys)) == 60


PROCESS = """
import sys
from tests.test_queue_concurrency import open_factory, work

with open_factory(sys.argv[1]) as factory:
    print(len(work(factory, sys.argv[2], 3)))
"""


def start(script: str, *arguments: str, root: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True, cwd=root
    )


def test_processes_share_a_queue(url: str, pytestconfig: pytest.Config) -> None:
    with open_factory(url) as factory:
        fill(factory, 200)
        root = pytestconfig.rootpath
        running = [start(PROCESS, url, f"agent-{n}", root=root) for n in range(WORKERS)]
        done = [int(process.communicate(timeout=LONG_S)[0]) for process in running]
        assert [process.returncode for process in running] == [0] * WORKERS
        assert sum(done) == 200
        check_each_was_done_once(factory, 200)


DYING = """
import sys, time
from hopper_data import TaskRepository
from tests.test_queue_concurrency import open_factory

with open_factory(sys.argv[1]) as factory:
    with factory.get_session() as session:
        (task,) = TaskRepository(session).claim_next("doomed", lease=0.5)
    print(task.lease_token, flush=True)
    time.sleep(600)
"""


def test_the_task_of_a_killed_worker_is_done_by_another(
    url: str, pytestconfig: pytest.Config
) -> None:
    with open_factory(url) as factory:
        fill(factory, 1)
        process = start(DYING, url, root=pytestconfig.rootpath)
        assert process.stdout is not None
        token = process.stdout.readline().strip()
        process.kill()
        process.communicate(timeout=LONG_S)
        done: list[str] = []
        deadline = time.monotonic() + LONG_S
        while not done:
            assert time.monotonic() < deadline
            done = work(factory, "heir", 1)
        with factory.get_session() as session:
            tasks = TaskRepository(session)
            task = tasks.get_or_raise(done[0])
            assert (task.status, task.owner, task.attempts) == ("completed", "heir", 2)
            assert [event.note for event in tasks.get_events(task.id)] == [
                None,
                "lease expired",
                None,
            ]
            with pytest.raises(LeaseLost):
                tasks.complete(task.id, token)


def test_a_lease_has_one_end_however_many_try(url: str) -> None:
    with open_factory(url) as factory:
        fill(factory, 1)
        with factory.get_session() as session:
            (task,) = TaskRepository(session).claim_next("agent-1")
        token = str(task.lease_token)

        def end(place: int) -> str:
            try:
                with factory.get_session() as session:
                    tasks = TaskRepository(session)
                    if place % 2:
                        tasks.complete(task.id, token)
                    else:
                        tasks.release(task.id, token)
            except LeaseLost:
                return "lost"
            return "won"

        assert sorted(together(WORKERS, end)) == ["lost"] * (WORKERS - 1) + ["won"]


def test_racing_callers_make_one_task_for_one_key(url: str) -> None:
    with open_factory(url) as factory:

        def create(place: int) -> tuple[str, str]:
            with factory.get_session() as session:
                tasks = TaskRepository(session)
                one = tasks.create(title=str(place), dedupe_key="one")
                rows = [{"title": "x", "dedupe_key": f"k{n}"} for n in range(5)]
                many = tasks.bulk_create(rows if place % 2 else rows[::-1])
            return one.id, ",".join(sorted(task.id for task in many))

        assert len(set(together(16, create))) == 1
        with factory.get_session() as session:
            assert TaskRepository(session).count() == 6


def test_racing_tasks_of_an_event_loop_make_one_task_for_one_key(url: str) -> None:
    async def create(factory: SessionFactory, place: int) -> str:
        async with factory.get_async_session() as session:
            made = await AsyncTaskRepository(session).create(title=str(place), dedupe_key="one")
            return made.id

    async def run() -> set[str]:
        with open_factory(url) as factory:
            return set(await asyncio.gather(*(create(factory, place) for place in range(16))))

    assert len(asyncio.run(run())) == 1


def test_tasks_of_an_event_loop_share_a_queue(url: str) -> None:
    async def worker(factory: SessionFactory, owner: str) -> list[str]:
        done: list[str] = []
        while True:
            async with factory.get_async_session() as session:
                claimed = await AsyncTaskRepository(session).claim_next(owner, limit=2)
            if not claimed:
                return done
            for task in claimed:
                async with factory.get_async_session() as session:
                    tasks = AsyncTaskRepository(session)
                    await tasks.complete(task.id, str(task.lease_token))
                done.append(task.id)

    async def run() -> list[list[str]]:
        with open_factory(url) as factory:
            return list(
                await asyncio.gather(*(worker(factory, f"agent-{n}") for n in range(WORKERS)))
            )

    with open_factory(url) as factory:
        fill(factory, 60)
    done = asyncio.run(run())
    assert len({key for keys in done for key in keys}) == 60
    with open_factory(url) as factory:
        check_each_was_done_once(factory, 60)


def test_an_asynchronous_repository_takes_a_clock_and_waits(url: str) -> None:
    moments = [START]

    async def run() -> None:
        with open_factory(url) as factory:
            async with factory.get_async_session() as session:
                tasks = AsyncTaskRepository(session, clock=lambda: moments[0])
                assert await tasks.wait_for_tasks(0.01) is False
                await tasks.create(id="a", title="x", run_after=START + timedelta(hours=1))
                assert await tasks.wait_for_tasks(0) is False
                moments[0] += timedelta(hours=1)
                assert await tasks.wait_for_tasks(0) is True
                (task,) = await tasks.claim_next("agent-1", lease=60)
                assert task.lease_expires_at == moments[0] + timedelta(seconds=60)
                assert (await tasks.get_queue_statistics()).leases_held == 1
                assert not (await tasks.explain_readiness("a")).ready
                assert (await tasks.release("a", task.lease_token)).status == "pending"
                assert len(await tasks.get_events("a")) == 2

    asyncio.run(run())
