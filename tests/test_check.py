"""`check_schema`: every kind of difference between models and database is found."""

from __future__ import annotations

import re

import pytest

from hopper_data import DatabaseError, check_schema, create_database, dump_schema
from hopper_data.database import Database
from hopper_data.session import open_session

BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)
POSTGRESQL = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)


def run(database: Database, *statements: str) -> None:
    with open_session(database) as session:
        for statement in statements:
            session.execute(statement)


def differences(database: Database, *statements: str) -> list[str]:
    run(database, *statements)
    return check_schema(database)


def test_a_migrated_database_is_as_the_models_say(database: Database) -> None:
    before = dump_schema(database)
    for _ in range(2):
        assert check_schema() == []
    assert dump_schema(database) == before


def test_data_makes_no_difference(database: Database) -> None:
    run(
        database,
        "INSERT INTO tasks (id, title, tags) VALUES ('t', 'x', '[\"a\"]')",
        "INSERT INTO projects (name, slug) VALUES ('p', 'p')",
    )
    assert check_schema() == []


def test_tables_of_others_make_no_difference(database: Database) -> None:
    assert differences(database, "CREATE TABLE of_others (id INTEGER PRIMARY KEY)") == []


def test_an_empty_database_lacks_every_table(empty_database: Database) -> None:
    found = check_schema()
    assert "table tasks is missing" in found
    assert all(text.endswith("is missing") for text in found)
    with open_session(empty_database) as session:
        if empty_database.dialect == "sqlite":
            assert session.execute("SELECT * FROM sqlite_master") == []
        else:
            assert session.execute("SELECT to_regclass('tasks')") == [(None,)]


# On both backends. The first word after "table x:" and the name are what is expected.
CHANGES: dict[str, tuple[str, str]] = {
    "a missing table": ("DROP TABLE external_mappings", "table external_mappings is missing"),
    "a missing column": (
        "ALTER TABLE task_feedback DROP COLUMN notes",
        "table task_feedback: column notes is missing",
    ),
    "another column": (
        "ALTER TABLE projects ADD COLUMN colour TEXT",
        "table projects: column colour is not in the models",
    ),
    "a missing index": (
        "DROP INDEX idx_tasks_created_at",
        "table tasks: index idx_tasks_created_at is missing",
    ),
    "another index": (
        "CREATE INDEX mine ON tasks (title)",
        "table tasks: index mine is not in the models",
    ),
}
REPLACED_INDEXES: dict[str, tuple[str, str]] = {
    "other columns": ("idx_tasks_created_at", "ON tasks (updated_at)"),
    "another direction": ("idx_tasks_created_at", "ON tasks (created_at DESC)"),
    "another condition": ("idx_tasks_active", "ON tasks (project) WHERE status = 'pending'"),
    "no condition": ("idx_tasks_unassigned", "ON tasks (created_at DESC, id)"),
    "not unique": ("idx_projects_slug", "ON projects (slug)"),
    "another expression": (
        "idx_tasks_queue",
        "ON tasks (priority DESC, created_at, id) WHERE status = 'pending'",
    ),
}


@BOTH
@pytest.mark.parametrize("kind", CHANGES)
def test_a_difference_is_found(database: Database, kind: str) -> None:
    statement, expected = CHANGES[kind]
    (found,) = differences(database, statement)
    assert found.startswith(expected)


@BOTH
def test_another_index_of_the_same_name_is_found(database: Database) -> None:
    for name, definition in REPLACED_INDEXES.values():
        run(database, f"DROP INDEX {name}", f"CREATE INDEX {name} {definition}")
    found = check_schema()
    names = {name for name, _ in REPLACED_INDEXES.values()}
    assert {re.findall(r"index (\w+) is .*; the models say", text)[0] for text in found} == names


