"""Fields that hold the same values, and refuse the same values, on every backend.

Each field has three steps. `normalize()` answers with the value as reading it back will give it,
or raises a `ValidationError` in the caller's words; `encode()` turns that into what goes to the
database; `python_value()`, which is Peewee's, comes back from there. What a field declares (a
vocabulary, a range) also becomes a CHECK constraint of its column.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload
from uuid import UUID

import peewee
from peewee import SQL, Node

from hopper_data.errors import DatabaseError, ValidationError
from hopper_data.errors import shorten as shorten

__all__ = [
    "BooleanField",
    "CharField",
    "EnumField",
    "FloatField",
    "ForeignKeyField",
    "IntegerField",
    "JSONField",
    "TextField",
    "UTCDateTimeField",
    "UUID7Field",
    "utcnow",
]

_V = TypeVar("_V")
_E = TypeVar("_E", bound=StrEnum)
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_JSON_DEPTH = 200
_JSON_LIMIT = 2**1024  # of a double
_INT32 = 2**31


def utcnow() -> datetime:
    """The present moment, aware and in UTC."""
    return datetime.now(UTC)


TICK = timedelta(microseconds=1)
"""The least by which one moment is after another."""


def moved_on(given: datetime, before: datetime) -> datetime:
    """`given` where it is after `before`; else the present moment, which is after it at any rate.

    So `updated_at` changes with every update, and never goes back.
    """
    return given if given > before else max(utcnow(), before + TICK)


if TYPE_CHECKING:
    _Field = peewee.Field
else:
    # Peewee's fields are generic for type checkers alone.
    class _Field(peewee.Field, Generic[_V]):
        pass


class CheckedField(_Field[_V]):
    """What the fields of the package share.

    `server_default=True` gives the column a default in the database too, so that rows of other
    programs are right: the field's own default, or the present moment for a time. A field that is
    `secret` is in no message; one that `folds_case` is unique without regard to case.
    """

    model: Any
    name: str
    secret: bool = False
    folds_case: bool = False

    def __init__(self, *args: Any, server_default: bool = False, **kwargs: Any) -> None:
        self.server_default = server_default
        super().__init__(*args, **kwargs)

    def default_sql(self, dialect: str) -> str:  # noqa: ARG002 - of those that override it
        """The column's default as SQL."""
        value = self.encode(self.normalize(self.default))
        return f"'{value}'" if isinstance(value, str) else str(value)

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> Any:
        """The value that is stored, or a `ValidationError` that names `field` (this one)."""
        raise NotImplementedError

    def comparable(self, value: Any) -> Any:
        """A value to compare with; refuses what a backend would refuse, and no more."""
        return self.normalize(value)

    def encode(self, value: Any) -> Any:
        """What the database is given for a normalized value."""
        return value

    def db_value(self, value: Any) -> Any:
        if value is None or isinstance(value, Node):
            return value
        return self.encode(self.normalize(value))

    def lookup_value(self, value: Any) -> Any:
        """What the database is given for a value to compare with."""
        if value is None or isinstance(value, Node):
            return value
        return self.encode(self.comparable(value))

    def check_clause(self) -> str | None:
        """The body of the column's CHECK constraint, or None."""
        return None

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        super().bind(model, name, set_attribute)
        clause = self.check_clause()
        if clause:
            constraint = f"ck_{model._meta.full_name}_{self.column_name}"
            self.constraints = [SQL(f'CONSTRAINT "{constraint}" CHECK ({clause})')]

    def ddl(self, ctx: Any) -> Any:
        column = super().ddl(ctx)
        if self.server_default:
            # Behind the name and the type.
            column.nodes.insert(2, SQL(f"DEFAULT {self.default_sql(ctx.state.dialect)}"))
        return column


def refuse(field: peewee.Field[Any], value: object, expected: str) -> ValidationError:
    """The error for a value that a field does not accept."""
    name = public_name(field)
    shown = shown_value(field, value)
    return ValidationError(f"{field.model.__name__} {name} {shown} {expected}", name)


def shown_value(field: Any, value: object) -> str:
    """A value in a message. One that is secret, or may be in the wrong place, is not shown."""
    misplaced = isinstance(value, dict | list | tuple) and any(
        other.secret for other in field.model._meta.sorted_fields
    )
    return "(hidden)" if field.secret or misplaced else shorten(value)


def fold_case(text: str) -> str:
    """What two spellings of a text have in common where the case of A to Z does not count.

    The same as LOWER of our columns on both backends.
    """
    return text.encode().lower().decode()


