"""The statements of the queue: how a lease is given, how it runs out, and what its holder writes.

What both backends say is said once. On PostgreSQL claims and completions are functions of the
database, which plans them once for each connection: to plan one takes as long as to run it.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

from hopper_data import rowsets
from hopper_data.errors import LeaseLost
from hopper_data.ready import KeyedStatement
from hopper_data.routing.models import Task
from hopper_data.routing.readiness import (
    SELECTION_TYPES,
    Selection,
    ask_sql,
    candidates_sql,
    lapsed_sql,
    readable_sql,
    ready_sql,
)
from hopper_data.routing.schema import CLAIM_KEY, HELD

__all__ = [
    "CLAIM_ON_POSTGRESQL",
    "COMPLETE_ON_POSTGRESQL",
    "LEASE",
    "LEASE_FIELDS",
    "Settled",
    "claim_function",
    "claim_sql",
    "complete_function",
    "expired_sql",
    "holder_sql",
    "holders_sql",
    "lapse_sql",
]

LEASE = timedelta(minutes=5)
LEASE_FIELDS = ("lease_token", "lease_expires_at", "lease_s")


class Settled(NamedTuple):
    """What became of several claims: the tasks, in the order given, and what was another's by then.

    `lost` maps the ids of those whose lease is lost, or that are gone, to the error for each.
    """

    tasks: list[Task]
    lost: dict[str, LeaseLost]


_COLUMNS = rowsets.columns(Task._meta.sorted_fields)
_NO_LEASE = ", ".join(f"{name} = NULL" for name in LEASE_FIELDS)
_NOW = "(SELECT now FROM ask)"
_TOKEN = {"sqlite": "lower(hex(randomblob(16)))", "postgresql": "gen_random_uuid()::text"}


def _moved_on(dialect: str, now: str) -> str:
    return rowsets.moved_on_sql(dialect, now, "updated_at")


def _later(dialect: str, delay_s: str) -> str:
    """A number of seconds after now."""
    if dialect == "sqlite":
        # It counts in milliseconds; at once must not be a part of one later.
        return (
            f"(SELECT CASE WHEN {delay_s} <= 0 THEN now "
            "ELSE strftime('%Y-%m-%d %H:%M:%f000+00:00', now, "
            f"printf('%+.3f seconds', {delay_s})) END FROM ask)"
        )
    return f"(SELECT now + make_interval(secs => {delay_s}) FROM ask)"


# -- claims ---------------------------------------------------------------------------------------


def _claimed(dialect: str, owner: str, lease_s: str, end: str, now: str) -> str:
    # A reopened task that has had all its attempts begins anew.
    return (
        f"UPDATE tasks SET status = 'claimed', owner = {owner}, lease_token = {_TOKEN[dialect]}, "
        f"lease_s = {lease_s}, lease_expires_at = {end}, "
        "attempts = CASE WHEN attempts >= max_attempts THEN 1 ELSE attempts + 1 END, "
        "last_error = CASE WHEN attempts < max_attempts THEN last_error END, "
        f"updated_at = {_moved_on(dialect, now)}"
    )


def _best(dialect: str, condition: str, index: str, limit: str, *, columns: str = "") -> str:
    """SELECT the best tasks that meet a condition which an index is made for.

    Their keys and places, or other `columns`.
    """
    key = CLAIM_KEY[dialect]
    return (
        f"SELECT {columns or f'task.id, {key} AS place'} FROM {candidates_sql(dialect, index)} "
        f"WHERE {condition} ORDER BY {key}, task.id LIMIT {limit}"
    )


def _best_of_both(ready: str, lapsed: str, limit: str) -> str:
    """SELECT the ids of the best tasks among two of those."""
    return (
        f"SELECT id FROM (SELECT * FROM ({ready}) AS ready "
        f"UNION ALL SELECT * FROM ({lapsed}) AS lapsed) AS candidate "
        f"ORDER BY place, id LIMIT {limit}"
    )


@lru_cache(maxsize=2)
def expired_sql(now: str = "?") -> str:
    """SELECT on SQLite whether any lease has expired by now, the one parameter."""
    source = candidates_sql("sqlite", "idx_tasks_lease")
    return f"SELECT 1 FROM {source} WHERE {lapsed_sql('task', now)} LIMIT 1"


@lru_cache(maxsize=32)
def claim_sql(given: tuple[bool, ...], *, expired: bool) -> str:
    """UPDATE of the best tasks on SQLite.

    With `expired`, also of those whose lease has expired; without it, of none where one has.

    The parameters: now, the owner, the length of the lease and its end, how many, and what
    is given of a selection.
    """
    numbers = iter(range(6, 6 + len(given)))
    wanted = [f"?{next(numbers)}" if there else "" for there in given]
    chosen = Selection.shaped(given).sql("sqlite", "task", wanted) + readable_sql("sqlite", "task")
    ready = ready_sql("sqlite", "task", "?1", claim=True) + chosen
    update = _claimed("sqlite", "?2", "?3", "?4", "?1")
    if not expired:
        ready = f"NOT EXISTS ({expired_sql('?1')}) AND {ready}"
        among = _best("sqlite", ready, "idx_tasks_claim", "?5", columns="task.rowid")
        return f"{update} WHERE rowid IN ({among}) RETURNING {_COLUMNS}"
    lapsed = f"{lapsed_sql('task', '?1')} AND task.attempts < task.max_attempts{chosen}"
    among = _best_of_both(
        _best("sqlite", ready, "idx_tasks_claim", "?5"),
        _best("sqlite", lapsed, "idx_tasks_lease", "?5"),
        "?5",
    )
    return f"{update} WHERE id IN ({among}) RETURNING {_COLUMNS}"


# Planned once, it must walk the index in the order of the claim for any number of tasks, and with
# whatever the planner believed of the table then.
_PLANNING = (
    "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off"
)


def claim_function() -> str:
    """The function that claims, for PostgreSQL.

    It locks what it returns, and nothing else. Where leases have expired, the best tasks are chosen
    first and locked then; in the place of those that somebody else has meanwhile, it looks for
    others, for more each time.
    """
    wanted = [f"_{name}" for name in SELECTION_TYPES]
    chosen = "".join(
        f" AND ({name} IS NULL OR {condition.removeprefix(' AND ')})"
        for name, condition in zip(
            wanted, Selection.shaped((True,) * 3).terms("postgresql", "task", wanted), strict=True
        )
    )
    ready = ready_sql("postgresql", "task", "_now", claim=True) + chosen
    lapsed = lapsed_sql("task", "_now")
    again = f"{lapsed} AND task.attempts < task.max_attempts{chosen}"
    update = _claimed(
        "postgresql", "_owner", "_lease_s", "_now + make_interval(secs => _lease_s)", "_now"
    )
    best = _best("postgresql", ready, "idx_tasks_claim", "_limit")
    untried = " AND task.id <> ALL(tried)"
    both = _best_of_both(
        _best("postgresql", ready + untried, "idx_tasks_claim", "_limit + cardinality(tried)"),
        _best("postgresql", again + untried, "idx_tasks_lease", "_limit + cardinality(tried)"),
        "_limit + cardinality(tried)",
    )
    return f"""CREATE OR REPLACE FUNCTION hopper_claim_tasks(
            _now TIMESTAMPTZ, _owner TEXT, _lease_s DOUBLE PRECISION, _limit INTEGER,
            {", ".join(f"_{name} {kind}" for name, kind in SELECTION_TYPES.items())})
        RETURNS SETOF tasks LANGUAGE plpgsql {_PLANNING} AS $function$
        DECLARE
            tried TEXT[] := '{{}}';
            chosen TEXT[];
            taken INTEGER;
        BEGIN
            _now := coalesce(_now, statement_timestamp());
            IF NOT EXISTS (SELECT 1 FROM tasks AS task WHERE {lapsed}) THEN
                RETURN QUERY {update}
                WHERE id = ANY(ARRAY(SELECT id FROM ({best} FOR UPDATE SKIP LOCKED) AS best))
                AND status = 'pending' RETURNING tasks.*;
                RETURN;
            END IF;
            {_lapse_update("postgresql", "_now", spent=True)};
            LOOP
                chosen := ARRAY({both});
                EXIT WHEN chosen = '{{}}';
                tried := tried || chosen;
                RETURN QUERY {update} WHERE id = ANY(ARRAY(
                    SELECT task.id FROM tasks AS task
                    WHERE task.id = ANY(chosen) AND (({ready}) OR ({again}))
                    ORDER BY {CLAIM_KEY["postgresql"]}, task.id LIMIT _limit
                    FOR UPDATE SKIP LOCKED
                )) RETURNING tasks.*;
                GET DIAGNOSTICS taken = ROW_COUNT;
                _limit := _limit - taken;
                EXIT WHEN _limit <= 0;
            END LOOP;
        END
        $function$"""


CLAIM_ON_POSTGRESQL = KeyedStatement(
    f"SELECT {_COLUMNS} FROM hopper_claim_tasks(CAST(%s AS TIMESTAMPTZ), CAST(%s AS TEXT), "
    "CAST(%s AS DOUBLE PRECISION), CAST(%s AS INTEGER), CAST(%s AS JSONB), CAST(%s AS JSONB), "
    "CAST(%s AS JSONB))"
)
"""The parameters: now or None, the owner, the length of the lease, how many, and a selection."""


# -- leases that have expired ---------------------------------------------------------------------


def _lapse_update(dialect: str, now: str, *, spent: bool) -> str:
    lapsed = lapsed_sql("task", now) + (" AND task.attempts >= task.max_attempts" if spent else "")
    lock = "" if dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
    source = candidates_sql(dialect, "idx_tasks_lease")
    ids = f"SELECT task.id FROM {source} WHERE {lapsed}{lock}"
    among = f"IN ({ids})" if dialect == "sqlite" else f"= ANY(ARRAY({ids}))"
    return (
        "UPDATE tasks SET status = CASE WHEN attempts < max_attempts THEN 'pending' "
        "ELSE 'failed' END, last_error = 'the lease of ' || coalesce(owner, 'nobody') || "
        "' expired in attempt ' || attempts || ' of ' || max_attempts, "
        "owner = CASE WHEN attempts >= max_attempts THEN owner END, "
        f"run_after = NULL, {_NO_LEASE}, updated_at = {_moved_on(dialect, now)} WHERE id {among}"
    )


@lru_cache(maxsize=4)
def lapse_sql(dialect: str, *, spent: bool) -> str:
    """UPDATE of the tasks whose lease has expired; `spent` after the last of their attempts."""
    return f"{ask_sql(dialect, {})} {_lapse_update(dialect, _NOW, spent=spent)} RETURNING id"


# -- what the holder writes -----------------------------------------------------------------------

_BACK_OFF = {
    "sqlite": "min(3600, (10 << min(max(attempts - 1, 0), 9)) * (SELECT jitter FROM ask))",
    "postgresql": (
        "least(3600, (10 << least(greatest(attempts - 1, 0), 9)) * (SELECT jitter FROM ask))"
    ),
}
_HOLDER_COLUMNS = {
    "fail": {"error": "TEXT", "delay_s": "FLOAT", "jitter": "FLOAT"},
    "release": {"delay_s": "FLOAT"},
}


def _assignments(dialect: str, verb: str) -> str:
    if verb == "heartbeat":
        length = f"coalesce(tasks.lease_s, {LEASE.total_seconds():g})"
        return f"lease_expires_at = {_later(dialect, length)}"
    if verb == "complete":
        return f"status = 'completed', {_NO_LEASE}"
    if verb == "release":
        fewer = "CASE WHEN attempts > 0 THEN attempts - 1 ELSE 0 END"
        delay_s = "(SELECT delay_s FROM ask)"
        return (
            f"status = 'pending', owner = NULL, attempts = {fewer}, {_NO_LEASE}, run_after = "
            f"CASE WHEN {delay_s} IS NULL THEN run_after ELSE {_later(dialect, delay_s)} END"
        )
    delay_s = f"coalesce((SELECT delay_s FROM ask), {_BACK_OFF[dialect]})"
    more = "attempts < max_attempts"
    return (
        f"status = CASE WHEN {more} THEN 'pending' ELSE 'failed' END, "
        f"owner = CASE WHEN {more} THEN NULL ELSE owner END, "
        f"run_after = CASE WHEN {more} THEN {_later(dialect, delay_s)} END, "
        f"last_error = (SELECT error FROM ask), {_NO_LEASE}"
    )


@lru_cache(maxsize=16)
def holder_sql(dialect: str, verb: str) -> str:
    """UPDATE of a task by the holder of its lease: now, its id, the token and what the verb needs.

    On PostgreSQL a completion is a function; its parameters are those of `holders_sql()`.
    """
    if verb == "complete":
        # The most frequent one; what SQLite need not look up in another table, it need not make.
        return (
            "UPDATE tasks SET feedback = coalesce(?4, feedback), "
            f"{_assignments(dialect, verb)}, updated_at = {_moved_on(dialect, '?1')} "
            f"WHERE id = ?2 AND lease_token = ?3 AND status IN ({HELD}) RETURNING {_COLUMNS}"
        )
    columns = {"task_id": "TEXT", "lease_token": "TEXT", **_HOLDER_COLUMNS.get(verb, {})}
    return KeyedStatement(
        f"{ask_sql(dialect, columns)} "
        f"UPDATE tasks SET {_assignments(dialect, verb)}, updated_at = {_moved_on(dialect, _NOW)} "
        "WHERE id = (SELECT task_id FROM ask) AND lease_token = (SELECT lease_token FROM ask) "
        f"AND status IN ({HELD}) RETURNING {_COLUMNS}"
    )


def _given(dialect: str, claims: str) -> str:
    """The pairs of an id and a token of a JSON list, as a table of `task_id` and `token`."""
    if dialect == "sqlite":
        pairs = "json_extract(value, '$[0]') AS task_id, json_extract(value, '$[1]') AS token"
        return f"(SELECT {pairs} FROM json_each({claims})) AS given"
    pairs = "claim ->> 0 AS task_id, claim ->> 1 AS token"
    return f"(SELECT {pairs} FROM jsonb_array_elements({claims}) AS claim) AS given"


def _by_holders(dialect: str, assignments: str, claims: str, now: str) -> str:
    keys = ""
    if dialect == "postgresql":
        # It thinks that a list has a hundred items, and would rather read all tasks.
        ids = f"SELECT claim ->> 0 FROM jsonb_array_elements({claims}) AS claim"
        keys = f"id = ANY(ARRAY({ids})) AND "
    # In words that no index but that of the keys is of use for: there may be many others held.
    return (
        f"UPDATE tasks SET {assignments}, updated_at = {_moved_on(dialect, now)} "
        f"FROM {_given(dialect, claims)} WHERE {keys}id = given.task_id "
        f"AND coalesce(lease_token, '') = given.token AND (status IN ({HELD})) IS TRUE"
    )


@lru_cache(maxsize=4)
def holders_sql(dialect: str, verb: str) -> str:
    """UPDATE of several tasks by the holders of their leases: now, and pairs of id and token."""
    update = _by_holders(dialect, _assignments(dialect, verb), "(SELECT claims FROM ask)", _NOW)
    return f"{ask_sql(dialect, {'claims': 'JSONB'})} {update} RETURNING {_COLUMNS}"


def complete_function() -> str:
    """The function that completes tasks for the holders of their leases, for PostgreSQL."""
    assignments = (
        f"{_assignments('postgresql', 'complete')}, feedback = coalesce(_feedback, feedback)"
    )
    update = _by_holders(
        "postgresql", assignments, "_claims", "coalesce(_now, statement_timestamp())"
    )
    return f"""CREATE OR REPLACE FUNCTION hopper_complete_tasks(
            _now TIMESTAMPTZ, _claims JSONB, _feedback JSONB)
        RETURNS SETOF tasks LANGUAGE plpgsql {_PLANNING} AS $function$
        BEGIN
            RETURN QUERY {update} RETURNING tasks.*;
        END
        $function$"""


COMPLETE_ON_POSTGRESQL = KeyedStatement(
    f"SELECT {_COLUMNS} FROM hopper_complete_tasks(CAST(%s AS TIMESTAMPTZ), CAST(%s AS JSONB), "
    "CAST(%s AS JSONB))"
)
"""The parameters: now or None, pairs of id and token, and the feedback of all or None."""
