"""The INSERT of one row, written once for the columns that rows have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hopper_data import fastpath, rowsets
from hopper_data.database import Database
from hopper_data.fastpath.generating import Regulars
from hopper_data.model import BaseModel

__all__ = ["insert_row"]


def insert_row(
    database: Database, model: type[BaseModel], row: dict[str, Any], known: fastpath.Statements
) -> None:
    """Write a normalized row, and put into it the number that the database gives, if it does."""
    meta = model._meta
    numbered = meta.auto_increment and row.get(meta.primary_key.name) is None
    if numbered:
        row.pop(meta.primary_key.name, None)
    for name in meta.derived(_always_named):
        row.setdefault(name)
    names, values = tuple(row), None
    sql = known.known(database, ("insert", *names))
    if sql is None and not meta.derived(Regulars).know(names):
        # Columns may come together in any number of ways. One INSERT of all will do for most.
        names, values = _whole(model, row, numbered=numbered)
        sql = known.known(database, ("insert", *names))
    if sql is None:
        fields = [meta.fields[name] for name in names if name in meta.fields]
        returned = [meta.primary_key] if numbered else []
        text = rowsets.insert_row_sql(database, model, fields, returned)
        sql = known.keep(database, ("insert", *names), text)
    cursor = database.send(sql, fastpath.parameters(model, row) if values is None else values)
    if numbered:
        ((row[meta.primary_key.name],),) = cursor.fetchall()


def _whole(
    model: type[BaseModel], row: dict[str, Any], *, numbered: bool
) -> tuple[tuple[str, ...], Sequence[Any]]:
    """The names of all columns, and their parameters."""
    names = [field.name for field in model._meta.sorted_fields if not field.auto_increment]
    values = fastpath.row_parameters(model, row)
    if model._meta.auto_increment and not numbered:
        key = model._meta.primary_key.name
        return (*names, key), (*values, row[key])
    return tuple(names), values


def _always_named(model: type[BaseModel]) -> list[str]:
    """The fields that an INSERT names in any case, since what it leaves out must be NULL.

    Those whose column has a default that the model does not know as its own; and one more where
    nothing but its number may be in a row, since there is no INSERT of no columns.
    """
    plain = [field for field in model._meta.sorted_fields if not field.auto_increment]
    names = [
        field.name
        for field in plain
        if field.default is None
        and (
            getattr(field, "server_default", False)
            or any("DEFAULT" in _text_of(clause).upper() for clause in field.constraints or ())
        )
    ]
    return names or [field.name for field in plain[:1] if model._meta.auto_increment]


def _text_of(clause: Any) -> str:
    return str(getattr(clause, "sql", "DEFAULT"))  # of a tree of Peewee's it is not known
