"""Many workers, one queue: claims, leases, and what becomes of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import (
    IntegrityError,
    InvalidTransition,
    LeaseLost,
    NotFound,
    QueueStatistics,
    Readiness,
    Session,
    SessionFactory,
    Settled,
    Task,
    TaskFeedbackRepository,
    TaskRepository,
    ValidationError,
)

START = datetime(2100, 3, 1, 12, tzinfo=UTC)


class Clock:
    """A time that stands still until it is told to move on."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, **length: float) -> None:
        self.now += timedelta(**length)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tasks(session: Session, clock: Clock) -> TaskRepository:
    return TaskRepository(session, clock=clock)


def claim(tasks: TaskRepository, owner: str = "agent-1", **options: Any) -> Task:
    (task,) = tasks.claim_next(owner, **options)
    return task


def token(task: Task) -> str:
    assert task.lease_token is not None
    return task.lease_token


# -- claims ---------------------------------------------------------------------------------------


def test_a_task_that_cannot_be_read_stops_no_other(make_url: Callable[..., str]) -> None:
    with SessionFactory(make_url("sqlite")) as factory, factory.get_session() as session:
        tasks = TaskRepository(session)
        for place, name in enumerate(("required_capabilities", "blocks", "feedback")):
            tasks.create(id=f"bad{place}", title="x", priority="urgent")
            session.execute(f"UPDATE tasks SET {name} = '[oh' WHERE id = 'bad{place}'")
        assert not tasks.wait_for_tasks(0, capabilities=[])
        assert tasks.claim_next("a", capabilities=[]) == []
        tasks.create(id="good", title="x")
        assert claim(tasks, capabilities=[], lease=0.001).id == "good"
        time.sleep(0.01)
        session.execute("UPDATE tasks SET feedback = '[oh' WHERE id = 'good'")
        tasks.create(id="better", title="x", priority="low")
        assert [task.id for task in tasks.claim_next("b", limit=9)] == ["better"]


