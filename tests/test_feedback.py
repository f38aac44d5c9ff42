"""`TaskFeedbackRepository`: what was learned of a task, and how good the routing was."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    IntegrityError,
    ProjectRepository,
    RoutingDecisionRepository,
    Session,
    TaskFeedbackRepository,
    TaskRepository,
    ValidationError,
)


@pytest.fixture
def feedback(session: Session) -> TaskFeedbackRepository:
    return TaskFeedbackRepository(session)


def prepare(session: Session, *keys: str, **fields: Any) -> None:
    TaskRepository(session).bulk_create({"id": key, "title": key, **fields} for key in keys)


def test_feedback_keeps_every_column(feedback: TaskFeedbackRepository, session: Session) -> None:
    prepare(session, "a")
    given: dict[str, Any] = {
        "estimated_duration": "e" * 50,
        "actual_duration": "2 h",
        "complexity_rating": 10,
        "quality_score": 0.0,
        "required_rework": False,
        "rework_reason": "none",
        "was_good_match": True,
        "should_have_routed_to": "p" * 100,
        "routing_feedback": "good",
        "unexpected_blockers": ["a", {"b": 1}],
        "required_skills_not_tagged": ["sql"],
        "notes": "n" * 10_000,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
    }
    feedback.record("a", **given)
    stored = feedback.get_or_raise("a")
    assert {name: getattr(stored, name) for name in given} == given
    assert list(stored.to_dict()) == ["task_id", *given]
    assert stored.task.title == "a"


def test_feedback_adds_to_what_was_written_before(
    feedback: TaskFeedbackRepository, session: Session
) -> None:
    prepare(session, "a")
    first = feedback.record("a", notes="first", complexity_rating=3)
    second = feedback.record("a", notes="second", was_good_match=False)
    assert (second.notes, second.complexity_rating) == ("second", 3)
    assert second.created_at == first.created_at
    assert feedback.count() == 1
    assert feedback.record("a").notes == "second"
    assert feedback.record("a", complexity_rating=None).complexity_rating is None


WRONG: list[tuple[str, Any]] = [
    ("complexity_rating", 0),
    ("complexity_rating", 11),
    ("complexity_rating", 5.5),
    ("complexity_rating", True),
    ("complexity_rating", "5"),
    ("complexity_rating", 2**31),
    ("quality_score", -0.01),
    ("quality_score", 1.01),
    ("quality_score", float("inf")),
    ("required_rework", 1),
    ("was_good_match", "yes"),
    ("estimated_duration", "x" * 51),
    ("should_have_routed_to", "x" * 101),
    ("unexpected_blockers", {"x": object()}),
    ("notes", "a\0"),
]


def test_wrong_feedback_is_refused(feedback: TaskFeedbackRepository, session: Session) -> None:
    prepare(session, "a")
    for column, value in WRONG:
        with pytest.raises(ValidationError, match=f"TaskFeedback {column}") as caught:
            feedback.record("a", **{column: value})
        assert caught.value.field == column
    assert feedback.count() == 0


def test_feedback_is_of_a_task(feedback: TaskFeedbackRepository, session: Session) -> None:
    with pytest.raises(IntegrityError, match="task_id 'none' names a Task that does not exist"):
        feedback.record("none", notes="x")
    with pytest.raises(ValidationError, match="did you mean 'notes'"):
        feedback.record("none", note="x")
    prepare(session, "a", "b")
    feedback.record("a", notes="x")
    feedback.record("b", notes="x")
    TaskRepository(session).delete("a")
    assert [row.task_id for row in feedback.get_all()] == ["b"]


def test_the_column_of_the_task_is_another_thing(
    feedback: TaskFeedbackRepository, session: Session
) -> None:
    prepare(session, "a", feedback={"stars": 5})
    feedback.record("a", notes="x")
    assert TaskRepository(session).get_or_raise("a").feedback == {"stars": 5}


def test_accuracy_of_nothing(feedback: TaskFeedbackRepository, session: Session) -> None:
    nothing = {"rated": 0, "good": 0, "accuracy": None}
    with assert_query_count(1):
        accuracy = feedback.get_routing_accuracy()
    assert accuracy == {"overall": nothing, "by_project": {}, "by_strategy": {}}
    prepare(session, "a")
    feedback.record("a", notes="not rated")
    assert feedback.get_routing_accuracy()["overall"] == nothing


def test_accuracy_by_project_and_by_strategy(
    feedback: TaskFeedbackRepository, session: Session
) -> None:
    ProjectRepository(session).bulk_create({"name": n, "slug": n} for n in ("web", "api"))
    decisions = RoutingDecisionRepository(session)
    prepare(session, *"abcdefg")
    for key, project, strategy, good in (
        ("a", "web", "llm", True),
        ("b", "web", "llm", True),
        ("c", "web", "rules", False),
        ("d", "api", "rules", False),
        ("e", None, None, True),
        ("f", "api", "llm", None),
    ):
        decisions.route_task(key, project, decided_by=strategy)
        feedback.record(key, was_good_match=good)
    TaskRepository(session).update("g", project="named only")
    feedback.record("g", was_good_match=True)
    with assert_query_count(1):
        accuracy = feedback.get_routing_accuracy()
    assert accuracy == {
        "overall": {"rated": 6, "good": 4, "accuracy": pytest.approx(4 / 6)},
        "by_project": {
            "web": {"rated": 3, "good": 2, "accuracy": pytest.approx(2 / 3)},
            "api": {"rated": 1, "good": 0, "accuracy": 0.0},
            "named only": {"rated": 1, "good": 1, "accuracy": 1.0},
            "unassigned": {"rated": 1, "good": 1, "accuracy": 1.0},
        },
        "by_strategy": {
            "llm": {"rated": 2, "good": 2, "accuracy": 1.0},
            "rules": {"rated": 2, "good": 0, "accuracy": 0.0},
            "unknown": {"rated": 2, "good": 2, "accuracy": 1.0},
        },
    }
    assert accuracy["by_project"]["api"]["accuracy"] is not None
