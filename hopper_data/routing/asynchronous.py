"""The asynchronous faces of the routing repositories. Made by `make async`; do not edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from hopper_data.async_repository import AsyncRepository
from hopper_data.repository import Filters
from hopper_data.routing.leases import (
    LEASE,
    Settled,
)
from hopper_data.routing.models import (
    ExternalMapping,
    HopperInstance,
    Project,
    RoutingDecision,
    Task,
    TaskEvent,
    TaskFeedback,
)
from hopper_data.routing.readiness import (
    Readiness,
    Texts,
)
from hopper_data.routing.repositories.decisions import RoutingDecisionRepository
from hopper_data.routing.repositories.feedback import TaskFeedbackRepository
from hopper_data.routing.repositories.instances import HopperInstanceRepository
from hopper_data.routing.repositories.mappings import ExternalMappingRepository
from hopper_data.routing.repositories.projects import ProjectRepository
from hopper_data.routing.repositories.queue import Claim, Duration
from hopper_data.routing.repositories.tasks import TaskRepository
from hopper_data.routing.statistics import QueueStatistics
from hopper_data.routing.vocabulary import (
    InstanceScope,
    TaskStatus,
)

__all__ = [
    "AsyncExternalMappingRepository",
    "AsyncHopperInstanceRepository",
    "AsyncProjectRepository",
    "AsyncRoutingDecisionRepository",
    "AsyncTaskFeedbackRepository",
    "AsyncTaskRepository",
]


class AsyncExternalMappingRepository(AsyncRepository[ExternalMapping]):
    """`ExternalMappingRepository`, for asyncio."""

    repository = ExternalMappingRepository

    async def link(
        self, task_id: str, platform: str, external_id: str, external_url: str | None = None
    ) -> ExternalMapping:
        """Link a task to an issue on a platform; the link that the task had there is replaced."""
        return await self.session.run(self._sync.link, task_id, platform, external_id, external_url)

    async def unlink(self, task_id: str, platform: str) -> bool:
        """Take a task's link to a platform away; whether there was one."""
        return await self.session.run(self._sync.unlink, task_id, platform)

    async def get_by_external_id(self, platform: str, external_id: str) -> ExternalMapping | None:
        """The mapping of an issue, or None; the first by task when several tasks stand for it."""
        return await self.session.run(self._sync.get_by_external_id, platform, external_id)

    async def get_mappings_by_task(self, task_id: str) -> list[ExternalMapping]:
        """The issues that a task stands for, by platform."""
        return await self.session.run(self._sync.get_mappings_by_task, task_id)


class AsyncHopperInstanceRepository(AsyncRepository[HopperInstance]):
    """`HopperInstanceRepository`, for asyncio."""

    repository = HopperInstanceRepository

    async def get_instance_by_scope_and_name(
        self, scope: InstanceScope | str, name: str, /
    ) -> HopperInstance | None:
        """The instance of a scope with a name, the oldest if there are several; or None."""
        return await self.session.run(self._sync.get_instance_by_scope_and_name, scope, name)

    async def get_child_instances(
        self, parent_id: str, /, skip: int = 0, limit: int | None = None
    ) -> list[HopperInstance]:
        """The instances right under one."""
        return await self.session.run(self._sync.get_child_instances, parent_id, skip, limit)

    async def get_root_instances(
        self, skip: int = 0, limit: int | None = None
    ) -> list[HopperInstance]:
        """The instances that stand under none."""
        return await self.session.run(self._sync.get_root_instances, skip, limit)

    async def get_active_instances(
        self, skip: int = 0, limit: int | None = None
    ) -> list[HopperInstance]:
        """The instances that are neither paused nor terminated."""
        return await self.session.run(self._sync.get_active_instances, skip, limit)

    async def get_instance_hierarchy(self, id: str, /) -> list[HopperInstance]:
        """The root above an instance, down to the instance, then all that stands under it."""
        return await self.session.run(self._sync.get_instance_hierarchy, id)

    async def move_instance(self, id: str, parent_id: str | None, /) -> HopperInstance | None:
        """Put an instance, with all that stands under it, under another one or under none."""
        return await self.session.run(self._sync.move_instance, id, parent_id)

    async def pause_instance(self, id: str, /) -> HopperInstance | None:
        """Let an instance rest; None when there is no such instance."""
        return await self.session.run(self._sync.pause_instance, id)

    async def resume_instance(self, id: str, /) -> HopperInstance | None:
        """Let a paused instance work again; None when there is no such instance."""
        return await self.session.run(self._sync.resume_instance, id)

    async def terminate_instance(self, id: str, /) -> HopperInstance | None:
        """End an instance and note the time; None when there is no such instance."""
        return await self.session.run(self._sync.terminate_instance, id)


