"""The base of every model: names, validation, time stamps, `to_dict()`, and what is not a column.

A table may need more than Peewee can declare: partial indexes, triggers, a full-text index.
`SchemaObject` holds such a thing for both backends side by side; a model lists its own in
`Meta.objects`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any, ClassVar
from uuid import UUID

import peewee

from hopper_data.database import proxy
from hopper_data.errors import InvalidTransition, NotFound, ValidationError, suggest
from hopper_data.fields import EnumField, dump_json, public_name, utcnow

__all__ = ["BaseModel", "SchemaObject"]


@dataclass(frozen=True)
class SchemaObject:
    """Statements that make, and unmake, what belongs to a table, for each backend.

    Making is safe to repeat. Tables of its own are dropped by `drop` before the model's table, its
    functions by `drop_postgresql` after it; what PostgreSQL and SQLite drop together with the
    model's table needs no statement.
    """

    name: str
    sqlite: tuple[str, ...] = ()
    postgresql: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    drop_postgresql: tuple[str, ...] = ()

    def create(self, dialect: str) -> tuple[str, ...]:
        """The statements for one backend."""
        return self.sqlite if dialect == "sqlite" else self.postgresql


class SchemaManager(peewee.SchemaManager):
    """Creates and drops a model's `Meta.objects` together with its table."""

    def create_all(self, safe: bool = True, **options: Any) -> None:
        super().create_all(safe, **options)
        for item in self.model._meta.objects:
            for statement in item.create(self.database.dialect):
                self.database.execute_sql(statement)

    def drop_all(self, safe: bool = True, drop_sequences: bool = True, **options: Any) -> None:
        for item in reversed(self.model._meta.objects):
            for statement in item.drop:
                self.database.execute_sql(statement)
        super().drop_all(safe, drop_sequences, **options)
        if self.database.dialect == "postgresql":
            for item in self.model._meta.objects:
                for statement in item.drop_postgresql:
                    self.database.execute_sql(statement)


