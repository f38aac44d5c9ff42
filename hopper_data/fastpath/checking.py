"""New rows of a caller's values, by code that is made for each model and each set of names.

`normalize_row()` looks up each name, and a field goes through all that may be wrong with a value.
Here a value that is right at first sight is taken as it is. Any other goes to its field, and a row
that lacks something to `normalize_row()`; they say what is wrong.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from hopper_data import fields as kinds
from hopper_data.fastpath.generating import ByNames, Known, compiled
from hopper_data.fastpath.statements import is_enabled
from hopper_data.model import BaseModel, default_values, missing_fields, normalize_row

__all__ = ["new_row"]

MakeRow = Callable[[Mapping[str, Any]], dict[str, Any]]


def new_row(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """What `normalize_row()` gives for a new row, or raises."""
    if not is_enabled():
        return normalize_row(model, values)
    known: ByNames[MakeRow] = model._meta.derived(_makers)
    return known[tuple(values)](values)


def _makers(model: type[BaseModel]) -> ByNames[MakeRow]:
    ask: MakeRow = partial(normalize_row, model)
    return ByNames(partial(_make_maker, model, ask), ask)


def _make_maker(model: type[BaseModel], ask: MakeRow, names: tuple[str, ...]) -> MakeRow | None:
    """The function that makes a row of values with these names, in this order.

    None where that would be of no use: nothing is given, or an unknown name, or one field twice,
    or not enough.
    """
    known = model._meta.combined
    given = [known[name] for name in names if name in known and name != "__composite_key__"]
    places = {field.name: f"v{place}" for place, field in enumerate(given)}
    if (
        not names
        or len(places) < len(names)
        or missing_fields(model, dict.fromkeys(places, "given"))
    ):
        return None
    fixed, made, moments = default_values(model)
    code: dict[str, Any] = {"ask": ask, "UTC": UTC, "datetime": datetime}
    source = f"def make(values):\n    {', '.join(places.values())}, = values.values()\n"
    for field in given:
        value = places[field.name]
        template, code[f"read_{value}"] = _check(field)
        expression = template.format(value=value, read=f"read_{value}")
        if field.null or field.name in fixed:
            expression = f"None if {value} is None else {expression}"
        else:
            source += f"    if {value} is None:\n        return ask(values)\n"
        source += f"    {value} = {expression}\n"
    items = dict(places)
    for number, (name, default) in enumerate(fixed.items()):
        code[f"fixed{number}"] = default
        if name not in items:
            items[name] = f"fixed{number}"
        elif not model._meta.fields[name].null:
            items[name] = f"fixed{number} if {items[name]} is None else {items[name]}"
    for number, (name, default) in enumerate(made):
        code[f"make{number}"] = default
        items.setdefault(name, f"make{number}()")
    for name, default in moments:
        if name in items:
            continue
        if "now" not in code:  # one moment for both, so that the row says that it is unchanged
            code["now"] = default
            source += "    moment = now()\n"
        items[name] = "moment"
    # In the order of the model, for the sake of the INSERT.
    ordered = [field.name for field in model._meta.sorted_fields if field.name in items]
    source += f"    row = {{{', '.join(f'{name!r}: {items[name]}' for name in ordered)}}}\n"
    for number, rule in enumerate(model._meta.rules.values()):
        code[f"holds{number}"], code[f"error{number}"] = rule.holds, partial(rule.error, model)
        source += f"    if not holds{number}(row):\n        raise error{number}()\n"
    made_row: MakeRow = compiled(source + "    return row\n", f"new {model.__name__}", code)
    return made_row


# How a value that is not None is checked: an expression of `{value}` and `{read}`, and what
# `{read}` stands for.

Check = tuple[str, Any]
_LARGEST = sys.float_info.max


def _check(field: Any) -> Check:
    make = _CHECKS.get(type(field), _by_field)  # one of a kind of its own may check more
    return make(field)


def _by_field(field: Any) -> Check:
    return "{read}({value})", field.normalize


def _plain(condition: str, field: Any) -> Check:
    return f"{{value}} if {condition} else {{read}}({{value}})", field.normalize


def _text(field: Any) -> Check:
    return _text_of(field, field.max_length)


def _key(field: Any) -> Check:
    key = field.rel_field
    return _text_of(field, key.max_length) if _CHECKS.get(type(key)) is _text else _by_field(field)


def _text_of(field: Any, most: int | None) -> Check:
    short = "" if most is None else f" and len({{value}}) <= {most:d}"
    ascii_text = "{value}.__class__ is str and {value}.isascii()"
    return _plain(f"{ascii_text} and '\\0' not in {{value}}{short}", field)


def _word(field: Any) -> Check:
    known = Known(field.normalize, map(str, field.enum))
    words = (str, field.enum)

    def read(value: Any) -> Any:
        return known[value] if value.__class__ in words else field.normalize(value)

    return "{read}({value})", read


def _number(field: Any, kind: type, low: float, high: float) -> Check:
    if not {type(field.minimum), type(field.maximum)} <= {int, float, type(None)}:
        return _by_field(field)
    low = low if field.minimum is None else max(low, field.minimum)
    high = high if field.maximum is None else min(high, field.maximum)
    is_kind = f"{{value}}.__class__ is {kind.__name__}"
    return _plain(f"{is_kind} and {low!r} <= {{value}} <= {high!r}", field)


def _document(field: Any) -> Check:
    normalize = field.normalize
    if field.items is not str:
        return _by_field(field)

    def read(value: Any) -> Any:
        if value.__class__ is not list:
            return normalize(value)
        for text in value:
            if text.__class__ is not str or not text or not text.isascii() or "\0" in text:
                return normalize(value)
        return value.copy()

    return "{read}({value})", read


_CHECKS: dict[type, Callable[[Any], Check]] = {
    kinds.CharField: _text,
    kinds.TextField: _text,
    kinds.EnumField: _word,
    kinds.IntegerField: lambda field: _number(field, int, -(2**31), 2**31 - 1),
    kinds.FloatField: lambda field: _number(field, float, -_LARGEST, _LARGEST),
    kinds.BooleanField: lambda field: _plain("{value}.__class__ is bool", field),
    kinds.UTCDateTimeField: lambda field: _plain(
        "{value}.__class__ is datetime and {value}.tzinfo is UTC", field
    ),
    kinds.JSONField: _document,
    kinds.ForeignKeyField: _key,
}
