"""Statements that PostgreSQL keeps ready, so that it reads and plans each once for a connection."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["KeyedStatement", "ReadyStatements"]

# How often a connection has run a statement, as far as it is of interest.
_FROM, _IS_READY, _NEVER = 1, 2, -inf
_MOST = 200
_IS_THERE, _IS_NOT_THERE, _HAS_CHANGED = "42P05", "26000", "0A000"


class KeyedStatement(str):
    """A statement of ours about one row and its key: one plan serves all values.

    `prepare` and `call` are for the driver, with `%s` for values. The name is made of the text, so
    that whoever has the name means the same.
    """

    __slots__ = ("call", "prepare")

    def __init__(self, text: str) -> None:
        from hashlib import sha256

        name = f"hopper_{sha256(text.encode()).hexdigest()[:32]}"
        first, *others = text.split("%s")
        numbered = "".join(f"${number}{part}" for number, part in enumerate(others, 1))
        self.prepare = f"PREPARE {name} AS {first}{numbered}; "
        values = f"({', '.join(['%s'] * len(others))})" if others else ""
        self.call = f"EXECUTE {name}{values}"


class ReadyStatements:
    """What the server keeps ready for the connections of a database.

    A `KeyedStatement` is kept from the second time on that a connection runs it. Where the server
    turns out not to have it, because something stands between or has thrown it away, all go as text
    from then on.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._known: WeakKeyDictionary[Any, dict[str, float]] = WeakKeyDictionary()

    def execute(self, cursor: Any, ahead: str, sql: str, params: Sequence[Any]) -> None:
        """Run `ahead` and a statement in one round trip."""
        if sql.__class__ is not KeyedStatement or not self.enabled:
            cursor.execute(ahead + sql, params)
            return
        known = self._of(cursor.connection)
        times = known.get(sql, 0)
        if times < _FROM:
            cursor.execute(ahead + sql, params)
            if sql in known or len(known) < _MOST:
                known[sql] = times + 1
            return
        make = "" if times == _IS_READY else sql.prepare
        cursor.execute(ahead + make + sql.call, params)
        known[sql] = _IS_READY

    def must_repeat(self, connection: Any, error: Any, sql: str) -> bool:
        """Whether a statement failed only for the way in which it was kept ready."""
        if sql.__class__ is not KeyedStatement:
            return False
        state, known = getattr(error, "pgcode", None), self._of(connection)
        if state == _IS_THERE:
            known[sql] = _IS_READY  # made by another one, of the same text
        elif state == _IS_NOT_THERE:
            self.enabled = False
        elif state == _HAS_CHANGED and known.get(sql) == _IS_READY:
            known[sql] = _NEVER  # a column has another type now
        else:
            return False
        return True

    def _of(self, connection: Any) -> dict[str, float]:
        return self._known.setdefault(connection, {})
