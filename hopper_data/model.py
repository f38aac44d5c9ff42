"""The base of every model: names, validation, time stamps, `to_dict()`, and what is not a column.

A table may need more than Peewee can declare: partial indexes, triggers, a full-text index.
`SchemaObject` holds such a thing for both backends side by side; a model lists its own in
`Meta.objects`, and what must hold between the columns of a row in `Meta.rules`. A model with a
`Meta.namespace` has its table in that schema on PostgreSQL; on SQLite, which has no schemas, the
name of the table begins with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar
from uuid import UUID

import peewee
from peewee import SQL, Entity, Node

from hopper_data.database import proxy
from hopper_data.driver_errors import ConstraintViolation
from hopper_data.errors import InvalidTransition, NotFound, ValidationError, suggest
from hopper_data.fields import EnumField, JSONField, moved_on, public_name, utcnow
from hopper_data.violations import explain

__all__ = ["BaseModel", "Rule", "SchemaObject"]

MASK = "***"
"""What stands for a secret where it is not shown."""


# Named tuples, since a dataclass is made at each import, in ten times the time.


class SchemaObject(NamedTuple):
    """Statements that make, and unmake, what belongs to a table, for each backend.

    Making is safe to repeat. Tables of its own are dropped by `drop` before the model's table, its
    functions by `drop_postgresql` after it, or by `drop_postgresql_first` where they give rows of
    the table; what PostgreSQL and SQLite drop together with the model's table needs no statement. A
    statement that takes time to make may be a function.
    """

    name: str
    sqlite: tuple[str, ...] = ()
    postgresql: tuple[str | Callable[[], str], ...] = ()
    drop: tuple[str, ...] = ()
    drop_postgresql: tuple[str, ...] = ()
    drop_postgresql_first: tuple[str, ...] = ()

    def create(self, dialect: str) -> tuple[str, ...]:
        """The statements for one backend."""
        statements = self.sqlite if dialect == "sqlite" else self.postgresql
        return tuple(item() if callable(item) else item for item in statements)


class Rule(NamedTuple):
    """What must hold between the columns of a row: a CHECK constraint, and the error it stands for.

    `sql` and `holds` say the same, to the database and for a new row in Python. A refused row is a
    `ValidationError` with `message`, which follows the model's name, about the column `field`.
    """

    name: str
    field: str
    message: str
    sql: str
    holds: Callable[[Mapping[str, Any]], bool]

    def error(self, model: type[BaseModel]) -> ValidationError:
        """The error for a row that breaks the rule."""
        return ValidationError(f"{model.__name__} {self.message}", self.field)


_D = TypeVar("_D")
# Peewee's stubs do not know most of this.
_Metadata: Any = peewee.Metadata
_Table: Any = peewee.Table


class Metadata(_Metadata):
    """Peewee's, with a namespace and rules.

    `full_name` is the table's name on SQLite, which constraints are named after on both backends.
    `table_name` and `schema`, for Peewee's own tools, are those of the present context's database;
    SQL is written for the database that it goes to.
    """

    def __init__(
        self,
        model: Any,
        *args: Any,
        namespace: str | None = None,
        rules: tuple[Rule, ...] = (),
        **kwargs: Any,
    ) -> None:
        self.namespace = namespace
        self.constraints: Any = None
        self._derived: dict[Any, tuple[Any, Any]] = {}
        self._table: Any = None
        super().__init__(model, *args, **kwargs)
        self.rules = {f"ck_{self.full_name}_{rule.name}": rule for rule in rules}
        checks = [
            SQL(f'CONSTRAINT "{name}" CHECK ({rule.sql})') for name, rule in self.rules.items()
        ]
        if checks:
            self.constraints = [*(self.constraints or ()), *checks]

    def derived(self, make: Callable[[Any], _D]) -> _D:
        """What `make(model)` gives; made again only when the model has other fields."""
        known = self._derived.get(make)
        # Peewee makes a new list when a field is added or taken away.
        if known is None or known[0] is not self.sorted_fields:
            known = self._derived[make] = (self.sorted_fields, make(self.model))
        made: _D = known[1]
        return made

    @property
    def full_name(self) -> str:
        """The name of the table that is the same on both backends."""
        return f"{self.namespace}_{self.plain_name}" if self.namespace else self.plain_name

    def path(self, database: Any) -> tuple[str, ...]:
        """The table's name in a database, after the name of its schema where it has one.

        `database` may be the state of an SQL context, too.
        """
        if self.namespace is None:
            return (self.plain_name,)
        if database.dialect == "postgresql":
            return (f"{database.schema_prefix or ''}{self.namespace}", self.plain_name)
        return (self.full_name,)

    @property
    def table_name(self) -> str:
        """The table's name in the present context's database, without its schema."""
        return self.path(proxy.obj)[-1] if self.namespace else self.plain_name

    @table_name.setter
    def table_name(self, value: str) -> None:
        self.plain_name = value

    @property
    def schema(self) -> str | None:
        """The table's schema in the present context's database, or None."""
        if self.namespace is None:
            return self._schema
        return self.path(proxy.obj)[0] if proxy.obj.dialect == "postgresql" else None

    @schema.setter
    def schema(self, value: str | None) -> None:
        self._schema = value
        self._table = None

    @property
    def table(self) -> Any:
        """Peewee's table, which is named when a statement is written."""
        if self.namespace is None:
            return super().table
        if self._table is None:
            self._table = NamespacedTable(
                self.plain_name,
                [field.column_name for field in self.sorted_fields],
                _model=self.model,
                _database=self.database,
            )
        return self._table

    @table.deleter
    def table(self) -> None:
        self._table = None

    @property
    def entity(self) -> Any:
        """The table's name, as a node."""
        return TableName(self) if self.namespace else super().entity