def test_a_claim_gives_a_lease(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    task = claim(tasks, lease=60)
    assert (task.id, task.status, task.owner, task.attempts) == ("a", "claimed", "agent-1", 1)
    assert task.lease_expires_at == START + timedelta(seconds=60)
    assert task.lease_s == 60
    assert task.updated_at == START
    assert 16 <= len(token(task)) <= 50
    assert tasks.get_or_raise("a").to_dict() == task.to_dict()
    assert tasks.claim_next("agent-2") == []


def test_each_task_and_each_claim_has_a_token_of_its_own(tasks: TaskRepository) -> None:
    tasks.bulk_create({"title": "x"} for _ in range(5))
    claimed = tasks.claim_next("agent-1", limit=3) + tasks.claim_next("agent-1", limit=3)
    assert len(claimed) == 5
    assert len({task.lease_token for task in claimed}) == 5
    assert len({task.id for task in claimed}) == 5


def test_the_best_are_claimed_first(tasks: TaskRepository) -> None:
    hour = timedelta(hours=1)
    tasks.create(id="low", title="x", priority="low", created_at=START - 9 * hour)
    tasks.create(id="young", title="x", priority="high", created_at=START - hour)
    tasks.create(id="old", title="x", priority="high", created_at=START - 2 * hour)
    tasks.create(id="urgent", title="x", priority="urgent", created_at=START)
    assert [task.id for task in tasks.claim_next("a", limit=2)] == ["urgent", "old"]
    assert [task.id for task in tasks.claim_next("a", limit=9)] == ["young", "low"]


def test_nothing_waits_for_ever(tasks: TaskRepository) -> None:
    tasks.create(id="urgent", title="x", priority="urgent", created_at=START)
    for name, days in (("younger", 2.99), ("older", 3.01)):
        tasks.create(id=name, title="x", priority="low", created_at=START - timedelta(days=days))
    assert [t.id for t in tasks.claim_next("a", limit=9)] == ["older", "urgent", "younger"]


def test_equals_go_by_the_microsecond_then_by_key(tasks: TaskRepository) -> None:
    for key, micros in (("c", 1), ("b", 0), ("a", 0)):
        tasks.create(id=key, title="x", created_at=START + timedelta(microseconds=micros))
    assert [claim(tasks).id for _ in range(3)] == ["a", "b", "c"]


def test_what_is_not_ready_is_not_offered(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="later", title="x", run_after=START + timedelta(minutes=1))
    tasks.create(id="first", title="x")
    tasks.create(id="second", title="x", depends_on=["first"])
    tasks.create(id="never", title="x", depends_on=["missing"])
    assert [task.id for task in tasks.get_ready_tasks()] == ["first"]
    assert tasks.count_ready_tasks() == 1
    first = claim(tasks)
    assert first.id == "first"
    assert tasks.claim_next("agent-1") == []
    tasks.complete("first", token(first))
    assert claim(tasks).id == "second"
    clock.advance(minutes=1)
    assert tasks.count_ready_tasks() == 1
    assert claim(tasks).id == "later"
    assert tasks.claim_next("agent-1") == []


def test_a_worker_gets_what_it_takes(tasks: TaskRepository) -> None:
    def ids(**options: Any) -> set[str]:
        with tasks.database.atomic() as scope:
            found = {task.id for task in tasks.claim_next("agent-1", limit=9, **options)}
            scope.rollback()
        return found

    tasks.create(id="plain", title="x")
    tasks.create(id="empty", title="x", required_capabilities=[], tags=[])
    tasks.create(id="python", title="x", required_capabilities=["python"], project="p")
    tasks.create(id="both", title="x", required_capabilities=["python", "go"], project="q")
    tasks.create(id="tagged", title="x", tags=["red", "blue"], project="p")
    everything = {"plain", "empty", "python", "both", "tagged"}
    assert ids() == everything
    assert ids(capabilities=[]) == {"plain", "empty", "tagged"}
    assert ids(capabilities="python") == {"plain", "empty", "python", "tagged"}
    assert ids(capabilities=("go", "python", "rust")) == everything
    assert ids(projects="p") == {"python", "tagged"}
    assert ids(projects=["p", "q"], capabilities=["python"]) == {"python", "tagged"}
    assert ids(projects=[]) == set()
    assert ids(tags="red") == {"tagged"}
    assert ids(tags=["red", "blue"]) == {"tagged"}
    assert ids(tags=["red", "green"]) == set()
    assert ids(tags=[]) >= {"tagged", "empty"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": -1}, "limit is -1"),
        ({"lease": 0}, "lease is 0"),
        ({"lease": timedelta(seconds=-5)}, "lease is"),
        ({"lease": "5 minutes"}, "must be a timedelta or a number of seconds"),
        ({"lease": True}, "must be a timedelta"),
        ({"lease": float("nan")}, "lease is nan"),
        ({"lease": timedelta(days=999)}, "a year at the most"),
        ({"projects": 5}, "projects is int"),
        ({"projects": [""]}, "projects holds ''"),
        ({"tags": ["a\0"]}, "tags holds"),
        ({"capabilities": [None]}, "capabilities holds None"),
        ({"capabilities": ["\ud800"]}, "capabilities holds"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tasks: TaskRepository, options: dict[str, Any], message: str
) -> None:
    tasks.create(id="a", title="x")
    with pytest.raises(ValidationError, match=message):
        tasks.claim_next("agent-1", **options)
    assert tasks.get_or_raise("a").status == "pending"


@pytest.mark.parametrize("owner", ["", "  ", None, 5, "x" * 101, "a\0b"])
def test_an_owner_must_have_a_name(tasks: TaskRepository, owner: Any) -> None:
    with pytest.raises(ValidationError, match="owner"):
        tasks.claim_next(owner)


def test_a_limit_of_nothing_claims_nothing(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    assert tasks.claim_next("agent-1", limit=0) == []
    assert tasks.get_or_raise("a").status == "pending"


# -- leases ---------------------------------------------------------------------------------------


def test_a_heartbeat_renews_for_the_same_length(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    task = claim(tasks, lease=timedelta(seconds=90))
    clock.advance(seconds=60)
    renewed = tasks.heartbeat("a", token(task))
    assert renewed.lease_expires_at == START + timedelta(seconds=150)
    assert (renewed.lease_token, renewed.status) == (task.lease_token, "claimed")
    clock.advance(seconds=80)
    assert tasks.claim_next("agent-2") == []
    clock.advance(seconds=10)
    assert tasks.claim_next("agent-2") != []


def test_an_expired_lease_is_taken_over(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    first = claim(tasks)
    clock.advance(minutes=5)
    second = claim(tasks, "agent-2")
    assert (second.owner, second.attempts) == ("agent-2", 2)
    assert second.lease_token != first.lease_token
    assert [event.note for event in tasks.get_events("a")] == [None, "lease expired"]


def test_an_expired_lease_that_nobody_took_still_counts(
    tasks: TaskRepository, clock: Clock
) -> None:
    tasks.create(id="a", title="x")
    task = claim(tasks)
    clock.advance(hours=1)
    tasks.heartbeat("a", token(task))
    clock.advance(hours=1)
    assert tasks.complete("a", token(task)).status == "completed"


def test_expired_and_fresh_tasks_are_one_queue(tasks: TaskRepository, clock: Clock) -> None:
    for key, priority in (("a", "high"), ("b", "low")):
        tasks.create(id=key, title="x", priority=priority, created_at=START)
    tasks.claim_next("agent-1", limit=2)
    tasks.create(id="c", title="x", priority="medium", created_at=START)
    clock.advance(minutes=5)
    assert [task.id for task in tasks.claim_next("agent-2", limit=2)] == ["a", "c"]
    assert tasks.get_or_raise("b").owner == "agent-1"


def test_a_task_that_nobody_survives_fails(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="poison", title="x", max_attempts=2)
    for attempt in (1, 2):
        assert claim(tasks).attempts == attempt
        clock.advance(minutes=5)
    assert tasks.claim_next("agent-2") == []
    task = tasks.get_or_raise("poison")
    assert (task.status, task.owner, task.lease_token) == ("failed", "agent-1", None)
    assert task.last_error == "the lease of agent-1 expired in attempt 2 of 2"


def test_expired_leases_can_be_ended_at_once(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    tasks.create(id="b", title="x", max_attempts=1)
    tasks.create(id="c", title="x")
    tasks.claim_next("agent-1", limit=2)
    assert tasks.requeue_expired() == 0
    clock.advance(minutes=4)
    last = claim(tasks)
    clock.advance(minutes=1)
    assert tasks.requeue_expired() == 2
    assert [tasks.get_or_raise(key).status for key in "abc"] == ["pending", "failed", "claimed"]
    assert (tasks.get_or_raise("a").owner, tasks.get_or_raise("a").attempts) == (None, 1)
    tasks.complete("c", token(last))
    assert claim(tasks).attempts == 2


HOLDER: dict[str, Callable[[TaskRepository, str, str], Any]] = {
    "heartbeat": lambda tasks, key, token: tasks.heartbeat(key, token),
    "complete": lambda tasks, key, token: tasks.complete(key, token, {"quality_score": 1.0}),
    "fail": lambda tasks, key, token: tasks.fail(key, token, "no"),
    "release": lambda tasks, key, token: tasks.release(key, token),
}
LOSSES: dict[str, Callable[[TaskRepository, Clock, str], Any]] = {
    "taken over": lambda tasks, clock, token: (
        clock.advance(minutes=6),
        tasks.claim_next("agent-1"),
    ),
    "requeued": lambda tasks, clock, token: (clock.advance(minutes=6), tasks.requeue_expired()),
    "completed": lambda tasks, clock, token: tasks.complete("a", token),
    "cancelled": lambda tasks, clock, token: tasks.update_status("a", "cancelled"),
    "bulk": lambda tasks, clock, token: tasks.bulk_update([{"id": "a", "status": "blocked"}]),
    "upserted": lambda tasks, clock, token: tasks.upsert(id="a", title="x", status="blocked"),
    "raw": lambda tasks, clock, token: tasks.session.execute(
        "UPDATE tasks SET status = 'blocked' WHERE id = 'a'"
    ),
    "deleted": lambda tasks, clock, token: tasks.delete("a"),
    "released and claimed": lambda tasks, clock, token: (
        tasks.release("a", token),
        tasks.claim_next("agent-1"),
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_whoever_lost_the_lease_changes_nothing(
    tasks: TaskRepository, clock: Clock, loss: str
) -> None:
    tasks.create(id="a", title="x")
    old = token(claim(tasks))
    LOSSES[loss](tasks, clock, old)
    before = tasks.get("a")
    events = tasks.get_events("a")
    for verb, act in HOLDER.items():
        with pytest.raises(LeaseLost, match=f"{verb}: Task 'a'"):
            act(tasks, "a", old)
    after = tasks.get("a")
    assert (after and after.to_dict()) == (before and before.to_dict())
    assert len(tasks.get_events("a")) == len(events)
    assert TaskFeedbackRepository(tasks.session).get("a") is None


@pytest.mark.parametrize("way", ["update", "bulk_update", "upsert", "save", "raw"])
def test_a_lease_ends_with_its_status(tasks: TaskRepository, way: str) -> None:
    tasks.create(id="a", title="x")
    held = claim(tasks)
    tasks.update_status("a", "in_progress")
    assert tasks.get_or_raise("a").lease_token == held.lease_token
    if way == "update":
        updated = tasks.update("a", status="blocked")
        assert updated is not None
        assert updated.to_dict() == tasks.get_or_raise("a").to_dict()
    elif way == "bulk_update":
        tasks.bulk_update([{"id": "a", "status": "blocked"}])
    elif way == "upsert":
        upserted = tasks.upsert(id="a", title="x", status="blocked")
        assert upserted.to_dict() == tasks.get_or_raise("a").to_dict()
    elif way == "save":
        task = tasks.get_or_raise("a")
        task.status = "blocked"  # type: ignore[assignment]
        task.save()
    else:
        tasks.session.execute("UPDATE tasks SET status = 'blocked' WHERE id = 'a'")
    task = tasks.get_or_raise("a")
    assert (task.lease_token, task.lease_expires_at, task.lease_s) == (None, None, None)
    assert [event.to_status for event in tasks.get_events("a")] == [
        "claimed",
        "in_progress",
        "blocked",
    ]


def test_a_lost_lease_says_who_has_the_task(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    old = token(claim(tasks))
    clock.advance(minutes=5)
    new = claim(tasks, "agent-2")
    with pytest.raises(LeaseLost, match=r"held by 'agent-2' now, until .*an earlier claim"):
        tasks.heartbeat("a", old)
    tasks.complete("a", token(new))
    with pytest.raises(LeaseLost, match="it is completed now"):
        tasks.fail("a", old, "x")
    with pytest.raises(LeaseLost, match="'b' does not exist"):
        tasks.release("b", old)


@pytest.mark.parametrize("wrong", ["", None, 5, b"x"])
def test_a_token_must_be_one(tasks: TaskRepository, wrong: Any) -> None:
    with pytest.raises(ValidationError, match="lease_token of the claim"):
        tasks.heartbeat("a", wrong)


# -- several at once ------------------------------------------------------------------------------


def test_several_are_completed_at_once(tasks: TaskRepository, clock: Clock) -> None:
    tasks.bulk_create({"id": f"t{number}", "title": "x"} for number in range(5))
    tasks.update("t1", feedback={"kept": True})
    claimed = tasks.claim_next("agent-1", limit=4)
    clock.advance(seconds=1)
    third, *others = claimed[::-1]
    settled = tasks.complete_many([third, *((task.id, token(task)) for task in others)])
    assert settled.lost == {}
    assert [task.id for task in settled.tasks] == ["t3", "t2", "t1", "t0"]
    for task in settled.tasks:
        assert (task.status, task.lease_token, task.owner) == ("completed", None, "agent-1")
        assert task.updated_at == clock.now
        assert tasks.get_or_raise(task.id).to_dict() == task.to_dict()
        assert [e.to_status for e in tasks.get_events(task.id)] == ["claimed", "completed"]
    assert tasks.get_or_raise("t1").feedback == {"kept": True}
    assert tasks.get_or_raise("t4").status == "pending"


def test_those_that_are_lost_are_told_and_the_others_completed(
    tasks: TaskRepository, clock: Clock
) -> None:
    tasks.bulk_create({"id": f"t{number}", "title": "x"} for number in range(4))
    held = tasks.claim_next("agent-1", limit=4)
    tasks.update_status("t0", "cancelled")
    clock.advance(minutes=5)
    theirs = claim(tasks, "agent-2")
    tasks.delete("t2")
    settled = tasks.complete_many([*held, ("ghost", "token"), (held[3].id, "another")])
    assert [task.id for task in settled.tasks] == ["t3"]
    assert [*settled.lost] == ["t0", "t1", "t2", "ghost"]
    assert all(isinstance(error, LeaseLost) for error in settled.lost.values())
    assert "complete: Task 't0' is not held by this lease" in str(settled.lost["t0"])
    assert "is held by 'agent-2' now" in str(settled.lost["t1"])
    assert "'ghost' does not exist" in str(settled.lost["ghost"])
    assert theirs.id == "t1"
    assert tasks.get_or_raise("t1").lease_token == theirs.lease_token
    assert tasks.complete_many(held).tasks == []


def test_several_leases_are_renewed_at_once(tasks: TaskRepository, clock: Clock) -> None:
    tasks.bulk_create({"id": f"t{number}", "title": "x"} for number in range(3))
    held = [claim(tasks, lease=60), claim(tasks, lease=120), claim(tasks)]
    clock.advance(seconds=30)
    tasks.release("t2", token(held[2]))
    settled = tasks.heartbeat_many(held)
    assert [task.lease_expires_at for task in settled.tasks] == [
        clock.now + timedelta(seconds=length) for length in (60, 120)
    ]
    assert [task.lease_token for task in settled.tasks] == [token(task) for task in held[:2]]
    assert [*settled.lost] == ["t2"]


def test_nothing_is_nothing_for_several(tasks: TaskRepository) -> None:
    assert tasks.complete_many([]) == Settled([], {})
    assert tasks.heartbeat_many(()) == Settled([], {})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("a", "claims is str"),
        (None, "claims is NoneType"),
        ({"a": "b"}, "claims is dict"),
        (["ab"], "claims holds 'ab'; each is a task, or the pair"),
        ([("a", "b", "c")], "each is a task, or the pair"),
        ([("a", None)], "token is None"),
        ([("a", "")], "token is ''"),
        ([(None, "b")], "id is None"),
        ([("held", "token"), Task(id="a", title="x")], "token is None"),
    ],
)
def test_claims_must_be_such(tasks: TaskRepository, wrong: Any, message: str) -> None:
    tasks.create(id="held", title="x")
    held = claim(tasks)
    if isinstance(wrong, list):
        wrong = [held, *wrong]
    for call in (tasks.complete_many, tasks.heartbeat_many):
        with pytest.raises(ValidationError, match=message):
            call(wrong)
    assert tasks.get_or_raise("held").status == "claimed"


def test_a_token_that_cannot_be_stored_is_nobodys(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    held = claim(tasks)
    settled = tasks.complete_many([("a", "x\0y"), ("a", "\ud800")])
    assert (settled.tasks, [*settled.lost]) == ([], ["a"])
    assert tasks.complete_many([("a", "x\0y"), held]).lost == {}


# -- ends -----------------------------------------------------------------------------------------


def test_a_failed_task_comes_back_ever_later(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x", max_attempts=4)
    for attempt, delay_s in enumerate((10, 20, 40), 1):
        task = claim(tasks)
        assert task.attempts == attempt
        failed = tasks.fail("a", token(task), "boom")
        assert (failed.status, failed.owner, failed.lease_token) == ("pending", None, None)
        assert failed.last_error == "boom"
        assert failed.run_after is not None
        wait_s = (failed.run_after - clock.now).total_seconds()
        assert delay_s * 0.75 <= wait_s <= delay_s * 1.25
        assert tasks.claim_next("agent-1") == []
        clock.now = failed.run_after
    failed = tasks.fail("a", token(claim(tasks)), "boom")
    assert (failed.status, failed.owner, failed.run_after) == ("failed", "agent-1", None)
    assert [e.note for e in tasks.get_events("a") if e.to_status != "claimed"] == ["boom"] * 4


def test_the_back_off_has_an_end(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x", max_attempts=1000, attempts=500)
    failed = tasks.fail("a", token(claim(tasks)), "boom")
    assert failed.run_after is not None
    wait_s = (failed.run_after - clock.now).total_seconds()
    assert 2700 <= wait_s <= 3600


def test_a_failure_may_say_when_to_try_again(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    failed = tasks.fail("a", token(claim(tasks)), "x", retry_in=timedelta(seconds=1))
    assert failed.run_after == START + timedelta(seconds=1)
    clock.advance(seconds=1)
    assert tasks.fail("a", token(claim(tasks)), "x", retry_in=0).run_after == clock.now
    with pytest.raises(ValidationError, match="retry_in is -1"):
        tasks.fail("a", token(claim(tasks)), "x", retry_in=-1)


def test_an_error_is_kept_as_a_text_that_fits(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x", max_attempts=9)

    def fail(error: Any) -> str | None:
        return tasks.fail("a", token(claim(tasks)), error, retry_in=0).last_error

    assert fail(ValueError("no such file")) == "ValueError: no such file"
    assert fail(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert fail("a\0b\ud800") == "ab?"
    assert fail("é" * 20_000) == "é" * 9_999 + "…"
    for wrong in ("", " ", None, 5):
        with pytest.raises(ValidationError, match="error is"):
            fail(wrong)
        tasks.release("a", token(tasks.get_or_raise("a")))


def test_a_released_task_may_wait(tasks: TaskRepository, clock: Clock) -> None:
    then = START - timedelta(days=1)
    tasks.create(id="a", title="x", run_after=then)
    assert tasks.release("a", token(claim(tasks))).run_after == then
    released = tasks.release("a", token(claim(tasks)), retry_in=timedelta(seconds=30))
    assert (released.status, released.attempts) == ("pending", 0)
    assert released.run_after == START + timedelta(seconds=30)
    assert tasks.claim_next("b") == []
    clock.advance(seconds=30)
    held = claim(tasks, "b")
    with pytest.raises(ValidationError, match="retry_in is -1"):
        tasks.release("a", token(held), retry_in=-1)
    assert tasks.release("a", token(held), retry_in=0).run_after == clock.now


def test_a_released_task_is_pending_and_the_attempt_does_not_count(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    released = tasks.release("a", token(claim(tasks)))
    assert (released.status, released.owner, released.attempts) == ("pending", None, 0)
    assert (released.lease_token, released.lease_expires_at) == (None, None)
    assert claim(tasks).attempts == 1
    event = tasks.get_events("a")[1]
    assert (event.note, event.attempt, event.owner) == ("released", 1, "agent-1")


def test_a_completed_task_keeps_what_was_learned(tasks: TaskRepository) -> None:
    for key in "abc":
        tasks.create(id=key, title="x", feedback={"old": 1})
    details = TaskFeedbackRepository(tasks.session)
    done = tasks.complete("a", token(claim(tasks)))
    assert (done.status, done.owner, done.lease_token) == ("completed", "agent-1", None)
    assert done.feedback == {"old": 1}
    assert details.get("a") is None
    done = tasks.complete("b", token(claim(tasks)), {"quality_score": 0.5, "notes": "good"})
    assert done.feedback == {"quality_score": 0.5, "notes": "good"}
    assert details.get_or_raise("b").quality_score == 0.5
    done = tasks.complete("c", token(claim(tasks)), {"notes": "good", "mood": "fine"})
    assert done.feedback == {"notes": "good", "mood": "fine"}
    assert details.get("c") is None


def test_feedback_that_is_wrong_completes_nothing(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    held = token(claim(tasks))
    for wrong in ({"complexity_rating": 11}, {"x": {1, 2}}, float("nan")):
        with pytest.raises(ValidationError):
            tasks.complete("a", held, wrong)
    assert tasks.get_or_raise("a").status == "claimed"
    assert tasks.complete("a", held, {}).feedback == {}


def test_a_task_in_progress_is_held_by_the_same_lease(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    held = token(claim(tasks))
    tasks.update_status("a", "in_progress")
    assert tasks.heartbeat("a", held).status == "in_progress"
    assert tasks.complete("a", held).status == "completed"


def test_a_reopened_task_has_all_its_attempts_again(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x", max_attempts=1)
    tasks.fail("a", token(claim(tasks)), "boom")
    with pytest.raises(InvalidTransition):
        tasks.update_status("a", "claimed")
    tasks.update_status("a", "pending")
    again = claim(tasks)
    assert (again.attempts, again.last_error) == (1, None)
    assert tasks.fail("a", token(again), "boom").status == "failed"
    notes = [event.note for event in tasks.get_events("a")]
    assert notes == [None, "boom", None, None, "boom"]


# -- events ---------------------------------------------------------------------------------------


def test_events_say_who_did_what(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x")
    first = claim(tasks)
    clock.advance(seconds=1)
    tasks.fail("a", token(first), "boom", retry_in=0)
    second = claim(tasks, "agent-2")
    tasks.update("a", title="new")
    tasks.update_status("a", "in_progress")
    tasks.complete("a", token(second))
    told = [
        (e.from_status.value, e.to_status.value, e.owner, e.note, e.attempt, e.lease_token)
        for e in tasks.get_events("a")
    ]
    assert told == [
        ("pending", "claimed", "agent-1", None, 1, first.lease_token),
        ("claimed", "pending", "agent-1", "boom", 1, first.lease_token),
        ("pending", "claimed", "agent-2", None, 2, second.lease_token),
        ("claimed", "in_progress", "agent-2", None, 2, second.lease_token),
        ("in_progress", "completed", "agent-2", None, 2, second.lease_token),
    ]
    assert [e.at for e in tasks.get_events("a", limit=2)] == [START, START + timedelta(seconds=1)]
    assert [e.attempt for e in tasks.get_events("a", skip=3)] == [2, 2]
    assert tasks.get_events("a", limit=0) == []
    assert tasks.get_events("b") == []


def test_raw_sql_leaves_events_too(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x")
    tasks.session.execute("UPDATE tasks SET status = 'cancelled'")
    tasks.session.execute("UPDATE tasks SET status = 'cancelled', title = 'y'")
    (event,) = tasks.get_events("a")
    assert (event.from_status, event.to_status, event.owner) == ("pending", "cancelled", None)
    assert abs(event.at - datetime.now(UTC)) < timedelta(minutes=5)
    tasks.delete("a")
    assert tasks.get_events("a") == []


def test_the_newest_events_of_all_tasks(tasks: TaskRepository) -> None:
    tasks.bulk_create({"id": str(n), "title": "x"} for n in range(5))
    assert tasks.get_recent_events() == []
    tasks.claim_next("agent-1", limit=5)
    everything = tasks.get_recent_events()
    assert len(everything) == 5
    assert [e.id for e in everything] == sorted(e.id for e in everything)
    assert [e.id for e in tasks.get_recent_events(limit=2)] == [e.id for e in everything[3:]]
    after = tasks.get_recent_events(everything[1].id, limit=2)
    assert [e.id for e in after] == [e.id for e in everything[2:4]]
    assert tasks.get_recent_events(everything[-1].id) == []


# -- one task for one key -------------------------------------------------------------------------


def test_a_dedupe_key_makes_one_task(tasks: TaskRepository) -> None:
    first = tasks.create(title="x", dedupe_key="k", priority="high")
    again = tasks.create(title="y", dedupe_key="k")
    assert again.to_dict() == first.to_dict()
    assert tasks.create(title="z", dedupe_key="other").id != first.id
    assert tasks.count() == 2
    tasks.complete(first.id, token(claim(tasks)))
    assert tasks.create(title="y", dedupe_key="k").status == "completed"
    tasks.delete(first.id)
    assert tasks.create(title="y", dedupe_key="k").title == "y"


def test_many_rows_with_dedupe_keys(tasks: TaskRepository) -> None:
    old = tasks.create(title="old", dedupe_key="b")
    rows: list[dict[str, Any]] = [
        {"title": "1", "dedupe_key": "c"},
        {"title": "2"},
        {"title": "3", "dedupe_key": "b"},
        {"title": "4", "dedupe_key": "a", "tags": ["x"]},
        {"title": "5", "dedupe_key": "c"},
        {"title": "6"},
    ]
    made = tasks.bulk_create(iter(rows))
    titles = [task.title for task in made]
    assert titles[1:4] == ["2", "old", "4"]
    assert titles[5] == "6"
    assert made[2].id == old.id
    assert made[0].to_dict() == made[4].to_dict()
    assert tasks.count() == 5
    for task in made:
        assert tasks.get_or_raise(task.id).to_dict() == task.to_dict()


def test_a_dedupe_key_excuses_nothing_else(tasks: TaskRepository) -> None:
    tasks.create(id="a", title="x", dedupe_key="k")
    tasks.create(id="b", title="x")
    with pytest.raises(IntegrityError, match="Task id 'b' is already taken"):
        tasks.create(id="b", title="x", dedupe_key="new")
    with pytest.raises(IntegrityError, match="Task id 'b' is already taken"):
        tasks.bulk_create([{"title": "x", "dedupe_key": "k"}, {"id": "b", "title": "x"}])
    with pytest.raises(IntegrityError, match="Task dedupe_key 'k' is already taken") as caught:
        tasks.update("b", dedupe_key="k")
    assert caught.value.constraint == "idx_tasks_dedupe_key"
    with pytest.raises(ValidationError, match="Task title"):
        tasks.create(title=None, dedupe_key="k")
    with pytest.raises(ValidationError, match="close a circle"):
        tasks.create(id="c", title="x", dedupe_key="circle", depends_on=["c"])
    with pytest.raises(ValidationError, match="201 characters; 200 are the most"):
        tasks.create(title="x", dedupe_key="k" * 201)
    assert tasks.count() == 2


# -- why not --------------------------------------------------------------------------------------


def test_a_task_that_is_offered_needs_no_reason(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="a", title="x", project="p", tags=["t"], required_capabilities=["python"])
    explained = tasks.explain_readiness("a", projects="p", tags="t", capabilities="python")
    assert explained == Readiness(ready=True, reasons=[])
    assert tasks.explain_readiness("a").ready
    claim(tasks)
    clock.advance(minutes=5)
    assert tasks.explain_readiness("a") == (True, [])
    with pytest.raises(NotFound, match="'b' does not exist"):
        tasks.explain_readiness("b")


def test_every_reason_is_told(tasks: TaskRepository, clock: Clock) -> None:
    tasks.create(id="first", title="x", status="blocked")
    tasks.create(
        id="a",
        title="x",
        run_after=START + timedelta(hours=1),
        depends_on=["first", "gone"],
        required_capabilities=["python", "go", "rust"],
        tags=["red"],
    )
    ready, reasons = tasks.explain_readiness(
        "a", projects=["p", "q"], capabilities=["go"], tags=["red", "blue"]
    )
    assert not ready
    assert reasons == [
        "it may not begin before 2100-03-01T13:00:00Z",
        "it depends on 'first', which is blocked",
        "it depends on 'gone', which does not exist",
        "it names no project; the worker takes those of 'p', 'q'",
        "it requires 'python', 'rust', which the worker lacks",
        "it has no tag 'blue'",
    ]
    assert tasks.explain_readiness("first").reasons == ["it is blocked"]
    tasks.create(id="b", title="x", priority="urgent", project="r", max_attempts=1)
    assert tasks.explain_readiness("b", projects=[]).reasons == [
        "its project is 'r'; the worker takes those of none"
    ]
    claim(tasks)
    assert tasks.explain_readiness("b").reasons == [
        "it is claimed by 'agent-1', whose lease lasts until 2100-03-01T12:05:00Z"
    ]
    clock.advance(minutes=5)
    assert tasks.explain_readiness("b").reasons == [
        "the lease of 'agent-1' has expired in the last of 1 attempts"
    ]
    tasks.create(id="c", title="x", status="claimed", owner="me")
    assert tasks.explain_readiness("c").reasons == [
        "it is claimed by 'me', without a lease that could expire"
    ]


def test_reasons_and_claims_agree(tasks: TaskRepository, clock: Clock) -> None:
    for number, (status, run_after, needed, capability, project) in enumerate(
        itertools.product(
            ("pending", "blocked", "completed"),
            (None, START, START + timedelta(seconds=1)),
            (None, [], ["done"], ["open"], ["gone"]),
            (None, [], ["python"], ["go"]),
            (None, "p"),
        )
    ):
        tasks.create(
            id=str(number),
            title="x",
            status=status,
            run_after=run_after,
            depends_on=needed,
            required_capabilities=capability,
            project=project,
        )
    tasks.create(id="done", title="x", status="completed")
    tasks.create(id="open", title="x", status="blocked")
    wanted: dict[str, Any] = {"projects": "p", "capabilities": ["python"]}
    explained = {t.id: tasks.explain_readiness(t.id, **wanted) for t in tasks.get_all()}
    assert all(told.ready is not bool(told.reasons) for told in explained.values())
    plain = {key for key in explained if tasks.explain_readiness(key).ready}
    assert plain == {task.id for task in tasks.get_ready_tasks()}
    assert len(plain) == tasks.count_ready_tasks() == tasks.get_queue_statistics().ready
    claimed = {task.id for task in tasks.claim_next("agent-1", limit=1000, **wanted)}
    assert claimed == {key for key, told in explained.items() if told.ready}
    assert claimed


# -- statistics -----------------------------------------------------------------------------------


def test_the_statistics_of_nothing(tasks: TaskRepository) -> None:
    found = tasks.get_queue_statistics()
    assert found == QueueStatistics(START, 0, 0, [], None, 0, 0, 0, 0)
    assert found.to_dict()["at"] == "2100-03-01T12:00:00Z"


def test_the_statistics_of_a_queue(tasks: TaskRepository, clock: Clock) -> None:
    clock.advance(minutes=-90)
    tasks.create(id="long ago", title="x")
    old = claim(tasks)
    clock.advance(seconds=1)
    tasks.complete("long ago", token(old))
    clock.advance(minutes=60)
    tasks.bulk_create({"id": str(n), "title": "x", "max_attempts": 1} for n in range(6))
    held = tasks.claim_next("agent-1", limit=6, lease=timedelta(hours=1))
    clock.advance(seconds=1)
    for task in held[:3]:
        tasks.complete(task.id, token(task))
    tasks.fail(held[3].id, token(held[3]), "boom")
    tasks.create(id="short", title="x")
    claim(tasks, lease=60)
    clock.now = START
    for key, fields in {
        "a": {"priority": "high", "project": "p", "created_at": START - timedelta(seconds=90)},
        "b": {"priority": "high", "project": "p", "depends_on": ["a"]},
        "c": {"priority": "low", "project": "p", "run_after": START + timedelta(days=1)},
        "d": {"created_at": START - timedelta(seconds=10)},
    }.items():
        tasks.create(id=key, title="x", **fields)
    found = tasks.get_queue_statistics()
    assert (found.at, found.ready, found.waiting) == (START, 2, 2)
    assert found.depth == [
        ("p", "high", 1, 1),
        ("p", "low", 0, 1),
        (None, "medium", 1, 0),
    ]
    assert found.oldest_ready == ("a", START - timedelta(seconds=90), 90)
    assert (found.leases_held, found.leases_expired) == (2, 1)
    assert (found.completed_last_hour, found.failed_last_hour) == (3, 1)
    data = found.to_dict()
    assert data["depth"][0] == {"project": "p", "priority": "high", "ready": 1, "waiting": 1}
    assert data["oldest_ready"] == {
        "id": "a",
        "created_at": "2100-03-01T11:58:30Z",
        "age_s": 90.0,
    }


def test_what_may_be_tried_at_once_is_offered_at_once(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(title="again", max_attempts=50)
    for _ in range(20):
        task = claim(tasks)
        tasks.fail(task.id, token(task), "no luck", retry_in=0)
    notes = [event.note for event in tasks.get_events(task.id) if event.to_status == "pending"]
    assert notes == ["no luck"] * 20


def test_a_row_that_was_read_before_brings_no_lease_back(
    tasks: TaskRepository, clock: Clock
) -> None:
    tasks.create(title="old")
    old = claim(tasks, lease=60)
    clock.advance(minutes=2)
    new = claim(tasks, "agent-2")
    tasks.upsert(**{**old.to_dict(), "title": "edited"})
    with pytest.raises(LeaseLost):
        tasks.complete(old.id, token(old))
    assert tasks.complete(new.id, token(new)).title == "edited"


def test_no_tags_are_no_condition(tasks: TaskRepository) -> None:
    made = tasks.create(title="plain")
    assert tasks.explain_readiness(made.id, tags=[]).ready
    assert claim(tasks, tags=[]).id == made.id


def test_attempts_that_an_operator_gives_back_are_no_release(tasks: TaskRepository) -> None:
    tasks.create(title="hard", max_attempts=1)
    task = claim(tasks)
    tasks.fail(task.id, token(task), "no luck")
    tasks.update(task.id, status="pending", attempts=0)
    assert tasks.get_events(task.id)[-1].note is None
