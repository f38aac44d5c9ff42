"""Bulk work: set-based, all or nothing, and the caller's data stay as they are."""

from __future__ import annotations

import copy
import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import peewee
import pytest
from playhouse.test_utils import assert_query_count, count_queries

from hopper_data import (
    DatabaseError,
    ExternalMappingRepository,
    HopperInstanceRepository,
    IntegrityError,
    InvalidTransition,
    ProjectRepository,
    Repository,
    RoutingDecisionRepository,
    Session,
    TaskPriority,
    TaskRepository,
    TaskStatus,
    ValidationError,
    get_sync_session,
)
from hopper_data.database import Database
from hopper_data.fields import CheckedField, TextField
from hopper_data.model import BaseModel
from hopper_data.planning import EpicRepository
from tests.cases import each

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def titles(tasks: TaskRepository) -> dict[str, str]:
    return {row.id: row.title for row in tasks.get_all()}


# -- bulk_create -----------------------------------------------------------------------------------


def test_rows_come_back_in_the_order_given(tasks: TaskRepository) -> None:
    keys = ["c", "a", "d", "b"]
    made = tasks.bulk_create({"id": key, "title": key.upper(), "tags": [key]} for key in keys)
    assert [row.id for row in made] == keys
    for row in made:
        assert row.to_dict() == tasks.get_or_raise(row.id).to_dict()
        assert row.save() == 0
    assert [row.id for row in tasks.get_tasks_by_tag("d")] == ["d"]
    assert [row.id for row in tasks.search_tasks("B")] == ["b"]


def test_rows_may_differ_in_what_they_give(tasks: TaskRepository) -> None:
    made = tasks.bulk_create(
        [
            {"title": "a"},
            {"title": "b", "priority": "high", "owner": None},
            {"id": "given", "title": "c", "tags": [], "feedback": {"n": [1]}, "status": None},
            {"title": "d", "routing_confidence": 1, "created_at": START},
        ]
    )
    assert [row.priority for row in made] == ["medium", "high", "medium", "medium"]
    assert [row.status for row in made] == ["pending"] * 4
    assert made[2].id == "given"
    assert made[3].created_at == START
    assert len({row.id for row in made}) == 4
    assert {row.id: row.to_dict() for row in made} == {
        row.id: row.to_dict() for row in tasks.get_all()
    }


def test_nothing_to_do_is_done_without_a_query(tasks: TaskRepository) -> None:
    with assert_query_count(0):
        assert tasks.bulk_create([]) == []
        assert tasks.bulk_update([]) == 0
        assert tasks.bulk_delete([]) == 0
        assert tasks.bulk_create(iter(())) == []


def test_text_survives_the_way_through_a_document(tasks: TaskRepository) -> None:
    odd = [
        "'",
        '"',
        "\\",
        "\\u0041",
        "\n\t\x01\x7f",
        "\u2028",
        "👩‍👩‍👧",
        "%s ? :x",
        "null",
        "1",
        "true",
        "",
    ]
    made = tasks.bulk_create(
        {"title": text, "description": text, "feedback": {text: [text]}} for text in odd
    )
    for row, text in zip(made, odd, strict=True):
        found = tasks.get_or_raise(row.id)
        assert (found.title, found.description, found.feedback) == (text, text, {text: [text]})
    tasks.bulk_update({"id": row.id, "context": text} for row, text in zip(made, odd, strict=True))
    assert [tasks.get_or_raise(row.id).context for row in made] == odd
    tasks.bulk_create({"id": f"k{text}", "title": "t"} for text in odd)
    assert tasks.bulk_delete(f"k{text}" for text in odd) == len(odd)


