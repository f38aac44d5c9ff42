"""Tasks: lists, the next one to do, and every way of moving them on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from peewee import SQL

from hopper_data import rowsets
from hopper_data.errors import DatabaseError, ValidationError
from hopper_data.fields import check_integer, moved_on, utcnow
from hopper_data.model import normalize_row, refuse_transition
from hopper_data.planning import progress
from hopper_data.planning.keys import feature_key_of
from hopper_data.planning.models import Epic, Feature, Task, TaskHistory
from hopper_data.planning.paths import check_inside
from hopper_data.planning.repositories.base import (
    BY_KEY,
    KeyedRepository,
    Unindexed,
    equals,
    one_of,
    strays,
)
from hopper_data.planning.vocabulary import STATUS_STAMPS, AgentType, TaskStatus
from hopper_data.session import Session

if TYPE_CHECKING:
    from hopper_data.aio import AsyncSession

__all__ = ["TaskRepository"]

_BEST_FIRST = "priority,-created_at,-id"
_QUEUE = "priority,created_at"
# A change of one of these says something about history, time stamps, progress or keys.
_TELLING = {"status", "feature", "key", "blocked_reason", *STATUS_STAMPS.values()}

Row = dict[str, Any]


class TaskRepository(KeyedRepository[Task]):
    """The tasks.

    What is named `list_…` is in the order of the keys, what is named `filter_…` best first: by
    priority, then newest.

    However a task is written, its time stamps, its history and the progress of its feature follow,
    all or nothing, and its status obeys the transitions. In `update()` and the bulk calls a new
    status is a step as with `update_status()`, the same one again is none, and `blocked_reason` is
    for a task that is blocked; to move a task to another feature, give its new key too. On
    PostgreSQL the writers of a feature's tasks take turns.

    `file_path` must lie inside `project_root`, where that is given.
    """

    model = Task

    def __init__(
        self,
        session: Session | AsyncSession,
        *,
        project_root: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(session)
        self.project_root = project_root

    # -- lists ------------------------------------------------------------------------------------

    def list_all(
        self, status: TaskStatus | str | None = None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """All tasks, or those with a status, in the order of their keys."""
        return self.filter({} if status is None else {"status": status}, skip, limit, BY_KEY)

    def list_by_epic(
        self, epic: int | str | Epic, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks of an epic, given by its number or its key, in the order of their keys."""
        return self._find(one_of(Epic, epic), order_by=BY_KEY, skip=skip, limit=limit)

    def list_by_feature(
        self, feature: int | str | Feature, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks of a feature, given by its number or its key, in the order of their keys."""
        return self._find(one_of(Feature, feature), order_by=BY_KEY, skip=skip, limit=limit)

    def filter_by_status(
        self, status: TaskStatus | str, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks with a status, best first."""
        return self.filter({"status": status}, skip, limit, _BEST_FIRST)

    def filter_by_agent_type(
        self, agent_type: AgentType | str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks for a type of agent, or (None) for no special type; best first."""
        return self.filter({"agent_type": agent_type}, skip, limit, _BEST_FIRST)

    def filter_by_priority(
        self,
        min: int | None = None,
        max: int | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Task]:
        """The tasks with a priority from `min` to `max`, both included; best first."""
        return self.filter_combined(min_priority=min, max_priority=max, skip=skip, limit=limit)

    def filter_combined(
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
        apart = epic_key is not None or feature_key is not None
        terms = _given(
            (Epic.key, epic_key),
            (Feature.key, feature_key),
            (Unindexed(Task.status) if apart else Task.status, status),
            (Unindexed(Task.agent_type) if apart else Task.agent_type, agent_type),
        )
        if min_priority is not None:
            terms.append(Task.priority >= _bound(min_priority, "min_priority"))
        if max_priority is not None:
            terms.append(Task.priority <= _bound(max_priority, "max_priority"))
        return self._find(*terms, order_by=_BEST_FIRST, skip=skip, limit=limit)

    def next_task(
        self, agent_type: AgentType | str | None = None, epic_key: str | None = None
    ) -> Task | None:
        """The task to do next, or None; of an epic or for a type of agent, where given.

        It is the todo of the highest priority, the oldest among equals, whose dependencies are all
        completed. A dependency that does not exist, or is archived, is not completed.
        """
        status = Task.status if epic_key is None else Unindexed(Task.status)
        terms = _given(
            (Epic.key, epic_key),
            (status, TaskStatus.TODO),
            (Unindexed(Task.agent_type), agent_type),
        )
        ready = SQL(_READY[self.database.dialect])
        found = self._find(*terms, ready, order_by=_QUEUE, limit=1)
        return found[0] if found else None

    def _select(self) -> Any:
        return super()._select().join(Feature).join(Epic)

    def _computed_columns(self) -> Sequence[Any]:
        return [Feature.key, Epic.key]

    # -- writing ----------------------------------------------------------------------------------

    def update_status(
        self,
        task_id: int,
        new_status: TaskStatus | str,
        agent: str | None = None,
        notes: str | None = None,
    ) -> Task | None:
        """Move a task to another status and return it as it is then; None when there is none.

        `agent` (who does it) and `notes` go into the history; when a task is blocked, the notes
        are its `blocked_reason` too. `InvalidTransition` when the one status may not follow the
        other; the same status again may not.
        """
        change = normalize_row(Task, {"status": new_status}, partial=True)
        said = normalize_row(TaskHistory, {"agent": agent, "notes": notes}, partial=True)
        moved = self._move([(self._key(task_id), change)], said, must_move=True)
        return moved[0] if moved else None

    def _update(self, key: Row, changes: Row) -> list[Task]:
        if _TELLING.isdisjoint(changes):
            return super()._update(key, changes)
        return self._move([(key, changes)])

    def _changes(self, fields: Mapping[str, Any]) -> Row:
        changes = super()._changes(fields)
        self._check_paths([changes])
        return changes

    def _stamp(self, changes: list[tuple[Row, Row]]) -> None:
        if any("updated_at" in change for _, change in changes):
            # Before the tasks, as ever.
            self._lock_features(_new_features(changes), (key for key, _ in changes))
        super()._stamp(changes)

    def _check_transitions(self, changes: list[tuple[Row, Row]]) -> None:
        """Nothing: `_bulk_update` does it, when it has locked the rows."""

    def _bulk_update(self, changes: list[tuple[Row, Row]]) -> int:
        if any(not _TELLING.isdisjoint(change) for _, change in changes):
            return len(self._move(changes))
        return super()._bulk_update(changes)

    def _insert(self, rows: list[Row]) -> None:
        self._check_paths(rows)
        with self.database.atomic():
            parents = self._lock_features(row["feature"] for row in rows)
            for row in rows:
                _begin(row)
                self._check_key(row, parents)
            super()._insert(rows)
            self._record([(row, None) for row in rows], {})
            progress.recompute(self.database, parents)

    def _delete(self, keys: list[Row]) -> int:
        with self.database.atomic():
            parents = self._lock_features((), keys)
            if len(keys) > 1:
                self._lock_rows(keys, "UPDATE")
            count = super()._delete(keys)
            progress.recompute(self.database, parents)
        return count

    def _upsert(self, row: Row, given: set[str], target: Sequence[Any]) -> Task:
        with self.database.atomic():
            # A key belongs to one feature, so those who write it take turns here.
            self._lock_features([row["feature"]])
            term = equals(target[0], row[target[0].name])
            stored = self._first(self._select().where(term))
            if stored is None:
                self._insert([row])
                return self._make(row)
            changes = {name: row[name] for name in given - {"id", "created_at"}}
            self._check_paths([changes])
            moved = self._move([({"id": stored.id}, changes)])
        if not moved:
            raise DatabaseError("Task was deleted by another writer meanwhile", retryable=True)
        return moved[0]

    def _check_paths(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            if row.get("file_path") is not None:
                check_inside(row["file_path"], self.project_root)

    # -- what follows from a change ---------------------------------------------------------------

    def _move(
        self,
        changes: list[tuple[Row, Row]],
        said: Mapping[str, Any] | None = None,
        *,
        must_move: bool = False,
    ) -> list[Task]:
        """Change tasks, with all that follows; the tasks that were there, as they are then.

        The number of statements does not depend on the number of tasks.
        """
        said = said or {}
        with self.database.atomic():
            keys = [key for key, _ in changes]
            parents = self._lock_features(_new_features(changes), keys)
            stored = self._lock_tasks(keys, parents)
            wanted = [(stored[key["id"]], change) for key, change in changes if key["id"] in stored]
            now = utcnow()
            rows = [
                (_step(old, change, now, said.get("notes"), must_move=must_move), old)
                for old, change in wanted
            ]
            for new, old in rows:
                if (new["key"], new["feature"]) != (old["key"], old["feature"]):
                    self._check_key(new, parents)
            self._write(rows)
            steps = [(new, old["status"]) for new, old in rows if new["status"] != old["status"]]
            self._record(steps, said)
            moved = [(new, old) for new, old in rows if _changes_progress(new, old)]
            if moved:
                progress.recompute(
                    self.database, {row["feature"] for pair in moved for row in pair}
                )
        return [self._make({**new, **parents[new["feature"]]}) for new, _ in rows]

    def _lock_features(
        self, features: Iterable[int], tasks: Iterable[Mapping[str, Any]] = ()
    ) -> dict[int, dict[str, str]]:
        """Lock features, and those of some tasks; the computed values of their tasks, by number.

        Always first, and the lowest number first, so that no two writers wait for each other.
        """
        named, numbers = self._rowset(Task.feature, features)
        held, task_numbers = self._rowset(Task.id, (key["id"] for key in tasks))
        found = self._query(
            "SELECT f.id, f.key, e.key FROM planning_features AS f "
            "JOIN planning_epics AS e ON e.id = f.epic_id WHERE f.id IN ("
            f"SELECT v.feature_id FROM {named} UNION "
            "SELECT t.feature_id FROM planning_tasks AS t "
            f"WHERE t.id IN (SELECT v.id FROM {held})) "
            f"ORDER BY f.id{self._lock('NO KEY UPDATE OF f')}",
            numbers,
            task_numbers,
        )
        return {
            number: {"feature_key": feature_key, "epic_key": epic_key}
            for number, feature_key, epic_key in found
        }

    def _lock_tasks(
        self, keys: Iterable[Mapping[str, Any]], parents: Mapping[int, Any]
    ) -> dict[int, Row]:
        """Lock tasks whose features are locked; their rows, by number."""
        rows, numbers = self._rowset(Task.id, (key["id"] for key in keys))
        found = self._models(
            f"SELECT {rowsets.columns(Task._meta.sorted_fields)} FROM planning_tasks "
            f"WHERE id IN (SELECT v.id FROM {rows}) ORDER BY id{self._lock('NO KEY UPDATE')}",
            (numbers,),
        )
        for task in found:
            if task.feature_id not in parents:
                raise DatabaseError(
                    f"Task {task.key!r} was moved by another writer meanwhile", retryable=True
                )
        return {task.id: task.__data__ for task in found}

    def _check_key(self, row: Row, parents: Mapping[int, Mapping[str, str]]) -> None:
        """Refuse a key that does not begin with the feature's; note the parents' keys in the row.

        A feature that does not exist is left to the database to refuse.
        """
        parent = parents.get(row["feature"])
        if parent is None:
            return
        row.update(parent)
        if feature_key_of(row["key"]) != parent["feature_key"]:
            raise strays("Task", row["key"], parent["feature_key"])

    def _write(self, rows: list[tuple[Row, Row]]) -> None:
        names = {
            name for new, old in rows for name in old if name != "id" and new[name] != old[name]
        }
        if names:
            rowsets.update_rows(self.database, Task, names, [new for new, _ in rows])

    def _record(self, steps: list[tuple[Row, TaskStatus | None]], said: Mapping[str, Any]) -> None:
        """Write steps into the history: a task as it is then, and the status that it had."""
        history = [
            {
                "task": task["id"],
                "old_status": old_status,
                "new_status": task["status"],
                "agent": said.get("agent"),
                "notes": said.get("notes") or task.get("blocked_reason"),
                "timestamp": task["updated_at"],
            }
            for task, old_status in steps
        ]
        if history:
            rowsets.insert_rows(self.database, TaskHistory, history)


_READY = {
    "sqlite": (
        'NOT EXISTS (SELECT 1 FROM json_each("t1"."depends_on") AS dependency '
        "LEFT JOIN planning_tasks AS needed ON needed.key = dependency.value "
        "WHERE needed.status IS NULL OR needed.status <> 'completed')"
    ),
    "postgresql": (
        "NOT EXISTS (SELECT 1 "
        'FROM jsonb_array_elements_text("t1"."depends_on") AS dependency(value) '
        "LEFT JOIN planning_tasks AS needed ON needed.key = dependency.value "
        "WHERE needed.status IS NULL OR needed.status <> 'completed')"
    ),
}


def _new_features(changes: list[tuple[Row, Row]]) -> list[int]:
    return [change["feature"] for _, change in changes if "feature" in change]


def _begin(row: Row) -> None:
    """Put the time stamp of a new task's status into its row."""
    stamp = STATUS_STAMPS.get(row["status"])
    if stamp is not None and row.get(stamp) is None:
        row[stamp] = row["updated_at"]
    _check_reason(row)


def _step(old: Row, change: Row, now: datetime, notes: str | None, *, must_move: bool) -> Row:
    """A task as it shall be, with what follows from a change of its status."""
    new = {**old, **change}
    # Later than the step before, also where the clock has gone back.
    new["updated_at"] = moved_on(change.get("updated_at") or now, old["updated_at"])
    for stamp in STATUS_STAMPS.values():
        if old[stamp] is not None and new[stamp] is None:
            raise ValidationError(f"Task {stamp} is never cleared", stamp)
    if new["status"] != old["status"]:
        _move_on(old, new, change, notes)
    elif must_move:
        raise refuse_transition(Task.status, old["status"], new["status"])
    _check_reason(new)
    return new


def _move_on(old: Row, new: Row, change: Row, notes: str | None) -> None:
    if old["status"] not in Task.status.sources(new["status"]):
        raise refuse_transition(Task.status, old["status"], new["status"])
    stamp = STATUS_STAMPS.get(new["status"])
    first_alone = stamp == "started_at" and old[stamp] is not None
    if stamp is not None and stamp not in change and not first_alone:
        new[stamp] = new["updated_at"]
    if "blocked_reason" not in change:
        new["blocked_reason"] = notes if new["status"] == TaskStatus.BLOCKED else None


def _check_reason(row: Row) -> None:
    if row.get("blocked_reason") is not None and row["status"] != TaskStatus.BLOCKED:
        raise ValidationError(
            f"Task blocked_reason can be given only to a task that is blocked, "
            f"not to one that is {row['status']}",
            "blocked_reason",
        )


def _changes_progress(new: Row, old: Row) -> bool:
    return bool(new["status"] != old["status"] or new["feature"] != old["feature"])


def _given(*conditions: tuple[Any, Any]) -> list[Any]:
    """The terms of those conditions whose value is given."""
    return [equals(field, value) for field, value in conditions if value is not None]


def _bound(value: Any, name: str) -> int:
    try:
        return check_integer(value, Task.priority)
    except ValidationError as error:
        raise ValidationError(f"{name}: {error}", name) from None
