"""What callers ask with: filters, orders, and the cursors of keyset pages, as SQL.

Filters are a dict of field names with Peewee's lookups. Each lookup means the same on both
backends; where their SQL differs, the two ways stand side by side in one node.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from operator import and_, or_
from typing import Any, NamedTuple

import peewee
from peewee import OP, SQL, EnclosedNodeList, Expression, Node, Value

from hopper_data.errors import ValidationError, suggest
from hopper_data.fastpath import Outline
from hopper_data.fields import CheckedField, EnumField, JSONField, public_name, shorten, shown_value
from hopper_data.model import BaseModel, find_field
from hopper_data.rowsets import pg_type

__all__ = ["OrderKey", "after_cursor", "conditions", "make_cursor", "parse_order"]

_MANY = 500
_FEW = 10
_LONGEST_PATTERN = 50_000  # of SQLite


# -- filters --------------------------------------------------------------------------------------


def conditions(model: type[BaseModel], filters: Mapping[str, Any] | None) -> list[Node]:
    """The WHERE terms that a dict of filters stands for."""
    if filters is None:
        return []
    if not isinstance(filters, Mapping):
        raise ValidationError(
            f"filters is {type(filters).__name__}; it must be a dict such as "
            '{"status": "pending"}',
            "filters",
        )
    return [_condition(model, key, value) for key, value in filters.items()]


def outline(model: type[BaseModel], filters: Mapping[str, Any] | None) -> Outline | None:
    """The outline of the terms that `conditions()` would give, or None where it is not plain.

    What is wrong with a value is raised as there.
    """
    shape: list[Any] = []
    values: list[Any] = []
    if filters is None:
        return Outline((), values)
    if not isinstance(filters, Mapping):
        return None
    for key, value in filters.items():
        known = _plain_lookup(model, key)
        if known is None or (value is None and not known.nullable):
            return None
        if value is None:
            shape.append((key, None))
            continue
        items = value if known.many else (value,)
        if known.many and not (type(value) in (list, tuple) and 0 < len(value) <= _FEW):
            return None
        for item in items:
            encoded = None if item is None else known.encode(item)
            if encoded is None or isinstance(encoded, Node):
                return None
            values.append(encoded)
        shape.append((key, len(items)) if known.many else key)
    return Outline(tuple(shape), values)


def outline_sql(terms: Iterable[Any]) -> Outline | None:
    """The outline of terms of SQL that are written by hand; None when one is not."""
    shape: list[Any] = []
    values: list[Any] = []
    for term in terms:
        if type(term) is not SQL:
            return None
        shape.append(term.sql)
        values.extend(term.params or ())
    return Outline(tuple(shape), values)


class _PlainLookup(NamedTuple):
    encode: Callable[[Any], Any]
    nullable: bool
    many: bool


@lru_cache(maxsize=1000)
def _plain_lookup(model: type[BaseModel], key: str) -> _PlainLookup | None:
    """How a lookup is outlined whose statement depends on no value; None for any other."""
    name, separator, lookup = str(key).partition("__")
    field = model._meta.combined.get(name)
    lookup = lookup if separator else "eq"
    ranked = isinstance(field, EnumField) and field.ordered
    if not isinstance(field, CheckedField) or isinstance(field, JSONField):
        return None
    if lookup in ("lt", "lte", "gt", "gte") and ranked:
        return None
    if lookup not in ("eq", "ne", "lt", "lte", "gt", "gte", "in"):
        return None
    return _PlainLookup(field.lookup_value, lookup in ("eq", "ne"), lookup == "in")


def _condition(model: type[BaseModel], key: Any, value: Any) -> Node:
    name, separator, lookup = str(key).partition("__")
    field = find_field(model, name)
    lookup = lookup if separator else "eq"
    make = _LOOKUPS.get(lookup)
    if make is None:
        raise ValidationError(
            f"{model.__name__} filter {key!r}: there is no lookup {lookup!r}; "
            + suggest(lookup, _LOOKUPS),
            str(key),
        )
    return make(_Lookup(field, lookup, str(key)), value)


class _Lookup(NamedTuple):
    field: Any
    name: str
    key: str

    def value(self, value: Any) -> Node:
        """`value` as the column's parameter."""
        encoded = self.field.lookup_value(value)
        return encoded if isinstance(encoded, Node) else _parameter(encoded)

    def text(self, value: Any) -> str:
        """`value`, which must be a text, for a column that holds text."""
        if not isinstance(getattr(self.field, "rel_field", self.field), peewee._StringField):
            raise self.refuse("looks into text, which this column does not hold")
        if not isinstance(value, str):
            raise self.refuse(f"needs a text, not {self.show(value)}")
        if "\0" in value:
            raise self.refuse("has a NUL character in its pattern")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise self.refuse("has a lone surrogate in its pattern") from None
        return value

    def show(self, value: Any) -> str:
        """A value in a message."""
        return shown_value(self.field, value)

    def refuse(self, reason: str) -> ValidationError:
        """The error for a lookup that cannot be."""
        model = self.field.model.__name__
        return ValidationError(f"{model} filter {self.key!r}: {reason}", public_name(self.field))


