"""Over 100,000 tasks every query of routing has an index, and a limit ends it early.

The plans are read, not the clock. One test for each backend, since filling takes seconds.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from hopper_data import (
    ExternalMappingRepository,
    HopperInstanceRepository,
    ProjectRepository,
    RoutingDecisionRepository,
    Session,
    TaskFeedbackRepository,
    TaskRepository,
    create_database,
)
from hopper_data.database import Database
from hopper_data.session import open_session

COUNT = 100_000
LARGE = {
    *("tasks", "task_tags", "task_dependencies", "task_documents"),
    *("routing_decisions", "task_feedback", "external_mappings"),
}
THEN = datetime(2025, 1, 1, tzinfo=UTC)


def fill(database: Database) -> None:
    """Raw SQL, since nothing else is as fast."""
    with open_session(database) as session:
        for statement in statements(sqlite=database.dialect == "sqlite"):
            session.execute(statement)
    database.connect()
    database.execute_sql("ANALYZE" if database.dialect == "sqlite" else "VACUUM ANALYZE")
    database.close()


def statements(*, sqlite: bool) -> Iterator[str]:
    start, last = int(THEN.timestamp()), COUNT - 1
    if sqlite:
        step = f"SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last}"
        numbers = f"(WITH RECURSIVE n(i) AS ({step}) SELECT i FROM n)"
        time = f"strftime('%Y-%m-%d %H:%M:%S.000000+00:00', {start} + i * 180, 'unixepoch')"
        json_type = "TEXT"
    else:
        numbers = f"generate_series(0, {last}) AS n(i)"
        time = f"to_timestamp({start} + i * 180)"
        json_type = "JSONB"
    yield f"INSERT INTO projects (name, slug) SELECT 'p' || i, 'p' || i FROM {numbers} WHERE i < 50"
    yield f"""
        INSERT INTO tasks (id, title, description, project, status, priority, owner, requester,
            tags, depends_on, created_at, updated_at)
        SELECT 't-' || (1000000 + i), 'fix n' || i || ' w' || (i % 499), 'deploy v' || (i % 997),
            CASE WHEN i % 20 > 0 THEN 'p' || (i * 7 % 50) END,
            CASE i % 10 WHEN 0 THEN 'pending' WHEN 1 THEN 'in_progress' WHEN 2 THEN 'failed'
                ELSE 'completed' END,
            CASE i % 4 WHEN 0 THEN 'low' WHEN 1 THEN 'urgent' ELSE 'medium' END,
            'o' || (i % 97), 'r' || (i % 89),
            CAST('["tag' || (i % 211) || '", "kind' || (i % 101) || '"]' AS {json_type}),
            CAST(CASE WHEN i % 10 = 0 AND i > 0 THEN '["t-' || (999995 + i) || '"]' END
                AS {json_type}),
            {time}, {time}
        FROM {numbers}"""
    yield f"""
        INSERT INTO routing_decisions (task_id, project, confidence, decided_by, decided_at)
        SELECT 't-' || (1000000 + i), 'p' || (i % 50), (i % 1000) / 1000.0,
            CASE i % 3 WHEN 0 THEN 'llm' WHEN 1 THEN 'rules' ELSE 'sage' END, {time}
        FROM {numbers} WHERE i % 2 = 0"""
    yield f"""
        INSERT INTO task_feedback (task_id, quality_score, created_at)
        SELECT 't-' || (1000000 + i), 0.5, {time} FROM {numbers} WHERE i % 5 = 0"""
    yield f"""
        INSERT INTO external_mappings (task_id, platform, external_id)
        SELECT 't-' || (1000000 + i), 'github', 'e' || i FROM {numbers} WHERE i % 5 = 0"""
    yield f"""
        INSERT INTO hopper_instances (id, name, scope, parent_id)
        SELECT 'i' || i, 'n' || i, 'PROJECT', CASE WHEN i > 0 THEN 'i' || ((i - 1) / 5) END
        FROM {numbers} WHERE i < 1000"""


# -- what is asked --------------------------------------------------------------------------------


class Call(NamedTuple):
    """A call of a repository. `limited` ones may walk an index, since they soon have enough."""

    name: str
    run: Callable[[], Any]
    limited: bool = False


def calls(session: Session) -> Iterator[Call]:
    tasks = TaskRepository(session)
    key = "t-1050000"
    page: dict[str, Any] = {"limit": 20}
    yield Call("get", lambda: tasks.get(key))
    yield Call("exists", lambda: tasks.exists(key))
    for project in ("p1", None, "none"):
        yield Call("project", lambda p=project: tasks.get_tasks_by_project(p, **page), limited=True)
    yield Call("all of a project", lambda: tasks.get_tasks_by_project("p1"))
    for status in ("pending", "completed", "blocked"):
        yield Call("status", lambda s=status: tasks.get_tasks_by_status(s, **page), limited=True)
    yield Call("requester", lambda: tasks.get_tasks_by_requester("r1", **page), limited=True)
    yield Call("owner", lambda: tasks.get_tasks_by_owner("o1", **page), limited=True)
    yield Call("all of an owner", lambda: tasks.get_tasks_by_owner("o1"))
    yield Call("unassigned", lambda: tasks.get_unassigned_tasks(**page), limited=True)
    yield Call("pending", lambda: tasks.get_pending_tasks(**page), limited=True)
    yield Call("ready", lambda: tasks.get_ready_tasks(**page), limited=True)
    yield Call("tag", lambda: tasks.get_tasks_by_tag("tag7", **page), limited=True)
    yield Call("all of a tag", lambda: tasks.get_tasks_by_tag("tag7"))
    yield Call("no such tag", lambda: tasks.get_tasks_by_tag("none", **page), limited=True)
    yield Call("both tags", lambda: tasks.get_tasks_by_tag(["tag7", "kind3"], **page), limited=True)
    yield Call("any tag", lambda: tasks.get_tasks_by_tag(["tag7", "tag9"], match="any"))
    for query in ("n50000", "w17", '"w17 x"', "v17 -w3", "n50000 or n60000", "n500*"):
        yield Call("search", lambda q=query: tasks.search_tasks(q, **page))
    yield Call("narrow", lambda: tasks.search_tasks("w17", filters={"status": "pending"}))
    yield Call("blocking", lambda: tasks.get_blocking_tasks(key))
    yield Call("dependent", lambda: tasks.get_dependent_tasks(key))
    yield from _filters(tasks)
    yield from _writes(tasks, key)
    yield from _projects(session)
    yield from _instances(session)
    yield from _decisions(session)


def _filters(tasks: TaskRepository) -> Iterator[Call]:
    newest: dict[str, Any] = {"limit": 20, "order_by": "-created_at"}
    both = {"project": "p1", "status": "pending"}
    day = {"created_at__gte": THEN, "created_at__lt": THEN + timedelta(hours=5)}
    yield Call("filter", lambda: tasks.filter(both, **newest), limited=True)
    yield Call("count", lambda: tasks.count(both))
    yield Call("days", lambda: tasks.filter(day))
    for order in ("-created_at", "created_at", None):
        yield Call("all", lambda o=order: tasks.get_all(limit=20, order_by=o), limited=True)
    for filters in (None, both, {"status": "completed"}):
        after = tasks.page(filters, **newest).next
        yield Call(
            "page", lambda f=filters, a=after: tasks.page(f, after=a, **newest), limited=True
        )


def _writes(tasks: TaskRepository, key: str) -> Iterator[Call]:
    yield Call("update", lambda: tasks.update(key, owner="x"))
    yield Call("update status", lambda: tasks.update_status(key, "blocked"))
    yield Call("depend", lambda: tasks.update(key, depends_on=["t-1000007", "t-1000990"]))
    yield Call("upsert", lambda: tasks.upsert(id=key, title="x"))
    yield Call("bulk update", lambda: tasks.bulk_update([{"id": key, "status": "pending"}]))
    yield Call("delete", lambda: tasks.delete("t-1000100"))
    yield Call("bulk delete", lambda: tasks.bulk_delete(["t-1000200", "t-1000300"]))


def _projects(session: Session) -> Iterator[Call]:
    projects = ProjectRepository(session)
    yield Call("active", projects.get_projects_with_active_tasks)
    yield Call("statistics", lambda: projects.get_project_statistics("p1"))
    yield Call("delete project", lambda: projects.delete("p49"))


def _instances(session: Session) -> Iterator[Call]:
    instances = HopperInstanceRepository(session)
    yield Call("by name", lambda: instances.get_instance_by_scope_and_name("PROJECT", "n5"))
    yield Call("children", lambda: instances.get_child_instances("i5"))
    yield Call("hierarchy", lambda: instances.get_instance_hierarchy("i50"))
    yield Call("roots", instances.get_root_instances)
    yield Call("move", lambda: instances.move_instance("i900", "i5"))


def _decisions(session: Session) -> Iterator[Call]:
    decisions = RoutingDecisionRepository(session)
    page: dict[str, Any] = {"limit": 20}
    yield Call("of a task", lambda: decisions.get_decisions_by_task("t-1000010"))
    for strategy in ("llm", "none"):
        yield Call(
            "strategy",
            lambda s=strategy: decisions.get_decisions_by_strategy(s, **page),
            limited=True,
        )
    yield Call(
        "of a project", lambda: decisions.get_decisions_by_project("p4", **page), limited=True
    )
    yield Call("recent", lambda: decisions.get_recent_decisions(20), limited=True)
    yield Call("last day", lambda: decisions.get_recent_decisions(20, hours=24), limited=True)
    yield Call("unsure", lambda: decisions.get_decisions_with_low_confidence(**page), limited=True)
    yield Call("least sure", lambda: decisions.get_decisions_with_low_confidence(0.002))
    yield Call("route", lambda: decisions.route_task("t-1000011", "p1", confidence=0.5))
    feedback = TaskFeedbackRepository(session)
    yield Call("record", lambda: feedback.record("t-1000011", notes="x"))
    mappings = ExternalMappingRepository(session)
    yield Call("issue", lambda: mappings.get_by_external_id("github", "e500"))
    yield Call("issues", lambda: mappings.get_mappings_by_task("t-1000010"))
    yield Call("link", lambda: mappings.link("t-1000011", "github", "x"))


# -- what the plans say ---------------------------------------------------------------------------


@contextmanager
def captured(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are run meanwhile."""
    statements: list[tuple[str, Any]] = []
    execute = database.execute_sql

    def record(sql: str, params: Any = None) -> Any:
        if re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\b", sql):
            statements.append((sql, params))
        return execute(sql, params)

    def watch(_event: Any) -> None:
        """Keeps the fast path, which goes round `execute_sql`, from being taken."""

    database.execute_sql = record  # type: ignore[method-assign]
    database.query_hooks.append(watch)
    try:
        yield statements
    finally:
        database.query_hooks.remove(watch)
        del database.execute_sql  # type: ignore[method-assign]


