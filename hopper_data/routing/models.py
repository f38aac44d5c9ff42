"""The tables of the routing domain."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from peewee import SQL, CompositeKey

from hopper_data.fields import (
    AutoField,
    BooleanField,
    CharField,
    EnumField,
    FloatField,
    ForeignKeyField,
    IntegerField,
    JSONField,
    TextField,
    UTCDateTimeField,
    utcnow,
)
from hopper_data.model import BaseModel
from hopper_data.routing import schema
from hopper_data.routing.circles import INSTANCE_PARENTS, TASK_DEPENDENCIES, AcyclicModel
from hopper_data.routing.vocabulary import (
    TASK_TRANSITIONS,
    InstanceScope,
    InstanceStatus,
    TaskPriority,
    TaskStatus,
)

__all__ = [
    "ROUTING_MODELS",
    "ExternalMapping",
    "HopperInstance",
    "Project",
    "RoutingDecision",
    "Task",
    "TaskEvent",
    "TaskFeedback",
    "new_task_id",
]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [one + two for one in _ALPHABET for two in _ALPHABET]


def _begin_ids() -> None:
    """Start anew, as in the child after a fork, which would make the ids of its parent."""
    global _id_lock, _last_id, _chances
    _id_lock, _last_id, _chances = threading.Lock(), 0, []


_id_lock: threading.Lock
_last_id: int
_chances: list[int]
_begin_ids()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_ids)


def _make_chances() -> list[int]:
    """Random numbers of 36 bits, many at a time: the system is asked once for all of them."""
    octets = os.urandom(5 * 200)
    return [int.from_bytes(octets[at : at + 5]) >> 4 for at in range(0, len(octets), 5)]


def new_task_id() -> str:
    """`task-` and 16 characters: 44 bits of milliseconds, then 36 random ones.

    Ids that one process makes rise; those of several processes sort by the millisecond.
    """
    global _last_id, _chances
    number = int(time.time() * 1000) << 36
    with _id_lock:
        _chances = _chances or _make_chances()
        _last_id = number = max(number | _chances.pop(), _last_id + 1)
    pairs = _PAIRS
    return (
        f"task-{pairs[number >> 70 & 1023]}{pairs[number >> 60 & 1023]}"
        f"{pairs[number >> 50 & 1023]}{pairs[number >> 40 & 1023]}{pairs[number >> 30 & 1023]}"
        f"{pairs[number >> 20 & 1023]}{pairs[number >> 10 & 1023]}{pairs[number & 1023]}"
    )


class Project(BaseModel):
    """A place where work can go: a registered destination of tasks."""

    name = CharField(100, primary_key=True)
    slug = CharField(100)
    repository = CharField(500, null=True)
    capabilities = JSONField(null=True)
    tags = JSONField(null=True, items=str)
    executor_type = CharField(50, null=True)
    executor_config = JSONField(null=True)
    auto_claim = BooleanField(default=False, server_default=True)
    priority_boost = JSONField(null=True)
    velocity = CharField(20, null=True)
    sla = JSONField(null=True)
    webhook_url = CharField(500, null=True)
    api_endpoint = CharField(500, null=True)
    sync_config = JSONField(null=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    created_by = CharField(100, null=True)
    last_sync = UTCDateTimeField(null=True)

    class Meta:
        table_name = "projects"


Project.add_index(Project.slug, unique=True, name="idx_projects_slug")
Project.add_index(Project.executor_type, name="idx_projects_executor_type")


class Task(AcyclicModel):
    """A piece of work that Hopper routes."""

    references = TASK_DEPENDENCIES

    id = CharField(50, primary_key=True, default=new_task_id)
    title = CharField(500)
    description = TextField(null=True)
    project = CharField(100, null=True)
    status = EnumField(
        TaskStatus,
        50,
        default=TaskStatus.PENDING,
        server_default=True,
        transitions=TASK_TRANSITIONS,
    )
    priority = EnumField(
        TaskPriority, 20, default=TaskPriority.MEDIUM, server_default=True, ordered=True
    )
    requester = CharField(100, null=True)
    owner = CharField(100, null=True)
    external_id = CharField(100, null=True)
    external_url = CharField(500, null=True)
    external_platform = CharField(50, null=True)
    source = CharField(50, null=True)
    conversation_id = CharField(100, null=True)
    context = TextField(null=True)
    tags = JSONField(null=True, items=str)
    required_capabilities = JSONField(null=True, items=str)
    depends_on = JSONField(null=True, items=str)
    blocks = JSONField(null=True, items=str)
    routing_confidence = FloatField(null=True, minimum=0, maximum=1)
    routing_reasoning = TextField(null=True)
    feedback = JSONField(null=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)
    lease_expires_at = UTCDateTimeField(null=True)
    lease_token = CharField(50, null=True)
    lease_s = FloatField(null=True, minimum=0)
    attempts = IntegerField(default=0, server_default=True, minimum=0)
    max_attempts = IntegerField(default=3, server_default=True, minimum=1)
    run_after = UTCDateTimeField(null=True)
    last_error = TextField(null=True)
    dedupe_key = CharField(200, null=True)

    class Meta:
        table_name = "tasks"
        indexes = tuple(SQL(statement) for statement in schema.TASK_INDEXES)
        objects = (
            schema.TASK_TAGS,
            schema.TASK_DEPENDENCIES,
            schema.TASK_SEARCH,
            schema.TASK_QUEUE,
            schema.TASK_LEASES,
            schema.TASK_CLAIMS,
            schema.TASK_EVENTS,
            schema.TASK_WAKING,
        )


Task.add_index(Task.dedupe_key, unique=True, name="idx_tasks_dedupe_key")


class TaskEvent(BaseModel):
    """A change of a task's status, or a lease that another one took over. Written by triggers."""

    id = AutoField()
    task = ForeignKeyField(
        Task, column_name="task_id", backref="events", on_delete="CASCADE", index=False
    )
    from_status = EnumField(TaskStatus, 50)
    to_status = EnumField(TaskStatus, 50)
    owner = CharField(100, null=True)
    at = UTCDateTimeField(default=utcnow, server_default=True)
    note = TextField(null=True)
    attempt = IntegerField(default=0, server_default=True, minimum=0)
    lease_token = CharField(50, null=True)

    if TYPE_CHECKING:
        task_id: str

    class Meta:
        table_name = "task_events"
        indexes = tuple(SQL(statement) for statement in schema.EVENT_INDEXES)


