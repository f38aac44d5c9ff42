"""What a refused write means, in the caller's words, and the same words on both backends.

PostgreSQL says which constraint and which key; SQLite names columns for a UNIQUE, and nothing at
all for a foreign key. What is missing is looked up, which costs something only when a write has
failed already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import peewee

from hopper_data import rowsets
from hopper_data.database import Database
from hopper_data.driver_errors import ConstraintViolation
from hopper_data.errors import DatabaseError, IntegrityError
from hopper_data.fields import fold_case, public_name, shorten

__all__ = ["explain"]

Rows = Sequence[Mapping[str, Any]]


def explain(
    violation: ConstraintViolation,
    model: type[Any],
    rows: Rows,
    database: Database,
    *,
    new: bool,
) -> DatabaseError:
    """The error for a caller who wrote `rows` (normalized, by field name) of `model`.

    `new` says that the rows were to be inserted, so that their primary keys may be taken too.
    """
    if violation.kind == "unique":
        return _taken(violation, model, rows, database, new=new)
    if violation.kind == "foreign_key":
        return _unlinked(violation, model, rows, database)
    if violation.kind == "not_null":
        column = violation.columns[0] if violation.columns else "a column"
        return IntegrityError(f"{model.__name__} {column} cannot be empty", violation.constraint)
    rule = model._meta.rules.get(violation.constraint)
    if rule is not None:
        return rule.error(model)  # type: ignore[no-any-return]
    return IntegrityError(
        f"{model.__name__}: the database's rule {violation.constraint!r} refuses this row",
        violation.constraint,
    )


def _taken(
    violation: ConstraintViolation, model: type[Any], rows: Rows, database: Database, *, new: bool
) -> IntegrityError:
    known = model._meta.columns
    fields: Sequence[Any] = [known[name] for name in violation.columns if name in known]
    values: Sequence[Any] = violation.values
    primary = [field.column_name for field in model._meta.get_primary_keys()]
    new = new or list(violation.columns) == primary
    # The drivers tell little, and of several keys that are taken not the same one.
    found = _first_taken(model, rows, database, new=new)
    if found is not None:
        fields, values = found
    name = _constraint_name(model, fields) or violation.constraint
    if not fields or not values:
        return IntegrityError(f"{model.__name__}: {name} is already taken", name)
    names = ", ".join(public_name(field) for field in fields)
    shown = [shorten(str(value)) for value in values]
    key = shown[0] if len(shown) == 1 else f"({', '.join(shown)})"
    return IntegrityError(f"{model.__name__} {names} {key} is already taken", name)


def _first_taken(
    model: type[Any], rows: Rows, database: Database, *, new: bool
) -> tuple[Sequence[Any], tuple[Any, ...]] | None:
    """The first key, in the order of the rows, that the table or an earlier row has."""
    primary = model._meta.get_primary_keys()
    uniques = [*([primary] if new else []), *_unique_fields(model)]
    owners = [_owners(model, fields, rows, database) for fields in uniques]
    for row in rows:
        me = _key(row, primary)
        for fields, owner in zip(uniques, owners, strict=True):
            key = _key(row, fields)
            if None in key:
                continue
            if key in owner and (new or owner[key] != me):
                return fields, tuple(row[field.name] for field in fields)
            owner[key] = me
    return None


def _key(row: Mapping[str, Any], fields: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_folded(field, row.get(field.name)) for field in fields)


def _folded(field: Any, value: Any) -> Any:
    return fold_case(value) if field.folds_case and value is not None else value


def _owners(
    model: type[Any], fields: Sequence[Any], rows: Rows, database: Database
) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """Which of the rows' keys the table has, and the primary keys of the rows that have them."""
    named = [row for row in rows if None not in _key(row, fields)]
    if not named:
        return {}
    primary = model._meta.get_primary_keys()
    columns = [*fields, *primary]
    sql = (
        f"SELECT {rowsets.columns(columns, 't.')} FROM {rowsets.rowset(database, fields)} "
        f"JOIN {rowsets.table_name(model, database)} AS t ON "
        + " AND ".join(f"{_folded_sql('t', field)} = {_folded_sql('v', field)}" for field in fields)
    )
    found = database.execute_sql(sql, (rowsets.document(fields, named),)).fetchall()
    size = len(fields)
    return {
        tuple(map(_folded, fields, values)): tuple(values[size:])
        for values in (
            [field.python_value(value) for field, value in zip(columns, row, strict=True)]
            for row in found
        )
    }


