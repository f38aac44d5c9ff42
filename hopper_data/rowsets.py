"""Many rows in one statement: a JSON document as the table that a statement reads from.

One parameter carries any number of rows, so bulk work needs no batches of placeholders, and the
statement is the same text for ten rows as for ten thousand. `json_each` on SQLite and
`jsonb_array_elements` on PostgreSQL are the two ways to read it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import peewee

from hopper_data.database import Database
from hopper_data.fields import (
    CheckedField,
    EnumField,
    ForeignKeyField,
    JSONField,
    UTCDateTimeField,
    UUID7Field,
    dump_json,
    json_text,
)

__all__ = ["delete_rows", "insert_rows", "update_rows", "upsert_row_sql"]

_CHUNK = 10_000
Row = Mapping[str, Any]


def chunks(rows: Iterable[Any], size: int = _CHUNK) -> Iterator[list[Any]]:
    """Lists of at most `size`, enough to keep one parameter below the limits of both backends."""
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield chunk


def rowset(database: Database, fields: Sequence[Any], alias: str = "v") -> str:
    """SQL for a table `alias` of the columns of `fields`, read from one JSON parameter."""
    items = {
        "sqlite": f"json_each({database.param})",
        "postgresql": f"jsonb_array_elements(CAST({database.param} AS JSONB)) AS row(value)",
    }
    columns = ", ".join(
        f'{_item(database, field, place)} AS "{field.column_name}"'
        for place, field in enumerate(fields)
    )
    return f"(SELECT {columns} FROM {items[database.dialect]}) AS {alias}"


def _item(database: Database, field: Any, place: int) -> str:
    """The value of a field in a row of `document()`."""
    if isinstance(field, JSONField):
        return f"nullif(value -> {place}, 'null')"  # what is not given, since no document is null
    if database.dialect == "sqlite":
        return f"value ->> {place}"
    return _as_of(field, f"value ->> {place}", database)


def _as_of(field: Any, text: str, database: Database) -> str:
    """A text as a value of a field, for PostgreSQL."""
    kind, _, collation = pg_type(field, database.get_sql_context()).partition(" COLLATE ")
    return f"CAST({text} AS {kind}){f' COLLATE {collation}' if collation else ''}"


def pg_type(field: Any, ctx: Any) -> str:
    """The type of PostgreSQL in which the values of a field are compared."""
    if isinstance(getattr(field, "rel_field", field), peewee.AutoField):
        return "INTEGER"
    if isinstance(getattr(field, "rel_field", field), peewee._StringField):
        # Without its length: a key that is too long for the column is one that no row has.
        return 'TEXT COLLATE "C"'
    return str(field.ddl_datatype(ctx).sql)


def document(fields: Sequence[Any], rows: Sequence[Row]) -> str:
    """Normalized rows as the JSON that `rowset` reads: for each the values of `fields`."""
    return dump_json([*zip(*(_column(field, rows) for field in fields), strict=True)])


def _column(field: Any, rows: Sequence[Row]) -> list[Any]:
    name, encode = field.name, _encoder(field)
    if encode is None:
        return [row.get(name) for row in rows]
    return [None if (value := row.get(name)) is None else encode(value) for row in rows]


def _encoder(field: Any) -> Callable[[Any], Any] | None:
    """What encodes a value of a field; None where it travels as it is."""
    if isinstance(field, ForeignKeyField):
        return _encoder(field.rel_field)
    if type(field).encode in (JSONField.encode, CheckedField.encode):
        return None
    if isinstance(field, JSONField):  # with an `encode()` of its own
        return lambda value: json.loads(json_text(field.encode(value)))
    if type(field).encode in _REPEATED:
        return _Encoded(field).__getitem__
    encode: Callable[[Any], Any] = field.encode
    return encode


# Of somebody else's fields, equal values may be different texts, or have no hash.
_REPEATED = {EnumField.encode, UTCDateTimeField.encode, UUID7Field.encode}


class _Encoded(dict[Any, Any]):
    """Values of a field, encoded: many rows have the same words, keys and moments."""

    def __init__(self, field: Any) -> None:
        self._encode = field.encode

    def __missing__(self, value: Any) -> Any:
        encoded = self[value] = self._encode(value)
        return encoded


def is_among(database: Database, fields: Sequence[Any]) -> str:
    """The condition that a row has one of the keys of a parameter, made by `key_document()`."""
    if len(fields) > 1:
        keys = f"SELECT {columns(fields, 'v.')} FROM {rowset(database, fields)}"
    elif database.dialect == "sqlite":
        keys = f"SELECT value FROM json_each({database.param})"
    else:
        keys = (
            f"SELECT {_as_of(fields[0], 'value', database)} "
            f"FROM jsonb_array_elements_text(CAST({database.param} AS JSONB))"
        )
        # An array of keys is looked up in the index in one go.
        return f"{columns(fields)} = ANY(ARRAY({keys}))"
    return f"({columns(fields)}) IN ({keys})"


def key_document(fields: Sequence[Any], keys: Sequence[Row]) -> str:
    """Keys as the JSON that `is_among()` reads."""
    if len(fields) > 1:
        return document(fields, keys)
    name, encode = fields[0].name, fields[0].encode
    values = [key.get(name) for key in keys]
    return dump_json([value if value is None else encode(value) for value in values])


def table_name(model: type[Any], database: Database) -> str:
    """The quoted name of a model's table in a database."""
    return ".".join(f'"{part}"' for part in model._meta.path(database))