class HopperInstance(AcyclicModel):
    """A running Hopper, which may stand under another one."""

    references = INSTANCE_PARENTS

    id = CharField(100, primary_key=True)
    name = CharField(100)
    scope = EnumField(InstanceScope)
    parent = ForeignKeyField(
        "self", column_name="parent_id", null=True, backref="children", index=False
    )
    config = JSONField(null=True)
    status = EnumField(InstanceStatus, default=InstanceStatus.ACTIVE, server_default=True)
    description = TextField(null=True)
    created_by = CharField(100, null=True)
    terminated_at = UTCDateTimeField(null=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)

    if TYPE_CHECKING:
        parent_id: str | None
        children: Any

    class Meta:
        table_name = "hopper_instances"


HopperInstance.add_index(
    HopperInstance.parent, HopperInstance.name, name="idx_hopper_instances_parent_id"
)
HopperInstance.add_index(
    HopperInstance.scope, HopperInstance.name, name="idx_hopper_instances_scope_name"
)
HopperInstance.add_index(
    HopperInstance.status, HopperInstance.name, name="idx_hopper_instances_status"
)


class RoutingDecision(BaseModel):
    """Why a task went where it went; at most one for a task."""

    task = ForeignKeyField(
        Task, column_name="task_id", primary_key=True, backref="decision", on_delete="CASCADE"
    )
    project_ref = ForeignKeyField(
        Project,
        column_name="project",
        object_id_name="project",
        null=True,
        backref="decisions",
        on_delete="SET NULL",
        index=False,
    )
    confidence = FloatField(null=True, minimum=0, maximum=1)
    reasoning = TextField(null=True)
    alternatives = JSONField(null=True)
    decided_by = CharField(50, null=True)
    decided_at = UTCDateTimeField(default=utcnow, server_default=True)
    decision_time_ms = FloatField(null=True, minimum=0)
    workload_snapshot = JSONField(null=True)
    context = JSONField(null=True)

    if TYPE_CHECKING:
        task_id: str
        project: str | None

    class Meta:
        table_name = "routing_decisions"
        indexes = tuple(SQL(statement) for statement in schema.DECISION_INDEXES)


class TaskFeedback(BaseModel):
    """What was learned when a task was done; at most one for a task."""

    task = ForeignKeyField(
        Task,
        column_name="task_id",
        primary_key=True,
        backref="feedback_details",
        on_delete="CASCADE",
    )
    estimated_duration = CharField(50, null=True)
    actual_duration = CharField(50, null=True)
    complexity_rating = IntegerField(null=True, minimum=1, maximum=10)
    quality_score = FloatField(null=True, minimum=0, maximum=1)
    required_rework = BooleanField(null=True)
    rework_reason = TextField(null=True)
    was_good_match = BooleanField(null=True)
    should_have_routed_to = CharField(100, null=True)
    routing_feedback = TextField(null=True)
    unexpected_blockers = JSONField(null=True)
    required_skills_not_tagged = JSONField(null=True)
    notes = TextField(null=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)

    if TYPE_CHECKING:
        task_id: str

    class Meta:
        table_name = "task_feedback"
        indexes = tuple(SQL(statement) for statement in schema.FEEDBACK_INDEXES)


class ExternalMapping(BaseModel):
    """The issue on another platform that a task stands for; at most one on each platform."""

    task = ForeignKeyField(
        Task, column_name="task_id", backref="external_mappings", on_delete="CASCADE", index=False
    )
    platform = CharField(50)
    external_id = CharField(100)
    external_url = CharField(500, null=True)

    if TYPE_CHECKING:
        task_id: str

    class Meta:
        table_name = "external_mappings"
        primary_key = CompositeKey("task", "platform")


ExternalMapping.add_index(
    ExternalMapping.platform, ExternalMapping.external_id, name="idx_external_mappings_external"
)

ROUTING_MODELS: tuple[type[BaseModel], ...] = (
    Project,
    Task,
    TaskEvent,
    HopperInstance,
    RoutingDecision,
    TaskFeedback,
    ExternalMapping,
)
"""The domain's models, parents first."""