class AsyncProjectRepository(AsyncRepository[Project]):
    """`ProjectRepository`, for asyncio."""

    repository = ProjectRepository

    async def get_by_slug(self, slug: str, /) -> Project | None:
        """The project with a slug, or None."""
        return await self.session.run(self._sync.get_by_slug, slug)

    async def get_project_by_slug(self, slug: str, /) -> Project | None:
        """The same as `get_by_slug`."""
        return await self.session.run(self._sync.get_project_by_slug, slug)

    async def get_projects_with_active_tasks(
        self, skip: int = 0, limit: int | None = None
    ) -> list[Project]:
        """The projects with a task that is neither completed, failed nor cancelled."""
        return await self.session.run(self._sync.get_projects_with_active_tasks, skip, limit)

    async def get_project_statistics(self, name: str, /) -> dict[str, int]:
        """`total_tasks`, and the number of tasks in every status, zeros included."""
        return await self.session.run(self._sync.get_project_statistics, name)

    async def get_auto_claim_projects(
        self, skip: int = 0, limit: int | None = None
    ) -> list[Project]:
        """The projects that claim matching tasks by themselves."""
        return await self.session.run(self._sync.get_auto_claim_projects, skip, limit)

    async def get_projects_by_executor_type(
        self, executor_type: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Project]:
        """The projects whose tasks are done by one kind of executor."""
        return await self.session.run(
            self._sync.get_projects_by_executor_type, executor_type, skip, limit
        )

    async def find_projects_for(
        self,
        required_capabilities: str | Sequence[str] | None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Project]:
        """The projects that have every one of some capabilities; all, when none is required."""
        return await self.session.run(
            self._sync.find_projects_for, required_capabilities, skip, limit
        )

    async def update_last_sync(self, name: str, /, at: datetime | None = None) -> Project | None:
        """Note that a project was synchronised, now or at a given time; None without a project."""
        return await self.session.run(self._sync.update_last_sync, name, at)


