"""What a refused write means, in the caller's words, and the same words on both backends.

PostgreSQL says which constraint and which key; SQLite names columns for a UNIQUE, and nothing at
all for a foreign key. What is missing is looked up, which costs something only when a write has
failed already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hopper_data import rowsets
from hopper_data.database import Database
from hopper_data.driver_errors import ConstraintViolation
from hopper_data.errors import IntegrityError
from hopper_data.fields import public_name, shorten
from hopper_data.model import BaseModel

__all__ = ["explain"]

Rows = Sequence[Mapping[str, Any]]


def explain(
    violation: ConstraintViolation, model: type[BaseModel], rows: Rows, database: Database
) -> IntegrityError:
    """The error for a caller who wrote `rows` (normalized, by field name) of `model`."""
    if violation.kind == "unique":
        return _taken(violation, model, rows, database)
    if violation.kind == "foreign_key":
        return _unlinked(violation, model, rows, database)
    if violation.kind == "not_null":
        column = violation.columns[0] if violation.columns else "a column"
        return IntegrityError(f"{model.__name__} {column} cannot be empty", violation.constraint)
    return IntegrityError(
        f"{model.__name__}: the database's rule {violation.constraint!r} refuses this row",
        violation.constraint,
    )


def _taken(
    violation: ConstraintViolation, model: type[BaseModel], rows: Rows, database: Database
) -> IntegrityError:
    known = model._meta.columns
    fields = [known[name] for name in violation.columns if name in known]
    name = _constraint_name(model, fields) or violation.constraint
    if not fields:
        return IntegrityError(f"{model.__name__}: {name} is already taken", name)
    values = _taken_values(violation, model, fields, rows, database)
    names = ", ".join(public_name(field) for field in fields)
    return IntegrityError(f"{model.__name__} {names} {values} is already taken", name)


def _taken_values(
    violation: ConstraintViolation,
    model: type[BaseModel],
    fields: Sequence[Any],
    rows: Rows,
    database: Database,
) -> str:
    keys = [tuple(row.get(field.name) for field in fields) for row in rows]
    taken: Sequence[Any] = violation.values
    if not taken:
        repeated = {key for key in keys if keys.count(key) > 1} if len(keys) < 2000 else set()
        taken = next(iter(repeated), None) or _first_stored(model, fields, rows, database) or keys[0]
    shown = [str(value) for value in taken]
    return shorten(shown[0]) if len(shown) == 1 else f"({', '.join(map(shorten, shown))})"


def _first_stored(
    model: type[BaseModel], fields: Sequence[Any], rows: Rows, database: Database
) -> tuple[Any, ...] | None:
    """The first of the rows' keys that the table has."""
    if len(rows) == 1:
        return None
    sql = (
        f"SELECT {rowsets.columns(fields, 'v.')} FROM {rowsets.rowset(database, fields)} "
        f"JOIN {rowsets.table_name(model)} AS t ON "
        + " AND ".join(f't."{field.column_name}" = v."{field.column_name}"' for field in fields)
        + " LIMIT 1"
    )
    row = database.execute_sql(sql, (rowsets.document(fields, rows),)).fetchone()
    return tuple(row) if row else None


def _constraint_name(model: type[BaseModel], fields: Sequence[Any]) -> str | None:
    """PostgreSQL's name for the constraint on some columns, on SQLite too."""
    table = model._meta.table_name
    if [field.name for field in fields] == [f.name for f in model._meta.get_primary_keys()]:
        return f"{table}_pkey"
    columns = tuple(field.column_name for field in fields)
    for index in model._meta.fields_to_index():
        expressions = getattr(index, "_expressions", ())
        names = tuple(getattr(item, "column_name", None) for item in expressions)
        if getattr(index, "_unique", False) and names == columns:
            return str(index._name)
    return None


def _unlinked(
    violation: ConstraintViolation, model: type[BaseModel], rows: Rows, database: Database
) -> IntegrityError:
    for field in model._meta.refs:
        missing = _missing_parent(field, rows, database)
        if missing is not None:
            return IntegrityError(
                f"{model.__name__} {public_name(field)} {shorten(missing)} names a "
                f"{field.rel_model.__name__} that does not exist",
                foreign_key_name(field),
            )
    for field in model._meta.backrefs:
        children = _children(field, model, rows, database)
        if children:
            return IntegrityError(
                f"{children:,} {field.model.__name__} "
                f"{'row refers' if children == 1 else 'rows refer'} to this {model.__name__} "
                f"by {public_name(field)}; delete or move them first",
                foreign_key_name(field),
            )
    return IntegrityError(
        f"{model.__name__}: a row refers to one that does not exist", violation.constraint
    )


def foreign_key_name(field: Any) -> str:
    """The name of a foreign key's constraint on both backends."""
    return f"fk_{field.model._meta.table_name}_{field.column_name}"


def _missing_parent(field: Any, rows: Rows, database: Database) -> Any:
    named = [{field.name: row[field.name]} for row in rows if row.get(field.name) is not None]
    if not named:
        return None
    parent, key = rowsets.table_name(field.rel_model), field.rel_field.column_name
    sql = (
        f'SELECT v."{field.column_name}" FROM {rowsets.rowset(database, [field])} '
        f'WHERE NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE p."{key}" = v."{field.column_name}") '
        "LIMIT 1"
    )
    row = database.execute_sql(sql, (rowsets.document([field], named),)).fetchone()
    return row[0] if row else None


def _children(field: Any, model: type[BaseModel], rows: Rows, database: Database) -> int:
    if field.on_delete in ("CASCADE", "SET NULL"):
        return 0
    key = field.rel_field
    named = [{key.name: row[key.name]} for row in rows if row.get(key.name) is not None]
    if not named:
        return 0
    sql = (
        f"SELECT COUNT(*) FROM {rowsets.table_name(field.model)} AS c "
        f'JOIN {rowsets.rowset(database, [key])} ON c."{field.column_name}" = v."{key.column_name}"'
    )
    return int(database.execute_sql(sql, (rowsets.document([key], named),)).fetchone()[0])
