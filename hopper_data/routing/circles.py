"""References between rows of one table must not lead back to where they began.

The rows that can be reached are read with one recursive query; `graphlib` finds the circle, which
the error names. On PostgreSQL the writers of such references take turns, or two of them could close
a circle together that neither can see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from hopper_data.database import Database
from hopper_data.errors import ValidationError
from hopper_data.fields import dump_json
from hopper_data.model import BaseModel
from hopper_data.repository import Repository

__all__ = [
    "INSTANCE_PARENTS",
    "TASK_DEPENDENCIES",
    "AcyclicModel",
    "AcyclicRepository",
    "References",
    "dependencies_of",
]

_LOCK = 4_875_001
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Rows = Sequence[Mapping[str, Any]]


class References(NamedTuple):
    """The column by which rows of a table refer to others of it, and what it says of them.

    `reachable` makes, for a dialect and a query for ids, the query for the pairs (id, referred id)
    that can be reached from those.
    """

    field: str
    relation: str
    reachable: Callable[[str, str], str]

    def take_turn(self, database: Database) -> None:
        """Wait until no other transaction writes references; others wait until this one ends."""
        if database.dialect != "sqlite":
            database.execute_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    def find_circle(self, database: Database, ids: Sequence[str]) -> list[str]:
        """A circle that can be reached from some rows: each id refers to the next; or nothing."""
        source = (
            "SELECT value FROM json_each(?)"
            if database.dialect == "sqlite"
            else 'SELECT value COLLATE "C" FROM jsonb_array_elements_text(CAST(%s AS JSONB))'
        )
        from graphlib import CycleError, TopologicalSorter

        sql = self.reachable(database.dialect, source)
        graph: dict[str, set[str]] = {}
        for row, referred in database.execute_sql(sql, (dump_json(ids),)).fetchall():
            graph.setdefault(row, set()).add(referred)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            # graphlib names a circle against the direction of the references.
            return list(reversed(error.args[1]))
        return []

    def describe(self, circle: Sequence[str]) -> str:
        """What is wrong with a circle."""
        path = f" {self.relation} ".join(map(repr, circle))
        return f"would close a circle: {path}"

    def guard(
        self, database: Database, model: type[BaseModel], rows: Rows, write: Callable[[], T]
    ) -> T:
        """The result of `write()`, which writes `rows`; undone when they close a circle."""
        referring = sorted({row["id"] for row in rows if row.get(self.field)})
        if not referring:
            return write()
        with database.atomic():
            self.take_turn(database)
            result = write()
            circle = self.find_circle(database, referring)
            if circle:
                column = model._meta.fields[self.field].column_name
                raise ValidationError(f"{model.__name__} {column} {self.describe(circle)}", column)
        return result


def dependencies_of(dialect: str, task: str) -> str:
    """SQL to join each id in `depends_on` of a task, as `dependency.value`."""
    column = f"{task}.depends_on"
    # What other programs have written may be JSON without being a list, or not even JSON.
    if dialect == "sqlite":
        items = (
            f"iif(json_valid({column}), iif(json_type({column}) = 'array', {column}, '[]'), '[]')"
        )
        return f"CROSS JOIN json_each({items}) AS dependency"
    items = f"CASE jsonb_typeof({column}) WHEN 'array' THEN {column} ELSE '[]' END"
    return f"CROSS JOIN LATERAL jsonb_array_elements_text({items}) AS dependency(value)"


def _reachable_tasks(dialect: str, source: str) -> str:
    dependencies = dependencies_of(dialect, "task")
    if dialect == "sqlite":
        step = "JOIN tasks AS task ON task.id = reached.id"
    else:
        # OFFSET 0 has each id looked up by the key: the planner thinks that it will be thousands.
        step = (
            "CROSS JOIN LATERAL "
            "(SELECT id, depends_on FROM tasks WHERE id = reached.id OFFSET 0) AS task"
        )
    return (
        f"WITH RECURSIVE reached(id) AS ({source} UNION "
        f"SELECT dependency.value FROM reached {step} {dependencies}) "
        f"SELECT task.id, dependency.value FROM reached {step} {dependencies}"
    )


def _reachable_instances(_dialect: str, source: str) -> str:
    return (
        f"WITH RECURSIVE reached(id) AS ({source} UNION "
        "SELECT i.parent_id FROM reached JOIN hopper_instances AS i ON i.id = reached.id "
        "WHERE i.parent_id IS NOT NULL) "
        "SELECT i.id, i.parent_id FROM reached JOIN hopper_instances AS i ON i.id = reached.id "
        "WHERE i.parent_id IS NOT NULL"
    )


TASK_DEPENDENCIES = References("depends_on", "depends on", _reachable_tasks)
INSTANCE_PARENTS = References("parent", "stands under", _reachable_instances)


class AcyclicModel(BaseModel):
    """A model whose rows refer to each other by `references`, and never in a circle."""

    references: ClassVar[References]

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """Write the row as `BaseModel.save()` does; `ValidationError` when it closes a circle."""

        def write() -> int:
            return super(AcyclicModel, self).save(force_insert, only)

        bound = self._meta.database
        database = getattr(bound, "obj", bound)
        return self.references.guard(database, type(self), [self.__data__], write)


class AcyclicRepository(Repository[M]):
    """A repository whose rows refer to each other by `references`, and never in a circle."""

    references: ClassVar[References]

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        if len(rows) == 1 and not rows[0].get(self.references.field):
            super()._insert(rows)
            return
        self._without_circle(rows, lambda: super(AcyclicRepository, self)._insert(rows))

    def _update(self, key: dict[str, Any], changes: dict[str, Any]) -> list[M]:
        if not changes.get(self.references.field):
            return super()._update(key, changes)
        return self._without_circle(
            [{**key, **changes}], lambda: super(AcyclicRepository, self)._update(key, changes)
        )

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> M:
        return self._without_circle(
            [row], lambda: super(AcyclicRepository, self)._upsert(row, given, target)
        )

    def _bulk_update(self, changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> int:
        field = self.references.field
        referring = [{**key, **change} for key, change in changes if field in change]
        return self._without_circle(
            referring, lambda: super(AcyclicRepository, self)._bulk_update(changes)
        )

    def _without_circle(self, rows: Rows, write: Callable[[], T]) -> T:
        return self.references.guard(self.database, self.model, rows, write)

    def _take_turn(self) -> None:
        self.references.take_turn(self.database)

    def _find_circle(self, ids: Sequence[str]) -> list[str]:
        return self.references.find_circle(self.database, ids)

    def _describe(self, circle: Sequence[str]) -> str:
        return self.references.describe(circle)