def _parameter(value: Any) -> Value:
    return Value(value, converter=False, unpack=False)


def _equal(lookup: _Lookup, value: Any) -> Node:
    if value is None:
        return Expression(lookup.field, OP.IS, None)
    return Expression(lookup.field, OP.EQ, lookup.value(value))


def _not_equal(lookup: _Lookup, value: Any) -> Node:
    if value is None:
        return Expression(lookup.field, OP.IS_NOT, None)
    return Expression(lookup.field, OP.NE, lookup.value(value))


def _compare(operator: str) -> Callable[[_Lookup, Any], Node]:
    def make(lookup: _Lookup, value: Any) -> Node:
        field = lookup.field
        if isinstance(field, JSONField):
            raise lookup.refuse("a JSON document is neither more nor less than another")
        if value is None:
            raise lookup.refuse("cannot compare with None; use is_null")
        if isinstance(field, EnumField) and field.ordered:
            return _compare_places(lookup, operator, value)
        return Expression(field, operator, lookup.value(value))

    return make


def _compare_places(lookup: _Lookup, operator: str, value: Any) -> Node:
    words = [str(word) for word in lookup.field.enum]
    place = words.index(str(lookup.field.normalize(value)))
    chosen = {
        OP.LT: words[:place],
        OP.LTE: words[: place + 1],
        OP.GT: words[place + 1 :],
        OP.GTE: words[place:],
    }[operator]
    return _members(lookup, chosen)


def _in(lookup: _Lookup, value: Any) -> Node:
    items = _items(lookup, value)
    found = _members(lookup, [item for item in items if item is not None])
    return found | Expression(lookup.field, OP.IS, None) if None in items else found


def _not_in(lookup: _Lookup, value: Any) -> Node:
    items = _items(lookup, value)
    chosen = [item for item in items if item is not None]
    found = Expression(lookup.field, OP.NOT_IN, _list(lookup, chosen)) if chosen else SQL("(1 = 1)")
    return found & Expression(lookup.field, OP.IS_NOT, None) if None in items else found


def _items(lookup: _Lookup, value: Any) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise lookup.refuse(f"needs a list of values, not {lookup.show(value)}")
    return list(value)


def _members(lookup: _Lookup, items: list[Any]) -> Node:
    if not items:
        return SQL("(1 = 0)")
    return Expression(lookup.field, OP.IN, _list(lookup, items))


def _list(lookup: _Lookup, items: list[Any]) -> Node:
    if len(items) > _MANY and not isinstance(lookup.field, JSONField):
        return _ManyValues(lookup.field, [lookup.field.lookup_value(item) for item in items])
    return EnclosedNodeList([lookup.value(item) for item in items])


class _ManyValues(peewee.ColumnBase):
    """A long list as one parameter: drivers limit the number, and logs show the text."""

    def __init__(self, field: Any, items: list[Any]) -> None:
        self.field = field
        self.items = items

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "sqlite":
            ctx.literal("(SELECT value FROM json_each(")
            return ctx.value(json.dumps(self.items), converter=False).literal("))")
        ctx.literal("(SELECT value FROM jsonb_to_recordset(CAST(")
        ctx.value(json.dumps([{"value": item} for item in self.items]), converter=False)
        return ctx.literal(f" AS JSONB)) AS many(value {pg_type(self.field, ctx)}))")


