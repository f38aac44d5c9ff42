"""What the routing tables have beyond columns, as SQL for both backends side by side.

A released migration has its own copy of these statements; `hopper-data check` fails when the two
no longer say the same.
"""

from __future__ import annotations

from hopper_data.model import SchemaObject
from hopper_data.routing.search import ACCENTS, MAX_WORD, SPACE, fold_pairs
from hopper_data.routing.vocabulary import ACTIVE_STATUSES, TaskPriority

__all__ = [
    "ACTIVE",
    "DECISION_INDEXES",
    "FEEDBACK_INDEXES",
    "RANK",
    "TASK_DEPENDENCIES",
    "TASK_INDEXES",
    "TASK_SEARCH",
    "TASK_TAGS",
]

ACTIVE = "status IN ({})".format(", ".join(f"'{status}'" for status in ACTIVE_STATUSES))
"""The condition of a task that is still somebody's to do."""

RANK = "(CASE priority {} END)".format(
    " ".join(f"WHEN '{word}' THEN {place}" for place, word in enumerate(TaskPriority))
)
"""The place of a task's priority; the index of the queue sorts by it."""


def _index(name: str, table: str, columns: str, where: str = "") -> str:
    condition = f" WHERE {where}" if where else ""
    return f"CREATE INDEX IF NOT EXISTS {name} ON {table} ({columns}){condition}"


_NEWEST = "created_at DESC, id"

TASK_INDEXES = (
    _index("idx_tasks_project", "tasks", "project"),
    _index("idx_tasks_status", "tasks", "status"),
    _index("idx_tasks_created_at", "tasks", "created_at"),
    # Lists, newest first, of one project, status, owner, requester; counts by project and status.
    _index("idx_tasks_project_newest", "tasks", f"project, {_NEWEST}"),
    _index("idx_tasks_status_newest", "tasks", f"status, {_NEWEST}"),
    _index("idx_tasks_project_status", "tasks", f"project, status, {_NEWEST}"),
    _index("idx_tasks_owner_newest", "tasks", f"owner, {_NEWEST}"),
    _index("idx_tasks_requester_newest", "tasks", f"requester, {_NEWEST}"),
    # What waits for a project, and what waits to be done: highest priority first, then oldest.
    _index("idx_tasks_unassigned", "tasks", _NEWEST, "project IS NULL"),
    # (The status is a key although it is always the same: without statistics, SQLite would take an
    # index on the status and sort.)
    _index(
        "idx_tasks_queue", "tasks", f"status, {RANK} DESC, created_at, id", "status = 'pending'"
    ),
    _index("idx_tasks_active", "tasks", "project", ACTIVE),
)

DECISION_INDEXES = tuple(
    _index(f"idx_routing_decisions_{name}", "routing_decisions", columns)
    for name, columns in (
        # Lists, newest first, of one project, one strategy and all; then by rising confidence.
        ("project", "project, decided_at DESC, task_id"),
        ("strategy", "decided_by, decided_at DESC, task_id"),
        ("decided_at", "decided_at DESC, task_id"),
        ("confidence", "confidence, task_id"),
    )
)

FEEDBACK_INDEXES = (
    _index("idx_task_feedback_created_at", "task_feedback", "created_at DESC, task_id"),
)


def _list_index(column: str, table: str, item: str) -> SchemaObject:
    """What finds the tasks by an item of the JSON list in `column`."""
    return SchemaObject(
        table,
        # json_each cannot use an index, so each item has a row of its own.
        sqlite=(
            f"""CREATE TABLE IF NOT EXISTS {table} (
            {item} TEXT NOT NULL,
            task_id VARCHAR(50) NOT NULL
                REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE,
            PRIMARY KEY ({item}, task_id)
        ) WITHOUT ROWID""",
            f"CREATE INDEX IF NOT EXISTS idx_{table}_task_id ON {table} (task_id)",
            f"""CREATE TRIGGER IF NOT EXISTS {table}_insert AFTER INSERT ON tasks
        WHEN json_type(new.{column}) = 'array' BEGIN
            INSERT OR IGNORE INTO {table} ({item}, task_id)
            SELECT value, new.id FROM json_each(new.{column}) WHERE type = 'text';
        END""",
            f"""CREATE TRIGGER IF NOT EXISTS {table}_update AFTER UPDATE OF {column} ON tasks
        WHEN new.{column} IS NOT old.{column} BEGIN
            DELETE FROM {table} WHERE task_id = new.id;
            INSERT OR IGNORE INTO {table} ({item}, task_id)
            SELECT value, new.id FROM json_each(new.{column})
            WHERE type = 'text' AND json_type(new.{column}) = 'array';
        END""",
            # Not left to the foreign key alone: other programs may have those switched off.
            f"""CREATE TRIGGER IF NOT EXISTS {table}_delete BEFORE DELETE ON tasks BEGIN
            DELETE FROM {table} WHERE task_id = old.id;
        END""",
        ),
        postgresql=(
            f"""CREATE INDEX IF NOT EXISTS idx_tasks_{column} ON tasks
        USING gin ({column} jsonb_path_ops)""",
        ),
        drop=(f"DROP TABLE IF EXISTS {table}",),
    )