def columns(fields: Iterable[Any], prefix: str = "") -> str:
    """Quoted names of columns, separated by commas."""
    return ", ".join(f'{prefix}"{field.column_name}"' for field in fields)


def insert_rows(database: Database, model: type[Any], rows: list[dict[str, Any]]) -> None:
    """Insert normalized rows. Keys that the database gives are put into the rows."""
    fields = model._meta.sorted_fields
    if not model._meta.auto_increment:
        _insert(database, model, fields, rows)
        return
    key = model._meta.primary_key
    numbered: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    for row in rows:
        (others if row.get(key.name) is None else numbered).append(row)
    _insert(database, model, fields, numbered)
    _insert(database, model, [field for field in fields if field is not key], others, key)


def _insert(
    database: Database,
    model: type[Any],
    fields: Sequence[Any],
    rows: list[dict[str, Any]],
    key: Any = None,
) -> None:
    """Insert the `fields` of rows; the database gives the `key`, if it is named."""
    statement = (
        f"INSERT INTO {table_name(model, database)} ({columns(fields)}) "
        f"SELECT {columns(fields, 'v.')} FROM {rowset(database, fields)} WHERE true"
    )
    if key is not None:
        statement += f" RETURNING {columns([key])}"
    for chunk in chunks(rows):
        cursor = database.execute_sql(statement, (document(fields, chunk),))
        if key is not None:
            for row, (value,) in zip(chunk, cursor.fetchall(), strict=True):
                row[key.name] = value


def update_rows(
    database: Database, model: type[Any], names: Iterable[str], rows: list[dict[str, Any]]
) -> int:
    """Set the fields `names` of the rows with the given keys; how many of the rows were there."""
    keys = model._meta.get_primary_keys()
    changed = [field for field in model._meta.sorted_fields if field.name in set(names)]
    table = table_name(model, database)
    assignments = ", ".join(
        assignment(database, field, f'v."{field.column_name}"', table) for field in changed
    )
    match = " AND ".join(
        f'{table}."{field.column_name}" = v."{field.column_name}"' for field in keys
    )
    fields = [*keys, *changed]
    statement = f"UPDATE {table} SET {assignments} FROM {rowset(database, fields)} WHERE {match}"
    count = 0
    for chunk in chunks(rows):
        count += database.execute_sql(statement, (document(fields, chunk),)).rowcount
    return count


