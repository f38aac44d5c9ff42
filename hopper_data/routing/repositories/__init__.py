"""The repositories of the routing domain, one class for each entity."""

from hopper_data.routing.repositories.decisions import RoutingDecisionRepository
from hopper_data.routing.repositories.feedback import TaskFeedbackRepository
from hopper_data.routing.repositories.instances import HopperInstanceRepository
from hopper_data.routing.repositories.mappings import ExternalMappingRepository
from hopper_data.routing.repositories.projects import ProjectRepository
from hopper_data.routing.repositories.tasks import TaskRepository

__all__ = [
    "ExternalMappingRepository",
    "HopperInstanceRepository",
    "ProjectRepository",
    "RoutingDecisionRepository",
    "TaskFeedbackRepository",
    "TaskRepository",
]