def test_ten_thousand_rows_are_a_few_statements(database: Database) -> None:
    numbers = range(10_000)
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        with count_queries() as few:
            tasks.bulk_create({"id": f"few{n}", "title": "t"} for n in range(10))
        with count_queries() as created:
            made = tasks.bulk_create(
                {"id": f"t{n}", "title": f"Task {n}", "tags": [f"g{n % 7}"]} for n in numbers
            )
        with count_queries() as updated:
            count = tasks.bulk_update(
                {"id": f"t{n}", "title": f"New {n}", "priority": "high"} for n in numbers
            )
        assert (len(made), count) == (10_000, 10_000)
        assert tasks.count({"title__startswith": "new "}) == 10_000
        with count_queries() as deleted:
            assert tasks.bulk_delete(f"t{n}" for n in numbers if n % 2) == 5_000
        assert created.count == few.count
        assert max(updated.count, deleted.count) <= few.count + 2
        assert tasks.count() == 5_010
        assert len(tasks.get_tasks_by_tag("g3")) == len([n for n in numbers if n % 14 == 10])


def test_more_rows_than_one_statement_takes(database: Database) -> None:
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        numbers = range(20_001)
        made = tasks.bulk_create({"id": f"t{n:05}", "title": "t"} for n in numbers)
        assert [row.id for row in made] == [f"t{n:05}" for n in numbers]
        assert tasks.bulk_update({"id": row.id, "owner": row.id} for row in made) == 20_001
        assert tasks.count({"owner": "t20000"}) == 1
        with pytest.raises(IntegrityError, match="'t00007' is already taken"):
            tasks.bulk_create(
                {"id": key, "title": "x"} for key in [*(f"n{n}" for n in numbers), "t00007"]
            )
        assert tasks.count() == 20_001
        assert tasks.bulk_delete([row.id for row in made]) == 20_001


@each("place", [0, 1, 5, 9])
def test_one_bad_row_and_none_is_created(tasks: TaskRepository, place: int) -> None:
    tasks.create(id="taken", title="kept")
    good = [{"id": f"t{n}", "title": "t", "tags": ["x"]} for n in range(10)]
    for bad, error in (
        ({"id": "taken", "title": "t"}, IntegrityError),
        ({"id": "t0" if place else "t1", "title": "t"}, IntegrityError),
        ({"title": "x" * 501}, ValidationError),
        ({"titel": "t"}, ValidationError),
        ({}, ValidationError),
        ({"title": None}, ValidationError),
        ({"title": "t", "priority": "P1"}, ValidationError),
        ({"title": "t", "depends_on": "t1"}, ValidationError),
    ):
        rows = [*good]
        rows[place] = bad
        with pytest.raises(error):
            tasks.bulk_create(rows)
        assert titles(tasks) == {"taken": "kept"}
        assert tasks.get_tasks_by_tag("x") == []


def test_parents_and_children_in_one_call(session: Session) -> None:
    instances = HopperInstanceRepository(session)
    instances.bulk_create(
        [
            {"id": "low", "name": "low", "scope": "PROJECT", "parent_id": "mid"},
            {"id": "mid", "name": "mid", "scope": "PROJECT", "parent_id": "top"},
            {"id": "top", "name": "top", "scope": "GLOBAL"},
        ]
    )
    assert instances.count() == 3
    with pytest.raises(IntegrityError, match="'ghost' names a HopperInstance"):
        instances.bulk_create(
            [
                {"id": "x", "name": "x", "scope": "PROJECT", "parent_id": "top"},
                {"id": "y", "name": "y", "scope": "PROJECT", "parent_id": "ghost"},
            ]
        )
    assert instances.count() == 3
    assert instances.bulk_delete(["top", "low", "mid"]) == 3


# -- bulk_update -----------------------------------------------------------------------------------


def test_rows_may_change_in_different_fields(tasks: TaskRepository) -> None:
    tasks.bulk_create(
        {"id": f"t{n}", "title": f"t{n}", "owner": "ann", "tags": ["a"]} for n in range(5)
    )
    before = {row.id: row for row in tasks.get_all()}
    count = tasks.bulk_update(
        [
            {"id": "t0", "title": "new"},
            {"id": "t1", "owner": None, "tags": None, "priority": TaskPriority.URGENT},
            {"id": "ghost", "title": "nobody"},
            {"title": "other", "id": "t2", "feedback": {"a": None}, "routing_confidence": 0},
            {"id": "t3"},
        ]
    )
    assert count == 3
    after = {row.id: row for row in tasks.get_all()}
    assert set(after) == set(before)
    assert (after["t0"].title, after["t0"].owner) == ("new", "ann")
    assert (after["t1"].owner, after["t1"].tags, after["t1"].priority) == (None, None, "urgent")
    assert (after["t2"].title, after["t2"].feedback) == ("other", {"a": None})
    assert after["t2"].routing_confidence == 0.0
    for key in ("t0", "t1", "t2"):
        assert after[key].updated_at > before[key].updated_at
        assert after[key].created_at == before[key].created_at
    for key in ("t3", "t4"):
        assert after[key].to_dict() == before[key].to_dict()


