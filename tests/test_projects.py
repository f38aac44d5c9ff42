"""`ProjectRepository`: what is registered, what is going on in it, what it can do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    ExecutorType,
    IntegrityError,
    Project,
    ProjectRepository,
    RoutingDecisionRepository,
    Session,
    TaskRepository,
    ValidationError,
    Velocity,
)
from hopper_data.fields import utcnow

STATES = ("pending", "claimed", "in_progress", "blocked", "completed", "failed", "cancelled")


@pytest.fixture
def projects(session: Session) -> ProjectRepository:
    return ProjectRepository(session)


def names(found: list[Project]) -> list[str]:
    return [project.name for project in found]


def fill(projects: ProjectRepository, *keys: str, **fields: Any) -> None:
    projects.bulk_create({"name": key, "slug": f"{key}-slug", **fields} for key in keys)


def test_a_project_keeps_every_column(projects: ProjectRepository) -> None:
    given: dict[str, Any] = {
        "name": "n" * 100,
        "slug": "s" * 100,
        "repository": "r" * 500,
        "capabilities": {"languages": ["python"], "skills": ["api", {"level": 3}]},
        "tags": ["a"],
        "executor_type": "agent",
        "executor_config": {"model": None},
        "auto_claim": True,
        "priority_boost": {"urgent": 1.5},
        "velocity": "fast",
        "sla": [],
        "webhook_url": "w" * 500,
        "api_endpoint": "a" * 500,
        "sync_config": {},
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "created_by": "me",
        "last_sync": datetime(2026, 1, 2, tzinfo=UTC),
    }
    projects.create(**given)
    stored = projects.get_or_raise("n" * 100)
    assert {name: getattr(stored, name) for name in given} == given
    assert list(stored.to_dict()) == list(given)


def test_a_project_needs_little(projects: ProjectRepository) -> None:
    made = projects.create(name="web", slug="web")
    assert made.auto_claim is False
    assert made.capabilities is None
    assert projects.get_or_raise("web").to_dict() == made.to_dict()
    for missing in ({"name": "api"}, {"slug": "api"}, {}):
        with pytest.raises(ValidationError, match=r"Project (name|slug) is missing"):
            projects.create(**missing)
    wrong: list[tuple[str, Any]] = [
        ("slug", "x" * 101),
        ("velocity", "x" * 21),
        ("executor_type", "x" * 51),
        ("auto_claim", "yes"),
        ("auto_claim", 1),
        ("tags", {"a": 1}),
        ("last_sync", datetime(2026, 1, 1)),  # noqa: DTZ001 - naive on purpose
        ("sla", {"x": float("nan")}),
    ]
    for column, value in wrong:
        with pytest.raises(ValidationError, match=f"Project {column}") as caught:
            projects.create(**{"name": "api", "slug": "api", column: value})
        assert caught.value.field == column
    assert projects.count() == 1


def test_open_words_are_kept_as_they_are(projects: ProjectRepository) -> None:
    projects.create(name="a", slug="a", executor_type=ExecutorType.CZARINA, velocity=Velocity.SLOW)
    projects.create(name="b", slug="b", executor_type="robot", velocity="snail")
    assert names(projects.get_projects_by_executor_type("czarina")) == ["a"]
    assert names(projects.get_projects_by_executor_type("robot")) == ["b"]
    assert projects.get_or_raise("b").velocity == "snail"
    assert [*Velocity] == ["slow", "medium", "fast"]


def test_names_and_slugs_are_taken_once(projects: ProjectRepository) -> None:
    fill(projects, "web", "api")
    with pytest.raises(IntegrityError, match="Project name 'web' is already taken") as caught:
        projects.create(name="web", slug="other")
    assert caught.value.constraint == "projects_pkey"
    with pytest.raises(IntegrityError, match="Project slug 'api-slug' is already taken") as caught:
        projects.create(name="other", slug="api-slug")
    assert caught.value.constraint == "idx_projects_slug"
    with pytest.raises(IntegrityError, match="slug 'api-slug' is already taken"):
        projects.update("web", slug="api-slug")
    with pytest.raises(IntegrityError, match="slug 'x' is already taken"):
        projects.bulk_create([{"name": "x", "slug": "x"}, {"name": "y", "slug": "x"}])
    assert names(projects.get_all()) == ["api", "web"]
    assert projects.get_or_raise("web").slug == "web-slug"


def test_a_project_is_found_by_its_slug(projects: ProjectRepository) -> None:
    fill(projects, "web")
    for find in (projects.get_by_slug, projects.get_project_by_slug):
        with assert_query_count(1):
            found = find("web-slug")
        assert found is not None
        assert found.name == "web"
        assert find("web") is None
        assert find("WEB-SLUG") is None
        with pytest.raises(ValidationError, match="NUL"):
            find("a\0")


def test_a_project_is_active_while_a_task_of_it_is(
    projects: ProjectRepository, session: Session
) -> None:
    fill(projects, *STATES, "empty", "mixed")
    tasks = TaskRepository(session)
    tasks.bulk_create({"title": "x", "project": state, "status": state} for state in STATES)
    for state in ("completed", "pending", "pending"):
        tasks.create(title="x", project="mixed", status=state)
    tasks.create(title="x", project="not registered")
    expected = ["blocked", "claimed", "in_progress", "mixed", "pending"]
    with assert_query_count(1):
        assert names(projects.get_projects_with_active_tasks()) == expected
    assert names(projects.get_projects_with_active_tasks(limit=1)) == ["blocked"]
    assert names(projects.get_projects_with_active_tasks(skip=3)) == ["mixed", "pending"]
    assert projects.get_projects_with_active_tasks(limit=0) == []
    with pytest.raises(ValidationError, match="limit is -1"):
        projects.get_projects_with_active_tasks(limit=-1)


def test_statistics_count_every_status(projects: ProjectRepository, session: Session) -> None:
    fill(projects, "web", "empty")
    tasks = TaskRepository(session)
    for number, state in enumerate(STATES):
        tasks.bulk_create({"title": "x", "project": "web", "status": state} for _ in range(number))
    tasks.create(title="x", project="not registered")
    tasks.create(title="x")
    with assert_query_count(1):
        statistics = projects.get_project_statistics("web")
    assert statistics == {"total_tasks": 21, **{state: n for n, state in enumerate(STATES)}}
    nothing = dict.fromkeys(STATES, 0)
    assert projects.get_project_statistics("empty") == {"total_tasks": 0, **nothing}
    assert projects.get_project_statistics("unknown") == {"total_tasks": 0, **nothing}
    found = projects.get_project_statistics("not registered")
    assert found == {"total_tasks": 1, **nothing, "pending": 1}
    assert all(type(value) is int for value in found.values())


def test_lists_of_projects(projects: ProjectRepository) -> None:
    projects.bulk_create(
        {"name": name, "slug": name, "auto_claim": claim, "executor_type": executor}
        for name, claim, executor in (
            ("c", True, "agent"),
            ("a", True, None),
            ("d", False, "agent"),
            ("b", True, "human"),
        )
    )
    with assert_query_count(1):
        assert names(projects.get_auto_claim_projects()) == ["a", "b", "c"]
    assert names(projects.get_auto_claim_projects(skip=1, limit=1)) == ["b"]
    assert projects.get_auto_claim_projects(limit=0) == []
    with assert_query_count(1):
        assert names(projects.get_projects_by_executor_type("agent")) == ["c", "d"]
    assert names(projects.get_projects_by_executor_type(None)) == ["a"]
    assert names(projects.get_projects_by_executor_type("agent", limit=1)) == ["c"]
    assert projects.get_projects_by_executor_type("none") == []


def test_projects_are_found_by_what_they_can_do(projects: ProjectRepository) -> None:
    capabilities: dict[str, Any] = {
        "list": ["python", "api"],
        "dict": {"languages": ["python", "go"], "skills": {"deep": [["api"]]}},
        "scalar": "python",
        "keys": {"python": True, "api": None},
        "numbers": [1, 2.5, True, None],
        "case": ["Python"],
        "odd": ['"', "%", "a'b", "\\", "日本", "$text"],
        "empty": [],
        "none": None,
    }
    projects.bulk_create(
        {"name": name, "slug": name, "capabilities": value} for name, value in capabilities.items()
    )
    for wanted, expected in (
        (["python"], ["dict", "list", "scalar"]),
        ("python", ["dict", "list", "scalar"]),
        (("python", "api"), ["dict", "list"]),
        (["api", "python", "api"], ["dict", "list"]),
        (["go", "api"], ["dict"]),
        (["python", "rust"], []),
        (["Python"], ["case"]),
        (["1"], []),
        (["true"], []),
        (['"', "%", "a'b", "\\", "日本", "$text"], ["odd"]),
        ([], sorted(capabilities)),
        (None, sorted(capabilities)),
    ):
        with assert_query_count(1):
            assert names(projects.find_projects_for(wanted)) == expected, wanted
    assert names(projects.find_projects_for(["python"], skip=1, limit=1)) == ["list"]
    assert projects.find_projects_for(["python"], limit=0) == []
    wrong: list[Any] = [5, [5], [""], "", {"python": 1}, [None], b"python", ["a\0"]]
    for value in wrong:
        with pytest.raises(ValidationError, match="Project capabilities"):
            projects.find_projects_for(value)


def test_a_synchronisation_is_noted(projects: ProjectRepository) -> None:
    fill(projects, "web")
    before = utcnow()
    synced = projects.update_last_sync("web")
    assert synced is not None
    assert synced.last_sync is not None
    assert before <= synced.last_sync <= utcnow()
    then = datetime(2026, 1, 2, tzinfo=UTC)
    assert projects.update_last_sync("web", then) is not None
    assert projects.get_or_raise("web").last_sync == then
    assert projects.update_last_sync("none") is None
    with pytest.raises(ValidationError, match="naive"):
        projects.update_last_sync("web", datetime(2026, 1, 2))  # noqa: DTZ001
    assert projects.get_or_raise("web").last_sync == then


def test_a_deleted_project_leaves_tasks_and_decisions(
    projects: ProjectRepository, session: Session
) -> None:
    fill(projects, "web", "api")
    tasks, decisions = TaskRepository(session), RoutingDecisionRepository(session)
    for key, name in (("a", "web"), ("b", "web"), ("c", "api")):
        tasks.create(id=key, title=key)
        decisions.route_task(key, name, confidence=0.5)
    assert projects.delete("web") is True
    assert projects.bulk_delete(["api", "none"]) == 1
    assert [decision.project for decision in decisions.get_all()] == [None, None, None]
    assert [task.project for task in tasks.get_all()] == ["web", "web", "api"]
