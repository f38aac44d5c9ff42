"""Statements that PostgreSQL keeps ready, so that it reads and plans each once for a connection."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["KeyedStatement", "ReadyStatements"]

# What is known of a statement on a connection: since when it is ready, or one of these.
_RUN_ONCE, _STALE, _NEVER = -1.0, -2.0, -3.0
_MOST = 200
# After a statement has taken so long, it is planned again, but not more often than this.
_LONG_S, _RENEWED_S = 0.001, 1.0
_IS_THERE, _IS_NOT_THERE, _HAS_CHANGED = "42P05", "26000", "0A000"


class KeyedStatement(str):
    """A statement of ours about one row and its key: one plan serves all values.

    `prepare`, `call` and `forget` are for the driver, with `%s` for values. The name is made of the
    text, so that whoever has the name means the same.
    """

    __slots__ = ("call", "forget", "prepare")

    def __init__(self, text: str) -> None:
        from hashlib import sha256

        name = f"hopper_{sha256(text.encode()).hexdigest()[:32]}"
        first, *others = text.split("%s")
        numbered = "".join(f"${number}{part}" for number, part in enumerate(others, 1))
        self.forget = f"DEALLOCATE {name}; "
        self.prepare = f"PREPARE {name} AS {first}{numbered}; "
        values = f"({', '.join(['%s'] * len(others))})" if others else ""
        self.call = f"EXECUTE {name}{values}"


class ReadyStatements:
    """What the server keeps ready for the connections of a database.

    A `KeyedStatement` is kept from the second time on that a connection runs it. Where the server
    turns out not to have it, because something stands between or has thrown it away, all go as text
    from then on. One that has taken long is planned again: the plan of a small table, which reads
    all of it, would stay as the table grows.
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
        since = known.get(sql)
        if since is None or since == _NEVER:
            cursor.execute(ahead + sql, params)
            if since is None and len(known) < _MOST:
                known[sql] = _RUN_ONCE
            return
        start = time.monotonic()
        if since < 0:
            forget = sql.forget if since == _STALE else ""
            cursor.execute(ahead + forget + sql.prepare + sql.call, params)
            known[sql] = start
            return
        cursor.execute(ahead + sql.call, params)
        if time.monotonic() - start > _LONG_S and start - since > _RENEWED_S:
            known[sql] = _STALE

    def must_repeat(self, connection: Any, error: Any, sql: str) -> bool:
        """Whether a statement failed only for the way in which it was kept ready."""
        if sql.__class__ is not KeyedStatement:
            return False
        state, known = getattr(error, "pgcode", None), self._of(connection)
        if state == _IS_THERE and known.get(sql, _NEVER) < 0:
            known[sql] = time.monotonic()  # made by another one, of the same text
        elif state == _IS_NOT_THERE and self.enabled:
            self.enabled = False
        elif state == _HAS_CHANGED and known.get(sql, _NEVER) != _NEVER:
            known[sql] = _NEVER  # a column has another type now
        else:
            return False
        return True

    def _of(self, connection: Any) -> dict[str, float]:
        known = self._known.get(connection)
        if known is None:
            known = self._known[connection] = {}
        return known
