"""How the queue stands: what is ready and what waits, who is at work, what was done lately."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from hopper_data.database import Database
from hopper_data.model import to_json_ready
from hopper_data.routing.models import Task
from hopper_data.routing.readiness import ask_sql, lapsed_sql, ready_sql
from hopper_data.routing.schema import HELD, RANK
from hopper_data.routing.vocabulary import TaskPriority

__all__ = ["OldestReady", "QueueDepth", "QueueStatistics", "read_statistics"]


class QueueDepth(NamedTuple):
    """How many pending tasks of a project (None: of no project) and a priority there are."""

    project: str | None
    priority: TaskPriority
    ready: int
    waiting: int


class OldestReady(NamedTuple):
    """The oldest of the tasks that can be begun."""

    id: str
    created_at: datetime
    age_s: float


class QueueStatistics(NamedTuple):
    """The queue at one moment.

    `depth` is by project, the most urgent first; tasks that name no project come last. Waiting
    tasks are pending, and wait for their time or for others. A lease that has expired counts there
    and not among those held. Throughput is that of the last hour.
    """

    at: datetime
    ready: int
    waiting: int
    depth: list[QueueDepth]
    oldest_ready: OldestReady | None
    leases_held: int
    leases_expired: int
    completed_last_hour: int
    failed_last_hour: int

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON-ready data."""
        data = {name: to_json_ready(value) for name, value in self._asdict().items()}
        data["depth"] = [_plain(row) for row in self.depth]
        data["oldest_ready"] = self.oldest_ready and _plain(self.oldest_ready)
        return data


def _plain(row: Any) -> dict[str, Any]:
    return {name: to_json_ready(value) for name, value in row._asdict().items()}


def read_statistics(database: Database, now: str | None) -> QueueStatistics:
    """The statistics, at a moment or at the server's present."""
    dialect = database.dialect
    depth = [
        QueueDepth(project, TaskPriority(priority), int(ready), int(count) - int(ready))
        for project, priority, ready, count in database.execute_sql(
            _depth_sql(dialect), (now,)
        ).fetchall()
    ]
    row = database.execute_sql(_totals_sql(dialect), (now,)).fetchone()
    at, created_at = (Task.created_at.python_value(value) for value in (row[0], row[2]))
    oldest = row[1] and OldestReady(row[1], created_at, (at - created_at).total_seconds())
    return QueueStatistics(
        at,
        sum(row.ready for row in depth),
        sum(row.waiting for row in depth),
        depth,
        oldest,
        *map(int, row[3:]),
    )


_NOW = "(SELECT now FROM ask)"


def _depth_sql(dialect: str) -> str:
    return (
        f"{ask_sql(dialect, {})} SELECT project, priority, "
        f"sum(CASE WHEN {ready_sql(dialect, 'task', _NOW)} THEN 1 ELSE 0 END), COUNT(*) "
        "FROM tasks AS task WHERE status = 'pending' GROUP BY project, priority "
        f"ORDER BY project IS NULL, project, {RANK} DESC"
    )


def _totals_sql(dialect: str) -> str:
    hour_ago = {
        "sqlite": "(SELECT strftime('%Y-%m-%d %H:%M:%f000+00:00', now, '-1 hour') FROM ask)",
        "postgresql": "(SELECT now - INTERVAL '1 hour' FROM ask)",
    }[dialect]
    lapsed = lapsed_sql("task", _NOW)
    since = f"FROM task_events WHERE at > {hour_ago} AND at <= {_NOW} AND from_status <> to_status"
    return (
        f"{ask_sql(dialect, {})}, oldest AS (SELECT id, created_at FROM tasks AS task "
        f"WHERE {ready_sql(dialect, 'task', _NOW)} ORDER BY created_at, id LIMIT 1) "
        f"SELECT {_NOW}, (SELECT id FROM oldest), (SELECT created_at FROM oldest), "
        "(SELECT COUNT(*) FROM tasks AS task WHERE lease_token IS NOT NULL "
        f"AND lease_expires_at > {_NOW} AND status IN ({HELD})), "
        f"(SELECT COUNT(*) FROM tasks AS task WHERE {lapsed}), "
        f"(SELECT COUNT(*) {since} AND to_status = 'completed'), "
        f"(SELECT COUNT(*) {since} AND to_status = 'failed')"
    )