ALTERED: dict[str, tuple[str, str]] = {
    "type": ("ALTER TABLE tasks ALTER requester TYPE TEXT", "tasks: column requester is"),
    "length": (
        'ALTER TABLE tasks ALTER owner TYPE VARCHAR(99) COLLATE "C"',
        "tasks: column owner is",
    ),
    "collation": (
        'ALTER TABLE tasks ALTER owner TYPE VARCHAR(100) COLLATE "default"',
        "tasks: column owner is",
    ),
    "jsonb": ("ALTER TABLE projects ALTER sla TYPE JSON", "projects: column sla is json"),
    "time": (
        "ALTER TABLE projects ALTER last_sync TYPE TIMESTAMP",
        "projects: column last_sync is",
    ),
    "not null": ("ALTER TABLE tasks ALTER title DROP NOT NULL", "tasks: column title is"),
    "null": ("ALTER TABLE projects ALTER velocity SET NOT NULL", "projects: column velocity is"),
    "default": ("ALTER TABLE tasks ALTER status DROP DEFAULT", "tasks: column status is"),
    "another default": (
        "ALTER TABLE tasks ALTER priority SET DEFAULT 'low'",
        "tasks: column priority is",
    ),
    "check": ("ALTER TABLE tasks DROP CONSTRAINT ck_tasks_status", "tasks: constraint ck_tasks"),
    "foreign key": (
        "ALTER TABLE task_feedback DROP CONSTRAINT fk_task_feedback_task_id",
        "task_feedback: constraint fk_task_feedback_task_id is missing",
    ),
    "key": ("ALTER TABLE tasks DROP CONSTRAINT tasks_pkey CASCADE", "tasks: the primary key is"),
    "gin": ("DROP INDEX idx_tasks_tags", "tasks: index idx_tasks_tags is missing"),
    "search": ("DROP INDEX idx_tasks_search", "tasks: index idx_tasks_search is missing"),
    "function": (
        (
            "CREATE OR REPLACE FUNCTION hopper_lexemes(value TEXT) RETURNS TSVECTOR "
            "LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT to_tsvector('simple', value) $$"
        ),
        "tasks: column search_tsvector is",
    ),
    "trigger": (
        (
            "CREATE TRIGGER mine BEFORE UPDATE ON tasks FOR EACH ROW "
            "EXECUTE FUNCTION suppress_redundant_updates_trigger()"
        ),
        "tasks: trigger mine is not in the models",
    ),
}


@POSTGRESQL
def test_postgresql_differences_are_found(database: Database) -> None:
    found = differences(database, *(statement for statement, _ in ALTERED.values()))
    for _, expected in ALTERED.values():
        assert any(text.startswith(f"table {expected}") for text in found), expected
    found = differences(database, "ALTER TABLE tasks DROP COLUMN search_tsvector")
    assert any("tasks: column search_tsvector is missing" in text for text in found)


@POSTGRESQL
def test_another_rule_of_the_same_name_is_found(database: Database) -> None:
    run(
        database,
        "ALTER TABLE tasks DROP CONSTRAINT ck_tasks_status",
        "ALTER TABLE tasks ADD CONSTRAINT ck_tasks_status CHECK (status <> 'done')",
        "ALTER TABLE task_feedback DROP CONSTRAINT fk_task_feedback_task_id",
        "ALTER TABLE task_feedback ADD CONSTRAINT fk_task_feedback_task_id "
        "FOREIGN KEY (task_id) REFERENCES tasks (id)",
        "DROP INDEX idx_tasks_tags",
        "CREATE INDEX idx_tasks_tags ON tasks USING gin (tags)",
    )
    check, index, key = sorted(check_schema())
    assert "constraint ck_tasks_status is CHECK" in index
    assert "index idx_tasks_tags is" in key
    assert "constraint fk_task_feedback_task_id is FOREIGN KEY" in check


# SQLite cannot alter a table so far; its definition is rewritten instead.
REWRITTEN: dict[str, tuple[str, str, str]] = {
    "type": ("tasks", '"title" VARCHAR(500)', '"title" TEXT'),
    "length": ("tasks", '"owner" VARCHAR(100)', '"owner" VARCHAR(99)'),
    "not null": ("tasks", '"title" VARCHAR(500) NOT NULL', '"title" VARCHAR(500)'),
    "null": ("projects", '"velocity" VARCHAR(20)', '"velocity" VARCHAR(20) NOT NULL'),
    "default": ("tasks", "DEFAULT 'pending' NOT NULL", "NOT NULL"),
    "another default": ("tasks", "DEFAULT 'medium'", "DEFAULT 'low'"),
    "check": (
        "task_feedback",
        (
            ' CONSTRAINT "ck_task_feedback_quality_score" '
            'CHECK ("quality_score" >= 0 AND "quality_score" <= 1)'
        ),
        "",
    ),
    "another check": ("task_feedback", '"quality_score" <= 1)', '"quality_score" <= 2)'),
    "a nameless check": (
        "projects",
        '"velocity" VARCHAR(20)',
        '"velocity" VARCHAR(20) CHECK ("velocity" <> \'x\')',
    ),
    "foreign key": (
        "task_feedback",
        (
            'CONSTRAINT "fk_task_feedback_task_id" FOREIGN KEY ("task_id") '
            'REFERENCES "tasks" ("id") ON DELETE CASCADE'
        ),
        "CHECK (1)",
    ),
    "another rule": ("task_feedback", "ON DELETE CASCADE", "ON DELETE RESTRICT"),
    "key": (
        "external_mappings",
        'PRIMARY KEY ("task_id", "platform")',
        'PRIMARY KEY ("platform", "task_id")',
    ),
    "unique": ("projects", '"repository" VARCHAR(500)', '"repository" VARCHAR(500) UNIQUE'),
    "collation": ("projects", '"slug" VARCHAR(100)', '"slug" VARCHAR(100) COLLATE NOCASE'),
    "search": ("task_search", "remove_diacritics 2", "remove_diacritics 0"),
}