def public_name(field: peewee.Field[Any]) -> str:
    """The name that callers use for a field: the column's."""
    return str(field.column_name)


def _check_text(text: Any, field: peewee.Field[Any], what: str = "is") -> str:
    if not isinstance(text, str):
        raise refuse(field, text, f"{what} {type(text).__name__}; it must be text")
    if "\0" in text:
        raise refuse(field, text, "contains a NUL character, which no text can hold")
    if not text.isascii() and _SURROGATE.search(text):
        raise refuse(field, text, "contains a lone surrogate, which is not a character")
    return str(text) if type(text) is not str else text


class _TextField(CheckedField[_V]):
    max_length: Any = None

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> Any:
        text = _check_text(value, field or self)
        if self.max_length is not None and len(text) > self.max_length:
            raise refuse(
                field or self,
                text,
                f"has {len(text):,} characters; {self.max_length:,} are the most",
            )
        return text

    def comparable(self, value: Any) -> Any:
        return _check_text(value, self)

    def python_value(self, value: Any) -> Any:
        return value

    def ddl_datatype(self, ctx: Any) -> Any:
        # PostgreSQL sorts text by the locale of the database, SQLite by code point. "C" is the
        # latter, is the same everywhere, and lets an index serve prefixes.
        datatype = super().ddl_datatype(ctx)
        if ctx.state.dialect == "postgresql":
            return SQL(f'{datatype.sql} COLLATE "C"')
        return datatype


class CharField(_TextField[_V], peewee.CharField):
    """Text of at most `max_length` characters."""

    if TYPE_CHECKING:

        @overload
        def __new__(
            cls, max_length: int = ..., *, null: Literal[True], **kwargs: Any
        ) -> CharField[str | None]: ...
        @overload
        def __new__(
            cls, max_length: int = ..., *, null: Literal[False] = ..., **kwargs: Any
        ) -> CharField[str]: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...


class TextField(_TextField[_V], peewee.TextField):
    """Text of any length."""

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *, null: Literal[True], **kwargs: Any) -> TextField[str | None]: ...
        @overload
        def __new__(cls, *, null: Literal[False] = ..., **kwargs: Any) -> TextField[str]: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...


class PatternsAreText:
    """For a field whose values are words of a kind, which the pattern of a search is not."""

    cast: Any

    def contains(self, rhs: Any) -> Any:
        return peewee.ColumnBase.contains(self.cast("TEXT"), rhs)

    def startswith(self, rhs: Any) -> Any:
        return peewee.ColumnBase.startswith(self.cast("TEXT"), rhs)

    def endswith(self, rhs: Any) -> Any:
        return peewee.ColumnBase.endswith(self.cast("TEXT"), rhs)