def _is(lookup: _Lookup, value: Any) -> Node:
    if value is not None:
        raise lookup.refuse("takes None alone; to compare with a value leave the lookup out")
    negative = lookup.name == "is_not"
    return Expression(lookup.field, OP.IS_NOT if negative else OP.IS, None)


def _is_null(lookup: _Lookup, value: Any) -> Node:
    if not isinstance(value, bool):
        raise lookup.refuse(f"needs True or False, not {lookup.show(value)}")
    return Expression(lookup.field, OP.IS if value else OP.IS_NOT, None)


def _between(lookup: _Lookup, value: Any) -> Node:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise lookup.refuse(f"needs a pair (low, high), not {lookup.show(value)}")
    low: Any = _compare(OP.GTE)(lookup, value[0])
    found: Node = low & _compare(OP.LTE)(lookup, value[1])
    return found


# Patterns. Without regard to case means ASCII case, on both backends.


class _Like(peewee.ColumnBase):
    """`column LIKE pattern`, a backslash as escape, with or without regard to case."""

    def __init__(self, field: Any, pattern: str, *, fold: bool) -> None:
        self.field = field
        self.pattern = pattern
        self.fold = fold

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "sqlite" and not self.fold:
            # LIKE of SQLite never regards case; GLOB always does.
            ctx.literal("(").sql(self.field).literal(" GLOB ")
            return ctx.value(like_to_glob(self.pattern), converter=False).literal(")")
        operator = " ILIKE " if self.fold and ctx.state.dialect != "sqlite" else " LIKE "
        ctx.literal("(").sql(self.field).literal(operator)
        return ctx.value(self.pattern, converter=False).literal(" ESCAPE '\\')")


def like_to_glob(pattern: str) -> str:
    """A LIKE pattern, a backslash as its escape, as a GLOB pattern."""
    parts = []
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            parts.append("*")
        elif character == "_":
            parts.append("?")
        else:
            literal = next(characters) if character == "\\" else character
            parts.append(f"[{literal}]" if literal in "*?[" else literal)
    return "".join(parts)


def _escape_like(text: str) -> str:
    return re.sub(r"([\\%_])", r"\\\1", text)


def _like(lookup: _Lookup, value: Any) -> Node:
    pattern = lookup.text(value)
    if len(re.findall(r"\\*$", pattern)[0]) % 2:
        raise lookup.refuse("ends with a single backslash, which escapes nothing")
    return _matching(lookup, pattern, fold=lookup.name == "ilike")


def _matching(lookup: _Lookup, pattern: str, *, fold: bool) -> Node:
    longest = pattern if fold else like_to_glob(pattern)
    if len(longest.encode()) > _LONGEST_PATTERN:
        raise lookup.refuse(f"has a pattern of more than {_LONGEST_PATTERN:,} bytes")
    return _Like(lookup.field, pattern, fold=fold)


def _part(template: str) -> Callable[[_Lookup, Any], Node]:
    def make(lookup: _Lookup, value: Any) -> Node:
        if isinstance(lookup.field, JSONField) and lookup.name == "contains":
            lookup.value(value)
            return lookup.field.contains(value)
        pattern = template.format(_escape_like(lookup.text(value)))
        return _matching(lookup, pattern, fold=True)

    return make


class _Matches(peewee.ColumnBase):
    """`column` matches a regular expression."""

    def __init__(self, field: Any, pattern: str, *, fold: bool) -> None:
        self.field = field
        self.pattern = pattern
        self.fold = fold

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "sqlite":
            pattern = f"(?i){self.pattern}" if self.fold else self.pattern
            operator = " REGEXP "
        else:
            pattern = self.pattern
            operator = " ~* " if self.fold else " ~ "
        ctx.literal("(").sql(self.field).literal(operator)
        return ctx.value(pattern, converter=False).literal(")")


def _regexp(lookup: _Lookup, value: Any) -> Node:
    pattern = lookup.text(value)
    try:
        re.compile(pattern)
    except re.error as error:
        raise lookup.refuse(f"is not a regular expression: {error}") from None
    return _Matches(lookup.field, pattern, fold=lookup.name == "iregexp")


