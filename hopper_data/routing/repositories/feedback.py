"""Feedback: what was learned when a task was done."""

from __future__ import annotations

from typing import Any

from hopper_data.repository import Repository
from hopper_data.routing.models import TaskFeedback

__all__ = ["TaskFeedbackRepository"]


class TaskFeedbackRepository(Repository[TaskFeedback]):
    """The feedback, at most one for a task."""

    model = TaskFeedback

    def record(self, task_id: str, /, **fields: Any) -> TaskFeedback:
        """Write down what was learned of a task; adds to what was written down before.

        `IntegrityError` when there is no such task.
        """
        return self.upsert(task_id=task_id, **fields)

    def get_routing_accuracy(self) -> dict[str, Any]:
        """How often feedback called a routing good: `overall`, `by_project`, `by_strategy`.

        Each is a dict of `rated`, `good` and `accuracy` (good ÷ rated, None when nothing was
        rated). A task without a decision counts for the project that it names and for the
        strategy "unknown"; without a project it counts as "unassigned".
        """
        accuracy: dict[str, Any] = {
            "overall": _score(0, 0),
            "by_project": {},
            "by_strategy": {},
        }
        for part, name, rated, good in self._sorted_rows(_ACCURACY_SQL):
            if part == "overall":
                accuracy[part] = _score(rated, good)
            else:
                accuracy[part][name] = _score(rated, good)
        return accuracy


def _score(rated: Any, good: Any) -> dict[str, Any]:
    rated, good = int(rated), int(good or 0)
    return {"rated": rated, "good": good, "accuracy": good / rated if rated else None}


_ACCURACY_SQL = """
    WITH rated AS (
        SELECT
            coalesce(d.project, t.project, 'unassigned') AS project,
            coalesce(d.decided_by, 'unknown') AS strategy,
            CASE WHEN f.was_good_match THEN 1 ELSE 0 END AS good
        FROM task_feedback AS f
        JOIN tasks AS t ON t.id = f.task_id
        LEFT JOIN routing_decisions AS d ON d.task_id = f.task_id
        WHERE f.was_good_match IS NOT NULL
    )
    SELECT 'overall' AS part, '' AS name, COUNT(*), SUM(good) FROM rated
    UNION ALL
    SELECT 'by_project', project, COUNT(*), SUM(good) FROM rated GROUP BY project
    UNION ALL
    SELECT 'by_strategy', strategy, COUNT(*), SUM(good) FROM rated GROUP BY strategy
    ORDER BY 1, 2"""
