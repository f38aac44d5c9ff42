"""Statements of a caller's own: their placeholders, their values, and what they may not do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from enum import Enum
from functools import cache, lru_cache
from math import isfinite
from typing import Any
from uuid import UUID

from hopper_data.errors import ValidationError, shorten

__all__ = ["LEADING", "bind_parameters", "check_sql", "control_word", "refuse_end"]

_INT64 = 2**63
_LONGEST_KEPT = 10_000
# Possessive: what was skipped is never tried in other portions, which would take for ever.
LEADING = r"(?s:[\s;\ufeff]|--[^\n]*\n|/\*.*?\*/)*+"
"""What may stand before the first word of a statement, as a regular expression."""
_INSIDE = LEADING + r"(SAVEPOINT|RELEASE|SET|ROLLBACK(?:\s+WORK|\s+TRANSACTION)?\s+TO)\b"
_CONTROL = (
    LEADING
    + r"(SAVEPOINT|RELEASE|ROLLBACK|COMMIT|BEGIN|END|ABORT|SET(?=\s+TRANSACTION\b)"
    + r"|(?:START|PREPARE)(?=\s+TRANSACTION\b))\b"
)
# A trigger of SQLite has statements of its own, and is one statement all the same.
_TRIGGER_BODY = r"^(\s*CREATE\s+(?:TEMP\s+|TEMPORARY\s+)?TRIGGER\b.*?)\bBEGIN\b.*\bEND\b"
_BODY = LEADING + r"(CREATE|DO)\b"  # of a trigger or a function, which has statements inside
_QUOTES = "eE'\"$-/"
_TOKENS = r"""
    (?<![A-Za-z0-9_])[eE]'(?:[^'\\]|\\.|'')*'   # text with escapes, of PostgreSQL
  | '(?:[^']|'')*'                              # text
  | "(?:[^"]|"")*"                              # a name
  | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$             # text of PostgreSQL between tags
  | --[^\n]*                                    # a comment
  | /\*.*?\*/
  | ::                                          # a cast of PostgreSQL
  | \?(?![|&])                                  # a placeholder, not an operator of JSONB
  | %s | %% | %
  | :(?P<name>[A-Za-z_]\w*)
"""


@cache
def _pattern(text: str, flags: int) -> re.Pattern[str]:
    return re.compile(text, flags | re.DOTALL)


def control_word(sql: str) -> str:
    """The first word of a statement about savepoints or the transaction, or nothing."""
    match = _pattern(_CONTROL, re.IGNORECASE).match(sql)
    return match[1].upper() if match else ""


def _blank(match: re.Match[str]) -> str:
    return " " if match[0][0] in _QUOTES else match[0]


def refuse_end(sql: str) -> None:
    """Refuse two statements at once, and one that would end, or begin, a session's transaction."""
    plain = _pattern(_TOKENS, re.VERBOSE).sub(_blank, sql) if ";" in sql else ""
    plain = _pattern(_TRIGGER_BODY, re.IGNORECASE).sub(r"\1", plain)
    if ";" in plain.strip("; \n\t\r") and not _pattern(_BODY, re.IGNORECASE).match(sql):
        raise ValidationError("sql has several statements; execute() runs one at a time", "sql")
    word = control_word(sql)
    if word and not _pattern(_INSIDE, re.IGNORECASE).match(sql):
        raise ValidationError(
            f"a session ends its own transaction, and {word} would do so too early: leave the "
            "`with` block to commit, raise to roll back; SAVEPOINT and ROLLBACK TO may be used",
            "sql",
        )


def bind_parameters(
    sql: str, params: Sequence[Any] | Mapping[str, Any] | None, dialect: str
) -> tuple[str, tuple[Any, ...] | None]:
    """`sql` with the placeholders of the driver, and its values in their order."""
    marker = "%s" if dialect == "postgresql" else "?"
    if not params:
        # The driver of PostgreSQL looks for placeholders even when there are no values.
        return (sql.replace("%", "%%") if marker == "%s" else sql), None
    if isinstance(params, str | bytes) or not isinstance(params, Sequence | Mapping):
        raise ValidationError(
            f"params is {type(params).__name__}; it must be a sequence such as (value,) or a dict",
            "params",
        )
    statement, values = _place(sql, params, marker)
    return statement, tuple(_parameter(value, dialect) for value in values)


def check_sql(sql: Any) -> None:
    """Refuse what is no statement as text."""
    if not isinstance(sql, str) or not sql.strip():
        raise ValidationError(f"sql is {shorten(sql)}; it must be a statement as text", "sql")
    _check_text(sql, "sql")


def _check_text(text: str, name: str) -> None:
    if "\0" in text:
        raise ValidationError(f"{name} contains a NUL character, which no text can hold", name)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError(
            f"{name} contains a lone surrogate, which is not a character", name
        ) from None


def _place(
    sql: str, params: Sequence[Any] | Mapping[str, Any], marker: str
) -> tuple[str, list[Any]]:
    if isinstance(params, Mapping):
        return _place_named(sql, params, marker)
    place = _place_positional if len(sql) <= _LONGEST_KEPT else _place_positional.__wrapped__
    statement, places = place(sql, marker)
    if places != len(params):
        raise ValidationError(
            f"the statement has {places} placeholders, params has {len(params)} values", "params"
        )
    return statement, list(params)


def _place_named(sql: str, params: Mapping[str, Any], marker: str) -> tuple[str, list[Any]]:
    values: list[Any] = []

    def replace(match: re.Match[str]) -> str:
        name = match["name"]
        if not name:
            return _escape_percent(match[0], marker)
        if name not in params:
            raise ValidationError(f"the statement names :{name}, params does not", "params")
        values.append(params[name])
        return marker

    return _pattern(_TOKENS, re.VERBOSE).sub(replace, sql), values


@lru_cache(maxsize=500)
def _place_positional(sql: str, marker: str) -> tuple[str, int]:
    places = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal places
        if match[0] not in ("?", "%s"):
            return _escape_percent(match[0], marker)
        places += 1
        return marker

    return _pattern(_TOKENS, re.VERBOSE).sub(replace, sql), places


def _escape_percent(text: str, marker: str) -> str:
    if marker == "%s":
        return text if text == "%%" else text.replace("%", "%%")
    return "%" if text == "%%" else text


def _parameter(value: Any, dialect: str) -> Any:
    """A value as every driver takes it, so that it meets what the fields have stored."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        _check_text(value, "params")
        return str(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValidationError(f"params has {shorten(value)}; 64 bits are the most", "params")
    if isinstance(value, float) and not isfinite(value):
        raise ValidationError(f"params has {value}, which is not a finite number", "params")
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValidationError(f"params has a naive time, {value!r}; give it a zone", "params")
        value = value.astimezone(UTC)
        return value if dialect == "postgresql" else value.isoformat(" ", "microseconds")
    if isinstance(value, UUID) or (isinstance(value, date) and dialect == "sqlite"):
        return str(value)
    plain = value is None or isinstance(value, int | float | bytes | memoryview | bytearray)
    if plain or (dialect == "postgresql" and not isinstance(value, Mapping)):
        return value
    raise ValidationError(
        f"params has {type(value).__name__}, which is no value of a column; write JSON as text",
        "params",
    )
