"""The history of tasks: who moved which task from which status to which, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hopper_data.planning.models import Task, TaskHistory
from hopper_data.planning.repositories.base import PlanningRepository, one_of

__all__ = ["TaskHistoryRepository"]


class TaskHistoryRepository(PlanningRepository[TaskHistory]):
    """The steps of tasks. `TaskRepository` writes them; each has the time of its task's change."""

    model = TaskHistory

    def list_by_task(
        self, task: int | str | Task, skip: int = 0, limit: int | None = None
    ) -> list[TaskHistory]:
        """The steps of a task, given by its number or its key, from the first to the last."""
        return self._find(one_of(Task, task), order_by="timestamp", skip=skip, limit=limit)

    def list_recent(self, limit: int | None = 50, skip: int = 0) -> list[TaskHistory]:
        """The latest steps of all tasks, newest first."""
        return self.filter(None, skip, limit, "-timestamp,-id")

    def _select(self) -> Any:
        return super()._select().join(Task)

    def _computed_columns(self) -> Sequence[Any]:
        return [Task.key]
