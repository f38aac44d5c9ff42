"""Every way of changing a task: what follows from a status follows, or nothing happens."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import (
    DatabaseError,
    IntegrityError,
    InvalidTransition,
    NotFound,
    ValidationError,
    create_database,
    run_in_transaction,
)
from hopper_data.database import Database
from hopper_data.planning import (
    TASK_TRANSITIONS,
    TRANSITION_NAMES,
    Task,
    TaskStatus,
)
from hopper_data.planning.repositories import tasks as tasks_module
from hopper_data.session import open_session
from tests.planning_data import COMPLETE, Plan, plan, recount, statements

__all__ = ["plan"]

NAMES = {
    "todo": {"in_progress": "start", "blocked": "block"},
    "in_progress": {"ready_for_review": "submit", "blocked": "block"},
    "ready_for_review": {"completed": "approve", "in_progress": "reopen"},
    "blocked": {"todo": "unblock", "in_progress": "unblock"},
    "completed": {"in_progress": "reopen", "archived": "archive"},
    "archived": {},
}
Update = Callable[[Plan, Task, str], Any]


def by_save(plan: Plan, task: Task, status: str) -> Any:
    model = Task.get_by_id(task.id)
    model.status = TaskStatus(status)
    return model.save()


WAYS: dict[str, Update] = {
    "update_status": lambda plan, task, status: plan.tasks.update_status(task.id, status),
    "update": lambda plan, task, status: plan.tasks.update(task.id, status=status),
    "bulk_update": lambda plan, task, status: plan.tasks.bulk_update(
        [{"id": task.id, "status": status}]
    ),
    "upsert": lambda plan, task, status: plan.tasks.upsert(
        feature_id=task.feature_id, key=task.key, title=task.title, status=status
    ),
    "save": by_save,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Update:
    """One of the ways of giving a task another status."""
    return WAYS[request.param]


def snapshot(plan: Plan) -> list[Any]:
    tables = (
        "planning_epics",
        "planning_features",
        "planning_tasks",
        "planning_task_history",
    )
    return [plan.session.execute(f"SELECT * FROM {table} ORDER BY id") for table in tables]


# -- transitions ----------------------------------------------------------------------------------


def test_the_transitions_are_those_of_the_table() -> None:
    found: dict[str, dict[str, str]] = {status: {} for status in TaskStatus}
    for (old, new), name in TRANSITION_NAMES.items():
        found[old][new] = name
    assert found == NAMES
    assert {old: list(new) for old, new in TASK_TRANSITIONS.items()} == {
        old: list(new) for old, new in NAMES.items()
    }


def test_whatever_else_is_an_invalid_transition(plan: Plan, way: Update) -> None:
    feature = plan.feature()
    for number, old in enumerate(TaskStatus, 1):
        task = plan.task(feature, number, status=old)
        before = snapshot(plan)
        for new in TaskStatus:
            if new == old or new in NAMES[old]:
                continue
            with pytest.raises(InvalidTransition) as caught:
                way(plan, task, new)
            assert (caught.value.old, caught.value.new) == (old, new)
            assert isinstance(caught.value, ValidationError)
            assert snapshot(plan) == before


def test_the_same_status_is_no_step(plan: Plan) -> None:
    task = plan.task(plan.feature())
    with pytest.raises(InvalidTransition, match="from 'todo' to 'todo'"):
        plan.tasks.update_status(task.id, "todo")
    for name in ("update", "bulk_update", "upsert", "save"):
        WAYS[name](plan, task, "todo")
    assert plan.statuses(task) == ["todo"]
    assert plan.tasks.get_or_raise(task.id).status == "todo"


def test_every_way_walks_the_whole_path(plan: Plan, way: Update) -> None:
    feature = plan.feature()
    task, other = plan.many(feature, 2)
    path = ["in_progress", "blocked", "todo", "blocked", "in_progress", "ready_for_review"]
    path += ["in_progress", "ready_for_review", "completed", "in_progress", "ready_for_review"]
    path += ["completed", "archived"]
    for status in path:
        way(plan, task, status)
        stored = plan.tasks.get_or_raise(task.id)
        assert stored.status == status
        assert plan.progress(feature) == (50.0 if status == "completed" else 0.0)
        assert plan.history.list_by_task(task.id)[-1].timestamp == stored.updated_at
        recount(plan.session)
    assert plan.statuses(task) == ["todo", *path]
    assert plan.statuses(other) == ["todo"]


def test_update_status_says_who_and_why(plan: Plan) -> None:
    task = plan.task(plan.feature())
    moved = plan.tasks.update_status(task.id, TaskStatus.IN_PROGRESS, agent="ada", notes="begun")
    assert moved is not None
    assert moved.status == "in_progress"
    assert moved == plan.tasks.get_or_raise(task.id)
    assert moved.to_dict() == plan.tasks.get_or_raise(task.id).to_dict()
    step = plan.history.list_by_task(task.id)[-1]
    assert (step.old_status, step.new_status) == ("todo", "in_progress")
    assert (step.agent, step.notes, step.timestamp) == ("ada", "begun", moved.updated_at)
    assert plan.tasks.update_status(999, "todo") is None


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"new_status": "done"}, "status"),
        ({"new_status": None}, "status"),
        ({"new_status": "in_progress", "agent": 7}, "agent"),
        ({"new_status": "in_progress", "agent": "\0"}, "agent"),
        ({"new_status": "in_progress", "notes": "\ud800"}, "notes"),
        ({"new_status": "in_progress", "task_id": "1"}, "id"),
        ({"new_status": "in_progress", "task_id": None}, "id"),
    ],
)
def test_update_status_refuses_what_is_wrong(
    plan: Plan, arguments: dict[str, Any], field: str
) -> None:
    task = plan.task(plan.feature())
    before = snapshot(plan)
    with pytest.raises(ValidationError) as caught:
        plan.tasks.update_status(**{"task_id": task.id, **arguments})
    assert caught.value.field == field
    assert snapshot(plan) == before


# -- time stamps and reasons ----------------------------------------------------------------------


def test_stamps_tell_the_first_start_and_the_last_of_the_others(plan: Plan) -> None:
    task = plan.task(plan.feature())
    assert (task.started_at, task.completed_at, task.blocked_at) == (None, None, None)
    blocked = plan.walk(task, "blocked")
    assert (blocked.started_at, blocked.blocked_at) == (None, blocked.updated_at)
    started = plan.walk(task, "in_progress")
    assert started.started_at == started.updated_at
    assert started.blocked_at == blocked.blocked_at
    done = plan.walk(task, "ready_for_review", "completed")
    assert done.completed_at == done.updated_at
    again = plan.walk(task, "in_progress", "blocked", "in_progress", *COMPLETE[1:], "archived")
    assert again.started_at == started.started_at
    assert again.blocked_at is not None
    assert blocked.blocked_at is not None
    assert again.blocked_at > blocked.blocked_at
    assert again.completed_at is not None
    assert done.completed_at is not None
    assert done.completed_at < again.completed_at < again.updated_at


def test_no_stamp_is_cleared(plan: Plan) -> None:
    task = plan.walk(plan.task(plan.feature()), "blocked", *COMPLETE)
    for stamp in ("started_at", "completed_at", "blocked_at"):
        with pytest.raises(ValidationError, match="never cleared") as caught:
            plan.tasks.update(task.id, **{stamp: None})
        assert caught.value.field == stamp
        with pytest.raises(ValidationError, match="never cleared"):
            plan.tasks.bulk_update([{"id": task.id, stamp: None}])
    then = datetime(2026, 1, 1, tzinfo=UTC)
    assert plan.tasks.update(task.id, started_at=then).started_at == then  # type: ignore[union-attr]
    assert plan.tasks.update(plan.task(plan.feature(number=2)).id, started_at=None)


def test_the_reason_is_there_while_blocked(plan: Plan) -> None:
    task = plan.task(plan.feature())
    for status in ("todo", "in_progress"):
        moved = plan.tasks.update_status(task.id, "blocked", notes="no key")
        assert moved is not None
        assert moved.blocked_reason == "no key"
        moved = plan.tasks.update_status(task.id, status, notes="a key was found")
        assert moved is not None
        assert moved.blocked_reason is None
    assert plan.walk(task, "blocked").blocked_reason is None
    notes = [step.notes for step in plan.history.list_by_task(task.id)]
    assert notes == [None, "no key", "a key was found", "no key", "a key was found", None]


def test_update_takes_the_reason_by_its_name(plan: Plan) -> None:
    feature = plan.feature()
    one, two, three = plan.many(feature, 3)
    blocked = plan.tasks.update(one.id, status="blocked", blocked_reason="no key")
    assert blocked is not None
    assert blocked.blocked_reason == "no key"
    assert plan.history.list_by_task(one.id)[-1].notes == "no key"
    renamed = plan.tasks.update(one.id, blocked_reason="still no key")
    assert renamed is not None
    assert renamed.blocked_reason == "still no key"
    plan.tasks.bulk_update(
        [
            {"id": two.id, "status": "blocked", "blocked_reason": "no door"},
            {"id": three.id, "status": "in_progress"},
            {"id": one.id, "status": "todo"},
        ]
    )
    found = [task.blocked_reason for task in plan.tasks.list_all()]
    assert found == [None, "no door", None]
    with pytest.raises(ValidationError, match="blocked_reason can be given only"):
        plan.tasks.update(two.id, status="todo", blocked_reason="contradiction")
    with pytest.raises(ValidationError, match="blocked_reason can be given only"):
        plan.tasks.bulk_update([{"id": three.id, "blocked_reason": "not blocked"}])
    assert plan.statuses(one) == ["todo", "blocked", "todo"]
    recount(plan.session)


def test_the_history_goes_forward_though_the_clock_goes_back(plan: Plan) -> None:
    task = plan.task(plan.feature())
    ahead = datetime.now(UTC) + timedelta(hours=1)
    plan.tasks.update(task.id, updated_at=ahead)
    moved = plan.walk(task, "in_progress", "ready_for_review")
    assert moved.updated_at == ahead + timedelta(microseconds=2)
    assert plan.statuses(task) == ["todo", "in_progress", "ready_for_review"]


def test_a_time_that_is_given_never_sets_a_row_back(plan: Plan) -> None:
    task = plan.task(plan.feature())
    feature = plan.features.get_or_raise(task.feature_id)
    past = datetime.now(UTC) - timedelta(days=1)
    writes: list[tuple[Any, Any, Callable[[], object]]] = [
        (plan.tasks, task, lambda: plan.tasks.update(task.id, updated_at=past)),
        (plan.tasks, task, lambda: plan.tasks.update(task.id, updated_at=past, status="blocked")),
        (
            plan.tasks,
            task,
            lambda: plan.tasks.bulk_update([{"id": task.id, "updated_at": past, "status": "todo"}]),
        ),
        (
            plan.tasks,
            task,
            lambda: plan.tasks.upsert(**plan.row(feature, 1), updated_at=past),
        ),
        (plan.features, feature, lambda: plan.features.update(feature.id, updated_at=past)),
        (
            plan.epics,
            plan.epics.get_or_raise(feature.epic_id),
            lambda: plan.epics.upsert(key="E04", title="x", updated_at=past),
        ),
    ]
    for rows, row, write in writes:
        before = rows.get_or_raise(row.id).updated_at
        write()
        assert rows.get_or_raise(row.id).updated_at > before


# -- creating -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", list(TaskStatus))
def test_a_new_task_has_its_first_step_and_its_stamp(plan: Plan, status: str) -> None:
    feature = plan.feature()
    for number, make in enumerate(
        (
            plan.tasks.create,
            lambda **fields: plan.tasks.bulk_create([fields])[0],
            plan.tasks.upsert,
            lambda **fields: Task.create(**fields),
        ),
        1,
    ):
        task = make(**plan.row(feature, number, status=status))
        stored = plan.tasks.get_or_raise(task.id)
        assert stored.to_dict() == task.to_dict()
        assert plan.statuses(task) == [status]
        (step,) = plan.history.list_by_task(task.id)
        assert step.timestamp == stored.updated_at
        stamps = {
            "in_progress": stored.started_at,
            "completed": stored.completed_at,
            "blocked": stored.blocked_at,
        }
        for name, stamp in stamps.items():
            assert stamp == (stored.updated_at if name == status else None)
        recount(plan.session)


def test_a_new_task_may_tell_of_its_past(plan: Plan) -> None:
    then = datetime(2025, 12, 14, tzinfo=UTC)
    task = plan.task(
        plan.feature(), status="completed", created_at=then, started_at=then, completed_at=then
    )
    assert (task.created_at, task.started_at, task.completed_at) == (then, then, then)
    assert task.updated_at > then
    blocked = plan.task(plan.feature(number=2), status="blocked", blocked_reason="no key")
    assert blocked.blocked_reason == "no key"
    assert plan.history.list_by_task(blocked.id)[0].notes == "no key"
    with pytest.raises(ValidationError, match="blocked_reason"):
        plan.task(plan.feature(number=3), blocked_reason="no key")


# -- all or nothing -------------------------------------------------------------------------------


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> Iterator[None]:
    """The last step of a change fails."""

    def fail(*args: Any, **kwargs: Any) -> None:
        raise DatabaseError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        yield


@pytest.mark.parametrize("part", ["recompute", "insert_rows"])
def test_if_a_part_fails_nothing_happened(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    feature = plan.feature()
    task, other = plan.many(feature, 2)
    plan.walk(task, "in_progress", "ready_for_review")
    before = snapshot(plan)
    module = tasks_module.progress if part == "recompute" else tasks_module.rowsets
    writes: list[Callable[[], Any]] = [
        lambda: plan.tasks.update_status(task.id, "completed"),
        lambda: plan.tasks.update(task.id, status="completed"),
        lambda: plan.tasks.bulk_update([{"id": task.id, "status": "completed"}]),
        lambda: by_save(plan, task, "completed"),
        lambda: plan.task(feature, 3, status="completed"),
        lambda: plan.tasks.bulk_create([plan.row(feature, 3, status="completed")]),
        lambda: plan.tasks.upsert(**plan.row(feature, 3, status="completed")),
    ]
    if part == "recompute":
        writes += [
            lambda: plan.tasks.delete(task.id),
            lambda: plan.tasks.bulk_delete([task.id, other.id]),
            lambda: Task.get_by_id(task.id).delete_instance(),
        ]
    for write in writes:
        with (
            failing(monkeypatch, module, part),
            pytest.raises(DatabaseError, match="the power is gone"),
        ):
            write()
        assert snapshot(plan) == before
    assert plan.walk(task, "completed").status == "completed"
    recount(plan.session)


def test_a_bulk_update_is_all_or_nothing(plan: Plan) -> None:
    feature = plan.feature()
    tasks = plan.many(feature, 5)
    before = snapshot(plan)
    for last in ({"status": "completed"}, {"priority": 11}, {"key": "T-E04-F01-001"}):
        with pytest.raises((ValidationError, IntegrityError)):
            plan.tasks.bulk_update(
                [
                    *({"id": task.id, "status": "in_progress"} for task in tasks[:4]),
                    {"id": tasks[4].id, **last},
                ]
            )
        assert snapshot(plan) == before


def test_a_session_that_fails_takes_everything_back(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        task = plan.task(plan.feature())
    with pytest.raises(RuntimeError), open_session(database) as session:
        Plan(session).walk(task, *COMPLETE)
        raise RuntimeError
    with open_session(database) as session:
        plan = Plan(session)
        assert plan.statuses(task) == ["todo"]
        assert plan.tasks.get_or_raise(task.id).started_at is None
        assert plan.progress(plan.features.list_all()[0]) == 0.0


# -- progress -------------------------------------------------------------------------------------


def test_progress_leaves_archived_tasks_out(plan: Plan) -> None:
    feature = plan.feature()
    assert plan.features.calculate_progress(feature.id) == plan.progress(feature) == 0.0
    tasks = plan.many(feature, 3)
    assert plan.progress(feature) == 0.0
    plan.walk(tasks[0], *COMPLETE)
    assert plan.progress(feature) == 1 / 3 * 100
    plan.walk(tasks[1], *COMPLETE)
    assert plan.progress(feature) == 2 / 3 * 100
    plan.walk(tasks[1], "archived")
    assert plan.progress(feature) == 50.0
    plan.tasks.delete(tasks[2].id)
    assert plan.progress(feature) == 100.0
    plan.walk(tasks[0], "archived")
    assert plan.features.calculate_progress(feature.id) == plan.progress(feature) == 0.0


def test_an_epics_progress_weighs_features_by_their_tasks(plan: Plan) -> None:
    epic = plan.epic()
    assert plan.epics.calculate_progress(epic.id) == 0.0
    plan.feature(epic, 9)
    small, large = plan.feature(epic, 1), plan.feature(epic, 2)
    plan.task(small, status="completed")
    plan.many(large, 9)
    plan.task(large, 10, status="archived")
    assert plan.progress(small) == 100.0
    assert plan.epics.calculate_progress(epic.id) == 10.0
    assert plan.epics.get_or_raise(epic.id).progress_pct == 10.0
    assert plan.epics.list_all()[0].to_dict()["progress_pct"] == 10.0
    rows = plan.features.list_all()
    sizes = {"E04-F09": 0, "E04-F01": 1, "E04-F02": 9}
    weighted = sum(row.progress_pct * sizes[row.key] for row in rows) / sum(sizes.values())
    assert plan.epics.calculate_progress(epic.id) == pytest.approx(weighted)


def test_progress_of_nothing_is_not_found(plan: Plan) -> None:
    for read in (
        plan.epics.calculate_progress,
        plan.features.calculate_progress,
        plan.features.update_progress,
    ):
        with pytest.raises(NotFound, match="99 does not exist"):
            read(99)
        with pytest.raises(ValidationError):
            read("E04")  # type: ignore[arg-type]


def test_update_progress_mends_what_came_from_outside(plan: Plan) -> None:
    feature = plan.feature()
    plan.many(feature, 4)
    plan.session.execute("UPDATE planning_tasks SET status = 'completed' WHERE id % 4 = 0")
    assert plan.progress(feature) == 0.0
    assert plan.features.calculate_progress(feature.id) == 25.0
    assert plan.features.update_progress(feature.id) == 25.0
    assert plan.progress(feature) == 25.0


def test_a_feature_is_written_only_when_its_progress_changes(plan: Plan) -> None:
    feature = plan.feature()
    task = plan.task(feature)
    plan.walk(task, "in_progress", "ready_for_review")
    assert plan.features.get_or_raise(feature.id).updated_at == feature.updated_at
    plan.walk(task, "completed")
    assert plan.features.get_or_raise(feature.id).updated_at > feature.updated_at


def test_a_task_that_moves_changes_the_progress_of_both(plan: Plan) -> None:
    here, there = plan.feature(number=1), plan.feature(number=2)
    done, _ = plan.task(here, 1, status="completed"), plan.task(here, 2)
    plan.task(there, 1)
    moved = plan.tasks.update(done.id, feature_id=there.id, key="T-E04-F02-002")
    assert moved is not None
    assert moved.to_dict()["feature_key"] == "E04-F02"
    assert (plan.progress(here), plan.progress(there)) == (0.0, 50.0)
    assert plan.statuses(done) == ["completed"]
    plan.tasks.bulk_update(
        [{"id": done.id, "feature_id": here.id, "key": "T-E04-F01-001", "status": "archived"}]
    )
    assert (plan.progress(here), plan.progress(there)) == (0.0, 0.0)
    model = Task.get_by_id(done.id)
    model.feature = there
    model.key = "T-E04-F02-007"
    model.save()
    assert model.to_dict()["feature_key"] == "E04-F02"
    recount(plan.session)


def test_bulk_calls_keep_everything_right(plan: Plan) -> None:
    first, second = plan.feature(plan.epic(1)), plan.feature(plan.epic(2))
    rows = [plan.row(feature, number) for feature in (first, second) for number in range(1, 11)]
    given = [dict(row) for row in rows]
    tasks = plan.tasks.bulk_create(rows)
    assert rows == given
    recount(plan.session)
    changed = plan.tasks.bulk_update(
        [
            *({"id": task.id, "status": "in_progress"} for task in tasks[:12]),
            {"id": tasks[12].id, "status": "blocked", "blocked_reason": "no key"},
            {"id": tasks[13].id, "title": "renamed"},
            {"id": 999, "status": "completed"},
        ]
    )
    assert changed == 14
    recount(plan.session)
    plan.tasks.bulk_update([{"id": task.id, "status": "ready_for_review"} for task in tasks[:12]])
    plan.tasks.bulk_update([{"id": task.id, "status": "completed"} for task in tasks[:12]])
    assert (plan.progress(first), plan.progress(second)) == (100.0, 20.0)
    found = {task.id: task for task in plan.tasks.list_all()}
    for task in tasks[:12]:
        stored = found[task.id]
        assert stored.completed_at == stored.updated_at
        assert stored.started_at is not None
        assert plan.statuses(task) == ["todo", *COMPLETE]
    assert found[tasks[13].id].title == "renamed"
    assert found[tasks[13].id].updated_at > tasks[13].updated_at
    assert found[tasks[14].id].updated_at == tasks[14].updated_at
    recount(plan.session)
    assert plan.tasks.bulk_delete([tasks[10].id, tasks[12].id, 999]) == 2
    assert plan.progress(second) == 12.5
    recount(plan.session)
    assert plan.tasks.bulk_create([]) == []
    assert plan.tasks.bulk_update([]) == plan.tasks.bulk_delete([]) == 0


# -- how many statements --------------------------------------------------------------------------


def test_writes_need_few_statements_however_many_tasks(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        epic = plan.epic(1)
        features = [plan.feature(epic, number) for number in (1, 2, 3)]
        for count in (1, 60):
            offset = 100 * count % 900
            rows = [
                plan.row(features[number % 3], offset + number, priority=number % 9 + 1)
                for number in range(count)
            ]
            with statements(4):
                tasks = plan.tasks.bulk_create(rows)
            steps = [{"id": task.id, "status": "in_progress"} for task in tasks]
            steps[0]["assigned_agent"] = "ada"
            steps[-1] |= {"status": "blocked", "blocked_reason": "no key"}
            with statements(5):
                plan.tasks.bulk_update(steps)
            with statements(2):
                plan.tasks.bulk_update([{"id": task.id, "title": "x"} for task in tasks])
            with statements(3 + (count > 1)):
                plan.tasks.bulk_delete([task.id for task in tasks])
        with statements(4):
            task = plan.task(features[0], 1)
        with statements(5):
            plan.tasks.update_status(task.id, "in_progress")
        with statements(5):
            plan.tasks.update(task.id, status="ready_for_review")
        with statements(1):
            plan.tasks.update(task.id, title="y")
        with statements(3):
            plan.tasks.update(task.id, started_at=datetime.now(UTC))
        with statements(7):
            plan.tasks.upsert(**plan.row(features[0], 1, status="completed"))
        with statements(6):
            plan.tasks.upsert(**plan.row(features[0], 2))
        with statements(3):
            plan.tasks.delete(task.id)
        with statements(3):
            plan.features.update_progress(features[0].id)
        with statements(3):
            plan.features.delete(features[0].id)
        with statements(3):
            plan.epics.delete(epic.id)
        with statements(1):
            epic = plan.epic(2)
        with statements(2):
            plan.features.bulk_create(
                {"epic_id": epic.id, "key": f"E02-F{number:02}", "title": "x"}
                for number in range(1, 30)
            )


# -- at once --------------------------------------------------------------------------------------

WRITERS = 8


def in_threads(work: Callable[[int], None]) -> None:
    """Run `work(0)`, `work(1)`, … at once, and raise what the first of them raises."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(WRITERS)

    def run(number: int) -> None:
        try:
            barrier.wait(60)
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


