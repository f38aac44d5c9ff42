from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from hopper_data import (
    HopperInstanceRepository,
    IntegrityError,
    ProjectRepository,
    RoutingDecisionRepository,
    TaskFeedbackRepository,
    TaskPriority,
    TaskRepository,
    TaskStatus,
    ValidationError,
    seeding,
)
from hopper_data.database import Database
from hopper_data.seeding import load_fixture, make_tasks, seed_database, seed_tasks
from hopper_data.session import open_session
from hopper_data.transfer import export_tasks

NAMES = (
    "projects",
    "hopper_instances",
    "tasks",
    "routing_decisions",
    "task_feedback",
    "external_mappings",
)


# -- fixtures -------------------------------------------------------------------------------------


def test_the_samples_are_put_in_once(database: Database) -> None:
    added = seed_database(database)
    assert added == {name: len(load_fixture(name)) for name in NAMES}
    assert seed_database(database) == dict.fromkeys(NAMES, 0)


def test_the_samples_are_as_their_files_say(database: Database) -> None:
    seed_database(database)
    with open_session(database) as session:
        for row in load_fixture("tasks"):
            stored = TaskRepository(session).get_or_raise(row["id"])
            untouched = {"attempts": 0, "max_attempts": 3}
            expected = {name: row.get(name, untouched.get(name)) for name in stored.to_dict()}
            times = {
                name: datetime.fromisoformat(row[name]) for name in ("created_at", "updated_at")
            }
            assert (stored.created_at, stored.updated_at) == tuple(times.values())
            assert {**stored.to_dict(), **dict.fromkeys(times)} == {
                **expected,
                **dict.fromkeys(times),
            }


def test_seeding_again_leaves_what_was_done_meanwhile(database: Database) -> None:
    seed_database(database)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.update("nw-116", status="claimed", owner="me")
        tasks.delete("nw-134")
        ProjectRepository(session).delete("handbook")
    added = seed_database(database)
    assert {name: count for name, count in added.items() if count} == {"projects": 1, "tasks": 1}
    with open_session(database) as session:
        task = TaskRepository(session).get_or_raise("nw-116")
    assert (task.status, task.owner) == (TaskStatus.CLAIMED, "me")


def test_a_sample_that_does_not_fit_leaves_nothing_behind(database: Database) -> None:
    with open_session(database) as session:
        ProjectRepository(session).create(name="mine", slug="storefront")
    with pytest.raises(IntegrityError, match="slug 'storefront' is already taken"):
        seed_database(database)
    with open_session(database) as session:
        assert ProjectRepository(session).count() == 1
        assert TaskRepository(session).count() == 0


def test_the_samples_are_worth_showing(database: Database) -> None:
    seed_database(database)
    with open_session(database) as session:
        tasks, projects = TaskRepository(session), ProjectRepository(session)
        unrouted = tasks.get_unassigned_tasks()
        able = [len(projects.find_projects_for(task.required_capabilities)) for task in unrouted]
        assert able.count(0) == 2
        assert able.count(1) >= 8
        assert max(able) == 3
        assert {task.status for task in tasks.get_all()} == set(TaskStatus)
        assert {task.priority for task in tasks.get_all()} == set(TaskPriority)
        assert [task.id for task in tasks.get_blocking_tasks("nw-120")] == ["nw-119"]
        instances = HopperInstanceRepository(session)
        chain = [row.id for row in instances.get_instance_hierarchy("hopper-platform-cz3")]
        assert chain == ["hopper-global", "hopper-platform", "hopper-platform-cz3"]
        analytics = RoutingDecisionRepository(session).get_decision_analytics()
        assert set(analytics["strategy_stats"]) == {"rules", "llm", "sage"}
        accuracy = TaskFeedbackRepository(session).get_routing_accuracy()["overall"]
        assert 0 < accuracy["good"] < accuracy["rated"]


def test_a_task_and_its_decision_say_the_same() -> None:
    tasks = {row["id"]: row for row in load_fixture("tasks")}
    decisions = {row["task_id"]: row for row in load_fixture("routing_decisions")}
    assert set(decisions) == {key for key, row in tasks.items() if "project" in row}
    for key, decision in decisions.items():
        task = tasks[key]
        assert decision["project"] == task["project"]
        assert decision["confidence"] == task["routing_confidence"]
        assert decision["reasoning"] == task["routing_reasoning"]


