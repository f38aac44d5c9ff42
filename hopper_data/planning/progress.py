"""Progress: how much of a feature, or of an epic, is completed, in percent.

A feature's is the part of its tasks that is completed. Archived tasks are left out, as if they were
not there; without any other the progress is 0.0. An epic's is the average of its features', each
weighted by its number of tasks, which comes to the same as the progress of all its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable

from hopper_data.database import Database
from hopper_data.fields import UTCDateTimeField, dump_json, utcnow

__all__ = ["EPIC_SQL", "of_epic", "of_feature", "recompute"]

_PERCENT = (
    "coalesce(CAST(COUNT(*) FILTER (WHERE t.status = 'completed') AS DOUBLE PRECISION) "
    "/ nullif(COUNT(*) FILTER (WHERE t.status <> 'archived'), 0) * 100, 0.0)"
)

EPIC_SQL = (
    f"(SELECT {_PERCENT} FROM planning_features AS f "
    "JOIN planning_tasks AS t ON t.feature_id = f.id WHERE f.epic_id = {epic})"
)
"""The progress of the epic whose id is the expression `{epic}`, for any query."""

_MOMENT = UTCDateTimeField()


def of_feature(database: Database, id: int) -> float | None:
    """The progress of a feature, from its tasks; None when there is no such feature."""
    sql = (
        f"SELECT {_PERCENT} FROM planning_features AS f "
        "LEFT JOIN planning_tasks AS t ON t.feature_id = f.id "
        f"WHERE f.id = {database.param} GROUP BY f.id"
    )
    return _value(database, sql, id)


def of_epic(database: Database, id: int) -> float | None:
    """The progress of an epic, from its tasks; None when there is no such epic."""
    sql = (
        f"SELECT {EPIC_SQL.format(epic='e.id')} FROM planning_epics AS e "
        f"WHERE e.id = {database.param}"
    )
    return _value(database, sql, id)


def _value(database: Database, sql: str, id: int) -> float | None:
    row = database.execute_sql(sql, (id,)).fetchone()
    return None if row is None else float(row[0])


def recompute(database: Database, features: Iterable[int]) -> None:
    """Put `progress_pct` of some features right, in one statement.

    The caller has locked the features: only then does nobody change their tasks meanwhile. A
    feature whose progress stays the same is not written.
    """
    is_one_of = (
        f"IN (SELECT value FROM json_each({database.param}))"
        if database.dialect == "sqlite"
        else "IN (SELECT CAST(value AS INTEGER) "
        f"FROM jsonb_array_elements_text(CAST({database.param} AS JSONB)))"
    )
    moment = database.param if database.dialect == "sqlite" else "CAST(%s AS TIMESTAMPTZ)"
    sql = (
        f"UPDATE planning_features SET progress_pct = p.percent, updated_at = {moment} "
        f"FROM (SELECT f.id, {_PERCENT} AS percent FROM planning_features AS f "
        "LEFT JOIN planning_tasks AS t ON t.feature_id = f.id "
        f"WHERE f.id {is_one_of} GROUP BY f.id) AS p "
        "WHERE planning_features.id = p.id AND planning_features.progress_pct <> p.percent"
    )
    ids = dump_json(sorted(set(features)))
    database.execute_sql(sql, (_MOMENT.encode(utcnow()), ids))
