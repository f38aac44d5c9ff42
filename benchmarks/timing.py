"""Times of several contenders, taken in turn, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

LEAST_ROUNDS = 3
MOST_ROUNDS = 25


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

    def __call__(self, read: Callable[[Any], Any] = id) -> tuple[float, Any]:
        """The seconds that it took, and what `read` makes of the answer."""
        arguments = self.before()
        with self.around():
            gc.collect()
            start = time.perf_counter()
            answer = self.run(arguments)
            taken = time.perf_counter() - start
            result = read(answer)
        self.after(arguments, answer)
        return taken, result


def medians(works: dict[str, Work], budget_s: float) -> dict[str, float]:
    """The median seconds of each; another one begins each round.

    As many rounds as the budget allows, counted from the first.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    names, start = list(works), time.perf_counter()
    for number in range(MOST_ROUNDS):
        if number >= LEAST_ROUNDS and time.perf_counter() - start > budget_s:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(works[name]()[0])
    return {name: statistics.median(taken) for name, taken in times.items()}
