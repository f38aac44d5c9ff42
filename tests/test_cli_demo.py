"""demo: the main job, on a SQLite file."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from hopper_data import (
    ProjectRepository,
    RoutingDecisionRepository,
    TaskFeedbackRepository,
    TaskRepository,
    TaskStatus,
    create_database,
)
from hopper_data.cli.demonstration import Worker, route_unrouted, work
from hopper_data.database import Database
from hopper_data.seeding import seed_database
from hopper_data.session import open_session
from tests.test_cli import failed, run

TITLES = ("Routing decisions", "Work done", "The queue", "Tasks by project")


@pytest.fixture
def seeded(make_url: Any) -> Any:
    """A SQLite file with the samples."""
    database = create_database(make_url("sqlite"))
    seed_database(database)
    yield database
    database.close_pool()


def test_the_demo_shows_everything_at_work() -> None:
    result = run("demo")
    assert (result.exit_code, result.stderr) == (0, "")
    for words in ("Migrated", "Loaded", "Routed", "Worked", *TITLES):
        assert words in result.stdout
    assert "two workers completed 7 tasks, 1 failed; that one is tried again" in result.stdout
    assert result.stdout.count("failed for now") == 1
    assert "hopper-data demo --database demo.db" in result.stdout


@pytest.mark.parametrize("columns", [80, 120])
def test_the_demo_fits_into_a_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run("demo").stdout.splitlines()
    assert max(map(len, lines)) <= columns
    heads = [line for line in lines if line.startswith(("Task ", "Worker", "Priority", "Project"))]
    assert len(heads) == 4
    assert not [line for line in heads if "…" in line]
    assert not [line for line in lines if line.startswith("nw-1…")]


def test_the_demo_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    run("demo")
    assert list(folder.iterdir()) == []
    assert list(Path.cwd().iterdir()) == [folder]


def test_the_demo_does_not_touch_the_database_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert run("demo").exit_code == 0


def test_the_demo_keeps_a_file_that_is_named() -> None:
    result = run("demo", "--database", "kept demo.db")
    assert "hopper-data stats --url sqlite:///kept%20demo.db" in result.stdout
    assert [path.name for path in Path.cwd().iterdir()] == ["kept demo.db"]
    assert run("check", "--url", "sqlite:///kept%20demo.db").exit_code == 0
    again = run("demo", "--database", "kept demo.db")
    assert "the sample data is there already" in again.stdout
    assert "Routed    nothing new" in again.stdout
    last = [run("demo", "--database", "kept demo.db") for _ in range(2)][-1]
    assert (last.exit_code, "Work done" in last.stdout) == (0, False)


def test_the_demo_as_json_is_what_the_file_says() -> None:
    data = json.loads(run("demo", "--database", "demo.db", "--json").stdout)
    assert len(data["decisions"]) == 14
    assert {task["id"] for task in data["unroutable"]} == {"nw-131", "nw-132"}
    assert [item["status"] for item in data["work"]].count("pending") == 1
    database = create_database("sqlite:///demo.db")
    with open_session(database) as session:
        for decision in data["decisions"]:
            row = RoutingDecisionRepository(session).get_or_raise(decision["task_id"])
            assert row.to_dict() == decision
        for item in data["work"]:
            task = TaskRepository(session).get_or_raise(item["task_id"])
            assert task.status == item["status"]
            events = TaskRepository(session).get_events(task.id)
            assert [(event.to_status, event.owner) for event in events] == [
                ("claimed", item["worker"]),
                (item["status"], item["worker"]),
            ]
            assert TaskFeedbackRepository(session).exists(task.id)
        assert data["pending"] == TaskRepository(session).count({"status": "pending"})
    database.close_pool()
    assert data["kept"] == "demo.db"


def test_a_demo_file_in_no_folder_is_a_failure() -> None:
    assert "does not exist" in failed(run("demo", "--database", "no/such/demo.db"))


# -- routing --------------------------------------------------------------------------------------


def test_a_task_goes_to_a_project_that_can_do_it(seeded: Database) -> None:
    decisions, left = route_unrouted(seeded)
    assert {task.id for task in left} == {"nw-131", "nw-132"}
    with open_session(seeded) as session:
        for decision in decisions:
            task = TaskRepository(session).get_or_raise(decision.task_id)
            able = ProjectRepository(session).find_projects_for(task.required_capabilities)
            assert decision.project in {project.name for project in able}
            assert (task.project, task.routing_confidence) == (
                decision.project,
                decision.confidence,
            )
            assert task.routing_reasoning == decision.reasoning
            assert len(decision.alternatives) == len(able) - 1
            assert (decision.confidence > 0.9) == (len(able) == 1)


def test_of_several_able_projects_the_least_busy_one_is_chosen(seeded: Database) -> None:
    decisions, _ = route_unrouted(seeded)
    chosen = {decision.task_id: decision for decision in decisions}["nw-121"]
    load = chosen.workload_snapshot
    assert set(load) == {"atlas-api", "data-pipelines", "platform"}
    assert load[chosen.project] == min(load.values())
    assert chosen.reasoning == "the least busy of 3 with postgresql"


# -- workers --------------------------------------------------------------------------------------


def test_no_task_is_carried_twice(seeded: Database) -> None:
    route_unrouted(seeded)
    done = work(seeded, [Worker(f"w{number}", tasks=5) for number in range(4)])
    assert len({item.task_id for item in done}) == len(done) > 8
    with open_session(seeded) as session:
        for item in done:
            task = TaskRepository(session).get_or_raise(item.task_id)
            assert (task.owner, task.status) == (item.worker, TaskStatus.COMPLETED)


def test_a_task_waits_for_what_it_depends_on(seeded: Database) -> None:
    route_unrouted(seeded)
    order = [item.task_id for item in work(seeded, [Worker("one", tasks=50)])]
    assert order.index("nw-119") < order.index("nw-120")
    assert order.index("nw-127") < order.index("nw-128")


def test_what_fails_is_noted_as_no_good_match(seeded: Database) -> None:
    (item,) = work(seeded, [Worker("one", tasks=1, fails_at=1)])
    assert item.status is TaskStatus.PENDING
    with open_session(seeded) as session:
        task = TaskRepository(session).get_or_raise(item.task_id)
        assert (task.last_error, task.attempts) == ("Bigger than it looked.", 1)
        assert task.run_after
        assert TaskRepository(session).explain_readiness(task.id).ready is False
        note = TaskFeedbackRepository(session).get_or_raise(item.task_id)
    assert note.was_good_match is False


def test_workers_without_tasks_go_home(seeded: Database) -> None:
    with open_session(seeded) as session:
        tasks = TaskRepository(session)
        tasks.bulk_delete([task.id for task in tasks.get_all()])
    assert work(seeded, [Worker("one"), Worker("two")]) == []


def test_the_error_of_a_worker_is_not_lost(
    seeded: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_args: Any) -> None:
        raise RuntimeError("no tools")

    monkeypatch.setattr(TaskRepository, "complete", broken)
    with pytest.raises(RuntimeError, match="no tools"):
        work(seeded, [Worker("one")])
