"""`RoutingDecisionRepository`: routing, lists, and what all decisions together say."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    DecisionStrategy,
    IntegrityError,
    NotFound,
    ProjectRepository,
    RoutingDecision,
    RoutingDecisionRepository,
    Session,
    TaskFeedbackRepository,
    TaskRepository,
    ValidationError,
)
from hopper_data.fields import utcnow

THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def decisions(session: Session) -> RoutingDecisionRepository:
    return RoutingDecisionRepository(session)


def ids(found: list[RoutingDecision]) -> list[str]:
    return [decision.task_id for decision in found]


def prepare(session: Session, *keys: str) -> None:
    """Two projects, and tasks with some ids."""
    ProjectRepository(session).bulk_create({"name": n, "slug": n} for n in ("web", "api"))
    TaskRepository(session).bulk_create({"id": key, "title": key} for key in keys)


def fill(decisions: RoutingDecisionRepository) -> None:
    prepare(decisions.session, *"abcdef")
    rows: list[dict[str, Any]] = [
        {"project": "web", "decided_by": "llm", "confidence": 0.9, "decision_time_ms": 100},
        {"project": "web", "decided_by": "rules", "confidence": 0.0, "decision_time_ms": 0},
        {"project": "api", "decided_by": "llm", "confidence": 0.3},
        {"project": None, "decided_by": None, "confidence": 1, "decision_time_ms": 50.5},
        {"project": "web", "decided_by": "llm", "confidence": None},
        {"project": "web", "decided_by": "rules", "confidence": 0},
    ]
    decisions.bulk_create(
        {**row, "task_id": key, "decided_at": THEN + timedelta(hours=number)}
        for number, (key, row) in enumerate(zip("abcdef", rows, strict=True))
    )


# -- routing --------------------------------------------------------------------------------------


def test_a_routing_is_recorded_and_told(
    decisions: RoutingDecisionRepository, session: Session
) -> None:
    prepare(session, "a")
    before = utcnow()
    made = decisions.route_task(
        "a",
        "web",
        confidence=0.95,
        reasoning="it fits",
        decided_by="llm",
        alternatives=[{"project": "api", "score": 0.1}],
        decision_time_ms=250.5,
        workload_snapshot={"web": 3},
        context={"why": "test"},
    )
    stored = decisions.get_or_raise("a")
    assert made.to_dict() == stored.to_dict()
    assert before <= stored.decided_at <= utcnow()
    assert {name: value for name, value in stored.to_dict().items() if name != "decided_at"} == {
        "task_id": "a",
        "project": "web",
        "confidence": 0.95,
        "reasoning": "it fits",
        "alternatives": [{"project": "api", "score": 0.1}],
        "decided_by": "llm",
        "decision_time_ms": 250.5,
        "workload_snapshot": {"web": 3},
        "context": {"why": "test"},
    }
    task = TaskRepository(session).get_or_raise("a")
    assert (task.project, task.routing_confidence, task.routing_reasoning) == (
        "web",
        0.95,
        "it fits",
    )
    assert task.status == "pending"
    assert stored.task.title == "a"
    assert stored.project_ref.slug == "web"


def test_a_task_is_routed_again(decisions: RoutingDecisionRepository, session: Session) -> None:
    prepare(session, "a")
    first = decisions.route_task("a", "web", confidence=0.9, reasoning="x", context={"old": 1})
    second = decisions.route_task("a", "api", decided_by="sage")
    assert second.decided_at > first.decided_at
    (stored,) = decisions.get_all()
    assert (stored.project, stored.decided_by) == ("api", "sage")
    assert (stored.confidence, stored.reasoning, stored.context) == (None, None, None)
    task = TaskRepository(session).get_or_raise("a")
    assert (task.project, task.routing_confidence, task.routing_reasoning) == ("api", None, None)
    decisions.route_task("a", None, confidence=0.1)
    assert decisions.get_or_raise("a").project is None
    assert TaskRepository(session).get_or_raise("a").project is None


FAILURES: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    ("none", "web", {}, NotFound, "Task 'none' does not exist"),
    ("a", "none", {}, IntegrityError, "project 'none' names a Project that does not exist"),
    ("a", "web", {"confidence": 1.1}, ValidationError, "not between 0 and 1"),
    ("a", "web", {"confidence": "high"}, ValidationError, "must be a number"),
    ("a", "web", {"confidence": float("nan")}, ValidationError, "finite"),
    ("a", "web", {"decision_time_ms": -1}, ValidationError, "below 0"),
    ("a", "web", {"decided_by": "x" * 51}, ValidationError, "51 characters"),
    ("a", "web", {"alternatives": {1, 2}}, ValidationError, "JSON"),
    ("a", "web", {"context": {"x": float("inf")}}, ValidationError, "finite"),
    ("a", 5, {}, ValidationError, "must be text"),
    (None, "web", {}, ValidationError, "a key must be given"),
]


def test_a_routing_that_fails_changes_nothing(
    decisions: RoutingDecisionRepository, session: Session
) -> None:
    prepare(session, "a", "b")
    decisions.route_task("b", "web")
    before = TaskRepository(session).get_or_raise("a").to_dict()
    for task, project, fields, error, message in FAILURES:
        with pytest.raises(error, match=message):
            decisions.route_task(task, project, reasoning="new", **fields)
    assert TaskRepository(session).get_or_raise("a").to_dict() == before
    assert ids(decisions.get_all()) == ["b"]


def test_one_decision_for_a_task(decisions: RoutingDecisionRepository, session: Session) -> None:
    prepare(session, "a")
    decisions.create(task_id="a", project="web", confidence=0.95, decided_by="llm")
    with pytest.raises(IntegrityError, match="task_id 'a' is already taken"):
        decisions.create(task_id="a", project="api")
    with pytest.raises(IntegrityError, match="task_id 'none' names a Task that does not exist"):
        decisions.create(task_id="none")
    with pytest.raises(IntegrityError, match="project 'none' names a Project"):
        decisions.update("a", project="none")
    assert decisions.get_or_raise("a").project == "web"
    updated = decisions.update("a", project="api")
    assert updated is not None
    assert updated.project == "api"


def test_strategies_are_open(decisions: RoutingDecisionRepository, session: Session) -> None:
    prepare(session, "a", "b")
    decisions.create(task_id="a", decided_by=DecisionStrategy.SAGE)
    decisions.create(task_id="b", decided_by="a coin")
    assert ids(decisions.get_decisions_by_strategy("sage")) == ["a"]
    assert ids(decisions.get_decisions_by_strategy(DecisionStrategy.SAGE)) == ["a"]
    assert ids(decisions.get_decisions_by_strategy("a coin")) == ["b"]
    assert [*DecisionStrategy] == ["rules", "llm", "sage"]


# -- lists ----------------------------------------------------------------------------------------


def test_lists_are_newest_first(decisions: RoutingDecisionRepository) -> None:
    fill(decisions)
    for read, expected in (
        (lambda **page: decisions.get_decisions_by_strategy("llm", **page), ["e", "c", "a"]),
        (lambda **page: decisions.get_decisions_by_strategy(None, **page), ["d"]),
        (lambda **page: decisions.get_decisions_by_project("web", **page), ["f", "e", "b", "a"]),
        (lambda **page: decisions.get_decisions_by_project(None, **page), ["d"]),
        (
            lambda **page: decisions.get_decisions_with_low_confidence(**page),
            ["b", "f", "c"],
        ),
        (
            lambda **page: decisions.get_decisions_with_low_confidence(threshold=1, **page),
            ["b", "f", "c", "a"],
        ),
    ):
        with assert_query_count(1):
            assert ids(read()) == expected
        assert ids(read(limit=1)) == expected[:1]
        assert read(limit=0) == []
        assert ids(read(skip=1)) == expected[1:]
        with pytest.raises(ValidationError, match="limit"):
            read(limit=-1)
    assert ids(decisions.get_decisions_by_task("c")) == ["c"]
    assert decisions.get_decisions_by_task("none") == []
    assert decisions.get_decisions_by_strategy("none") == []
    assert decisions.get_decisions_by_project("none") == []
    assert decisions.get_decisions_with_low_confidence(0) == []


def test_recent_decisions(decisions: RoutingDecisionRepository, session: Session) -> None:
    fill(decisions)
    with assert_query_count(1):
        assert ids(decisions.get_recent_decisions()) == ["f", "e", "d", "c", "b", "a"]
    assert ids(decisions.get_recent_decisions(2)) == ["f", "e"]
    assert ids(decisions.get_recent_decisions(limit=None)) == ["f", "e", "d", "c", "b", "a"]
    assert decisions.get_recent_decisions(0) == []
    for key, hours in (("a", 1.0), ("b", 23.5), ("c", 24.5)):
        decisions.update(key, decided_at=utcnow() - timedelta(hours=hours))
    assert ids(decisions.get_recent_decisions(hours=24)) == ["a", "b"]
    assert ids(decisions.get_recent_decisions(limit=1, hours=24)) == ["a"]
    assert ids(decisions.get_recent_decisions(hours=0.5)) == []
    assert decisions.get_recent_decisions(hours=0) == []
    assert len(decisions.get_recent_decisions(hours=10**9)) == 6
    wrong: list[Any] = [-1, "24", float("nan"), float("inf"), True, [1]]
    for hours in wrong:
        with pytest.raises(ValidationError, match="hours is") as caught:
            decisions.get_recent_decisions(hours=hours)
        assert caught.value.field == "hours"
    with pytest.raises(ValidationError, match="limit is -1"):
        decisions.get_recent_decisions(-1)


def test_fifty_decisions_are_recent_unless_told_otherwise(
    decisions: RoutingDecisionRepository, session: Session
) -> None:
    prepare(session, *(f"{n:02}" for n in range(60)))
    decisions.bulk_create({"task_id": f"{n:02}"} for n in range(60))
    assert len(decisions.get_recent_decisions()) == 50


def test_a_threshold_is_a_number(decisions: RoutingDecisionRepository) -> None:
    wrong: list[Any] = ["0.7", None, float("nan"), True]
    for threshold in wrong:
        with pytest.raises(ValidationError, match="confidence"):
            decisions.get_decisions_with_low_confidence(threshold)


# -- analytics ------------------------------------------------------------------------------------


def test_analytics_of_nothing(decisions: RoutingDecisionRepository) -> None:
    with assert_query_count(1):
        analytics = decisions.get_decision_analytics()
    assert analytics == {
        "total_decisions": 0,
        "strategy_stats": {},
        "overall_avg_confidence": None,
        "overall_avg_decision_time_ms": None,
        "by_project": {},
        "confidence_histogram": [
            {"from": n / 10, "to": (n + 1) / 10, "count": 0} for n in range(10)
        ],
        "feedback_count": 0,
        "good_match_count": 0,
        "good_match_rate": None,
    }


def test_analytics_are_exact(decisions: RoutingDecisionRepository, session: Session) -> None:
    fill(decisions)
    feedback = TaskFeedbackRepository(session)
    for key, good in (("a", True), ("b", False), ("c", True), ("d", None)):
        feedback.record(key, was_good_match=good)
    with assert_query_count(1):
        analytics = decisions.get_decision_analytics()
    assert analytics["total_decisions"] == 6
    assert analytics["strategy_stats"] == {
        "llm": {
            "count": 3,
            "avg_confidence": pytest.approx(0.6),
            "avg_decision_time_ms": pytest.approx(100),
        },
        "rules": {"count": 2, "avg_confidence": 0.0, "avg_decision_time_ms": 0.0},
        "unknown": {"count": 1, "avg_confidence": 1.0, "avg_decision_time_ms": 50.5},
    }
    assert list(analytics["strategy_stats"]) == ["llm", "rules", "unknown"]
    assert analytics["overall_avg_confidence"] == pytest.approx(2.2 / 5)
    assert analytics["overall_avg_decision_time_ms"] == pytest.approx(150.5 / 3)
    assert analytics["by_project"] == {"web": 4, "api": 1, "unassigned": 1}
    assert list(analytics["by_project"]) == ["web", "api", "unassigned"]
    counts = [bucket["count"] for bucket in analytics["confidence_histogram"]]
    assert counts == [2, 0, 0, 1, 0, 0, 0, 0, 0, 2]
    assert analytics["feedback_count"] == 3
    assert analytics["good_match_count"] == 2
    assert analytics["good_match_rate"] == pytest.approx(2 / 3)
    for value in (analytics["total_decisions"], analytics["by_project"]["web"], *counts):
        assert type(value) is int
    for value in analytics["strategy_stats"]["rules"].values():
        assert type(value) in (int, float)
        assert value is not None


def test_an_average_of_zero_is_zero(decisions: RoutingDecisionRepository, session: Session) -> None:
    prepare(session, "a")
    decisions.create(task_id="a", confidence=0, decision_time_ms=0)
    TaskFeedbackRepository(session).record("a", was_good_match=False)
    analytics = decisions.get_decision_analytics()
    assert analytics["overall_avg_confidence"] == 0.0
    assert analytics["overall_avg_confidence"] is not None
    assert analytics["overall_avg_decision_time_ms"] == 0.0
    assert analytics["good_match_rate"] == 0.0
    assert analytics["strategy_stats"]["unknown"]["avg_confidence"] == 0.0


def test_each_confidence_has_its_bucket(
    decisions: RoutingDecisionRepository, session: Session
) -> None:
    edges = [n / 10 for n in range(11)]
    middles = [(n + 0.5) / 10 for n in range(10)]
    below = [0.09999999999999999, 0.7 - 1e-16, 0.9999999999999999]
    prepare(session, *map(str, range(len(edges + middles + below))))
    decisions.bulk_create(
        {"task_id": str(n), "confidence": value} for n, value in enumerate(edges + middles + below)
    )
    buckets = decisions.get_decision_analytics()["confidence_histogram"]
    for bucket in buckets:
        last = bucket["to"] == 1.0
        inside = [
            value
            for value in edges + middles + below
            if bucket["from"] <= value < bucket["to"] or (last and value == 1.0)
        ]
        assert bucket["count"] == len(inside), bucket
    assert sum(bucket["count"] for bucket in buckets) == len(edges + middles + below)


def test_a_decision_goes_with_its_task(
    decisions: RoutingDecisionRepository, session: Session
) -> None:
    fill(decisions)
    tasks = TaskRepository(session)
    assert tasks.delete("a") is True
    assert tasks.bulk_delete(["b", "c"]) == 2
    assert ids(decisions.get_all()) == ["d", "e", "f"]
    assert decisions.get_decision_analytics()["total_decisions"] == 3
