"""The asynchronous faces of the planning repositories. Made by `make async`; do not edit."""

from __future__ import annotations

from typing import Any

from hopper_data.async_repository import AsyncRepository
from hopper_data.planning.models import Epic, Feature, Task, TaskHistory
from hopper_data.planning.repositories.epics import EpicRepository
from hopper_data.planning.repositories.features import FeatureRepository
from hopper_data.planning.repositories.history import TaskHistoryRepository
from hopper_data.planning.repositories.tasks import TaskRepository
from hopper_data.planning.vocabulary import AgentType, PlanStatus, TaskStatus

__all__ = [
    "AsyncEpicRepository",
    "AsyncFeatureRepository",
    "AsyncTaskHistoryRepository",
    "AsyncTaskRepository",
]


class AsyncEpicRepository(AsyncRepository[Epic]):
    """`EpicRepository`, for asyncio."""

    repository = EpicRepository

    async def list_all(
        self, status: PlanStatus | str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Epic]:
        """All epics, or those with a status."""
        return await self.session.run(self._sync.list_all, status, skip, limit)

    async def calculate_progress(self, epic_id: int) -> float:
        """How much of an epic is completed, in percent, counted from its tasks."""
        return await self.session.run(self._sync.calculate_progress, epic_id)

    async def get_by_id(self, id: int) -> Epic | None:
        """The row with this number, or None."""
        return await self.session.run(self._sync.get_by_id, id)

    async def get_by_key(self, key: str) -> Epic | None:
        """The row with this key, or None."""
        return await self.session.run(self._sync.get_by_key, key)

    async def upsert(self, /, **fields: Any) -> Epic:
        """Insert a row, or set the given fields of the row with its key; the row as it is then."""
        return await self.session.run(self._sync.upsert, **fields)


class AsyncFeatureRepository(AsyncRepository[Feature]):
    """`FeatureRepository`, for asyncio."""

    repository = FeatureRepository

    async def list_all(
        self, status: PlanStatus | str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Feature]:
        """All features, or those with a status."""
        return await self.session.run(self._sync.list_all, status, skip, limit)

    async def list_by_epic(
        self,
        epic: int | str | Epic,
        status: PlanStatus | str | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Feature]:
        """The features of an epic, given by its number or its key; or those with a status."""
        return await self.session.run(self._sync.list_by_epic, epic, status, skip, limit)

    async def calculate_progress(self, feature_id: int) -> float:
        """How much of a feature is completed, in percent, counted from its tasks."""
        return await self.session.run(self._sync.calculate_progress, feature_id)

    async def update_progress(self, feature_id: int) -> float:
        """Put `progress_pct` of a feature right, and give it. `NotFound` when there is none."""
        return await self.session.run(self._sync.update_progress, feature_id)

    async def get_by_id(self, id: int) -> Feature | None:
        """The row with this number, or None."""
        return await self.session.run(self._sync.get_by_id, id)

    async def get_by_key(self, key: str) -> Feature | None:
        """The row with this key, or None."""
        return await self.session.run(self._sync.get_by_key, key)

    async def upsert(self, /, **fields: Any) -> Feature:
        """Insert a row, or set the given fields of the row with its key; the row as it is then."""
        return await self.session.run(self._sync.upsert, **fields)


class AsyncTaskHistoryRepository(AsyncRepository[TaskHistory]):
    """`TaskHistoryRepository`, for asyncio."""

    repository = TaskHistoryRepository

    async def list_by_task(
        self, task: int | str | Task, skip: int = 0, limit: int | None = None
    ) -> list[TaskHistory]:
        """The steps of a task, given by its number or its key, from the first to the last."""
        return await self.session.run(self._sync.list_by_task, task, skip, limit)

    async def list_recent(self, limit: int | None = 50, skip: int = 0) -> list[TaskHistory]:
        """The latest steps of all tasks, newest first."""
        return await self.session.run(self._sync.list_recent, limit, skip)


class AsyncTaskRepository(AsyncRepository[Task]):
    """`TaskRepository`, for asyncio."""

    repository = TaskRepository

    async def list_all(
        self, status: TaskStatus | str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """All tasks, or those with a status, in the order of their keys."""
        return await self.session.run(self._sync.list_all, status, skip, limit)

    async def list_by_epic(
        self, epic: int | str | Epic, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks of an epic, given by its number or its key, in the order of their keys."""
        return await self.session.run(self._sync.list_by_epic, epic, skip, limit)

    async def list_by_feature(
        self, feature: int | str | Feature, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks of a feature, given by its number or its key, in the order of their keys."""
        return await self.session.run(self._sync.list_by_feature, feature, skip, limit)

    async def filter_by_status(
        self, status: TaskStatus | str, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks with a status, best first."""
        return await self.session.run(self._sync.filter_by_status, status, skip, limit)

    async def filter_by_agent_type(
        self, agent_type: AgentType | str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks for a type of agent, or (None) for no special type; best first."""
        return await self.session.run(self._sync.filter_by_agent_type, agent_type, skip, limit)

    async def filter_by_priority(
        self,
        min: int | None = None,
        max: int | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Task]:
        """The tasks with a priority from `min` to `max`, both included; best first."""
        return await self.session.run(self._sync.filter_by_priority, min, max, skip, limit)

    async def filter_combined(
        self,
        status: TaskStatus | str | None = None,
        epic_key: str | None = None,
        feature_key: str | None = None,
        agent_type: AgentType | str | None = None,
        min_priority: int | None = None,
        max_priority: int | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Task]:
        """The tasks that meet every condition given: by priority, then newest first."""
        return await self.session.run(
            self._sync.filter_combined,
            status,
            epic_key,
            feature_key,
            agent_type,
            min_priority,
            max_priority,
            skip,
            limit,
        )

    async def next_task(
        self, agent_type: AgentType | str | None = None, epic_key: str | None = None
    ) -> Task | None:
        """The task to do next, or None; of an epic or for a type of agent, where given."""
        return await self.session.run(self._sync.next_task, agent_type, epic_key)

    async def update_status(
        self,
        task_id: int,
        new_status: TaskStatus | str,
        agent: str | None = None,
        notes: str | None = None,
    ) -> Task | None:
        """Move a task to another status and return it as it is then; None when there is none."""
        return await self.session.run(self._sync.update_status, task_id, new_status, agent, notes)

    async def get_by_id(self, id: int) -> Task | None:
        """The row with this number, or None."""
        return await self.session.run(self._sync.get_by_id, id)

    async def get_by_key(self, key: str) -> Task | None:
        """The row with this key, or None."""
        return await self.session.run(self._sync.get_by_key, key)

    async def upsert(self, /, **fields: Any) -> Task:
        """Insert a row, or set the given fields of the row with its key; the row as it is then."""
        return await self.session.run(self._sync.upsert, **fields)