def test_rows_of_one_call_change_at_one_moment(tasks: TaskRepository) -> None:
    tasks.bulk_create({"id": f"t{n}", "title": "t"} for n in range(4))
    tasks.bulk_update({"id": f"t{n}", ("title" if n % 2 else "owner"): "x"} for n in range(4))
    assert len({row.updated_at for row in tasks.get_all()}) == 1


@each("place", [0, 2])
def test_one_bad_row_and_none_is_updated(session: Session, place: int) -> None:
    tasks, projects = TaskRepository(session), ProjectRepository(session)
    tasks.bulk_create({"id": f"t{n}", "title": "old"} for n in range(3))
    tasks.update("t2", status="completed")
    good = [{"id": f"t{n}", "title": "new"} for n in range(2)]
    before = [row.to_dict() for row in tasks.get_all()]
    for bad in (
        {"id": "t2", "title": "x" * 501},
        {"id": "t2", "titel": "x"},
        {"id": "t2", "title": None},
        {"id": "t2", "created_at": START},
        {"id": "t2", "status": "failed"},
        {"title": "no key"},
        {"id": None, "title": "x"},
        {"id": "t1", "title": "again"},
        "t2",
        None,
    ):
        rows = [*good]
        rows.insert(place, bad)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            tasks.bulk_update(rows)
        assert [row.to_dict() for row in tasks.get_all()] == before
    projects.bulk_create([{"name": "p", "slug": "sp"}, {"name": "q", "slug": "sq"}])
    with pytest.raises(IntegrityError, match="slug"):
        projects.bulk_update([{"name": "p", "velocity": "x"}, {"name": "q", "slug": "sp"}])
    assert [(row.slug, row.velocity) for row in projects.get_all()] == [("sp", None), ("sq", None)]


def test_a_bulk_update_obeys_the_transitions(tasks: TaskRepository) -> None:
    tasks.bulk_create(
        {"id": status, "title": "t", "status": status} for status in ("pending", "completed")
    )
    with pytest.raises(InvalidTransition) as caught:
        tasks.bulk_update(
            [{"id": "pending", "status": "claimed"}, {"id": "completed", "status": "claimed"}]
        )
    assert (caught.value.old, caught.value.new) == ("completed", "claimed")
    assert tasks.get_or_raise("pending").status is TaskStatus.PENDING
    assert (
        tasks.bulk_update(
            [
                {"id": "pending", "status": TaskStatus.CLAIMED},
                {"id": "completed", "status": "completed"},
                {"id": "ghost", "status": "failed"},
            ]
        )
        == 2
    )


def test_slugs_may_be_passed_on(session: Session) -> None:
    projects = ProjectRepository(session)
    projects.bulk_create([{"name": "a", "slug": "1"}, {"name": "b", "slug": "2"}])
    projects.bulk_update([{"name": "a", "slug": "3"}])
    assert projects.bulk_update([{"name": "b", "slug": "1"}]) == 1


# -- bulk_delete -----------------------------------------------------------------------------------


def test_what_is_there_is_deleted(tasks: TaskRepository) -> None:
    tasks.bulk_create({"id": f"t{n}", "title": "t", "tags": ["x"]} for n in range(5))
    assert tasks.bulk_delete(["t1", "ghost", "t3", "t1", ""]) == 2
    assert sorted(titles(tasks)) == ["t0", "t2", "t4"]
    assert tasks.bulk_delete(("t0",)) == 1
    assert tasks.bulk_delete({"t2"}) == 1
    assert tasks.bulk_delete(key for key in ("t4", "t5")) == 1
    assert tasks.get_tasks_by_tag("x") == []


