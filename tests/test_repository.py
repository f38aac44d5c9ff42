"""The verbs of the base repository, on every backend."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    DatabaseError,
    ExternalMapping,
    ExternalMappingRepository,
    IntegrityError,
    InvalidTransition,
    NotFound,
    Project,
    ProjectRepository,
    Repository,
    RoutingDecision,
    RoutingDecisionRepository,
    Session,
    Task,
    TaskPriority,
    TaskRepository,
    TaskStatus,
    ValidationError,
    get_sync_session,
)
from hopper_data.database import Database
from tests.cases import each

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


@pytest.fixture
def mappings(session: Session) -> ExternalMappingRepository:
    return ExternalMappingRepository(session)


def fill(tasks: TaskRepository, number: int = 7) -> None:
    """Tasks t0, t1, …; priorities low, medium, high, urgent in turns; every third has no owner."""
    words = list(TaskPriority)
    tasks.bulk_create(
        {
            "id": f"t{n}",
            "title": f"Task {n % 3}",
            "priority": words[n % 4],
            "owner": None if n % 3 == 0 else f"o{n % 2}",
            "created_at": START + timedelta(hours=n // 2),
        }
        for n in range(number)
    )


def ids(rows: list[Any]) -> list[str]:
    return [row.id for row in rows]


# -- one row ---------------------------------------------------------------------------------------


def test_create_gives_the_row_as_it_is_stored(tasks: TaskRepository) -> None:
    with assert_query_count(1):
        made = tasks.create(title="t", tags=("a",), priority="high", created_at=START)
    assert isinstance(made, Task)
    assert made.status is TaskStatus.PENDING
    assert made.tags == ["a"]
    assert made.to_dict() == tasks.get_or_raise(made.id).to_dict()
    assert made.save() == 0


def test_what_is_none_is_the_default_where_a_column_has_one(tasks: TaskRepository) -> None:
    made = tasks.create(title="t", status=None, priority=None, owner=None)
    assert (made.status, made.priority, made.owner) == ("pending", "medium", None)


def test_get_gives_the_row_or_none(tasks: TaskRepository) -> None:
    fill(tasks)
    with assert_query_count(1):
        found = tasks.get("t3")
    assert found is not None
    assert (found.id, found.title) == ("t3", "Task 0")
    with assert_query_count(1):
        assert tasks.get("ghost") is None
    assert tasks.get("") is None
    assert tasks.get("T3") is None
    assert tasks.get("t3 ") is None
    assert tasks.get_or_raise("t3").id == "t3"
    with pytest.raises(NotFound, match="Task 'ghost' does not exist"):
        tasks.get_or_raise("ghost")


def test_exists(tasks: TaskRepository) -> None:
    fill(tasks, 2)
    with assert_query_count(1):
        assert tasks.exists("t1") is True
    assert tasks.exists("ghost") is False
    assert tasks.exists("") is False


def test_update_gives_the_row_or_none(tasks: TaskRepository) -> None:
    fill(tasks)
    before = tasks.get_or_raise("t3")
    with assert_query_count(1):
        found = tasks.update("t3", title="new", owner=None, tags=["x"], priority="low")
    assert found is not None
    assert (found.title, found.owner, found.tags, found.priority) == ("new", None, ["x"], "low")
    assert found.created_at == before.created_at
    assert found.updated_at > before.updated_at
    assert found.to_dict() == tasks.get_or_raise("t3").to_dict()
    assert tasks.update("ghost", title="x") is None
    assert tasks.count({"title": "x"}) == 0
    assert tasks.count({"title": "new"}) == 1


def test_update_of_nothing_changes_nothing(tasks: TaskRepository) -> None:
    fill(tasks, 1)
    before = tasks.get_or_raise("t0")
    found = tasks.update("t0")
    assert found is not None
    assert found.to_dict() == before.to_dict()
    assert tasks.update("ghost") is None


def test_update_of_a_missing_row_checks_the_values_all_the_same(tasks: TaskRepository) -> None:
    for wrong in ({"titel": "x"}, {"priority": "x"}, {"title": None}, {"id": "x"}):
        with pytest.raises(ValidationError):
            tasks.update("ghost", **wrong)


def test_delete_says_whether_there_was_one(tasks: TaskRepository) -> None:
    fill(tasks, 3)
    with assert_query_count(1):
        assert tasks.delete("t1") is True
    assert tasks.delete("t1") is False
    assert tasks.delete("ghost") is False
    assert ids(tasks.get_all()) == ["t0", "t2"]


def test_a_deleted_key_may_be_used_again(tasks: TaskRepository) -> None:
    tasks.create(id="t", title="old", tags=["old"])
    tasks.delete("t")
    tasks.create(id="t", title="new")
    assert tasks.get_or_raise("t").tags is None
    assert tasks.get_tasks_by_tag("old") == []


def test_upsert_inserts_or_sets_what_is_given(tasks: TaskRepository) -> None:
    with assert_query_count(1):
        made = tasks.upsert(id="t", title="one", owner="ann", tags=["a"])
    assert made.status is TaskStatus.PENDING
    tasks.update("t", status="claimed", context="kept")
    with assert_query_count(1):
        found = tasks.upsert(id="t", title="two", owner=None)
    assert (found.title, found.owner, found.tags) == ("two", None, ["a"])
    assert (found.status, found.context) == (TaskStatus.CLAIMED, "kept")
    assert found.created_at == made.created_at
    assert found.updated_at > made.updated_at
    assert found.to_dict() == tasks.get_or_raise("t").to_dict()
    assert tasks.count() == 1


def test_upsert_without_a_key_inserts(tasks: TaskRepository) -> None:
    assert tasks.upsert(title="a").id != tasks.upsert(title="a").id
    assert tasks.count() == 2


def test_upsert_of_keys_alone(mappings: ExternalMappingRepository, tasks: TaskRepository) -> None:
    tasks.create(id="t", title="t")
    for url in ("one", None, "two"):
        found = mappings.upsert(task_id="t", platform="x", external_id="1", external_url=url)
        assert found.external_url == url
    again = mappings.upsert(task_id="t", platform="x", external_id="1")
    assert again.external_url == "two"
    assert mappings.count() == 1
    for _ in range(2):
        decision = RoutingDecisionRepository(tasks.session).upsert(task_id="t")
        assert decision.task_id == "t"


def test_upsert_obeys_the_transitions(tasks: TaskRepository) -> None:
    tasks.create(id="t", title="t", status="completed")
    with pytest.raises(InvalidTransition) as caught:
        tasks.upsert(id="t", title="u", status="failed")
    assert (caught.value.old, caught.value.new) == ("completed", "failed")
    found = tasks.get_or_raise("t")
    assert (found.title, found.status) == ("t", TaskStatus.COMPLETED)
    assert tasks.upsert(id="t", title="u", status="pending").status is TaskStatus.PENDING
    assert tasks.upsert(id="t", title="u", status="pending").status is TaskStatus.PENDING


def test_upsert_of_a_key_that_another_row_has(session: Session) -> None:
    projects = ProjectRepository(session)
    projects.create(name="a", slug="sa")
    projects.create(name="b", slug="sb")
    with pytest.raises(IntegrityError, match="Project slug 'sb' is already taken"):
        projects.upsert(name="a", slug="sb")
    assert [(row.name, row.slug) for row in projects.get_all()] == [("a", "sa"), ("b", "sb")]


def test_count(tasks: TaskRepository) -> None:
    assert tasks.count() == 0
    fill(tasks)
    with assert_query_count(1):
        assert tasks.count() == 7
    assert tasks.count({}) == tasks.count(None) == 7
    assert tasks.count({"owner": None}) == 3
    assert tasks.count({"owner": None, "priority": "urgent"}) == 1
    assert tasks.count({"id": "ghost"}) == 0


# -- keys of several columns -----------------------------------------------------------------------


def test_a_key_of_two_columns_is_a_pair(
    mappings: ExternalMappingRepository, tasks: TaskRepository
) -> None:
    tasks.bulk_create([{"id": "t", "title": "t"}, {"id": "u", "title": "u"}])
    made = mappings.create(task_id="t", platform="github", external_id="1")
    assert made._pk == ("t", "github")
    for key in (("t", "github"), ["t", "github"], (tasks.get("t"), "github")):
        assert mappings.get_or_raise(key).external_id == "1"
        assert mappings.exists(key)
    assert mappings.get(("t", "gitlab")) is None
    assert mappings.get(("u", "github")) is None
    found = mappings.update(("t", "github"), external_id="2")
    assert found is not None
    assert found.external_id == "2"
    assert mappings.update(("t", "none"), external_id="2") is None
    assert (
        mappings.bulk_update(
            [
                {"task_id": "t", "platform": "github", "external_url": "x"},
                {"task": "u", "platform": "github", "external_url": "x"},
            ]
        )
        == 1
    )
    assert mappings.delete(("u", "github")) is False
    assert mappings.delete(("t", "github")) is True
    assert mappings.count() == 0


def test_a_key_of_two_columns_in_bulk(
    mappings: ExternalMappingRepository, tasks: TaskRepository
) -> None:
    tasks.create(id="t", title="t")
    keys = [("t", f"p{n}") for n in range(4)]
    mappings.bulk_create(
        {"task_id": task, "platform": platform, "external_id": "1"} for task, platform in keys
    )
    assert [row._pk for row in mappings.get_all()] == keys
    assert [row._pk for row in mappings.get_all(order_by="-platform")] == keys[::-1]
    assert mappings.bulk_delete([("t", "p1"), ("t", "p3"), ("t", "none"), ("p1", "t")]) == 2
    assert [row._pk for row in mappings.get_all()] == [keys[0], keys[2]]


@each(
    "key", [None, "t", 5, (), ("t",), ("t", "p", "x"), (None, "p"), ("t", None), (1, "p"), {"t": 1}]
)
def test_another_key_of_two_columns_is_refused(
    mappings: ExternalMappingRepository, key: Any
) -> None:
    for attempt in (
        lambda: mappings.get(key),
        lambda: mappings.get_or_raise(key),
        lambda: mappings.exists(key),
        lambda: mappings.delete(key),
        lambda: mappings.update(key, external_id="1"),
        lambda: mappings.bulk_delete([key]),
    ):
        with pytest.raises(ValidationError):
            attempt()


@each("key", [None, 5, True, b"t", ("t",), ["t"], "a\0b", "\ud800", object()])
def test_another_key_is_refused(tasks: TaskRepository, key: Any) -> None:
    for attempt in (
        lambda: tasks.get(key),
        lambda: tasks.get_or_raise(key),
        lambda: tasks.exists(key),
        lambda: tasks.delete(key),
        lambda: tasks.update(key, title="x"),
        lambda: tasks.bulk_delete(["t", key]),
    ):
        with pytest.raises(ValidationError) as caught:
            attempt()
        assert caught.value.field == "id"


# -- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order_by", [None, "-priority", "owner,-created_at"])
def test_skip_and_limit_cut_one_list(database: Database, order_by: str | None) -> None:
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        fill(tasks, 9)
        whole = ids(tasks.get_all(order_by=order_by))
        assert sorted(whole) == [f"t{n}" for n in range(9)]
        for skip in (0, 1, 4, 8, 9, 100, 2**40):
            assert ids(tasks.get_all(skip, None, order_by)) == whole[skip:]
            for limit in (0, 1, 2, 9, 1000, 2**40):
                with assert_query_count(1 if limit else 0):
                    found = ids(tasks.get_all(skip, limit, order_by))
                assert found == whole[skip : skip + limit]
                assert ids(tasks.filter({}, skip, limit, order_by)) == found


@each("name, value", [(n, v) for n in ("skip", "limit") for v in (-1, 1.0, "1", True, [], 2**63)])
def test_another_skip_or_limit_is_refused(tasks: TaskRepository, name: str, value: Any) -> None:
    for attempt in (
        lambda: tasks.get_all(**{name: value}),
        lambda: tasks.filter({"owner": None}, **{name: value}),
        lambda: tasks.get_tasks_by_owner("ann", **{name: value}),
    ):
        with pytest.raises(ValidationError, match=name) as caught:
            attempt()
        assert caught.value.field == name


def test_a_huge_negative_limit_is_refused_too(tasks: TaskRepository) -> None:
    for value in (-(10**5000), 10**5000):
        with pytest.raises(ValidationError, match="limit"):
            tasks.get_all(limit=value)


def test_without_an_order_rows_come_by_their_key(tasks: TaskRepository) -> None:
    for key in ("b", "a", "B", "é", "_", "10", "9", "aa"):
        tasks.create(id=key, title="t")
    expected = sorted(("b", "a", "B", "é", "_", "10", "9", "aa"))
    assert ids(tasks.get_all()) == expected
    assert ids(tasks.filter({"title": "t"})) == expected
    assert ids(list(tasks.iterate())) == expected
    assert ids(tasks.page().items) == expected


def test_priorities_sort_by_meaning(tasks: TaskRepository) -> None:
    fill(tasks, 8)
    assert ids(tasks.get_all(order_by="-priority")) == [
        "t3",
        "t7",
        "t2",
        "t6",
        "t1",
        "t5",
        "t0",
        "t4",
    ]
    assert ids(tasks.get_all(order_by="priority")) == [
        "t0",
        "t4",
        "t1",
        "t5",
        "t2",
        "t6",
        "t3",
        "t7",
    ]
    assert ids(tasks.get_all(order_by="-priority,-created_at")) == [
        "t7",
        "t3",
        "t6",
        "t2",
        "t5",
        "t1",
        "t4",
        "t0",
    ]
    assert ids(tasks.filter({"priority__gte": "high"}, order_by="-id")) == ["t7", "t6", "t3", "t2"]
    assert ids(tasks.filter({"priority__lt": "high"})) == ["t0", "t1", "t4", "t5"]
    assert ids(tasks.filter({"priority__between": ("medium", "high")})) == ["t1", "t2", "t5", "t6"]


def test_rows_without_a_value_come_last_in_both_directions(tasks: TaskRepository) -> None:
    fill(tasks)
    up, down = ids(tasks.get_all(order_by="owner")), ids(tasks.get_all(order_by="-owner"))
    assert up == ["t2", "t4", "t1", "t5", "t0", "t3", "t6"]
    assert down == ["t1", "t5", "t2", "t4", "t0", "t3", "t6"]


def test_an_order_may_be_a_list(tasks: TaskRepository) -> None:
    fill(tasks)
    expected = ids(tasks.get_all(order_by="-owner,title,-id"))
    for order in (["-owner", "title", "-id"], ("-owner", "title", "-id"), " -owner , title,-id "):
        assert ids(tasks.get_all(order_by=order)) == expected
    assert ids(tasks.get_all(order_by="+id")) == ids(tasks.get_all())
    assert ids(tasks.get_all(order_by=[])) == ids(tasks.get_all())
    assert ids(tasks.get_all(order_by="id,-id")) == ids(tasks.get_all())


@each(
    "order, message",
    [
        ("creatd_at", "did you mean 'created_at'"),
        ("-prioritty", "did you mean 'priority'"),
        ("created_at desc", "did you mean 'created_at'"),
        ("id;DROP TABLE tasks", "no field"),
        ("", "empty name"),
        (",", "empty name"),
        ("id,", "empty name"),
        ("-", "empty name"),
        ("--id", "no field"),
        ("t1.id", "no field"),
        (["id", None], "empty name"),
        (["id", 5], "empty name"),
        (5, "must be like"),
        (True, "must be like"),
        ({"id": 1}, "must be like"),
        (Task.created_at, "must be like"),
        (Task.created_at.desc(), "must be like"),
        (["id", Task.created_at], "empty name"),
        ("tags", "have no order"),
        ("-feedback", "have no order"),
    ],
)
def test_another_order_is_refused(tasks: TaskRepository, order: Any, message: str) -> None:
    for attempt in (
        lambda: tasks.get_all(order_by=order),
        lambda: tasks.filter({"owner": None}, order_by=order),
        lambda: tasks.page(order_by=order),
        lambda: tasks.iterate(order_by=order),
    ):
        with pytest.raises(ValidationError, match=message):
            attempt()


def test_a_list_takes_one_query_however_long(tasks: TaskRepository) -> None:
    fill(tasks, 200)
    for call in (
        lambda: tasks.get_all(),
        lambda: tasks.filter({"owner__in": ["o1"]}, 3, 100, "-priority"),
        lambda: tasks.page(limit=150),
        lambda: [task.to_dict() for task in tasks.get_all()],
    ):
        with assert_query_count(1):
            call()


def test_a_name_may_be_the_fields_or_the_columns(session: Session) -> None:
    TaskRepository(session).create(id="t", title="t")
    ProjectRepository(session).create(name="p", slug="p")
    decisions = RoutingDecisionRepository(session)
    decisions.create(task_id="t", project="p")
    for name in ("project", "project_ref"):
        assert decisions.count({name: "p"}) == 1
        assert [row.task_id for row in decisions.get_all(order_by=name)] == ["t"]
    assert decisions.update("t", project_ref=None) is not None
    assert decisions.count({"project": None}) == 1


# -- iterate ---------------------------------------------------------------------------------------


def test_iterate_gives_what_filter_gives(tasks: TaskRepository) -> None:
    fill(tasks, 30)
    for filters in (None, {"owner": None}, {"priority__in": ["low", "high"]}, {"id": "ghost"}):
        for order in (None, "-priority", "owner,-created_at"):
            found = list(tasks.iterate(filters, order))
            assert ids(found) == ids(tasks.filter(filters, order_by=order))
            assert all(isinstance(row, Task) for row in found)


def test_iterate_streams_in_constant_memory(database: Database) -> None:
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        tasks.bulk_create({"title": f"t{n}", "description": "x" * 200} for n in range(12_000))
        peaks = []
        for filters in ({"id__like": "%0"}, None):
            tracemalloc.start()
            count = sum(1 for _ in tasks.iterate(filters, "-created_at"))
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert count == 12_000
        # All of them as instances take some 40 MB.
        assert peaks[1] < 8_000_000


def test_rows_may_be_written_while_others_are_read(session: Session) -> None:
    tasks = TaskRepository(session)
    fill(tasks, 60)
    seen = []
    for number, row in enumerate(tasks.iterate(order_by="title")):
        seen.append(row.id)
        tasks.update(row.id, title=f"Zz {row.title}")
        tasks.create(id=f"new{number}", title="Zzz")
        if number % 10 == 0:
            with pytest.raises(IntegrityError):
                tasks.create(id=row.id, title="again")
        if number == 30:
            tasks.bulk_delete(["t50", "t51"])
    assert len(seen) == 60
    assert len(set(seen)) == 60
    assert tasks.count({"title__startswith": "Zz Task"}) == 58


def test_reading_goes_on_over_a_savepoint_that_is_undone(database: Database) -> None:
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        fill(tasks, 25)
        seen = []
        for row in tasks.iterate():
            seen.append(row.id)
            try:
                with get_sync_session() as inner:
                    TaskRepository(inner).update(row.id, title="x")
                    if len(seen) % 2:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                continue
        assert len(seen) == 25
        assert tasks.count({"title": "x"}) == 12


def test_two_streams_at_once(tasks: TaskRepository) -> None:
    fill(tasks, 20)
    pairs = list(zip(tasks.iterate(), tasks.iterate(order_by="-id"), strict=True))
    assert len(pairs) == 20
    assert [first.id for first, _ in pairs] == [second.id for _, second in reversed(pairs)]


def test_a_stream_that_is_left_early_does_no_harm(tasks: TaskRepository) -> None:
    fill(tasks, 20)
    for _ in range(3):
        rows = tasks.iterate()
        next(rows)
        del rows
    rows = tasks.iterate()
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    tasks.create(id="after", title="t")
    assert tasks.count() == 21


def test_a_stream_ends_with_its_session(database: Database) -> None:
    with get_sync_session() as session:
        fill(TaskRepository(session), 20)
    with get_sync_session() as session:
        rows = TaskRepository(session).iterate()
        next(rows)
    with get_sync_session() as other:
        with pytest.raises(DatabaseError, match="has ended"):
            list(rows)
        rows = TaskRepository(other).iterate()
        next(rows)
    with get_sync_session() as other:
        del rows
        assert TaskRepository(other).count() == 20


def test_an_error_in_the_arguments_comes_at_once(tasks: TaskRepository) -> None:
    with pytest.raises(ValidationError):
        tasks.iterate({"staus": "x"})
    with pytest.raises(ValidationError):
        tasks.iterate(order_by="nope")


# -- a repository of one's own ---------------------------------------------------------------------


class Owned(Repository[Task]):
    """What an entity adds to the base."""

    model = Task

    def of(self, owner: str) -> Iterator[Task]:
        return self.iterate({"owner": owner}, "-created_at")


def test_the_base_serves_any_model(session: Session) -> None:
    class Projects(Repository[Project]):
        model = Project

    class Decisions(Repository[RoutingDecision]):
        model = RoutingDecision

    class Mappings(Repository[ExternalMapping]):
        model = ExternalMapping

    Owned(session).create(id="t", title="t", owner="ann")
    assert [row.id for row in Owned(session).of("ann")] == ["t"]
    assert Projects(session).create(name="p", slug="p").auto_claim is False
    assert Decisions(session).create(task_id="t", project="p").project == "p"
    assert Mappings(session).create(task_id="t", platform="x", external_id="1")._pk == ("t", "x")
    for repository in (Owned, Projects, Decisions, Mappings):
        assert len(repository(session).get_all()) == repository(session).count() == 1


@pytest.mark.parametrize("way", ["update", "upsert", "bulk_update"])
def test_updated_at_is_not_set_back_by_a_clock_that_is_behind(session: Session, way: str) -> None:
    ahead = datetime(2999, 1, 1, tzinfo=UTC)  # as a writer has left it whose clock was ahead
    tasks = TaskRepository(session)
    tasks.create(id="t", title="t", created_at=ahead, updated_at=ahead)
    for owner in ("a", "b"):
        before = tasks.get_or_raise("t").updated_at
        if way == "bulk_update":
            tasks.bulk_update([{"id": "t", "owner": owner}])
        elif way == "upsert":
            tasks.upsert(id="t", title="t", owner=owner)
        else:
            tasks.update("t", owner=owner)
        found = tasks.get_or_raise("t")
        assert found.owner == owner
        assert found.updated_at >= before
