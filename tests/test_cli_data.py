"""seed, reset, import, export, stats, info, health."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hopper_data import ProjectRepository, TaskRepository, create_database, transfer
from hopper_data.cli.main import main
from hopper_data.database import Database
from hopper_data.seeding import load_fixture
from hopper_data.session import Session, open_session
from tests.test_cli import failed, run

TASKS = len(load_fixture("tasks"))


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest, make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a migrated database; the environment names it."""
    made = make_url(request.param)
    monkeypatch.setenv("DATABASE_URL", made)
    return made


def ask(url: str, question: Callable[[Session], Any]) -> Any:
    """The answer of a database, whose connections are closed again."""
    database = create_database(url)
    try:
        with open_session(database) as session:
            return question(session)
    finally:
        database.close_pool()


def count(url: str) -> int:
    return int(ask(url, lambda session: TaskRepository(session).count()))


def write(*rows: dict[str, Any], name: str = "tasks.jsonl") -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


# -- seed and reset -------------------------------------------------------------------------------


def test_seed_puts_the_samples_in_once(url: str) -> None:
    result = run("seed")
    assert result.exit_code == 0
    assert f"tasks                      {TASKS}" in result.stdout
    assert count(url) == TASKS
    again = run("seed")
    assert "nothing was added" in again.stdout
    assert json.loads(run("seed", "--json").stdout)["total_added"] == 0


def test_seed_makes_up_as_many_tasks_as_one_likes(url: str) -> None:
    data = json.loads(run("seed", "--tasks", "250", "--json").stdout)
    assert data["added"]["tasks"] == count(url) == 250
    assert data["added"]["projects"] == 6


def test_seed_may_begin_anew(url: str) -> None:
    run("seed", "--tasks", "20")
    result = run("seed", "--reset", "--yes")
    assert result.exit_code == 0
    assert count(url) == TASKS


def test_seed_resets_a_file_that_is_not_there() -> None:
    assert run("seed", "--reset").exit_code == 0
    assert count("sqlite:///hopper.db") == TASKS


@pytest.mark.parametrize(("command", "left"), [(["seed", "--reset"], TASKS), (["reset"], 0)])
def test_a_person_is_asked_whether_all_data_may_go(
    url: str, monkeypatch: pytest.MonkeyPatch, command: list[str], left: int
) -> None:
    run("seed", "--tasks", "20")
    monkeypatch.setattr("hopper_data.cli.data._is_terminal", lambda: True)
    refusal = CliRunner().invoke(main, command, input="n\n")
    assert (refusal.exit_code, count(url)) == (1, 20)
    assert "Drop all data of" in refusal.stderr
    consent = CliRunner().invoke(main, command, input="y\n")
    assert (consent.exit_code, count(url)) == (0, left)


def test_reset_needs_to_be_told_so(url: str) -> None:
    run("seed")
    error = failed(run("reset"), 2)
    assert "reset drops all data of" in error
    assert count(url) == TASKS
    assert json.loads(run("reset", "--yes", "--json").stdout)["reset"] is True
    assert count(url) == 0
    assert run("check").exit_code == 0


