"""What the modules that write code have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from hopper_data.model import BaseModel

__all__ = ["ByNames", "Known", "compiled"]

V = TypeVar("V")
_MOST = 500


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


class ByNames(dict[tuple[str, ...], V]):
    """What `make(model, names)` gives for a set of names, made when it is first asked for."""

    def __init__(self, make: Callable[[type[BaseModel], tuple[str, ...]], V], model: Any) -> None:
        super().__init__()
        self._make, self._model = make, model

    def __missing__(self, names: tuple[str, ...]) -> V:
        if len(self) >= _MOST:
            self.clear()  # callers name them in so many ways that keeping is of no use
        made = self[names] = self._make(self._model, names)
        return made
