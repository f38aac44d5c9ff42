"""Every error a caller can meet.

.. code-block:: text

    DatabaseError                     base of all; `retryable` says whether trying again can help
    ├── DatabaseUnavailable           no server, no connection, a lock not given in time
    │   └── PoolTimeout               every connection of the pool stayed taken
    ├── DatabaseNotFound              a SQLite file that must exist does not
    ├── SchemaVersionMismatch         the database is ahead of (or not at) what the code knows
    ├── IntegrityError                a key is taken, a parent is missing, a CHECK says no
    ├── ValidationError               a value, a name or an argument is wrong
    │   └── InvalidTransition         a status may not follow another
    ├── NotFound                      a row that must exist does not
    └── LeaseLost                     a task is no longer the worker's who claimed it

Exceptions of Peewee and of the drivers never reach a caller: they are the `__cause__`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = [
    "DatabaseError",
    "DatabaseNotFound",
    "DatabaseUnavailable",
    "IntegrityError",
    "InvalidTransition",
    "LeaseLost",
    "NotFound",
    "PoolTimeout",
    "SchemaVersionMismatch",
    "ValidationError",
]


class DatabaseError(Exception):
    """Something about the database went wrong.

    `retryable` is true when the same transaction may succeed if it is run again: the connection
    dropped, the server restarted, or a deadlock or a serialization race was lost.
    """

    retryable: bool = False

    def __init__(self, message: str, *, retryable: bool | None = None) -> None:
        super().__init__(message)
        if retryable is not None:
            self.retryable = retryable

    def __reduce__(self) -> tuple[Any, ...]:
        # Python would call the class with the message alone, and a pool of processes would hang.
        return _rebuild, (type(self), self.args), self.__dict__


def _rebuild(kind: type[DatabaseError], args: tuple[Any, ...]) -> DatabaseError:
    error = kind.__new__(kind)
    error.args = args
    return error


class DatabaseUnavailable(DatabaseError):
    """The database cannot be reached, or did not answer within its time."""

    retryable = True


class PoolTimeout(DatabaseUnavailable):
    """No connection of the pool became free within the time that a caller may wait."""

    retryable = False


class DatabaseNotFound(DatabaseError):
    """The SQLite file that must exist does not."""


class SchemaVersionMismatch(DatabaseError):
    """The database stands at a migration that this code does not know, or not at its newest.

    `current` and `expected` are names of migrations, or None for a database without any.
    """

    def __init__(self, current: str | None, expected: str | None, message: str = "") -> None:
        super().__init__(
            message
            or f"the database is at migration {current or 'none'!r}, this code expects "
            f"{expected or 'none'!r}: install the version of hopper_data that wrote it"
        )
        self.current = current
        self.expected = expected


class IntegrityError(DatabaseError):
    """A constraint of the database refused a write. `constraint` is its name, where known."""

    def __init__(self, message: str, constraint: str | None = None) -> None:
        super().__init__(message)
        self.constraint = constraint


class ValidationError(DatabaseError):
    """A value, a name or an argument is not acceptable. `field` is the one that is wrong."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InvalidTransition(ValidationError):
    """A status may not follow the one that the row has. `old` and `new` are the two."""

    def __init__(
        self, old: str, new: str, allowed: Iterable[str] = (), *, subject: str = "status"
    ) -> None:
        choices = ", ".join(allowed) or "nothing"
        super().__init__(
            f"{subject} cannot go from {str(old)!r} to {str(new)!r}; "
            f"from {str(old)!r} it can go to {choices}",
            "status",
        )
        self.old = str(old)
        self.new = str(new)


class NotFound(DatabaseError):
    """The row that a caller counts on does not exist."""


class LeaseLost(DatabaseError):
    """The token is not, or no longer, that of the task's lease; nothing was changed."""


def suggest(name: object, known: Iterable[str]) -> str:
    """`did you mean …?`, or the whole choice where nothing is close."""
    import difflib  # rarely needed, and felt at import

    choices = list(known)
    close = difflib.get_close_matches(str(name), choices, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(choices)}"


def shorten(value: object) -> str:
    """`repr(value)`, cut to what fits into a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, thousands of brackets
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 80 else f"{text[:77]}..."
