"""The repositories of the planning domain, one class for each entity."""

from hopper_data.planning.repositories.epics import EpicRepository
from hopper_data.planning.repositories.features import FeatureRepository
from hopper_data.planning.repositories.history import TaskHistoryRepository
from hopper_data.planning.repositories.tasks import TaskRepository

__all__ = [
    "EpicRepository",
    "FeatureRepository",
    "TaskHistoryRepository",
    "TaskRepository",
]
