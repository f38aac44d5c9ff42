"""Epics, features, tasks and history through their repositories."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import hopper_data.planning
from hopper_data import IntegrityError, NotFound, ValidationError
from hopper_data.database import Database
from hopper_data.planning import Epic, Feature, Task, TaskRepository
from hopper_data.session import open_session
from tests.planning_data import COMPLETE, Plan, plan, statements

__all__ = ["plan"]

EPIC_FIELDS = (
    "id key title description status priority business_value created_at updated_at progress_pct"
)
FEATURE_FIELDS = (
    "id epic_id key title description status progress_pct created_at updated_at epic_key"
)
TASK_FIELDS = (
    "id feature_id key title description status agent_type priority depends_on assigned_agent "
    "file_path blocked_reason created_at started_at completed_at blocked_at updated_at "
    "feature_key epic_key"
)
HISTORY_FIELDS = "id task_id old_status new_status agent notes timestamp task_key"


def keys(rows: list[Any]) -> list[str]:
    return [row.key for row in rows]


def numbers(rows: list[Task]) -> list[int]:
    """The last part of the tasks' keys."""
    return [int(row.key[-3:]) for row in rows]


def test_the_domain_exports_what_it_says() -> None:
    assert len(set(hopper_data.planning.__all__)) == len(hopper_data.planning.__all__)
    for name in hopper_data.planning.__all__:
        assert getattr(hopper_data.planning, name) is not None


# -- to_dict --------------------------------------------------------------------------------------


def test_dicts_have_exactly_the_fields_of_the_tables_and_the_computed_ones(plan: Plan) -> None:
    epic = plan.epic()
    feature = plan.feature(epic)
    task = plan.task(feature)
    step = plan.history.list_by_task(task.id)[0]
    for row, fields in (
        (epic, EPIC_FIELDS),
        (feature, FEATURE_FIELDS),
        (task, TASK_FIELDS),
        (step, HISTORY_FIELDS),
    ):
        assert list(row.to_dict()) == fields.split()


def test_dicts_are_ready_for_json(plan: Plan) -> None:
    epic = plan.epic(priority="high", business_value="low")
    feature = plan.feature(epic)
    task = plan.task(feature, agent_type="api", depends_on=["T-E04-F01-009"])
    plan.walk(task, *COMPLETE)
    for row in (
        plan.epics.get_by_key("E04"),
        plan.features.get_by_key("E04-F01"),
        plan.tasks.get_by_key("T-E04-F01-001"),
        plan.history.list_recent()[0],
    ):
        assert row is not None
        data = row.to_dict()
        assert json.loads(json.dumps(data)) == data
        assert all(type(value) in (str, int, float, list, type(None)) for value in data.values())
    data = plan.tasks.get_or_raise(task.id).to_dict()
    assert (data["status"], data["agent_type"]) == ("completed", "api")
    assert (data["feature_key"], data["epic_key"]) == ("E04-F01", "E04")
    assert data["depends_on"] == ["T-E04-F01-009"]
    assert str(data["completed_at"]).endswith("Z")
    assert plan.epics.get_or_raise(epic.id).to_dict()["progress_pct"] == 100.0
    assert plan.history.list_recent()[0].to_dict()["task_key"] == task.key


def test_dependencies_are_never_null(plan: Plan) -> None:
    feature = plan.feature()
    for number, given in enumerate(({}, {"depends_on": None}, {"depends_on": []}), 1):
        task = plan.task(feature, number, **given)
        assert task.to_dict()["depends_on"] == []
        assert plan.tasks.get_or_raise(task.id).to_dict()["depends_on"] == []


