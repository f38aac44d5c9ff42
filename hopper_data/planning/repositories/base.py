"""What the planning repositories share: computed columns, keys, locks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from peewee import OP, ColumnBase, Expression, Node, Value

from hopper_data import rowsets
from hopper_data.errors import NotFound, ValidationError
from hopper_data.fields import public_name, shorten
from hopper_data.model import find_field, normalize_row
from hopper_data.planning.models import Epic, Feature, PlanningModel
from hopper_data.repository import Repository

__all__ = [
    "BY_KEY",
    "KeyedRepository",
    "PlanningRepository",
    "Unindexed",
    "equals",
    "one_of",
    "strays",
]

M = TypeVar("M", bound=PlanningModel)
T = TypeVar("T")
BY_KEY = "key"


class PlanningRepository(Repository[M]):
    """A repository whose queries bring the computed values of the model along."""

    def _select(self) -> Any:
        return self.model.select(*self.model._meta.sorted_fields, *self._computed_columns())

    def _computed_columns(self) -> Sequence[Any]:
        """What follows the columns of the model in a row, in the order of `model.computed`."""
        raise NotImplementedError

    def _fetch(self, query: Any) -> list[M]:
        # Peewee itself would not know what to do with the computed values.
        return self._models(*self.database.get_sql_context().sql(query).query())

    def _build(self, rows: Sequence[Sequence[Any]]) -> list[M]:
        """Models of rows that have the columns of the model, and may have the computed ones."""
        width = len(self.model._meta.sorted_fields)
        built = super()._build([row[:width] for row in rows])
        for instance, row in zip(built, rows, strict=True):
            if len(row) > width:
                instance._computed = tuple(row[width:])
        return built

    def _make(self, row: Mapping[str, Any]) -> M:
        """A model of normalized values, which may have the computed ones among them."""
        computed = self.model.computed
        instance = super()._make({name: row[name] for name in row if name not in computed})
        if all(name in row for name in computed):
            instance._computed = tuple(row[name] for name in computed)
        return instance

    def _save(self, instance: M, force_insert: bool, only: Any) -> int:
        """What `save()` of the models does; the number of rows written, 1 or 0."""
        if force_insert or instance._pk is None:
            values = _chosen(instance.__data__, only)
            row = normalize_row(self.model, values)
            with self._explaining([row], new=True):
                self._insert([row])
            self._take_over(instance, self._make(row), values)
            return 1
        changes = {field.name: value for field, value in instance._changes(only).items()}
        if not changes:
            return 0
        written = self.update(instance._pk, **changes)
        if written is None:
            raise NotFound(
                f"{self.model.__name__} {instance._pk!r} does not exist; "
                "insert it with create() or save(force_insert=True)"
            )
        self._take_over(instance, written, changes)
        return 1

    def _take_over(self, instance: M, written: M, names: Iterable[str]) -> None:
        """Let an instance have the row that was written, but for what is not saved yet."""
        instance._dirty.difference_update(names)
        row = {k: v for k, v in written.__data__.items() if k not in instance._dirty}
        instance.__data__.update(row)
        instance._remember(row)
        instance._computed = written._computed

    def _lock(self, strength: str) -> str:
        """The end of a SELECT whose rows nobody else changes before this transaction ends."""
        # On SQLite a transaction that writes is the only one.
        return "" if self.database.dialect == "sqlite" else f" FOR {strength}"

    def _lock_rows(self, keys: Iterable[Mapping[str, Any]], strength: str) -> None:
        """Lock rows, the lowest number first, so that no two writers wait for each other."""
        rows, ids = self._rowset(self.model.id, (key["id"] for key in keys))
        self._query(
            f"SELECT id FROM {rowsets.table_name(self.model, self.database)} "
            f"WHERE id IN (SELECT v.id FROM {rows}) ORDER BY id{self._lock(strength)}",
            ids,
        )

    def _lock_tasks_of(self, features: str, numbers: str) -> None:
        """Lock the tasks of features, which `features` selects by their `numbers`.

        Who deletes a feature deletes them, too, and PostgreSQL would do so in an order of its own.
        """
        self._query(
            f"SELECT id FROM planning_tasks WHERE feature_id IN ({features}) "
            f"ORDER BY id{self._lock('UPDATE')}",
            numbers,
        )

    def _query(self, sql: str, *params: Any) -> list[Any]:
        return list(self.database.execute_sql(sql, params).fetchall())

    def _rowset(self, field: Any, values: Iterable[Any]) -> tuple[str, str]:
        """A table `v` of one column with some values: SQL, and its parameter."""
        rows = [{field.name: value} for value in sorted(set(values))]
        return rowsets.rowset(self.database, [field]), rowsets.document([field], rows)


def _chosen(values: Mapping[str, Any], only: Iterable[Any] | None) -> dict[str, Any]:
    if only is None:
        return dict(values)
    names = {item if isinstance(item, str) else item.name for item in only}
    return {name: value for name, value in values.items() if name in names}


class KeyedRepository(PlanningRepository[M]):
    """A repository of what has a key of its own, beside the number that the database gives.

    Keys begin with those of the parents, however a row is written.
    """

    def get_by_id(self, id: int) -> M | None:
        """The row with this number, or None."""
        return self.get(id)

    def get_by_key(self, key: str) -> M | None:
        """The row with this key, or None."""
        return self._first(self._select().where(equals(self.model.key, key)))

    def upsert(self, /, **fields: Any) -> M:
        """Insert a row, or set the given fields of the row with its key; the row as it is then.

        With an `id`, the row with that number is meant. Right also when several callers do it at
        once.
        """
        row = normalize_row(self.model, fields)
        given = {find_field(self.model, name).name for name in fields}
        target = [self.model.key] if row.get("id") is None else [self.model.id]
        with self._explaining([row]):
            return self._upsert(row, given, target)

    # -- keys -------------------------------------------------------------------------------------

    def _update(self, key: dict[str, Any], changes: dict[str, Any]) -> list[M]:
        return self._keeping_keys(
            [{**key, **changes}], lambda: super(KeyedRepository, self)._update(key, changes)
        )

    def _bulk_update(self, changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> int:
        self._lock_rows((key for key, _ in changes), "NO KEY UPDATE")
        return self._keeping_keys(
            [{**key, **change} for key, change in changes],
            lambda: super(KeyedRepository, self)._bulk_update(changes),
        )

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> M:
        with self.database.atomic():
            written = super()._upsert(row, given, target)
            if row.get("id") is not None:
                self._keeping_keys([row], lambda: None)
        return written

    def _keeping_keys(self, rows: Sequence[Mapping[str, Any]], write: Callable[[], T]) -> T:
        """What `write()` gives; refuses it when a key then does not begin with its parent's."""
        touched = [row["id"] for row in rows if not {"key", "epic"}.isdisjoint(row)]
        if not touched:
            return write()
        with self.database.atomic():
            result = write()
            table, ids = self._rowset(self.model.id, touched)
            for sql in _STRAYS[self.model]:
                for child, key, parent in self._query(sql.format(rowset=table), ids)[:1]:
                    raise strays(child, key, parent)
        return result