_LOOKUPS: dict[str, Callable[[_Lookup, Any], Node]] = {
    "eq": _equal,
    "ne": _not_equal,
    "lt": _compare(OP.LT),
    "lte": _compare(OP.LTE),
    "gt": _compare(OP.GT),
    "gte": _compare(OP.GTE),
    "in": _in,
    "not_in": _not_in,
    "is": _is,
    "is_not": _is,
    "is_null": _is_null,
    "between": _between,
    "like": _like,
    "ilike": _like,
    "contains": _part("%{}%"),
    "startswith": _part("{}%"),
    "endswith": _part("%{}"),
    "regexp": _regexp,
    "iregexp": _regexp,
}


# -- order ----------------------------------------------------------------------------------------


class Rank(peewee.ColumnBase):
    """The place of a word in its vocabulary, written so that an index on it is used."""

    def __init__(self, field: EnumField[Any]) -> None:
        self.field = field

    def __sql__(self, ctx: Any) -> Any:
        before, after = self.field.rank_sql("\0").split("\0")
        return ctx.literal(before).sql(self.field).literal(after)


class OrderKey(NamedTuple):
    """One key of an order: a field, and whether it runs down."""

    field: Any
    descending: bool

    @property
    def ranked(self) -> bool:
        """True for a vocabulary that sorts by meaning."""
        return isinstance(self.field, EnumField) and self.field.ordered

    @property
    def expression(self) -> Any:
        """What is sorted by."""
        return Rank(self.field) if self.ranked else self.field

    def node(self, *, materialize: bool = False) -> Node:
        """The term of ORDER BY. Rows without a value come last, in both directions."""
        expression = self.expression
        if materialize:
            expression = _Unindexed(expression)
        nulls = "LAST" if self.field.null else None
        return peewee.Ordering(expression, "DESC" if self.descending else "ASC", nulls=nulls)

    def encode(self, row: BaseModel) -> Any:
        """The key of one row, for a cursor."""
        value = row.__data__.get(self.field.name)
        if value is None:
            return None
        encoded = self.field.encode(value)
        return list(self.field.enum).index(value) if self.ranked else encoded

    def decode(self, value: Any) -> Node | None:
        """A key from a cursor, as a parameter."""
        if value is None:
            if not self.field.null:
                raise ValueError("this column is never empty")
            return None
        if self.ranked:
            return SQL(str(int(value)))
        return _parameter(self.field.lookup_value(value))


class _Unindexed(peewee.ColumnBase):
    """An expression that SQLite sorts by itself, instead of walking an index."""

    def __init__(self, expression: Any) -> None:
        self.expression = expression

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "sqlite":
            ctx.literal("+")
        return ctx.sql(self.expression)


def parse_order(model: type[BaseModel], order_by: str | Sequence[str] | None) -> list[OrderKey]:
    """The keys of `"-priority,created_at"`, with the primary key as the last tie-breaker."""
    known = order_by is None or isinstance(order_by, str)
    return list((_parse_order if known else _parse_order.__wrapped__)(model, order_by))


@lru_cache(maxsize=1000)
def _parse_order(model: type[BaseModel], order_by: Any) -> tuple[OrderKey, ...]:
    if order_by is not None and not isinstance(order_by, str | list | tuple):
        raise ValidationError(
            f'order_by is {shorten(order_by)}; it must be like "-priority,created_at"', "order_by"
        )
    parts = order_by.split(",") if isinstance(order_by, str) else list(order_by or ())
    keys: list[OrderKey] = []
    for part in parts:
        if not isinstance(part, str) or not part.strip(" -+"):
            raise ValidationError(
                f"order_by {shorten(order_by)} has an empty name; "
                'it must be like "-priority,created_at"',
                "order_by",
            )
        name = part.strip()
        field = find_field(model, name[1:] if name[0] in "-+" else name)
        if isinstance(field, JSONField):
            raise ValidationError(
                f"order_by {public_name(field)!r}: JSON documents have no order", "order_by"
            )
        # By name: two fields that are compared make an expression, which is always true.
        if field.name not in [key.field.name for key in keys]:
            keys.append(OrderKey(field, name.startswith("-")))
    named = {key.field.name for key in keys}
    keys.extend(
        OrderKey(field, descending=False)
        for field in model._meta.get_primary_keys()
        if field.name not in named
    )
    return tuple(keys)


