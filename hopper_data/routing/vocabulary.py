"""The words of the routing domain.

Closed vocabularies are enums, checked in Python and by the database. Open ones are text of any
value; the known values are here as constants.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "TASK_TRANSITIONS",
    "DecisionStrategy",
    "ExecutorType",
    "InstanceScope",
    "InstanceStatus",
    "Platform",
    "TaskPriority",
    "TaskSource",
    "TaskStatus",
    "Velocity",
]


class TaskStatus(StrEnum):
    """Where a task stands."""

    PENDING = "pending"
    CLAIMED = "claimed"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskPriority(StrEnum):
    """How urgent a task is, in rising order."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    URGENT = "urgent"


class InstanceScope(StrEnum):
    """What a Hopper instance is responsible for."""

    GLOBAL = "GLOBAL"
    PROJECT = "PROJECT"
    ORCHESTRATION = "ORCHESTRATION"


class InstanceStatus(StrEnum):
    """Whether a Hopper instance works."""

    ACTIVE = "active"
    PAUSED = "paused"
    TERMINATED = "terminated"


class DecisionStrategy(StrEnum):
    """Known values of `routing_decisions.decided_by`, which is open."""

    RULES = "rules"
    LLM = "llm"
    SAGE = "sage"


class ExecutorType(StrEnum):
    """Known values of `projects.executor_type`, which is open."""

    HUMAN = "human"
    AGENT = "agent"
    CZARINA = "czarina"


class TaskSource(StrEnum):
    """Known values of `tasks.source`, which is open."""

    MCP = "mcp"
    CLI = "cli"
    HTTP = "http"
    WEBHOOK = "webhook"


class Platform(StrEnum):
    """Known values of `external_platform` and `external_mappings.platform`, which are open."""

    GITHUB = "github"
    GITLAB = "gitlab"


class Velocity(StrEnum):
    """Known values of `projects.velocity`, which is open."""

    SLOW = "slow"
    MEDIUM = "medium"
    FAST = "fast"


_S = TaskStatus
TASK_TRANSITIONS: dict[TaskStatus, tuple[TaskStatus, ...]] = {
    _S.PENDING: (_S.CLAIMED, _S.IN_PROGRESS, _S.BLOCKED, _S.COMPLETED, _S.CANCELLED),
    _S.CLAIMED: (
        _S.PENDING,
        _S.IN_PROGRESS,
        _S.BLOCKED,
        _S.COMPLETED,
        _S.FAILED,
        _S.CANCELLED,
    ),
    _S.IN_PROGRESS: (_S.PENDING, _S.BLOCKED, _S.COMPLETED, _S.FAILED, _S.CANCELLED),
    _S.BLOCKED: (_S.PENDING, _S.IN_PROGRESS, _S.COMPLETED, _S.CANCELLED),
    _S.FAILED: (_S.PENDING, _S.CANCELLED),
    _S.COMPLETED: (_S.PENDING,),
    _S.CANCELLED: (_S.PENDING,),
}
"""What may follow what. The same status again is no transition."""

ACTIVE_STATUSES = (_S.PENDING, _S.CLAIMED, _S.IN_PROGRESS, _S.BLOCKED)
"""A task with one of these is still somebody's to do."""

HELD_STATUSES = (_S.CLAIMED, _S.IN_PROGRESS)
"""A task with one of these is somebody's who is at work on it."""
