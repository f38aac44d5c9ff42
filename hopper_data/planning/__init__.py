"""Planning: epics, features, tasks and the history of tasks.

An agent asks for the next task and starts it::

    with get_sync_session() as session:
        tasks = TaskRepository(session)
        if task := tasks.next_task(agent_type="backend"):
            tasks.update_status(task.id, "in_progress", agent="ada")
"""

from hopper_data.planning.importer import ImportReport, Refusal, import_folder
from hopper_data.planning.keys import EPIC_KEY, FEATURE_KEY, TASK_KEY, KeyPattern
from hopper_data.planning.models import Epic, Feature, Task, TaskHistory
from hopper_data.planning.repositories import (
    EpicRepository,
    FeatureRepository,
    TaskHistoryRepository,
    TaskRepository,
)
from hopper_data.planning.vocabulary import (
    TASK_TRANSITIONS,
    TRANSITION_NAMES,
    AgentType,
    Level,
    PlanStatus,
    TaskStatus,
)

__all__ = [
    "EPIC_KEY",
    "FEATURE_KEY",
    "TASK_KEY",
    "TASK_TRANSITIONS",
    "TRANSITION_NAMES",
    "AgentType",
    "Epic",
    "EpicRepository",
    "Feature",
    "FeatureRepository",
    "ImportReport",
    "KeyPattern",
    "Level",
    "PlanStatus",
    "Refusal",
    "Task",
    "TaskHistory",
    "TaskHistoryRepository",
    "TaskRepository",
    "TaskStatus",
    "import_folder",
]
