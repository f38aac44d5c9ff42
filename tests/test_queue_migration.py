"""The migration that brings the queue: up and down, with the rows that were there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hopper_data import (
    DatabaseError,
    SessionFactory,
    TaskRepository,
    check_schema,
    get_schema_version,
    run_migrations,
)
from hopper_data.database import Database
from hopper_data.session import Session, open_session

BEFORE, QUEUE, CLAIMS = "003_chat", "004_queue", "005_claims"
OLD_COLUMNS = "id, title, status, priority, owner, tags, depends_on, created_at, updated_at"
BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)


def rows(database: Database) -> list[tuple[object, ...]]:
    with open_session(database) as session:
        return session.execute(f"SELECT {OLD_COLUMNS} FROM tasks ORDER BY id")


def fill(database: Database) -> None:
    with open_session(database) as session:
        for number, status in enumerate(("pending", "claimed", "completed", "failed")):
            session.execute(
                "INSERT INTO tasks (id, title, status, owner, tags) VALUES (?, ?, ?, ?, ?)",
                (str(number), "x", status, "me", '["red"]'),
            )
        session.execute("INSERT INTO task_feedback (task_id, notes) VALUES ('2', 'fine')")


@BOTH
def test_old_tasks_join_the_queue_and_leave_it(empty_database: Database) -> None:
    run_migrations(BEFORE)
    fill(empty_database)
    before = rows(empty_database)
    run_migrations("head")
    assert check_schema() == []
    assert rows(empty_database) == before
    with open_session(empty_database) as session:
        tasks = TaskRepository(session)
        old = tasks.get_or_raise("1")
        assert (old.attempts, old.max_attempts, old.lease_token) == (0, 3, None)
        (claimed,) = tasks.claim_next("agent-1", limit=9, tags="red")
        assert claimed.id == "0"
        tasks.complete("0", claimed.lease_token)
    after = rows(empty_database)
    run_migrations(BEFORE)
    assert get_schema_version() == BEFORE
    assert rows(empty_database) == after
    with open_session(empty_database) as session:
        assert session.execute("SELECT task_id, notes FROM task_feedback") == [("2", "fine")]
        session.execute("UPDATE tasks SET status = 'pending' WHERE id = '0'")
        session.execute("INSERT INTO tasks (id, title) VALUES ('new', 'x')")
    run_migrations(QUEUE)
    run_migrations("head")
    assert check_schema() == []
    with open_session(empty_database) as session:
        assert {task.id for task in TaskRepository(session).claim_next("b", limit=9)} == {
            "0",
            "new",
        }


@BOTH
def test_nothing_of_the_queue_stays_behind(empty_database: Database) -> None:
    run_migrations(BEFORE)

    def found() -> list[tuple[object, ...]]:
        if empty_database.dialect == "sqlite":
            sql = "SELECT type, name, tbl_name FROM sqlite_master ORDER BY 1, 2"
        else:
            sql = (
                "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace "
                "UNION ALL SELECT proname::text FROM pg_proc "
                "WHERE pronamespace = 'public'::regnamespace "
                "UNION ALL SELECT tgname::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"
            )
        with open_session(empty_database) as session:
            return session.execute(sql)

    before = found()
    run_migrations("head")
    assert found() != before
    run_migrations(BEFORE)
    assert found() == before


@BOTH
def test_leases_end_with_and_without_the_claims(empty_database: Database) -> None:
    """The trigger is another one from then on; what it does is the same."""
    for version in (QUEUE, CLAIMS, QUEUE, CLAIMS):
        run_migrations(version)
        with open_session(empty_database) as session:
            session.execute("DELETE FROM tasks")
            session.execute(
                "INSERT INTO tasks (id, title, status, owner, lease_token, lease_s) "
                "VALUES ('a', 'x', 'claimed', 'me', 'token', 60)"
            )
            session.execute("UPDATE tasks SET status = 'blocked' WHERE id = 'a'")
            assert session.execute("SELECT owner, lease_token, lease_s FROM tasks") == [
                ("me", None, None)
            ]
            assert session.execute(
                "SELECT from_status, to_status, lease_token FROM task_events"
            ) == [("claimed", "blocked", "token")]


def test_a_changed_function_is_told(make_url: Callable[..., str]) -> None:
    with SessionFactory(make_url("postgresql")) as factory:
        assert check_schema(factory.database) == []
        with factory.get_session() as session:
            session.execute("ALTER FUNCTION hopper_complete_tasks RESET enable_sort")
            session.execute("DROP FUNCTION hopper_claim_tasks")
        changed, missing = sorted(check_schema(factory.database))[::-1]
        assert "function hopper_complete_tasks is" in changed
        assert "function hopper_claim_tasks is missing" in missing
        with factory.get_session() as session:
            tasks = TaskRepository(session)
            with pytest.raises(DatabaseError, match="run `hopper-data migrate` first"):
                tasks.claim_next("a")
            assert tasks.count() == 0


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_whoever_depends_is_found_with_and_without_pending_lists(empty_database: Database) -> None:
    def indexes() -> list[str]:
        sql = "SELECT indexdef FROM pg_indexes WHERE indexdef LIKE ? ORDER BY indexname"
        with open_session(empty_database) as session:
            return [definition for (definition,) in session.execute(sql, ("%USING gin%",))]

    def plan(session: Session) -> str:
        # No task may be looked at that the index does not name.
        session.execute("SET LOCAL enable_seqscan = off")
        sql = "EXPLAIN SELECT id FROM tasks WHERE depends_on @> jsonb_build_array('0'::text)"
        return "\n".join(line for (line,) in session.execute(sql))

    run_migrations(CLAIMS)
    before = indexes()
    fill(empty_database)
    for version in ("head", CLAIMS, "head"):
        run_migrations(version)
        with open_session(empty_database) as session:
            tasks = TaskRepository(session)
            tasks.create(id=version, title="x", depends_on=["0", "nobody"])
            assert [task.id for task in tasks.get_blocking_tasks(version)] == ["0"]
            assert "idx_tasks_depends_on" in plan(session)
            tasks.delete(version)
    assert check_schema() == []
    assert all("fastupdate" in index or "gin_pending_list_limit" in index for index in indexes())
    run_migrations(CLAIMS)
    assert indexes() == before
    assert "index idx_tasks_depends_on is" in "\n".join(check_schema())