@pytest.mark.parametrize("kind", REWRITTEN)
@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_sqlite_differences_are_found(database: Database, kind: str) -> None:
    table, old, new = REWRITTEN[kind]
    with open_session(database) as session:
        ((text,),) = session.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,))
        assert old in text
        session.execute("PRAGMA writable_schema = ON")
        session.execute(
            "UPDATE sqlite_master SET sql = ? WHERE name = ?", (text.replace(old, new), table)
        )
        session.execute("PRAGMA writable_schema = OFF")
    database.close_pool()
    found = check_schema(database)
    assert found
    assert all(text.startswith(f"table {table}") for text in found), found


TRIGGERS: dict[str, tuple[str, str]] = {
    "missing": ("DROP TRIGGER task_search_update", "trigger task_search_update is missing"),
    "another": (
        "CREATE TRIGGER mine AFTER DELETE ON tasks BEGIN SELECT 1; END",
        "trigger mine is not in the models",
    ),
}


@SQLITE
def test_triggers_of_sqlite_are_compared(database: Database) -> None:
    for statement, expected in TRIGGERS.values():
        assert any(expected in text for text in differences(database, statement))
    run(
        database,
        "DROP TRIGGER mine",
        "DROP TRIGGER task_tags_delete",
        "CREATE TRIGGER task_tags_delete BEFORE DELETE ON tasks BEGIN SELECT 1; END",
        "DROP TABLE task_dependencies",
    )
    found = "\n".join(check_schema())
    assert "trigger task_tags_delete is create trigger" in found
    assert "table task_dependencies is missing" in found


@SQLITE
def test_a_table_of_another_kind_is_found(database: Database) -> None:
    with open_session(database) as session:
        made = dict(session.execute("SELECT name, sql FROM sqlite_master"))
        session.execute("DROP TABLE task_tags")
        session.execute(made["task_tags"].replace("WITHOUT ROWID", ""))
        session.execute(made["idx_task_tags_task_id"])
    assert check_schema() == ["table task_tags is a table; the models say without rowid"]


@SQLITE
def test_white_space_and_quotes_make_no_difference(database: Database) -> None:
    assert (
        differences(
            database,
            "DROP INDEX idx_tasks_project",
            'create  index "idx_tasks_project"\n on tasks( "project" )',
            "DROP TRIGGER task_tags_delete",
            "CREATE TRIGGER task_tags_delete\nBEFORE DELETE ON tasks\nBEGIN\n"
            "  DELETE FROM task_tags WHERE task_id = old.id;\nEND",
        )
        == []
    )


@POSTGRESQL
def test_it_leaves_nothing_behind(database: Database) -> None:
    sql = "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%check%'"
    run(database, "DROP TABLE external_mappings")
    assert len(check_schema()) == 1
    with open_session(database) as session:
        assert session.execute(sql) == []
        assert session.execute("SELECT to_regclass('external_mappings')") == [(None,)]


@POSTGRESQL
def test_without_the_right_to_create_schemas_it_says_so(database: Database) -> None:
    name = database.url.database
    role = f"reader_of_{name}"
    run(
        database,
        f"CREATE ROLE {role} LOGIN PASSWORD 'x'",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        f"REVOKE CREATE ON DATABASE {name} FROM PUBLIC",
    )
    other = create_database(re.sub("//[^@/]*@", f"//{role}:x@", database.config.url))
    try:
        with pytest.raises(DatabaseError, match="right to create schemas"):
            check_schema(other)
    finally:
        other.close_pool()
        run(database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")
