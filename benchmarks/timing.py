"""Times of several contenders, taken in turn, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

MOST_ROUNDS = 40


class Effort(NamedTuple):
    """How long something is measured: seconds, and rounds that it takes in any case."""

    budget_s: float
    least_rounds: int


USUAL = Effort(1.5, 5)
GROWTH = Effort(0.8, 2)
QUICK = Effort(0.1, 1)


class Work:
    """What a contender does: `run` is timed; what is before, around and after it is not."""

    def __init__(
        self,
        run: Callable[[Any], Any],
        before: Callable[[], Any],
        after: Callable[[Any, Any], None],
        around: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        self.run, self.before, self.after = run, before, after
        self.around = around or nullcontext

    def answer(self, read: Callable[[Any], Any]) -> Any:
        """What `read` makes of the answer."""
        arguments = self.before()
        with self.around():
            answer = self.run(arguments)
            result = read(answer)
        self.after(arguments, answer)
        return result

    def seconds(self) -> float:
        """How long it took."""
        arguments = self.before()
        with self.around():
            gc.collect()
            start = time.perf_counter()
            answer = self.run(arguments)
            taken = time.perf_counter() - start
        self.after(arguments, answer)
        return taken


def medians(works: dict[str, Work], effort: Effort) -> dict[str, float]:
    """The median seconds of each; another one begins each round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    start = time.perf_counter()
    with collected():
        for number in range(MOST_ROUNDS):
            taken = time.perf_counter() - start
            if number >= effort.least_rounds and taken > effort.budget_s:
                break
            for name in in_turn(list(works), number):
                times[name].append(works[name].seconds())
    return {name: statistics.median(taken) for name, taken in times.items()}


@contextmanager
def collected() -> Iterator[None]:
    """What is there by now is left out of the garbage collections that follow."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def in_turn(names: list[str], number: int) -> list[str]:
    """The names, with another one first in each round."""
    first = number % len(names)
    return names[first:] + names[:first]
