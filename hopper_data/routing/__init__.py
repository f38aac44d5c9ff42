"""Routing: tasks, projects, Hopper instances, decisions, feedback and external mappings."""

from hopper_data.routing.leases import Settled
from hopper_data.routing.models import (
    ExternalMapping,
    HopperInstance,
    Project,
    RoutingDecision,
    Task,
    TaskEvent,
    TaskFeedback,
)
from hopper_data.routing.readiness import Readiness
from hopper_data.routing.repositories import (
    ExternalMappingRepository,
    HopperInstanceRepository,
    ProjectRepository,
    RoutingDecisionRepository,
    TaskFeedbackRepository,
    TaskRepository,
)
from hopper_data.routing.statistics import OldestReady, QueueDepth, QueueStatistics
from hopper_data.routing.vocabulary import (
    DecisionStrategy,
    ExecutorType,
    InstanceScope,
    InstanceStatus,
    Platform,
    TaskPriority,
    TaskSource,
    TaskStatus,
    Velocity,
)

__all__ = [
    "DecisionStrategy",
    "ExecutorType",
    "ExternalMapping",
    "ExternalMappingRepository",
    "HopperInstance",
    "HopperInstanceRepository",
    "InstanceScope",
    "InstanceStatus",
    "OldestReady",
    "Platform",
    "Project",
    "ProjectRepository",
    "QueueDepth",
    "QueueStatistics",
    "Readiness",
    "RoutingDecision",
    "RoutingDecisionRepository",
    "Settled",
    "Task",
    "TaskEvent",
    "TaskFeedback",
    "TaskFeedbackRepository",
    "TaskPriority",
    "TaskRepository",
    "TaskSource",
    "TaskStatus",
    "Velocity",
]
