"""Routing decisions: why tasks went where they went."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from hopper_data.errors import NotFound, ValidationError
from hopper_data.fields import shorten, utcnow
from hopper_data.repository import Repository
from hopper_data.routing.models import RoutingDecision
from hopper_data.routing.repositories.tasks import TaskRepository

__all__ = ["RoutingDecisionRepository"]

_NEWEST = "-decided_at"
_BUCKETS = 10


class RoutingDecisionRepository(Repository[RoutingDecision]):
    """The decisions, at most one for a task. Lists are newest first unless they say otherwise."""

    model = RoutingDecision

    def get_decisions_by_task(self, task_id: str, /) -> list[RoutingDecision]:
        """The decision on a task, as a list of one or none."""
        return self.filter({"task_id": task_id})

    def get_decisions_by_strategy(
        self, decided_by: str | None, skip: int = 0, limit: int | None = None
    ) -> list[RoutingDecision]:
        """The decisions that a strategy made."""
        return self.filter({"decided_by": decided_by}, skip, limit, _NEWEST)

    def get_decisions_by_project(
        self, project: str | None, skip: int = 0, limit: int | None = None
    ) -> list[RoutingDecision]:
        """The decisions for a project."""
        return self.filter({"project": project}, skip, limit, _NEWEST)

    def get_recent_decisions(
        self, limit: int | None = 50, hours: float | None = None
    ) -> list[RoutingDecision]:
        """The newest decisions, of the last `hours` where given."""
        filters: dict[str, Any] = {}
        if hours is not None:
            filters["decided_at__gte"] = utcnow() - _hours(hours)
        return self.filter(filters, limit=limit, order_by=_NEWEST)

    def get_decisions_with_low_confidence(
        self, threshold: float = 0.7, skip: int = 0, limit: int | None = None
    ) -> list[RoutingDecision]:
        """The decisions with a confidence below the threshold, least confident first."""
        return self.filter({"confidence__lt": threshold}, skip, limit, "confidence")

    def get_decision_analytics(self) -> dict[str, Any]:
        """What all decisions together say.

        `total_decisions`; `strategy_stats`, for each strategy `count`, `avg_confidence` and
        `avg_decision_time_ms`; `overall_avg_confidence` and `overall_avg_decision_time_ms`;
        `by_project`, the number of decisions for each; `confidence_histogram`, ten buckets with
        `from`, `to` (exclusive but for 1.0) and `count`; `feedback_count`, `good_match_count` and
        `good_match_rate`, the part of the rated decisions that were called good. An average over
        nothing is None. Decisions without a strategy count as "unknown", those without a project
        as "unassigned".
        """
        rows = self._sorted_rows(_ANALYTICS_SQL)
        by_part: dict[str, list[tuple[Any, ...]]] = {}
        for part, *values in rows:
            by_part.setdefault(part, []).append(tuple(values))
        _, total, confidence, time_ms = by_part["all"][0]
        _, rated, good, _ = by_part["feedback"][0]
        counts = {int(bucket): count for bucket, count, _, _ in by_part.get("bucket", [])}
        return {
            "total_decisions": int(total),
            "strategy_stats": {
                name: {
                    "count": int(count),
                    "avg_confidence": _average(avg_confidence),
                    "avg_decision_time_ms": _average(avg_time),
                }
                for name, count, avg_confidence, avg_time in by_part.get("strategy", [])
            },
            "overall_avg_confidence": _average(confidence),
            "overall_avg_decision_time_ms": _average(time_ms),
            "by_project": {name: int(count) for name, count, _, _ in by_part.get("project", [])},
            "confidence_histogram": [
                {
                    "from": bucket / _BUCKETS,
                    "to": (bucket + 1) / _BUCKETS,
                    "count": int(counts.get(bucket, 0)),
                }
                for bucket in range(_BUCKETS)
            ],
            "feedback_count": int(rated),
            "good_match_count": int(good or 0),
            "good_match_rate": int(good or 0) / int(rated) if rated else None,
        }

    def route_task(
        self,
        task_id: str,
        /,
        project: str | None,
        *,
        confidence: float | None = None,
        reasoning: str | None = None,
        decided_by: str | None = None,
        alternatives: Any = None,
        decision_time_ms: float | None = None,
        workload_snapshot: Mapping[str, Any] | None = None,
        context: Any = None,
    ) -> RoutingDecision:
        """Record where a task goes and why, and tell the task so, both or neither.

        The task's `project`, `routing_confidence` and `routing_reasoning` become those of the
        decision. A task that was routed before gets the new decision in place of the old one.
        `NotFound` when there is no such task, `IntegrityError` when there is no such project.
        """
        with self.database.atomic():
            task = TaskRepository(self.session).update(
                task_id,
                project=project,
                routing_confidence=confidence,
                routing_reasoning=reasoning,
            )
            if task is None:
                raise NotFound(f"Task {shorten(task_id)} does not exist")
            return self.upsert(
                task_id=task_id,
                project=project,
                confidence=confidence,
                reasoning=reasoning,
                alternatives=alternatives,
                decided_by=decided_by,
                decided_at=utcnow(),
                decision_time_ms=decision_time_ms,
                workload_snapshot=workload_snapshot,
                context=context,
            )


def _average(value: Any) -> float | None:
    return None if value is None else float(value)


def _hours(hours: Any) -> timedelta:
    try:
        span = timedelta(hours=hours)
    except (TypeError, OverflowError, ValueError):
        span = timedelta(-1)
    if span < timedelta(0) or isinstance(hours, bool):
        raise ValidationError(f"hours is {shorten(hours)}; it must be a number from 0 up", "hours")
    # Further back there is no date.
    return min(span, timedelta(days=365_000))


_BUCKET_ARMS = " ".join(
    f"WHEN confidence >= {bucket / _BUCKETS} THEN {bucket}"
    for bucket in range(_BUCKETS - 1, -1, -1)
)

# One statement, four values a row: a name, a count, an average and another. The decisions are read
# once, into few groups, of which all the rest is made.
_ANALYTICS_SQL = f"""
    WITH g AS MATERIALIZED (
        SELECT
            strategy, project, bucket, COUNT(*) AS number,
            COUNT(confidence) AS rated, SUM(confidence) AS confidence,
            COUNT(decision_time_ms) AS timed, SUM(decision_time_ms) AS time_ms
        FROM (
            SELECT
                coalesce(decided_by, 'unknown') AS strategy,
                coalesce(project, 'unassigned') AS project,
                CASE {_BUCKET_ARMS} END AS bucket,
                confidence, decision_time_ms
            FROM routing_decisions
        ) AS d GROUP BY strategy, project, bucket
    )
    SELECT 'all' AS part, '' AS name, coalesce(SUM(number), 0) AS number,
        SUM(confidence) / NULLIF(SUM(rated), 0), SUM(time_ms) / NULLIF(SUM(timed), 0) FROM g
    UNION ALL
    SELECT 'strategy', strategy, SUM(number),
        SUM(confidence) / NULLIF(SUM(rated), 0), SUM(time_ms) / NULLIF(SUM(timed), 0)
    FROM g GROUP BY strategy
    UNION ALL
    SELECT 'project', project, SUM(number), NULL, NULL FROM g GROUP BY project
    UNION ALL
    SELECT 'bucket', CAST(bucket AS TEXT), SUM(number), NULL, NULL
    FROM g WHERE bucket IS NOT NULL GROUP BY bucket
    UNION ALL
    SELECT 'feedback', '', COUNT(*), SUM(CASE WHEN f.was_good_match THEN 1.0 ELSE 0.0 END), NULL
    FROM task_feedback AS f JOIN routing_decisions AS d ON d.task_id = f.task_id
    WHERE f.was_good_match IS NOT NULL
    ORDER BY 1, 3 DESC, 2"""
