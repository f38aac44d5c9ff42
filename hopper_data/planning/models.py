"""The four tables of the planning domain: epics, features, tasks and the history of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from hopper_data.database import proxy
from hopper_data.errors import ValidationError
from hopper_data.fields import (
    AutoField,
    EnumField,
    FloatField,
    ForeignKeyField,
    IntegerField,
    TextField,
    UTCDateTimeField,
    utcnow,
)
from hopper_data.model import BaseModel
from hopper_data.planning import progress
from hopper_data.planning.keys import EPIC_KEY, FEATURE_KEY, TASK_KEY, KeyField, TaskKeysField
from hopper_data.planning.schema import moves_updated_at
from hopper_data.planning.vocabulary import (
    TASK_TRANSITIONS,
    AgentType,
    Level,
    PlanStatus,
    TaskStatus,
)
from hopper_data.session import open_session

__all__ = ["PLANNING_MODELS", "Epic", "Feature", "PlanningModel", "Task", "TaskHistory"]


class Computed:
    """A value that is no column. A query brings it along, or it is looked up when asked for."""

    name: str

    def __set_name__(self, owner: type[Any], name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type[Any]) -> Any:
        if instance is None:
            return self
        return instance.computed_values()[self.name]

    def __set__(self, instance: Any, value: Any) -> None:
        name = type(instance).__name__
        raise ValidationError(f"{name} {self.name} is computed; it cannot be set", self.name)


class PlanningModel(BaseModel):
    """What the models of the domain share.

    `save()` and `delete_instance()` go through the repository of the model, so that what must hold
    over several rows holds then too.
    """

    computed: ClassVar[tuple[str, ...]] = ()
    _computed: Sequence[Any] | None = None

    def computed_values(self) -> dict[str, Any]:
        """The values that are no columns, by name: as they were read, or one query."""
        known = None if self._dirty else self._computed
        return dict(zip(self.computed, known or self._look_up(), strict=True))

    def _look_up(self) -> Sequence[Any]:
        """The computed values as they are now, in the order of their names."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-ready data: columns in their order, then what is computed."""
        return {**super().to_dict(), **self.computed_values()}

    def save(self, force_insert: bool = False, only: Any = None) -> int:
        """As `BaseModel.save()`, with the rules of the repository."""
        with open_session(proxy.obj) as session:
            return int(self._repository()(session)._save(self, force_insert, only))

    def delete_instance(
        self,
        recursive: bool = False,  # noqa: ARG002 - the database deletes what hangs on a row
        delete_nullable: bool = False,  # noqa: ARG002
    ) -> int:
        """Delete the row, with all that hangs on it; the number of rows, 1 or 0."""
        with open_session(proxy.obj) as session:
            return int(self._repository()(session).delete(self._pk))

    @classmethod
    def _repository(cls) -> Any:
        # Repositories import the models.
        from hopper_data.planning import repositories

        return getattr(repositories, f"{cls.__name__}Repository")


class Epic(PlanningModel):
    """A large goal, reached by features."""

    id = AutoField()
    key = KeyField(EPIC_KEY)
    title = TextField()
    description = TextField(null=True)
    status = EnumField(PlanStatus, default=PlanStatus.DRAFT, server_default=True)
    priority = EnumField(Level, default=Level.MEDIUM, server_default=True, ordered=True)
    business_value = EnumField(Level, null=True, ordered=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)

    computed = ("progress_pct",)
    progress_pct = Computed()

    if TYPE_CHECKING:
        features: Any

    class Meta:
        table_name = "planning_epics"
        objects = (moves_updated_at("planning_epics"),)

    def _look_up(self) -> Sequence[Any]:
        return (progress.of_epic(proxy.obj, self.id) or 0.0,)


Epic.add_index(Epic.key, unique=True, name="idx_planning_epics_key")


