"""`TaskRepository`: the lists of tasks, their ids, and what a task is made of."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    ExecutorType,
    InvalidTransition,
    Platform,
    Session,
    Task,
    TaskPriority,
    TaskRepository,
    TaskSource,
    TaskStatus,
    ValidationError,
)
from hopper_data.routing.models import new_task_id

THEN = datetime(2026, 1, 1, tzinfo=UTC)
List = Callable[..., list[Task]]


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def ids(found: list[Task]) -> list[str]:
    return [task.id for task in found]


def fill(tasks: TaskRepository) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "priority": "low", "project": "web", "owner": "ann", "requester": "eve"},
        {"id": "b", "priority": "urgent", "project": "web", "owner": "bob"},
        {"id": "c", "status": "completed", "project": "web", "owner": "ann", "requester": "eve"},
        {"id": "d", "priority": "high", "owner": "ann"},
        {"id": "e", "priority": "urgent", "project": "api", "requester": "eve"},
        {"id": "f", "status": "blocked"},
        {"id": "g", "priority": "low", "tags": ["x"]},
        {"id": "h", "status": "failed", "project": "web", "tags": ["x", "y"]},
    ]
    tasks.bulk_create(
        {**row, "title": row["id"], "created_at": THEN + timedelta(hours=number)}
        for number, row in enumerate(rows)
    )
    # Of one moment, so that the key decides.
    tasks.bulk_create(
        {"id": key, "title": key, "project": "same", "created_at": THEN} for key in "zyx"
    )


LISTS: dict[str, tuple[Callable[[TaskRepository], List], list[str]]] = {
    "project": (lambda t: lambda **p: t.get_tasks_by_project("web", **p), ["h", "c", "b", "a"]),
    "same": (lambda t: lambda **p: t.get_tasks_by_project("same", **p), ["x", "y", "z"]),
    "no project": (lambda t: lambda **p: t.get_tasks_by_project(None, **p), ["g", "f", "d"]),
    "unassigned": (lambda t: t.get_unassigned_tasks, ["g", "f", "d"]),
    "status": (
        lambda t: lambda **p: t.get_tasks_by_status("pending", **p),
        ["g", "e", "d", "b", "a", "x", "y", "z"],
    ),
    "member": (lambda t: lambda **p: t.get_tasks_by_status(TaskStatus.FAILED, **p), ["h"]),
    "requester": (lambda t: lambda **p: t.get_tasks_by_requester("eve", **p), ["e", "c", "a"]),
    "owner": (lambda t: lambda **p: t.get_tasks_by_owner("ann", **p), ["d", "c", "a"]),
    "nobody": (
        lambda t: lambda **p: t.get_tasks_by_owner(None, **p),
        ["h", "g", "f", "e", "x", "y", "z"],
    ),
    "tag": (lambda t: lambda **p: t.get_tasks_by_tag("x", **p), ["h", "g"]),
    "pending": (lambda t: t.get_pending_tasks, ["b", "e", "d", "x", "y", "z", "a", "g"]),
    "ready": (lambda t: t.get_ready_tasks, ["b", "e", "d", "x", "y", "z", "a", "g"]),
}


def test_every_list_has_an_order_and_pages_in_one_query(tasks: TaskRepository) -> None:
    fill(tasks)
    for make, expected in LISTS.values():
        _check_list(make(tasks), expected)


def _check_list(read: List, expected: list[str]) -> None:
    with assert_query_count(1):
        assert ids(read()) == expected
    assert ids(read(limit=1)) == expected[:1]
    assert read(limit=0) == []
    assert ids(read(skip=1)) == expected[1:]
    assert ids(read(skip=1, limit=2)) == expected[1:3]
    assert read(skip=len(expected)) == []
    assert read(skip=10_000, limit=5) == []
    assert ids(read(limit=10_000)) == expected
    for page in ({"limit": -1}, {"skip": -1}, {"limit": "5"}, {"limit": 1.0}, {"skip": None}):
        with pytest.raises(ValidationError, match=r"limit|skip"):
            read(**page)


def test_a_list_of_nothing_is_empty(tasks: TaskRepository) -> None:
    for read in (
        tasks.get_tasks_by_project,
        tasks.get_tasks_by_owner,
        tasks.get_tasks_by_requester,
        tasks.get_tasks_by_tag,
        tasks.get_dependent_tasks,
        tasks.get_blocking_tasks,
    ):
        assert read("none") == []
    assert tasks.get_pending_tasks() == []
    assert tasks.get_ready_tasks() == []
    assert tasks.get_unassigned_tasks() == []
    assert tasks.get_tasks_by_status("pending") == []


def test_a_status_must_be_a_word_of_the_vocabulary(tasks: TaskRepository) -> None:
    with pytest.raises(ValidationError, match="'done' is not one of pending, claimed"):
        tasks.get_tasks_by_status("done")
    with pytest.raises(ValidationError, match="is not one of"):
        tasks.get_tasks_by_status("PENDING")


def test_a_list_refuses_what_no_column_holds(tasks: TaskRepository) -> None:
    wrong: list[Any] = ["a\0b", "\ud800", 5, b"x", ["x"]]
    for read in (
        tasks.get_tasks_by_project,
        tasks.get_tasks_by_owner,
        tasks.get_tasks_by_requester,
        tasks.get_dependent_tasks,
        tasks.get_blocking_tasks,
    ):
        for value in wrong:
            with pytest.raises(ValidationError, match="Task"):
                read(value)
    for read in (tasks.get_dependent_tasks, tasks.get_blocking_tasks):
        with pytest.raises(ValidationError, match="Task id is None; a key must be given"):
            read(None)  # type: ignore[arg-type]


# -- a task ---------------------------------------------------------------------------------------


def test_an_id_is_made_when_none_is_given(tasks: TaskRepository) -> None:
    made = [tasks.create(title="x").id for _ in range(50)]
    assert made == sorted(set(made))
    assert all(key.startswith("task-") and len(key) <= 50 for key in made)
    assert tasks.create(title="x", id=None).id.startswith("task-")
    bulk = [task.id for task in tasks.bulk_create([{"title": "y"}] * 20)]
    assert bulk == sorted({*bulk, *made})[50:]


def test_ids_of_many_threads_differ() -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_task_id(), range(5_000)))
    assert len(set(made)) == 5_000


def test_a_task_keeps_every_column(tasks: TaskRepository) -> None:
    given: dict[str, Any] = {
        "id": "x" * 50,
        "title": "Ü" * 500,
        "description": "long\n" * 1_000,
        "project": "not registered yet",
        "status": "blocked",
        "priority": "urgent",
        "requester": "r" * 100,
        "owner": "o" * 100,
        "external_id": "e" * 100,
        "external_url": "u" * 500,
        "external_platform": "p" * 50,
        "source": "s" * 50,
        "conversation_id": "c" * 100,
        "context": "",
        "tags": ["a", "b", "a"],
        "required_capabilities": ["python"],
        "depends_on": ["not there yet"],
        "blocks": [],
        "routing_confidence": 1,
        "routing_reasoning": "because",
        "feedback": {"deep": [1, 2.5, None, True, {"ü": "é"}]},
        "created_at": datetime(2026, 1, 2, 3, 4, 5, 678901, UTC),
        "updated_at": datetime(2026, 1, 2, 3, 4, 5, 678902, UTC),
        "lease_expires_at": datetime(2026, 1, 2, 3, 4, 5, 678903, UTC),
        "lease_token": "t" * 50,
        "lease_s": 0.5,
        "attempts": 2,
        "max_attempts": 7,
        "run_after": datetime(2026, 1, 2, 3, 4, 5, 678904, UTC),
        "last_error": "it\ndid not work",
        "dedupe_key": "k" * 200,
    }
    made = tasks.create(**given)
    stored = tasks.get_or_raise("x" * 50)
    for task in (made, stored):
        assert {name: getattr(task, name) for name in given} == given
    assert set(stored.to_dict()) == set(given)
    assert stored.to_dict()["created_at"] == "2026-01-02T03:04:05.678901Z"
    assert isinstance(stored.status, TaskStatus)
    assert isinstance(stored.priority, TaskPriority)


LENGTHS = {
    "id": 50,
    "title": 500,
    "project": 100,
    "requester": 100,
    "owner": 100,
    "external_id": 100,
    "external_url": 500,
    "external_platform": 50,
    "source": 50,
    "conversation_id": 100,
    "lease_token": 50,
    "dedupe_key": 200,
}


def test_a_text_that_is_too_long_is_refused(tasks: TaskRepository) -> None:
    for column, length in LENGTHS.items():
        with pytest.raises(ValidationError, match=f"{length + 1} characters; {length}") as caught:
            tasks.create(**{"title": "x", column: "é" * (length + 1)})
        assert caught.value.field == column
        assert tasks.count() == 0


def test_a_list_column_holds_texts_alone(tasks: TaskRepository) -> None:
    for column in ("tags", "required_capabilities", "depends_on", "blocks"):
        _check_list_column(tasks, column)


def _check_list_column(tasks: TaskRepository, column: str) -> None:
    wrong: list[Any] = ["text", {"a": 1}, 5, True, [1], [None], [""], [["a"]], ["a\0"], ["\ud800"]]
    for value in wrong:
        with pytest.raises(ValidationError, match=f"Task {column}"):
            tasks.create(title="x", **{column: value})
    tasks.create(id=column, title="x", **{column: ("b", "c")})
    assert getattr(tasks.get_or_raise(column), column) == ["b", "c"]
    for value in wrong:
        with pytest.raises(ValidationError, match=f"Task {column}"):
            tasks.update(column, **{column: value})
    assert getattr(tasks.get_or_raise(column), column) == ["b", "c"]
    tasks.update(column, **{column: None})
    assert getattr(tasks.get_or_raise(column), column) is None


def test_open_words_are_kept_as_they_are(tasks: TaskRepository) -> None:
    known = tasks.create(title="x", source=TaskSource.MCP, external_platform=Platform.GITHUB)
    other = tasks.create(title="x", source="carrier pigeon", external_platform="forge")
    assert tasks.get_or_raise(known.id).to_dict()["source"] == "mcp"
    assert tasks.get_or_raise(other.id).source == "carrier pigeon"
    assert [*TaskSource] == ["mcp", "cli", "http", "webhook"]
    assert {"human", "agent", "czarina"} <= {*ExecutorType}


def test_a_task_may_name_a_project_that_is_registered_later(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    moved = tasks.assign_to_project("a", "later")
    assert moved is not None
    assert moved.project == "later"
    assert tasks.assign_to_project("a", None) is not None
    assert tasks.get_or_raise("a").project is None
    assert tasks.assign_to_project("none", "later") is None
    with pytest.raises(ValidationError, match="101 characters"):
        tasks.assign_to_project("a", "p" * 101)


def test_a_status_is_moved_on(tasks: TaskRepository) -> None:
    made = tasks.create(id="a", title="x")
    moved = tasks.update_status("a", TaskStatus.IN_PROGRESS)
    assert moved is not None
    assert moved.status == "in_progress"
    assert moved.updated_at > made.updated_at
    assert tasks.update_status("none", "pending") is None
    with pytest.raises(InvalidTransition, match="from 'in_progress' to 'claimed'"):
        tasks.update_status("a", "claimed")
    with pytest.raises(ValidationError, match="'active' is not one of"):
        tasks.update_status("a", "active")
    assert tasks.get_or_raise("a").status == "in_progress"
