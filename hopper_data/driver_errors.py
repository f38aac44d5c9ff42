"""The one place that turns what Peewee and the drivers raise into our errors."""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Protocol

import peewee

from hopper_data.config import DatabaseConfig
from hopper_data.errors import (
    DatabaseError,
    DatabaseNotFound,
    DatabaseUnavailable,
    IntegrityError,
    ValidationError,
)

__all__ = ["ConstraintViolation", "Described", "locked", "translate", "translated"]


class Described(Protocol):
    """What an error says of the database it came from."""

    label: str
    config: DatabaseConfig

    def has_lost_connection(self) -> bool:
        """Whether the server has ended the connection in use, or the driver knows it broken."""
        ...


class ConstraintViolation(IntegrityError):
    """What the driver told about a refused write, before a repository puts it into words.

    `kind` is one of unique, foreign_key, not_null and check; `table` and `columns` say where, as
    far as the backend tells; `referenced` is the table that still points at the row.
    """

    def __init__(
        self,
        message: str,
        constraint: str | None = None,
        *,
        kind: str,
        table: str = "",
        columns: tuple[str, ...] = (),
        values: tuple[str, ...] = (),
        referenced: str = "",
    ) -> None:
        super().__init__(message, constraint)
        self.kind = kind
        self.table = table
        self.columns = columns
        self.values = values
        self.referenced = referenced


_CONNECTION_STATES = ("08", "57P", "53300")
# Of any driver. The last is asyncpg's, which loses count when the server ends a connection.
_CONNECTION_ERRORS = frozenset({"OperationalError", "InterfaceError", "InternalClientError"})
_RETRYABLE_STATES = ("40001", "40P01")
_TIME_STATES = ("55P03", "57014")  # a lock, or an answer, did not come in the time that was set
_SCHEMA_STATES = ("42P01", "42883")  # a table, or a function of ours, is not there
_DATA_STATES = ("22", "54000")
_PG_KINDS = {
    "23505": "unique",
    "23503": "foreign_key",
    "23502": "not_null",
    "23514": "check",
    "23P01": "unique",
}
_PG_DETAIL = re.compile(r"Key \((?P<columns>.*?)\)=\((?P<values>.*)\) (?P<what>.*)", re.DOTALL)
_SQLITE_COLUMNS = re.compile(r"constraint failed: (?P<what>.+)")


def translate(error: BaseException, database: Described) -> DatabaseError:
    """The error of ours that says what `error`, of Peewee or of a driver, means."""
    original = getattr(error, "orig", None) or error
    state = getattr(original, "pgcode", None) or getattr(original, "sqlstate", None)
    if isinstance(original, sqlite3.Error):
        return _translate_sqlite(original, database)
    if state:
        return _translate_state(state, original, database)
    # psycopg2 does not always have a better class for a lost connection than DatabaseError, which
    # it uses for nothing else that has no code; nor is the connection always there to be asked.
    bare = (type(original).__module__, type(original).__name__) == ("psycopg2", "DatabaseError")
    lost = bare or isinstance(original, OSError) or database.has_lost_connection()
    if lost or any(base.__name__ in _CONNECTION_ERRORS for base in type(original).__mro__):
        return DatabaseUnavailable(f"{database.label}: {_first_line(original)}")
    return DatabaseError(f"{database.label}: {_first_line(original)}")


def _translate_state(state: str, original: BaseException, database: Described) -> DatabaseError:
    if state in _PG_KINDS:
        return _violation(_PG_KINDS[state], original)
    if state.startswith(_CONNECTION_STATES):
        return DatabaseUnavailable(f"{database.label}: {_first_line(original)}")
    if state in _TIME_STATES:
        return DatabaseUnavailable(f"{database.label}: {_first_line(original)}", retryable=False)
    if state in _RETRYABLE_STATES:
        return DatabaseError(
            f"the transaction lost a race and was rolled back: {_first_line(original)}",
            retryable=True,
        )
    if state.startswith(_DATA_STATES):
        return ValidationError(f"the database refused a value: {_first_line(original)}")
    if state in _SCHEMA_STATES:
        return DatabaseError(
            f"{_first_line(original)} in {database.label}: run `hopper-data migrate` first"
        )
    # A column has another type now; asyncpg prepares its statements anew from here on.
    outdated = type(original).__name__ == "InvalidCachedStatementError"
    return DatabaseError(f"{database.label}: {_first_line(original)}", retryable=outdated)


