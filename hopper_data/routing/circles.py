"""References between rows of one table must not lead back to where they began.

The rows that can be reached are read with one recursive query; `graphlib` finds the circle and
names it. On PostgreSQL the writers of such references take turns, or two of them could close a
circle together that neither can see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, ClassVar, TypeVar

from hopper_data.errors import ValidationError
from hopper_data.fields import dump_json
from hopper_data.model import BaseModel
from hopper_data.repository import Repository

__all__ = ["AcyclicRepository", "dependencies_of"]

_LOCK = 4_875_001
M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Rows = Sequence[Mapping[str, Any]]


def dependencies_of(dialect: str, task: str) -> str:
    """SQL to join each id in `depends_on` of a task, as `dependency.value`."""
    if dialect == "sqlite":
        return f"CROSS JOIN json_each(coalesce({task}.depends_on, '[]')) AS dependency"
    return (
        "CROSS JOIN LATERAL jsonb_array_elements_text("
        f"CASE jsonb_typeof({task}.depends_on) WHEN 'array' THEN {task}.depends_on "
        "ELSE '[]' END) AS dependency(value)"
    )


class AcyclicRepository(Repository[M]):
    """A repository whose rows refer to each other by `reference`, and never in a circle."""

    reference: ClassVar[str]
    relation: ClassVar[str]

    def _references_sql(self, source: str) -> str:
        """The query for the pairs (id, referred id) that can be reached from the ids of `source`."""
        raise NotImplementedError

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        self._without_circle(rows, lambda: super(AcyclicRepository, self)._insert(rows))

    def _update(self, key: dict[str, Any], changes: dict[str, Any]) -> list[M]:
        return self._without_circle(
            [{**key, **changes}], lambda: super(AcyclicRepository, self)._update(key, changes)
        )

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> M:
        return self._without_circle(
            [row], lambda: super(AcyclicRepository, self)._upsert(row, given, target)
        )

    def _bulk_update(self, changes: list[tuple[dict[str, Any], dict[str, Any]]]) -> int:
        return self._without_circle(
            [{**key, **change} for key, change in changes],
            lambda: super(AcyclicRepository, self)._bulk_update(changes),
        )

    def _without_circle(self, rows: Rows, write: Callable[[], T]) -> T:
        referring = sorted({row["id"] for row in rows if row.get(self.reference)})
        if not referring:
            return write()
        self._take_turn()
        with self.database.atomic():
            result = write()
            circle = self._find_circle(referring)
            if circle:
                column = self.model._meta.fields[self.reference].column_name
                raise ValidationError(
                    f"{self.model.__name__} {column} {self._describe(circle)}", column
                )
        return result

    def _take_turn(self) -> None:
        """Wait until no other transaction writes references; others wait until this one ends."""
        if self.database.dialect != "sqlite":
            self.database.execute_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    def _describe(self, circle: Sequence[str]) -> str:
        path = f" {self.relation} ".join(map(repr, circle))
        return f"would close a circle: {path}"

    def _find_circle(self, ids: Sequence[str]) -> list[str]:
        """A circle that can be reached from some rows: each id refers to the next; or nothing."""
        source = (
            "SELECT value FROM json_each(?)"
            if self.database.dialect == "sqlite"
            else "SELECT value COLLATE \"C\" FROM jsonb_array_elements_text(CAST(%s AS JSONB))"
        )
        graph: dict[str, set[str]] = {}
        pairs = self.database.execute_sql(self._references_sql(source), (dump_json(ids),))
        for id, referred in pairs.fetchall():
            graph.setdefault(id, set()).add(referred)
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            # graphlib names a circle against the direction of the references.
            return list(reversed(error.args[1]))
        return []