TASK_TAGS = _list_index("tags", "task_tags", "tag")
TASK_DEPENDENCIES = _list_index("depends_on", "task_dependencies", "needed_id")

INDEXED_CHARACTERS = 100_000
"""How much of a text is searched. A `tsvector` holds 1 MB at the most."""


def _lexemes_function() -> str:
    """A function for PostgreSQL that finds the words of a text as FTS5 does, with their places."""
    uppercase, lowered = fold_pairs(lowercase=False)
    variants, usual = fold_pairs(lowercase=True)
    # The first place is 2, so that a gap stays where the texts of two columns are joined, which
    # no phrase spans. A database of the locale C lowers ASCII alone; the last step does the rest.
    return rf"""CREATE OR REPLACE FUNCTION hopper_lexemes(value TEXT) RETURNS TSVECTOR
        LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $function$
        BEGIN
            value := left(value, {INDEXED_CHARACTERS});
            IF octet_length(value) > length(value) THEN
                value := regexp_replace(value, '[{ACCENTS}]', '', 'g');
                value := regexp_replace(
                    normalize(value, NFD), '([A-Za-z])[{ACCENTS}]+', '\1', 'g');
                value := lower(lower(normalize(value, NFC) COLLATE "C") COLLATE "default");
                value := left(translate(value, '{variants}', '{usual}'), {INDEXED_CHARACTERS});
                IF value ~ '[{uppercase}]' THEN
                    value := translate(value, '{uppercase}', '{lowered}');
                END IF;
            ELSE
                value := lower(value COLLATE "C");
            END IF;
            value := regexp_replace(value, '[{SPACE}]+', ' ', 'g');
            RETURN coalesce((
                SELECT string_agg('''' || left(word, {MAX_WORD}) || ''':' || place + 1, ' ')
                FROM string_to_table(value, ' ') WITH ORDINALITY AS words(word, place)
                WHERE word <> ''
            ), '')::tsvector;
        END
        $function$"""


def _pg_document() -> str:
    return " || ".join(
        f"setweight(hopper_lexemes({column}), '{weight}')"
        for column, weight in (("title", "A"), ("description", "B"), ("context", "C"))
    )


def _fts_values(row: str) -> str:
    limited = (
        f"substr({row}.{column}, 1, {INDEXED_CHARACTERS})" for column in ("description", "context")
    )
    return f"{row}.title, {', '.join(limited)}"


_FTS_COLUMNS = "title, description, context"
_FTS_CHANGED = " OR ".join(f"new.{name} IS NOT old.{name}" for name in _FTS_COLUMNS.split(", "))
_FTS_FORGET = f"""INSERT INTO task_search (task_search, rowid, {_FTS_COLUMNS})
            SELECT 'delete', d.id, {_fts_values("old")} FROM task_documents d
            WHERE d.task_id = old.id;"""
_FTS_ADD = f"""INSERT INTO task_search (rowid, {_FTS_COLUMNS})
            SELECT d.id, {_fts_values("new")} FROM task_documents d WHERE d.task_id = new.id;"""

TASK_SEARCH = SchemaObject(
    "task_search",
    # The index keeps no copy of the texts. Its rows have numbers of their own, since VACUUM may
    # renumber the rows of a table whose key is a text. A number is never used twice: INSERT OR
    # REPLACE leaves the words of the row that it replaces behind.
    sqlite=(
        """CREATE TABLE IF NOT EXISTS task_documents (
            id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
            task_id VARCHAR(50) NOT NULL UNIQUE
                REFERENCES tasks (id) ON DELETE CASCADE ON UPDATE CASCADE
        )""",
        f"""CREATE VIRTUAL TABLE IF NOT EXISTS task_search USING fts5 (
            {_FTS_COLUMNS}, content='', prefix='3 4',
            tokenize="unicode61 remove_diacritics 2 categories 'L* N* M* Co'"
        )""",
        f"""CREATE TRIGGER IF NOT EXISTS task_search_insert AFTER INSERT ON tasks BEGIN
            INSERT INTO task_documents (task_id) VALUES (new.id);
            {_FTS_ADD}
        END""",
        f"""CREATE TRIGGER IF NOT EXISTS task_search_update
        AFTER UPDATE OF {_FTS_COLUMNS} ON tasks WHEN {_FTS_CHANGED} BEGIN
            {_FTS_FORGET}
            {_FTS_ADD}
        END""",
        f"""CREATE TRIGGER IF NOT EXISTS task_search_delete BEFORE DELETE ON tasks BEGIN
            {_FTS_FORGET}
            DELETE FROM task_documents WHERE task_id = old.id;
        END""",
    ),
    postgresql=(
        _lexemes_function,
        (
            "ALTER TABLE tasks ADD COLUMN IF NOT EXISTS search_tsvector tsvector "
            f"GENERATED ALWAYS AS ({_pg_document()}) STORED"
        ),
        "CREATE INDEX IF NOT EXISTS idx_tasks_search ON tasks USING gin (search_tsvector)",
    ),
    drop=("DROP TABLE IF EXISTS task_search", "DROP TABLE IF EXISTS task_documents"),
    drop_postgresql=("DROP FUNCTION IF EXISTS hopper_lexemes(TEXT)",),
)