def test_one_refusal_and_none_is_deleted(session: Session) -> None:
    instances = HopperInstanceRepository(session)
    instances.bulk_create(
        [
            {"id": "a", "name": "a", "scope": "GLOBAL"},
            {"id": "top", "name": "top", "scope": "GLOBAL"},
            {"id": "low", "name": "low", "scope": "PROJECT", "parent_id": "top"},
        ]
    )
    with pytest.raises(IntegrityError, match="refers to this HopperInstance"):
        instances.bulk_delete(["a", "top"])
    assert instances.count() == 3


@each("ids", ["t0", b"t0", {"t0": 1}, 5, None, True])
def test_keys_are_a_list(tasks: TaskRepository, ids: Any) -> None:
    tasks.create(id="t0", title="t")
    tasks.create(id="t", title="t")
    with pytest.raises(ValidationError, match="list of keys"):
        tasks.bulk_delete(ids)
    assert tasks.count() == 2


@each("rows", ["rows", b"rows", {"title": "t"}, 5, None, True])
def test_rows_are_a_list(tasks: TaskRepository, rows: Any) -> None:
    for call in (tasks.bulk_create, tasks.bulk_update):
        with pytest.raises(ValidationError, match="list of dicts") as caught:
            call(rows)
        assert caught.value.field == "rows"
    assert tasks.count() == 0


@each("row", ["t", None, 5, ["title", "t"], ("title",)])
def test_each_row_is_a_dict(tasks: TaskRepository, row: Any) -> None:
    for call in (tasks.bulk_create, tasks.bulk_update):
        with pytest.raises(ValidationError, match=r"row 1 is .*must be a dict"):
            call([{"id": "t", "title": "t"}, row])
    assert tasks.count() == 0


# -- the caller's data -----------------------------------------------------------------------------


def test_the_callers_rows_stay_as_they_are(tasks: TaskRepository) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "title": "t", "tags": ["x", "y"], "feedback": {"n": [1, (2,)]}},
        {"title": "u", "created_at": START.astimezone(), "priority": "high"},
    ]
    before = copy.deepcopy(rows)
    made = tasks.bulk_create(rows)
    assert rows == before
    made[0].tags.append("z")
    made[0].feedback["n"].append(3)
    assert rows == before
    rows[0]["tags"].append("q")
    assert tasks.get_or_raise("a").tags == ["x", "y"]
    changes = [{"id": "a", "tags": ["n"], "title": "v"}]
    before = copy.deepcopy(changes)
    tasks.bulk_update(changes)
    assert changes == before
    fields = {"id": "a", "title": "w", "tags": ["m"]}
    tasks.upsert(**fields)
    assert fields == {"id": "a", "title": "w", "tags": ["m"]}


def test_a_row_may_be_any_mapping(tasks: TaskRepository) -> None:
    from types import MappingProxyType

    tasks.bulk_create([MappingProxyType({"id": "a", "title": "t"})])
    assert titles(tasks) == {"a": "t"}


# -- one transaction -------------------------------------------------------------------------------


def test_bulk_work_is_part_of_the_session(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), get_sync_session() as session:
        tasks = TaskRepository(session)
        tasks.bulk_create({"id": f"t{n}", "title": "t"} for n in range(10))
        tasks.bulk_update([{"id": "t1", "title": "u"}])
        tasks.bulk_delete(["t2"])
        raise ZeroDivisionError
    with get_sync_session() as session:
        assert TaskRepository(session).count() == 0


def test_a_refused_call_leaves_the_work_before_it(database: Database) -> None:
    with get_sync_session() as session:
        tasks = TaskRepository(session)
        tasks.bulk_create({"id": f"t{n}", "title": "t"} for n in range(3))
        for attempt in (
            lambda: tasks.bulk_create([{"id": "n", "title": "n"}, {"id": "t0", "title": "t"}]),
            lambda: tasks.bulk_update([{"id": "t0", "title": "u"}, {"id": "t1", "status": "x"}]),
            lambda: RoutingDecisionRepository(session).bulk_create(
                [{"task_id": "t0"}, {"task_id": "ghost"}]
            ),
        ):
            with pytest.raises(DatabaseError):
                attempt()
        tasks.update("t2", title="after")
    with get_sync_session() as session:
        assert titles(TaskRepository(session)) == {"t0": "t", "t1": "t", "t2": "after"}
        assert RoutingDecisionRepository(session).count() == 0