def delete_rows(database: Database, model: type[Any], rows: list[dict[str, Any]]) -> int:
    """Delete the rows with the given keys; the number of rows that were there."""
    keys = model._meta.get_primary_keys()
    statement = f"DELETE FROM {table_name(model, database)} WHERE {is_among(database, keys)}"
    count = 0
    for chunk in chunks(rows):
        count += database.execute_sql(statement, (key_document(keys, chunk),)).rowcount
    return count


def placeholder(field: Any, database: Database) -> str:
    """The placeholder for a parameter of a statement that is written by hand."""
    if isinstance(field, JSONField) and database.dialect == "postgresql":
        return "CAST(%s AS JSONB)"
    return str(database.param)


def insert_row_sql(
    database: Database, model: type[Any], fields: Sequence[Any], returned: Sequence[Any] = ()
) -> str:
    """INSERT of one row, whose parameters are those of `fields` in their order."""
    table = table_name(model, database)
    places = ", ".join(placeholder(field, database) for field in fields)
    returning = f" RETURNING {columns(returned)}" if returned else ""
    return f"INSERT INTO {table} ({columns(fields)}) VALUES ({places}){returning}"


def update_row_sql(
    database: Database,
    model: type[Any],
    fields: Sequence[Any],
    guards: Mapping[Any, Sequence[str]],
) -> str:
    """UPDATE of one row, where `guards` allow it, that returns the columns of the row.

    The parameters are those of `fields`, then those of the key.
    """
    table = table_name(model, database)
    assignments = ", ".join(
        assignment(database, field, placeholder(field, database), table) for field in fields
    )
    return (
        f"UPDATE {table} SET {assignments} "
        f"WHERE {' AND '.join([key_terms(database, model), *_among(guards)])} "
        f"RETURNING {columns(model._meta.sorted_fields)}"
    )


def assignment(database: Database, field: Any, value: str, table: str) -> str:
    """What sets a column of `table`; `updated_at` does not go back, whoever waited for whom."""
    name = f'"{field.column_name}"'
    if field.name == "updated_at":
        value = moved_on_sql(database.dialect, value, f"{table}.{name}")
    return f"{name} = {value}"


def moved_on_sql(dialect: str, moment: str, stored: str) -> str:
    """An `updated_at` that does not go back, whatever the clocks of the machines say."""
    if dialect == "sqlite":
        return f"max({moment}, {stored})"
    return f"greatest({moment}, {stored} + INTERVAL '1 microsecond')"


def delete_row_sql(database: Database, model: type[Any]) -> str:
    """DELETE of one row, whose parameters are those of the key."""
    return f"DELETE FROM {table_name(model, database)} WHERE {key_terms(database, model)}"


def key_terms(database: Database, model: type[Any]) -> str:
    """The condition that a row has a key."""
    keys = model._meta.get_primary_keys()
    return " AND ".join(f'"{field.column_name}" = {database.param}' for field in keys)


def _among(guards: Mapping[Any, Sequence[str]], table: str = "") -> list[str]:
    prefix = f"{table}." if table else ""
    return [
        f'{prefix}"{field.column_name}" IN ({", ".join(repr(str(word)) for word in words)})'
        for field, words in guards.items()
    ]


def upsert_row_sql(
    database: Database,
    model: type[Any],
    inserted: Sequence[Any],
    updated: Sequence[Any],
    target: Sequence[Any],
    guards: Mapping[Any, Sequence[str]],
) -> str:
    """INSERT of one row that updates the row of the same key, where `guards` allow it.

    `guards` maps a field to the words that it may have before. Returns the row's columns; no row
    when a guard refused.
    """
    table = table_name(model, database)
    assignments = ", ".join(
        assignment(database, field, f'excluded."{field.column_name}"', table) for field in updated
    )
    conditions = " AND ".join(_among(guards, table))
    where = f" WHERE {conditions}" if conditions else ""
    return (
        f"INSERT INTO {table} ({columns(inserted)}) "
        f"VALUES ({', '.join(placeholder(field, database) for field in inserted)}) "
        f"ON CONFLICT ({columns(target)}) DO UPDATE SET {assignments}{where} "
        f"RETURNING {columns(model._meta.sorted_fields)}"
    )
