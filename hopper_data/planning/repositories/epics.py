"""Epics: large goals, reached by features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peewee import SQL

from hopper_data.errors import NotFound
from hopper_data.fields import shorten
from hopper_data.planning import progress
from hopper_data.planning.models import Epic
from hopper_data.planning.repositories.base import BY_KEY, KeyedRepository
from hopper_data.planning.vocabulary import PlanStatus

__all__ = ["EpicRepository"]


class EpicRepository(KeyedRepository[Epic]):
    """The epics. Lists are in the order of their keys.

    Deleting an epic deletes its features, their tasks and the history of these. The key of an epic
    that has features does not change.
    """

    model = Epic

    def list_all(
        self, status: PlanStatus | str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Epic]:
        """All epics, or those with a status."""
        return self.filter({} if status is None else {"status": status}, skip, limit, BY_KEY)

    def calculate_progress(self, epic_id: int) -> float:
        """How much of an epic is completed, in percent, counted from its tasks.

        The average of its features' progress, each weighted by its number of tasks. `NotFound`
        when there is no such epic.
        """
        percent = progress.of_epic(self.database, self._key(epic_id)["id"])
        if percent is None:
            raise NotFound(f"Epic {shorten(epic_id)} does not exist")
        return percent

    def _computed_columns(self) -> Sequence[Any]:
        return [SQL(progress.EPIC_SQL.format(epic='"t1"."id"'))]

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        super()._insert(rows)
        for row in rows:
            row["progress_pct"] = 0.0

    def _delete(self, keys: list[dict[str, Any]]) -> int:
        epics, ids = self._rowset(Epic.id, (key["id"] for key in keys))
        with self.database.atomic():
            # Those who write tasks lock features, lowest number first; so must who deletes them.
            features = (
                f"SELECT id FROM planning_features WHERE epic_id IN (SELECT v.id FROM {epics})"
            )
            self._query(f"{features} ORDER BY id{self._lock('UPDATE')}", ids)
            self._lock_tasks_of(features, ids)
            return super()._delete(keys)
