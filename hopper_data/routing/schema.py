"""What the routing tables have beyond columns, as SQL for both backends side by side.

A released migration has its own copy of these statements; `hopper-data check` fails when the two
no longer say the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from hopper_data.model import SchemaObject
from hopper_data.routing.search import ACCENTS, MAX_WORD, SPACE, fold_pairs
from hopper_data.routing.vocabulary import ACTIVE_STATUSES, HELD_STATUSES, TaskPriority

__all__ = [
    "ACTIVE",
    "CLAIM_KEY",
    "DECISION_INDEXES",
    "EVENT_INDEXES",
    "FEEDBACK_INDEXES",
    "HELD",
    "RANK",
    "TASK_CLAIMS",
    "TASK_DEPENDENCIES",
    "TASK_EVENTS",
    "TASK_INDEXES",
    "TASK_LEASES",
    "TASK_QUEUE",
    "TASK_SEARCH",
    "TASK_TAGS",
    "TASK_WAKING",
    "WAKING_CHANNEL",
]


def _words(statuses: Iterable[str]) -> str:
    return ", ".join(f"'{status}'" for status in statuses)


ACTIVE = f"status IN ({_words(ACTIVE_STATUSES)})"
"""The condition of a task that is still somebody's to do."""

HELD = _words(HELD_STATUSES)
"""The statuses of a task that somebody is at work on."""

RANK = "(CASE priority {} END)".format(
    " ".join(f"WHEN '{word}' THEN {place}" for place, word in enumerate(TaskPriority))
)
"""The place of a task's priority; the index of the queue sorts by it."""

_PROMOTED = "CASE priority {} END".format(
    " ".join(f"WHEN '{word}' THEN '-{place} days'" for place, word in enumerate(TaskPriority))
)
CLAIM_KEY = {
    "sqlite": f"(date(created_at, {_PROMOTED}) || substr(created_at, 11))",
    "postgresql": f"((created_at AT TIME ZONE 'UTC') - {RANK} * INTERVAL '1 day')",
}
"""What the claim sorts by: when a task was made, one day earlier for each step of its priority.

A low task therefore goes before an urgent one that is three days younger, and waits for no other.
"""


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

EVENT_INDEXES = (
    _index("idx_task_events_task_id", "task_events", "task_id, id"),
    _index("idx_task_events_at", "task_events", "at, to_status"),
)

FEEDBACK_INDEXES = (
    _index("idx_task_feedback_created_at", "task_feedback", "created_at DESC, task_id"),
)


# Each lookup reads the list of what GIN has still to sort in; 64 kB are the least.
_SHORT_LIST = "WITH (gin_pending_list_limit = 64)"