class EnumField(PatternsAreText, _TextField[_V], peewee.CharField):
    """One word of a closed vocabulary, a member of `enum` in Python.

    `ordered=True` sorts by the order of the members, from first to last, not by the alphabet.
    `transitions` maps each member to the members that may follow it; every way of writing the
    field through a repository or `save()` obeys it.
    """

    @overload
    def __init__(
        self: EnumField[_E | None],
        enum: type[_E],
        max_length: int = ...,
        *,
        null: Literal[True],
        **kwargs: Any,
    ) -> None: ...
    @overload
    def __init__(
        self: EnumField[_E], enum: type[_E], max_length: int = ..., **kwargs: Any
    ) -> None: ...
    def __init__(
        self,
        enum: type[StrEnum],
        max_length: int = 50,
        *,
        ordered: bool = False,
        transitions: Mapping[Any, tuple[Any, ...]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.enum = enum
        self.ordered = ordered
        self.transitions = transitions
        super().__init__(max_length, **kwargs)

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> Any:
        try:
            return self.enum(value)
        except ValueError:
            choices = ", ".join(self.enum)
            raise refuse(field or self, value, f"is not one of {choices}") from None

    def comparable(self, value: Any) -> Any:
        return self.normalize(value)

    def encode(self, value: Any) -> str:
        return str(value)

    def python_value(self, value: Any) -> Any:
        return value if value is None else self.enum(value)

    def check_clause(self) -> str:
        words = ", ".join(f"'{member}'" for member in self.enum)
        return f'"{self.column_name}" IN ({words})'

    def sources(self, new: str) -> list[str]:
        """The statuses that `new` may follow, itself included."""
        if self.transitions is None:
            return [str(member) for member in self.enum]
        return [
            str(old) for old, allowed in self.transitions.items() if new in allowed or old == new
        ]

    def rank_sql(self, column: str) -> str:
        """SQL for the place of a column's word among the members, for sorting and indexes."""
        arms = " ".join(f"WHEN '{word}' THEN {place}" for place, word in enumerate(self.enum))
        return f"(CASE {column} {arms} END)"


class _RangeField(CheckedField[_V]):
    def __init__(
        self,
        *args: Any,
        minimum: float | None = None,
        maximum: float | None = None,
        **kwargs: Any,
    ) -> None:
        self.minimum = minimum
        self.maximum = maximum
        super().__init__(*args, **kwargs)

    def check_clause(self) -> str | None:
        column = f'"{self.column_name}"'
        bounds = []
        if self.minimum is not None:
            bounds.append(f"{column} >= {self.minimum}")
        if self.maximum is not None:
            bounds.append(f"{column} <= {self.maximum}")
        return " AND ".join(bounds) or None

    def check_range(self, value: Any, field: peewee.Field[Any] | None) -> None:
        low, high = self.minimum, self.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            if high is None:
                expected = f"is below {low}"
            elif low is None:
                expected = f"is above {high}"
            else:
                expected = f"is not between {low} and {high}"
            raise refuse(field or self, value, expected)


class IntegerField(_RangeField[_V], peewee.IntegerField):
    """A whole number of 32 bits."""

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *, null: Literal[True], **kwargs: Any) -> IntegerField[int | None]: ...
        @overload
        def __new__(cls, *, null: Literal[False] = ..., **kwargs: Any) -> IntegerField[int]: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> int:
        number = check_integer(value, field or self)
        self.check_range(number, field)
        return number

    def comparable(self, value: Any) -> int:
        return check_integer(value, self)


def check_integer(value: Any, field: peewee.Field[Any]) -> int:
    """`value` if it is a whole number that a column of 32 bits can hold."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise refuse(field, value, f"is {type(value).__name__}; it must be a whole number")
    if not -_INT32 <= value < _INT32:
        raise refuse(field, value, f"is outside {-_INT32:,} to {_INT32 - 1:,}")
    return int(value)


class AutoField(CheckedField[_V], peewee.AutoField):
    """A number that the database gives."""

    if TYPE_CHECKING:

        def __new__(cls, **kwargs: Any) -> AutoField[int]: ...

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> int:
        return check_integer(value, field or self)


class FloatField(_RangeField[_V], peewee.DoubleField):
    """A finite number in double precision."""

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *, null: Literal[True], **kwargs: Any) -> FloatField[float | None]: ...
        @overload
        def __new__(cls, *, null: Literal[False] = ..., **kwargs: Any) -> FloatField[float]: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> float:
        number = _check_number(value, field or self)
        self.check_range(number, field)
        return number

    def comparable(self, value: Any) -> float:
        return _check_number(value, self)

    def python_value(self, value: Any) -> Any:
        return value if value is None else float(value)


def _check_number(value: Any, field: peewee.Field[Any]) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(field, value, f"is {type(value).__name__}; it must be a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise refuse(field, value, "is not a finite number")
    return number


class BooleanField(CheckedField[_V], peewee.BooleanField):
    """True or False."""

    if TYPE_CHECKING:

        @overload
        def __new__(cls, *, null: Literal[True], **kwargs: Any) -> BooleanField[bool | None]: ...
        @overload
        def __new__(cls, *, null: Literal[False] = ..., **kwargs: Any) -> BooleanField[bool]: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> bool:
        if not isinstance(value, bool):
            raise refuse(
                field or self, value, f"is {type(value).__name__}; it must be True or False"
            )
        return value

    def default_sql(self, dialect: str) -> str:
        if dialect == "sqlite":
            return str(int(self.default))
        return "TRUE" if self.default else "FALSE"

    def python_value(self, value: Any) -> Any:
        return value if value is None else bool(value)


class UTCDateTimeField(CheckedField[_V], peewee.Field):
    """A moment, aware and in UTC, with microseconds.

    `timestamptz` on PostgreSQL. On SQLite it is text of a fixed width, which sorts as time does:
    `2026-01-02 03:04:05.000006+00:00`.
    """

    field_type = "TIMESTAMPTZ"

    if TYPE_CHECKING:

        @overload
        def __new__(
            cls, *, null: Literal[True], **kwargs: Any
        ) -> UTCDateTimeField[datetime | None]: ...
        @overload
        def __new__(
            cls, *, null: Literal[False] = ..., **kwargs: Any
        ) -> UTCDateTimeField[datetime]: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> datetime:
        return to_utc(value, field or self)

    def encode(self, value: datetime) -> str:
        return value.isoformat(" ", "microseconds")

    def python_value(self, value: Any) -> Any:
        if value is None:
            return None
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)

    def default_sql(self, dialect: str) -> str:
        if dialect == "sqlite":
            return "(strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now'))"
        return "CURRENT_TIMESTAMP"

    def ddl_datatype(self, ctx: Any) -> Any:
        return SQL("DATETIME" if ctx.state.dialect == "sqlite" else self.field_type)


def to_utc(value: Any, field: peewee.Field[Any]) -> datetime:
    """`value`, a datetime with a zone or its ISO 8601 text, in UTC."""
    moment = value
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(_check_text(value, field))
        except ValueError:
            raise refuse(field, value, "is not a time in ISO 8601") from None
    if not isinstance(moment, datetime):
        raise refuse(field, value, f"is {type(value).__name__}; it must be a datetime")
    if moment.utcoffset() is None:
        raise refuse(
            field, value, "is a naive time; give it a zone, such as datetime.now(timezone.utc)"
        )
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise refuse(field, value, "is outside the years 1 to 9999 in UTC") from None


def new_uuid7() -> UUID:
    """A UUID of version 7: those that one process makes rise."""
    # Imports a parser of email for the sake of its own version number.
    from uuid6 import uuid7

    return UUID(int=uuid7().int)


class UUID7Field(CheckedField[UUID], peewee.UUIDField):
    """A UUID of version 7, made when none is given: `uuid` on PostgreSQL, text on SQLite."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("default", new_uuid7)
        super().__init__(**kwargs)

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> UUID:
        if isinstance(value, UUID):
            return value
        if not isinstance(value, str):
            raise refuse(field or self, value, f"is {type(value).__name__}; it must be a UUID")
        try:
            return UUID(value)
        except ValueError:
            raise refuse(field or self, value, "is not a UUID") from None

    def encode(self, value: UUID) -> str:
        return str(value)

    def python_value(self, value: Any) -> Any:
        return value if value is None or isinstance(value, UUID) else UUID(value)


# -- JSON -----------------------------------------------------------------------------------------


class JSONText(Node):
    """A JSON document as a parameter of a statement."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "postgresql":
            return ctx.literal("CAST(").value(self.text, converter=False).literal(" AS JSONB)")
        return ctx.value(self.text, converter=False)


def json_text(encoded: Any) -> Any:
    """The text of a document, where it is to travel as a parameter by itself."""
    return encoded.text if isinstance(encoded, JSONText) else encoded


def plain_json(value: Any, field: peewee.Field[Any], depth: int = 0) -> Any:
    """`value` as plain JSON data, copied; refuses what one of the backends would refuse.

    Text enums, aware datetimes (ISO 8601 with Z) and UUIDs are written as text. JSON has one kind
    of number: 2.0 is 2, so that equal documents are found by each other on both backends.
    """
    if value.__class__ is str:  # what there is most of
        return _check_text(value, field)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        return plain_json(value.value, field, depth)
    if isinstance(value, str):
        return _check_text(value, field)
    if isinstance(value, int):
        if abs(value) >= _JSON_LIMIT:
            raise refuse(field, value, "is a number beyond the range of JSON numbers")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise refuse(field, value, "is not finite; JSON has no NaN and no infinity")
        return int(value) if value.is_integer() else float(value)
    if depth > _MAX_JSON_DEPTH:
        raise refuse(field, "...", f"is nested deeper than {_MAX_JSON_DEPTH} levels")
    if isinstance(value, dict):
        return {
            _check_text(key, field, "has a key that is"): plain_json(item, field, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain_json(item, field, depth + 1) for item in value]
    if isinstance(value, datetime):
        return to_utc(value, field).isoformat().replace("+00:00", "Z")
    if isinstance(value, UUID):
        return str(value)
    raise refuse(field, value, f"holds {type(value).__name__}, which JSON cannot express")


def dump_json(value: Any) -> str:
    """Compact JSON with sorted keys, so that equal documents are equal texts."""
    return _ENCODER.encode(value)


def dump_texts(texts: Sequence[str]) -> str:
    """What `dump_json()` gives for a list of nothing but texts, in half of the time."""
    return f"[{','.join(map(_ENCODER.encode, texts))}]"


# `json.dumps` would make one each time.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), sort_keys=True, allow_nan=False
)


class _PostgresqlJSONMethods(peewee.PostgresqlJSONMethods):  # type: ignore[name-defined]
    def _jsonb_wrap(self, field: Any, value: Any) -> JSONText:
        return JSONText(dump_json(plain_json(value, field)))


class _SqliteJSONMethods(peewee.SqliteJSONMethods):  # type: ignore[name-defined]
    def _wrap_value(self, field: Any, value: Any) -> Any:
        return super()._wrap_value(field, plain_json(value, field))


class _JSONAccessor(peewee.FieldAccessor):
    """Remembers a document when it is first handed out, so that changes in place are seen."""

    def __get__(self, instance: Any, instance_type: Any = None) -> Any:
        if instance is None:
            return self.field
        value = instance.__data__.get(self.name)
        if isinstance(value, list | dict) and self.name not in instance._dirty:
            seen = instance.__dict__.setdefault("_json_seen", {})
            if self.name not in seen:
                seen[self.name] = dump_json(value)
        return value


class JSONField(CheckedField[Any], peewee.JSONField):
    """A JSON document: JSONB on PostgreSQL, JSON text on SQLite.

    `items=str` accepts only a list of non-empty texts. Nothing about the field depends on the
    database that it was last used with, so one process may use several at once.
    """

    accessor_class = _JSONAccessor
    _loads: Any
    _dumps: Any

    def __init__(
        self, *, items: type[str] | None = None, secret: bool = False, **kwargs: Any
    ) -> None:
        self.items = items
        self.secret = secret
        self._loads = json.loads
        self._dumps = dump_json
        self.server_default = False
        # Peewee's own __init__ and bind() keep the state of one database on the field.
        peewee.Field.__init__(self, **kwargs)

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        peewee.Field.bind(self, model, name, set_attribute)

    def _db_hook(self, database: Any) -> None:
        """Nothing to remember."""

    @property
    def _helper(self) -> Any:
        database = self.model._meta.database
        database = getattr(database, "obj", database)
        if database.dialect == "postgresql":
            return _PostgresqlJSONMethods(database)
        return _SqliteJSONMethods(database)

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> Any:
        plain = plain_json(value, field or self)
        if self.items is not None and plain is not None:
            check_text_list(plain, field or self)
        return plain

    def comparable(self, value: Any) -> Any:
        return plain_json(value, self)

    def encode(self, value: Any) -> JSONText:
        return JSONText(dump_json(value))

    def text(self, value: Any) -> str:
        """The text that is stored for a value."""
        return dump_json(self.normalize(value))

    def python_value(self, value: Any) -> Any:
        if not isinstance(value, str | bytes):
            return value
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            pass  # not in the chain of the error below, since it carries the whole text
        raise DatabaseError(
            f"{self.model.__name__} {public_name(self)} of a stored row is not JSON: "
            f"{shown_value(self, value)}; another program has written it"
        )

    def to_value(self, value: Any) -> Any:
        return value if isinstance(value, Node) else self.db_value(value)

    def case_value(self, value: Any) -> Any:
        return self.to_value(value)

    def ddl_datatype(self, ctx: Any) -> Any:
        return SQL("JSONB" if ctx.state.dialect == "postgresql" else "TEXT")


def check_text_list(value: Any, field: peewee.Field[Any]) -> None:
    """Refuse all but a list of non-empty texts."""
    if not isinstance(value, list):
        raise refuse(field, value, f"is {type(value).__name__}; it must be a list of texts")
    for item in value:
        if not isinstance(item, str) or not item:
            raise refuse(
                field, value, f"holds {shorten(item)}; every item must be a non-empty text"
            )


# -- relations ------------------------------------------------------------------------------------


class ForeignKeyField(CheckedField[_V], peewee.ForeignKeyField):
    """A reference to a row of another table, checked as that table's key is."""

    if TYPE_CHECKING:

        def __new__(cls, model: Any, **kwargs: Any) -> ForeignKeyField[Any]: ...

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> Any:
        return self.rel_field.normalize(self._key_of(value), field or self)

    def comparable(self, value: Any) -> Any:
        return self.rel_field.comparable(self._key_of(value))

    def _key_of(self, value: Any) -> Any:
        return getattr(value, self.rel_field.name) if isinstance(value, self.rel_model) else value

    def encode(self, value: Any) -> Any:
        return self.rel_field.encode(value)

    def python_value(self, value: Any) -> Any:
        return value if isinstance(value, self.rel_model) else self.rel_field.python_value(value)

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        super().bind(model, name, set_attribute)
        # SQLite and PostgreSQL would name it differently, or not at all.
        self.constraint_name = f"fk_{model._meta.full_name}_{self.column_name}"

    def ddl_datatype(self, ctx: Any) -> Any:
        if isinstance(self.rel_field, peewee.AutoField):
            return super().ddl_datatype(ctx)
        return self.rel_field.ddl_datatype(ctx)