def faults_of_sqlite(database: Database, sql: str, params: Any, *, limited: bool) -> list[str]:
    aliases = {
        alias: table
        for table, alias in re.findall(r'"?(\w+)"? AS "?(\w+)"?', sql)
        if table in LARGE
    }
    faults = []
    for *_, detail in database.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params).fetchall():
        match = re.match(r"SCAN (\w+)(?: USING (?:COVERING )?INDEX (\w+))?", detail)
        if match and aliases.get(match[1], match[1]) in LARGE and not (limited and match[2]):
            faults.append(detail)
    return faults


def faults_of_postgresql(database: Database, sql: str, params: Any, *, limited: bool) -> list[str]:
    # A limited read is run, to see how many rows it looks at.
    analyze = "ANALYZE, " if limited else ""
    row = database.execute_sql(f"EXPLAIN ({analyze}FORMAT JSON) {sql}", params).fetchone()[0]
    plan = row if isinstance(row, list) else json.loads(row)
    faults = []

    def visit(node: dict[str, Any]) -> None:
        kind, table = node["Node Type"], node.get("Relation Name")
        whole = kind in ("Index Scan", "Index Only Scan") and "Index Cond" not in node
        if table in LARGE and (kind == "Seq Scan" or (whole and not limited)):
            faults.append(f"{kind} on {table}")
        looked = node.get("Actual Rows", 0) + node.get("Rows Removed by Filter", 0)
        if table in LARGE and looked > COUNT / 10:
            faults.append(f"{looked} rows of {table} for a page")
        for child in node.get("Plans", ()):
            visit(child)

    visit(plan[0]["Plan"])
    return faults