class BaseModel(peewee.Model):
    """The base of every model. Bound to the proxy, never to a database.

    Names that a model does not have are refused, in the constructor as in queries. `save()`
    writes what was changed, JSON that was changed in place included.
    """

    class Meta:
        database = proxy
        legacy_table_names = False
        only_save_dirty = True
        schema_manager_class = SchemaManager
        objects: ClassVar[tuple[SchemaObject, ...]] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "__no_default__" not in kwargs:
            for name in kwargs:
                if name not in self._meta.combined and not hasattr(type(self), name):
                    raise unknown_name(type(self), name)
        super().__init__(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-ready data: columns in their order, times in ISO 8601 with `Z`."""
        data = self.__data__
        return {
            public_name(field): to_json_ready(data.get(field.name))
            for field in self._meta.sorted_fields
        }

    @classmethod
    def update(cls, data: Any = None, /, **fields: Any) -> peewee.ModelUpdate:
        """Peewee's UPDATE, with `updated_at` moved on."""
        values = cls._normalize_data(data, fields)
        moved = cls._meta.fields.get("updated_at")
        if moved is not None and moved not in values:
            values[moved] = utcnow()
        return peewee.ModelUpdate(cls, values)

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """Write the row: insert it when asked to or when it has no key yet, else update it.

        An update writes the changed fields alone. It raises `NotFound` when there is no such row,
        and `InvalidTransition` when a status may not follow the stored one.
        """
        if force_insert or (self._meta.auto_increment and self._pk is None):
            missing = missing_fields(type(self), self.__data__)
            if missing:
                raise missing
            return int(super().save(force_insert=force_insert, only=only))
        changes = self._changes(only)
        if not changes:
            return 0
        query = type(self).update(changes).where(self._pk_expr())
        for field in guarded_fields(type(self)):
            if field in changes:
                query = query.where(field.in_(field.sources(field.normalize(changes[field]))))
        rows = int(query.execute())
        if not rows:
            raise self._refused_update(changes)
        if "updated_at" in self._meta.fields:
            self.__data__["updated_at"] = query._update[self._meta.fields["updated_at"]]
        self._dirty.clear()
        self.__dict__.pop("_json_seen", None)
        return rows

    def _changes(self, only: Iterable[Any] | None) -> dict[peewee.Field[Any], Any]:
        names = set(self._dirty)
        for name, seen in self.__dict__.get("_json_seen", {}).items():
            if dump_json(self.__data__[name]) != seen:
                names.add(name)
        if only is not None:
            names &= {item if isinstance(item, str) else item.name for item in only}
        keys = {field.name for field in self._meta.get_primary_keys()}
        if "created_at" in names:
            raise ValidationError(f"{type(self).__name__} created_at never changes", "created_at")
        fields = self._meta.fields
        return {fields[name]: self.__data__[name] for name in sorted(names - keys)}

    def _refused_update(self, changes: Mapping[Any, Any]) -> Exception:
        stored = type(self).get_or_none(self._pk_expr())
        if stored is None:
            return NotFound(
                f"{type(self).__name__} {self._pk!r} does not exist; "
                "insert it with create() or save(force_insert=True)"
            )
        field = next(field for field in guarded_fields(type(self)) if field in changes)
        return refuse_transition(field, getattr(stored, field.name), changes[field])


def to_json_ready(value: Any) -> Any:
    """One value as JSON data."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, UUID):
        return str(value)
    return value


def find_field(model: type[BaseModel], name: Any) -> Any:
    """The field that callers call `name`, or a `ValidationError` with the closest real name."""
    field = model._meta.combined.get(name) if isinstance(name, str) else None
    if field is None or field.name == "__composite_key__":
        raise unknown_name(model, name)
    return field


def unknown_name(model: type[BaseModel], name: Any) -> ValidationError:
    """The error for a name that a model does not have."""
    known = [public_name(field) for field in model._meta.sorted_fields]
    return ValidationError(
        f"{model.__name__} has no field {name!r}; {suggest(name, known)}", str(name)
    )


def guarded_fields(model: type[BaseModel]) -> list[EnumField[Any]]:
    """The fields of a model that have transitions."""
    return [
        field
        for field in model._meta.sorted_fields
        if isinstance(field, EnumField) and field.transitions is not None
    ]


def refuse_transition(field: EnumField[Any], old: Any, new: Any) -> InvalidTransition:
    """The error for a status that may not follow another."""
    allowed = (field.transitions or {}).get(field.enum(old), ())
    return InvalidTransition(
        str(old), str(new), map(str, allowed), subject=f"{field.model.__name__} {field.name}"
    )


def missing_fields(model: type[BaseModel], values: Mapping[str, Any]) -> ValidationError | None:
    """The error for a row that lacks what its columns need, or None."""
    for field in model._meta.sorted_fields:
        if field.null or values.get(field.name) is not None:
            continue
        if field.auto_increment or (field.default is not None and field.name not in values):
            continue
        name = public_name(field)
        return ValidationError(f"{model.__name__} {name} is missing; it must be given", name)
    return None


def normalize_row(
    model: type[BaseModel], values: Mapping[str, Any], *, partial: bool = False
) -> dict[str, Any]:
    """The caller's values by field name, checked and normalized; the caller's own stay as they are.

    Without `partial`, defaults are filled in and what is missing is an error.
    """
    row: dict[str, Any] = {} if partial else model._meta.get_default_dict()
    now: datetime | None = None
    for name, value in values.items():
        field = find_field(model, name)
        if value is None and not field.null and not partial and field.default is not None:
            continue
        if value is None and partial and not field.null:
            raise ValidationError(
                f"{model.__name__} {public_name(field)} cannot be empty", public_name(field)
            )
        row[field.name] = value if value is None else field.normalize(value)
    if partial:
        return row
    for name in ("created_at", "updated_at"):
        # One moment for both, so that a new row says that nothing has changed it.
        if name in row and name not in values:
            now = now or row[name]
            row[name] = now
    error = missing_fields(model, row)
    if error:
        raise error
    return row
