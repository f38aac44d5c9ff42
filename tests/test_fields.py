"""Fields: the same values come back, and the same are refused, on every backend."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hopper_data import (
    DatabaseError,
    ExternalMapping,
    ExternalMappingRepository,
    HopperInstanceRepository,
    IntegrityError,
    Project,
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
from hopper_data.database import Database
from hopper_data.fields import UUID7Field, utcnow
from hopper_data.session import open_session
from tests.cases import each

MOMENT = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
again = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


circle: list[Any] = []
circle.append(circle)
deep: Any = []
for _ in range(5_000):
    deep = [deep]


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def stored(session: Session, column: str, id: str = "t", table: str = "tasks") -> Any:
    """What the column holds, as the driver gives it."""
    key = "name" if table == "projects" else "id"
    return session.execute(f"SELECT {column} FROM {table} WHERE {key} = ?", (id,))[0][0]


# -- times ----------------------------------------------------------------------------------------


@each(
    "moment",
    [
        MOMENT,
        datetime(2026, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(1899, 12, 31, 23, 59, 59, 5, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC) - timedelta(microseconds=1),
    ],
)
def test_a_moment_comes_back_to_the_microsecond(tasks: TaskRepository, moment: datetime) -> None:
    made = tasks.create(title="t", created_at=moment)
    for found in (made, tasks.get_or_raise(made.id)):
        assert found.created_at == moment
        assert found.created_at.tzinfo is UTC
    assert [row.id for row in tasks.filter({"created_at": moment})] == [made.id]
    assert tasks.filter({"created_at__gt": moment}) == []
    assert tasks.filter({"created_at__lt": moment}) == []


@each(
    "zone",
    [
        timezone(timedelta(hours=5, minutes=45)),
        timezone(-timedelta(hours=9, minutes=30)),
        timezone(timedelta(hours=23, minutes=59, seconds=59)),
        ZoneInfo("America/St_Johns"),
        ZoneInfo("Pacific/Apia"),
    ],
)
def test_another_zone_is_the_same_moment(tasks: TaskRepository, zone: Any) -> None:
    made = tasks.create(title="t", created_at=MOMENT.astimezone(zone))
    found = tasks.get_or_raise(made.id)
    assert made.created_at == found.created_at == MOMENT
    assert made.created_at.tzinfo is found.created_at.tzinfo is UTC
    assert tasks.count({"created_at": MOMENT.astimezone(zone)}) == 1
    assert made.to_dict()["created_at"] == "2026-03-04T05:06:07.890123Z"


def test_a_moment_may_be_iso_text(tasks: TaskRepository) -> None:
    for text in ("2026-03-04T05:06:07.890123Z", "2026-03-04 07:06:07.890123+02:00"):
        assert tasks.create(title="t", created_at=text).created_at == MOMENT
    assert tasks.count({"created_at": "2026-03-04T05:06:07.890123+00:00"}) == 2


@each(
    "value",
    [
        MOMENT.replace(tzinfo=None),
        "2026-01-01",
        "2026-01-01T00:00:00",
        "yesterday",
        "",
        "2026-01-01T00:00:00Z\0",
        date(2026, 1, 1),
        1_700_000_000,
        1.5,
        True,
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        datetime(9999, 12, 31, 23, tzinfo=timezone(-timedelta(hours=2))),
    ],
)
def test_no_other_time_is_accepted(tasks: TaskRepository, value: object) -> None:
    for attempt in (
        lambda: tasks.create(title="t", created_at=value),
        lambda: tasks.bulk_create([{"title": "a"}, {"title": "t", "created_at": value}]),
        lambda: tasks.filter({"created_at__gte": value}),
        lambda: tasks.filter({"created_at__in": [MOMENT, value]}),
    ):
        with pytest.raises(ValidationError, match="Task created_at") as caught:
            attempt()
        assert caught.value.field == "created_at"
    assert tasks.count() == 0


def test_a_moment_is_stored_in_utc(tasks: TaskRepository) -> None:
    tasks.create(id="t", title="t", created_at=MOMENT)
    tasks.create(id="u", title="t", created_at=datetime(1, 1, 1, tzinfo=UTC))
    if tasks.database.dialect == "sqlite":
        # Text of a fixed width sorts as time does.
        assert stored(tasks.session, "created_at", "t") == "2026-03-04 05:06:07.890123+00:00"
        assert stored(tasks.session, "created_at", "u") == "0001-01-01 00:00:00.000000+00:00"
    else:
        assert stored(tasks.session, "pg_typeof(created_at)::text") == "timestamp with time zone"
        assert stored(tasks.session, "created_at::text") == "2026-03-04 05:06:07.890123+00"


def test_moments_sort_as_time_does(tasks: TaskRepository) -> None:
    moments = [
        datetime(year, 1, 1, tzinfo=UTC) + timedelta(microseconds=n)
        for year in (1, 900, 1969, 2026, 9999)
        for n in (0, 1, 999_999)
    ]
    for moment in reversed(moments):
        tasks.create(title="t", created_at=moment)
    assert [row.created_at for row in tasks.get_all(order_by="created_at")] == moments
    assert [row.created_at for row in tasks.filter({"created_at__lt": moments[4]})] == [
        row.created_at for row in tasks.get_all(order_by="id") if row.created_at < moments[4]
    ]


def test_rows_of_other_programs_get_the_present_moment(session: Session) -> None:
    before = utcnow() - timedelta(milliseconds=2)
    session.execute("INSERT INTO tasks (id, title) VALUES ('raw', 'by hand')")
    task = TaskRepository(session).get_or_raise("raw")
    assert before - timedelta(minutes=1) <= task.created_at <= utcnow() + timedelta(minutes=1)
    assert task.created_at.tzinfo is UTC
    assert (task.status, task.priority) == (TaskStatus.PENDING, TaskPriority.MEDIUM)


def test_a_day_begins_in_utc_whatever_the_server_thinks(session: Session) -> None:
    task = TaskRepository(session).create(
        title="t", created_at=datetime(2026, 3, 4, 23, 30, tzinfo=UTC)
    )
    day = (
        "substr(created_at, 1, 10)" if session.database.dialect == "sqlite" else "created_at::date"
    )
    assert str(stored(session, day, task.id)) == "2026-03-04"


@given(moment=st.datetimes(timezones=st.timezones()))
@again
def test_every_moment_comes_back(database: Database, moment: datetime) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        try:
            expected = moment.astimezone(UTC)
        except OverflowError:
            return
        made = tasks.create(title="t", created_at=moment)
        assert tasks.get_or_raise(made.id).created_at == expected


# -- time stamps -----------------------------------------------------------------------------------


def test_a_new_row_has_not_been_changed(tasks: TaskRepository) -> None:
    made = tasks.create(title="t")
    assert made.created_at == made.updated_at
    for row in tasks.bulk_create([{"title": "a"}, {"title": "b"}]):
        assert row.created_at == row.updated_at


def test_every_way_to_update_moves_updated_at(tasks: TaskRepository) -> None:
    task = tasks.create(id="t", title="t")
    seen = [task.updated_at]

    def moved() -> None:
        found = tasks.get_or_raise("t")
        assert found.created_at == task.created_at
        assert found.updated_at > seen[-1]
        seen.append(found.updated_at)

    tasks.update("t", title="u")
    moved()
    tasks.bulk_update([{"id": "t", "owner": "ann"}])
    moved()
    tasks.upsert(id="t", title="v")
    moved()
    tasks.update_status("t", "claimed")
    moved()
    loaded = tasks.get_or_raise("t")
    loaded.title = "w"
    assert loaded.save() == 1
    moved()
    assert loaded.updated_at == seen[-1]
    Task.update(owner="bob").where(Task.id == "t").execute(tasks.database)
    moved()


def test_a_time_that_is_given_stands_only_where_it_is_later(tasks: TaskRepository) -> None:
    made = tasks.create(id="t", title="t")
    earlier, later = made.updated_at - timedelta(days=1), made.updated_at + timedelta(days=1)

    def save(updated_at: datetime) -> None:
        task = tasks.get_or_raise("t")
        task.updated_at = updated_at
        assert task.save() == 1
        assert task.updated_at == tasks.get_or_raise("t").updated_at

    ways: list[Callable[[datetime], object]] = [
        lambda moment: tasks.update("t", updated_at=moment),
        lambda moment: tasks.bulk_update([{"id": "t", "updated_at": moment}]),
        lambda moment: tasks.upsert(id="t", title="t", updated_at=moment),
        save,
    ]
    for write in ways:
        for moment in (earlier, tasks.get_or_raise("t").updated_at):
            before = tasks.get_or_raise("t").updated_at
            write(moment)
            assert before < tasks.get_or_raise("t").updated_at
        later += timedelta(days=1)
        write(later)
        assert tasks.get_or_raise("t").updated_at == later


def test_a_new_row_may_have_been_changed_long_ago(tasks: TaskRepository) -> None:
    assert tasks.create(title="t", updated_at=MOMENT).updated_at == MOMENT
    assert tasks.upsert(id="u", title="u", updated_at=MOMENT).updated_at == MOMENT
    assert tasks.update("none", updated_at=MOMENT) is None


@each("value", [MOMENT, "2020-01-01T00:00:00Z", None])
def test_created_at_never_changes(tasks: TaskRepository, value: object) -> None:
    task = tasks.create(id="t", title="t")
    for attempt in (
        lambda: tasks.update("t", created_at=value),
        lambda: tasks.bulk_update([{"id": "t", "title": "x", "created_at": value}]),
    ):
        with pytest.raises(ValidationError, match="created_at"):
            attempt()
    loaded = tasks.get_or_raise("t")
    loaded.created_at = MOMENT
    with pytest.raises(ValidationError, match="created_at never changes"):
        loaded.save()
    tasks.upsert(id="t", title="u", created_at=MOMENT)
    found = tasks.get_or_raise("t")
    assert (found.created_at, found.title) == (task.created_at, "u")


# -- text -----------------------------------------------------------------------------------------


@each(
    "text",
    ["", " ", "é", "\n\t\r", "日本語", "👩‍👩‍👧", "'\"%_\\?:x$1--;", "\x01\x7f", "\ufffe\U0010ffff"],
)
def test_text_comes_back_as_it_was(tasks: TaskRepository, text: str) -> None:
    made = tasks.create(title=text, description=text, context=text, owner=text)
    found = tasks.get_or_raise(made.id)
    assert (found.title, found.description, found.context, found.owner) == (text,) * 4
    assert tasks.count({"title": text, "description": text, "owner__in": [text]}) == 1


@each(
    "value, message",
    [
        ("a\0b", "NUL"),
        ("\ud800", "lone surrogate"),
        ("x\udfffy", "lone surrogate"),
        ("x" * 501, "501 characters; 500 are the most"),
        (5, "is int; it must be text"),
        (b"bytes", "is bytes; it must be text"),
        (["t"], "is list; it must be text"),
        (deep, "is list; it must be text"),
        (True, "is bool; it must be text"),
    ],
)
def test_text_that_a_backend_would_refuse_is_refused(
    tasks: TaskRepository, value: object, message: str
) -> None:
    tasks.create(id="kept", title="kept")
    for attempt in (
        lambda: tasks.create(title=value),
        lambda: tasks.update("kept", title=value),
        lambda: tasks.upsert(id="kept", title=value),
        lambda: tasks.bulk_create([{"title": "a"}, {"title": value}]),
        lambda: tasks.bulk_update([{"id": "kept", "title": value}]),
        lambda: Task(title=value).save(force_insert=True),
        lambda: Task.create(title=value),
    ):
        with pytest.raises(ValidationError, match=message) as caught:
            attempt()
        assert caught.value.field == "title"
        assert str(caught.value).startswith("Task title ")
    assert [row.title for row in tasks.get_all()] == ["kept"]


def test_length_is_counted_in_characters(tasks: TaskRepository) -> None:
    assert len(tasks.get_or_raise(tasks.create(title="👩" * 500).id).title) == 500
    with pytest.raises(ValidationError, match="501"):
        tasks.create(title="👩" * 501)
    long = "word " * 100_000
    assert tasks.get_or_raise(tasks.create(title="t", description=long).id).description == long
    assert tasks.get("x" * 1000) is None
    assert tasks.count({"title": "x" * 1000}) == 0


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
@again
def test_every_text_comes_back(database: Database, text: str) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        made = tasks.create(title=text, description=text, tags=[text or "x"], feedback={text: text})
        found = tasks.get_or_raise(made.id)
        assert found.title == found.description == text
        assert found.feedback == {text: text}
        assert made.id in {row.id for row in tasks.filter({"title__contains": text})}
        assert made.id in {row.id for row in tasks.filter({"title__startswith": text})}
        assert made.id in {row.id for row in tasks.filter({"title": text})}


# -- numbers and truth -----------------------------------------------------------------------------


@each(
    "value, message",
    [
        (2**31, "outside"),
        (-(2**31) - 1, "outside"),
        (10**5000, "outside"),
        (0, "not between 1 and 10"),
        (11, "not between 1 and 10"),
        (5.0, "whole number"),
        ("5", "whole number"),
        (True, "whole number"),
        (math.nan, "whole number"),
    ],
)
def test_a_whole_number_is_checked(session: Session, value: object, message: str) -> None:
    TaskRepository(session).create(id="t", title="t")
    feedback = TaskFeedbackRepository(session)
    with pytest.raises(ValidationError, match=message) as caught:
        feedback.create(task_id="t", complexity_rating=value)
    assert caught.value.field == "complexity_rating"
    assert feedback.count() == 0
    assert feedback.create(task_id="t", complexity_rating=10).complexity_rating == 10


@each(
    "value, message",
    [
        (math.nan, "not a finite number"),
        (math.inf, "not a finite number"),
        (-math.inf, "not a finite number"),
        (10**400, "not a finite number"),
        (-0.001, "not between 0 and 1"),
        (1.0000001, "not between 0 and 1"),
        ("0.5", "must be a number"),
        (True, "must be a number"),
    ],
)
def test_a_number_is_checked(tasks: TaskRepository, value: object, message: str) -> None:
    for attempt in (
        lambda: tasks.create(title="t", routing_confidence=value),
        lambda: tasks.bulk_create([{"title": "t", "routing_confidence": value}]),
    ):
        with pytest.raises(ValidationError, match=message) as caught:
            attempt()
        assert caught.value.field == "routing_confidence"
    assert tasks.count() == 0


@given(number=st.floats(0, 1))
@again
def test_every_number_comes_back(database: Database, number: float) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        for made in (
            tasks.create(title="t", routing_confidence=number),
            *tasks.bulk_create([{"title": "t", "routing_confidence": number}]),
        ):
            assert tasks.get_or_raise(made.id).routing_confidence == number
            assert tasks.count({"id": made.id, "routing_confidence": number}) == 1


def test_a_whole_number_is_a_number(tasks: TaskRepository) -> None:
    found = tasks.get_or_raise(tasks.create(title="t", routing_confidence=1).id)
    assert found.routing_confidence == 1.0
    assert isinstance(found.routing_confidence, float)


@each("value", [0, 1, "true", "", [], 1.0])
def test_truth_is_true_or_false(session: Session, value: object) -> None:
    projects = ProjectRepository(session)
    with pytest.raises(ValidationError, match="True or False"):
        projects.create(name="p", slug="p", auto_claim=value)
    assert projects.count() == 0
    found = projects.get_or_raise(projects.create(name="p", slug="p", auto_claim=True).name)
    assert found.auto_claim is True
    assert projects.count({"auto_claim": True}) == 1
    assert projects.count({"auto_claim__in": [False]}) == 0


# -- vocabularies ----------------------------------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


@each("value", ["urgnt", "URGENT", "", 3, None, ["high"], Colour.RED, {"a": 1}])
def test_a_word_outside_the_vocabulary_is_refused(tasks: TaskRepository, value: object) -> None:
    tasks.create(id="kept", title="kept")
    attempts = [
        lambda: tasks.update("kept", priority=value),
        lambda: tasks.bulk_update([{"id": "kept", "priority": value}]),
    ]
    if value is not None:  # which stands for the default where a row is made
        attempts += [
            lambda: tasks.create(title="t", priority=value),
            lambda: tasks.filter({"priority": value}),
            lambda: tasks.filter({"priority__in": ["high", value]}),
        ]
    for attempt in attempts:
        with pytest.raises(ValidationError) as caught:
            attempt()
        assert caught.value.field == "priority"
    assert [(row.id, row.priority) for row in tasks.get_all()] == [("kept", "medium")]


def test_the_message_names_the_choice(tasks: TaskRepository) -> None:
    with pytest.raises(
        ValidationError,
        match=r"^Task priority 'urgnt' is not one of low, medium, high, urgent$",
    ):
        tasks.create(title="t", priority="urgnt")


def test_a_word_comes_back_as_a_member(tasks: TaskRepository) -> None:
    for value in ("high", TaskPriority.HIGH):
        made = tasks.create(title="t", priority=value)
        for found in (made, tasks.get_or_raise(made.id)):
            assert found.priority is TaskPriority.HIGH
            assert found.to_dict()["priority"] == "high"
    assert tasks.count({"priority": TaskPriority.HIGH}) == 2


@each(
    "table, columns, values, constraint",
    [
        ("tasks", "id, title, status", "'x', 't', 'done'", "ck_tasks_status"),
        ("tasks", "id, title, priority", "'x', 't', 'P1'", "ck_tasks_priority"),
        ("tasks", "id, title, routing_confidence", "'x', 't', 1.5", "ck_tasks_routing_confidence"),
        ("tasks", "id, title, routing_confidence", "'x', 't', -1", "ck_tasks_routing_confidence"),
        ("hopper_instances", "id, name, scope", "'x', 'n', 'LOCAL'", "ck_hopper_instances_scope"),
        (
            "hopper_instances",
            "id, name, scope, status",
            "'x', 'n', 'GLOBAL', 'dead'",
            "ck_hopper_instances_status",
        ),
        ("routing_decisions", "task_id, confidence", "'t', 2", "ck_routing_decisions_confidence"),
        (
            "routing_decisions",
            "task_id, decision_time_ms",
            "'t', -1",
            "ck_routing_decisions_decision_time_ms",
        ),
        (
            "task_feedback",
            "task_id, complexity_rating",
            "'t', 11",
            "ck_task_feedback_complexity_rating",
        ),
        ("task_feedback", "task_id, quality_score", "'t', 1.1", "ck_task_feedback_quality_score"),
    ],
)
def test_the_database_holds_the_rules_itself(
    session: Session, table: str, columns: str, values: str, constraint: str
) -> None:
    TaskRepository(session).create(id="t", title="t")
    with pytest.raises(IntegrityError) as caught:
        session.execute(f"INSERT INTO {table} ({columns}) VALUES ({values})")
    assert caught.value.constraint == constraint
    assert session.execute(
        f"SELECT COUNT(*) FROM {table} WHERE title <> 't'"
        if table == "tasks"
        else f"SELECT COUNT(*) FROM {table}"
    ) == [(0,)]


# -- JSON -----------------------------------------------------------------------------------------


class Level(IntEnum):
    HIGH = 3


@each(
    "document, expected",
    [
        ({}, {}),
        ([], []),
        ("text", "text"),
        ("", ""),
        (5, 5),
        (0.1, 0.1),
        (True, True),
        (False, False),
        ([None], [None]),
        ({"a": None}, {"a": None}),
        ({"": {"": [{}]}}, {"": {"": [{}]}}),
        ([[[1], 2], {"x": [True, None]}], [[[1], 2], {"x": [True, None]}]),
        ({"ключ": "значение", "👩": "\u2028"}, {"ключ": "значение", "👩": "\u2028"}),
        ({'quote"\\': "'\"\n\t\x01"}, {'quote"\\': "'\"\n\t\x01"}),
        ((1, 2), [1, 2]),
        ({"when": MOMENT}, {"when": "2026-03-04T05:06:07.890123Z"}),
        ({"id": UUID(int=5)}, {"id": str(UUID(int=5))}),
        ({"w": TaskStatus.BLOCKED, "l": Level.HIGH}, {"w": "blocked", "l": 3}),
        ({TaskStatus.BLOCKED: 1}, {"blocked": 1}),
        (2**53 + 1, 2**53 + 1),
        (-(2**63), -(2**63)),
        (10**300 + 1, 10**300 + 1),
        (1e23, 1e23),
        (1.7976931348623157e308, 1.7976931348623157e308),
        (5e-324, 5e-324),
        ({"n": 1e16, "z": -0.0, "one": 1.0}, {"n": 1e16, "z": 0, "one": 1}),
    ],
)
def test_a_document_comes_back(session: Session, document: Any, expected: Any) -> None:
    tasks = TaskRepository(session)
    made = tasks.create(title="t", feedback=document)
    (bulk,) = tasks.bulk_create([{"title": "t", "feedback": document}])
    updated = tasks.update(tasks.create(title="t").id, feedback=document)
    upserted = tasks.upsert(id="u", title="t", feedback=document)
    assert updated is not None
    for row in (made, bulk, updated, upserted):
        assert row.feedback == expected
        assert tasks.get_or_raise(row.id).feedback == expected
    assert tasks.count({"feedback": document}) == 4
    assert tasks.count({"feedback": expected}) == 4
    assert json.loads(json.dumps(made.to_dict()))["feedback"] == expected


def test_nothing_is_null(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="none", title="t", feedback=None)
    tasks.create(id="empty", title="t", feedback={})
    assert tasks.get_or_raise("none").feedback is None
    assert stored(session, "feedback IS NULL", "none") in (1, True)
    assert [row.id for row in tasks.filter({"feedback": None})] == ["none"]
    assert [row.id for row in tasks.filter({"feedback__is_null": False})] == ["empty"]
    tasks.update("empty", feedback=None)
    assert tasks.count({"feedback": None}) == 2


@each(
    "document, message",
    [
        (math.nan, "not finite"),
        ({"a": [math.inf]}, "not finite"),
        ({"a": -math.inf}, "not finite"),
        ("a\0b", "NUL"),
        ({"a": {"b": ["\0"]}}, "NUL"),
        ({"\0": 1}, "NUL"),
        ("\ud800", "surrogate"),
        ({"\udc00": 1}, "surrogate"),
        ({1: "a"}, "key that is int"),
        ({None: "a"}, "key that is NoneType"),
        ({("a",): "a"}, "key that is tuple"),
        ({True: "a"}, "key that is bool"),
        ({1, 2}, "holds set"),
        (b"bytes", "holds bytes"),
        ({"a": object()}, "holds object"),
        ({"a": MOMENT.replace(tzinfo=None)}, "naive"),
        ({"a": date(2026, 1, 1)}, "holds date"),
        (1j, "holds complex"),
        (10**400, "beyond the range"),
        (10**5000, "beyond the range"),
        (circle, "nested deeper"),
        (deep, "nested deeper"),
    ],
)
def test_a_document_that_json_cannot_hold_is_refused(
    tasks: TaskRepository, document: Any, message: str
) -> None:
    tasks.create(id="kept", title="t")
    for attempt in (
        lambda: tasks.create(title="t", feedback=document),
        lambda: tasks.update("kept", feedback=document),
        lambda: tasks.bulk_create([{"title": "a"}, {"title": "t", "feedback": document}]),
        lambda: tasks.filter({"feedback": document}),
        lambda: tasks.filter({"feedback__contains": document}),
        lambda: Task(title="t", feedback=document).save(force_insert=True),
    ):
        with pytest.raises(ValidationError, match=message) as caught:
            attempt()
        assert caught.value.field == "feedback"
    assert [row.feedback for row in tasks.get_all()] == [None]


@each("tags", ["python", {"a": 1}, [1], [""], [None], [["a"]], 5, True])
def test_tags_are_a_list_of_texts(tasks: TaskRepository, tags: object) -> None:
    with pytest.raises(ValidationError) as caught:
        tasks.create(title="t", tags=tags)
    assert caught.value.field == "tags"
    assert tasks.count() == 0


def test_the_callers_documents_stay_as_they_are(tasks: TaskRepository) -> None:
    document = {"a": [1, (2, 3)], "when": MOMENT}
    made = tasks.create(title="t", feedback=document)
    assert document == {"a": [1, (2, 3)], "when": MOMENT}
    document["a"].append(4)  # type: ignore[attr-defined]
    assert made.feedback["a"] == [1, [2, 3]]
    assert tasks.get_or_raise(made.id).feedback["a"] == [1, [2, 3]]


def test_a_change_in_place_is_saved(tasks: TaskRepository) -> None:
    made = tasks.create(id="t", title="t", tags=["a"], feedback={"n": {"deep": [1]}})
    made.tags.append("b")
    assert made.save() == 1
    made.feedback["n"]["deep"][0] = 2
    assert made.save() == 1
    assert made.save() == 0
    found = tasks.get_or_raise("t")
    assert (found.tags, found.feedback) == (["a", "b"], {"n": {"deep": [2]}})
    assert [row.id for row in tasks.get_tasks_by_tag("b")] == ["t"]
    found.feedback["n"]["deep"].append(True)
    found.feedback["n"]["deep"][0] = 1
    found.save()
    assert tasks.get_or_raise("t").feedback == {"n": {"deep": [1, True]}}
    found.feedback["n"]["deep"][0] = True
    assert found.save() == 1
    assert tasks.get_or_raise("t").feedback["n"]["deep"][0] is True


def test_a_change_in_place_after_a_save_is_saved(tasks: TaskRepository) -> None:
    document: dict[str, Any] = {"seen": 1}
    task = Task(id="t", title="t", feedback=document, tags=["a"])
    task.save(force_insert=True)
    document["seen"] = 2
    assert task.save() == 1
    assert tasks.get_or_raise("t").feedback == {"seen": 2}
    held = task.tags
    task.title = "u"
    assert task.save() == 1
    held.append("b")
    assert task.save(only=[Task.title]) == 0
    assert task.save() == 1
    assert tasks.get_or_raise("t").tags == ["a", "b"]


def test_a_bad_change_in_place_is_refused(tasks: TaskRepository) -> None:
    task = tasks.create(id="t", title="t", feedback={"a": 1})
    task.feedback["a"] = math.nan
    with pytest.raises(ValidationError, match="not finite"):
        task.save()
    task.feedback["a"] = {1, 2}
    with pytest.raises(ValidationError, match="holds set"):
        task.save()
    assert tasks.get_or_raise("t").feedback == {"a": 1}


def test_reading_alone_changes_nothing(tasks: TaskRepository) -> None:
    tasks.create(id="t", title="t", tags=["a"], feedback={"b": 1, "a": [2]})
    found = tasks.get_or_raise("t")
    assert (found.tags, found.feedback["b"]) == (["a"], 1)
    assert found.save() == 0
    assert tasks.get_or_raise("t").updated_at == found.updated_at


def test_a_bad_document_may_be_looked_at_before_it_is_refused() -> None:
    task = Task(title="t", feedback={"a": math.nan, "b": {1}})
    assert task.feedback["b"] == {1}


@each(
    "part, found",
    [
        ({"a": 1}, ["one", "two"]),
        ({"a": 1.0}, ["one", "two"]),
        ({"a": True}, ["true"]),
        ({}, ["null", "one", "text", "true", "two"]),
        ({"list": [2]}, ["two"]),
        ({"list": [3, 2]}, ["two"]),
        ({"list": [2, 2, 2]}, ["two"]),
        ({"list": []}, ["two"]),
        ({"list": [[]]}, []),
        ({"deep": {"x": "y"}}, ["two"]),
        ({"a": None}, ["null"]),
        ({"missing": None}, []),
        ({"a": "1"}, ["text"]),
        ([1], ["list", "scalar-in-list"]),
        ([], ["list", "scalar-in-list"]),
        (1, ["list", "number", "scalar-in-list"]),
        ("x", ["string"]),
    ],
)
def test_containment_means_the_same_on_both(session: Session, part: Any, found: list[str]) -> None:
    tasks = TaskRepository(session)
    documents: dict[str, Any] = {
        "one": {"a": 1, "b": 2},
        "two": {"a": 1, "list": [1, 2, 3], "deep": {"x": "y", "z": 0}},
        "true": {"a": True},
        "null": {"a": None},
        "text": {"a": "1"},
        "list": [1, 2],
        "scalar-in-list": [1],
        "number": 1,
        "string": "x",
    }
    tasks.bulk_create(
        {"id": name, "title": name, "feedback": document} for name, document in documents.items()
    )
    tasks.create(id="nothing", title="nothing")
    assert sorted(row.id for row in tasks.filter({"feedback__contains": part})) == found


def test_paths_and_keys_mean_the_same_on_both(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.bulk_create(
        [
            {"id": "a", "title": "t", "feedback": {"n": 1, "s": "x", "deep": {"l": [1, "two"]}}},
            {"id": "b", "title": "t", "feedback": {"n": 2.5, "s": None}},
            {"id": "c", "title": "t", "feedback": {"n": "1", "odd.key": True}},
            {"id": "d", "title": "t"},
        ]
    )

    def ids(term: Any) -> list[str]:
        query = Task.select(Task.id).where(term).order_by(Task.id)
        return [row.id for row in query.execute(session.database)]

    assert ids(Task.feedback["n"] == 1) == ["a"]
    assert ids(Task.feedback["n"] == 1.0) == ["a"]
    assert ids(Task.feedback["n"] == "1") == ["c"]
    assert ids(Task.feedback["n"] == 2.5) == ["b"]
    assert ids(Task.feedback["deep"]["l"][1] == "two") == ["a"]
    assert ids(Task.feedback["deep"] == {"l": [1, "two"]}) == ["a"]
    assert ids(Task.feedback["odd.key"] == True) == ["c"]  # noqa: E712
    assert ids(Task.feedback.has_key("s")) == ["a", "b"]
    assert ids(Task.feedback.has_keys(["n", "s"])) == ["a", "b"]
    assert ids(Task.feedback.has_any_keys(["odd.key", "deep"])) == ["a", "c"]
    assert ids(Task.feedback["n"].in_([1, "1"])) == ["a", "c"]
    Task.update({Task.feedback: Task.feedback["n"].set(3.0)}).where(Task.id == "a").execute(
        session.database
    )
    assert ids(Task.feedback["n"] == 3) == ["a"]
    with pytest.raises(ValidationError, match="not finite"):
        ids(Task.feedback["n"] == math.nan)


json_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
documents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.5, 1.0, 2.0, -0.0, 1e16, 1e-7])
    | st.sampled_from(["", "a", "b", "1", "true", "null"])
    | json_text,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "b", "é"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(rows=st.lists(documents, min_size=1, max_size=6), probes=st.lists(documents, max_size=4))
@again
def test_documents_are_found_alike(
    both_databases: tuple[Database, Database], rows: list[Any], probes: list[Any]
) -> None:
    answers = []
    for database in both_databases:
        with open_session(database) as session, database.atomic() as scope:
            tasks = TaskRepository(session)
            tasks.bulk_create(
                {"id": str(n), "title": "t", "feedback": row} for n, row in enumerate(rows)
            )
            found: list[Any] = [row.feedback for row in tasks.get_all()]
            assert found == rows
            for probe in [*rows, *probes]:
                for lookup in ("", "__ne", "__contains"):
                    if lookup == "__contains" and probe is None:
                        continue
                    result = tasks.filter({f"feedback{lookup}": probe})
                    found.append((lookup, probe, [row.id for row in result]))
            answers.append(found)
            scope.rollback()
    assert answers[0] == answers[1]


# -- keys and references ---------------------------------------------------------------------------


def test_new_keys_rise(tasks: TaskRepository) -> None:
    made = [tasks.create(title="t").id for _ in range(50)]
    assert made == sorted(set(made))
    assert all(key.startswith("task-") and len(key) == 21 for key in made)
    bulk = [row.id for row in tasks.bulk_create({"title": "t"} for _ in range(50))]
    assert made + bulk == sorted({*made, *bulk})


def test_a_uuid_is_one_or_its_text() -> None:
    from hopper_data.model import BaseModel

    class Keyed(BaseModel):
        id = UUID7Field(primary_key=True)

    value = uuid4()
    for given_value in (value, str(value), value.hex, f"{{{value}}}"):
        assert Keyed.id.normalize(given_value) == value
    assert Keyed.id.encode(value) == str(value)
    assert Keyed.id.python_value(str(value)) == value == Keyed.id.python_value(value)
    for bad in ("", "no", 5, None, b"x", value.bytes, [value]):
        with pytest.raises(ValidationError, match="UUID"):
            Keyed.id.normalize(bad)


def test_a_reference_may_be_a_row_or_its_key(session: Session) -> None:
    task = TaskRepository(session).create(id="t", title="t")
    mappings = ExternalMappingRepository(session)
    mappings.create(task=task, platform="github", external_id="1")
    mappings.create(task_id="t", platform="gitlab", external_id="2")
    assert mappings.count({"task": task}) == mappings.count({"task_id": "t"}) == 2
    assert mappings.count({"task_id__in": [task, "x"]}) == 2
    assert mappings.count({"task_id__contains": "t"}) == 2
    found = mappings.get_or_raise((task, "github"))
    assert (found.task_id, found.task.title) == ("t", "t")


def test_a_row_of_another_table_is_no_reference(session: Session) -> None:
    project = ProjectRepository(session).create(name="t", slug="t")
    TaskRepository(session).create(id="t", title="t")
    mappings = ExternalMappingRepository(session)
    for wrong in (project, Task(title="unsaved", id=None), 5, object()):
        with pytest.raises(ValidationError) as caught:
            mappings.create(task=wrong, platform="github", external_id="1")
        assert caught.value.field == "task_id"
    assert mappings.count() == 0


def test_fields_keep_nothing_of_a_database(session: Session) -> None:
    assert isinstance(Project.name.model, type)
    for model in (Task, Project, ExternalMapping):
        for field in model._meta.sorted_fields:
            assert not any(isinstance(value, Database) for value in vars(field).values()), field


def test_instances_refer_to_themselves(session: Session) -> None:
    instances = HopperInstanceRepository(session)
    instances.create(id="top", name="top", scope="GLOBAL")
    child = instances.create(id="low", name="low", scope="PROJECT", parent_id="top")
    assert child.parent.name == "top"
    assert [row.id for row in instances.get_or_raise("top").children] == ["low"]
    with pytest.raises(IntegrityError, match="'none' names a HopperInstance"):
        instances.update("low", parent_id="none")
    with pytest.raises(IntegrityError, match="1 HopperInstance row refers"):
        instances.delete("top")


def test_a_missing_row_behind_a_reference_is_an_error_of_ours(session: Session) -> None:
    decisions = RoutingDecisionRepository(session)
    with pytest.raises(DatabaseError, match="'ghost' names a Task"):
        decisions.create(task_id="ghost")
    assert decisions.count() == 0


@each("text", ["{'tags': 1}", '["a"', "", "a", "[1] [2]", "[" * 100_000])
def test_text_of_another_program_that_is_no_json_is_an_error_of_ours(
    tasks: TaskRepository, text: str
) -> None:
    if tasks.database.dialect == "postgresql":
        return  # its columns hold nothing else
    tasks.create(id="t", title="t")
    tasks.session.execute("UPDATE tasks SET feedback = ? WHERE id = 't'", (text,))
    for read in (lambda: tasks.get("t"), tasks.get_all, lambda: list(tasks.iterate())):
        with pytest.raises(DatabaseError, match="Task feedback of a stored row is not JSON") as e:
            read()
        assert len(str(e.value)) < 200
        assert e.value.__context__ is None
    with pytest.raises(DatabaseError, match="is not JSON"):
        Task.get_by_id("t")
    tasks.update("t", feedback={"fine": True})
    assert tasks.get_or_raise("t").feedback == {"fine": True}