class Feature(PlanningModel):
    """A part of an epic, made of tasks."""

    id = AutoField()
    epic = ForeignKeyField(
        Epic, column_name="epic_id", backref="features", on_delete="CASCADE", index=False
    )
    key = KeyField(FEATURE_KEY)
    title = TextField()
    description = TextField(null=True)
    status = EnumField(PlanStatus, default=PlanStatus.DRAFT, server_default=True)
    progress_pct = FloatField(default=0.0, server_default=True, minimum=0, maximum=100)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)

    computed = ("epic_key",)
    epic_key = Computed()

    if TYPE_CHECKING:
        epic_id: int
        tasks: Any

    class Meta:
        table_name = "planning_features"
        objects = (moves_updated_at("planning_features"),)

    def _look_up(self) -> Sequence[Any]:
        found = Epic.select(Epic.key).where(Epic.id == self.epic_id).tuples()
        return next(iter(found), (None,))


Feature.add_index(Feature.key, unique=True, name="idx_planning_features_key")
Feature.add_index(Feature.epic, name="idx_planning_features_epic_id")


class Task(PlanningModel):
    """A piece of work for one agent. Priority 1 is the highest."""

    id = AutoField()
    feature = ForeignKeyField(
        Feature, column_name="feature_id", backref="tasks", on_delete="CASCADE", index=False
    )
    key = KeyField(TASK_KEY)
    title = TextField()
    description = TextField(null=True)
    status = EnumField(
        TaskStatus, default=TaskStatus.TODO, server_default=True, transitions=TASK_TRANSITIONS
    )
    agent_type = EnumField(AgentType, null=True)
    priority = IntegerField(default=5, server_default=True, minimum=1, maximum=10)
    depends_on = TaskKeysField()
    assigned_agent = TextField(null=True)
    file_path = TextField(null=True)
    blocked_reason = TextField(null=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    started_at = UTCDateTimeField(null=True)
    completed_at = UTCDateTimeField(null=True)
    blocked_at = UTCDateTimeField(null=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)

    computed = ("feature_key", "epic_key")
    feature_key = Computed()
    epic_key = Computed()

    if TYPE_CHECKING:
        feature_id: int
        history: Any

    class Meta:
        table_name = "planning_tasks"
        objects = (moves_updated_at("planning_tasks"),)

    def _look_up(self) -> Sequence[Any]:
        query = Feature.select(Feature.key, Epic.key).join(Epic)
        found = query.where(Feature.id == self.feature_id).tuples()
        return next(iter(found), (None, None))


Task.add_index(Task.key, unique=True, name="idx_planning_tasks_key")
Task.add_index(Task.feature, name="idx_planning_tasks_feature_id")
Task.add_index(Task.status, name="idx_planning_tasks_status")
Task.add_index(Task.agent_type, name="idx_planning_tasks_agent_type")
Task.add_index(Task.status, Task.priority, name="idx_planning_tasks_status_priority")


class TaskHistory(PlanningModel):
    """A step of a task from one status to another; `old_status` is None where the task began."""

    id = AutoField()
    task = ForeignKeyField(
        Task, column_name="task_id", backref="history", on_delete="CASCADE", index=False
    )
    old_status = EnumField(TaskStatus, null=True)
    new_status = EnumField(TaskStatus)
    agent = TextField(null=True)
    notes = TextField(null=True)
    timestamp = UTCDateTimeField(default=utcnow, server_default=True)

    computed = ("task_key",)
    task_key = Computed()

    if TYPE_CHECKING:
        task_id: int

    class Meta:
        table_name = "planning_task_history"

    def _look_up(self) -> Sequence[Any]:
        found = Task.select(Task.key).where(Task.id == self.task_id).tuples()
        return next(iter(found), (None,))


TaskHistory.add_index(TaskHistory.task, name="idx_planning_task_history_task_id")
TaskHistory.add_index(TaskHistory.timestamp.desc(), name="idx_planning_task_history_timestamp")

PLANNING_MODELS: tuple[type[BaseModel], ...] = (Epic, Feature, Task, TaskHistory)
"""The domain's models, parents first."""
