"""What the queue asks walks the index that is made for it, however much has piled up.

The plans are read, not the clock.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import Session, TaskRepository
from hopper_data.database import Database
from hopper_data.routing.repositories.queue import _claim_sql, _holder_sql, _lapse_sql
from hopper_data.routing.waiting import _look_sql
from hopper_data.session import open_session

BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
NOTHING = (False, False, False)
COUNT = 20_000


@pytest.fixture
def session(database: Database) -> Any:
    """A session on many tasks that are done, many that are pending, and some that are held."""
    with open_session(database) as session:
        fill(session)
    database.connect()
    database.execute_sql("ANALYZE")
    database.close()
    with open_session(database) as session:
        yield session


def fill(session: Session) -> None:
    then = datetime.now(UTC) - timedelta(days=30)
    priorities = ("low", "medium", "high", "urgent")
    tasks = TaskRepository(session)
    tasks.bulk_create(
        {
            "id": str(number),
            "title": "x",
            "priority": priorities[number % 4],
            "status": "completed" if number % 2 else "pending",
            "created_at": then + timedelta(minutes=number),
        }
        for number in range(COUNT)
    )
    tasks.claim_next("agent-1", limit=20)
    tasks.claim_next("agent-2", limit=20, lease=0.001)


def plan(session: Session, sql: str, params: tuple[Any, ...]) -> str:
    """The steps of a plan, one a line."""
    sqlite = session.database.dialect == "sqlite"
    explain = "EXPLAIN QUERY PLAN" if sqlite else "EXPLAIN (COSTS OFF)"
    rows = session.database.execute_sql(f"{explain} {sql}", params).fetchall()
    return "\n".join(row[-1] for row in rows)


def whole_tables(steps: str) -> list[str]:
    """The steps that go through all tasks."""
    return re.findall(r"^SCAN tasks?$|Seq Scan on tasks.*", steps, re.MULTILINE)


def now(session: Session) -> str | None:
    return TaskRepository(session)._now()


@BOTH
def test_a_claim_walks_the_queue_in_its_order(session: Session) -> None:
    dialect = session.database.dialect
    sql = _claim_sql(dialect, 5, NOTHING)
    steps = plan(session, sql, (now(session), "agent-3", 300.0, None, None, None))
    assert whole_tables(steps) == []
    if dialect == "sqlite":
        assert "SCAN task USING INDEX idx_tasks_claim" in steps
        assert "SEARCH task USING INDEX idx_tasks_lease (lease_expires_at<?)" in steps
        # Sorted are the expired ones, then the few that are left to choose among.
        assert steps.count("USE TEMP B-TREE FOR ORDER BY") == 2
        before, _, behind = steps.partition("idx_tasks_claim")
        assert "ORDER BY" not in before
        assert "ORDER BY" not in behind.partition("UNION ALL")[0]
    else:
        assert steps.count("Index Scan using idx_tasks_claim on tasks") == 1
        assert "Bitmap Index Scan on idx_tasks_claim" not in steps
        # The index is read inside of the limit, without a sort between them.
        walked = steps.partition("Index Scan using idx_tasks_claim")[0]
        assert re.search(r"LockRows\s+->\s+$", walked)
        assert steps.count("idx_tasks_lease") == 2


@BOTH
def test_a_wait_and_the_end_of_leases_read_little(session: Session) -> None:
    dialect = session.database.dialect
    steps = plan(session, _look_sql(dialect, NOTHING), (now(session), None, None, None))
    assert "idx_tasks_lease" in steps
    assert "idx_tasks_run_after" in steps
    if dialect == "sqlite":
        assert whole_tables(steps) == []
    for spent in (True, False):
        steps = plan(session, _lapse_sql(dialect, spent=spent), (now(session),))
        assert whole_tables(steps) == []
        assert "idx_tasks_lease" in steps


@BOTH
def test_a_holder_finds_the_task_by_its_key(session: Session) -> None:
    dialect = session.database.dialect
    for verb, values in (
        ("heartbeat", ()),
        ("complete", (None,)),
        ("fail", ("boom", None, 1.0)),
        ("release", ()),
    ):
        steps = plan(session, _holder_sql(dialect, verb), (now(session), "1", "token", *values))
        assert whole_tables(steps) == []
        assert re.search("tasks_pkey|sqlite_autoindex_tasks_1", steps)


@BOTH
def test_each_call_is_one_statement(session: Session) -> None:
    sent: list[str] = []
    database = session.database
    tasks = TaskRepository(session)

    def count(call: Any) -> int:
        sent.clear()
        call()
        return len(sent)

    database.query_hooks.append(lambda sql, *_: sent.append(sql))
    try:
        claimed: list[Any] = []
        both = 2 if database.dialect == "sqlite" else 1  # leases that ended for good, on SQLite
        assert count(lambda: claimed.extend(tasks.claim_next("a", limit=3))) == both
        keys = [(task.id, task.lease_token) for task in claimed]
        assert count(lambda: tasks.heartbeat(*keys[0])) == 1
        assert count(lambda: tasks.complete(*keys[0])) == 1
        assert count(lambda: tasks.fail(*keys[1], "boom")) == 1
        assert count(lambda: tasks.release(*keys[2])) == 1
        assert count(tasks.requeue_expired) == 1
        assert count(lambda: tasks.explain_readiness("0")) == 1
        assert count(tasks.count_ready_tasks) == 1
        assert count(tasks.get_queue_statistics) == 2
        assert count(lambda: tasks.get_events("0")) == 1
        assert count(tasks.get_recent_events) == 1
        assert count(lambda: tasks.wait_for_tasks(0)) == 1
    finally:
        database.query_hooks.clear()