class AsyncRoutingDecisionRepository(AsyncRepository[RoutingDecision]):
    """`RoutingDecisionRepository`, for asyncio."""

    repository = RoutingDecisionRepository

    async def get_decisions_by_task(self, task_id: str, /) -> list[RoutingDecision]:
        """The decision on a task, as a list of one or none."""
        return await self.session.run(self._sync.get_decisions_by_task, task_id)

    async def get_decisions_by_strategy(
        self, decided_by: str | None, skip: int = 0, limit: int | None = None
    ) -> list[RoutingDecision]:
        """The decisions that a strategy made."""
        return await self.session.run(self._sync.get_decisions_by_strategy, decided_by, skip, limit)

    async def get_decisions_by_project(
        self, project: str | None, skip: int = 0, limit: int | None = None
    ) -> list[RoutingDecision]:
        """The decisions for a project."""
        return await self.session.run(self._sync.get_decisions_by_project, project, skip, limit)

    async def get_recent_decisions(
        self, limit: int | None = 50, hours: float | None = None
    ) -> list[RoutingDecision]:
        """The newest decisions, of the last `hours` where given."""
        return await self.session.run(self._sync.get_recent_decisions, limit, hours)

    async def get_decisions_with_low_confidence(
        self, threshold: float = 0.7, skip: int = 0, limit: int | None = None
    ) -> list[RoutingDecision]:
        """The decisions with a confidence below the threshold, least confident first."""
        return await self.session.run(
            self._sync.get_decisions_with_low_confidence, threshold, skip, limit
        )

    async def get_decision_analytics(self) -> dict[str, Any]:
        """What all decisions together say."""
        return await self.session.run(self._sync.get_decision_analytics)

    async def route_task(
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
        """Record where a task goes and why, and tell the task so, both or neither."""
        return await self.session.run(
            self._sync.route_task,
            task_id,
            project,
            confidence=confidence,
            reasoning=reasoning,
            decided_by=decided_by,
            alternatives=alternatives,
            decision_time_ms=decision_time_ms,
            workload_snapshot=workload_snapshot,
            context=context,
        )


class AsyncTaskFeedbackRepository(AsyncRepository[TaskFeedback]):
    """`TaskFeedbackRepository`, for asyncio."""

    repository = TaskFeedbackRepository

    async def record(self, task_id: str, /, **fields: Any) -> TaskFeedback:
        """Write down what was learned of a task; adds to what was written down before."""
        return await self.session.run(self._sync.record, task_id, **fields)

    async def get_routing_accuracy(self) -> dict[str, Any]:
        """How often feedback called a routing good: `overall`, `by_project`, `by_strategy`."""
        return await self.session.run(self._sync.get_routing_accuracy)


class AsyncTaskRepository(AsyncRepository[Task]):
    """`TaskRepository`, for asyncio."""

    repository = TaskRepository

    async def get_tasks_by_project(
        self, project: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that name a project, newest first."""
        return await self.session.run(self._sync.get_tasks_by_project, project, skip, limit)

    async def get_tasks_by_status(
        self, status: TaskStatus | str, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks with a status, newest first."""
        return await self.session.run(self._sync.get_tasks_by_status, status, skip, limit)

    async def get_tasks_by_requester(
        self, requester: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that somebody asked for, newest first."""
        return await self.session.run(self._sync.get_tasks_by_requester, requester, skip, limit)

    async def get_tasks_by_owner(
        self, owner: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that somebody has taken, newest first."""
        return await self.session.run(self._sync.get_tasks_by_owner, owner, skip, limit)

    async def get_unassigned_tasks(self, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The tasks that name no project, newest first."""
        return await self.session.run(self._sync.get_unassigned_tasks, skip, limit)

    async def get_pending_tasks(self, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The pending tasks, highest priority first, then oldest."""
        return await self.session.run(self._sync.get_pending_tasks, skip, limit)

    async def get_tasks_by_tag(
        self,
        tags: str | Sequence[str],
        skip: int = 0,
        limit: int | None = None,
        *,
        match: Literal["all", "any"] = "all",
    ) -> list[Task]:
        """The tasks that have a tag, all of several tags, or any of them; newest first."""
        return await self.session.run(self._sync.get_tasks_by_tag, tags, skip, limit, match=match)

    async def search_tasks(
        self, query: str, skip: int = 0, limit: int | None = None, filters: Filters | None = None
    ) -> list[Task]:
        """The tasks whose title, description or context match, best match first."""
        return await self.session.run(self._sync.search_tasks, query, skip, limit, filters)

    async def update_status(self, id: str, status: TaskStatus | str, /) -> Task | None:
        """Move a task to another status; None when there is no such task."""
        return await self.session.run(self._sync.update_status, id, status)

    async def assign_to_project(self, id: str, project: str | None, /) -> Task | None:
        """Name the project of a task, or none; None when there is no such task."""
        return await self.session.run(self._sync.assign_to_project, id, project)

    async def get_ready_tasks(self, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The tasks that can be begun, highest priority first, then oldest."""
        return await self.session.run(self._sync.get_ready_tasks, skip, limit)

    async def count_ready_tasks(self) -> int:
        """How many tasks can be begun."""
        return await self.session.run(self._sync.count_ready_tasks)

    async def get_blocking_tasks(
        self, id: str, /, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that a task depends on and that are not completed, highest priority first."""
        return await self.session.run(self._sync.get_blocking_tasks, id, skip, limit)

    async def get_dependent_tasks(
        self, id: str, /, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that depend on a task, highest priority first."""
        return await self.session.run(self._sync.get_dependent_tasks, id, skip, limit)

    async def claim_next(
        self,
        owner: str,
        *,
        limit: int = 1,
        projects: Texts = None,
        capabilities: Texts = None,
        tags: Texts = None,
        lease: Duration = LEASE,
    ) -> list[Task]:
        """Take the best tasks that can be begun; each has its own `lease_token`. Best first."""
        return await self.session.run(
            self._sync.claim_next,
            owner,
            limit=limit,
            projects=projects,
            capabilities=capabilities,
            tags=tags,
            lease=lease,
        )

    async def requeue_expired(self) -> int:
        """Make tasks whose lease has expired pending again, at once; how many leases ended."""
        return await self.session.run(self._sync.requeue_expired)

    async def wait_for_tasks(
        self,
        timeout: Duration,
        *,
        projects: Texts = None,
        capabilities: Texts = None,
        tags: Texts = None,
    ) -> bool:
        """Wait until there is a task that `claim_next` with these arguments would give."""
        return await self.session.run(
            self._sync.wait_for_tasks,
            timeout,
            projects=projects,
            capabilities=capabilities,
            tags=tags,
        )

    async def heartbeat(self, id: str, token: str | None) -> Task:
        """Renew a lease for the length that it was given; `LeaseLost` when it is another's now."""
        return await self.session.run(self._sync.heartbeat, id, token)

    async def heartbeat_many(self, claims: Iterable[Claim]) -> Settled:
        """Renew several leases in one statement; those that are another's now are `lost`."""
        return await self.session.run(self._sync.heartbeat_many, claims)

    async def complete(self, id: str, token: str | None, feedback: Any = None) -> Task:
        """Complete a claimed task; `LeaseLost` when the lease is another's now."""
        return await self.session.run(self._sync.complete, id, token, feedback)

    async def complete_many(self, claims: Iterable[Claim]) -> Settled:
        """Complete several claimed tasks in one statement; what is another's now is `lost`."""
        return await self.session.run(self._sync.complete_many, claims)

    async def fail(
        self,
        id: str,
        token: str | None,
        error: str | BaseException,
        retry_in: Duration | None = None,
    ) -> Task:
        """Give a claimed task up, with the reason; `LeaseLost` when the lease is another's now."""
        return await self.session.run(self._sync.fail, id, token, error, retry_in)

    async def release(self, id: str, token: str | None, retry_in: Duration | None = None) -> Task:
        """Give a claimed task back untouched; `LeaseLost` when the lease is another's now."""
        return await self.session.run(self._sync.release, id, token, retry_in)

    async def get_events(
        self, task_id: str, skip: int = 0, limit: int | None = None
    ) -> list[TaskEvent]:
        """What happened to a task, oldest first: each change of its status, each new lease."""
        return await self.session.run(self._sync.get_events, task_id, skip, limit)

    async def get_recent_events(
        self, after_id: int | None = None, limit: int = 100
    ) -> list[TaskEvent]:
        """What happened last to any task, oldest first: the newest events, or those after one."""
        return await self.session.run(self._sync.get_recent_events, after_id, limit)

    async def explain_readiness(
        self, id: str, *, projects: Texts = None, capabilities: Texts = None, tags: Texts = None
    ) -> Readiness:
        """Whether `claim_next` with these arguments would offer a task, and if not, why."""
        return await self.session.run(
            self._sync.explain_readiness,
            id,
            projects=projects,
            capabilities=capabilities,
            tags=tags,
        )

    async def get_queue_statistics(self) -> QueueStatistics:
        """How deep the queue is, who is at work, and what was done in the last hour."""
        return await self.session.run(self._sync.get_queue_statistics)

    async def create(self, /, **fields: Any) -> Task:
        """Insert a task and return it. `IntegrityError` when its key is taken."""
        return await self.session.run(self._sync.create, **fields)

    async def bulk_create(self, rows: Iterable[Mapping[str, Any]]) -> list[Task]:
        """Insert many tasks, all or none, and return them in the order given."""
        return await self.session.run(self._sync.bulk_create, rows)
