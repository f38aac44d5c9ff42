"""What the queue asks walks the index that is made for it, however much has piled up.

The plans are read, not the clock.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import Session, TaskRepository, create_database
from hopper_data.database import Database
from hopper_data.routing.leases import (
    claim_sql,
    expired_sql,
    holder_sql,
    holders_sql,
    lapse_sql,
)
from hopper_data.routing.waiting import _look_sql
from hopper_data.session import open_session

BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
NOTHING = (False, False, False)
COUNT = 20_000


@pytest.fixture
def sqlite_session(make_url: Callable[..., str]) -> Any:
    """The same on SQLite alone."""
    database = create_database(make_url("sqlite"))
    yield from many_tasks(database)
    database.close_pool()


@pytest.fixture
def session(database: Database) -> Any:
    """A session on many tasks that are done, many that are pending, and some that are held."""
    yield from many_tasks(database)


def many_tasks(database: Database) -> Iterator[Session]:
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


def test_a_claim_walks_the_queue_in_its_order(sqlite_session: Session) -> None:
    moment = now(sqlite_session)
    values = (moment, "agent-3", 300.0, moment, 5)
    steps = plan(sqlite_session, claim_sql(NOTHING, expired=False), values)
    assert whole_tables(steps) == []
    assert "SCAN task USING INDEX idx_tasks_claim" in steps
    assert "ORDER BY" not in steps
    steps = plan(sqlite_session, claim_sql(NOTHING, expired=True), values)
    assert whole_tables(steps) == []
    assert "SCAN task USING INDEX idx_tasks_claim" in steps
    assert "SEARCH task USING INDEX idx_tasks_lease (lease_expires_at<?)" in steps
    # Sorted are the expired ones, then the few that are left to choose among.
    assert steps.count("USE TEMP B-TREE FOR ORDER BY") == 2
    before, _, behind = steps.partition("idx_tasks_claim")
    assert "ORDER BY" not in before
    assert "ORDER BY" not in behind.partition("UNION ALL")[0]
    steps = plan(sqlite_session, expired_sql(), (moment,))
    assert steps == "SEARCH task USING INDEX idx_tasks_lease (lease_expires_at<?)"


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_claim_reads_little_of_a_long_queue(session: Session) -> None:
    """PostgreSQL does not show the plans of a function, but it counts what they read."""
    tasks = TaskRepository(session)
    assert rows_read(session, lambda: tasks.claim_next("a", limit=30)) < 400  # 20 have expired
    assert len(tasks.claim_next("b", limit=5, lease=0.001)) == 5
    assert rows_read(session, lambda: tasks.claim_next("b", limit=5)) < 150
    held = tasks.claim_next("b", limit=5)
    assert rows_read(session, lambda: tasks.complete(held[0].id, held[0].lease_token)) < 20
    assert rows_read(session, lambda: tasks.complete_many(held[1:])) < 50
    assert rows_read(session, lambda: tasks.claim_next("b", limit=5)) < 50
    assert rows_read(session, lambda: tasks.claim_next("b", projects="none")) > COUNT / 4


def rows_read(session: Session, call: Callable[[], Any]) -> int:
    """How many tasks a call has looked at; none of them by going through the whole table."""
    sql = (
        "SELECT seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables "
        "WHERE relname = 'tasks'"
    )
    ((scans, before),) = session.execute(sql)
    call()
    ((scans_then, after),) = session.execute(sql)
    assert scans_then == scans
    return int(after - before)


@BOTH
def test_a_wait_and_the_end_of_leases_read_little(session: Session) -> None:
    dialect = session.database.dialect
    steps = plan(session, _look_sql(dialect, NOTHING), (now(session), None, None, None))
    assert "idx_tasks_lease" in steps
    assert "idx_tasks_run_after" in steps
    if dialect == "sqlite":
        assert whole_tables(steps) == []
    for spent in (True, False):
        steps = plan(session, lapse_sql(dialect, spent=spent), (now(session),))
        assert whole_tables(steps) == []
        assert "idx_tasks_lease" in steps


@BOTH
def test_a_holder_finds_the_task_by_its_key(session: Session) -> None:
    dialect = session.database.dialect
    for verb, values in (
        ("heartbeat", ()),
        ("complete", (None,)),
        ("fail", ("boom", None, 1.0)),
        ("release", (None,)),
    ):
        if (dialect, verb) != ("postgresql", "complete"):
            steps = plan(session, holder_sql(dialect, verb), (now(session), "1", "token", *values))
            assert whole_tables(steps) == []
            assert re.search("tasks_pkey|sqlite_autoindex_tasks_1", steps)
    for verb in ("heartbeat", "complete"):
        values = (now(session), json.dumps([["1", "token"], ["2", "token"]]))
        steps = plan(session, holders_sql(dialect, verb), values)
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
        # On SQLite the usual claim finds nothing, since leases have expired.
        steps = 4 if database.dialect == "sqlite" else 1
        assert count(lambda: claimed.extend(tasks.claim_next("a", limit=3))) == steps
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
