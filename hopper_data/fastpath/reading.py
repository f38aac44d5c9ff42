"""Models from rows, by code that is made for each model from its fields.

Peewee looks up how to read a column, and sets it through its descriptor, for each value of each
row. Here that is written out once. The instances are what Peewee's would be.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import peewee

from hopper_data import fields as kinds
from hopper_data.fastpath.generating import Known, compiled
from hopper_data.model import BaseModel

__all__ = ["build_models", "without_collection"]

M = TypeVar("M", bound=BaseModel)
Build = Callable[[Sequence[Sequence[Any]]], list[Any]]
_LONG = 1000


def build_models(model: type[M], rows: Sequence[Sequence[Any]]) -> list[M]:
    """Models of rows that have the columns of `model` in their order, as if just read."""
    build: Build = model._meta.derived(_make_builder)
    if len(rows) < _LONG:
        return build(rows)
    with without_collection():
        return build(rows)


@contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection inside the block, which would go through all new rows many times."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _make_builder(model: type[BaseModel]) -> Build:
    """The function that builds a list of models, made from the declaration of the model."""
    fields = model._meta.sorted_fields
    # Most columns of a row are empty, and a dict is copied sooner than it is filled.
    empty = dict.fromkeys(field.name for field in fields)
    new: Callable[..., Any] = model.__new__
    if model.__init__ is not BaseModel.__init__:  # which may set attributes of its own
        new = partial(model, __no_default__=True)
    names: dict[str, Any] = {"model": model, "new": new, "empty": empty.copy, **_SHARED}
    source = (
        "def build(rows):\n"
        "    models = []\n"
        "    append = models.append\n"
        f"    for {''.join(f'c{number}, ' for number in range(len(fields)))}in rows:\n"
        "        data = empty()\n"
    )
    for number, field in enumerate(fields):
        template, names[f"read{number}"] = _reader(field)
        expression = template.format(value=f"c{number}", read=f"read{number}")
        # A field of somebody else's may make something of nothing.
        given = f"if c{number} is not None: " if _is_known(field) else ""
        source += f"        {given}data[{field.name!r}] = {expression}\n"
    source += (
        f"        instance = new({'' if isinstance(new, partial) else 'model'})\n"
        "        instance.__data__ = data\n"
        "        instance._dirty = set()\n"
        "        instance.__rel__ = {}\n"
        "        append(instance)\n"
        "    return models\n"
    )
    build: Build = compiled(source, f"rows of {model.__name__}", names)
    return build


# How a column is read: an expression of `{value}`, which is not None where the field is known, and
# `{read}`, and what `{read}` stands for. Each leaves to the field what it does not know.

Reader = tuple[str, Any]
_AS_IT_IS: Reader = ("{value}", None)
_SHARED = {"UTC": UTC, "fromisoformat": datetime.fromisoformat}


def _is_known(field: Any) -> bool:
    return type(field).python_value in _READERS


def _reader(field: Any) -> Reader:
    make = _READERS.get(type(field).python_value)
    return make(field) if make else ("{read}({value})", field.python_value)


def _adapted(field: Any) -> Reader:
    whole = type(field).adapt is peewee.IntegerField.adapt
    return _exactly(int, field) if whole else ("{read}({value})", field.python_value)


def _exactly(kind: type, field: Any) -> Reader:
    known = f"{{value}}.__class__ is {kind.__name__}"
    return f"{{value}} if {known} else {{read}}({{value}})", field.python_value


def _one_of(field: Any, values: Iterable[Any]) -> Reader:
    return "{read}[{value}]", Known(field.python_value, values)


def _moment(field: Any) -> Reader:
    moment = "(m := fromisoformat({value}) if {value}.__class__ is str else {value})"
    return f"m if {moment}.tzinfo is UTC else {{read}}({{value}})", field.python_value


def _document(field: Any) -> Reader:
    decoder: Any = json.JSONDecoder()
    scan = decoder.scan_once

    def read(value: Any) -> Any:
        if type(value) is str:
            try:
                document, end = scan(value, 0)
            except (StopIteration, ValueError, RecursionError):
                end = -1  # white space first, or no JSON
            if end == len(value):
                return document
        return field.python_value(value)

    return "{read}({value})", read


_READERS: dict[Callable[..., Any], Callable[[Any], Reader]] = {
    peewee.Field.python_value: _adapted,
    kinds.TextField.python_value: lambda _: _AS_IT_IS,
    kinds.EnumField.python_value: lambda field: _one_of(field, map(str, field.enum)),
    kinds.BooleanField.python_value: lambda field: _one_of(field, (False, True)),
    kinds.FloatField.python_value: lambda field: _exactly(float, field),
    kinds.UTCDateTimeField.python_value: _moment,
    kinds.JSONField.python_value: _document,
    kinds.ForeignKeyField.python_value: lambda field: _reader(field.rel_field),
}
