"""Statements that Peewee has written before, by the shape of the question that they answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from hopper_data.database import Database
from hopper_data.ready import KeyedStatement

__all__ = ["Outline", "Statements", "disabled", "is_enabled"]

_enabled: ContextVar[bool] = ContextVar("hopper_data_fastpath", default=True)
_MOST = 500


def is_enabled() -> bool:
    """Whether this thread or task takes the fast path."""
    return _enabled.get()


@contextmanager
def disabled() -> Iterator[None]:
    """Inside the `with` block everything goes through Peewee, for comparison and for doubts."""
    token = _enabled.set(False)
    try:
        yield
    finally:
        _enabled.reset(token)


class Outline(NamedTuple):
    """A question without its values, and the values as parameters, in their order.

    The shape decides the text of the statement. `is_keyed` says that it is about one row and its
    key.
    """

    shape: tuple[Any, ...]
    values: Sequence[Any]
    is_keyed: bool = False

    def then(self, other: Outline | None) -> Outline | None:
        """The outline of both, one after the other."""
        if other is None:
            return None
        return Outline((self.shape, other.shape), [*self.values, *other.values])


class Statements:
    """The statements of one repository class.

    A text is kept only where Peewee has put the values in the order of the outline. `compiled` is
    how many statements were written by Peewee so far.
    """

    __slots__ = ("_texts", "compiled")

    def __init__(self) -> None:
        self._texts: dict[Hashable, str] = {}
        self.compiled = 0

    def __len__(self) -> int:
        return len(self._texts)

    def get(
        self,
        database: Database,
        question: Outline,
        make: Callable[[], Any],
    ) -> tuple[str, Sequence[Any]]:
        """The statement that answers a question, from `make()` if it is new, and its parameters."""
        shape, values, is_keyed = question
        key = (database.dialect, database.schema_prefix, shape)
        text = self._texts.get(key)
        if text is not None:
            return text, values
        sql, params = database.get_sql_context().sql(make()).query()
        self.compiled += 1
        if is_keyed:
            sql = KeyedStatement(sql)
        if list(params) == list(values):
            self._keep(key, sql)
        return sql, params

    def known(self, database: Database, shape: Hashable) -> str | None:
        """The statement about one row and its key for a shape, None where it is new."""
        return self._texts.get((database.dialect, database.schema_prefix, shape))

    def keep(self, database: Database, shape: Hashable, text: str) -> str:
        """Keep the statement about one row and its key for a shape."""
        statement = KeyedStatement(text)
        self._keep((database.dialect, database.schema_prefix, shape), statement)
        return statement

    def _keep(self, key: Hashable, text: str) -> None:
        if len(self._texts) >= _MOST:
            # Callers ask in so many ways that keeping the texts is of no use.
            self._texts.clear()
        self._texts[key] = text