class TableName(Node):
    """The name of a model's table, as the database writes it that a statement goes to."""

    def __init__(self, meta: Metadata, *, qualified: bool = True) -> None:
        self.meta = meta
        self.qualified = qualified

    def __sql__(self, ctx: Any) -> Any:
        path = self.meta.path(ctx.state)
        return ctx.sql(Entity(*path) if self.qualified else Entity(path[-1]))


class NamespacedTable(_Table):
    """Peewee's table, named by `TableName`."""

    def clone(self) -> NamespacedTable:
        return NamespacedTable(
            self.__name__,
            columns=self._columns,
            primary_key=self._primary_key,
            alias=self._alias,
            _model=self._model,
            _database=self._database,
        )

    def __sql__(self, ctx: Any) -> Any:
        if ctx.scope == peewee.SCOPE_VALUES:
            return ctx.sql(TableName(self._model._meta))
        if ctx.scope == peewee.SCOPE_SOURCE:
            return self.apply_alias(ctx.sql(TableName(self._model._meta)))
        return self.apply_column(ctx)

    def apply_column(self, ctx: Any) -> Any:
        if self._alias is None and ctx.alias_manager[self] is self.__name__:
            # A statement that writes to the table has no alias for it.
            return ctx.sql(TableName(self._model._meta, qualified=False))
        return super().apply_column(ctx)


class SchemaManager(peewee.SchemaManager):
    """Creates and drops a model's `Meta.objects` together with its table."""

    def create_all(self, safe: bool = True, **options: Any) -> None:
        path = self.model._meta.path(self.database)
        if len(path) > 1:
            self.database.execute_sql(f'CREATE SCHEMA IF NOT EXISTS "{path[0]}"')
        super().create_all(safe, **options)
        for item in self.model._meta.objects:
            for statement in item.create(self.database.dialect):
                self.database.execute_sql(statement)

    def drop_all(self, safe: bool = True, drop_sequences: bool = True, **options: Any) -> None:
        for item in reversed(self.model._meta.objects):
            first = () if self.database.dialect == "sqlite" else item.drop_postgresql_first
            for statement in (*first, *item.drop):
                self.database.execute_sql(statement)
        super().drop_all(safe, drop_sequences, **options)
        if self.database.dialect == "postgresql":
            for item in self.model._meta.objects:
                for statement in item.drop_postgresql:
                    self.database.execute_sql(statement)


class MissingRow(NotFound, peewee.DoesNotExist):
    """What Peewee's own queries, and references that are followed, raise for a missing row."""

    def __init__(self, message: str) -> None:
        # Peewee goes on with the statement and its values.
        super().__init__(message.partition(":\n")[0])