def test_a_link_of_a_task_is_mapped() -> None:
    mapped = {
        (row["task_id"], row["platform"], row["external_id"])
        for row in load_fixture("external_mappings")
    }
    for row in load_fixture("tasks"):
        if "external_id" in row:
            assert (row["id"], row["external_platform"], row["external_id"]) in mapped


def test_an_unknown_sample_is_refused() -> None:
    with pytest.raises(ValidationError, match="there are projects, hopper_instances"):
        load_fixture("../pyproject")


# -- made-up tasks --------------------------------------------------------------------------------


def test_made_up_tasks_are_the_same_each_time() -> None:
    assert list(make_tasks(300)) == list(make_tasks(300))
    assert list(make_tasks(300)) != list(make_tasks(300, seed=1))


def test_made_up_tasks_are_plausible() -> None:
    tasks = list(make_tasks(3000))
    assert len({task["id"] for task in tasks}) == 3000
    assert len({task["title"] for task in tasks}) > 1000
    assert len({task["description"] for task in tasks}) > 2000
    assert all(5 < len(task["title"]) < 120 and "{" not in task["title"] for task in tasks)
    assert {task["status"] for task in tasks} == set(TaskStatus)
    priorities = Counter(task["priority"] for task in tasks)
    assert priorities[TaskPriority.MEDIUM] > priorities[TaskPriority.URGENT] > 0
    assert all(len(task["tags"]) == len(set(task["tags"])) > 1 for task in tasks)
    projects = {row["name"] for row in load_fixture("projects")}
    assert {task["project"] for task in tasks} == {*projects, None}


def test_made_up_tasks_come_in_the_order_of_half_a_year() -> None:
    tasks = list(make_tasks(2000))
    times = [task["created_at"] for task in tasks]
    assert times == sorted(times)
    assert timedelta(days=170) < times[-1] - times[0] < timedelta(days=181)
    assert all(task["updated_at"] >= task["created_at"] for task in tasks)
    assert max(task["updated_at"] for task in tasks) < datetime(2026, 1, 1, tzinfo=UTC)


def test_made_up_tasks_depend_on_earlier_ones_alone() -> None:
    states: dict[str, Any] = {}
    dependent = 0
    for task in make_tasks(3000):
        dependent += bool(task["depends_on"])
        for other in task["depends_on"]:
            assert other in states
            if task["status"] not in (TaskStatus.PENDING, TaskStatus.BLOCKED):
                assert states[other] == TaskStatus.COMPLETED
        states[task["id"]] = task["status"]
    assert 200 < dependent < 600


def test_what_the_projects_need_is_what_they_have(database: Database) -> None:
    seed_tasks(400, database)
    with open_session(database) as session:
        for task in TaskRepository(session).filter(limit=50):
            able = ProjectRepository(session).find_projects_for(task.required_capabilities)
            assert able
            assert task.project is None or task.project in {row.name for row in able}


def test_made_up_tasks_stream() -> None:
    assert len(list(islice(make_tasks(10**12), 3))) == 3


@pytest.mark.parametrize("count", [-1, 1.5, True, "7"])
def test_a_wrong_number_of_tasks_is_refused(count: Any) -> None:
    with pytest.raises(ValidationError, match="count is"):
        make_tasks(count)


def test_made_up_tasks_are_put_in_once(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "_CHUNK", 40)
    done: list[int] = []
    added = seed_tasks(100, database, progress=done.append)
    assert added == {"projects": 6, "hopper_instances": 7, "tasks": 100}
    assert done == [40, 40, 20]
    assert seed_tasks(100, database) == {"projects": 0, "hopper_instances": 0, "tasks": 0}
    assert seed_tasks(110, database)["tasks"] == 10
    assert export_tasks("/dev/null", database=database) == 110


def test_no_tasks_may_be_made_up(database: Database) -> None:
    assert seed_tasks(0, database)["tasks"] == 0


def test_half_made_up_is_nothing(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeding, "_CHUNK", 10)

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seed_tasks(100, database, progress=stop)
    with open_session(database) as session:
        assert TaskRepository(session).count() == 0
        assert ProjectRepository(session).count() == 0
