"""The queue against a model of a few lines: any sequence of what workers and operators do."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from hopper_data import LeaseLost, TaskPriority, TaskRepository
from hopper_data.database import Database
from hopper_data.session import open_session

START = datetime(2100, 3, 1, tzinfo=UTC)
RANKS = list(TaskPriority)
HELD = ("claimed", "in_progress")
PLACES = st.integers(0, 99)


class RollBackError(Exception):
    """Ends the session of one run."""


@dataclass
class Model:
    """What a task is expected to be."""

    id: str
    place: datetime
    max_attempts: int
    status: str = "pending"
    owner: str | None = None
    token: str | None = None
    expires: datetime | None = None
    lease_s: float | None = None
    attempts: int = 0
    run_after: datetime | None = None

    def end(self, status: str, owner: str | None = None) -> None:
        self.status, self.owner = status, owner
        self.token = self.expires = self.lease_s = None

    def seen(self) -> tuple[Any, ...]:
        return (
            *(self.status, self.owner, self.token, self.expires, self.lease_s),
            *(self.attempts, self.run_after),
        )


class QueueMachine(RuleBasedStateMachine):
    """Workers, an operator and the time, in any order."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.scope = open_session(database)
        self.now = START
        self.tasks = TaskRepository(self.scope.__enter__(), clock=lambda: self.now)
        self.model: dict[str, Model] = {}
        self.claims: list[tuple[str, str]] = []

    def teardown(self) -> None:
        with suppress(RollBackError):
            self.scope.__exit__(RollBackError, RollBackError(), None)

    # -- what happens -----------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.create("medium", 1, 0)

    @rule(priority=st.sampled_from(RANKS), max_attempts=st.integers(1, 3), age_h=st.integers(0, 99))
    def create(self, priority: str, max_attempts: int, age_h: int) -> None:
        key = f"{len(self.model):03}"
        made = START - timedelta(hours=age_h)
        self.tasks.create(
            id=key, title="x", priority=priority, max_attempts=max_attempts, created_at=made
        )
        place = made - timedelta(days=RANKS.index(TaskPriority(priority)))
        self.model[key] = Model(key, place, max_attempts)

    @rule(seconds=st.sampled_from([1, 30, 300]))
    def advance(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule(owner=st.sampled_from("ab"), limit=st.integers(1, 3), lease_s=st.sampled_from([10, 300]))
    def claim(self, owner: str, limit: int, lease_s: int) -> None:
        self.lapse(spent=True)
        free = [task for task in self.model.values() if self.is_free(task)]
        best = sorted(free, key=lambda task: (task.place, task.id))[:limit]
        claimed = self.tasks.claim_next(owner, limit=limit, lease=lease_s)
        assert [task.id for task in claimed] == [task.id for task in best]
        for task, found in zip(best, claimed, strict=True):
            task.status, task.owner, task.token = "claimed", owner, found.lease_token
            task.expires, task.lease_s = self.now + timedelta(seconds=lease_s), lease_s
            task.attempts = 1 if task.attempts >= task.max_attempts else task.attempts + 1
            assert (task.id, task.token) not in self.claims
            self.claims.append((task.id, str(task.token)))

    @precondition(lambda self: self.claims)
    @rule(place=PLACES)
    def heartbeat(self, place: int) -> None:
        task = self.as_holder("heartbeat", place)
        if task:
            task.expires = self.now + timedelta(seconds=task.lease_s or 0)

    @precondition(lambda self: self.claims)
    @rule(place=PLACES)
    def complete(self, place: int) -> None:
        task = self.as_holder("complete", place)
        if task:
            task.end("completed", task.owner)

    @precondition(lambda self: self.claims)
    @rule(place=PLACES, retry_in=st.sampled_from([0, 20]))
    def fail(self, place: int, retry_in: int) -> None:
        task = self.as_holder("fail", place, "boom", retry_in)
        if task and task.attempts < task.max_attempts:
            task.end("pending")
            task.run_after = self.now + timedelta(seconds=retry_in)
        elif task:
            task.end("failed", task.owner)
            task.run_after = None

    @precondition(lambda self: self.claims)
    @rule(place=PLACES)
    def release(self, place: int) -> None:
        task = self.as_holder("release", place)
        if task:
            task.end("pending")
            task.attempts -= 1

    @rule()
    def requeue(self) -> None:
        assert self.tasks.requeue_expired() == self.lapse(spent=False)

    @rule(place=PLACES, status=st.sampled_from(["cancelled", "pending", "in_progress"]))
    def operate(self, place: int, status: str) -> None:
        task = list(self.model.values())[place % len(self.model)]
        allowed = {
            "cancelled": ("pending", *HELD, "failed"),
            "pending": (*HELD, "completed", "failed", "cancelled"),
            "in_progress": ("pending", "claimed"),
        }
        if task.status not in allowed[status]:
            return
        self.tasks.update_status(task.id, status)
        if status == "in_progress":
            task.status = status
        else:
            task.end(status, task.owner)

    # -- what is expected -------------------------------------------------------------------------

    def as_holder(self, verb: str, place: int, *values: Any) -> Model | None:
        """The task of a claim of any age, if the claim still holds it; `LeaseLost` if not."""
        key, token = self.claims[-1 - place % len(self.claims)]
        task = self.model[key]
        if task.token != token:
            with pytest.raises(LeaseLost):
                getattr(self.tasks, verb)(key, token, *values)
            return None
        getattr(self.tasks, verb)(key, token, *values)
        return task

    def is_lapsed(self, task: Model) -> bool:
        return task.expires is not None and task.expires <= self.now

    def is_free(self, task: Model) -> bool:
        if task.status == "pending":
            return task.run_after is None or task.run_after <= self.now
        return self.is_lapsed(task)

    def lapse(self, *, spent: bool) -> int:
        """What becomes of expired leases, or of those alone that had all their attempts."""
        ended = 0
        for task in self.model.values():
            over = task.attempts >= task.max_attempts
            if self.is_lapsed(task) and (over or not spent):
                task.end("failed" if over else "pending", task.owner if over else None)
                task.run_after = None
                ended += 1
        return ended

    @invariant()
    def tasks_are_as_expected(self) -> None:
        for found in self.tasks.get_all():
            stored = (
                *(found.status, found.owner, found.lease_token, found.lease_expires_at),
                *(found.lease_s, found.attempts, found.run_after),
            )
            assert stored == self.model[found.id].seen(), found.id

    @invariant()
    def a_task_has_one_holder_at_a_time(self) -> None:
        tokens = [task.token for task in self.model.values() if task.token]
        assert len(set(tokens)) == len(tokens)


def test_the_queue_does_what_the_model_says(database: Database) -> None:
    run_state_machine_as_test(
        lambda: QueueMachine(database),
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
