"""The states of a task: all 49 pairs, by every way of writing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from hopper_data import InvalidTransition, Session, Task, TaskRepository, ValidationError

STATES = ("pending", "claimed", "in_progress", "blocked", "completed", "failed", "cancelled")
ALLOWED = {
    "pending": {"claimed", "in_progress", "blocked", "completed", "cancelled"},
    "claimed": {"pending", "in_progress", "blocked", "completed", "failed", "cancelled"},
    "in_progress": {"pending", "blocked", "completed", "failed", "cancelled"},
    "blocked": {"pending", "in_progress", "completed", "cancelled"},
    "failed": {"pending", "cancelled"},
    "completed": {"pending"},
    "cancelled": {"pending"},
}


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def _save(tasks: TaskRepository, key: str, status: str) -> None:
    task = tasks.get_or_raise(key)
    task.status = status  # type: ignore[assignment]
    task.save()


WAYS: dict[str, Callable[[TaskRepository, str, str], Any]] = {
    "update": lambda tasks, key, status: tasks.update(key, status=status, title="new"),
    "update_status": lambda tasks, key, status: tasks.update_status(key, status),
    "bulk_update": lambda tasks, key, status: tasks.bulk_update(
        [{"id": "other", "title": "new"}, {"id": key, "status": status}]
    ),
    "upsert": lambda tasks, key, status: tasks.upsert(id=key, title="new", status=status),
    "save": _save,
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_obeys_the_table(tasks: TaskRepository, way: str) -> None:
    tasks.create(id="other", title="old")
    for old, new in itertools.product(STATES, STATES):
        key = f"{old} {new}"
        tasks.create(id=key, title="old", status=old)
        before = tasks.get_or_raise(key)
        if new == old or new in ALLOWED[old]:
            WAYS[way](tasks, key, new)
            assert tasks.get_or_raise(key).status == new
            continue
        tasks.update("other", title="old")
        with pytest.raises(InvalidTransition, match="Task status cannot go from") as caught:
            WAYS[way](tasks, key, new)
        assert (caught.value.old, caught.value.new) == (old, new)
        assert caught.value.field == "status"
        for choice in ALLOWED[old]:
            assert choice in str(caught.value)
        assert tasks.get_or_raise(key).to_dict() == before.to_dict()
        assert tasks.get_or_raise("other").title == "old"


def test_a_task_may_begin_in_any_state(tasks: TaskRepository) -> None:
    for state in STATES:
        assert tasks.create(title="x", status=state).status == state
        assert tasks.upsert(id=f"up {state}", title="x", status=state).status == state
    tasks.bulk_create({"title": "x", "status": state} for state in STATES)
    assert tasks.count() == 21


def test_the_same_state_again_is_no_error_and_no_step(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x", status="completed")
    updated = tasks.update_status("a", "completed")
    assert updated is not None
    assert updated.status == "completed"
    assert tasks.bulk_update([{"id": "a", "status": "completed"}]) == 1
    assert tasks.upsert(id="a", title="x", status="completed").status == "completed"


def test_an_upsert_without_a_status_leaves_it(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x", status="completed")
    assert tasks.upsert(id="a", title="y").status == "completed"
    assert tasks.get_or_raise("a").title == "y"


def test_a_bulk_update_with_one_wrong_step_changes_nothing(tasks: TaskRepository) -> None:
    tasks.bulk_create({"id": str(n), "title": "x"} for n in range(5))
    tasks.update_status("3", "completed")
    with pytest.raises(InvalidTransition, match="from 'completed' to 'blocked'"):
        tasks.bulk_update({"id": str(n), "status": "blocked"} for n in range(5))
    assert [task.status for task in tasks.get_all()] == ["pending"] * 3 + ["completed", "pending"]


def test_a_state_outside_the_vocabulary_is_refused(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    words: list[Any] = ["done", "Pending", "", " pending", None, 5, "active"]
    for word, (name, way) in itertools.product(words, WAYS.items()):
        if name == "upsert" and word is None:
            continue
        with pytest.raises(ValidationError, match="Task status"):
            way(tasks, "a", word)
    assert tasks.get_or_raise("a").status == "pending"


def test_a_stale_task_is_judged_by_what_is_stored(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    stale = tasks.get_or_raise("a")
    tasks.update_status("a", "completed")
    stale.status = "blocked"  # type: ignore[assignment]
    with pytest.raises(InvalidTransition, match="from 'completed' to 'blocked'"):
        stale.save()
    assert Task.get_by_id("a").status == "completed"
