"""How many tasks per second four processes take from a queue."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.databases import MakeDatabase
from benchmarks.queues import TAKES_ONE, open_queue, queues

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
    """How many tasks a second each queue hands out."""

    title: str
    backend: str
    rates: dict[str, float]
    goal: float | None

    @property
    def ratio(self) -> float:
        """Our rate over the driver's."""
        return self.rates["hopper_data"] / self.rates["driver"]

    @property
    def misses(self) -> bool:
        """Whether there is a goal, and the ratio, as it is shown, is below it."""
        return self.goal is not None and round(self.ratio, 2) < self.goal


def measure_claims(
    make: MakeDatabase,
    backend: str,
    counts: tuple[int, int],
    rounds: int,
    claimings: Sequence[Claiming] = CLAIMINGS,
) -> Iterator[Rates]:
    """Each line, by as many rounds in turn; `counts` of tasks, one at a time and in tens."""
    names = list(queues(backend))
    urls = {name: make(backend, f"queue_{name}").url.render(hide_password=False) for name in names}
    filling = {name: open_queue(name, backend, url) for name, url in urls.items()}
    for claiming in claimings:
        count = counts[claiming.many > 1]
        able = [name for name in names if _is_able(name, claiming)]
        found: dict[str, list[float]] = {name: [] for name in able}
        for _ in range(rounds):
            for name in able:
                filling[name].fill(count)
                found[name].append(_rate(name, backend, urls[name], claiming, count))
        rates = {name: statistics.median(each) for name, each in found.items()}
        goal = claiming.goals[backend == "postgresql"]
        yield Rates(claiming.title, backend, rates, goal)
    for queue in filling.values():
        queue.close()


def _is_able(name: str, claiming: Claiming) -> bool:
    if name in ("driver", "hopper_data"):
        return True
    return claiming.finish and (claiming.many == 1 or name not in TAKES_ONE)


def _rate(name: str, backend: str, url: str, claiming: Claiming, count: int) -> float:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(WORKERS)
    with _workers(context, (name, backend, url, claiming, barrier)) as ends:
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
    answer: Connection, name: str, backend: str, url: str, claiming: Claiming, barrier: Any
) -> None:
    queue = open_queue(name, backend, url)
    barrier.wait(_LIMIT_S)
    start = time.monotonic()
    taken = queue.work(claiming.many, claiming.finish)
    answer.send((start, time.monotonic(), taken))
    queue.close()
