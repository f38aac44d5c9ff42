"""How many tasks per second four processes take from a queue."""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.data import (
    BEGINNING,
    STEP,
    TASK_COLUMNS,
    World,
    as_text,
    insert_tasks,
    new_connection,
    tidy_tasks,
)
from benchmarks.databases import MakeDatabase
from benchmarks.queues import TAKES_ONE, open_queue, peers, queues
from benchmarks.timing import in_turn
from hopper_data.database import Database

WORKERS = 4
_LIMIT_S = 300


@dataclass(frozen=True)
class Claiming:
    """A line of the table of claims."""

    title: str
    many: int
    finish: bool
    goals: tuple[float | None, float | None] = (None, None)


CLAIMINGS = (
    Claiming("claim, one at a time", 1, finish=False, goals=(0.85, 0.95)),
    Claiming("claim, in tens", 10, finish=False, goals=(0.85, 0.95)),
    Claiming("claim and complete, one at a time", 1, finish=True),
    Claiming("claim and complete, in tens", 10, finish=True),
)


@dataclass(frozen=True)
class Rates:
    """How many tasks a second each queue hands out, of a table of `size` tasks."""

    title: str
    backend: str
    rates: dict[str, float]
    goal: float | None
    size: int
    real: bool = False  # tasks of a file

    @property
    def ratio(self) -> float:
        """Our rate over the driver's."""
        return self.ratio_to("driver")

    @property
    def misses(self) -> bool:
        """Whether there is a goal, and the ratio, as it is shown, is below it."""
        return self.misses_against("driver")

    def ratio_to(self, name: str) -> float:
        """Our rate over that of another."""
        return self.rates["hopper_data"] / self.rates[name]

    def misses_against(self, name: str) -> bool:
        """Whether the goal would be missed, were it held against another one."""
        return self.goal is not None and round(self.ratio_to(name), 2) < self.goal


def measure_claims(
    world: World,
    counts: tuple[int, int],
    rounds: int,
    claimings: Sequence[Claiming] = CLAIMINGS,
) -> Iterator[Rates]:
    """Each line, by as many rounds in turn; `counts` of tasks, one at a time and in tens."""
    backend, url = str(world.database.dialect), _url(world.database)
    for claiming in claimings:
        count = counts[claiming.many > 1]
        found: dict[str, list[float]] = {name: [] for name in queues(backend)}
        for number in range(rounds):
            for name in in_turn(list(found), number):
                put_in(world, count)
                found[name].append(rate(name, backend, url, claiming, count))
                take_out(world)
        rates = {name: statistics.median(each) for name, each in found.items()}
        goal = claiming.goals[backend == "postgresql"]
        real = world.source.is_real
        yield Rates(claiming.title, backend, rates, goal, world.size, real)


def measure_peers(
    make: MakeDatabase, backend: str, counts: tuple[int, int], rounds: int
) -> dict[str, dict[str, float]]:
    """The rates of the peers by line; none takes tasks without finishing them."""
    found: dict[str, dict[str, float]] = {}
    for name in peers(backend):
        url = _url(make(backend, f"queue_{name}"))
        queue: Any = open_queue(name, backend, url)
        for claiming in CLAIMINGS:
            if not claiming.finish or (claiming.many > 1 and name in TAKES_ONE):
                continue
            count, rates = counts[claiming.many > 1], []
            for _ in range(rounds):
                queue.fill(count)
                rates.append(rate(name, backend, url, claiming, count))
            found.setdefault(claiming.title, {})[name] = statistics.median(rates)
        queue.close()
    return found


def _url(database: Database) -> str:
    return str(database.url.render(hide_password=False))


# -- tasks to be taken ----------------------------------------------------------------------------

_MINE = "id >= 'claim-' AND id < 'claim.'"


def put_in(world: World, count: int) -> None:
    """Pending tasks, ahead of all others. One in ten depends on a completed one."""
    rows = []
    for number, fields in enumerate(world.source.new(count)):
        made = as_text(BEGINNING - timedelta(days=100) + number * STEP)
        row = dict.fromkeys(TASK_COLUMNS)
        row.update(fields, id=f"claim-{number:016d}", status="pending", attempts=0, max_attempts=3)
        row.update(tags='["a","b"]', required_capabilities='["python"]')
        row.update(created_at=made, updated_at=made)
        if number % 10 == 9:
            row.update(depends_on=json.dumps(["claim-done"]))
        rows.append(tuple(row.values()))
    done = dict(zip(TASK_COLUMNS, rows[0], strict=True))
    done.update(id="claim-done", status="completed")
    insert_tasks(world.database, [tuple(done.values()), *rows])
    tidy_tasks(world.database)


def take_out(world: World) -> None:
    """Delete what `put_in()` has put in; `AssertionError` where others were taken."""
    connection = new_connection(world.database)
    cursor = connection.cursor()
    cursor.execute(f"SELECT COUNT(*) FROM tasks WHERE lease_token IS NOT NULL AND NOT ({_MINE})")
    ((others,),) = cursor.fetchall()
    cursor.execute(f"SELECT COUNT(*) FROM tasks WHERE status = 'pending' AND {_MINE}")
    ((left,),) = cursor.fetchall()
    cursor.execute(f"DELETE FROM tasks WHERE {_MINE}")
    connection.commit()
    connection.close()
    if others or left:
        raise AssertionError(f"{left} tasks were left, and {others} taken that came later")


# -- processes ------------------------------------------------------------------------------------


class Allotment:
    """How many times all workers together may still take tasks."""

    _AT_ONCE = 10

    def __init__(self, context: Any, times: int) -> None:
        self._left = context.Value("i", times)

    def __call__(self) -> int:
        with self._left.get_lock():
            given = min(self._AT_ONCE, self._left.value)
            self._left.value -= given
        return int(given)


def rate(name: str, backend: str, url: str, claiming: Claiming, count: int) -> float:
    """How many tasks per second the workers take, `count` in all."""
    context = multiprocessing.get_context("spawn")
    barrier, tickets = context.Barrier(WORKERS), Allotment(context, count // claiming.many)
    with _workers(context, (name, backend, url, claiming, barrier, tickets)) as ends:
        answers = [_answer(end) for end in ends]
    done = sum(taken for _, _, taken in answers)
    if done != count:
        raise AssertionError(f"{claiming.title}: {name} has taken {done} tasks of {count}")
    first, last = min(start for start, _, _ in answers), max(end for _, end, _ in answers)
    return count / (last - first)


def _answer(end: Connection) -> tuple[float, float, int]:
    if not end.poll(_LIMIT_S):
        raise AssertionError("a worker does not answer")
    answer: tuple[float, float, int] = end.recv()
    return answer


@contextmanager
def _workers(context: Any, arguments: tuple[Any, ...]) -> Iterator[list[Connection]]:
    pipes = [context.Pipe(duplex=False) for _ in range(WORKERS)]
    processes = [context.Process(target=_run, args=(theirs, *arguments)) for _, theirs in pipes]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()  # so that the end of a worker is seen
    try:
        yield [ours for ours, _ in pipes]
    finally:
        for process in processes:
            process.join(_LIMIT_S)
            process.kill()


def _run(
    answer: Connection,
    name: str,
    backend: str,
    url: str,
    claiming: Claiming,
    barrier: Any,
    tickets: Allotment,
) -> None:
    queue = open_queue(name, backend, url)
    barrier.wait(_LIMIT_S)
    start = time.monotonic()
    taken = queue.work(claiming.many, claiming.finish, tickets)
    answer.send((start, time.monotonic(), taken))
    queue.close()