def test_an_error_while_the_rows_are_made_writes_nothing(tasks: TaskRepository) -> None:
    def rows() -> Any:
        yield {"id": "a", "title": "t"}
        raise ZeroDivisionError

    for call in (tasks.bulk_create, tasks.bulk_update):
        with pytest.raises(ZeroDivisionError):
            call(rows())
    assert tasks.count() == 0


def test_a_composite_key_in_bulk_is_checked(session: Session) -> None:
    TaskRepository(session).create(id="t", title="t")
    mappings = ExternalMappingRepository(session)
    mappings.create(task_id="t", platform="x", external_id="1")
    with pytest.raises(ValidationError, match="platform is None"):
        mappings.bulk_update([{"task_id": "t", "external_id": "2"}])
    with pytest.raises(ValidationError, match="repeats the key"):
        mappings.bulk_update([{"task_id": "t", "platform": "x", "external_id": "2"}] * 2)
    assert mappings.get_or_raise(("t", "x")).external_id == "1"


def test_values_are_not_logged(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        tasks = TaskRepository(session)
        tasks.bulk_create([{"id": "t", "title": "hush-hush"}])
        tasks.bulk_update([{"id": "t", "title": "hush-hush-2"}])
        tasks.filter({"title": "hush-hush"})
        with pytest.raises(IntegrityError):
            tasks.bulk_create([{"id": "t", "title": "hush-hush"}])
    assert "hush" not in caplog.text


def test_times_in_bulk_are_those_of_one_row(tasks: TaskRepository) -> None:
    moment = START + timedelta(microseconds=1)
    (row,) = tasks.bulk_create([{"title": "t", "created_at": moment}])
    assert tasks.get_or_raise(row.id).created_at == moment
    assert tasks.count({"created_at": moment}) == 1


def test_values_of_somebody_elses_fields_are_encoded_one_by_one(session: Session) -> None:
    class Amount(CheckedField[Any], peewee.TextField):
        def normalize(self, value: Any, field: Any = None) -> Decimal:
            return Decimal(value)

        def encode(self, value: Decimal) -> str:
            return str(value)

    class Words(CheckedField[Any], peewee.TextField):
        def normalize(self, value: Any, field: Any = None) -> list[str]:
            return list(value)

        def encode(self, value: list[str]) -> str:
            return " ".join(value)

    class Line(BaseModel):
        id = TextField(primary_key=True)
        amount = Amount()
        words = Words()

    class LineRepository(Repository[Line]):
        model = Line

    session.database.create_tables([Line])
    lines = LineRepository(session)
    amounts = ["1.0", "1.00", "0", "-0"]  # of which two and two are equal
    lines.bulk_create(
        {"id": f"{number}", "amount": amount, "words": ["a", "b"]}
        for number, amount in enumerate(amounts)
    )
    stored = "SELECT amount, words FROM line ORDER BY id"
    assert session.execute(stored) == [(amount, "a b") for amount in amounts]
    lines.bulk_update(
        {"id": f"{number}", "amount": amount, "words": []}
        for number, amount in enumerate(reversed(amounts))
    )
    assert session.execute(stored) == [(amount, "") for amount in reversed(amounts)]


def test_some_rows_may_have_numbers_that_others_are_given(session: Session) -> None:
    epics = EpicRepository(session)
    made = epics.bulk_create(
        {"key": f"E0{place}", "title": "T", "id": number}
        for place, number in enumerate([None, 900, None, 800])
    )
    assert [epic.key for epic in made] == ["E00", "E01", "E02", "E03"]
    assert [made[1].id, made[3].id] == [900, 800]
    assert {epic.id: epic.key for epic in made} == {epic.id: epic.key for epic in epics.get_all()}
    assert len(epics.get_all()) == 4
