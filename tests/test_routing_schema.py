"""The tables of routing, as the catalogues of both backends show them, and their rules.

Everything here goes round the package: raw SQL reads what is there, and tries to break it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest

from hopper_data import (
    IntegrityError,
    ProjectRepository,
    Session,
    TaskRepository,
    ValidationError,
)
from hopper_data.database import Database
from hopper_data.session import open_session

# Columns as name, type, and whether NULL is allowed.
SCHEMA: dict[str, list[tuple[str, str, bool]]] = {
    "tasks": [
        ("id", "VARCHAR(50)", False),
        ("title", "VARCHAR(500)", False),
        ("description", "TEXT", True),
        ("project", "VARCHAR(100)", True),
        ("status", "VARCHAR(50)", False),
        ("priority", "VARCHAR(20)", False),
        ("requester", "VARCHAR(100)", True),
        ("owner", "VARCHAR(100)", True),
        ("external_id", "VARCHAR(100)", True),
        ("external_url", "VARCHAR(500)", True),
        ("external_platform", "VARCHAR(50)", True),
        ("source", "VARCHAR(50)", True),
        ("conversation_id", "VARCHAR(100)", True),
        ("context", "TEXT", True),
        ("tags", "JSON", True),
        ("required_capabilities", "JSON", True),
        ("depends_on", "JSON", True),
        ("blocks", "JSON", True),
        ("routing_confidence", "FLOAT", True),
        ("routing_reasoning", "TEXT", True),
        ("feedback", "JSON", True),
        ("created_at", "TIMESTAMP", False),
        ("updated_at", "TIMESTAMP", False),
        ("lease_expires_at", "TIMESTAMP", True),
        ("lease_token", "VARCHAR(50)", True),
        ("lease_s", "FLOAT", True),
        ("attempts", "INTEGER", False),
        ("max_attempts", "INTEGER", False),
        ("run_after", "TIMESTAMP", True),
        ("last_error", "TEXT", True),
        ("dedupe_key", "VARCHAR(200)", True),
    ],
    "task_events": [
        ("id", "INTEGER", False),
        ("task_id", "VARCHAR(50)", False),
        ("from_status", "VARCHAR(50)", False),
        ("to_status", "VARCHAR(50)", False),
        ("owner", "VARCHAR(100)", True),
        ("at", "TIMESTAMP", False),
        ("note", "TEXT", True),
        ("attempt", "INTEGER", False),
        ("lease_token", "VARCHAR(50)", True),
    ],
    "projects": [
        ("name", "VARCHAR(100)", False),
        ("slug", "VARCHAR(100)", False),
        ("repository", "VARCHAR(500)", True),
        ("capabilities", "JSON", True),
        ("tags", "JSON", True),
        ("executor_type", "VARCHAR(50)", True),
        ("executor_config", "JSON", True),
        ("auto_claim", "BOOLEAN", False),
        ("priority_boost", "JSON", True),
        ("velocity", "VARCHAR(20)", True),
        ("sla", "JSON", True),
        ("webhook_url", "VARCHAR(500)", True),
        ("api_endpoint", "VARCHAR(500)", True),
        ("sync_config", "JSON", True),
        ("created_at", "TIMESTAMP", False),
        ("created_by", "VARCHAR(100)", True),
        ("last_sync", "TIMESTAMP", True),
    ],
    "hopper_instances": [
        ("id", "VARCHAR(100)", False),
        ("name", "VARCHAR(100)", False),
        ("scope", "VARCHAR(50)", False),
        ("parent_id", "VARCHAR(100)", True),
        ("config", "JSON", True),
        ("status", "VARCHAR(50)", False),
        ("description", "TEXT", True),
        ("created_by", "VARCHAR(100)", True),
        ("terminated_at", "TIMESTAMP", True),
        ("created_at", "TIMESTAMP", False),
        ("updated_at", "TIMESTAMP", False),
    ],
    "routing_decisions": [
        ("task_id", "VARCHAR(50)", False),
        ("project", "VARCHAR(100)", True),
        ("confidence", "FLOAT", True),
        ("reasoning", "TEXT", True),
        ("alternatives", "JSON", True),
        ("decided_by", "VARCHAR(50)", True),
        ("decided_at", "TIMESTAMP", False),
        ("decision_time_ms", "FLOAT", True),
        ("workload_snapshot", "JSON", True),
        ("context", "JSON", True),
    ],
    "task_feedback": [
        ("task_id", "VARCHAR(50)", False),
        ("estimated_duration", "VARCHAR(50)", True),
        ("actual_duration", "VARCHAR(50)", True),
        ("complexity_rating", "INTEGER", True),
        ("quality_score", "FLOAT", True),
        ("required_rework", "BOOLEAN", True),
        ("rework_reason", "TEXT", True),
        ("was_good_match", "BOOLEAN", True),
        ("should_have_routed_to", "VARCHAR(100)", True),
        ("routing_feedback", "TEXT", True),
        ("unexpected_blockers", "JSON", True),
        ("required_skills_not_tagged", "JSON", True),
        ("notes", "TEXT", True),
        ("created_at", "TIMESTAMP", False),
    ],
    "external_mappings": [
        ("task_id", "VARCHAR(50)", False),
        ("platform", "VARCHAR(50)", False),
        ("external_id", "VARCHAR(100)", False),
        ("external_url", "VARCHAR(500)", True),
    ],
}
KEYS = {
    "tasks": ["id"],
    "task_events": ["id"],
    "projects": ["name"],
    "hopper_instances": ["id"],
    "routing_decisions": ["task_id"],
    "task_feedback": ["task_id"],
    "external_mappings": ["task_id", "platform"],
}
FOREIGN_KEYS = {
    ("hopper_instances", "parent_id", "hopper_instances", "id", "NO ACTION"),
    ("routing_decisions", "task_id", "tasks", "id", "CASCADE"),
    ("routing_decisions", "project", "projects", "name", "SET NULL"),
    ("task_events", "task_id", "tasks", "id", "CASCADE"),
    ("task_feedback", "task_id", "tasks", "id", "CASCADE"),
    ("external_mappings", "task_id", "tasks", "id", "CASCADE"),
}
INDEXES = {
    "idx_tasks_project": ("tasks", ["project"]),
    "idx_tasks_status": ("tasks", ["status"]),
    "idx_tasks_created_at": ("tasks", ["created_at"]),
}
SQLITE_TYPES = {"JSON": "TEXT", "FLOAT": "REAL", "TIMESTAMP": "DATETIME", "BOOLEAN": "INTEGER"}
POSTGRESQL_TYPES = {
    "JSON": "jsonb",
    "FLOAT": "double precision",
    "TIMESTAMP": "timestamp with time zone",
    "BOOLEAN": "boolean",
    "INTEGER": "integer",
    "TEXT": "text",
}
BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


class Found(NamedTuple):
    columns: dict[str, list[tuple[str, str, bool]]]
    keys: dict[str, list[str]]
    foreign_keys: set[tuple[str, ...]]
    indexes: dict[str, tuple[str, list[str]]]
    unique: set[tuple[str, ...]]


def _catalogue_of_sqlite(session: Session) -> Found:
    found = Found({}, {}, set(), {}, set())
    for table in SCHEMA:
        rows = session.execute(f"PRAGMA table_info({table})")
        found.columns[table] = [(name, kind, not strict) for _, name, kind, strict, *_ in rows]
        keys = sorted((place, name) for _, name, _, _, _, place in rows if place)
        found.keys[table] = [name for _, name in keys]
        for _, _, parent, column, target, _, action, _ in session.execute(
            f"PRAGMA foreign_key_list({table})"
        ):
            found.foreign_keys.add((table, column, parent, target, action))
        for _, index, unique, *_ in session.execute(f"PRAGMA index_list({table})"):
            columns = [row[2] for row in session.execute(f"PRAGMA index_info({index})")]
            found.indexes[index] = (table, columns)
            if unique:
                found.unique.add((table, *columns))
    return found


def _catalogue_of_postgresql(session: Session) -> Found:
    found = Found({}, {}, set(), {}, set())
    for table, column, kind, length, nullable in session.execute(
        "SELECT table_name, column_name, data_type, character_maximum_length, is_nullable "
        "FROM information_schema.columns WHERE table_schema = current_schema() "
        "AND is_generated = 'NEVER' ORDER BY table_name, ordinal_position"
    ):
        shown = f"VARCHAR({length})" if kind == "character varying" else kind
        found.columns.setdefault(table, []).append((column, shown, nullable == "YES"))
    actions = {"a": "NO ACTION", "c": "CASCADE", "n": "SET NULL"}
    for table, kind, columns, parent, targets, action in session.execute(
        "SELECT conrelid::regclass::text, contype::text, "
        "ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY AS k(n, place) "
        "JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY place), "
        "confrelid::regclass::text, "
        "ARRAY(SELECT attname::text FROM unnest(confkey) AS k(n) "
        "JOIN pg_attribute ON attrelid = confrelid AND attnum = n), confdeltype::text "
        "FROM pg_constraint WHERE contype IN ('p', 'f')"
    ):
        if kind == "p":
            found.keys[table] = columns
        else:
            found.foreign_keys.add((table, columns[0], parent, targets[0], actions[action]))
    for table, index, unique, columns in session.execute(
        "SELECT indrelid::regclass::text, indexrelid::regclass::text, indisunique, "
        "ARRAY(SELECT pg_get_indexdef(indexrelid, k, true) "
        "FROM generate_series(1, indnkeyatts) AS k) FROM pg_index"
    ):
        found.indexes[index] = (table, columns)
        if unique:
            found.unique.add((table, *columns))
    return found


@BOTH
def test_the_catalogue_is_the_document(database: Database) -> None:
    sqlite = database.dialect == "sqlite"
    with open_session(database) as session:
        found = _catalogue_of_sqlite(session) if sqlite else _catalogue_of_postgresql(session)
    types = SQLITE_TYPES if sqlite else POSTGRESQL_TYPES
    for table, columns in SCHEMA.items():
        expected = [(name, types.get(kind, kind), null) for name, kind, null in columns]
        assert found.columns[table] == expected
        assert found.keys[table] == KEYS[table]
    assert {key for key in found.foreign_keys if key[0] in SCHEMA} == FOREIGN_KEYS
    for name, index in INDEXES.items():
        assert found.indexes[name] == index
    assert ("projects", "slug") in found.unique
    assert ("tasks", "dedupe_key") in found.unique


@POSTGRESQL
def test_postgresql_has_gin_indexes(database: Database) -> None:
    with open_session(database) as session:
        definitions = [
            text
            for (text,) in session.execute(
                "SELECT indexdef FROM pg_indexes WHERE tablename = 'tasks' "
                "AND indexdef LIKE '%USING gin%'"
            )
        ]
    for part in ("(tags jsonb_path_ops)", "(depends_on jsonb_path_ops)", "(search_tsvector)"):
        assert any(part in text for text in definitions)


@POSTGRESQL
def test_text_sorts_by_code_point(database: Database) -> None:
    with open_session(database) as session:
        rows = session.execute(
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = current_schema() AND data_type IN ('text', 'character varying') "
            "AND table_name = ANY (?) AND collation_name IS DISTINCT FROM 'C'",
            (list(SCHEMA),),
        )
    assert rows == []


@SQLITE
def test_sqlite_finds_tags_and_texts_by_index(database: Database) -> None:
    with open_session(database) as session:
        made = dict(session.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    assert "PRIMARY KEY (tag, task_id)" in made["task_tags"]
    assert "USING fts5" in made["task_search"]


# -- rules ----------------------------------------------------------------------------------------


def _insert(session: Session, table: str, **values: Any) -> None:
    marks = ", ".join("?" for _ in values)
    session.execute(
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values())
    )


def _rows(session: Session) -> None:
    """One row of each table, with nothing but what must be given."""
    _insert(session, "tasks", id="t", title="t")
    _insert(session, "projects", name="p", slug="p")
    _insert(session, "hopper_instances", id="i", name="i", scope="GLOBAL")
    _insert(session, "routing_decisions", task_id="t", project="p")
    _insert(session, "task_feedback", task_id="t")
    _insert(session, "task_events", task_id="t", from_status="pending", to_status="claimed")
    _insert(session, "external_mappings", task_id="t", platform="x", external_id="1")


CHECKS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("task_events", "from_status", ["failed", "pending"], ["done", ""]),
    ("task_events", "to_status", ["failed", "claimed"], ["done", ""]),
    ("task_events", "attempt", [0, 1], [-1]),
    ("tasks", "lease_s", [0, 0.5, None], [-0.001]),
    ("tasks", "attempts", [5, 0], [-1]),
    ("tasks", "max_attempts", [1, 3], [0, -1]),
    (
        "tasks",
        "status",
        ["pending", "claimed", "in_progress", "blocked", "completed", "failed", "cancelled"],
        ["done", "Pending", "", "active"],
    ),
    ("tasks", "priority", ["low", "medium", "high", "urgent"], ["critical", "HIGH", ""]),
    ("tasks", "routing_confidence", [0, 0.5, 1, None], [-0.001, 1.001, 100]),
    ("hopper_instances", "scope", ["GLOBAL", "PROJECT", "ORCHESTRATION"], ["global", "TEAM"]),
    ("hopper_instances", "status", ["active", "paused", "terminated"], ["stopped", "ACTIVE"]),
    ("routing_decisions", "confidence", [0, 0.5, 1, None], [-0.001, 1.001]),
    ("routing_decisions", "decided_by", ["rules", "llm", "sage", "x" * 50, None], []),
    ("routing_decisions", "decision_time_ms", [0, 0.5, None], [-1]),
    ("task_feedback", "quality_score", [0, 0.5, 1, None], [-0.001, 1.001]),
    ("task_feedback", "complexity_rating", [1, 5, 10, None], [0, 11, -1]),
]


def test_the_database_itself_checks_values(session: Session) -> None:
    _rows(session)
    for table, column, right, wrong in CHECKS:
        for value in right:
            session.execute(f"UPDATE {table} SET {column} = ?", (value,))
        for value in wrong:
            with pytest.raises(IntegrityError) as caught:
                session.execute(f"UPDATE {table} SET {column} = ?", (value,))
            assert caught.value.constraint == f"ck_{table}_{column}", (table, column, value)
        stored = session.execute(f"SELECT {column} FROM {table}")
        assert stored == [(right[-1],)]


def test_the_database_itself_wants_what_must_be_there(session: Session) -> None:
    _rows(session)
    for table, columns in SCHEMA.items():
        for name, _, nullable in columns:
            if not nullable:
                # SQLite calls it a mismatch where the key is the number of the row.
                with pytest.raises((IntegrityError, ValidationError)):
                    session.execute(f"UPDATE {table} SET {name} = NULL")
            elif name not in ("parent_id", "project"):
                session.execute(f"UPDATE {table} SET {name} = NULL")


def test_the_database_itself_knows_the_defaults(session: Session) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    _rows(session)
    after = datetime.now(UTC) + timedelta(seconds=2)
    task = TaskRepository(session).get_or_raise("t")
    assert (task.status, task.priority) == ("pending", "medium")
    for moment in (task.created_at, task.updated_at):
        assert before <= moment <= after
        assert moment.utcoffset() == timedelta(0)
    project = ProjectRepository(session).get_or_raise("p")
    assert project.auto_claim is False
    assert before <= project.created_at <= after
    defaults = session.execute(
        "SELECT i.status, i.created_at, i.updated_at, d.decided_at, f.created_at "
        "FROM hopper_instances AS i, routing_decisions AS d, task_feedback AS f"
    )
    assert defaults[0][0] == "active"
    assert None not in defaults[0]


def test_a_row_needs_its_parent(session: Session) -> None:
    _rows(session)
    for table, values, constraint in (
        ("routing_decisions", {"task_id": "none"}, "task_id"),
        ("task_feedback", {"task_id": "none"}, "task_id"),
        ("external_mappings", {"task_id": "none", "platform": "x", "external_id": "1"}, "task_id"),
        ("hopper_instances", {"id": "j", "name": "j", "scope": "GLOBAL", "parent_id": "none"}, ""),
    ):
        with pytest.raises(IntegrityError) as caught:
            _insert(session, table, **values)
        if session.database.dialect == "postgresql" and constraint:
            assert caught.value.constraint == f"fk_{table}_{constraint}"
    with pytest.raises(IntegrityError):
        session.execute("UPDATE routing_decisions SET project = 'none'")
    _insert(session, "tasks", id="free", title="x", project="no project of this name")


def test_what_belongs_to_a_task_goes_with_it(session: Session) -> None:
    _rows(session)
    session.execute("DELETE FROM tasks")
    for table in ("routing_decisions", "task_feedback", "external_mappings"):
        assert session.execute(f"SELECT COUNT(*) FROM {table}") == [(0,)]
    assert session.execute("SELECT COUNT(*) FROM projects") == [(1,)]


def test_a_decision_outlives_its_project(session: Session) -> None:
    _rows(session)
    session.execute("UPDATE tasks SET project = 'p'")
    session.execute("DELETE FROM projects")
    assert session.execute("SELECT task_id, project FROM routing_decisions") == [("t", None)]
    assert session.execute("SELECT project FROM tasks") == [("p",)]


def test_an_instance_with_children_stays(session: Session) -> None:
    _rows(session)
    _insert(session, "hopper_instances", id="j", name="j", scope="PROJECT", parent_id="i")
    with pytest.raises(IntegrityError):
        session.execute("DELETE FROM hopper_instances WHERE id = 'i'")
    session.execute("DELETE FROM hopper_instances WHERE id = 'j'")
    session.execute("DELETE FROM hopper_instances WHERE id = 'i'")


def test_keys_are_taken_once(session: Session) -> None:
    _rows(session)
    again: list[tuple[str, dict[str, Any]]] = [
        ("tasks", {"id": "t", "title": "x"}),
        ("projects", {"name": "p", "slug": "q"}),
        ("projects", {"name": "q", "slug": "p"}),
        ("hopper_instances", {"id": "i", "name": "x", "scope": "GLOBAL"}),
        ("routing_decisions", {"task_id": "t"}),
        ("task_feedback", {"task_id": "t"}),
        ("external_mappings", {"task_id": "t", "platform": "x", "external_id": "2"}),
    ]
    for table, values in again:
        with pytest.raises(IntegrityError):
            _insert(session, table, **values)
    _insert(session, "external_mappings", task_id="t", platform="y", external_id="1")


def test_the_document_lists_every_table_of_the_domain() -> None:
    from hopper_data.routing.models import ROUTING_MODELS

    models = {model._meta.table_name: model for model in ROUTING_MODELS}
    assert set(models) == set(SCHEMA)
    for table, columns in SCHEMA.items():
        fields = [field.column_name for field in models[table]._meta.sorted_fields]
        assert fields == [name for name, _, _ in columns]
