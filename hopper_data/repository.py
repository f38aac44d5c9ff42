"""`Repository[M]`: the verbs that every entity has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

import peewee
from peewee import SQL, Value, fn

from hopper_data import fastpath, rowsets
from hopper_data.database import Database, using
from hopper_data.driver_errors import ConstraintViolation, translated
from hopper_data.errors import DatabaseError, NotFound, ValidationError
from hopper_data.fastpath import Outline, Statements
from hopper_data.fields import moved_on, public_name, shorten, utcnow
from hopper_data.inserting import insert_row
from hopper_data.model import (
    BaseModel,
    find_field,
    guarded_fields,
    normalize_row,
    refuse_transition,
)
from hopper_data.parts import in_parts
from hopper_data.querying import (
    OrderKey,
    after_cursor,
    conditions,
    make_cursor,
    outline,
    outline_after,
    outline_sql,
    parse_order,
)
from hopper_data.session import Session
from hopper_data.statements import bind_parameters
from hopper_data.violations import explain

if TYPE_CHECKING:
    from hopper_data.aio import AsyncSession

__all__ = ["Page", "Repository"]

M = TypeVar("M", bound=BaseModel)
_WORTH_COPYING = 20
_STREAMED = 100
Filters = Mapping[str, Any]


@dataclass(frozen=True)
class Page(Generic[M]):
    """Some rows, and `next`: the cursor to give as `after`, or None on the last page."""

    items: list[M]
    next: str | None


class Repository(Generic[M]):
    """The rows of one model, inside one session.

    Filters are a dict of field names with Peewee's lookups: `{"status": "pending",
    "priority__in": ["high", "urgent"], "created_at__gte": then, "owner": None}`. An order is a text
    such as `"-priority,created_at"`; the primary key is always the last tie-breaker, and without an
    order the only key. A key of several columns is a tuple.

    Every method may raise `ValidationError` for a name or a value that is wrong, and
    `DatabaseUnavailable`. A refused call has written nothing, and the session goes on.
    """

    model: ClassVar[type[Any]]
    _statements: ClassVar[Statements]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._statements = Statements()

    def __init__(self, session: Session | AsyncSession) -> None:
        # An asynchronous session runs the methods; the queries are those of its inner one.
        session = getattr(session, "sync_session", session)
        if not isinstance(session, Session):
            raise ValidationError(
                f"{type(self).__name__} takes a session, not {type(session).__name__}: "
                "with get_sync_session() as session: …",
                "session",
            )
        self.session = session

    @property
    def database(self) -> Database:
        """The database of the session."""
        return self.session.database

    # -- reading ----------------------------------------------------------------------------------

    @in_parts("_get_statement", "_got")
    def get(self, id: Any, /) -> M | None:
        """The row with this primary key, or None."""
        asked = self._get_statement(id)
        if asked is None:
            return self._first(self._select().where(*self._terms(self._key(id))))
        return self._got(self.database.fetch_all(*asked), id)

    def _get_statement(self, id: Any, /) -> tuple[str, Sequence[Any]] | None:
        """The SELECT of a row; None where Peewee is to ask."""
        key = self._key(id)
        if not fastpath.is_enabled():
            return None
        question = Outline(("get",), self._encoded(key), is_keyed=True)
        return self._statements.get(
            self.database, question, lambda: self._select().where(*self._terms(key))
        )

    def _got(self, rows: Sequence[Sequence[Any]], _id: Any) -> M | None:
        return self._build(rows)[0] if rows else None

    @in_parts("_get_statement", "_got_or_raise", "get")
    def get_or_raise(self, id: Any, /) -> M:
        """The row with this primary key; `NotFound` when there is none."""
        return self._there(self.get(id), id)

    def _got_or_raise(self, rows: Sequence[Sequence[Any]], id: Any) -> M:
        return self._there(self._got(rows, id), id)

    def _there(self, row: M | None, id: Any) -> M:
        if row is None:
            raise NotFound(f"{self.model.__name__} {shorten(id)} does not exist")
        return row

    def get_all(
        self, skip: int = 0, limit: int | None = None, order_by: str | Sequence[str] | None = None
    ) -> list[M]:
        """All rows, in the given order. `limit=None` means no limit."""
        return self.filter(None, skip, limit, order_by)

    def filter(
        self,
        filters: Filters | None = None,
        skip: int = 0,
        limit: int | None = None,
        order_by: str | Sequence[str] | None = None,
    ) -> list[M]:
        """The rows that meet every filter, in the given order."""
        return self._listed(
            outline(self.model, filters),
            lambda: self._filtered(self._select(), filters),
            order_by,
            skip,
            limit,
        )

    def page(
        self,
        filters: Filters | None = None,
        limit: int = 50,
        after: str | None = None,
        order_by: str | Sequence[str] | None = None,
    ) -> Page[M]:
        """One page of the rows that meet the filters, from behind the cursor `after`.

        However deep, a page costs the same, and rows that come and go meanwhile make no other row
        appear twice or be left out.
        """
        check_count(limit, "limit")
        keys = parse_order(self.model, order_by)
        question = outline(self.model, filters)
        if question is not None and after is not None:
            question = question.then(outline_after(keys, after))

        def make() -> Any:
            query = self._filtered(self._select(), filters)
            return query if after is None else query.where(after_cursor(keys, after))

        rows = self._listed(question, make, order_by, 0, limit + 1)
        return self._page(keys, rows, limit)

    def _page(self, keys: list[OrderKey], rows: list[M], limit: int, scope: str = "") -> Page[M]:
        more = len(rows) > limit
        items = rows[:limit]
        return Page(items, make_cursor(keys, items[-1], scope) if more and items else None)

    def iterate(
        self, filters: Filters | None = None, order_by: str | Sequence[str] | None = None
    ) -> Iterator[M]:
        """The rows that meet the filters, one by one, as they were when the first was asked for.

        Memory stays constant, and rows may be written meanwhile. The session must stay open.
        """
        keys = parse_order(self.model, order_by)
        query = self._filtered(self._select(), filters)
        query = query.order_by(*(key.node(materialize=True) for key in keys))
        return self._stream(query)

    def count(self, filters: Filters | None = None) -> int:
        """How many rows meet the filters."""
        question = Outline(("count",), []).then(outline(self.model, filters))
        rows = self._tuples(
            question, lambda: self._filtered(self.model.select(SQL("COUNT(*)")), filters)
        )
        return int(rows[0][0])

    def exists(self, id: Any, /) -> bool:
        """Whether there is a row with this primary key."""
        key = self._key(id)
        question = Outline(("exists",), self._encoded(key), is_keyed=True)
        query = self.model.select
        return bool(self._tuples(question, lambda: query(SQL("1")).where(*self._terms(key))))

    # -- writing ----------------------------------------------------------------------------------

    def create(self, /, **fields: Any) -> M:
        """Insert a row and return it. `IntegrityError` when a key is taken or a parent missing."""
        row = fastpath.new_row(self.model, fields)
        try:
            self._insert([row])
        except ConstraintViolation as violation:
            self._explain(violation, [row], new=True)
        return self._make(row)

    def update(self, id: Any, /, **fields: Any) -> M | None:
        """Set some fields of a row and return it as it is then; None when there is no such row.

        `updated_at` moves on: to the time that is given, where it is after the stored one, else to
        now. The key and `created_at` never change.
        """
        key = self._key(id)
        changes = self._changes(fields)
        if not changes:
            return self.get(id)
        if "updated_at" in changes or "updated_at" not in self.model._meta.fields:
            self._stamp([(key, changes)])
        else:
            changes["updated_at"] = utcnow()
        try:
            rows = self._update(key, changes)
        except ConstraintViolation as violation:
            self._explain(violation, [{**key, **changes}])
        if not rows:
            self._refused(id, changes)
            return None
        return rows[0]

    def _update(self, key: dict[str, Any], changes: dict[str, Any]) -> list[M]:
        if not fastpath.is_enabled():
            return self._update_by_peewee(key, changes)
        database, model = self.database, self.model
        sql = self._statements.known(database, ("update", *changes))
        if sql is None:
            sql = self._update_sql(database, changes)
        values = fastpath.parameters(model, {**changes, **key})
        return fastpath.build_models(model, database.send(sql, values).fetchall())

    def _update_sql(self, database: Database, changes: Mapping[str, Any]) -> str:
        guarded = [field for field in guarded_fields(self.model) if field.name in changes]
        shape: tuple[Any, ...] = ("update", *changes)
        if guarded:  # what a status may have been before depends on what it is to be
            shape = (shape, *[changes[field.name] for field in guarded])
        sql = self._statements.known(database, shape)
        if sql is None:
            fields = [self._field(name) for name in changes]
            guards = {field: field.sources(changes[field.name]) for field in guarded}
            sql = rowsets.update_row_sql(database, self.model, fields, guards)
            sql = self._statements.keep(database, shape, sql)
        return sql

    def _update_by_peewee(self, key: dict[str, Any], changes: dict[str, Any]) -> list[M]:
        values = {self._field(name): value for name, value in changes.items()}
        moved = self.model._meta.fields.get("updated_at")
        if moved in values:
            moment = Value(values[moved], converter=moved.db_value)
            values[moved] = (
                fn.MAX(moment, moved)
                if self.database.dialect == "sqlite"
                else fn.GREATEST(moment, moved + SQL("INTERVAL '1 microsecond'"))
            )
        query = self.model.update(values)
        query = query.where(*self._terms(key))
        for field in guarded_fields(self.model):
            if field.name in changes:
                query = query.where(field.in_(field.sources(changes[field.name])))
        return list(query.returning(*self.model._meta.sorted_fields).execute(self.database))

    def _refused(self, id: Any, changes: Mapping[str, Any]) -> None:
        stored = self.get(id)
        if stored is None:
            return
        for field in guarded_fields(self.model):
            old = getattr(stored, field.name)
            if field.name in changes and old not in field.sources(changes[field.name]):
                raise refuse_transition(field, old, changes[field.name])
        raise DatabaseError(
            f"{self.model.__name__} {shorten(id)} was changed by another writer meanwhile",
            retryable=True,
        )

    def delete(self, id: Any, /) -> bool:
        """Delete a row; whether there was one."""
        key = self._key(id)
        with self._explaining([key]):
            return self._delete([key]) == 1

    def upsert(self, /, **fields: Any) -> M:
        """Insert a row, or set the given fields of the row with its key; the row as it is then.

        Right also when several callers do it at once.
        """
        row = fastpath.new_row(self.model, fields)
        given = {find_field(self.model, name).name for name in fields}
        with self._explaining([row]):
            return self._upsert(row, given, self.model._meta.get_primary_keys())

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> M:
        fields = self.model._meta.fields
        inserted = [
            field
            for field in self.model._meta.sorted_fields
            if not (field.auto_increment and row.get(field.name) is None)
        ]
        if "updated_at" in given:
            for *_, before in self._locked(fields["updated_at"], [row], target):
                row = {**row, "updated_at": moved_on(row["updated_at"], before)}
        kept = {field.name for field in (*target, *self.model._meta.get_primary_keys())}
        kept.add("created_at")
        updated = [fields[name] for name in row if name in given - kept]
        if "updated_at" in fields:
            updated = [*(f for f in updated if f.name != "updated_at"), fields["updated_at"]]
        # Something must be set for RETURNING to answer.
        guards = {
            field: field.sources(row[field.name])
            for field in guarded_fields(self.model)
            if field in updated
        }
        sql = rowsets.upsert_row_sql(
            self.database, self.model, inserted, updated or list(target), target, guards
        )
        values = {field.name: row.get(field.name) for field in inserted}
        found = self._models(sql, fastpath.parameters(self.model, values))
        if not found:
            terms = [field == row[field.name] for field in target]
            stored = self._first(self._select().where(*terms))
            if stored is not None:
                self._refused(stored._pk, row)
            raise DatabaseError(
                f"{self.model.__name__} was deleted by another writer meanwhile", retryable=True
            )
        return found[0]

    # -- many rows --------------------------------------------------------------------------------

    def bulk_create(self, rows: Iterable[Mapping[str, Any]]) -> list[M]:
        """Insert many rows, all or none, and return them in the order given."""
        given = as_rows(rows)
        with fastpath.without_collection():
            normal = [fastpath.new_row(self.model, row) for row in given]
            if normal:
                with self._explaining(normal, new=True), self.database.atomic():
                    self._insert(normal)
            return [self._make(row) for row in normal]

    def bulk_update(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Set fields of many rows, all or none; each dict has the key and what is to change.

        The number of rows that were there. `updated_at` moves on as in `update()`.
        """
        given = as_rows(rows)
        with fastpath.without_collection():
            changes = self._bulk_changes(given)
            if not changes:
                return 0
            try:
                with self.database.atomic():
                    self._stamp(changes)
                    self._check_transitions(changes)
                    return self._bulk_update(changes)
            except ConstraintViolation as violation:
                self._explain(violation, [{**key, **change} for key, change in changes])

    def _bulk_update(self, changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> int:
        groups: dict[frozenset[str], list[dict[str, Any]]] = {}
        for key, change in changes:
            groups.setdefault(frozenset(change), []).append({**key, **change})
        return sum(
            rowsets.update_rows(self.database, self.model, names, group)
            for names, group in groups.items()
        )

    def bulk_delete(self, ids: Iterable[Any]) -> int:
        """Delete many rows, all or none; the number of rows that were there."""
        if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
            raise ValidationError(f"ids is {shorten(ids)}; it must be a list of keys", "ids")
        keys = [self._key(key) for key in ids]
        if not keys:
            return 0
        with self._explaining(keys), self.database.atomic():
            return self._delete(keys)

    # -- for repositories of entities -------------------------------------------------------------

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        """Write new rows; the place for what must hold over several rows."""
        database, model = self.database, self.model
        if not fastpath.is_enabled():
            rowsets.insert_rows(database, model, rows)
        elif len(rows) == 1:
            insert_row(database, model, rows[0], self._statements)
        elif database.copies and len(rows) >= _WORTH_COPYING and not model._meta.auto_increment:
            database.copy_rows(
                rowsets.table_name(model, database),
                rowsets.columns(model._meta.sorted_fields),
                [fastpath.row_parameters(model, row) for row in rows],
            )
        else:
            rowsets.insert_rows(database, model, rows)

    def _delete(self, keys: list[dict[str, Any]]) -> int:
        database, model = self.database, self.model
        if len(keys) > 1 or not fastpath.is_enabled():
            return rowsets.delete_rows(database, model, keys)
        sql = self._statements.known(database, "delete") or self._statements.keep(
            database, "delete", rowsets.delete_row_sql(database, model)
        )
        deleted: int = database.send(sql, self._encoded(keys[0])).rowcount
        return deleted

    def _select(self) -> Any:
        return self.model.select()

    def _filtered(self, query: Any, filters: Filters | None) -> Any:
        with using(self.database):
            terms = conditions(self.model, filters)
        return query.where(*terms) if terms else query

    def _ordered(self, query: Any, order_by: str | Sequence[str] | None) -> Any:
        return query.order_by(*(key.node() for key in parse_order(self.model, order_by)))

    def _list(self, query: Any, skip: int = 0, limit: int | None = None) -> list[M]:
        bounds = self._bounds(skip, limit)
        return [] if limit == 0 else self._fetch(_bounded(query, *bounds))

    def _listed(
        self,
        question: Outline | None,
        make: Callable[[], Any],
        order_by: str | Sequence[str] | None,
        skip: int,
        limit: int | None,
    ) -> list[M]:
        """Some of the rows of `make()`, whose outline is `question`, in an order."""
        if question is None:
            return self._list(self._ordered(make(), order_by), skip, limit)
        parse_order(self.model, order_by)
        order = tuple(order_by) if isinstance(order_by, list) else order_by
        whole = Outline((question.shape, order), question.values)
        return self._some(whole, lambda: self._ordered(make(), order_by), skip, limit)

    def _some(
        self, question: Outline | None, make: Callable[[], Any], skip: int, limit: int | None
    ) -> list[M]:
        """Some of the rows of `make()`, whose outline is `question`, in the order that it has."""
        if question is None:
            return self._list(make(), skip, limit)
        bounds = self._bounds(skip, limit)
        if limit == 0:
            return []
        given = [value for value in bounds if value is not None]
        whole = Outline((question.shape, bounds[0] is None, len(given)), [*question.values, *given])
        return self._ask(whole, lambda: _bounded(make(), *bounds))

    def _bounds(self, skip: int, limit: int | None) -> tuple[int | None, int | None]:
        """What LIMIT and OFFSET say, None for nothing."""
        check_count(skip, "skip")
        if limit is not None:
            check_count(limit, "limit")
        elif skip and self.database.dialect == "sqlite":
            limit = -1  # there, OFFSET needs a LIMIT
        return limit, skip or None

    def _ask(self, question: Outline | None, make: Callable[[], Any]) -> list[M]:
        """The rows of `make()`, a query made from `_select()`, whose outline is `question`."""
        if question is None or not fastpath.is_enabled():
            return self._fetch(make())
        database = self.database
        return self._build(database.fetch_all(*self._statements.get(database, question, make)))

    def _tuples(self, question: Outline | None, make: Callable[[], Any]) -> list[Any]:
        """The plain rows of `make()`, whose outline is `question`."""
        if question is None or not fastpath.is_enabled():
            return list(make().tuples().execute(self.database))
        database = self.database
        return database.fetch_all(*self._statements.get(database, question, make))

    def _fetch(self, query: Any) -> list[M]:
        """The rows of a query made from `_select()`."""
        database = self.database
        if fastpath.is_enabled():
            return self._models(*database.get_sql_context().sql(query).query())
        with translated(database):
            return list(query.execute(database))

    def _find(
        self,
        *terms: Any,
        order_by: str | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[M]:
        """The rows that meet some terms of SQL, in an order."""
        return self._listed(
            outline_sql(terms),
            lambda: self._select().where(*terms) if terms else self._select(),
            order_by,
            skip,
            limit,
        )

    def _first(self, query: Any) -> M | None:
        rows = self._fetch(query.limit(1))
        return rows[0] if rows else None

    def _rows(self, sql: str, *params: Any) -> list[tuple[Any, ...]]:
        """The rows of a query written by hand, with `?` as placeholder."""
        database = self.database
        statement, values = bind_parameters(sql, params, database.dialect)
        return database.fetch_all(statement, values or ())

    def _sorted_rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query that sorts a whole table."""
        database = self.database
        return database.fetch_sorted(bind_parameters(sql, (), database.dialect)[0])

    def _models(self, sql: str, params: Sequence[Any]) -> list[M]:
        """The rows of a statement that returns the columns of the model in their order."""
        return self._build(self.database.send(sql, params).fetchall())

    def _build(self, rows: Sequence[Sequence[Any]]) -> list[M]:
        """Models of rows that have the columns of the model in their order."""
        if fastpath.is_enabled():
            return fastpath.build_models(self.model, rows)
        return [self._by_peewee(row) for row in rows]

    def _from_row(self, row: Sequence[Any]) -> M:
        return self._build([row])[0]

    def _by_peewee(self, row: Sequence[Any]) -> M:
        fields = self.model._meta.sorted_fields
        return self._make(
            {
                field.name: field.python_value(value)
                for field, value in zip(fields, row, strict=True)
            }
        )

    def _stream(self, query: Any) -> Iterator[M]:
        sql, params = self.database.get_sql_context().sql(query).query()
        # Closed by hand: what is raised while Python throws a generator away, a task that is
        # cancelled too, is lost.
        with closing(self.database.stream(sql, params)) as rows:
            for chunk in rowsets.chunks(rows, _STREAMED):
                for model in self._build(chunk):
                    yield model
                    _ = self.database  # refuses where the session has ended meanwhile

    def _make(self, row: Mapping[str, Any]) -> M:
        """A model of normalized values, unchanged as far as `save()` is concerned."""
        model: Any = self.model
        own = model.__init__ is not BaseModel.__init__  # which may set attributes of its own
        instance: M = model(__no_default__=True) if own else model.__new__(model)
        instance.__data__, instance._dirty, instance.__rel__ = dict(row), set(), {}
        return instance

    def _field(self, name: str) -> Any:
        return self.model._meta.fields[name]

    def _key(self, id: Any) -> dict[str, Any]:
        """A caller's key as values by field name."""
        meta = self.model._meta
        if id is not None and not meta.composite_key:
            return {meta.primary_key.name: meta.primary_key.comparable(id)}
        fields = meta.get_primary_keys()
        parts = id if len(fields) > 1 else (id,)
        if not isinstance(parts, tuple | list) or len(parts) != len(fields):
            names = ", ".join(public_name(field) for field in fields)
            raise ValidationError(
                f"the key of {self.model.__name__} is the tuple ({names}), not {shorten(id)}", "id"
            )
        for field, part in zip(fields, parts, strict=True):
            if part is None:
                raise ValidationError(
                    f"{self.model.__name__} {public_name(field)} is None; a key must be given",
                    public_name(field),
                )
        return {
            field.name: field.comparable(part) for field, part in zip(fields, parts, strict=True)
        }

    def _encoded(self, key: Mapping[str, Any]) -> Sequence[Any]:
        return fastpath.parameters(self.model, key)

    def _terms(self, key: Mapping[str, Any]) -> list[Any]:
        return [
            peewee.Expression(
                self._field(name),
                peewee.OP.EQ,
                peewee.Value(self._field(name).encode(value), converter=False, unpack=False),
            )
            for name, value in key.items()
        ]

    def _changes(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        fixed = self.model._meta.derived(_fixed_names)
        changes = normalize_row(self.model, fields, partial=True)
        for name in () if fixed.isdisjoint(changes) else changes:
            if name in fixed:
                shown = public_name(self._field(name))
                raise ValidationError(f"{self.model.__name__} {shown} never changes", shown)
        return changes

    def _stamp(self, changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Let `updated_at` of some rows move on, to the time that is given where there is one."""
        if "updated_at" not in self.model._meta.fields:
            return
        field, now = self._field("updated_at"), utcnow()
        given = [key for key, change in changes if field.name in change]
        locked = self._locked(field, given) if given else []
        stored = {tuple(key): moment for *key, moment in locked}
        for key, change in changes:
            moment = change.setdefault(field.name, now)
            if stored and tuple(key.values()) in stored:
                change[field.name] = moved_on(moment, stored[tuple(key.values())])

    def _bulk_changes(
        self, rows: list[Mapping[str, Any]]
    ) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        keys = self.model._meta.get_primary_keys()
        seen: set[tuple[Any, ...]] = set()
        names: dict[Any, str] = {}
        result = []
        for number, row in enumerate(rows):
            if not names.keys() >= row.keys():
                names.update((name, find_field(self.model, name).name) for name in row)
            named = {names[name]: value for name, value in row.items()}
            parts = tuple([named.pop(field.name, None) for field in keys])
            key = self._key(parts if len(keys) > 1 else parts[0])
            values = tuple(key.values())
            if values in seen:
                raise ValidationError(
                    f"row {number} of bulk_update repeats the key {shorten(parts[0])}", "id"
                )
            seen.add(values)
            changes = self._changes(named)
            if changes:
                result.append((key, changes))
        return result

    def _check_transitions(self, changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        """Refuse a bulk update in which a status may not follow the stored one."""
        for field in guarded_fields(self.model):
            wanted = {
                tuple(key.values()): change[field.name]
                for key, change in changes
                if field.name in change
            }
            if not wanted:
                continue
            for *key, old in self._locked(field, [k for k, c in changes if field.name in c]):
                new = wanted[tuple(key)]
                if old not in field.sources(new):
                    raise refuse_transition(field, old, new)

    def _locked(
        self, field: Any, keys: list[dict[str, Any]], by: Sequence[Any] = ()
    ) -> list[tuple[Any, ...]]:
        """The keys and the values of one field of some rows, which nobody changes meanwhile.

        The keys are values of the primary key, or of the fields `by`.
        """
        fields = by or self.model._meta.get_primary_keys()
        lock = "" if self.database.dialect == "sqlite" else " FOR UPDATE"
        sql = (
            f"SELECT {rowsets.columns([*fields, field])} "
            f"FROM {rowsets.table_name(self.model, self.database)} "
            f"WHERE {rowsets.is_among(self.database, fields)}"
            # In one order for all, so that no two writers wait for each other.
            f" ORDER BY {rowsets.columns(fields)}{lock}"
        )
        found: list[tuple[Any, ...]] = []
        for chunk in rowsets.chunks(keys):
            cursor = self.database.execute_sql(sql, (rowsets.key_document(fields, chunk),))
            found.extend(
                tuple(f.python_value(v) for f, v in zip([*fields, field], row, strict=True))
                for row in cursor.fetchall()
            )
        return found

    @contextmanager
    def _explaining(
        self, rows: Sequence[Mapping[str, Any]], *, new: bool = False
    ) -> Iterator[None]:
        try:
            yield
        except ConstraintViolation as violation:
            self._explain(violation, rows, new=new)

    def _explain(
        self,
        violation: ConstraintViolation,
        rows: Sequence[Mapping[str, Any]],
        *,
        new: bool = False,
    ) -> NoReturn:
        """Put a refusal of the database into the words of the rows that were written."""
        error = explain(violation, self.model, rows, self.database, new=new)
        raise error from (violation.__cause__ or violation)


def _bounded(query: Any, limit: int | None, skip: int | None) -> Any:
    query = query if limit is None else query.limit(limit)
    return query if skip is None else query.offset(skip)


def _fixed_names(model: Any) -> frozenset[str]:
    """The fields that no update may set."""
    return frozenset(field.name for field in model._meta.get_primary_keys()) | {"created_at"}


def check_count(value: Any, name: str) -> int:
    """A `skip` or `limit`, or a `ValidationError`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValidationError(f"{name} is {shorten(value)}; it must be a whole number", name)
    if value < 0:
        raise ValidationError(f"{name} is {shorten(value)}; it must be 0 or more", name)
    if value >= 2**63 - 1:
        raise ValidationError(f"{name} is {shorten(value)}; there can be no such number", name)
    return value


def as_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows of a bulk call as a list, each checked to be a dict."""
    if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
        # Not shown, here and below: what is in the wrong place may be secret.
        raise ValidationError(f"rows is {type(rows).__name__}; it must be a list of dicts", "rows")
    result = list(rows)
    for number, row in enumerate(result):
        if not isinstance(row, Mapping):
            kind = type(row).__name__
            raise ValidationError(f"row {number} is {kind}; it must be a dict of fields", "rows")
    return result
