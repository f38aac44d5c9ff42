"""Folders of Markdown task files: what is taken, what is reported, and that twice is once."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopper_data import ValidationError
from hopper_data.database import Database
from hopper_data.planning import ImportReport, import_folder
from hopper_data.planning.taskfiles import parse_task_file
from hopper_data.session import open_session
from tests.conftest import ROOT
from tests.planning_data import Plan, plan, recount, statements

__all__ = ["plan"]

SAMPLES = ROOT / "fixtures" / "planning"


def text(key: str = "T-E04-F01-001", title: str = "# A title", **matter: str | None) -> str:
    """A task file; a name with the value None is left out."""
    names = {"task_key": key, "status": "todo", **matter}
    lines = [f"{name}: {value}" for name, value in names.items() if value is not None]
    return "\n".join(["---", *lines, "---", "", title, "", "What it is about.", ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    return folder


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def reasons(report: ImportReport) -> dict[str, str]:
    return {refusal.path: refusal.reason for refusal in report.refused}


# -- a folder -------------------------------------------------------------------------------------


def test_the_sample_folder_is_taken(plan: Plan) -> None:
    report = import_folder(plan.session, SAMPLES)

    assert report.new == [
        "T-E01-F01-001",
        "T-E01-F01-002",
        "T-E01-F02-001",
        "T-E01-F02-002",
        "T-E02-F01-001",
    ]
    assert (report.new_epics, len(report.new_features), report.total) == (["E01", "E02"], 3, 7)
    assert list(reasons(report)) == ["T-E02-F01-002.md", "notes/meeting.md"]
    assert "'In Progress' is not one of todo, in_progress" in report.refused[0].reason
    assert "no front matter" in report.refused[1].reason
    first = plan.tasks.get_by_key("T-E01-F01-001")
    assert first is not None
    assert first.title == "Describe a book: title, authors, year, shelf"
    assert (first.status, first.assigned_agent) == ("completed", "ada")
    assert first.created_at == datetime(2026, 1, 5, tzinfo=UTC)
    assert first.completed_at == first.updated_at
    assert first.file_path == "T-E01-F01-001.md"
    lend = plan.tasks.get_by_key("T-E01-F02-001")
    assert lend is not None
    assert lend.title == "Lend a copy to a reader"
    assert lend.depends_on == ["T-E01-F01-001"]
    assert [epic.title for epic in plan.epics.list_all()] == ["E01", "E02"]
    assert [feature.progress_pct for feature in plan.features.list_all()] == [50.0, 0.0, 0.0]
    assert plan.tasks.next_task() == plan.tasks.get_by_key("T-E02-F01-001")
    recount(plan.session)


def test_a_second_import_changes_nothing(plan: Plan) -> None:
    first = import_folder(plan.session, SAMPLES)
    tables = ("planning_epics", "planning_features", "planning_tasks", "planning_task_history")
    before = [plan.session.execute(f"SELECT * FROM {table} ORDER BY id") for table in tables]

    again = import_folder(plan.session, SAMPLES)

    assert (again.new, again.changed, again.new_epics, again.new_features) == ([], [], [], [])
    assert again.unchanged == first.new
    assert again.refused == first.refused
    after = [plan.session.execute(f"SELECT * FROM {table} ORDER BY id") for table in tables]
    assert after == before


def test_what_a_file_says_anew_is_set(plan: Plan, folder: Path) -> None:
    write(folder, "a.md", text(assigned_agent="ada", dependencies="[T-E04-F01-009]"))
    write(folder, "b.md", text("T-E04-F01-002", assigned_agent="ada"))
    import_folder(plan.session, folder)
    write(folder, "a.md", text(title="# Renamed", status="in_progress", assigned_agent="grace"))
    write(folder, "b.md", text("T-E04-F01-002"))

    report = import_folder(plan.session, folder)

    assert (report.changed, report.unchanged) == (["T-E04-F01-001"], ["T-E04-F01-002"])
    task = plan.tasks.get_by_key("T-E04-F01-001")
    assert task is not None
    assert (task.title, task.status, task.assigned_agent) == ("Renamed", "in_progress", "grace")
    assert task.depends_on == ["T-E04-F01-009"]  # The file says nothing of it any more.
    assert task.started_at == task.updated_at
    assert plan.statuses(task) == ["todo", "in_progress"]
    write(folder, "a.md", text(title="# Renamed", status="in_progress", assigned_agent=""))
    import_folder(plan.session, folder)
    assert plan.tasks.get_by_key("T-E04-F01-001").assigned_agent is None  # type: ignore[union-attr]
    recount(plan.session)


def test_a_step_that_may_not_be_is_reported(plan: Plan, folder: Path) -> None:
    write(folder, "a.md", text())
    write(folder, "b.md", text("T-E04-F01-002"))
    import_folder(plan.session, folder)
    write(folder, "a.md", text(title="# Renamed", status="completed"))
    write(folder, "b.md", text("T-E04-F01-002", status="blocked"))

    report = import_folder(plan.session, folder)

    assert report.changed == ["T-E04-F01-002"]
    assert "cannot go from 'todo' to 'completed'" in reasons(report)["a.md"]
    assert plan.tasks.get_by_key("T-E04-F01-001").title == "A title"  # type: ignore[union-attr]


def test_another_day_of_creation_is_reported(plan: Plan, folder: Path) -> None:
    write(folder, "a.md", text(created="2026-01-05"))
    import_folder(plan.session, folder)
    write(folder, "a.md", text(created="2026-01-06"))

    report = import_folder(plan.session, folder)

    assert "created_at never changes" in reasons(report)["a.md"]
    write(folder, "a.md", text())
    assert import_folder(plan.session, folder).unchanged == ["T-E04-F01-001"]


def test_existing_epics_and_features_stay_as_they_are(plan: Plan, folder: Path) -> None:
    plan.epic(4, status="active")
    write(folder, "a.md", text())
    write(folder, "b.md", text("T-E04-F02-001"))
    plan.feature(number=1, status="active")

    report = import_folder(plan.session, folder)

    assert (report.new_epics, report.new_features) == ([], ["E04-F02"])
    assert [epic.title for epic in plan.epics.list_all()] == ["Epic 4"]
    assert [feature.title for feature in plan.features.list_all()] == ["Feature E04-F01", "E04-F02"]


def test_a_key_in_two_files_is_taken_from_neither(plan: Plan, folder: Path) -> None:
    write(folder, "a.md", text())
    write(folder, "sub/b.md", text(title="# Another"))
    write(folder, "c.md", text("T-E04-F01-002"))

    report = import_folder(plan.session, folder)

    assert report.new == ["T-E04-F01-002"]
    found = reasons(report)
    assert found["a.md"] == "task_key 'T-E04-F01-001' is in sub/b.md, too"
    assert found["sub/b.md"] == "task_key 'T-E04-F01-001' is in a.md, too"


def test_only_markdown_is_looked_at(plan: Plan, folder: Path) -> None:
    write(folder, "a.md", text())
    write(folder, "B.MD", text("T-E04-F01-002"))
    write(folder, "deep/er/c.markdown", text("T-E04-F01-003"))
    write(folder, "d.txt", text("T-E04-F01-004"))
    write(folder, ".git/e.md", text("T-E04-F01-005"))
    write(folder, ".f.md", text("T-E04-F01-006"))
    (folder / "g.md").mkdir()

    report = import_folder(plan.session, folder)

    assert sorted(report.new) == ["T-E04-F01-001", "T-E04-F01-002", "T-E04-F01-003"]
    assert report.refused == []
    assert plan.tasks.get_by_key("T-E04-F01-003").file_path == "deep/er/c.markdown"  # type: ignore[union-attr]


def test_paths_count_from_the_project_root(plan: Plan, folder: Path) -> None:
    write(folder, "a.md", text())
    import_folder(plan.session, folder, project_root=folder.parent)
    assert plan.tasks.list_all()[0].file_path == "tasks/a.md"
    report = import_folder(plan.session, folder, project_root=folder.parent / "tasks")
    assert report.changed == ["T-E04-F01-001"]


def test_files_that_lie_elsewhere_or_cannot_be_read_are_reported(
    plan: Plan, folder: Path, tmp_path: Path
) -> None:
    outside = write(tmp_path, "outside.md", text("T-E04-F01-002"))
    (folder / "link.md").symlink_to(outside)
    (folder / "gone.md").symlink_to(folder / "nowhere")
    (folder / "loop.md").symlink_to(folder / "loop.md")
    os.mkfifo(folder / "pipe.md")
    write(folder, "a.md", text())
    write(folder, "large.md", b" " * (16 * 2**20 + 1))

    report = import_folder(plan.session, folder)

    assert report.new == ["T-E04-F01-001"]
    found = reasons(report)
    assert "does not lie inside" in found["link.md"]
    assert "does not lie inside" in found["loop.md"]
    assert "not a file" in found["gone.md"]
    assert "not a file" in found["pipe.md"]
    assert "16,777,216 are the most" in found["large.md"]


def test_a_name_that_is_no_text_is_reported(plan: Plan, folder: Path) -> None:
    path = os.fsencode(folder) + b"/caf\xe9.md"
    Path(os.fsdecode(path)).write_text(text())

    report = import_folder(plan.session, folder)

    (refusal,) = report.refused
    assert refusal.path == "caf\ufffd.md"
    assert "surrogate" in refusal.reason


def test_a_folder_must_be_one(plan: Plan, folder: Path) -> None:
    for wrong in (folder / "nowhere", write(folder, "a.md", text())):
        with pytest.raises(ValidationError, match="is not a folder"):
            import_folder(plan.session, wrong)
    with pytest.raises(ValidationError, match="is not a folder"):
        import_folder(plan.session, folder, project_root=folder / "nowhere")


def test_an_empty_folder_is_nothing(plan: Plan, folder: Path) -> None:
    assert import_folder(plan.session, folder).to_dict() == {
        "total": 0,
        "new": [],
        "changed": [],
        "unchanged": [],
        "new_epics": [],
        "new_features": [],
        "refused": [],
    }


def test_an_import_is_one_transaction_of_few_statements(database: Database, folder: Path) -> None:
    for number in range(300):
        key = f"T-E{number // 100:02}-F{number % 7:02}-{number:03}"
        write(folder, f"{key}.md", text(key, status="completed" if number % 3 else "todo"))
    with open_session(database) as session, statements(10):
        report = import_folder(session, folder)
    assert len(report.new) == 300
    with open_session(database) as session:
        recount(session)
    with open_session(database) as session, statements(1):
        assert len(import_folder(session, folder).unchanged) == 300


# -- one file -------------------------------------------------------------------------------------


def test_a_file_says_what_it_says() -> None:
    content = text(
        feature="/home/ada/docs/plan/E04-core/E04-F01-database-schema/",
        created="2026-01-05T10:00:00+02:00",
        assigned_agent="general-purpose",
        dependencies='["T-E04-F01-002", T-E04-F02-001]',
        estimated_time="8 hours",
    )
    file = parse_task_file(content.encode())
    assert file.key == "T-E04-F01-001"
    assert file.fields == {
        "title": "A title",
        "status": "todo",
        "created_at": datetime(2026, 1, 5, 8, tzinfo=UTC),
        "assigned_agent": "general-purpose",
        "depends_on": ["T-E04-F01-002", "T-E04-F02-001"],
    }


def test_a_file_need_not_say_more_than_key_status_and_title() -> None:
    assert parse_task_file(text().encode()).fields == {"title": "A title", "status": "todo"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no front matter"),
        (b"\n\n", "no front matter"),
        ("# A title\n", "no front matter"),
        ("task_key: T-E04-F01-001\n", "no front matter"),
        (" ---\ntask_key: T-E04-F01-001\n---\n# x\n", "no front matter"),
        ("---\ntask_key: T-E04-F01-001\nstatus: todo\n# x\n", "does not end"),
        ("---\n- a\n- b\n---\n# x\n", "does not consist of names and values"),
        ("---\n---\n# x\n", "does not consist of names and values"),
        ("---\njust text\n---\n# x\n", "does not consist of names and values"),
        ("---\na: [1\n---\n# x\n", "not YAML"),
        ("---\na: b: c\n---\n# x\n", "not YAML.* in line 2 of the file"),
        ("---\n\ttabs: x\n---\n# x\n", "not YAML"),
        ("---\na: 'x\n---\n# x\n", "not YAML"),
        ("---\na: *nothing\n---\n# x\n", "not YAML"),
        ("---\na: !!python/object/apply:os.system [id]\n---\n# x\n", "not YAML"),
        ("---\na: \0\n---\n# x\n", "not YAML"),
        ("---\na: !!timestamp x\n---\n# x\n", "not YAML"),
        ("---\n? [a]\n: b\n---\n# x\n", "not YAML"),
        ("---\ncreated: 2026-13-45\n---\n# x\n", "not YAML"),
        ("---\na: " + "[" * 5000 + "]" * 5000 + "\n---\n# x\n", "too deep"),
        (text(task_key=None), "task_key is missing"),
        (text(task_key=""), "task_key is missing"),
        (text(status=None), "status is missing"),
        (text(status="todo\nstatus: completed"), "'status' occurs twice in line 4"),
        (text().encode("utf-16"), "not UTF-8"),
        (text(title="# caf\xe9").encode("latin-1"), r"not UTF-8 \(see byte \d+\)"),
        (text(title=""), "no heading"),
        (text(title="Only text"), "no heading"),
        (text(title="#"), "no heading"),
        (text(title="#hashtag"), "no heading"),
        (text(title="    # code"), "no heading"),
        (text(title="```sh\n# a comment\n```"), "no heading"),
        (text(title="~~~\n# a\n```\n# b\n~~~"), "no heading"),
        (text(title="<!--\n# hidden\n-->"), "no heading"),
        (text(title="- item\n---"), "no heading"),
        (text(title="# a\0b"), "NUL"),
        (text(created="yesterday"), "created 'yesterday' is not a date in ISO 8601"),
        (text(created="2026-1-5"), "created"),
        (text(created="20260105x"), "created"),
        (text(created="5"), "created 5 is not a date"),
        (text(created="true"), "created True is not a date"),
        (text(created="[2026-01-05]"), "created list is not a date"),
        (text(assigned_agent="7"), "assigned_agent 7 is not a text"),
        (text(assigned_agent="[ada]"), "assigned_agent list is not a text"),
        (text(assigned_agent='"a\\0b"'), "NUL"),
        (text(dependencies="none"), "dependencies holds 'none'"),
        (text(dependencies="[T-E04-F01-2]"), "dependencies holds 'T-E04-F01-2'"),
        (text(dependencies="[E04-F01]"), "dependencies holds 'E04-F01'"),
        (text(dependencies="[~]"), "dependencies holds NoneType"),
        (text(dependencies="T-E04-F01-002, T-E04-F01-003"), "dependencies holds"),
        (text(dependencies="{a: b}"), "dependencies dict is not a list"),
        (text(dependencies="&a [*a]"), "dependencies holds list"),
        (text(feature="E04-F02-other"), "feature 'E04-F02' is not the one of task_key"),
        (text(feature="E05-F01"), "feature 'E05-F01' is not the one of task_key"),
        (text(feature="/plan/E04-F01-a/E04-F02-b"), "feature 'E04-F01, E04-F02' is not"),
        (text(feature="/plan/E04-core/schema"), "does not name a key"),
        (text(feature="E4-F1"), "does not name a key"),
        (text(feature="E04-F011"), "does not name a key"),
        (text(feature="e04-f01"), "does not name a key"),
        (text(feature="schema"), "does not name a key"),
        (text(feature="E04-F01-"), "does not name a key"),
        (text(feature="plan/E04-F01 - /tasks"), "does not name a key"),
        (text(feature='"E04-F01\\n"'), "does not name a key"),
        (text(feature='"E04-F01-schema\\n"'), "does not name a key"),
        (text(task_key='"T-E04-F01-001\\n"'), r"task_key 'T-E04-F01-001\\n' is not a key"),
        (text(dependencies='["T-E04-F01-002\\n"]'), "dependencies holds"),
        (text(feature="4"), "feature 4 is not a text"),
    ],
)
def test_a_file_that_cannot_be_taken_says_why(content: str | bytes, reason: str) -> None:
    data = content.encode() if isinstance(content, str) else content
    with pytest.raises(ValidationError) as caught:
        parse_task_file(data)
    assert re.search(reason, str(caught.value)), caught.value


@pytest.mark.parametrize(
    "status",
    [
        "Todo",
        "TODO",
        "To Do",
        "in progress",
        "in-progress",
        "In Progress",
        "inprogress",
        "ready for review",
        "ready-for-review",
        "review",
        "done",
        "Completed",
        "complete",
        "will-not-complete",
        "'todo '",
        "[todo]",
        "1",
        "true",
        "todo, blocked",
    ],
)
def test_a_status_is_never_guessed(status: str) -> None:
    with pytest.raises(ValidationError, match="is not one of todo, in_progress, blocked"):
        parse_task_file(text(status=status).encode())


@pytest.mark.parametrize(
    "key",
    [
        "t-e04-f01-001",
        "T-E4-F1-1",
        "T-E04-F01-1",
        "T-E04-F01-0001",
        "E04-F01-001",
        "T-E04-F01",
        "T_E04_F01_001",
        "'T-E04-F01-001 '",
        '"T-E04-F01-001\\n"',
        "|\n  T-E04-F01-001",
        "T-E04-F01-001 (old)",
        "[T-E04-F01-001]",
        "1",
        "T-E0\u0664-F01-001",
    ],
)
def test_a_key_is_never_guessed(key: str) -> None:
    with pytest.raises(ValidationError, match=r"task_key .* is not a key such as 'T-E04-F01-001'"):
        parse_task_file(text(key).encode())


@pytest.mark.parametrize(
    ("content", "title"),
    [
        (text(title="# A title"), "A title"),
        (text(title="### Third level ###"), "Third level"),
        (text(title="# C# and F#"), "C# and F#"),
        (text(title="#\n# Second"), "Second"),
        (text(title="  ## Indented"), "Indented"),
        (text(title="Text before.\n\n# After"), "After"),
        (text(title="```\n# code\n```\n# Title"), "Title"),
        (text(title="````\n```\n# code\n````\n# Title"), "Title"),
        (text(title="<!-- # no -->\n# Title"), "Title"),
        (text(title="Underlined\n====="), "Underlined"),
        (text(title="Underlined too\n---"), "Underlined too"),
        (text(title="\n---\n\n# Behind a rule"), "Behind a rule"),
        (text(title="# `code` and **more**"), "`code` and **more**"),
        (text(title="# Gr\xfc\xdfe \U0001f600"), "Gr\xfc\xdfe \U0001f600"),
        (text().replace("\n", "\r\n"), "A title"),
        (text().replace("\n", "\r"), "A title"),
        ("\ufeff" + text(), "A title"),
        ("\n\n" + text(), "A title"),
        (text().replace("---\n\n# A", "...\n\n# A"), "A title"),
        (text().replace("---\n", "---  \n"), "A title"),
    ],
)
def test_the_title_is_the_first_heading(content: str, title: str) -> None:
    assert parse_task_file(content.encode()).fields["title"] == title


@pytest.mark.parametrize(
    ("matter", "field", "value"),
    [
        ({"created": "2026-01-05"}, "created_at", datetime(2026, 1, 5, tzinfo=UTC)),
        ({"created": "'2026-01-05'"}, "created_at", datetime(2026, 1, 5, tzinfo=UTC)),
        (
            {"created": "2026-01-05 10:20:30"},
            "created_at",
            datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC),
        ),
        (
            {"created": "2026-01-05T10:20:30Z"},
            "created_at",
            datetime(2026, 1, 5, 10, 20, 30, tzinfo=UTC),
        ),
        (
            {"created": "'2026-01-05T10:20:30-01:00'"},
            "created_at",
            datetime(2026, 1, 5, 11, 20, 30, tzinfo=UTC),
        ),
        ({"dependencies": ""}, "depends_on", []),
        ({"dependencies": "[]"}, "depends_on", []),
        ({"dependencies": "T-E04-F01-002"}, "depends_on", ["T-E04-F01-002"]),
        (
            {"dependencies": "\n- T-E04-F01-002\n- 'T-E05-F01-001'"},
            "depends_on",
            ["T-E04-F01-002", "T-E05-F01-001"],
        ),
        ({"assigned_agent": ""}, "assigned_agent", None),
        ({"assigned_agent": "null"}, "assigned_agent", None),
        ({"assigned_agent": "'7'"}, "assigned_agent", "7"),
        ({"status": '"in_progress"'}, "status", "in_progress"),
    ],
)
def test_values_are_read_as_yaml_has_them(matter: dict[str, str], field: str, value: Any) -> None:
    assert parse_task_file(text(**matter).encode()).fields[field] == value


@pytest.mark.parametrize(
    "feature",
    [
        "E04-F01",
        "E04-F01-schema",
        "plan/E04-core/E04-F01-schema/",
        "plan/E04-core/E04-F01-schema/tasks",
        "E04-F01/E04-F01-schema.md",
        "C:\\plan\\E04-F01-x",
        "E04-F01: x",
        "",
    ],
)
def test_a_feature_may_be_a_key_or_a_path(feature: str) -> None:
    assert parse_task_file(text(feature=f"'{feature}'").encode()).key == "T-E04-F01-001"


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(content: bytes) -> None:
    for data in (content, b"---\n" + content + b"\n---\n# x\n", text().encode() + content):
        with suppress(ValidationError):
            assert parse_task_file(data).fields["title"]