def act(plan: Plan, chance: random.Random, number: int, turn: int) -> None:
    """One change, chosen by chance, of tasks that other writers change too."""
    features = plan.features.list_all()
    tasks = plan.tasks.list_all()
    some = chance.sample(tasks, min(4, len(tasks)))
    choice = chance.randrange(7)
    if choice == 0 and turn < 90:
        feature = chance.choice(features)
        plan.task(feature, 100 * (number + 1) + turn, status=chance.choice(list(TaskStatus)))
    elif choice == 1:
        plan.tasks.upsert(**plan.row(chance.choice(features), 900 + number // 2))
    elif choice == 2:
        plan.tasks.bulk_delete(task.id for task in some[: 2 - number % 2])
    elif choice == 3:
        changes = [
            {"id": task.id, "status": chance.choice([*TASK_TRANSITIONS[task.status], task.status])}
            for task in some
        ]
        plan.tasks.bulk_update(changes)
    else:
        for task in some[:1]:
            for new in TASK_TRANSITIONS[task.status][:1]:
                plan.tasks.update_status(task.id, new, agent=f"writer {number}")


def test_after_eight_writers_a_recount_agrees(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        for number in (1, 2):
            epic = plan.epic(number)
            for part in (1, 2, 3):
                plan.many(plan.feature(epic, part), 20)

    def write(number: int) -> None:
        chance = random.Random(number)
        for turn in range(25):
            # Another writer may be first.
            with suppress(InvalidTransition):
                run_in_transaction(
                    lambda session, turn=turn: act(Plan(session), chance, number, turn),
                    database=database,
                    retries=20,
                    delay_s=0.01,
                )

    in_threads(write)

    with open_session(database) as session:
        recount(session)
        assert Plan(session).tasks.count() > 10


def test_one_of_eight_starts_a_task(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        task = plan.task(plan.feature())
    outcomes: list[str] = []

    def start(number: int) -> None:
        try:
            with open_session(database) as session:
                Plan(session).tasks.update_status(task.id, "in_progress", agent=str(number))
            outcomes.append("started")
        except InvalidTransition:
            outcomes.append("refused")

    in_threads(start)

    assert sorted(outcomes) == ["refused"] * (WRITERS - 1) + ["started"]
    with open_session(database) as session:
        assert Plan(session).statuses(task) == ["todo", "in_progress"]


def test_eight_upserts_of_one_key_make_one_task(database: Database) -> None:
    with open_session(database) as session:
        feature = Plan(session).feature()

    def write(number: int) -> None:
        with open_session(database) as session:
            plan = Plan(session)
            plan.tasks.upsert(**plan.row(feature, 1), assigned_agent=str(number))
            plan.features.upsert(epic_id=feature.epic_id, key="E04-F02", title=str(number))
            plan.epics.upsert(key="E05", title=str(number))

    in_threads(write)

    with open_session(database) as session:
        plan = Plan(session)
        assert plan.tasks.count() == plan.history.count() == 1
        assert (plan.features.count(), plan.epics.count()) == (2, 2)


def test_writers_of_several_features_do_not_wait_for_each_other_in_a_circle(
    database: Database,
) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        epic = plan.epic()
        tasks = [plan.task(plan.feature(epic, number)) for number in (1, 2, 3, 4)]

    def write(number: int) -> None:
        order = tasks if number % 2 else list(reversed(tasks))
        for _ in range(10):
            with open_session(database) as session:
                Plan(session).tasks.bulk_update(
                    [{"id": task.id, "status": "todo", "title": str(number)} for task in order]
                )

    in_threads(write)

    with open_session(database) as session:
        recount(session)


def waiting(database: Database, count: int) -> None:
    """Wait until so many transactions of this database wait for another one's lock."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with open_session(database) as session:
            ((found,),) = session.execute(
                "SELECT COUNT(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
        if found == count:
            return
        time.sleep(0.01)
    raise AssertionError("nobody waits")


def delete_feature(plan: Plan, tasks: list[Task]) -> None:
    plan.features.delete(tasks[0].feature_id)


def delete_epic(plan: Plan, tasks: list[Task]) -> None:
    plan.epics.delete(plan.features.get_or_raise(tasks[0].feature_id).epic_id)


def delete_tasks(plan: Plan, tasks: list[Task]) -> None:
    plan.tasks.bulk_delete([task.id for task in tasks])


@pytest.mark.parametrize("delete", [delete_feature, delete_epic, delete_tasks])
def test_who_deletes_tasks_and_who_changes_them_do_not_wait_for_each_other(
    make_url: Callable[..., str], delete: Callable[[Plan, list[Task]], None]
) -> None:
    url = make_url("postgresql")
    database, watcher = create_database(url), create_database(url)
    with open_session(database) as session:
        plan = Plan(session)
        tasks = plan.many(plan.feature(), 2)
    with open_session(database) as session:
        # From now on the first task comes last in the table and in its indexes.
        Plan(session).tasks.update(tasks[0].id, priority=9)

    def rename() -> None:
        with open_session(database) as session:
            Plan(session).tasks.bulk_update([{"id": task.id, "title": "x"} for task in tasks])

    def remove() -> None:
        with open_session(database) as session:
            delete(Plan(session), tasks)

    with ThreadPoolExecutor(2) as pool:
        with open_session(database) as session:
            Plan(session).tasks.update(tasks[1].id, title="held")
            removed = pool.submit(remove)
            waiting(watcher, 1)
            renamed = pool.submit(rename)
            waiting(watcher, 2)
        removed.result(60)
        renamed.result(60)
    with open_session(database) as session:
        assert Plan(session).tasks.count() == 0
    for item in (database, watcher):
        item.close_pool()
