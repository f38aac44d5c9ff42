"""A walk through the contract, call by call, on every backend: what a user meets first."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hopper_data import (
    ExternalMappingRepository,
    HopperInstanceRepository,
    IntegrityError,
    InvalidTransition,
    NotFound,
    ProjectRepository,
    RoutingDecisionRepository,
    Session,
    Task,
    TaskFeedbackRepository,
    TaskPriority,
    TaskRepository,
    TaskStatus,
    ValidationError,
)

PRIORITIES = ("low", "urgent", "medium", "high", "medium")


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def five(tasks: TaskRepository) -> list[Task]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return tasks.bulk_create(
        {
            "id": f"t{n}",
            "title": f"Task {n}",
            "priority": priority,
            "owner": "ann" if n % 2 else None,
            "tags": ["even"] if n % 2 == 0 else ["odd", "x"],
            "created_at": start + timedelta(hours=n),
        }
        for n, priority in enumerate(PRIORITIES)
    )


def ids(rows: list[Task]) -> list[str]:
    return [row.id for row in rows]


# -- the verbs -------------------------------------------------------------------------------------


def test_a_row_is_created_read_changed_and_deleted(tasks: TaskRepository) -> None:
    made = tasks.create(title="Write it down", tags=["a"], context="why")
    assert made.id.startswith("task-")
    assert (made.status, made.priority) == (TaskStatus.PENDING, TaskPriority.MEDIUM)
    assert tasks.get_or_raise(made.id).to_dict() == made.to_dict()
    changed = tasks.update(made.id, title="Write it up", owner="ann")
    assert changed is not None
    assert changed.updated_at > made.updated_at
    assert changed.created_at == made.created_at
    assert tasks.exists(made.id)
    assert tasks.delete(made.id) is True
    assert tasks.delete(made.id) is False
    assert tasks.get(made.id) is None
    assert tasks.update(made.id, title="x") is None
    assert not tasks.exists(made.id)
    with pytest.raises(NotFound, match="does not exist"):
        tasks.get_or_raise(made.id)


def test_lists_have_limits_and_orders(tasks: TaskRepository) -> None:
    five(tasks)
    assert ids(tasks.get_all()) == ["t0", "t1", "t2", "t3", "t4"]
    assert ids(tasks.get_all(limit=0)) == []
    assert ids(tasks.get_all(skip=1, limit=2, order_by="-created_at")) == ["t3", "t2"]
    assert ids(tasks.get_all(skip=3)) == ["t3", "t4"]
    assert ids(tasks.get_all(order_by="-priority,created_at")) == ["t1", "t3", "t2", "t4", "t0"]
    assert ids(tasks.get_all(order_by=["owner", "-created_at"])) == ["t3", "t1", "t4", "t2", "t0"]
    assert ids(list(tasks.iterate({"owner": "ann"}, "-created_at"))) == ["t3", "t1"]


@pytest.mark.parametrize("order", [None, "-created_at", "-priority", "owner,-priority", "-owner"])
def test_pages_join_to_the_whole(tasks: TaskRepository, order: str | None) -> None:
    five(tasks)
    found: list[str] = []
    after: str | None = None
    while True:
        page = tasks.page(limit=2, after=after, order_by=order)
        found += ids(page.items)
        after = page.next
        if after is None:
            break
    assert found == ids(tasks.get_all(order_by=order))


FILTERS: list[tuple[dict[str, Any], list[str]]] = [
    ({"status": "pending", "priority__in": ["high", "urgent"]}, ["t1", "t3"]),
    ({"owner": None}, ["t0", "t2", "t4"]),
    ({"owner__ne": None}, ["t1", "t3"]),
    ({"owner__is_null": True}, ["t0", "t2", "t4"]),
    ({"owner__is": None}, ["t0", "t2", "t4"]),
    ({"owner__is_not": None}, ["t1", "t3"]),
    ({"owner__in": ["ann", None]}, ["t0", "t1", "t2", "t3", "t4"]),
    ({"owner__not_in": ["ann", None]}, []),
    ({"priority__gte": "high"}, ["t1", "t3"]),
    ({"priority__lt": "medium"}, ["t0"]),
    ({"title__contains": "task 1"}, ["t1"]),
    ({"title__contains": "%"}, []),
    ({"title__startswith": "TASK"}, ["t0", "t1", "t2", "t3", "t4"]),
    ({"title__endswith": "4"}, ["t4"]),
    ({"title__like": "Task _"}, ["t0", "t1", "t2", "t3", "t4"]),
    ({"title__like": "task _"}, []),
    ({"title__ilike": "task 3"}, ["t3"]),
    ({"title__regexp": "[12]$"}, ["t1", "t2"]),
    ({"title__iregexp": "^task [34]"}, ["t3", "t4"]),
    ({"tags__contains": "x"}, ["t1", "t3"]),
    ({"tags": ["even"]}, ["t0", "t2", "t4"]),
    ({"id__between": ("t1", "t2")}, ["t1", "t2"]),
    ({"created_at__gte": datetime(2026, 1, 1, 3, tzinfo=UTC)}, ["t3", "t4"]),
    ({"status__in": []}, []),
    ({"id__in": [f"t{n}" for n in range(2000)]}, ["t0", "t1", "t2", "t3", "t4"]),
]


@pytest.mark.parametrize(("filters", "expected"), FILTERS, ids=lambda value: str(value)[:40])
def test_a_filter_means_the_same_everywhere(
    tasks: TaskRepository, filters: dict[str, Any], expected: list[str]
) -> None:
    five(tasks)
    assert ids(tasks.filter(filters)) == expected
    assert tasks.count(filters) == len(expected)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"titel": "x"}, "did you mean 'title'"),
    ({"title": "x", "bogus": 1}, "no field 'bogus'"),
    ({}, "title is missing"),
    ({"title": None}, "title is missing"),
    ({"title": "x" * 501}, "501 characters"),
    ({"title": "a\0b"}, "NUL"),
    ({"title": "\ud800"}, "surrogate"),
    ({"title": 5}, "must be text"),
    ({"title": "x", "priority": "urgnt"}, "not one of low, medium, high, urgent"),
    ({"title": "x", "status": "done"}, "not one of pending"),
    ({"title": "x", "routing_confidence": 1.5}, "not between 0 and 1"),
    ({"title": "x", "routing_confidence": float("nan")}, "not a finite number"),
    ({"title": "x", "feedback": {"score": float("inf")}}, "not finite"),
    ({"title": "x", "feedback": {"note": "a\0"}}, "NUL"),
    ({"title": "x", "feedback": {1: "a"}}, "must be text"),
    ({"title": "x", "feedback": object()}, "JSON cannot express"),
    ({"title": "x", "tags": "python"}, "list of texts"),
    ({"title": "x", "tags": [""]}, "non-empty"),
    ({"title": "x", "created_at": datetime(2026, 1, 1)}, "naive"),  # noqa: DTZ001
    ({"title": "x", "created_at": "yesterday"}, "ISO 8601"),
    ({"title": "x", "created_at": 5}, "must be a datetime"),
]


@pytest.mark.parametrize(("fields", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_input_is_refused_and_nothing_is_written(
    tasks: TaskRepository, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        tasks.create(**fields)
    with pytest.raises(ValidationError, match=words):
        tasks.bulk_create([{"title": "good"}, fields])
    assert tasks.count() == 0


QUESTIONS: list[tuple[str, dict[str, Any]]] = [
    ("limit", {"limit": -1}),
    ("skip", {"skip": -1}),
    ("limit", {"limit": "5"}),
    ("no field", {"filters": {"titel": "x"}}),
    ("no lookup", {"filters": {"title__foo": "x"}}),
    ("no field", {"order_by": "prioritty"}),
    ("no order", {"order_by": "tags"}),
    ("list of values", {"filters": {"status__in": "pending"}}),
    ("not one of", {"filters": {"status": "active"}}),
    ("NUL", {"filters": {"title": "\0"}}),
    ("naive", {"filters": {"created_at__gt": datetime(2026, 1, 1)}}),  # noqa: DTZ001
    ("regular expression", {"filters": {"title__regexp": "("}}),
    ("backslash", {"filters": {"title__like": "x\\"}}),
    ("must be a dict", {"filters": ["status"]}),
]


@pytest.mark.parametrize(("words", "question"), QUESTIONS, ids=str)
def test_a_wrong_question_is_an_error(
    tasks: TaskRepository, words: str, question: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match=words):
        tasks.filter(**question)


def test_a_cursor_belongs_to_its_order(tasks: TaskRepository) -> None:
    five(tasks)
    cursor = tasks.page(limit=1).next
    assert cursor is not None
    with pytest.raises(ValidationError, match="cursor"):
        tasks.page(after=cursor, order_by="-created_at")
    with pytest.raises(ValidationError, match="not a cursor"):
        tasks.page(after="nonsense")


def test_bulk_work_is_all_or_nothing(tasks: TaskRepository) -> None:
    rows = [{"id": "a", "title": "A"}, {"id": "b", "title": "B", "priority": "high"}]
    kept = [dict(row) for row in rows]
    assert ids(tasks.bulk_create(rows)) == ["a", "b"]
    assert rows == kept
    with pytest.raises(IntegrityError, match="'b' is already taken") as caught:
        tasks.bulk_create([{"id": "c", "title": "C"}, {"id": "b", "title": "again"}])
    assert caught.value.constraint == "tasks_pkey"
    assert tasks.count() == 2
    changes = [{"id": "a", "status": "completed"}, {"id": "b", "owner": "bo", "tags": None}]
    assert tasks.bulk_update([*changes, {"id": "missing", "owner": "x"}]) == 2
    assert tasks.get_or_raise("b").owner == "bo"
    with pytest.raises(InvalidTransition):
        tasks.bulk_update([{"id": "b", "owner": "changed"}, {"id": "a", "status": "failed"}])
    assert tasks.get_or_raise("b").owner == "bo"
    with pytest.raises(ValidationError, match="repeats"):
        tasks.bulk_update([{"id": "a", "owner": "1"}, {"id": "a", "owner": "2"}])
    assert tasks.bulk_delete(["a", "b", "missing"]) == 2
    assert tasks.bulk_create([]) == []
    assert tasks.bulk_update([]) == tasks.bulk_delete([]) == 0


def test_upsert_makes_or_changes(tasks: TaskRepository) -> None:
    made = tasks.upsert(id="u", title="first", owner="ann")
    changed = tasks.upsert(id="u", title="second")
    assert (changed.title, changed.owner) == ("second", "ann")
    assert changed.created_at == made.created_at
    tasks.upsert(id="u", title="second", status="completed")
    with pytest.raises(InvalidTransition):
        tasks.upsert(id="u", title="third", status="claimed")
    assert tasks.get_or_raise("u").title == "second"


def test_what_never_changes_is_refused(tasks: TaskRepository) -> None:
    made = tasks.create(title="x")
    with pytest.raises(ValidationError, match="created_at never changes"):
        tasks.update(made.id, created_at=made.created_at)
    with pytest.raises(ValidationError, match="id never changes"):
        tasks.update(made.id, id="y")
    with pytest.raises(ValidationError, match="cannot be empty"):
        tasks.update(made.id, title=None)


def test_a_model_saves_what_was_changed(session: Session, tasks: TaskRepository) -> None:
    made = tasks.create(title="x", tags=["a"], feedback={"deep": [1]})
    read = tasks.get_or_raise(made.id)
    read.tags.append("b")
    read.feedback["deep"].append(2)
    assert read.save() == 1
    again = tasks.get_or_raise(made.id)
    assert (again.tags, again.feedback) == (["a", "b"], {"deep": [1, 2]})
    assert again.save() == 0
    again.status = TaskStatus.COMPLETED
    again.save()
    again.status = TaskStatus.FAILED
    with pytest.raises(InvalidTransition):
        again.save()
    with pytest.raises(NotFound):
        Task(id="absent", title="x").save()
    with pytest.raises(ValidationError, match="no field"):
        Task(bogus=1)


# -- routing ---------------------------------------------------------------------------------------


def test_tasks_are_found(tasks: TaskRepository) -> None:
    five(tasks)
    tasks.update("t0", project="web", requester="cy", description="the exact words, café")
    assert ids(tasks.get_tasks_by_project("web")) == ["t0"]
    assert ids(tasks.get_tasks_by_status("pending", limit=2)) == ["t4", "t3"]
    assert ids(tasks.get_tasks_by_requester("cy")) == ["t0"]
    assert ids(tasks.get_tasks_by_owner("ann")) == ["t3", "t1"]
    assert ids(tasks.get_unassigned_tasks()) == ["t4", "t3", "t2", "t1"]
    assert ids(tasks.get_pending_tasks(limit=2)) == ["t1", "t3"]
    assert ids(tasks.get_tasks_by_tag("x")) == ["t3", "t1"]
    assert ids(tasks.get_tasks_by_tag(["x", "odd"])) == ["t3", "t1"]
    assert ids(tasks.get_tasks_by_tag(["x", "even"])) == []
    assert ids(tasks.get_tasks_by_tag(["x", "even"], match="any", limit=1)) == ["t4"]
    assert ids(tasks.get_tasks_by_tag([])) == []
    assert ids(tasks.search_tasks('"exact words"')) == ["t0"]
    assert ids(tasks.search_tasks("cafe -task")) == []
    assert len(tasks.search_tasks("cafe or task")) == 5
    assert ids(tasks.search_tasks("tas", limit=1, filters={"project": "web"})) == ["t0"]
    for hostile in ('"', "((", "-", "*", "a AND OR", "title:", "' OR 1=1 --", "\0", "or"):
        assert isinstance(tasks.search_tasks(hostile), list)


def test_readiness_follows_dependencies(tasks: TaskRepository) -> None:
    tasks.create(id="base", title="base")
    tasks.create(id="next", title="next", depends_on=["base"], priority="urgent")
    tasks.create(id="never", title="never", depends_on=["missing"])
    assert ids(tasks.get_ready_tasks()) == ["base"]
    assert ids(tasks.get_blocking_tasks("next")) == ["base"]
    assert ids(tasks.get_dependent_tasks("base")) == ["next"]
    with pytest.raises(ValidationError, match="'base' depends on 'next' depends on 'base'"):
        tasks.update("base", depends_on=["next"])
    with pytest.raises(ValidationError, match="circle"):
        tasks.bulk_update([{"id": "base", "depends_on": ["next"]}])
    with pytest.raises(ValidationError, match="circle"):
        tasks.upsert(id="self", title="x", depends_on=["self"])
    tasks.update_status("base", "completed")
    assert ids(tasks.get_ready_tasks()) == ["next"]
    assert tasks.count() == 3


def test_projects_and_their_tasks(session: Session, tasks: TaskRepository) -> None:
    projects = ProjectRepository(session)
    projects.create(
        name="web",
        slug="w",
        capabilities={"languages": ["python"], "skills": ["api"]},
        executor_type="agent",
        auto_claim=True,
    )
    projects.create(name="ops", slug="o", capabilities=["docker"])
    with pytest.raises(IntegrityError, match="slug 'w' is already taken"):
        projects.create(name="other", slug="w")
    assert projects.get_by_slug("w") == projects.get_project_by_slug("w") == projects.get("web")
    assert projects.get_by_slug("none") is None
    tasks.create(title="x", project="web")
    tasks.create(title="y", project="ops", status="completed")
    assert [p.name for p in projects.get_projects_with_active_tasks()] == ["web"]
    assert [p.name for p in projects.get_auto_claim_projects()] == ["web"]
    assert [p.name for p in projects.get_projects_by_executor_type("agent")] == ["web"]
    assert [p.name for p in projects.find_projects_for(["python", "api"])] == ["web"]
    assert [p.name for p in projects.find_projects_for([])] == ["ops", "web"]
    assert projects.find_projects_for(["rust"]) == []
    statistics = projects.get_project_statistics("ops")
    assert statistics["total_tasks"] == statistics["completed"] == 1
    assert set(statistics) == {"total_tasks", *map(str, TaskStatus)}
    synced = projects.update_last_sync("web")
    assert synced is not None
    assert synced.last_sync is not None


def test_the_hierarchy_of_instances(session: Session) -> None:
    instances = HopperInstanceRepository(session)
    instances.create(id="g", name="G", scope="GLOBAL")
    for child in ("b", "a"):
        instances.create(id=child, name=child, scope="PROJECT", parent_id="g")
    instances.create(id="a1", name="A1", scope="ORCHESTRATION", parent_id="a")
    order = [row.id for row in instances.get_instance_hierarchy("a")]
    assert order == ["g", "a", "a1"]
    assert [row.id for row in instances.get_instance_hierarchy("g")] == ["g", "a", "b", "a1"]
    assert instances.get_instance_hierarchy("none") == []
    assert [row.id for row in instances.get_child_instances("g")] == ["a", "b"]
    assert [row.id for row in instances.get_root_instances()] == ["g"]
    found = instances.get_instance_by_scope_and_name("PROJECT", "a")
    assert found is not None
    assert found.parent_id == "g"
    with pytest.raises(ValidationError, match="circle"):
        instances.move_instance("g", "a1")
    with pytest.raises(IntegrityError, match="2 HopperInstance rows"):
        instances.delete("g")
    with pytest.raises(IntegrityError, match="does not exist"):
        instances.move_instance("a", "nowhere")
    assert instances.pause_instance("b").status == "paused"  # type: ignore[union-attr]
    assert instances.resume_instance("b").status == "active"  # type: ignore[union-attr]
    ended = instances.terminate_instance("b")
    assert ended is not None
    assert ended.terminated_at is not None
    with pytest.raises(InvalidTransition):
        instances.resume_instance("b")
    assert [row.id for row in instances.get_active_instances()] == ["a1", "g", "a"]
    assert instances.terminate_instance("none") is None


def test_a_routing_is_recorded_and_told(session: Session, tasks: TaskRepository) -> None:
    projects, decisions = ProjectRepository(session), RoutingDecisionRepository(session)
    feedback = TaskFeedbackRepository(session)
    assert decisions.get_decision_analytics()["overall_avg_confidence"] is None
    projects.create(name="web", slug="web")
    tasks.create(id="t", title="t")
    decisions.route_task("t", "web", confidence=0.0, reasoning="why", decided_by="rules")
    assert tasks.get_or_raise("t").project == "web"
    with pytest.raises(IntegrityError, match="'nowhere' names a Project"):
        decisions.route_task("t", "nowhere", confidence=0.9)
    with pytest.raises(NotFound):
        decisions.route_task("none", "web")
    assert tasks.get_or_raise("t").routing_confidence == 0.0
    feedback.record("t", was_good_match=True, complexity_rating=3)
    feedback.record("t", quality_score=0.5)
    assert feedback.get_or_raise("t").complexity_rating == 3
    with pytest.raises(ValidationError, match="not between 1 and 10"):
        feedback.record("t", complexity_rating=11)
    analytics = decisions.get_decision_analytics()
    assert analytics["overall_avg_confidence"] == 0.0
    assert analytics["strategy_stats"]["rules"]["count"] == 1
    assert analytics["good_match_rate"] == 1.0
    assert sum(bucket["count"] for bucket in analytics["confidence_histogram"]) == 1
    assert feedback.get_routing_accuracy()["by_project"]["web"]["accuracy"] == 1.0
    assert len(decisions.get_decisions_with_low_confidence()) == 1
    assert len(decisions.get_recent_decisions(limit=5, hours=1)) == 1
    assert len(decisions.get_decisions_by_task("t")) == 1
    assert len(decisions.get_decisions_by_strategy("rules")) == 1
    assert len(decisions.get_decisions_by_project("web")) == 1
    with pytest.raises(ValidationError, match="hours"):
        decisions.get_recent_decisions(hours=-1)
    assert projects.delete("web")
    assert decisions.get_or_raise("t").project is None
    assert tasks.delete("t")
    assert decisions.count() == feedback.count() == 0


def test_links_to_other_platforms(session: Session, tasks: TaskRepository) -> None:
    mappings = ExternalMappingRepository(session)
    tasks.create(id="t", title="t")
    for _ in range(2):
        mappings.link("t", "github", "42", "https://example.test/42")
    found = mappings.get_by_external_id("github", "42")
    assert found is not None
    assert found.task_id == "t"
    assert mappings.get(("t", "github")) == found
    assert [row.platform for row in mappings.get_mappings_by_task("t")] == ["github"]
    with pytest.raises(ValidationError, match="tuple"):
        mappings.get("t")
    with pytest.raises(IntegrityError, match="names a Task"):
        mappings.link("none", "github", "1")
    assert mappings.unlink("t", "github")
    assert mappings.get_by_external_id("github", "42") is None
