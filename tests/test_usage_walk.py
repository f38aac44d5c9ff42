"""The usage guide that callers know, call by call, in Peewee's words, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

import hopper_data
from hopper_data import (
    HopperInstanceRepository,
    ProjectRepository,
    RoutingDecisionRepository,
    Session,
    SessionFactory,
    Task,
    TaskRepository,
    analyze_database_statistics,
    build_database_url,
    check_database_health,
    connect,
    create_database,
    dump_schema,
    get_async_session,
    get_database_info,
    get_schema_version,
    get_sync_session,
    init_database,
    reset_database,
    run_migrations,
    vacuum_database,
)
from hopper_data.database import proxy


@pytest.fixture
def url(
    make_url: Callable[..., str], backend: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """An empty database, which DATABASE_URL names."""
    url = make_url(backend, migrated=False)
    monkeypatch.setenv("DATABASE_URL", url)
    yield url
    proxy.initialize(None)


@pytest.fixture
def session(url: str) -> Iterator[Session]:
    run_migrations("head")
    with get_sync_session() as session:
        yield session


# Setup, connections, migrations.


def test_initialize_database(url: str) -> None:
    assert run_migrations("head") == 0
    with get_sync_session() as session:
        assert TaskRepository(session).get_all() == []
    init_database()
    assert get_schema_version() is not None


def test_create_tables_directly(url: str) -> None:
    init_database(create_tables=True)
    with get_sync_session() as session:
        assert TaskRepository(session).create(title="x").title == "x"


def test_synchronous_sessions(url: str) -> None:
    run_migrations()
    with get_sync_session() as session:
        assert Task.select().first() is None
        TaskRepository(session).create(id="kept", title="x")
    with pytest.raises(RuntimeError), get_sync_session() as session:
        TaskRepository(session).create(id="undone", title="x")
        raise RuntimeError
    with get_sync_session() as session:
        assert [task.id for task in Task.select()] == ["kept"]


@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_asynchronous_sessions(url: str) -> None:
    run_migrations()
    with get_sync_session() as session:
        TaskRepository(session).create(id="a", title="x")

    async def get_tasks() -> list[str]:
        async with get_async_session() as session:
            found = await session.run(lambda: TaskRepository(session.sync_session).get_all())
            return [task.id for task in found]

    assert asyncio.run(get_tasks()) == ["a"]


def test_a_database_of_its_own(url: str, caplog: pytest.LogCaptureFixture) -> None:
    database = create_database(url, echo=True)
    run_migrations(database=database)
    with caplog.at_level("INFO", logger="hopper_data"):
        assert check_database_health(database)
    assert "SELECT 1" in caplog.text
    database.close_pool()
    with SessionFactory(url) as factory:
        init_database(factory.database)
        with factory.get_session() as session:
            assert TaskRepository(session).count() == 0


def test_a_url_from_its_parts() -> None:
    made = build_database_url(
        "postgresql", host="localhost", user="user", password="p@ss/word", database="hopper"
    )
    assert made == "postgresql://user:p%40ss%2Fword@localhost/hopper"
    assert build_database_url("sqlite", database="./custom.db") == "sqlite:///./custom.db"


def test_migrations_by_name(url: str) -> None:
    assert run_migrations("001_routing") == 0
    assert get_schema_version() == "001_routing"
    assert run_migrations("base") == 0
    assert get_schema_version() is None


# Repositories.


def test_tasks(session: Session) -> None:
    repo = TaskRepository(session)
    task = repo.create(
        id="task-123",
        title="Implement feature X",
        description="Add new feature to the API",
        status="pending",
        priority="high",
        tags=["backend", "api"],
        project="my-project",
    )
    assert repo.get("task-123") == task
    updated = repo.update("task-123", status="in_progress")
    assert updated is not None
    assert updated.status == "in_progress"
    repo.create(id="other", title="A bug fix", project="my-project")
    assert [task.id for task in repo.get_tasks_by_status("pending")] == ["other"]
    assert [task.id for task in repo.get_tasks_by_project("my-project")] == ["other", "task-123"]
    assert [task.id for task in repo.search_tasks("bug fix")] == ["other"]
    assert [task.id for task in repo.get_tasks_by_tag("api")] == ["task-123"]
    found = repo.get_all(skip=0, limit=10, order_by="-created_at")
    assert [task.id for task in found] == ["other", "task-123"]
    assert repo.count(filters={"status": "pending"}) == 1
    found = repo.filter(
        filters={"project": "my-project", "status": "pending"}, order_by="-created_at"
    )
    assert [task.id for task in found] == ["other"]
    assert repo.filter(filters={"status": "pending", "priority": "high"}, limit=10) == []
    assert repo.delete("task-123") is True
    assert repo.get("task-123") is None


def test_projects(session: Session) -> None:
    repo = ProjectRepository(session)
    project = repo.create(
        name="my-project",
        slug="my-proj",
        repository="https://github.com/user/project",
        capabilities={"languages": ["python"], "skills": ["api"]},
        executor_type="agent",
        auto_claim=True,
    )
    assert repo.get_by_slug("my-proj") == project
    assert repo.get_projects_with_active_tasks() == []
    tasks = TaskRepository(session)
    for status, count in (("pending", 5), ("in_progress", 3), ("completed", 2)):
        tasks.bulk_create(
            {"title": "x", "status": status, "project": "my-project"} for _ in range(count)
        )
    statistics = repo.get_project_statistics("my-project")
    expected = {"total_tasks": 10, "pending": 5, "in_progress": 3, "completed": 2}
    assert {name: statistics[name] for name in expected} == expected
    assert repo.get_projects_with_active_tasks() == [project]


def test_instances(session: Session) -> None:
    repo = HopperInstanceRepository(session)
    repo.create(id="global-hopper", name="Global Hopper", scope="GLOBAL", status="active")
    repo.create(
        id="project-hopper-1",
        name="Project Hopper",
        scope="PROJECT",
        parent_id="global-hopper",
        status="active",
    )
    hierarchy = repo.get_instance_hierarchy("project-hopper-1")
    assert [instance.id for instance in hierarchy] == ["global-hopper", "project-hopper-1"]
    ended = repo.terminate_instance("project-hopper-1")
    assert ended is not None
    assert ended.terminated_at is not None


def test_routing_decisions(session: Session) -> None:
    TaskRepository(session).create(id="task-123", title="x")
    ProjectRepository(session).create(name="my-project", slug="my-project")
    repo = RoutingDecisionRepository(session)
    decision = repo.create(
        task_id="task-123",
        project="my-project",
        confidence=0.95,
        reasoning="Best match based on capabilities",
        decided_by="llm",
        decision_time_ms=250.5,
    )
    assert repo.get_recent_decisions(limit=10) == [decision]
    assert repo.get_decisions_with_low_confidence(threshold=0.7) == []
    analytics = repo.get_decision_analytics()
    assert analytics["strategy_stats"]["llm"] == {
        "count": 1,
        "avg_confidence": 0.95,
        "avg_decision_time_ms": 250.5,
    }


def test_bulk_operations(session: Session) -> None:
    repo = TaskRepository(session)
    tasks_data = [
        {"id": "task-1", "title": "Task 1", "status": "pending", "priority": "low"},
        {"id": "task-2", "title": "Task 2", "status": "pending", "priority": "medium"},
        {"id": "task-3", "title": "Task 3", "status": "pending", "priority": "high"},
    ]
    assert [task.id for task in repo.bulk_create(tasks_data)] == ["task-1", "task-2", "task-3"]
    updates = [
        {"id": "task-1", "status": "completed"},
        {"id": "task-2", "status": "in_progress"},
    ]
    assert repo.bulk_update(updates) == 2
    assert repo.bulk_delete(["task-1", "task-2", "task-3"]) == 3


# Utilities and troubleshooting.


def test_utilities(url: str) -> None:
    run_migrations()
    with get_sync_session() as session:
        TaskRepository(session).create(title="x")
    assert check_database_health()
    info = get_database_info()
    assert set(info) >= {"url", "type", "async_url"}
    assert "tasks" in dump_schema()
    statistics = analyze_database_statistics()
    assert statistics["row_counts"]["tasks"] == statistics["total_rows"] == 1
    vacuum_database()
    reset_database(confirm=True)
    assert analyze_database_statistics()["total_rows"] == 0


def test_a_statement_of_the_callers_own(session: Session) -> None:
    assert session.execute("EXPLAIN SELECT * FROM tasks")
    TaskRepository(session).create(id="a", title="100%")
    sql = "SELECT id FROM tasks WHERE title = ? AND title LIKE '%\\%' ESCAPE '\\'"
    assert session.execute(sql, ("100%",)) == [("a",)]
    assert session.execute("SELECT id FROM tasks WHERE title = :title", {"title": "100%"}) == [
        ("a",)
    ]
    assert session.database.table_exists("tasks")


def test_connect_points_the_process_at_a_database(make_url: Callable[..., str]) -> None:
    database = connect(make_url("sqlite"))
    try:
        with get_sync_session() as session:
            assert session.database is database
    finally:
        proxy.initialize(None)


def test_every_name_of_the_guide_is_exported() -> None:
    names = [
        *("get_sync_session", "get_async_session", "SessionFactory", "DatabaseConfig"),
        *("create_database", "build_database_url", "init_database", "run_migrations"),
        *("check_database_health", "get_database_info", "analyze_database_statistics"),
        *("reset_database", "dump_schema", "vacuum_database"),
        *("TaskRepository", "ProjectRepository", "HopperInstanceRepository"),
        *("RoutingDecisionRepository", "TaskFeedbackRepository", "ExternalMappingRepository"),
    ]
    assert set(names) <= set(hopper_data.__all__)
    assert all(hasattr(hopper_data, name) for name in names)
