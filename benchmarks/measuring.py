"""Runs operations by all contenders, and holds their answers against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import Contender, contenders
from benchmarks.data import World, catch_up, tidy
from benchmarks.operations import Operation
from benchmarks.timing import Effort, Work, medians


@dataclass(frozen=True)
class Measured:
    """How many seconds an operation takes each contender, once."""

    key: str
    title: str
    backend: str
    size: int
    seconds: dict[str, float]
    goal: float | None
    real: bool = False  # on tasks of a file

    @property
    def ratio(self) -> float:
        """How many times the driver's time ours is."""
        return self.ratio_to("driver")

    @property
    def misses(self) -> bool:
        """Whether there is a goal, and the ratio, as it is shown, is above it."""
        return self.misses_against("driver")

    def ratio_to(self, name: str) -> float:
        """How many times the time of another one ours is."""
        return self.seconds["hopper_data"] / self.seconds[name]

    def misses_against(self, name: str) -> bool:
        """Whether the goal would be missed, were it held against another one."""
        return self.goal is not None and round(self.ratio_to(name), 2) > self.goal


class AnswersDiffer(AssertionError):
    """Two contenders did not do the same work."""


def measure(world: World, operation: Operation, effort: Effort) -> Measured:
    """What an operation takes whom; `AnswersDiffer` where it is not the same work for all."""
    backend = str(world.database.dialect)
    with _at_work(world, operation) as (everybody, works):
        _compare(operation, everybody, works)
        taken = medians(works, effort)
    if not operation.reads:
        tidy(world.database)
    seconds = {name: time / operation.times for name, time in taken.items()}
    title, goal = operation.title_for(world), operation.goal(backend)
    real = world.source.is_real
    return Measured(operation.key, title, backend, world.size, seconds, goal, real)


def check(world: World, operation: Operation) -> None:
    """`AnswersDiffer` where an operation is not the same work for all."""
    with _at_work(world, operation) as (everybody, works):
        _compare(operation, everybody, works)


@contextmanager
def _at_work(
    world: World, operation: Operation
) -> Iterator[tuple[list[Contender], dict[str, Work]]]:
    everybody = contenders(world.database, tuned=world.database.dialect in operation.tuned)
    try:
        yield everybody, {each.name: _work(operation, world, each) for each in everybody}
    finally:
        for contender in everybody:
            contender.close()


def _work(operation: Operation, world: World, contender: Contender) -> Work:
    return Work(
        functools.partial(operation.run, contender),
        functools.partial(_arguments, operation, world),
        functools.partial(operation.undo, world) if operation.undo else _nothing,
        contender.reading if operation.reads and not operation.alone else None,
    )


def _arguments(operation: Operation, world: World) -> Any:
    arguments = operation.arguments(world)
    if not operation.reads:
        catch_up(world.database)
    return arguments


def _nothing(_arguments: Any, _answer: Any) -> None:
    pass


def _compare(operation: Operation, everybody: Sequence[Contender], works: dict[str, Work]) -> None:
    """Run each once, which warms up; one must answer as the driver does."""
    expected: Any = None
    for contender in everybody:
        plain = functools.partial(_plain_record, contender.plain, operation.differs)
        answer = works[contender.name].answer(functools.partial(comparable, plain=plain))
        if expected is None:
            expected = answer
        elif answer != expected:
            raise AnswersDiffer(
                f"{operation.title}: {contender.name} answers {_first(answer, expected)}, "
                f"the driver {_first(expected, answer)}"
            )


def _plain_record(
    plain: Callable[[Any], dict[str, Any]], differs: Sequence[str], record: Any
) -> dict[str, Any]:
    return {
        name: comparable(value)
        for name, value in sorted(plain(record).items())
        if name not in differs
    }


def comparable(answer: Any, plain: Callable[[Any], Any] | None = None) -> Any:
    """An answer as plain data: records as dicts, and numbers without their last digits."""
    if isinstance(answer, list):
        return [comparable(item, plain) for item in answer]
    if isinstance(answer, dict):
        return {str(name): comparable(value, plain) for name, value in answer.items()}
    if isinstance(answer, float):
        return round(answer, 9)
    if plain is None or isinstance(answer, int | str | None):
        return answer
    return plain(answer)


def _first(answer: Any, other: Any) -> Any:
    """The first part of an answer that another one does not have."""
    if isinstance(answer, list) and isinstance(other, list):
        if len(answer) != len(other):
            return f"{len(answer)} rows"
        pairs = zip(answer, other, strict=True)
        return next((_first(one, two) for one, two in pairs if one != two), answer)
    if isinstance(answer, dict) and isinstance(other, dict):
        return {name: value for name, value in answer.items() if other.get(name, ...) != value}
    return answer
