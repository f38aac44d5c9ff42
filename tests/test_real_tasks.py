"""Thousands of real tasks of a team of agents: SQL and plain Python must agree.

The file is not a part of the project. HOPPER_TEST_TASKS_FILE names it; without it, and where it
does not lie beside the project, these tests are left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hopper_data import ProjectRepository, Session, Task, TaskRepository, create_database
from hopper_data.database import Database
from hopper_data.maintenance import analyze_task_statistics
from hopper_data.routing.search import words_of
from hopper_data.session import open_session

FILE = Path(
    os.environ.get("HOPPER_TEST_TASKS_FILE")
    or Path(__file__).resolve().parents[2] / "shared" / "data" / "agent-tasks.jsonl"
)
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason="the file of real tasks is not here")
STATES = ("pending", "claimed", "in_progress", "blocked", "completed", "failed", "cancelled")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def real() -> list[Row]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(params=["sqlite", "postgresql"])
def session(
    request: pytest.FixtureRequest, make_url: Callable[..., str], real: list[Row]
) -> Iterator[Session]:
    database: Database = create_database(make_url(request.param), slow_query_ms=60_000)
    with open_session(database) as session:
        TaskRepository(session).bulk_create(real)
        yield session
    database.close_pool()


def ids(found: list[Task]) -> set[str]:
    return {task.id for task in found}


def _newest(rows: list[Row]) -> list[str]:
    by_key = sorted(rows, key=lambda row: row["id"])
    return [row["id"] for row in sorted(by_key, key=lambda row: row["created_at"], reverse=True)]


def test_sql_agrees_with_python(session: Session, real: list[Row]) -> None:
    tasks = TaskRepository(session)
    assert tasks.count() == len(real)
    _check_rows(tasks, real)
    _check_tags(tasks, real)
    _check_dependencies(tasks, real)
    _check_statistics(session, real)
    _check_search(tasks, real)


def _check_rows(tasks: TaskRepository, real: list[Row]) -> None:
    stored = {task.id: task.to_dict() for task in tasks.iterate()}
    for row in real:
        assert {name: stored[row["id"]][name] for name in row} == row
    for project in {row["project"] for row in real}:
        expected = _newest([row for row in real if row["project"] == project])
        assert [task.id for task in tasks.get_tasks_by_project(project)] == expected
        assert [task.id for task in tasks.get_tasks_by_project(project, limit=7)] == expected[:7]
    for status in STATES:
        expected = _newest([row for row in real if row["status"] == status])
        assert [task.id for task in tasks.get_tasks_by_status(status)] == expected


def _check_tags(tasks: TaskRepository, real: list[Row]) -> None:
    tags = {row["id"]: set(row.get("tags") or ()) for row in real}
    counted = Counter(tag for held in tags.values() for tag in held)
    assert counted
    for tag, count in [*counted.most_common(10), *counted.most_common()[-10:]]:
        found = tasks.get_tasks_by_tag(tag)
        assert ids(found) == {key for key, held in tags.items() if tag in held}
        assert len(found) == count
    (first, _), (second, _), *_ = counted.most_common(2)
    both = {key for key, held in tags.items() if {first, second} <= held}
    some = {key for key, held in tags.items() if {first, second} & held}
    assert ids(tasks.get_tasks_by_tag([first, second])) == both
    assert ids(tasks.get_tasks_by_tag([first, second], match="any")) == some


def _check_dependencies(tasks: TaskRepository, real: list[Row]) -> None:
    status = {row["id"]: row["status"] for row in real}
    needs = {row["id"]: row.get("depends_on") or [] for row in real}
    ready = {
        key
        for key, needed in needs.items()
        if status[key] == "pending" and all(status.get(one) == "completed" for one in needed)
    }
    assert ids(tasks.get_ready_tasks()) == ready
    assert any(needs[key] for key in ready)
    waiting = [key for key, needed in needs.items() if needed]
    for key in waiting[:40]:
        blocking = {one for one in needs[key] if status.get(one, "completed") != "completed"}
        assert ids(tasks.get_blocking_tasks(key)) == blocking
        needed = needs[key][0]
        dependent = {other for other, listed in needs.items() if needed in listed}
        assert ids(tasks.get_dependent_tasks(needed)) == dependent


def _check_statistics(session: Session, real: list[Row]) -> None:
    projects = ProjectRepository(session)
    names = sorted({row["project"] for row in real})
    projects.bulk_create({"name": name, "slug": name} for name in [*names, "idle"])
    counted = Counter((row["project"], row["status"]) for row in real)
    active = set()
    for name in names:
        expected = {status: counted[name, status] for status in STATES}
        total = {"total_tasks": sum(expected.values())}
        assert projects.get_project_statistics(name) == {**total, **expected}
        if any(expected[status] for status in STATES[:4]):
            active.add(name)
    assert {one.name for one in projects.get_projects_with_active_tasks()} == active
    by_project = {entry["project"]: entry for entry in analyze_task_statistics(session.database)}
    assert {name: by_project[name]["total_tasks"] for name in names} == Counter(
        row["project"] for row in real
    )


def _columns(row: Row) -> list[tuple[str, ...]]:
    return [
        words_of((row.get(name) or "")[:100_000]) for name in ("title", "description", "context")
    ]


def _check_search(tasks: TaskRepository, real: list[Row]) -> None:
    columns = {row["id"]: _columns(row) for row in real}

    def holding(phrase: str, *, prefix: bool = False) -> set[str]:
        wanted = words_of(phrase)
        return {
            key
            for key, texts in columns.items()
            if any(_holds(text, wanted, prefix=prefix) for text in texts)
        }

    for word in ("daemon", "deadlock", "sqlite", "merge", "wasm", "zzz", "fix"):
        assert ids(tasks.search_tasks(word)) == holding(word, prefix=True), word
        assert ids(tasks.search_tasks(f'"{word}"')) == holding(word), word
    for phrase in ("race condition", "cmd/bd", "not found", "go.mod", "--json flag", "v0.9"):
        assert ids(tasks.search_tasks(f'"{phrase}"')) == holding(phrase), phrase
    daemon, database = holding("daemon", prefix=True), holding("database", prefix=True)
    assert ids(tasks.search_tasks("daemon database")) == daemon & database
    assert ids(tasks.search_tasks("daemon or database")) == daemon | database
    assert ids(tasks.search_tasks("daemon -database")) == daemon - holding("database")
    found = tasks.search_tasks("daemon")
    in_title = [_holds(columns[task.id][0], ("daemon",), prefix=True) for task in found]
    assert in_title == sorted(in_title, reverse=True)
    assert [task.id for task in tasks.search_tasks("daemon", skip=5, limit=5)] == [
        task.id for task in found[5:10]
    ]


def _holds(text: tuple[str, ...], wanted: tuple[str, ...], *, prefix: bool) -> bool:
    size = len(wanted)
    for start in range(len(text) - size + 1):
        *head, last = text[start : start + size]
        ends = last.startswith(wanted[-1]) if prefix else last == wanted[-1]
        if tuple(head) == wanted[:-1] and ends:
            return True
    return False
