"""What the planning tests share: a small plan, raw rows, and a recount from scratch."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playhouse.test_utils import count_queries

from hopper_data import Session
from hopper_data.planning import (
    TASK_TRANSITIONS,
    Epic,
    EpicRepository,
    Feature,
    FeatureRepository,
    Task,
    TaskHistoryRepository,
    TaskRepository,
    TaskStatus,
)


class Plan:
    """Repositories on one session, and rows for them with as little as they need."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.epics = EpicRepository(session)
        self.features = FeatureRepository(session)
        self.tasks = TaskRepository(session)
        self.history = TaskHistoryRepository(session)

    def epic(self, number: int = 4, **fields: Any) -> Epic:
        return self.epics.create(key=f"E{number:02}", title=f"Epic {number}", **fields)

    def feature(self, epic: Epic | None = None, number: int = 1, **fields: Any) -> Feature:
        epic = epic or self.epics.get_by_key("E04") or self.epic()
        key = f"{epic.key}-F{number:02}"
        return self.features.create(epic_id=epic.id, key=key, title=f"Feature {key}", **fields)

    def task(self, feature: Feature, number: int = 1, **fields: Any) -> Task:
        return self.tasks.create(**self.row(feature, number, **fields))

    def row(self, feature: Feature, number: int, **fields: Any) -> dict[str, Any]:
        key = f"T-{feature.key}-{number:03}"
        return {"feature_id": feature.id, "key": key, "title": f"Task {key}", **fields}

    def many(self, feature: Feature, count: int, **fields: Any) -> list[Task]:
        rows = [self.row(feature, number, **fields) for number in range(1, count + 1)]
        return self.tasks.bulk_create(rows)

    def walk(self, task: Task, *statuses: str) -> Task:
        for status in statuses:
            moved = self.tasks.update_status(task.id, status, agent="ada")
            assert moved is not None
            task = moved
        return task

    def progress(self, feature: Feature) -> float:
        return self.features.get_or_raise(feature.id).progress_pct

    def statuses(self, task: Task) -> list[str | None]:
        """The statuses that the history of a task leads through."""
        steps = self.history.list_by_task(task.id)
        assert steps[0].old_status is None
        for before, after in itertools.pairwise(steps):
            assert after.old_status == before.new_status
            assert after.timestamp > before.timestamp
        return [step.new_status for step in steps]


COMPLETE = ("in_progress", "ready_for_review", "completed")


def recount(session: Session) -> None:
    """Every progress and every history, counted from the tasks alone, is what the tables say."""
    statuses: dict[int, Counter[str]] = {}
    last: dict[int, tuple[str, Any]] = {}
    for number, feature_id, status, updated_at in session.execute(
        "SELECT id, feature_id, status, updated_at FROM planning_tasks"
    ):
        statuses.setdefault(feature_id, Counter())[status] += 1
        last[number] = (status, updated_at)
    for number, progress in session.execute("SELECT id, progress_pct FROM planning_features"):
        counted = statuses.get(number, Counter())
        total = counted.total() - counted["archived"]
        assert progress == (counted["completed"] / total * 100 if total else 0.0)
    steps: dict[int, list[tuple[Any, ...]]] = {}
    for task, *step in session.execute(
        "SELECT task_id, old_status, new_status, timestamp FROM planning_task_history "
        "ORDER BY timestamp, id"
    ):
        steps.setdefault(task, []).append(tuple(step))
    assert steps.keys() == last.keys()
    for task, found in steps.items():
        assert found[0][0] is None
        for before, after in itertools.pairwise(found):
            assert before[1] == after[0]
            assert TaskStatus(after[1]) in TASK_TRANSITIONS[TaskStatus(after[0])]
        assert found[-1][1] == last[task][0]
        assert found[-1][2] <= last[task][1]


_CONTROL = re.compile(r"((BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|PRAGMA)\b[^;]*;?\s*)+")


@contextmanager
def statements(expected: int) -> Iterator[None]:
    """Fails unless so many statements are run, savepoints not counted."""
    with count_queries() as counter:
        yield
    sent = [str(record.msg[0]) for record in counter.get_queries()]
    found = [sql for sql in sent if not _CONTROL.fullmatch(sql)]
    assert len(found) == expected, "\n".join(found)


def raw(session: Session) -> Raw:
    """Rows written round the package."""
    return Raw(session)


class Raw:
    """Inserts of SQL alone, which name no more columns than they must."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def insert(self, table: str, **columns: Any) -> None:
        names = ", ".join(columns)
        marks = ", ".join("?" for _ in columns)
        self.session.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(columns.values())
        )

    def one(self, sql: str, *params: Any) -> Any:
        ((value,),) = self.session.execute(sql, params)
        return value


@pytest.fixture
def plan(session: Session) -> Plan:
    return Plan(session)
