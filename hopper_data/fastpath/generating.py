"""What the modules that write code have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

__all__ = ["ByNames", "Known", "Regulars", "compiled"]

V = TypeVar("V")
_MOST = 50


def compiled(source: str, what: str, names: dict[str, Any]) -> Any:
    """The one function that a source defines; `names` are what it speaks of."""
    exec(compile(source, f"<{what}>", "exec"), names)  # noqa: S102  # ours
    return names[source.partition("(")[0].removeprefix("def ")]


class Known(dict[Any, Any]):
    """What a function makes of a few values that often come."""

    def __init__(self, function: Callable[[Any], Any], values: Iterable[Any]) -> None:
        super().__init__((value, function(value)) for value in values)
        self._function = function

    def __missing__(self, value: Any) -> Any:
        return self._function(value)


class Regulars:
    """Tells who comes again: from the second time on, the first fifty of them."""

    def __init__(self, _model: Any = None) -> None:
        self._regulars: set[Hashable] = set()
        self._seen: set[Hashable] = set()

    def know(self, who: Hashable) -> bool:
        """Whether what is made for one may be kept."""
        if who in self._regulars:
            return True
        if len(self._regulars) >= _MOST:
            return False
        if who in self._seen:
            self._seen.discard(who)
            self._regulars.add(who)
            return True
        if len(self._seen) >= _MOST:
            self._seen.clear()
        self._seen.add(who)
        return False


class ByNames(dict[tuple[str, ...], V]):
    """What is made for some names of a model, in their order.

    `make(names)` takes its time, so it is for names that come again. All others are given what is
    good for any names, `general`, as are those for which it makes None.
    """

    def __init__(self, make: Callable[[tuple[str, ...]], V | None], general: V) -> None:
        super().__init__()
        self._make, self._general = make, general
        self._regulars = Regulars()

    def __missing__(self, names: tuple[str, ...]) -> V:
        made = self._make(names) if self._regulars.know(names) else None
        if made is None:
            return self._general
        self[names] = made
        return made
