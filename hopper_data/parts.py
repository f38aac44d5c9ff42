"""Methods in two parts: what they ask the database, and what they make of the rows.

Who runs such a method may wait for the rows in between as it likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

__all__ = ["Parts", "in_parts", "parts_of"]

F = TypeVar("F", bound=Callable[..., Any])


class Parts(NamedTuple):
    """The parts of `method`, each the name of another method of the same object.

    `ask` takes the arguments of the method. It gives a statement and its parameters, or None where
    the method must be called as a whole. `answer` takes the rows before the arguments. `calls` are
    the marked methods that the whole method goes through, and its parts do not.
    """

    method: Callable[..., Any]
    ask: str
    answer: str
    calls: tuple[str, ...]


def in_parts(ask: str, answer: str, *calls: str) -> Callable[[F], F]:
    """Mark a method that asks for rows once."""

    def mark(method: F) -> F:
        method.in_parts = Parts(method, ask, answer, calls)  # type: ignore[attr-defined]
        return method

    return mark


def parts_of(fn: Any) -> Parts | None:
    """The parts of a bound method that is marked; None of one that stands in its place.

    None also where another stands in the place of one that the method calls.
    """
    parts: Parts | None = getattr(fn, "in_parts", None)
    # What wraps a method takes its mark over, too.
    if parts is None or getattr(fn, "__func__", None) is not parts.method:
        return None
    for name in parts.calls:
        if parts_of(getattr(fn.__self__, name)) is None:
            return None
    return parts
