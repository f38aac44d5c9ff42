"""Features: the parts of epics, made of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hopper_data.errors import NotFound, ValidationError
from hopper_data.fields import shorten
from hopper_data.planning import progress
from hopper_data.planning.keys import epic_key_of
from hopper_data.planning.models import Epic, Feature
from hopper_data.planning.repositories.base import BY_KEY, KeyedRepository, equals, one_of, strays
from hopper_data.planning.vocabulary import PlanStatus

__all__ = ["FeatureRepository"]


class FeatureRepository(KeyedRepository[Feature]):
    """The features. Lists are in the order of their keys.

    `progress_pct` follows from the tasks, and cannot be written. Deleting a feature deletes its
    tasks and their history. The key of a feature that has tasks does not change; without tasks it
    changes together with the epic.
    """

    model = Feature

    # -- lists ------------------------------------------------------------------------------------

    def list_all(
        self, status: PlanStatus | str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Feature]:
        """All features, or those with a status."""
        return self.filter({} if status is None else {"status": status}, skip, limit, BY_KEY)

    def list_by_epic(
        self,
        epic: int | str | Epic,
        status: PlanStatus | str | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Feature]:
        """The features of an epic, given by its number or its key; or those with a status."""
        terms = [one_of(Epic, epic)]
        if status is not None:
            terms.append(equals(Feature.status, status))
        return self._find(*terms, order_by=BY_KEY, skip=skip, limit=limit)

    # -- progress ---------------------------------------------------------------------------------

    def calculate_progress(self, feature_id: int) -> float:
        """How much of a feature is completed, in percent, counted from its tasks.

        Archived tasks are left out; without any other it is 0.0. `NotFound` when there is no such
        feature.
        """
        percent = progress.of_feature(self.database, self._key(feature_id)["id"])
        if percent is None:
            raise NotFound(f"Feature {shorten(feature_id)} does not exist")
        return percent

    def update_progress(self, feature_id: int) -> float:
        """Put `progress_pct` of a feature right, and give it. `NotFound` when there is none.

        Every way of writing tasks does so; this is for rows that came from outside the package.
        """
        key = self._key(feature_id)
        with self.database.atomic():
            self._lock_rows([key], "NO KEY UPDATE")
            progress.recompute(self.database, [key["id"]])
            return self.calculate_progress(feature_id)

    # -- writing ----------------------------------------------------------------------------------

    def _select(self) -> Any:
        return super()._select().join(Epic)

    def _computed_columns(self) -> Sequence[Any]:
        return [Epic.key]

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            _refuse_progress(row)
        self._check_epics(rows)
        super()._insert(rows)

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> Feature:
        _refuse_progress(row)
        self._check_epics([row])
        feature = super()._upsert(row, given - {"progress_pct"}, target)
        feature._computed = (row["epic_key"],)
        return feature

    def _check_epics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Refuse keys that do not begin with the epic's; note the epics' keys in the rows.

        An epic that does not exist is left to the database to refuse.
        """
        epics, ids = self._rowset(Feature.epic, (row["epic"] for row in rows))
        found = self._query(
            f"SELECT id, key FROM planning_epics WHERE id IN (SELECT v.epic_id FROM {epics})"
            f"{self._lock('KEY SHARE')}",
            ids,
        )
        keys = dict(found)
        for row in rows:
            row["epic_key"] = keys.get(row["epic"])
            if row["epic"] in keys and epic_key_of(row["key"]) != row["epic_key"]:
                raise strays("Feature", row["key"], row["epic_key"])

    def _changes(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        if "progress_pct" in fields:
            raise _computed_progress()
        return super()._changes(fields)

    def _delete(self, keys: list[dict[str, Any]]) -> int:
        with self.database.atomic():
            self._lock_rows(keys, "UPDATE")
            rows, ids = self._rowset(Feature.id, (key["id"] for key in keys))
            self._lock_tasks_of(f"SELECT v.id FROM {rows}", ids)
            return super()._delete(keys)


def _refuse_progress(row: Mapping[str, Any]) -> None:
    # A new feature has no tasks.
    if row["progress_pct"] != 0:
        raise _computed_progress()


def _computed_progress() -> ValidationError:
    return ValidationError(
        "Feature progress_pct follows from the tasks of the feature; it cannot be written",
        "progress_pct",
    )