def _violation(kind: str, original: BaseException) -> ConstraintViolation:
    # psycopg2 keeps these on `diag`, asyncpg on the exception itself.
    diag = getattr(original, "diag", original)
    constraint = getattr(diag, "constraint_name", None)
    table = getattr(diag, "table_name", None) or ""
    match = _PG_DETAIL.match(
        getattr(diag, "message_detail", None) or getattr(diag, "detail", None) or ""
    )
    columns: tuple[str, ...] = ()
    values: tuple[str, ...] = ()
    referenced = ""
    if match:
        columns = tuple(part.strip(' "') for part in match["columns"].split(","))
        values = tuple(match["values"].split(", ")) if len(columns) > 1 else (match["values"],)
        if "still referenced" in match["what"]:
            referenced = match["what"].rpartition('table "')[2].rstrip('".')
    elif kind == "not_null":
        columns = (getattr(diag, "column_name", None) or "",)
    return ConstraintViolation(
        _first_line(original),
        constraint,
        kind=kind,
        table=table,
        columns=columns,
        values=values,
        referenced=referenced,
    )


_SQLITE_KINDS = {
    "SQLITE_CONSTRAINT_UNIQUE": "unique",
    "SQLITE_CONSTRAINT_PRIMARYKEY": "unique",
    "SQLITE_CONSTRAINT_ROWID": "unique",
    "SQLITE_CONSTRAINT_FOREIGNKEY": "foreign_key",
    "SQLITE_CONSTRAINT_NOTNULL": "not_null",
    "SQLITE_CONSTRAINT_CHECK": "check",
}


def _translate_sqlite(original: sqlite3.Error, database: Described) -> DatabaseError:
    name = getattr(original, "sqlite_errorname", None) or ""
    text = str(original)
    if name in _SQLITE_KINDS:
        return _sqlite_violation(_SQLITE_KINDS[name], text)
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return locked(database)
    if name == "SQLITE_CANTOPEN":
        return DatabaseNotFound(f"{database.label} cannot be opened: {text}")
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return DatabaseError(f"{database.label} is not a sound SQLite database: {text}")
    if name.startswith(("SQLITE_TOOBIG", "SQLITE_MISMATCH")) or "malformed JSON" in text:
        return ValidationError(f"the database refused a value: {text}")
    if "no such table" in text:
        return DatabaseError(f"{text} in {database.label}: run `hopper-data migrate` first")
    return DatabaseError(f"{database.label}: {text}")


def locked(database: Described) -> DatabaseUnavailable:
    """The error of a writer on SQLite whose turn did not come."""
    return DatabaseUnavailable(
        f"{database.label} is locked by another writer "
        f"(waited {database.config.busy_timeout_ms} ms)",
        retryable=False,
    )


def _sqlite_violation(kind: str, text: str) -> ConstraintViolation:
    match = _SQLITE_COLUMNS.search(text)
    what = match["what"] if match else ""
    if kind == "check":
        return ConstraintViolation(text, what or None, kind=kind)
    if what.startswith("index "):
        return ConstraintViolation(text, what[6:].strip("'"), kind=kind)
    parts = [part.partition(".") for part in what.split(", ")] if what else []
    table = parts[0][0] if parts else ""
    return ConstraintViolation(
        text, kind=kind, table=table, columns=tuple(column for _, _, column in parts)
    )


def _first_line(error: BaseException) -> str:
    """The driver's own words without the statement, which may hold the caller's values."""
    diag = getattr(error, "diag", None)
    text = getattr(diag, "message_primary", None) or str(error)
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class translated:  # noqa: N801  # reads as what it does
    """Turn what Peewee and the drivers raise into our errors, the original as the cause.

    The cause keeps its class and its code, and of its text the first line alone.
    """

    __slots__ = ("_database",)

    def __init__(self, database: Described) -> None:
        self._database = database

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or isinstance(error, DatabaseError) or not isinstance(error, Exception):
            return
        # The drivers are not imported here, and Peewee does not wrap all that they raise.
        ours = isinstance(error, peewee.PeeweeException | sqlite3.Error | OSError)
        if ours or type(error).__module__.startswith(("psycopg2", "asyncpg")):
            raise translate(error, self._database) from without_values(error)


def without_values(error: Any) -> BaseException:
    """`error` of a driver, or of Peewee around one, with no more than its first line.

    What follows there is a statement with its values, or a whole row, such as one that a
    constraint refuses. It may hold credentials, and errors are logged.
    """
    original = getattr(error, "orig", None) or error
    if isinstance(original, sqlite3.Error | OSError):
        return error  # type: ignore[no-any-return]  # these name columns and files
    text = _first_line(original)
    plain: Any = type(original)(text)
    state = getattr(original, "pgcode", None)
    if state:
        plain.__setstate__({"pgcode": state})  # as psycopg2 does for a copy
    if original is not error:
        error.orig, error.args = plain, (text,)
        error.__cause__ = error.__context__ = plain
        return error  # type: ignore[no-any-return]
    # It stays in the chain of contexts.
    error.args = (text,)
    if state:
        error.__setstate__({"pgcode": state, "pgerror": text, "cursor": None})
    for name in ("detail", "context", "internal_query"):
        if name in vars(error):
            setattr(error, name, None)
    return plain  # type: ignore[no-any-return]
