"""What the database itself holds up: SQL that goes round the package meets the same rules."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import (
    IntegrityError,
    Session,
    check_schema,
    create_database,
    dump_schema,
    get_schema_version,
    init_database,
    reset_database,
    run_migrations,
)
from hopper_data import Task as RoutingTask
from hopper_data import TaskRepository as RoutingTaskRepository
from hopper_data.database import Database
from hopper_data.planning import Epic, Feature, Task, TaskHistory, TaskRepository
from hopper_data.session import open_session
from tests.planning_data import Plan, Raw, plan, raw

__all__ = ["plan"]

TABLES = ("planning_epics", "planning_features", "planning_tasks", "planning_task_history")
INDEXES = {
    "planning_epics": [(True, "key")],
    "planning_features": [(False, "epic_id"), (True, "key")],
    "planning_tasks": [
        (False, "agent_type"),
        (False, "feature_id"),
        (True, "key"),
        (False, "status"),
        (False, "status,priority"),
    ],
    "planning_task_history": [(False, "task_id"), (False, "timestamp desc")],
}


def one_of_each(session: Session) -> Raw:
    """A plan of one row in each table, written with SQL alone."""
    rows = raw(session)
    rows.insert("planning_epics", id=1, key="E01", title="An epic")
    rows.insert("planning_features", id=1, epic_id=1, key="E01-F01", title="A feature")
    rows.insert("planning_tasks", id=1, feature_id=1, key="T-E01-F01-001", title="A task")
    rows.insert("planning_task_history", id=1, task_id=1, new_status="todo")
    return rows


def test_the_schema_is_what_the_models_declare(database: Database) -> None:
    assert check_schema(database) == []


def test_the_migration_goes_back_and_forth(empty_database: Database) -> None:
    run_migrations("head", database=empty_database)
    before = dump_schema(empty_database)
    assert set(TABLES) <= set(before)

    run_migrations("001_routing", database=empty_database)
    assert not set(TABLES) & set(dump_schema(empty_database))
    assert functions(empty_database) == []

    run_migrations("head", database=empty_database)
    assert dump_schema(empty_database) == before
    assert str(get_schema_version(empty_database)) >= "002_planning"


def functions(database: Database) -> list[str]:
    if database.dialect == "sqlite":
        return []
    with open_session(database) as session:
        rows = session.execute("SELECT proname FROM pg_proc WHERE proname LIKE 'planning%'")
    return sorted(name for (name,) in rows)


def test_created_tables_are_migrated_tables(
    backend: str, make_url: Callable[..., str], database: Database
) -> None:
    created = init_database(create_database(make_url(backend, migrated=False)), create_tables=True)
    found = dump_schema(created)
    migrated = dump_schema(database)
    created.close_pool()
    assert {name: found[name] for name in TABLES} == {name: migrated[name] for name in TABLES}


def test_a_reset_makes_the_tables_anew(database: Database) -> None:
    with open_session(database) as session:
        Plan(session).epic()
    reset_database(database, confirm=True)
    assert check_schema(database) == []
    with open_session(database) as session:
        assert Plan(session).epics.count() == 0


def test_there_are_exactly_ten_indexes(session: Session) -> None:
    read = sqlite_indexes if session.database.dialect == "sqlite" else pg_indexes
    found = {table: sorted(read(session, table), key=lambda index: index[1]) for table in TABLES}
    assert found == INDEXES
    assert sum(map(len, found.values())) == 10


def sqlite_indexes(session: Session, table: str) -> list[tuple[bool, str]]:
    found = []
    for _, name, unique, _, _ in session.execute(f"PRAGMA index_list({table})"):
        rows = session.execute(f"PRAGMA index_xinfo({name})")
        columns = [row[2] + (" desc" if row[3] else "") for row in rows if row[5]]
        found.append((bool(unique), ",".join(columns)))
    return found


def pg_indexes(session: Session, table: str) -> list[tuple[bool, str]]:
    rows = session.execute(
        "SELECT i.indisunique, pg_get_indexdef(i.indexrelid) FROM pg_index AS i "
        "WHERE i.indrelid = CAST(CAST(? AS TEXT) AS REGCLASS) AND NOT i.indisprimary",
        (table,),
    )
    parts = ((unique, sql.partition(" (")[2].rstrip(")")) for unique, sql in rows)
    return [
        (unique, text.replace('"', "").replace(" DESC", " desc").replace(", ", ","))
        for unique, text in parts
    ]


def test_the_two_kinds_of_task_never_meet(plan: Plan) -> None:
    feature = plan.feature()
    task = plan.task(feature)
    routed = RoutingTaskRepository(plan.session).create(id="task-1", title="Route me")

    assert Task._meta.table_name == "planning_tasks"
    assert RoutingTask._meta.table_name == "tasks"
    assert Task is not RoutingTask
    assert TaskRepository is not RoutingTaskRepository
    assert [item.id for item in feature.tasks] == [task.id]
    assert next(iter(task.history)).task == task
    assert RoutingTaskRepository(plan.session).get_all() == [routed]
    assert plan.tasks.get_all() == [task]
    assert plan.tasks.delete(task.id)
    assert RoutingTaskRepository(plan.session).exists("task-1")
    names = [
        getattr(index, "_name", str(index))
        for model in (Epic, Feature, Task, TaskHistory)
        for index in model._meta.fields_to_index()
    ]
    assert all(name.startswith("idx_planning_") for name in names)


# -- constraints ----------------------------------------------------------------------------------

WORDS = {
    ("planning_epics", "status"): ("draft", "active", "completed", "archived"),
    ("planning_epics", "priority"): ("high", "medium", "low"),
    ("planning_epics", "business_value"): ("high", "medium", "low"),
    ("planning_features", "status"): ("draft", "active", "completed", "archived"),
    ("planning_tasks", "status"): (
        "todo",
        "in_progress",
        "blocked",
        "ready_for_review",
        "completed",
        "archived",
    ),
    ("planning_tasks", "agent_type"): (
        "frontend",
        "backend",
        "api",
        "testing",
        "devops",
        "general",
    ),
    ("planning_task_history", "old_status"): ("todo", "archived"),
    ("planning_task_history", "new_status"): ("todo", "archived"),
}


def test_every_vocabulary_is_closed(session: Session) -> None:
    rows = one_of_each(session)
    for (table, column), words in WORDS.items():
        for word in words:
            rows.session.execute(f"UPDATE {table} SET {column} = ? WHERE id = 1", (word,))
        for word in ("", "done", "TODO", "Draft", "HIGH", "in progress", "todo "):
            with pytest.raises(IntegrityError, match="ck_planning") as caught:
                rows.session.execute(f"UPDATE {table} SET {column} = ? WHERE id = 1", (word,))
            assert caught.value.constraint == f"ck_{table}_{column}"
        assert rows.one(f"SELECT {column} FROM {table} WHERE id = 1") == words[-1]


RANGES = [
    ("planning_tasks", "priority", (1, 5, 10), (0, 11, -1, 1000)),
    ("planning_features", "progress_pct", (0, 0.5, 100), (-0.01, 100.01, 1000)),
]


def test_every_range_is_closed(session: Session) -> None:
    rows = one_of_each(session)
    for table, column, good, bad in RANGES:
        for value in good:
            rows.session.execute(f"UPDATE {table} SET {column} = {value} WHERE id = 1")
        for value in bad:
            with pytest.raises(IntegrityError, match=f"ck_{table}_{column}"):
                rows.session.execute(f"UPDATE {table} SET {column} = {value} WHERE id = 1")
        assert rows.one(f"SELECT {column} FROM {table} WHERE id = 1") == good[-1]


def test_dependencies_are_an_array(session: Session) -> None:
    rows = one_of_each(session)
    for good in ("[]", '["T-E01-F01-002"]'):
        rows.session.execute(f"UPDATE planning_tasks SET depends_on = '{good}' WHERE id = 1")
    for bad in ("{}", '"T-E01-F01-002"', "null", "1"):
        with pytest.raises(IntegrityError, match="ck_planning_tasks_depends_on"):
            rows.session.execute(f"UPDATE planning_tasks SET depends_on = '{bad}' WHERE id = 1")
    with pytest.raises(IntegrityError):
        rows.session.execute("UPDATE planning_tasks SET depends_on = NULL WHERE id = 1")


def test_rows_of_other_programs_get_the_defaults(plan: Plan) -> None:
    one_of_each(plan.session)
    epic, feature = plan.epics.get_or_raise(1), plan.features.get_or_raise(1)
    task = plan.tasks.get_or_raise(1)
    assert (epic.status, epic.priority, epic.business_value) == ("draft", "medium", None)
    assert (feature.status, feature.progress_pct) == ("draft", 0.0)
    assert (task.status, task.priority, task.depends_on) == ("todo", 5, [])
    for row in (epic, feature, task):
        assert abs(row.created_at - datetime.now(UTC)) < timedelta(minutes=5)
        assert row.updated_at == row.created_at


def test_keys_are_unique(session: Session) -> None:
    rows = one_of_each(session)
    for table, columns in (
        ("planning_epics", {"key": "E01"}),
        ("planning_features", {"key": "E01-F01", "epic_id": 1}),
        ("planning_tasks", {"key": "T-E01-F01-001", "feature_id": 1}),
    ):
        with pytest.raises(IntegrityError):
            rows.insert(table, title="x", **columns)


def test_parents_must_exist(session: Session) -> None:
    rows = one_of_each(session)
    for table, columns in (
        ("planning_features", {"key": "E01-F02", "epic_id": 9, "title": "x"}),
        ("planning_tasks", {"key": "T-E01-F01-002", "feature_id": 9, "title": "x"}),
        ("planning_task_history", {"task_id": 9, "new_status": "todo"}),
    ):
        with pytest.raises(IntegrityError):
            rows.insert(table, **columns)


@pytest.mark.parametrize(
    ("table", "left"),
    [
        ("planning_epics", [1, 1, 1, 1]),
        ("planning_features", [2, 1, 1, 1]),
        ("planning_tasks", [2, 2, 1, 1]),
    ],
)
def test_each_deletes_its_children(session: Session, table: str, left: list[int]) -> None:
    rows = one_of_each(session)
    rows.insert("planning_epics", id=2, key="E02", title="x")
    rows.insert("planning_features", id=2, epic_id=2, key="E02-F01", title="x")
    rows.insert("planning_tasks", id=2, feature_id=2, key="T-E02-F01-001", title="x")
    rows.insert("planning_task_history", id=2, task_id=2, new_status="todo")

    rows.session.execute(f"DELETE FROM {table} WHERE id = 1")

    assert [rows.one(f"SELECT COUNT(*) FROM {name}") for name in TABLES] == left


# -- triggers -------------------------------------------------------------------------------------

TOUCHED = TABLES[:3]
MODELS: tuple[Any, ...] = (Epic, Feature, Task)


def stamps(rows: Raw) -> list[datetime]:
    return [model.get_by_id(1).updated_at for model in MODELS]


def test_there_is_a_trigger_on_each_table_but_the_history(database: Database) -> None:
    schema = dump_schema(database)
    assert [len(schema[table]["triggers"]) for table in TABLES] == [1, 1, 1, 0]


def test_every_update_moves_updated_at(session: Session) -> None:
    rows = one_of_each(session)
    for _ in range(5):
        # Often within one millisecond, which is as fine as the clock of SQLite is.
        before = stamps(rows)
        for table in TOUCHED:
            rows.session.execute(f"UPDATE {table} SET title = title || '.' WHERE id = 1")
        after = stamps(rows)
        assert all(new > old for old, new in zip(before, after, strict=True))
        assert all(abs(new - datetime.now(UTC)) < timedelta(minutes=5) for new in after)


def test_updated_at_looks_as_the_package_writes_it(plan: Plan) -> None:
    rows = one_of_each(plan.session)
    for table in TOUCHED:
        rows.session.execute(f"UPDATE {table} SET title = 'x' WHERE id = 1")
        text = str(rows.one(f"SELECT CAST(updated_at AS TEXT) FROM {table} WHERE id = 1"))
        if plan.session.database.dialect == "sqlite":
            assert len(text) == len("2026-01-02 03:04:05.000006+00:00")
            assert text.endswith("+00:00")
    newest = plan.tasks.filter({"updated_at__gte": stamps(rows)[2]})
    assert [task.id for task in newest] == [1]


def test_an_update_that_sets_updated_at_is_left_alone(session: Session) -> None:
    rows = one_of_each(session)
    then = "2020-01-02 03:04:05.000006+00:00"
    for table in TOUCHED:
        rows.session.execute(f"UPDATE {table} SET updated_at = '{then}' WHERE id = 1")
    assert stamps(rows) == [datetime(2020, 1, 2, 3, 4, 5, 6, tzinfo=UTC)] * 3


def test_updated_at_never_goes_back(session: Session) -> None:
    rows = one_of_each(session)
    ahead = datetime.now(UTC).replace(microsecond=999_999) + timedelta(days=1)
    for table in TOUCHED:
        rows.session.execute(
            f"UPDATE {table} SET updated_at = '{ahead.isoformat(' ')}' WHERE id = 1"
        )
        rows.session.execute(f"UPDATE {table} SET title = 'later' WHERE id = 1")
    assert stamps(rows) == [ahead + timedelta(microseconds=1)] * 3


def test_a_trigger_does_not_set_itself_off(session: Session) -> None:
    rows = one_of_each(session)
    if rows.session.database.dialect == "sqlite":
        rows.session.execute("PRAGMA recursive_triggers = ON")
    before = stamps(rows)
    for table in TOUCHED:
        rows.session.execute(f"UPDATE {table} SET title = 'x'")
    assert all(new > old for old, new in zip(before, stamps(rows), strict=True))


def test_many_rows_are_moved_on_at_once(plan: Plan) -> None:
    feature = plan.feature()
    made = plan.many(feature, 50)
    plan.session.execute("UPDATE planning_tasks SET title = 'x'")
    assert all(plan.tasks.get_or_raise(task.id).updated_at > task.updated_at for task in made)


def test_the_package_and_the_trigger_agree(plan: Plan) -> None:
    task = plan.task(plan.feature())
    moved = plan.walk(task, "in_progress")
    stored = plan.tasks.get_or_raise(task.id)
    assert stored.updated_at == moved.updated_at == stored.started_at
    assert plan.history.list_by_task(task.id)[-1].timestamp == stored.updated_at


def test_a_stamp_without_a_zone_is_in_utc(plan: Plan) -> None:
    rows = one_of_each(plan.session)
    rows.session.execute("UPDATE planning_tasks SET started_at = '2020-01-02 03:04:05'")
    expected = datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert plan.tasks.get_or_raise(1).started_at == expected
    assert Task.get_by_id(1).started_at == expected


def test_a_stamp_without_a_fraction_is_understood(session: Session) -> None:
    rows = one_of_each(session)
    rows.session.execute("UPDATE planning_tasks SET updated_at = '2020-01-02 03:04:05+00:00'")
    time.sleep(0.002)
    rows.session.execute("UPDATE planning_tasks SET title = 'x'")
    assert stamps(rows)[2].year >= 2026
