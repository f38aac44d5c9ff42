"""`hopper-data plan`: the tree, the next task, steps, history, import."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hopper_data import create_database
from hopper_data.cli.plan import plan_group
from hopper_data.session import open_session
from tests.conftest import ROOT
from tests.planning_data import Plan, recount
from tests.test_cli import failed, run

SAMPLES = str(ROOT / "fixtures" / "planning")
COMMANDS = ["tree", "next", "history", "start", "submit", "approve", "block", "unblock", "reopen"]
COMMANDS += ["archive", "import"]
TASK = "T-E01-F01-002"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest, make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a migrated database; the environment names it."""
    made = make_url(request.param)
    monkeypatch.setenv("DATABASE_URL", made)
    return made


@pytest.fixture
def samples(url: str) -> str:
    """The URL of a database with the sample plan."""
    assert run("plan", "import", SAMPLES).exit_code == 0
    return url


def plan(*args: str) -> Any:
    """What a command prints as JSON."""
    result = run("plan", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_every_command_explains_itself() -> None:
    result = run("plan", "--help")
    places = [result.stdout.index(f"\n  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert list(plan_group.commands) == COMMANDS
    for name in COMMANDS:
        text = run("plan", name, "--help").stdout
        assert "--json" in text
        assert "--url" in text
        assert plan_group.commands[name].help


def test_an_empty_plan_says_what_to_do(url: str) -> None:
    assert "plan import FOLDER" in run("plan", "tree").stdout
    assert plan("tree")["epics"] == []
    assert run("plan", "next").stdout == "there is nothing that could be started\n"
    assert plan("next") is None
    assert plan("history")["history"] == []


def test_import_tells_what_it_took_and_what_not(url: str) -> None:
    result = run("plan", "import", SAMPLES)
    assert result.exit_code == 0
    assert "7 files: 5 new, 0 changed, 0 unchanged, 2 not taken" in result.stdout
    assert "made 2 epics and 3 features" in result.stdout
    assert "notes/meeting.md" in result.stdout
    again = plan("import", SAMPLES)
    assert (len(again["unchanged"]), again["new"], again["changed"]) == (5, [], [])
    assert [item["path"] for item in again["refused"]] == ["T-E02-F01-002.md", "notes/meeting.md"]
    assert again["folder"] == SAMPLES
    moved = plan("import", SAMPLES, "--project-root", str(ROOT))
    assert len(moved["changed"]) == 5
    failed(run("plan", "import", "nowhere"), 2)
    Path("file.md").write_text("x")
    failed(run("plan", "import", "file.md"), 2)


def test_the_tree_shows_progress(samples: str) -> None:
    lines = run("plan", "tree").stdout.splitlines()
    assert lines[0] == "E01 ██░░░░░░░░  25 % (draft)"
    assert lines[1] == "├── E01-F01 █████░░░░░  50 % (draft)"
    assert "T-E01-F01-001 completed Describe a book" in lines[2]
    assert any("T-E01-F02-001 in progress Lend a copy to a reader @ada" in line for line in lines)
    assert len(run("plan", "tree", "--no-tasks").stdout.splitlines()) == 5
    one = run("plan", "tree", "E02").stdout
    assert one.startswith("E02 ░░░░░░░░░░   0 %")
    assert "E01" not in one
    data = plan("tree")["epics"]
    assert [epic["key"] for epic in data] == ["E01", "E02"]
    assert data[0]["features"][0]["tasks"][0]["key"] == "T-E01-F01-001"
    assert data[0]["progress_pct"] == 25.0
    assert "tasks" not in plan("tree", "--no-tasks")["epics"][0]["features"][0]
    assert plan("tree", "E01")["epics"] == data[:1]
    assert "there is no epic E77" in failed(run("plan", "tree", "E77"))


def test_the_next_task_is_shown(samples: str) -> None:
    assert "T-E02-F01-001" in run("plan", "next").stdout
    assert "Send a letter" in run("plan", "next", "--epic", "E02").stdout
    assert plan("next")["key"] == "T-E02-F01-001"
    assert plan("next", "--epic", "E01") is None
    assert plan("next", "--agent-type", "backend") is None
    failed(run("plan", "next", "--agent-type", "wizard"), 2)


def test_a_task_is_carried_through(samples: str) -> None:
    task = "T-E02-F01-001"
    result = run("plan", "start", task, "--agent", "ada", "--notes", "begun")
    assert result.stdout == f"{task}: todo → in_progress; E02-F01 is at 0 %\n"
    assert plan("block", task, "--reason", "no key", "--agent", "ada")["blocked_reason"] == "no key"
    assert "no key" in run("plan", "tree", "E02").stdout
    assert plan("unblock", task)["status"] == "todo"
    assert plan("block", task, "--reason", "no door")["status"] == "blocked"
    assert plan("unblock", task, "--start")["blocked_reason"] is None
    assert plan("submit", task)["status"] == "ready_for_review"
    assert plan("reopen", task, "--notes", "not quite")["status"] == "in_progress"
    assert plan("submit", task)["status"] == "ready_for_review"
    assert "E02-F01 is at 100 %" in run("plan", "approve", task, "--agent", "grace").stdout
    assert plan("reopen", task)["status"] == "in_progress"
    plan("submit", task)
    assert plan("approve", task)["completed_at"].endswith("Z")
    assert plan("archive", task)["status"] == "archived"
    steps = plan("history", task)["history"]
    assert [step["new_status"] for step in steps][:3] == ["todo", "in_progress", "blocked"]
    assert (steps[1]["agent"], steps[1]["notes"], steps[2]["notes"]) == ("ada", "begun", "no key")
    assert len(steps) == 14
    database = create_database(samples)
    with open_session(database) as session:
        recount(session)
    database.close_pool()


def test_a_step_must_be_one_of_its_name(samples: str) -> None:
    before = plan("tree")["epics"]
    todo, review = "T-E02-F01-001", TASK
    for name, task in (
        ("reopen", todo),  # would be the status that start gives
        ("unblock", review),
        ("approve", todo),
        ("submit", todo),
        ("archive", review),
        ("start", review),
    ):
        text = failed(run("plan", name, task))
        assert f"cannot {name} {task}" in text
    assert "possible is start or block" in failed(run("plan", "approve", todo))
    plan("approve", review)
    plan("archive", review)
    assert "possible is nothing" in failed(run("plan", "reopen", review))
    assert [epic["key"] for epic in plan("tree")["epics"]] == [epic["key"] for epic in before]


def test_wrong_use_is_one_line(samples: str) -> None:
    for key in ("E01", "t-e01-f01-001", "T-E01-F01-1", ""):
        assert "is not a key such as 'T-E04-F01-001'" in failed(run("plan", "start", key), 2)
    assert "'E1' is not a key such as 'E04'" in failed(run("plan", "tree", "E1"), 2)
    failed(run("plan", "block", TASK), 2)
    failed(run("plan", "start"), 2)
    failed(run("plan", "history", "--limit", "-1"), 2)
    for name in ("start", "history"):
        assert "there is no task T-E09-F01-001" in failed(run("plan", name, "T-E09-F01-001"))


def test_history_is_a_table(samples: str) -> None:
    text = run("plan", "history").stdout
    assert text.count("T-E0") == 5
    assert len(plan("history", "--limit", "2")["history"]) == 2
    assert "todo" in run("plan", "history", "T-E02-F01-001").stdout
    assert plan("history", "T-E02-F01-001", "--limit", "0")["history"] == []


def test_a_database_without_the_tables_says_so(
    make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", make_url("sqlite", migrated=False))
    for args in (["tree"], ["start", TASK], ["import", SAMPLES], ["next"], ["history"]):
        assert "migrate" in failed(run("plan", *args))


def test_another_writer_may_be_first(samples: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from hopper_data.cli import plan as commands

    read = commands._task

    def slow(session: Any, key: str) -> Any:
        task = read(session, key)
        Plan(session).tasks.update_status(task.id, "in_progress", agent="somebody else")
        return task

    monkeypatch.setattr(commands, "_task", slow)
    assert "changed by somebody else" in failed(run("plan", "start", "T-E02-F01-001"))