def _list_index(column: str, table: str, item: str, options: str) -> SchemaObject:
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
        USING gin ({column} jsonb_path_ops) {options}""",
        ),
        drop=(f"DROP TABLE IF EXISTS {table}",),
    )


TASK_TAGS = _list_index("tags", "task_tags", "tag", _SHORT_LIST)
TASK_DEPENDENCIES = _list_index(
    "depends_on",
    "task_dependencies",
    "needed_id",
    # Each completion looks here, and most tasks depend on nothing.
    "WITH (fastupdate = off) WHERE depends_on IS NOT NULL",
)

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
        f"""CREATE INDEX IF NOT EXISTS idx_tasks_search ON tasks
        USING gin (search_tsvector) {_SHORT_LIST}""",
    ),
    drop=("DROP TABLE IF EXISTS task_search", "DROP TABLE IF EXISTS task_documents"),
    drop_postgresql=("DROP FUNCTION IF EXISTS hopper_lexemes(TEXT)",),
)


# -- the queue ------------------------------------------------------------------------------------


def _claim_index(dialect: str) -> str:
    # The claim asks in the same unusual words. No other index serves them, so that the planners,
    # who often believe that few tasks are pending, do not collect and sort all of those.
    pending = "(status = 'pending') IS TRUE"
    return _index("idx_tasks_claim", "tasks", f"{CLAIM_KEY[dialect]}, id", pending)


_RUN_AFTER_INDEX = _index("idx_tasks_run_after", "tasks", "run_after", "run_after IS NOT NULL")
_LEASE_INDEX = _index("idx_tasks_lease", "tasks", "lease_expires_at", "lease_token IS NOT NULL")

TASK_QUEUE = SchemaObject(
    "task_queue",
    sqlite=(_claim_index("sqlite"), _RUN_AFTER_INDEX, _LEASE_INDEX),
    postgresql=(_claim_index("postgresql"), _RUN_AFTER_INDEX, _LEASE_INDEX),
)
"""Indexes of what is pending, in the order of the claim; of what waits, and of what is held, by the
time when it can be claimed."""

TASK_LEASES = SchemaObject(
    "task_leases",
    sqlite=(
        f"""CREATE TRIGGER IF NOT EXISTS task_leases_end AFTER UPDATE OF status ON tasks
        WHEN new.lease_token IS NOT NULL AND new.status NOT IN ({HELD}) BEGIN
            UPDATE tasks SET lease_token = NULL, lease_expires_at = NULL, lease_s = NULL
            WHERE id = new.id;
        END""",
    ),
    # Afterwards on PostgreSQL, too: where a trigger could still change a row that is updated, the
    # words for the search are taken from its texts anew each time.
    postgresql=(
        """CREATE OR REPLACE FUNCTION hopper_end_lease() RETURNS TRIGGER
        LANGUAGE plpgsql AS $function$
        BEGIN
            UPDATE tasks SET lease_token = NULL, lease_expires_at = NULL, lease_s = NULL
            WHERE id = NEW.id;
            RETURN NULL;
        END
        $function$""",
        f"""CREATE OR REPLACE TRIGGER task_leases_end AFTER UPDATE OF status ON tasks FOR EACH ROW
        WHEN (NEW.lease_token IS NOT NULL AND NEW.status NOT IN ({HELD}))
        EXECUTE FUNCTION hopper_end_lease()""",
    ),
    drop_postgresql=("DROP FUNCTION IF EXISTS hopper_end_lease()",),
)
"""A lease ends with the status that it belongs to, whoever changes the status."""


def _claim_function() -> str:
    from hopper_data.routing.leases import claim_function  # which needs the models

    return claim_function()


def _complete_function() -> str:
    from hopper_data.routing.leases import complete_function

    return complete_function()


TASK_CLAIMS = SchemaObject(
    "task_claims",
    postgresql=(_claim_function, _complete_function),
    drop_postgresql_first=(
        "DROP FUNCTION IF EXISTS hopper_claim_tasks",
        "DROP FUNCTION IF EXISTS hopper_complete_tasks",
    ),
)
"""The two most frequent calls of workers, planned once for each connection."""


def _event_values(now: str, differs: str) -> str:
    """The columns of an event after the task and the two statuses, from the task as it was and is.

    A lease that another one replaces has expired: nothing else replaces it. Whoever reports an
    error changes the error or the time of the next attempt.
    """
    return f"""coalesce(new.owner, old.owner),
            CASE WHEN new.updated_at <> old.updated_at THEN new.updated_at ELSE {now} END,
            CASE
                WHEN new.lease_token <> old.lease_token THEN 'lease expired'
                WHEN new.status = 'pending' AND old.lease_token IS NOT NULL
                    AND new.attempts < old.attempts THEN 'released'
                WHEN new.status IN ('pending', 'failed') AND (
                    new.last_error {differs} old.last_error
                    OR new.run_after {differs} old.run_after
                ) THEN new.last_error
            END,
            CASE
                WHEN new.status = 'pending' AND new.attempts < old.attempts THEN old.attempts
                ELSE new.attempts
            END,
            coalesce(new.lease_token, old.lease_token)"""


_SQLITE_NOW = "strftime('%Y-%m-%d %H:%M:%f000+00:00', 'now')"
_EVENT_COLUMNS = "task_id, from_status, to_status, owner, at, note, attempt, lease_token"

TASK_EVENTS = SchemaObject(
    "task_events",
    sqlite=(
        f"""CREATE TRIGGER IF NOT EXISTS task_events_record
        AFTER UPDATE OF status, lease_token ON tasks
        WHEN new.status <> old.status
        OR (new.lease_token IS NOT old.lease_token AND new.status IN ({HELD})) BEGIN
            INSERT INTO task_events ({_EVENT_COLUMNS})
            VALUES (new.id, old.status, new.status,
            {_event_values(_SQLITE_NOW, "IS NOT")});
        END""",
    ),
    postgresql=(
        f"""CREATE OR REPLACE FUNCTION hopper_record_task_event() RETURNS TRIGGER
        LANGUAGE plpgsql AS $function$
        BEGIN
            INSERT INTO task_events ({_EVENT_COLUMNS})
            VALUES (new.id, old.status, new.status,
            {_event_values("statement_timestamp()", "IS DISTINCT FROM")});
            RETURN NULL;
        END
        $function$""",
        f"""CREATE OR REPLACE TRIGGER task_events_record
        AFTER UPDATE OF status, lease_token ON tasks FOR EACH ROW
        WHEN (NEW.status <> OLD.status
        OR (NEW.lease_token IS DISTINCT FROM OLD.lease_token AND NEW.status IN ({HELD})))
        EXECUTE FUNCTION hopper_record_task_event()""",
    ),
    drop_postgresql=("DROP FUNCTION IF EXISTS hopper_record_task_event()",),
)
"""Every change of a status is kept, whoever makes it, and so is each new lease."""

WAKING_CHANNEL = "hopper_tasks"
"""Where PostgreSQL says that a task may have become ready."""

TASK_WAKING = SchemaObject(
    "task_waking",
    postgresql=(
        f"""CREATE OR REPLACE FUNCTION hopper_wake_workers() RETURNS TRIGGER
        LANGUAGE plpgsql AS $function$
        BEGIN
            PERFORM pg_notify('{WAKING_CHANNEL}', '');
            RETURN NULL;
        END
        $function$""",
        # A completed task on which nothing depends makes none ready. (Counted, since for EXISTS
        # the planner would look for a dependent among all tasks, not in the index.)
        f"""CREATE OR REPLACE FUNCTION hopper_wake_dependents() RETURNS TRIGGER
        LANGUAGE plpgsql AS $function$
        BEGIN
            IF (
                SELECT count(*) FROM tasks
                WHERE depends_on @> jsonb_build_array(NEW.id) AND (status = 'pending') IS TRUE
            ) > 0 THEN
                PERFORM pg_notify('{WAKING_CHANNEL}', '');
            END IF;
            RETURN NULL;
        END
        $function$""",
        """CREATE OR REPLACE TRIGGER task_waking_insert AFTER INSERT ON tasks
        FOR EACH STATEMENT EXECUTE FUNCTION hopper_wake_workers()""",
        """CREATE OR REPLACE TRIGGER task_waking_update AFTER UPDATE ON tasks FOR EACH ROW
        WHEN (NEW.status = 'pending') EXECUTE FUNCTION hopper_wake_workers()""",
        """CREATE OR REPLACE TRIGGER task_waking_complete AFTER UPDATE OF status ON tasks
        FOR EACH ROW WHEN (NEW.status = 'completed' AND OLD.status <> 'completed')
        EXECUTE FUNCTION hopper_wake_dependents()""",
    ),
    drop_postgresql=(
        "DROP FUNCTION IF EXISTS hopper_wake_workers()",
        "DROP FUNCTION IF EXISTS hopper_wake_dependents()",
    ),
)
"""Workers that wait are told of what other programs write, too. On SQLite they look themselves."""
