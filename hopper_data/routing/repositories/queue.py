"""The queue: any number of workers claim tasks, and none is lost or done twice.

A claim gives a lease, which a random token stands for. Whoever writes as the holder of a task names
the token, in the condition of the one UPDATE that writes, so that a worker whose lease has gone to
somebody else changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from hopper_data import fastpath, rowsets
from hopper_data.errors import DatabaseError, LeaseLost, NotFound, ValidationError
from hopper_data.fields import dump_json, shorten, to_utc, utcnow
from hopper_data.model import normalize_row
from hopper_data.repository import Repository, as_rows, check_count
from hopper_data.routing.arguments import seconds, unstorable
from hopper_data.routing.circles import TASK_DEPENDENCIES, AcyclicRepository
from hopper_data.routing.leases import (
    CLAIM_ON_POSTGRESQL,
    COMPLETE_ON_POSTGRESQL,
    LEASE,
    LEASE_FIELDS,
    Settled,
    claim_sql,
    expired_sql,
    holder_sql,
    holders_sql,
    lapse_sql,
)
from hopper_data.routing.models import Task, TaskEvent, TaskFeedback
from hopper_data.routing.readiness import (
    Clock,
    Readiness,
    Selection,
    Texts,
    moment,
    readiness_sql,
    reasons,
)
from hopper_data.routing.repositories.feedback import TaskFeedbackRepository
from hopper_data.routing.statistics import QueueStatistics, read_statistics
from hopper_data.routing.vocabulary import HELD_STATUSES, TaskPriority

if TYPE_CHECKING:
    from hopper_data.aio import AsyncSession
    from hopper_data.session import Session

__all__ = ["LEASE", "QueueRepository"]

_SHORTEST_LEASE_S = 0.001
_LONGEST_ERROR = 10_000
_JITTER = 0.25
_RANK = {priority: timedelta(days=place) for place, priority in enumerate(TaskPriority)}
_FEEDBACK_FIELDS = frozenset(TaskFeedback._meta.fields) - {"task", "created_at"}
_COLUMNS = rowsets.columns(Task._meta.sorted_fields)

Duration = timedelta | float
Claim = Task | tuple[str, str | None]


class QueueRepository(AcyclicRepository[Task]):
    """Tasks as a queue of many workers.

    The time is the server's on PostgreSQL and this machine's on SQLite; a `clock`, a function that
    gives an aware datetime, takes its place in tests.
    """

    model = Task
    references = TASK_DEPENDENCIES

    def __init__(self, session: Session | AsyncSession, *, clock: Clock | None = None) -> None:
        super().__init__(session)
        self._clock = clock

    # -- claims -----------------------------------------------------------------------------------

    def claim_next(
        self,
        owner: str,
        *,
        limit: int = 1,
        projects: Texts = None,
        capabilities: Texts = None,
        tags: Texts = None,
        lease: Duration = LEASE,
    ) -> list[Task]:
        """Take the best tasks that can be begun; each has its own `lease_token`. Best first.

        Older goes before younger, and each step of priority counts as one day of age, so that
        nothing waits for ever. `projects` and `tags` (all of them) narrow the choice;
        `capabilities` leaves out what requires others, `[]` all that requires any.

        A task whose lease has expired is taken from its holder; after `max_attempts` it is failed
        instead. The lease ends after `lease`, a timedelta or seconds, unless `heartbeat()` renews
        it. An owner's claims are each on their own: a later one does not renew an earlier one.
        """
        check_count(limit, "limit")
        selection = Selection.of(projects, capabilities, tags)
        lease_s = seconds(lease, "lease", minimum=_SHORTEST_LEASE_S)
        who = check_owner(owner)
        if limit == 0:
            return []
        if self.database.dialect == "sqlite":
            claimed = self._claim_on_sqlite(who, limit, selection, lease_s)
        else:
            values = (self._now(), who, lease_s, limit, *selection)
            claimed = self._models(CLAIM_ON_POSTGRESQL, values)
        return claimed if len(claimed) < 2 else sorted(claimed, key=_place_in_queue)

    def _claim_on_sqlite(
        self, owner: str, limit: int, selection: Selection, lease_s: float
    ) -> list[Task]:
        start = utcnow() if self._clock is None else to_utc(self._clock(), Task.updated_at)
        encode = Task.updated_at.encode
        now, end = encode(start), encode(start + timedelta(seconds=lease_s))
        projects, capabilities, tags = selection
        given = (projects is not None, capabilities is not None, tags is not None)
        wanted = [value for value in selection if value is not None]
        values = [now, owner, lease_s, end, limit, *wanted]
        # Nobody else writes meanwhile, and leases that have expired are rare.
        claimed = self._models(claim_sql(given, expired=False), values)
        if claimed or not self.database.fetch_all(expired_sql(), (now,)):
            return claimed
        self.database.send(lapse_sql("sqlite", spent=True), (now,)).fetchall()
        return self._models(claim_sql(given, expired=True), values)

    def requeue_expired(self) -> int:
        """Make tasks whose lease has expired pending again, at once; how many leases ended.

        A task that has had all its attempts is failed instead.
        """
        sql = lapse_sql(self.database.dialect, spent=False)
        return len(self.database.execute_sql(sql, (self._now(),)).fetchall())

    def wait_for_tasks(
        self,
        timeout: Duration,
        *,
        projects: Texts = None,
        capabilities: Texts = None,
        tags: Texts = None,
    ) -> bool:
        """Wait until there is a task that `claim_next` with these arguments would give.

        True at once when there is one, False after `timeout`, a timedelta or seconds. Another
        worker may be faster. On SQLite the session, which must have written nothing yet, lets go
        of its transaction meanwhile, so that others can write; it holds no reads together.
        """
        from hopper_data.routing.waiting import wait_in_session

        selection = Selection.of(projects, capabilities, tags)
        return wait_in_session(self.session, selection, seconds(timeout, "timeout"), self._clock)

    # -- what the holder of a lease does ----------------------------------------------------------

    def heartbeat(self, id: str, token: str | None) -> Task:
        """Renew a lease for the length that it was given; `LeaseLost` when it is another's now.

        An expired lease can be renewed for as long as nobody else has taken the task.
        """
        return self._as_holder("heartbeat", id, token)

    def heartbeat_many(self, claims: Iterable[Claim]) -> Settled:
        """Renew several leases in one statement; those that are another's now are `lost`.

        A claim is the task as it was claimed, or the pair of its id and its token.
        """
        return self._as_holders("heartbeat", claims)

    def complete(self, id: str, token: str | None, feedback: Any = None) -> Task:
        """Complete a claimed task; `LeaseLost` when the lease is another's now.

        `feedback` goes to the task as it is. A dict of fields of `TaskFeedback` is recorded there,
        too, in the same transaction.
        """
        document = None if feedback is None else Task.feedback.text(feedback)
        if not _is_detail(feedback):
            return self._as_holder("complete", id, token, document)
        # Refused before anything is written.
        normalize_row(TaskFeedback, feedback, partial=True)
        with self.database.atomic():
            task = self._as_holder("complete", id, token, document)
            TaskFeedbackRepository(self.session).record(id, **feedback)
        return task

    def complete_many(self, claims: Iterable[Claim]) -> Settled:
        """Complete several claimed tasks in one statement; what is another's now is `lost`.

        A claim is the task as it was claimed, or the pair of its id and its token. No error is
        raised for the lost ones, since that would undo the others together with the transaction.
        """
        return self._as_holders("complete", claims)

    def fail(
        self,
        id: str,
        token: str | None,
        error: str | BaseException,
        retry_in: Duration | None = None,
    ) -> Task:
        """Give a claimed task up, with the reason; `LeaseLost` when the lease is another's now.

        It is pending again after `retry_in`, or after 10 s, 20 s, 40 s and so on up to an hour,
        a quarter more or less; after `max_attempts` it is failed for good.
        """
        delay_s = None if retry_in is None else seconds(retry_in, "retry_in")
        jitter = 1 + _JITTER * (int.from_bytes(os.urandom(4)) / 2**31 - 1)
        return self._as_holder("fail", id, token, error_text(error), delay_s, jitter)

    def release(self, id: str, token: str | None, retry_in: Duration | None = None) -> Task:
        """Give a claimed task back untouched; `LeaseLost` when the lease is another's now.

        It is pending at once, and the attempt does not count. With `retry_in`, a timedelta or
        seconds, nobody is offered it before.
        """
        delay_s = None if retry_in is None else seconds(retry_in, "retry_in")
        return self._as_holder("release", id, token, delay_s)

    def _as_holder(self, verb: str, id: str, token: str | None, *values: Any) -> Task:
        key, token = self._key(id)["id"], _token(token)
        found = [] if unstorable(token) else self._held(verb, key, token, *values)
        if not found:
            raise _lost(verb, key, token, self.get(key))
        return found[0]

    def _held(self, verb: str, id: str, token: str, *values: Any) -> list[Task]:
        dialect = self.database.dialect
        if verb == "complete" and dialect == "postgresql":
            document = dump_json([[id, token]])
            return self._models(COMPLETE_ON_POSTGRESQL, (self._now(), document, *values))
        return self._models(holder_sql(dialect, verb), (self._now(), id, token, *values))

    def _as_holders(self, verb: str, claims: Iterable[Claim]) -> Settled:
        given = map(_claim, _each(claims))
        pairs = list(dict.fromkeys((self._key(key)["id"], token) for key, token in given))
        sound = [pair for pair in pairs if not unstorable(pair[1])]
        done = {task.id: task for task in self._held_together(verb, sound)} if sound else {}
        keys = dict.fromkeys(key for key, _ in pairs)
        missing = {key: token for key, token in pairs if key not in done}
        found = {task.id: task for task in self.filter({"id__in": [*missing]})} if missing else {}
        return Settled(
            [done[key] for key in keys if key in done],
            {key: _lost(verb, key, token, found.get(key)) for key, token in missing.items()},
        )

    def _held_together(self, verb: str, pairs: list[tuple[str, str]]) -> list[Task]:
        dialect, values = self.database.dialect, (self._now(), dump_json(pairs))
        if verb == "complete" and dialect == "postgresql":
            return self._models(COMPLETE_ON_POSTGRESQL, (*values, None))
        return self._models(holders_sql(dialect, verb), values)

    # -- what happened ----------------------------------------------------------------------------

    def get_events(self, task_id: str, skip: int = 0, limit: int | None = None) -> list[TaskEvent]:
        """What happened to a task, oldest first: each change of its status, each new lease.

        They are written by the database, whoever changes the task. One that is made begins
        without any.
        """
        return _Events(self.session).filter({"task": task_id}, skip, limit, "id")

    def get_recent_events(self, after_id: int | None = None, limit: int = 100) -> list[TaskEvent]:
        """What happened last to any task, oldest first: the newest events, or those after one.

        Transactions that run at once may end in another order than their events are numbered in.
        """
        events = _Events(self.session)
        if after_id is None:
            return events.filter(None, 0, limit, "-id")[::-1]
        return events.filter({"id__gt": after_id}, 0, limit, "id")

    # -- how the queue stands ---------------------------------------------------------------------

    def explain_readiness(
        self,
        id: str,
        *,
        projects: Texts = None,
        capabilities: Texts = None,
        tags: Texts = None,
    ) -> Readiness:
        """Whether `claim_next` with these arguments would offer a task, and if not, why.

        `NotFound` when there is no such task.
        """
        selection = Selection.of(projects, capabilities, tags)
        dialect = self.database.dialect
        key = self._key(id)["id"]
        found = self.database.execute_sql(
            readiness_sql(dialect, selection), (self._now(), *selection, key)
        ).fetchall()
        if not found:
            raise NotFound(f"Task {shorten(id)} does not exist")
        now, ready, unmet, *row = found[0]
        told = reasons(
            self._from_row(row),
            Task.updated_at.python_value(now),
            json.loads(unmet or "[]"),
            selection,
        )
        return Readiness(bool(ready), list(told))

    def get_queue_statistics(self) -> QueueStatistics:
        """How deep the queue is, who is at work, and what was done in the last hour."""
        return read_statistics(self.database, self._now())

    # -- other ways of writing --------------------------------------------------------------------

    def create(self, /, **fields: Any) -> Task:
        """Insert a task and return it. `IntegrityError` when its key is taken.

        When there is a task with the same `dedupe_key` already, in whatever status, that one is
        returned as it is, also when several callers do it at once.
        """
        if fields.get("dedupe_key") is None:
            return super().create(**fields)
        return self._create_once([fastpath.new_row(Task, fields)])[0]

    def bulk_create(self, rows: Iterable[Mapping[str, Any]]) -> list[Task]:
        """Insert many tasks, all or none, and return them in the order given.

        In the place of one whose `dedupe_key` is there already, the one that is there is returned.
        """
        given = as_rows(rows)
        if all(row.get("dedupe_key") is None for row in given):
            return super().bulk_create(given)
        return self._create_once([fastpath.new_row(Task, row) for row in given])

    def _create_once(self, rows: list[dict[str, Any]]) -> list[Task]:
        # The dedupe keys are no reason for a refusal.
        unkeyed = [{**row, "dedupe_key": None} for row in rows]
        with self._explaining(unkeyed, new=True), self.database.atomic():
            made = self._without_circle(rows, lambda: self._insert_once(rows))
            keys = [row["dedupe_key"] for row in rows if row["id"] not in made]
            known = {task.dedupe_key: task for task in self._with_dedupe_keys(keys)}
        if not known.keys() >= {*keys}:
            raise DatabaseError("a task with the same dedupe_key was just deleted", retryable=True)
        return [self._make(row) if row["id"] in made else known[row["dedupe_key"]] for row in rows]

    def _insert_once(self, rows: list[dict[str, Any]]) -> set[str]:
        """Insert the tasks whose `dedupe_key` is new; the ids of those."""
        fields = Task._meta.sorted_fields
        sql = (
            f"INSERT INTO tasks ({_COLUMNS}) SELECT {rowsets.columns(fields, 'v.')} "
            f"FROM {rowsets.rowset(self.database, fields)} WHERE true "
            "ON CONFLICT (dedupe_key) DO NOTHING RETURNING id"
        )
        made: set[str] = set()
        # In one order, so that two writers do not wait for each other.
        ordered = sorted(rows, key=lambda row: row.get("dedupe_key") or "")
        for chunk in rowsets.chunks(ordered):
            cursor = self.database.execute_sql(sql, (rowsets.document(fields, chunk),))
            made.update(key for (key,) in cursor.fetchall())
        return made

    def _with_dedupe_keys(self, keys: list[str]) -> list[Task]:
        if not keys:
            return []
        field = [Task.dedupe_key]
        sql = (
            f"SELECT {rowsets.columns(Task._meta.sorted_fields, 'task.')} "
            f"FROM {rowsets.rowset(self.database, field)} "
            "JOIN tasks AS task ON task.dedupe_key = v.dedupe_key"
        )
        document = rowsets.document(field, [{"dedupe_key": key} for key in keys])
        return self._models(sql, (document,))

    def _changes(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        changes = super()._changes(fields)
        if "status" in changes and changes["status"] not in HELD_STATUSES:
            # The database's trigger does the same, too late for SQLite's RETURNING.
            changes.update(dict.fromkeys(LEASE_FIELDS))
        return changes

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> Task:
        # A row that was read before must not bring the lease back that it had then.
        given = given.difference(LEASE_FIELDS)
        if "status" in given and row["status"] not in HELD_STATUSES:
            given = {*given, *LEASE_FIELDS}
            row = {**row, **dict.fromkeys(LEASE_FIELDS)}
        return super()._upsert(row, given, target)

    def _now(self) -> str | None:
        return moment(self.database.dialect, self._clock)


def _each(claims: Any) -> Iterable[Any]:
    if isinstance(claims, str | Mapping) or not isinstance(claims, Iterable):
        raise ValidationError(
            f"claims is {type(claims).__name__}; it must be a list of tasks, or of pairs of an id "
            "and a token",
            "claims",
        )
    return claims


def _claim(claim: Any) -> tuple[Any, str]:
    """The id and the token of a claim."""
    if isinstance(claim, Task):
        return claim.id, _token(claim.lease_token)
    if not isinstance(claim, tuple | list) or len(claim) != 2:
        raise ValidationError(
            f"claims holds {shorten(claim)}; each is a task, or the pair of its id and its token",
            "claims",
        )
    return claim[0], _token(claim[1])


def _token(token: Any) -> str:
    if not isinstance(token, str) or not token:
        raise ValidationError(
            f"token is {shorten(token)}; it must be the lease_token of the claim", "token"
        )
    return str(token)


def _lost(verb: str, id: str, token: str, task: Task | None) -> LeaseLost:
    return LeaseLost(f"{verb}: {_why_lost(id, token, task)}")


def _why_lost(id: str, token: str, task: Task | None) -> str:
    if task is None:
        return f"Task {id!r} does not exist"
    if task.lease_token is None:
        return f"Task {id!r} is not held by this lease any more: it is {task.status.value} now"
    whose = "an earlier claim" if task.lease_token != token else "this claim"
    until = f", until {task.lease_expires_at}" if task.lease_expires_at else ""
    return f"Task {id!r} is held by {task.owner!r} now{until}; the token is of {whose}"


class _Events(Repository[TaskEvent]):
    model = TaskEvent


def check_owner(owner: Any) -> str:
    """The name of a worker, or a `ValidationError`."""
    if not isinstance(owner, str) or not owner.strip():
        raise ValidationError(f"owner is {shorten(owner)}; it must name the worker", "owner")
    return str(Task.owner.normalize(owner))


def _place_in_queue(task: Task) -> tuple[datetime, str]:
    """What `schema.CLAIM_KEY` says, of a task in Python."""
    return task.created_at - _RANK[task.priority], task.id


def _is_detail(feedback: Any) -> bool:
    return isinstance(feedback, dict) and bool(feedback) and feedback.keys() <= _FEEDBACK_FIELDS


def error_text(error: Any) -> str:
    """The reason of a failure as a text that can be stored, and not too long."""
    if isinstance(error, BaseException):
        name = type(error).__name__
        try:
            error = f"{name}: {error}".removesuffix(": ")
        except Exception:  # noqa: BLE001  # it cannot even say what it is
            error = name
    if not isinstance(error, str) or not error.strip():
        raise ValidationError(
            f"error is {shorten(error)}; it must be an exception or a text that says why",
            "error",
        )
    # Half characters become question marks.
    text = error.replace("\0", "").encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_ERROR else f"{text[: _LONGEST_ERROR - 1]}…"