@pytest.mark.parametrize("command", [["reset", "--yes"], ["seed", "--reset", "--yes"]])
def test_production_is_not_reset(
    url: str, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    run("seed")
    monkeypatch.setenv("HOPPER_ENV", "production")
    assert "HOPPER_ENV is production" in failed(run(*command))
    assert count(url) == TASKS


# -- import and export ----------------------------------------------------------------------------


def test_import_tells_what_was_new_changed_and_unchanged(url: str) -> None:
    file = write({"id": "a", "title": "A"}, {"id": "b", "title": "B"})
    assert run("import", file).stdout == "2 tasks: 2 new, 0 changed, 0 unchanged\n"
    file = write({"id": "a", "title": "A!"}, {"id": "b", "title": "B"}, {"id": "c", "title": "C"})
    data = json.loads(run("import", file, "--json").stdout)
    assert {key: data[key] for key in ("file", "total", "new", "changed", "unchanged")} == {
        "file": file,
        "total": 3,
        "new": 1,
        "changed": 1,
        "unchanged": 1,
    }


def test_a_broken_line_is_a_failure_that_names_it(url: str) -> None:
    file = write({"id": "a", "title": "A"}, {"id": "b", "title": "B", "priority": "urgnt"})
    error = failed(run("import", file))
    assert error.startswith(f"error: {file}, line 2, field priority: 'urgnt' is not one of low")
    assert error.endswith("; nothing was imported\n")
    assert count(url) == 0


def test_a_key_that_is_taken_meanwhile_is_a_failure(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("seed")
    monkeypatch.setattr(transfer._TaskImport, "_stored", lambda _self, _ids: {})
    error = failed(run("import", write({"id": "nw-101", "title": "taken"})))
    assert "Task id 'nw-101' is already taken" in error


def test_export_writes_what_import_reads(url: str) -> None:
    run("seed")
    result = run("export", "out.jsonl")
    assert result.stdout == f"{TASKS} tasks exported to out.jsonl\n"
    rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert rows == sorted(load_fixture("tasks"), key=lambda row: str(row["id"]))
    run("reset", "--yes")
    assert f"{TASKS} new" in run("import", "out.jsonl").stdout
    run("export", "again.jsonl")
    assert Path("again.jsonl").read_bytes() == Path("out.jsonl").read_bytes()


def test_pipes_work_both_ways(url: str) -> None:
    run("seed")
    result = run("export", "-")
    assert result.stderr == f"{TASKS} tasks exported\n"
    assert len(result.stdout_bytes.splitlines()) == TASKS
    run("reset", "--yes")
    again = CliRunner().invoke(main, ["import", "-"], input=result.stdout_bytes)
    assert f"{TASKS} new" in again.stdout
    broken = CliRunner().invoke(main, ["import", "-"], input=b"[]")
    assert failed(broken).startswith("error: standard input, line 1 is []; it must be")


def test_with_json_a_piped_export_says_nothing_else(url: str) -> None:
    run("seed")
    result = run("export", "-", "--json")
    assert result.stderr == ""
    assert len([json.loads(line) for line in result.stdout.splitlines()]) == TASKS


def test_export_into_a_folder_that_is_not_there_is_a_failure(url: str) -> None:
    error = failed(run("export", "no/such/out.jsonl"))
    assert "No such file or directory" in error


# -- stats, info, health --------------------------------------------------------------------------


def test_stats_tell_how_the_tasks_stand(url: str) -> None:
    run("seed")
    text = run("stats").stdout
    for words in ("Tasks by project", "atlas-api", "(none yet)", "Routing: 89% called a good"):
        assert words in text
    data = json.loads(run("stats", "--json").stdout)
    assert data["row_counts"]["tasks"] == TASKS
    assert data["total_rows"] == sum(data["row_counts"].values())
    assert data["routing"]["total_decisions"] == len(load_fixture("routing_decisions"))
    assert sum(entry["total_tasks"] for entry in data["projects"]) == TASKS
    for entry in data["projects"]:
        if entry["project"]:
            counts = ask(
                url,
                lambda session, name=entry["project"]: ProjectRepository(
                    session
                ).get_project_statistics(name),
            )
            assert {name: entry[name] for name in counts} == counts


def test_stats_of_nothing_are_zeros(url: str) -> None:
    assert "Tasks by project" not in run("stats").stdout
    data = json.loads(run("stats", "--json").stdout)
    assert (data["total_rows"], data["projects"]) == (0, [])


def test_stats_name_projects_that_are_not_registered(url: str) -> None:
    run("import", write({"id": "a", "title": "A", "project": "unheard-of"}))
    (entry,) = json.loads(run("stats", "--json").stdout)["projects"]
    assert (entry["project"], entry["registered"], entry["pending"]) == ("unheard-of", False, 1)


def test_stats_show_the_busiest_of_many_projects(url: str) -> None:
    rows = [{"id": f"{i}", "title": "A", "project": f"project-{i:02}"} for i in range(40)]
    rows += [{"id": f"busy-{i}", "title": "A", "project": "project-39"} for i in range(3)]
    run("import", write(*rows))
    text = run("stats").stdout
    assert "without 10 smaller ones" in text
    assert "project-39" in text


def test_info_tells_where_the_database_is(url: str) -> None:
    data = json.loads(run("info", "--json").stdout)
    assert data["type"] == url.partition(":")[0]
    assert data["schema_version"] == data["head"]
    text = run("info").stdout
    assert "Schema version" in text
    assert data["head"] in text


def test_info_hides_the_password() -> None:
    run("migrate")
    text = run("info", "--json").stdout
    assert "sqlite:///./hopper.db" in text
    error = failed(run("info", "--url", "postgresql://u:s3cret@127.0.0.1:1/x"))
    assert "u:***@127.0.0.1" in error


def test_health_tells_how_the_database_is(url: str) -> None:
    text = run("health").stdout
    for words in ("Answered in", "Server", "Pending", "nothing", "Connections"):
        assert words in text
    data = json.loads(run("health", "--json").stdout)
    assert data["reachable"] is True
    assert data["pending_migrations"] == []
    assert data["latency_ms"] >= 0


def test_health_of_what_cannot_be_reached_is_a_failure() -> None:
    result = run("health", "--json", "--url", "postgresql://u:s3cret@127.0.0.1:1/x")
    assert "Connection refused" in failed(result)
    data = json.loads(result.stdout)
    assert data["reachable"] is False
    assert "Connection refused" in data["error"]


def test_titles_cannot_steer_the_terminal(url: str) -> None:
    run("import", write({"id": "a", "title": "A", "project": "\x1b[2J[red]x"}))
    assert "\x1b" not in run("stats").stdout
    assert "[2J[red]x" in run("stats").stdout


def test_a_database_from_before_the_migrations_is_good_enough(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hopper_data.maintenance import require_schema

    with open_session(database) as session:
        session.execute("DROP TABLE migratehistory")
    require_schema(database)