_FEATURES_STRAY = (
    "SELECT 'Feature', c.key, p.key FROM planning_features AS c "
    "JOIN planning_epics AS p ON p.id = c.epic_id "
    "WHERE {side}.id IN (SELECT v.id FROM {{rowset}}) AND substr(c.key, 1, 3) <> p.key LIMIT 1"
)
_TASKS_STRAY = (
    "SELECT 'Task', c.key, p.key FROM planning_tasks AS c "
    "JOIN planning_features AS p ON p.id = c.feature_id "
    "WHERE p.id IN (SELECT v.id FROM {rowset}) AND substr(c.key, 3, 7) <> p.key LIMIT 1"
)
_STRAYS: dict[type[PlanningModel], tuple[str, ...]] = {
    Epic: (_FEATURES_STRAY.format(side="p"),),
    Feature: (_FEATURES_STRAY.format(side="c"), _TASKS_STRAY),
}


def strays(child: str, key: str, parent: str) -> ValidationError:
    """The error for a key that does not begin with the key of its parent."""
    prefix = "T-" if child == "Task" else ""
    return ValidationError(
        f"{child} key {key!r} must begin with {prefix + parent!r}, "
        f"since {parent!r} is what the {child.lower()} belongs to",
        "key",
    )


def equals(field: Any, value: Any) -> Any:
    """The condition that a column has a caller's value; None means that it has none."""
    if value is None:
        return Expression(field, OP.IS, None)
    return Expression(field, OP.EQ, _value(field, value))


class Unindexed(ColumnBase):
    """A column whose index SQLite shall not use.

    Without statistics, which few databases have, SQLite takes any equality for one that finds ten
    rows, and would read every todo to find those of one epic.
    """

    def __init__(self, field: Any) -> None:
        self.field = field

    def lookup_value(self, value: Any) -> Any:
        """As of the column."""
        return self.field.lookup_value(value)

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "sqlite":
            ctx.literal("+")
        return ctx.sql(self.field)


def _value(field: Any, value: Any) -> Any:
    """A caller's value as a parameter, which Peewee must not check as if it were to be stored."""
    encoded = field.lookup_value(value)
    return encoded if isinstance(encoded, Node) else Value(encoded, converter=False, unpack=False)


def one_of(model: Any, value: Any) -> Any:
    """The condition that a row of `model` is the one meant: by number, by key, or itself."""
    if isinstance(value, model):
        value = value._pk
    if isinstance(value, str):
        return equals(model.key, value)
    if isinstance(value, bool) or not isinstance(value, int):
        name = model.__name__.lower()
        raise ValidationError(
            f"{name} {shorten(value)} is neither a number nor a key of "
            f"{'an' if name[0] in 'aeiou' else 'a'} {name}",
            f"{public_name(model.id)}",
        )
    return equals(model.id, value)