class ModelMeta(peewee.ModelBase):
    """Peewee's, with `DoesNotExist` among our errors."""

    def __init__(self, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> None:
        super().__init__(name, bases, attributes)
        path = f"{self.__qualname__}.DoesNotExist"
        origin = {"__module__": self.__module__, "__qualname__": path}
        self.DoesNotExist = type(f"{name}DoesNotExist", (MissingRow,), origin)


class BaseModel(peewee.Model, metaclass=ModelMeta):
    """The base of every model. Bound to the proxy, never to a database.

    Names that a model does not have are refused, in the constructor as in queries. `save()`
    writes what was changed, JSON that was changed in place included.
    """

    class Meta:
        database = proxy
        legacy_table_names = False
        only_save_dirty = True
        model_metadata_class = Metadata
        schema_manager_class = SchemaManager
        objects: ClassVar[tuple[SchemaObject, ...]] = ()

    if TYPE_CHECKING:
        # Of Peewee, and not in its stubs.
        _meta: Any
        _pk: Any
        _dirty: set[str]
        _pk_expr: Any
        _normalize_data: ClassVar[Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "__no_default__" not in kwargs:
            for name in kwargs:
                known = name in self._meta.combined
                if not known and not isinstance(getattr(type(self), name, None), peewee.Field):
                    raise unknown_name(type(self), name)
        super().__init__(*args, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-ready data: columns in their order, times in ISO 8601 with `Z`.

        Columns that hold secrets are masked.
        """
        data = self.__data__
        return {
            public_name(field): MASK if field.secret else to_json_ready(data.get(field.name))
            for field in self._meta.sorted_fields
        }

    @classmethod
    def table_exists(cls) -> bool:
        """Whether the database has the model's table."""
        database = cls._meta.database
        *schema, name = cls._meta.path(database)
        return bool(database.table_exists(name, *schema))

    @classmethod
    def update(cls, data: Any = None, /, **fields: Any) -> peewee.ModelUpdate:
        """Peewee's UPDATE, with `updated_at` moved on.

        A status reaches only the rows that it may follow; the others stay as they are.
        """
        values = cls._normalize_data(data, fields)
        moved = cls._meta.fields.get("updated_at")
        if moved is not None and moved not in values:
            values[moved] = utcnow()
        query = peewee.ModelUpdate(cls, values)
        for field in guarded_fields(cls):
            if field in values and not isinstance(values[field], Node):
                query = query.where(field.in_(field.sources(field.normalize(values[field]))))
        return query

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """Write the row: insert it when asked to or when it has no key yet, else update it.

        An update writes the changed fields alone. It raises `NotFound` when there is no such row,
        and `InvalidTransition` when a status may not follow the stored one.
        """
        written: Iterable[str] = self.__data__
        new = force_insert or (self._meta.auto_increment and self._pk is None)
        with self._explaining(new=new):
            if new:
                missing = missing_fields(type(self), self.__data__)
                if missing:
                    raise missing
                check_rules(type(self), self.__data__)
                rows = int(super().save(force_insert=force_insert, only=only))
            else:
                changes = self._changes(only)
                rows = self._update_row(changes) if changes else 0
                written = [field.name for field in changes]
        self._remember(written)
        return rows

    def delete_instance(self, recursive: bool = False, delete_nullable: bool = False) -> int:
        """Delete the row; the number of rows that were there."""
        with self._explaining():
            return int(super().delete_instance(recursive, delete_nullable))

    def _update_row(self, changes: dict[peewee.Field[Any], Any]) -> int:
        moved = self._meta.fields.get("updated_at")
        stored = self._stored() if moved in changes else None
        if stored is not None:
            changes[moved] = moved_on(moved.normalize(changes[moved]), stored.updated_at)
        query: Any = type(self).update(changes).where(self._pk_expr())
        for field in guarded_fields(type(self)):
            if field in changes:
                query = query.where(field.in_(field.sources(field.normalize(changes[field]))))
        rows = int(query.execute())
        if not rows:
            raise self._refused_update(changes)
        if "updated_at" in self._meta.fields:
            self.__data__["updated_at"] = query._update[self._meta.fields["updated_at"]]
        self._dirty.difference_update(field.name for field in changes)
        return rows

    def _remember(self, names: Iterable[str]) -> None:
        """Keep what the documents are now, so that later changes in place are seen."""
        seen = self.__dict__.setdefault("_json_seen", {})
        for name in names:
            field, value = self._meta.fields[name], self.__data__.get(name)
            if isinstance(field, JSONField) and value is not None and not isinstance(value, Node):
                seen[name] = field.text(value)

    def _changes(self, only: Iterable[Any] | None) -> dict[peewee.Field[Any], Any]:
        names, fields = set(self._dirty), self._meta.fields
        for name, seen in self.__dict__.get("_json_seen", {}).items():
            value = self.__data__[name]
            if name not in names and (value is None or fields[name].text(value) != seen):
                names.add(name)
        if only is not None:
            names &= {item if isinstance(item, str) else item.name for item in only}
        names -= {field.name for field in self._meta.get_primary_keys()}
        if "created_at" in names:
            # Set by the caller, or by default when the caller has made the instance.
            if self._stored() is None:
                raise self._refused_update({})
            raise ValidationError(f"{type(self).__name__} created_at never changes", "created_at")
        return {fields[name]: self.__data__[name] for name in sorted(names)}

    def _stored(self) -> Any:
        return type(self).get_or_none(self._pk_expr())

    @contextmanager
    def _explaining(self, *, new: bool = False) -> Iterator[None]:
        """Put a refusal of the database into the words of this row."""
        try:
            yield
        except ConstraintViolation as violation:
            meta = self._meta
            row = {
                name: meta.fields[name].normalize(value)
                for name, value in self.__data__.items()
                if value is not None and not isinstance(value, Node)
            }
            error = explain(violation, type(self), [row], meta.database.obj, new=new)
            raise error from (violation.__cause__ or violation)

    def _refused_update(self, changes: Mapping[Any, Any]) -> Exception:
        stored = self._stored()
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
    guarded: list[EnumField[Any]] = model._meta.derived(_guarded_fields)
    return guarded


def _guarded_fields(model: type[BaseModel]) -> list[EnumField[Any]]:
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
    for field in model._meta.derived(_needed_fields):
        if values.get(field.name) is not None:
            continue
        if field.default is not None and field.name not in values:
            continue
        name = public_name(field)
        return ValidationError(f"{model.__name__} {name} is missing; it must be given", name)
    return None


def _needed_fields(model: type[BaseModel]) -> list[Any]:
    fields = model._meta.sorted_fields
    return [field for field in fields if not (field.null or field.auto_increment)]


def normalize_row(
    model: type[BaseModel], values: Mapping[str, Any], *, partial: bool = False
) -> dict[str, Any]:
    """The caller's values by field name, checked and normalized; the caller's own stay as they are.

    Without `partial`, defaults are filled in and what is missing is an error.
    """
    row: dict[str, Any] = {} if partial else _defaults(model, values)
    known = model._meta.combined
    for name, value in values.items():
        field = known.get(name)
        if field is None or name == "__composite_key__":
            raise unknown_name(model, name)
        if value is None and not field.null and not partial and field.default is not None:
            continue
        if value is None and partial and not field.null:
            raise ValidationError(
                f"{model.__name__} {public_name(field)} cannot be empty", public_name(field)
            )
        row[field.name] = value if value is None else field.normalize(value)
    if partial:
        return row
    error = missing_fields(model, row)
    if error:
        raise error
    check_rules(model, row)
    return row


def _defaults(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, Any]:
    """What a new row has of itself, as far as `values` do not say."""
    fixed, made, moments = default_values(model)
    row: dict[str, Any] = fixed.copy()
    for name, make in made:
        if values.get(name) is None:
            row[name] = make()
    moment: Any = None
    for name, make in moments:
        # One moment for both, so that a new row says that nothing has changed it.
        if values.get(name) is None:
            row[name] = moment = moment or make()
    return row


def default_values(
    model: type[BaseModel],
) -> tuple[dict[str, Any], list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Defaults that are values, those that are made, and those of `created_at`, `updated_at`."""
    defaults: tuple[dict[str, Any], list[Any], list[Any]] = model._meta.derived(_split_defaults)
    return defaults


def _split_defaults(model: type[BaseModel]) -> tuple[dict[str, Any], list[Any], list[Any]]:
    fixed, made = {}, []
    for field in model._meta.sorted_fields:
        default = field.default
        if default is None:
            continue
        if callable(default):
            ours = getattr(default, "__module__", None) or ""
            trusted = ours.partition(".")[0] == "hopper_data"
            made.append((field.name, default if trusted else partial(_made, field, default)))
        elif isinstance(default, list | dict):  # each row has one of its own
            made.append((field.name, partial(field.normalize, default)))
        else:
            fixed[field.name] = field.normalize(default)
    stamps = ("created_at", "updated_at")
    return (
        fixed,
        [(name, make) for name, make in made if name not in stamps],
        [(name, make) for name, make in made if name in stamps],
    )


def _made(field: Any, default: Callable[[], Any]) -> Any:
    value = default()
    return value if value is None else field.normalize(value)


def check_rules(model: type[BaseModel], row: Mapping[str, Any]) -> None:
    """A `ValidationError` when a whole row breaks one of the model's rules."""
    for rule in model._meta.rules.values():
        if not rule.holds(row):
            raise rule.error(model)
