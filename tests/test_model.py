"""Models: names, saving, dictionaries, and the proxy that they are bound to."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from peewee import DoesNotExist

from hopper_data import (
    ExternalMapping,
    ExternalMappingRepository,
    HopperInstance,
    IntegrityError,
    InvalidTransition,
    NotFound,
    Project,
    ProjectRepository,
    RoutingDecision,
    RoutingDecisionRepository,
    Session,
    Task,
    TaskFeedback,
    TaskRepository,
    TaskStatus,
    ValidationError,
)
from hopper_data.database import proxy
from hopper_data.routing.models import ROUTING_MODELS


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def test_models_are_bound_to_the_proxy() -> None:
    assert {model._meta.database for model in ROUTING_MODELS} == {proxy}


def test_a_name_that_a_model_does_not_have_is_refused() -> None:
    for model, name, closest in (
        (Task, "titel", "title"),
        (Task, "create_at", "created_at"),
        (Project, "slugg", "slug"),
        (ExternalMapping, "platfrom", "platform"),
    ):
        with pytest.raises(ValidationError, match=f"did you mean '{closest}'") as caught:
            model(**{name: "x"})
        assert caught.value.field == name
        with pytest.raises(ValidationError, match=f"did you mean '{closest}'"):
            model.create(**{name: "x"})
    with pytest.raises(ValidationError, match=r"there are .*title"):
        Task(zzzzzzzzzz=1)


def test_a_dictionary_is_ready_for_json(session: Session) -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    task = TaskRepository(session).create(
        id="t", title="t", created_at=moment, tags=["a"], feedback={"b": [1]}, priority="high"
    )
    found = task.to_dict()
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [field.column_name for field in Task._meta.sorted_fields]
    assert found["created_at"] == "2026-01-02T03:04:05Z"
    assert found["updated_at"].endswith("Z")
    assert (found["status"], found["priority"]) == ("pending", "high")
    assert type(found["status"]) is str
    assert (found["tags"], found["feedback"], found["owner"]) == (["a"], {"b": [1]}, None)
    assert found == TaskRepository(session).get_or_raise("t").to_dict()


def test_references_are_in_dictionaries_by_their_columns(session: Session) -> None:
    TaskRepository(session).create(id="t", title="t")
    ProjectRepository(session).create(name="p", slug="p")
    decision = RoutingDecisionRepository(session).create(task_id="t", project="p")
    assert decision.to_dict()["task_id"] == "t"
    assert decision.to_dict()["project"] == "p"
    mapping = ExternalMappingRepository(session).create(
        task_id="t", platform="github", external_id="1"
    )
    assert mapping.to_dict() == {
        "task_id": "t",
        "platform": "github",
        "external_id": "1",
        "external_url": None,
    }


def test_a_dictionary_of_a_row_that_was_never_stored() -> None:
    found = Task(title="t", status="claimed").to_dict()
    assert (found["title"], found["status"], found["description"]) == ("t", "claimed", None)
    assert json.dumps(found)


def test_save_inserts_when_asked_to(tasks: TaskRepository) -> None:
    task = Task(id="t", title="t", status="claimed", tags=("a",))
    assert task.save(force_insert=True) == 1
    assert task.save() == 0
    found = tasks.get_or_raise("t")
    assert (found.title, found.status, found.tags) == ("t", TaskStatus.CLAIMED, ["a"])


def test_save_updates_what_was_changed_and_nothing_else(tasks: TaskRepository) -> None:
    tasks.create(id="t", title="t", owner="ann")
    mine, other = tasks.get_or_raise("t"), tasks.get_or_raise("t")
    other.owner = "bob"
    other.save()
    mine.title = "u"
    mine.save()
    found = tasks.get_or_raise("t")
    assert (found.title, found.owner) == ("u", "bob")


def test_save_of_some_fields(tasks: TaskRepository) -> None:
    task = tasks.create(id="t", title="t")
    task.title, task.owner = "u", "ann"
    assert task.save(only=["owner"]) == 1
    found = tasks.get_or_raise("t")
    assert (found.title, found.owner) == ("t", "ann")
    assert task.save() == 1
    assert tasks.get_or_raise("t").title == "u"


def test_save_of_a_row_that_does_not_exist_says_so(tasks: TaskRepository) -> None:
    with pytest.raises(NotFound, match="force_insert=True"):
        Task(id="ghost", title="t").save()
    task = tasks.create(id="t", title="t")
    tasks.delete("t")
    task.title = "u"
    with pytest.raises(NotFound, match="'t' does not exist"):
        task.save()
    assert tasks.count() == 0


def test_save_obeys_the_transitions(tasks: TaskRepository) -> None:
    task = tasks.create(id="t", title="t", status="completed")
    task.status = "in_progress"
    with pytest.raises(InvalidTransition) as caught:
        task.save()
    assert (caught.value.old, caught.value.new) == ("completed", "in_progress")
    assert tasks.get_or_raise("t").status is TaskStatus.COMPLETED
    # What counts is the row, not what this instance believes.
    stale = tasks.get_or_raise("t")
    tasks.update_status("t", "pending")
    stale.status = "in_progress"
    assert stale.save() == 1


def test_save_checks_each_value(tasks: TaskRepository) -> None:
    for wrong, message in (
        ({"priority": "P1"}, "not one of"),
        ({"title": "x" * 501}, "501"),
        ({"routing_confidence": 2}, "not between"),
        ({"tags": "a"}, "list of texts"),
    ):
        with pytest.raises(ValidationError, match=message):
            Task(**{"title": "t", **wrong}).save(force_insert=True)
        task = Task(id="t", title="t")
        with tasks.database.atomic() as scope:
            task.save(force_insert=True)
            for name, value in wrong.items():
                setattr(task, name, value)
            with pytest.raises(ValidationError, match=message):
                task.save()
            scope.rollback()
    with pytest.raises(ValidationError, match="Task title is missing"):
        Task().save(force_insert=True)
    assert tasks.count() == 0


def test_save_is_refused_in_the_words_of_the_row(session: Session) -> None:
    projects = ProjectRepository(session)
    projects.create(name="p", slug="s")
    with pytest.raises(IntegrityError, match="Project slug 's' is already taken") as caught:
        Project(name="q", slug="s").save(force_insert=True)
    assert caught.value.constraint == "idx_projects_slug"
    with pytest.raises(IntegrityError, match="Project name 'p' is already taken") as caught:
        Project(name="p", slug="t").save(force_insert=True)
    assert caught.value.constraint == "projects_pkey"
    with pytest.raises(IntegrityError, match="task_id 'ghost' names a Task") as caught:
        RoutingDecision(task_id="ghost").save(force_insert=True)
    assert caught.value.constraint == "fk_routing_decisions_task_id"
    other = projects.create(name="q", slug="t")
    other.slug = "s"
    with pytest.raises(IntegrityError, match="Project slug 's' is already taken"):
        other.save()
    assert [(row.name, row.slug) for row in projects.get_all()] == [("p", "s"), ("q", "t")]


def test_delete_instance_is_refused_in_the_words_of_the_row(session: Session) -> None:
    HopperInstance(id="a", name="a", scope="GLOBAL").save(force_insert=True)
    child = HopperInstance(id="b", name="b", scope="PROJECT", parent_id="a")
    child.save(force_insert=True)
    with pytest.raises(IntegrityError, match="1 HopperInstance row refers to this"):
        HopperInstance.get_by_id("a").delete_instance()
    assert child.delete_instance() == 1
    assert HopperInstance.get_by_id("a").delete_instance() == 1


def test_the_cause_is_what_the_driver_said(session: Session) -> None:
    Project(name="p", slug="s").save(force_insert=True)
    with pytest.raises(IntegrityError) as caught:
        Project(name="p", slug="s").save(force_insert=True)
    assert caught.value.__cause__ is not None
    assert "unique" in str(caught.value.__cause__).lower()


def test_the_rows_below_go_with_the_row_above(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="t", title="t")
    RoutingDecision(task_id="t").save(force_insert=True)
    TaskFeedback(task_id="t", complexity_rating=3).save(force_insert=True)
    ExternalMapping(task_id="t", platform="github", external_id="1").save(force_insert=True)
    assert tasks.delete("t")
    for model in (RoutingDecision, TaskFeedback, ExternalMapping):
        assert model.select().count() == 0


def test_peewees_own_queries_check_values_too(tasks: TaskRepository) -> None:
    tasks.create(id="t", title="t")
    attempts: list[Any] = [
        lambda: Task.insert(title="x" * 501),
        lambda: Task.insert_many([{"title": "a", "priority": "P1"}]),
        lambda: Task.update(priority="P1"),
        lambda: Task.select().where(Task.priority == "P1"),
        lambda: Task.select().where(Task.title == "\0"),
    ]
    for attempt in attempts:
        with pytest.raises(ValidationError):
            list(attempt().execute(tasks.database))
    assert [(row.title, row.priority) for row in Task.select()] == [("t", "medium")]


def test_a_row_that_peewee_misses_is_not_found(session: Session) -> None:
    for attempt in (
        lambda: Task.get_by_id("hush"),
        lambda: Task.get(Task.title == "hush"),
        lambda: RoutingDecision(task_id="hush").task,
        lambda: Task.select().where(Task.title == "hush").get(),
    ):
        with pytest.raises(NotFound) as caught:
            attempt()
        assert isinstance(caught.value, Task.DoesNotExist)
        assert isinstance(caught.value, DoesNotExist)
        assert "hush" not in str(caught.value)
        assert "Task" in str(caught.value)
        again = pickle.loads(pickle.dumps(caught.value))
        assert (type(again), str(again)) == (Task.DoesNotExist, str(caught.value))
    assert Task.get_or_none(Task.id == "hush") is None