# -- keyset pages ---------------------------------------------------------------------------------


def _signature(keys: Sequence[OrderKey]) -> str:
    return ",".join(f"{'-' if key.descending else ''}{public_name(key.field)}" for key in keys)


def make_cursor(keys: Sequence[OrderKey], row: BaseModel, scope: str = "") -> str:
    """The opaque place of `row` in an order; in some rows alone, where `scope` says in which."""
    whole = [scope] if scope else []
    payload = json.dumps([_signature(keys), [key.encode(row) for key in keys], *whole])
    return base64.urlsafe_b64encode(payload.encode()).decode().rstrip("=")


def after_cursor(
    keys: Sequence[OrderKey], cursor: Any, name: str = "after", scope: str = ""
) -> Node:
    """The condition for the rows behind a cursor, which callers call `name`."""
    values = _read_cursor(keys, cursor, name, scope)
    if _is_row_value(keys):
        operator = OP.LT if keys[0].descending else OP.GT
        return Expression(
            EnclosedNodeList([key.field for key in keys]), operator, EnclosedNodeList(values)
        )
    first, start = keys[0], values[0]
    edge = None
    if not first.field.null and start is not None:
        # So that an index on the first key is walked. What is not behind it is equal then.
        edge = Expression(first.expression, OP.LTE if first.descending else OP.GTE, start)
    alternatives: list[Any] = []
    equal: list[Node] = []
    for key, value in zip(keys, values, strict=True):
        behind = _behind(key, value)
        if behind is not None:
            alternatives.append(reduce(and_, [*equal, behind]))
        if edge is None or key is not first:
            equal.append(_same(key, value))
    found: Node = reduce(or_, alternatives)
    return found if edge is None else edge & found


def _is_row_value(keys: Sequence[OrderKey]) -> bool:
    """Whether the place in an order is compared as a whole."""
    simple = not any(key.field.null or key.ranked for key in keys)
    return simple and len({key.descending for key in keys}) == 1


def outline_after(keys: Sequence[OrderKey], cursor: Any) -> Outline | None:
    """The outline of `after_cursor()`, or None where its statement depends on the values."""
    found = []
    for node in _read_cursor(keys, cursor, "after"):
        if type(node) is not Value:
            return None
        found.append(node.value)
    if _is_row_value(keys):
        return Outline(("after",), found)
    if keys[0].field.null:
        parts = [found[: place + 1] for place in range(len(found))]
    else:
        parts = [found[:1], found[:1], *(found[1 : place + 1] for place in range(1, len(found)))]
    return Outline(("after",), [value for part in parts for value in part])


def _behind(key: OrderKey, value: Node | None) -> Any:
    if value is None:
        return None
    further = Expression(key.expression, OP.LT if key.descending else OP.GT, value)
    return further | Expression(key.field, OP.IS, None) if key.field.null else further


def _same(key: OrderKey, value: Node | None) -> Any:
    if value is None:
        return Expression(key.field, OP.IS, None)
    return Expression(key.expression, OP.EQ, value)


def _read_cursor(
    keys: Sequence[OrderKey], cursor: Any, name: str, scope: str = ""
) -> list[Node | None]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        signature, values, *scopes = json.loads(base64.urlsafe_b64decode(padded))
    except (TypeError, ValueError, RecursionError):
        raise _no_cursor(cursor, name) from None
    if not isinstance(signature, str) or not isinstance(values, list):
        raise _no_cursor(cursor, name)
    if signature != _signature(keys):
        raise ValidationError(
            f"{name} is a cursor of the order {shorten(signature)}, the page is asked for in "
            f"{_signature(keys)!r}",
            name,
        )
    if len(values) != len(keys):
        raise _no_cursor(cursor, name)
    if scopes != ([scope] if scope else []):
        raise ValidationError(f"{name} is a cursor of other rows; begin without one", name)
    try:
        return [key.decode(value) for key, value in zip(keys, values, strict=True)]
    except (TypeError, ValueError, OverflowError, ValidationError):
        raise _no_cursor(cursor, name) from None


def _no_cursor(cursor: Any, name: str) -> ValidationError:
    return ValidationError(
        f"{name} {shorten(cursor)} is not a cursor; give the `next` of a page", name
    )