def test_lists_need_no_query_for_a_row(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        for number in (1, 2):
            plan.many(plan.feature(plan.epic(number)), 10)
        with statements(4):
            rows = [
                *plan.epics.list_all(),
                *plan.features.list_all(),
                *plan.tasks.list_all(),
                *plan.history.list_recent(),
            ]
            data = [row.to_dict() for row in rows]
        assert len(data) == 2 + 2 + 20 + 20
        with statements(0):
            assert rows[4].feature_key == "E01-F01"
            assert rows[0].progress_pct == 0.0


def test_what_was_written_needs_no_query_either(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        epic = plan.epic()
        feature = plan.feature(epic)
        tasks = plan.many(feature, 3)
        moved = plan.walk(tasks[0], "in_progress")
        with statements(0):
            dicts = [row.to_dict() for row in (epic, feature, moved, *tasks)]
        assert dicts[0]["progress_pct"] == 0.0
        assert dicts[1]["epic_key"] == dicts[2]["epic_key"] == dicts[3]["epic_key"] == "E04"


def test_a_lone_model_looks_its_parents_up(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        task = plan.walk(plan.task(plan.feature()), *COMPLETE)
        lone = Task.get_by_id(task.id)
        with statements(1):
            assert lone.to_dict() == task.to_dict()
        with statements(2):
            assert Feature.get_by_id(task.feature_id).epic_key == "E04"
        assert Epic.get(Epic.key == "E04").progress_pct == 100.0
        assert Task(feature=task.feature_id, key="T-E04-F01-009", title="x").epic_key == "E04"
        assert Epic(key="E08", title="x").progress_pct == 0.0
        assert Feature(key="E08-F01", title="x").epic_key is None


def test_a_computed_value_cannot_be_written(plan: Plan) -> None:
    feature = plan.feature()
    task = plan.task(feature)
    for write in (
        lambda: setattr(task, "epic_key", "E05"),
        lambda: setattr(plan.epics.list_all()[0], "progress_pct", 50.0),
        lambda: Task(feature_key="E04-F01"),
        lambda: plan.tasks.update(task.id, feature_key="E04-F02"),
        lambda: plan.epics.create(key="E05", title="x", progress_pct=50),
        lambda: plan.features.create(
            epic_id=feature.epic_id, key="E04-F02", title="x", progress_pct=1
        ),
        lambda: plan.features.update(feature.id, progress_pct=50.0),
        lambda: plan.features.bulk_update([{"id": feature.id, "progress_pct": 50.0}]),
        lambda: plan.features.upsert(
            epic_id=feature.epic_id, key="E04-F01", title="x", progress_pct=2
        ),
    ):
        with pytest.raises(ValidationError):
            write()
    assert plan.progress(feature) == 0.0


# -- the verbs ------------------------------------------------------------------------------------


def test_rows_are_found_by_number_and_by_key(plan: Plan) -> None:
    epic = plan.epic()
    feature = plan.feature(epic)
    task = plan.task(feature)
    for repository, row in (
        (plan.epics, epic),
        (plan.features, feature),
        (plan.tasks, task),
    ):
        assert repository.get_by_id(row.id) == repository.get_by_key(row.key) == row
        assert repository.get_by_id(999) is None
        for nothing in ("E99", "nonsense", "", "e04", f"{row.key}\n"):
            assert repository.get_by_key(nothing) is None
        with pytest.raises(ValidationError):
            repository.get_by_key(4)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="NUL"):
            repository.get_by_key("E\0")


def test_a_taken_key_is_refused_in_the_callers_words(plan: Plan) -> None:
    feature = plan.feature()
    plan.task(feature)
    with pytest.raises(IntegrityError, match="Epic key 'E04' is already taken") as caught:
        plan.epic(4)
    assert caught.value.constraint == "idx_planning_epics_key"
    with pytest.raises(IntegrityError, match="Feature key 'E04-F01' is already taken"):
        plan.feature(number=1)
    with pytest.raises(IntegrityError, match="Task key 'T-E04-F01-001' is already taken"):
        plan.task(feature)
    with pytest.raises(IntegrityError, match="is already taken"):
        plan.tasks.bulk_create([plan.row(feature, 2), plan.row(feature, 2)])
    assert (plan.tasks.count(), plan.history.count()) == (1, 1)


def test_a_missing_parent_is_refused_in_the_callers_words(plan: Plan) -> None:
    with pytest.raises(IntegrityError, match=r"epic_id 99 names an Epic that does not exist"):
        plan.features.create(epic_id=99, key="E04-F01", title="x")
    with pytest.raises(IntegrityError, match="feature_id 99 names a Feature that does not exist"):
        plan.tasks.create(feature_id=99, key="T-E04-F01-001", title="x")
    task = plan.task(plan.feature())
    with pytest.raises(IntegrityError, match="feature_id 99"):
        plan.tasks.update(task.id, feature_id=99)
    with pytest.raises(IntegrityError, match="feature_id 99"):
        plan.tasks.bulk_update([{"id": task.id, "feature_id": 99}])
    assert plan.tasks.get_or_raise(task.id).feature_id == task.feature_id


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("status", "done"),
        ("status", None),
        ("agent_type", "wizard"),
        ("priority", 0),
        ("priority", 11),
        ("priority", "5"),
        ("priority", True),
        ("priority", 2**31),
        ("title", None),
        ("title", "a\0b"),
        ("title", "\ud800"),
        ("description", 7),
        ("depends_on", "T-E04-F01-001"),
        ("depends_on", ["E04-F01"]),
        ("depends_on", ["T-E04-F01-001\n"]),
        ("depends_on", [1]),
        ("depends_on", {}),
        ("assigned_agent", "\0"),
        ("blocked_reason", "but it is not blocked"),
        ("started_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
        ("file_path", "../outside.md"),
        ("feature_id", "1"),
        ("titel", "a misspelt name"),
    ],
)
def test_a_wrong_value_is_refused_and_nothing_written(plan: Plan, field: str, value: Any) -> None:
    feature = plan.feature()
    task = plan.task(feature, 1, title="as it was")
    before = plan.tasks.get_or_raise(task.id).to_dict()
    if value is not None or field == "title":
        with pytest.raises(ValidationError) as caught:
            plan.tasks.create(**{**plan.row(feature, 2), field: value})
        assert caught.value.field == field
        with pytest.raises(ValidationError):
            plan.tasks.bulk_create([plan.row(feature, 2), {**plan.row(feature, 3), field: value}])
        with pytest.raises(ValidationError):
            plan.tasks.upsert(**{**plan.row(feature, 2), field: value})
    with pytest.raises(ValidationError) as caught:
        plan.tasks.update(task.id, **{field: value})
    assert caught.value.field == field
    with pytest.raises(ValidationError):
        plan.tasks.bulk_update([{"id": task.id, field: value}])
    assert plan.tasks.get_or_raise(task.id).to_dict() == before
    assert (plan.tasks.count(), plan.history.count()) == (1, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [("status", "todo"), ("priority", "urgent"), ("business_value", 1), ("key", "E004")],
)
def test_a_wrong_epic_is_refused(plan: Plan, field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        plan.epics.create(**{"key": "E04", "title": "x", field: value})
    assert caught.value.field == field
    assert plan.epics.count() == 0


def test_an_upsert_goes_by_the_key(plan: Plan) -> None:
    epic = plan.epics.upsert(key="E04", title="first", priority="high")
    again = plan.epics.upsert(key="E04", title="second")
    assert (again.id, again.title, again.priority) == (epic.id, "second", "high")
    assert again.created_at == epic.created_at
    feature = plan.features.upsert(epic_id=epic.id, key="E04-F01", title="first")
    assert plan.features.upsert(epic_id=epic.id, key="E04-F01", title="second").id == feature.id
    task = plan.tasks.upsert(**plan.row(feature, 1), priority=2)
    same = plan.tasks.upsert(feature_id=feature.id, key=task.key, title="second")
    assert (same.id, same.title, same.priority) == (task.id, "second", 2)
    assert same.to_dict()["epic_key"] == "E04"
    by_number = plan.tasks.upsert(id=task.id, feature_id=feature.id, key=task.key, title="third")
    assert (by_number.id, by_number.title) == (task.id, "third")
    assert plan.tasks.count() == plan.history.count() == 1


def test_an_upsert_by_number_keeps_keys_below_their_parents(plan: Plan) -> None:
    epic = plan.epic()
    plan.feature(epic)
    with pytest.raises(ValidationError, match="must begin with 'E05'"):
        plan.epics.upsert(id=epic.id, key="E05", title="x")
    assert plan.epics.get_by_key("E04")


def test_models_save_and_delete_as_their_repositories_do(plan: Plan) -> None:
    epic = Epic.create(key="E04", title="made by the model")
    feature = Feature(epic=epic, key="E04-F01", title="x")
    assert feature.save() == 1
    assert feature.id
    feature.title = "y"
    assert feature.save() == 1
    assert feature.save() == 0
    assert plan.features.get_or_raise(feature.id).title == "y"
    with pytest.raises(ValidationError, match="must begin with"):
        Feature(epic=epic, key="E05-F01", title="x").save()
    ghost = Feature(id=99, epic=epic, key="E04-F09", title="x")
    with pytest.raises(NotFound):
        ghost.save()
    feature.title, feature.description = "z", "unsaved"
    assert feature.save(only=[Feature.title]) == 1
    stored = plan.features.get_or_raise(feature.id)
    assert (stored.title, stored.description) == ("z", None)
    assert feature.description == "unsaved"
    assert feature.updated_at == stored.updated_at
    assert feature.save() == 1
    assert plan.features.get_or_raise(feature.id).description == "unsaved"
    partly = Task(feature=feature, key="T-E04-F01-001", title="x", priority=9)
    assert partly.save(only=["feature", "key", "title"]) == 1
    assert plan.tasks.get_or_raise(partly.id).priority == 5
    gone = plan.tasks.get_or_raise(partly.id)
    plan.tasks.delete(gone.id)
    gone.title = "too late"
    with pytest.raises(NotFound, match="does not exist"):
        gone.save()
    assert feature.delete_instance() == 1
    assert feature.delete_instance() == 0


def test_deleting_takes_all_that_hangs_on_a_row(plan: Plan) -> None:
    epic, other = plan.epic(1), plan.epic(2)
    for number in (1, 2):
        plan.many(plan.feature(epic, number), 3)
    kept = plan.task(plan.feature(other))
    assert plan.epics.delete(epic.id)
    assert not plan.epics.delete(epic.id)
    assert (plan.features.count(), plan.tasks.get_all()) == (1, [kept])
    assert plan.history.count() == 1
    assert plan.epics.bulk_delete([other.id, 77]) == 1
    assert plan.history.count() == 0


# -- lists ----------------------------------------------------------------------------------------


def test_lists_are_in_the_order_of_the_keys(plan: Plan) -> None:
    for number in (3, 1, 2):
        epic = plan.epic(number, status="active" if number == 1 else "draft")
        for part in (2, 1):
            plan.many(plan.feature(epic, part, status="archived" if part == 2 else "draft"), 2)
    assert keys(plan.epics.list_all()) == ["E01", "E02", "E03"]
    assert keys(plan.epics.list_all("draft")) == ["E02", "E03"]
    assert keys(plan.features.list_all())[:3] == ["E01-F01", "E01-F02", "E02-F01"]
    assert keys(plan.features.list_all(status="archived")) == ["E01-F02", "E02-F02", "E03-F02"]
    epic = plan.epics.list_all()[1]
    feature = plan.features.list_by_epic(epic.id)[1]
    for given in (epic.id, epic.key, epic):
        assert keys(plan.features.list_by_epic(given)) == ["E02-F01", "E02-F02"]
        assert keys(plan.features.list_by_epic(given, "archived")) == ["E02-F02"]
        assert len(plan.tasks.list_by_epic(given)) == 4
    for given in (feature.id, feature.key, feature):
        assert keys(plan.tasks.list_by_feature(given)) == ["T-E02-F02-001", "T-E02-F02-002"]
    assert len(plan.tasks.list_all()) == 12
    assert keys(plan.tasks.list_all()) == sorted(keys(plan.tasks.list_all()))
    assert plan.tasks.list_all("completed") == []
    assert plan.tasks.list_by_epic("E77") == plan.tasks.list_by_epic(77) == []
    assert plan.features.list_by_epic(77) == plan.tasks.list_by_feature("E01-F77") == []
    for wrong in (None, 1.5, True, b"E01"):
        with pytest.raises(ValidationError, match="neither a number nor a key of an epic"):
            plan.tasks.list_by_epic(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        plan.epics.list_all("todo")


def test_lists_have_limits(plan: Plan) -> None:
    feature = plan.feature()
    plan.many(feature, 5)
    for method in (
        plan.tasks.list_all,
        lambda **options: plan.tasks.list_by_feature(feature.id, **options),
        lambda **options: plan.tasks.list_by_epic("E04", **options),
        lambda **options: plan.tasks.filter_by_status("todo", **options),
        lambda **options: plan.tasks.filter_by_agent_type(None, **options),
        lambda **options: plan.tasks.filter_by_priority(1, 10, **options),
        plan.tasks.filter_combined,
        plan.history.list_recent,
    ):
        everything = method()
        assert len(everything) == 5
        assert method(limit=0) == []
        assert method(limit=1) == everything[:1]
        assert method(skip=3, limit=5) == everything[3:]
        for wrong in (-1, 1.5, "1"):
            with pytest.raises(ValidationError):
                method(limit=wrong)
    assert len(plan.features.list_all(limit=1)) == len(plan.epics.list_all(limit=1)) == 1
    assert len(plan.features.list_by_epic("E04", limit=1)) == 1


def test_pages_and_streams_bring_the_computed_values_along(plan: Plan) -> None:
    plan.many(plan.feature(), 5)
    page = plan.tasks.page(limit=3, order_by="-priority,key")
    assert [task.epic_key for task in page.items] == ["E04"] * 3
    assert len(plan.tasks.page(limit=3, after=page.next, order_by="-priority,key").items) == 2
    assert [task.to_dict()["feature_key"] for task in plan.tasks.iterate()] == ["E04-F01"] * 5
    assert [epic.progress_pct for epic in plan.epics.iterate()] == [0.0]


def several(plan: Plan) -> list[Task]:
    """Six tasks of two epics, made one minute apart."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    first, second = plan.feature(plan.epic(1)), plan.feature(plan.epic(2))
    given = [
        (first, 1, {"priority": 5, "agent_type": "backend"}),
        (first, 2, {"priority": 1, "agent_type": "backend"}),
        (first, 3, {"priority": 5, "agent_type": "frontend", "status": "in_progress"}),
        (second, 4, {"priority": 9}),
        (second, 5, {"priority": 1, "agent_type": "backend"}),
        (second, 6, {"priority": 3, "status": "blocked"}),
    ]
    return [
        plan.task(feature, number, created_at=start + timedelta(minutes=number), **fields)
        for feature, number, fields in given
    ]


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ({}, [5, 2, 6, 3, 1, 4]),
        ({"status": "todo"}, [5, 2, 1, 4]),
        ({"epic_key": "E01"}, [2, 3, 1]),
        ({"feature_key": "E02-F01"}, [5, 6, 4]),
        ({"agent_type": "backend"}, [5, 2, 1]),
        ({"min_priority": 2}, [6, 3, 1, 4]),
        ({"max_priority": 3}, [5, 2, 6]),
        ({"min_priority": 3, "max_priority": 5}, [6, 3, 1]),
        ({"min_priority": 5, "max_priority": 3}, []),
        ({"status": "todo", "epic_key": "E01", "agent_type": "backend"}, [2, 1]),
        ({"status": "todo", "epic_key": "E01", "feature_key": "E02-F01"}, []),
        ({"epic_key": "E1"}, []),
        (
            {
                "status": "todo",
                "epic_key": "E02",
                "feature_key": "E02-F01",
                "agent_type": "backend",
                "min_priority": 1,
                "max_priority": 1,
            },
            [5],
        ),
    ],
)
def test_filters_combine_best_first(
    plan: Plan, conditions: dict[str, Any], found: list[int]
) -> None:
    several(plan)
    assert numbers(plan.tasks.filter_combined(**conditions)) == found


def test_single_filters_are_best_first_too(plan: Plan) -> None:
    several(plan)
    assert numbers(plan.tasks.filter_by_status("todo")) == [5, 2, 1, 4]
    assert numbers(plan.tasks.filter_by_agent_type("backend")) == [5, 2, 1]
    assert numbers(plan.tasks.filter_by_agent_type(None)) == [6, 4]
    assert numbers(plan.tasks.filter_by_priority(1, 3)) == [5, 2, 6]
    assert numbers(plan.tasks.filter_by_priority(min=9)) == [4]
    assert numbers(plan.tasks.filter_by_priority(max=1)) == [5, 2]


def test_equals_are_newest_first_also_within_one_moment(plan: Plan) -> None:
    feature = plan.feature()
    now = datetime.now(UTC)
    plan.many(feature, 4, created_at=now)
    assert numbers(plan.tasks.filter_combined()) == [4, 3, 2, 1]


@pytest.mark.parametrize(
    ("conditions", "field"),
    [
        ({"status": "done"}, "status"),
        ({"agent_type": "wizard"}, "agent_type"),
        ({"min_priority": "1"}, "min_priority"),
        ({"max_priority": 1.5}, "max_priority"),
        ({"min_priority": 2**40}, "min_priority"),
        ({"epic_key": 1}, "key"),
        ({"feature_key": "\0"}, "key"),
    ],
)
def test_a_wrong_condition_is_refused(plan: Plan, conditions: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        plan.tasks.filter_combined(**conditions)
    assert caught.value.field == field


# -- what to do next ------------------------------------------------------------------------------


def test_the_next_task_is_the_best_todo(plan: Plan) -> None:
    assert plan.tasks.next_task() is None
    several(plan)
    assert numbers([plan.tasks.next_task()]) == [2]  # type: ignore[list-item]
    assert numbers([plan.tasks.next_task(epic_key="E02")]) == [5]  # type: ignore[list-item]
    assert plan.tasks.next_task(agent_type="testing") is None
    assert plan.tasks.next_task(agent_type="frontend") is None
    assert plan.tasks.next_task(epic_key="E99") is None
    assert plan.tasks.next_task("backend", "E01") == plan.tasks.get_by_key("T-E01-F01-002")
    with pytest.raises(ValidationError):
        plan.tasks.next_task(agent_type="wizard")


def test_a_task_waits_for_each_of_its_dependencies(plan: Plan) -> None:
    here, there = plan.feature(plan.epic(1)), plan.feature(plan.epic(2))
    needed = plan.task(here, 1, priority=9)
    far = plan.task(there, 2, priority=9)
    waiting = plan.task(here, 3, priority=1, depends_on=[needed.key, far.key])
    assert plan.tasks.next_task() == needed
    plan.walk(needed, *COMPLETE)
    assert plan.tasks.next_task() == far
    assert plan.tasks.next_task(epic_key="E01") is None
    plan.walk(far, "in_progress", "ready_for_review")
    assert plan.tasks.next_task() is None
    plan.walk(far, "completed")
    assert plan.tasks.next_task() == waiting
    plan.walk(far, "in_progress")
    assert plan.tasks.next_task() is None


def test_a_task_waits_for_what_does_not_exist_yet(plan: Plan) -> None:
    feature = plan.feature()
    waiting = plan.task(feature, 1, depends_on=["T-E04-F01-002"])
    assert plan.tasks.next_task() is None
    made = plan.task(feature, 2, status="completed")
    assert plan.tasks.next_task() == waiting
    plan.tasks.delete(made.id)
    assert plan.tasks.next_task() is None


def test_an_archived_dependency_is_not_completed(plan: Plan) -> None:
    feature = plan.feature()
    needed = plan.walk(plan.task(feature, 1), *COMPLETE)
    waiting = plan.task(feature, 2, depends_on=[needed.key])
    assert plan.tasks.next_task() == waiting
    plan.walk(needed, "archived")
    assert plan.tasks.next_task() is None


def test_a_circle_of_dependencies_ends(plan: Plan) -> None:
    feature = plan.feature()
    plan.task(feature, 1, depends_on=["T-E04-F01-002"])
    plan.task(feature, 2, depends_on=["T-E04-F01-001"])
    plan.task(feature, 3, depends_on=["T-E04-F01-003"])
    assert plan.tasks.next_task() is None


def test_strange_dependencies_from_outside_are_open(plan: Plan) -> None:
    feature = plan.feature()
    plan.many(feature, 3)
    for number, text in enumerate(("[1]", "[null]", '[["T-E04-F01-001"]]'), 1):
        plan.session.execute(
            f"UPDATE planning_tasks SET depends_on = '{text}' WHERE key = 'T-E04-F01-00{number}'"
        )
    assert plan.tasks.next_task() is None


# -- history --------------------------------------------------------------------------------------


def test_history_is_listed_by_task_and_by_time(plan: Plan) -> None:
    feature = plan.feature()
    first, second = plan.many(feature, 2)
    plan.walk(first, "in_progress")
    plan.walk(second, "in_progress", "blocked")
    for given in (first.id, first.key, first):
        assert [step.new_status for step in plan.history.list_by_task(given)] == [
            "todo",
            "in_progress",
        ]
    assert plan.history.list_by_task(99) == plan.history.list_by_task("T-E99-F99-999") == []
    recent = plan.history.list_recent()
    assert [(step.task_key[-1], step.new_status) for step in recent[:3]] == [
        ("2", "blocked"),
        ("2", "in_progress"),
        ("1", "in_progress"),
    ]
    plan.many(plan.feature(number=2), 60)
    assert len(plan.history.list_recent()) == 50
    assert len(plan.history.list_recent(limit=None)) == 65


def test_history_can_be_written_by_hand(plan: Plan) -> None:
    task = plan.task(plan.feature())
    step = plan.history.create(task_id=task.id, new_status="archived", notes="from elsewhere")
    assert step.to_dict()["task_key"] == task.key
    with pytest.raises(IntegrityError, match="task_id 99"):
        plan.history.create(task_id=99, new_status="todo")
    with pytest.raises(ValidationError):
        plan.history.create(task_id=task.id, new_status="done")


# -- files ----------------------------------------------------------------------------------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with a folder, beside a file that is none of its own."""
    root = tmp_path / "project"
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "a.md").touch()
    (tmp_path / "outside.md").touch()
    (tmp_path / "project-two").mkdir()
    (root / "out").symlink_to(tmp_path)
    (root / "in").symlink_to(root / "docs")
    (root / "loop").symlink_to(root / "loop")
    return root


INSIDE = ["docs/a.md", "docs/new/b.md", "in/a.md", "docs/../docs/a.md", "out/project/docs/a.md"]
OUTSIDE = [
    "../outside.md",
    "docs/../../outside.md",
    "out/outside.md",
    "/etc/passwd",
    "../project-two/a.md",
    "loop/a.md",
    ".",
    "",
    "docs/..",
    "a" * 5000,
]


def test_a_file_must_lie_inside_the_project(plan: Plan, root: Path) -> None:
    feature = plan.feature()
    tasks = TaskRepository(plan.session, project_root=root)
    task = tasks.create(**plan.row(feature, 1), file_path=str(root / "docs" / "a.md"))
    for path in INSIDE:
        changed = tasks.update(task.id, file_path=path)
        assert changed is not None
        assert changed.file_path == path
    for path in (*OUTSIDE, str(root), str(root.parent / "outside.md")):
        with pytest.raises(ValidationError, match="does not lie inside the project root") as caught:
            tasks.update(task.id, file_path=path)
        assert caught.value.field == "file_path"
        for write in (
            lambda path=path: tasks.create(**plan.row(feature, 2), file_path=path),
            lambda path=path: tasks.bulk_create([plan.row(feature, 2, file_path=path)]),
            lambda path=path: tasks.upsert(**plan.row(feature, 1), file_path=path),
            lambda path=path: tasks.bulk_update([{"id": task.id, "file_path": path}]),
        ):
            with pytest.raises(ValidationError, match="does not lie inside"):
                write()
    assert plan.tasks.count() == 1
    assert plan.tasks.get_or_raise(task.id).file_path == INSIDE[-1]
    assert tasks.update(task.id, file_path=None).file_path is None  # type: ignore[union-attr]


def test_without_a_root_only_what_climbs_out_is_refused(plan: Plan) -> None:
    task = plan.task(plan.feature())
    for path in ("docs/a.md", "docs/../a.md", "/srv/project/a.md"):
        assert plan.tasks.update(task.id, file_path=path)
    for path in ("../a.md", "docs/../../a.md", "", ".", "docs/.."):
        with pytest.raises(ValidationError, match="inside the project"):
            plan.tasks.update(task.id, file_path=path)


def test_a_root_must_be_a_folder(plan: Plan, root: Path) -> None:
    feature = plan.feature()
    for wrong in (root / "nowhere", root / "docs" / "a.md"):
        tasks = TaskRepository(plan.session, project_root=wrong)
        with pytest.raises(ValidationError, match="is not a folder"):
            tasks.create(**plan.row(feature, 1), file_path="a.md")


# -- how many queries -----------------------------------------------------------------------------


def test_each_read_is_one_query(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        task = plan.many(plan.feature(), 5)[0]
        epic_id, feature_id = plan.epics.list_all()[0].id, task.feature_id
        for read in (
            lambda: plan.epics.get_by_id(epic_id),
            lambda: plan.epics.get_by_key("E04"),
            lambda: plan.epics.list_all("draft"),
            lambda: plan.epics.calculate_progress(epic_id),
            lambda: plan.features.get_by_id(feature_id),
            lambda: plan.features.get_by_key("E04-F01"),
            lambda: plan.features.list_all("draft"),
            lambda: plan.features.list_by_epic(epic_id),
            lambda: plan.features.list_by_epic("E04"),
            lambda: plan.features.calculate_progress(feature_id),
            lambda: plan.tasks.get_by_id(task.id),
            lambda: plan.tasks.get_by_key(task.key),
            lambda: plan.tasks.list_all(),
            lambda: plan.tasks.list_by_epic("E04"),
            lambda: plan.tasks.list_by_feature(feature_id),
            lambda: plan.tasks.filter_by_status("todo"),
            lambda: plan.tasks.filter_by_agent_type("api"),
            lambda: plan.tasks.filter_by_priority(1, 9),
            lambda: plan.tasks.filter_combined("todo", "E04", "E04-F01", "api", 1, 9),
            lambda: plan.tasks.next_task("api", "E04"),
            lambda: plan.tasks.page(limit=2),
            lambda: plan.tasks.get_all(limit=2),
            lambda: plan.tasks.filter({"status": "todo"}),
            lambda: (
                list(plan.tasks.iterate({"status": "todo"}))
                if database.dialect == "sqlite"
                else plan.epics.count()
            ),
            lambda: plan.features.filter({"status": "draft"}),
            lambda: plan.epics.filter({"priority__gte": "medium"}),
            lambda: plan.tasks.count({"status": "todo"}),
            lambda: plan.tasks.exists(task.id),
            lambda: plan.history.list_by_task(task.id),
            lambda: plan.history.list_recent(),
        ):
            with statements(1):
                read()


def test_writes_of_epics_and_features_need_few_statements(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        with statements(1):
            epic = plan.epic(1)
        with statements(1):
            plan.epics.bulk_create({"key": f"E{n}", "title": "x"} for n in range(20, 60))
        with statements(1):
            plan.epics.update(epic.id, status="active")
        with statements(2):
            plan.epics.update(epic.id, key="E02")
        with statements(1):
            plan.epics.upsert(key="E02", title="y")
        with statements(2):
            plan.epics.bulk_update([{"id": epic.id, "title": "z"}])
        with statements(2):
            feature = plan.features.create(epic_id=epic.id, key="E02-F01", title="x")
        with statements(2):
            plan.features.upsert(epic_id=epic.id, key="E02-F01", title="y")
        with statements(1):
            plan.features.update(feature.id, title="z")
        with statements(3):
            plan.features.update(feature.id, key="E02-F02")
        with statements(4):
            plan.features.bulk_update([{"id": feature.id, "key": "E02-F03"}])
        with statements(3):
            plan.features.bulk_delete([feature.id])
        with statements(3):
            plan.epics.bulk_delete([epic.id])


# -- how queries are answered ---------------------------------------------------------------------


def plan_of(database: Database, read: Callable[[], Any]) -> str:
    """How the database goes about a query, where it has no choice but an index."""
    sent: list[Any] = []
    database.query_hooks.append(sent.append)
    read()
    database.query_hooks.clear()
    (event,) = sent
    statement = event.sql.rpartition("; ")[2]  # a savepoint stands before it
    word = "EXPLAIN QUERY PLAN" if database.dialect == "sqlite" else "EXPLAIN"
    execute = database.execute_sql
    if database.dialect == "postgresql":
        execute("SET LOCAL enable_seqscan = off")
    return "\n".join(
        str(row[-1]) for row in execute(f"{word} {statement}", event.params).fetchall()
    )


def test_every_filter_uses_an_index(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        task = plan.many(plan.feature(), 5)[0]
        for read, index in (
            (lambda: plan.tasks.get_by_key(task.key), "planning_tasks_key"),
            (lambda: plan.features.get_by_key("E04-F01"), "planning_features_key"),
            (lambda: plan.epics.get_by_key("E04"), "planning_epics_key"),
            (lambda: plan.tasks.list_by_feature(task.feature_id), "planning_tasks_feature_id"),
            (lambda: plan.tasks.list_by_epic("E04"), "planning_tasks_feature_id"),
            (lambda: plan.features.list_by_epic("E04"), "planning_features_epic_id"),
            (lambda: plan.tasks.filter_by_status("todo"), "planning_tasks_status"),
            (lambda: plan.tasks.filter_by_agent_type("api"), "planning_tasks_agent_type"),
            (lambda: plan.tasks.filter_combined("todo", min_priority=3), "_status_priority"),
            (lambda: plan.tasks.filter_combined("todo", "E04"), "planning_tasks_feature_id"),
            (lambda: plan.tasks.next_task(), "planning_tasks_status"),
            (lambda: plan.tasks.next_task("api", "E04"), "planning_tasks_feature_id"),
            (lambda: plan.epics.calculate_progress(1), "planning_tasks_feature_id"),
            (lambda: plan.features.calculate_progress(1), "planning_tasks_feature_id"),
            (lambda: plan.history.list_by_task(task.id), "task_history_task_id"),
            (lambda: plan.history.list_recent(), "task_history_timestamp"),
        ):
            text = plan_of(database, read)
            # Which of several PostgreSQL takes, its statistics say.
            assert (index if database.dialect == "sqlite" else "idx_planning") in text, text
            assert "Seq Scan" not in text, text
            assert "SCAN t1" not in text.replace("SCAN t1 USING INDEX", ""), text
