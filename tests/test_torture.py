"""Workers that are killed, and a server that is restarted, lose nothing and do nothing twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from benchmarks.torture import Begun, Plan, judge_events, judge_work, places, torture
from hopper_data import TaskEvent

LEASE = timedelta(seconds=10)


PLAN = Plan(tasks=300, workers=4, lease_s=4, kill_every_s=0.3, patience_s=150)


@pytest.mark.parametrize(
    ("backend", "plan"),
    [("sqlite", PLAN), ("postgresql", replace(PLAN, tasks=1_000, restarts=1, freezes=1))],
)
def test_every_task_is_done_whoever_dies(backend: str, plan: Plan) -> None:
    with places(backend) as (database, restart):
        outcome = torture(database, plan, restart)
    assert outcome.violations == []
    assert outcome.completed == plan.tasks
    assert outcome.kills > 0
    assert (outcome.restarts, outcome.freezes) == (plan.restarts, plan.freezes)


# -- the judge ------------------------------------------------------------------------------------


def moment(after_s: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=after_s)


def event(after_s: float, to_status: str, token: str, task_id: str = "t") -> TaskEvent:
    return TaskEvent(task=task_id, to_status=to_status, lease_token=token, at=moment(after_s))


def test_claims_that_follow_each_other_are_no_violation() -> None:
    events = [
        event(0, "claimed", "a"),
        event(1, "claimed", "x", "other"),
        event(2, "pending", "a"),
        event(2, "claimed", "b"),
        event(11.9995, "claimed", "c"),  # the lease's end was rounded
        event(13, "completed", "c"),
        event(14, "completed", "x", "other"),
    ]
    wrong, completed = judge_events(events, LEASE)
    assert wrong == []
    assert {key: each.lease_token for key, each in completed.items()} == {"t": "c", "other": "x"}


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([event(0, "claimed", "a"), event(9.99, "claimed", "b")], "was claimed at"),
        ([event(0, "claimed", "a"), event(1, "completed", "b")], "a token that held nothing"),
        ([event(0, "completed", "a")], "a token that held nothing"),
        (
            [event(0, "claimed", "a"), event(1, "completed", "a"), event(20, "claimed", "b")],
            "after it was completed",
        ),
        (
            [event(0, "claimed", "a"), event(11, "claimed", "b"), event(12, "completed", "a")],
            "a token that held nothing",
        ),
    ],
)
def test_two_live_tokens_are_found(events: list[TaskEvent], words: str) -> None:
    wrong, _ = judge_events(events, LEASE)
    assert len(wrong) == 1
    assert words in wrong[0]


def test_work_that_a_killed_worker_left_is_no_violation() -> None:
    begun = [Begun("dead", "t", "a"), Begun("alive", "t", "b", moment(5))]
    assert judge_work(begun, {"t": event(5, "completed", "b")}, {"dead"}) == []


def test_work_for_nothing_is_found() -> None:
    begun = [Begun("alive", "t", "a", moment(1)), Begun("dead", "t", "b", moment(5))]
    (wrong,) = judge_work(begun, {"t": event(5, "completed", "b")}, {"dead"})
    assert wrong.startswith("alive began t for nothing")


def test_work_that_is_begun_twice_under_one_token_is_found() -> None:
    begun = [Begun("alive", "t", "a", moment(1)), Begun("dead", "t", "a", moment(1))]
    (wrong,) = judge_work(begun, {"t": event(5, "completed", "a")}, {"dead"})
    assert "twice under one token, by dead" in wrong


@pytest.mark.parametrize("ended_at", [None, moment(6)])
def test_a_task_that_is_completed_before_its_work_is_done_is_found(
    ended_at: datetime | None,
) -> None:
    begun = [Begun("late", "t", "a", moment(5)), Begun("alive", "t", "b", ended_at)]
    (wrong,) = judge_work(begun, {"t": event(5, "completed", "b")}, {"late"})
    assert "t was completed at" in wrong


def test_a_task_that_is_completed_without_any_work_is_found() -> None:
    (wrong,) = judge_work([], {"t": event(5, "completed", "a")}, set())
    assert "t was completed at" in wrong