def _folded_sql(table: str, field: Any) -> str:
    column = f'{table}."{field.column_name}"'
    return f"LOWER({column})" if field.folds_case else column


def _unique_fields(model: type[Any]) -> list[list[Any]]:
    """The fields of each unique index that is about columns alone, in their order."""
    return [
        fields
        for index in model._meta.fields_to_index()
        if getattr(index, "_unique", False) and index._where is None
        for fields in [_indexed_fields(index)]
        if all(isinstance(field, peewee.Field) for field in fields)
    ]


def _indexed_fields(index: Any) -> list[Any]:
    """What an index is about; for a field that folds case, the index is about LOWER of it."""
    return [
        node.arguments[0] if isinstance(node, peewee.Function) and node.arguments else node
        for node in getattr(index, "_expressions", ())
    ]


def _constraint_name(model: type[Any], fields: Sequence[Any]) -> str | None:
    """PostgreSQL's name for the constraint on some columns, on SQLite too."""
    names = [field.name for field in fields]
    if names == [field.name for field in model._meta.get_primary_keys()]:
        return f"{model._meta.plain_name}_pkey"
    for index in model._meta.fields_to_index():
        indexed = [getattr(item, "name", None) for item in _indexed_fields(index)]
        if getattr(index, "_unique", False) and names == indexed:
            return str(index._name)
    return None


def _unlinked(
    violation: ConstraintViolation, model: type[Any], rows: Rows, database: Database
) -> IntegrityError:
    for field in model._meta.refs:
        missing = _missing_parent(field, rows, database)
        if missing is not None:
            return IntegrityError(
                f"{model.__name__} {public_name(field)} {shorten(missing)} names "
                f"{_with_article(field.rel_model.__name__)} that does not exist",
                foreign_key_name(field),
            )
    for field in model._meta.backrefs:
        children = _children(field, rows, database)
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
    return f"fk_{field.model._meta.full_name}_{field.column_name}"


def _missing_parent(field: Any, rows: Rows, database: Database) -> Any:
    named = [{field.name: row[field.name]} for row in rows if row.get(field.name) is not None]
    if not named:
        return None
    parent, key = rowsets.table_name(field.rel_model, database), field.rel_field.column_name
    sql = (
        f'SELECT v."{field.column_name}" FROM {rowsets.rowset(database, [field])} '
        f'WHERE NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE p."{key}" = v."{field.column_name}") '
        "LIMIT 1"
    )
    row = database.execute_sql(sql, (rowsets.document([field], named),)).fetchone()
    # As the caller may have written it; a UUID is an object for some drivers.
    return field.encode(field.rel_field.python_value(row[0])) if row else None


def _with_article(name: str) -> str:
    # The names that begin with a U begin like "user".
    return f"{'an' if name[0] in 'AEIO' else 'a'} {name}"


def _children(field: Any, rows: Rows, database: Database) -> int:
    if field.on_delete in ("CASCADE", "SET NULL"):
        return 0
    key = field.rel_field
    named = [{key.name: row[key.name]} for row in rows if row.get(key.name) is not None]
    if not named:
        return 0
    sql = (
        f"SELECT COUNT(*) FROM {rowsets.table_name(field.model, database)} AS c "
        f'JOIN {rowsets.rowset(database, [key])} ON c."{field.column_name}" = v."{key.column_name}"'
    )
    return int(database.execute_sql(sql, (rowsets.document([key], named),)).fetchone()[0])