def check_plans(database: Database) -> None:
    faults_of = faults_of_sqlite if database.dialect == "sqlite" else faults_of_postgresql
    faults: list[str] = []
    with open_session(database) as session, session.database.atomic() as scope:
        for name, run, limited in calls(session):
            with captured(database) as statements:
                run()
            assert statements, name
            for sql, params in statements:
                found = faults_of(database, sql, params, limited=limited)
                faults += [f"{name}: {fault} in {sql[-400:]}" for fault in found]
        scope.rollback()
    assert faults == [], "\n".join(faults)


def test_sqlite_has_an_index_for_every_query(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "large.db"
    shutil.copy(sqlite_template, path)
    database = create_database(f"sqlite:///{path}", slow_query_ms=100_000)
    fill(database)
    check_plans(database)
    _check_steps(database)
    database.close_pool()


def _check_steps(database: Database) -> None:
    """A limited read takes few steps of SQLite's virtual machine: a whole table takes millions."""
    with open_session(database) as session, session.database.atomic() as scope:
        connection: Any = database.connection()
        for name, run, limited in calls(session):
            steps = [0]

            def count(steps: list[int] = steps) -> int:
                steps[0] += 1
                return 0

            connection.set_progress_handler(count, 1_000)
            run()
            connection.set_progress_handler(None, 0)
            assert not limited or steps[0] < 100, (name, steps[0])
        scope.rollback()


def test_postgresql_has_an_index_for_every_query(make_postgres: Callable[..., str]) -> None:
    database = create_database(make_postgres(), slow_query_ms=100_000)
    fill(database)
    check_plans(database)
    database.close_pool()
