"""The words of the planning domain. Every vocabulary is closed."""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "STATUS_STAMPS",
    "TASK_TRANSITIONS",
    "TRANSITION_NAMES",
    "AgentType",
    "Level",
    "PlanStatus",
    "TaskStatus",
]


class PlanStatus(StrEnum):
    """Where an epic or a feature stands."""

    DRAFT = "draft"
    ACTIVE = "active"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class Level(StrEnum):
    """How much an epic matters or is worth, in rising order."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class TaskStatus(StrEnum):
    """Where a task stands."""

    TODO = "todo"
    IN_PROGRESS = "in_progress"
    BLOCKED = "blocked"
    READY_FOR_REVIEW = "ready_for_review"
    COMPLETED = "completed"
    ARCHIVED = "archived"


class AgentType(StrEnum):
    """Who a task is for."""

    FRONTEND = "frontend"
    BACKEND = "backend"
    API = "api"
    TESTING = "testing"
    DEVOPS = "devops"
    GENERAL = "general"


_S = TaskStatus
TRANSITION_NAMES: dict[tuple[TaskStatus, TaskStatus], str] = {
    (_S.TODO, _S.IN_PROGRESS): "start",
    (_S.TODO, _S.BLOCKED): "block",
    (_S.IN_PROGRESS, _S.READY_FOR_REVIEW): "submit",
    (_S.IN_PROGRESS, _S.BLOCKED): "block",
    (_S.READY_FOR_REVIEW, _S.COMPLETED): "approve",
    (_S.READY_FOR_REVIEW, _S.IN_PROGRESS): "reopen",
    (_S.BLOCKED, _S.TODO): "unblock",
    (_S.BLOCKED, _S.IN_PROGRESS): "unblock",
    (_S.COMPLETED, _S.IN_PROGRESS): "reopen",
    (_S.COMPLETED, _S.ARCHIVED): "archive",
}
"""What each step from one status to another is called. There are no other steps."""

TASK_TRANSITIONS: dict[TaskStatus, tuple[TaskStatus, ...]] = {
    old: tuple(new for before, new in TRANSITION_NAMES if before == old) for old in TaskStatus
}
"""What may follow what."""

STATUS_STAMPS: dict[TaskStatus, str] = {
    _S.IN_PROGRESS: "started_at",
    _S.COMPLETED: "completed_at",
    _S.BLOCKED: "blocked_at",
}
"""The column that says when a task came to a status; `started_at` tells of the first time alone."""
