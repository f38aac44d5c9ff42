"""Filters: each lookup, on every backend, and any of them the same on two."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.test_utils import assert_query_count

from hopper_data import (
    Project,
    ProjectRepository,
    Session,
    Task,
    TaskFeedbackRepository,
    TaskPriority,
    TaskRepository,
    TaskStatus,
    ValidationError,
)
from hopper_data.database import Database
from hopper_data.querying import like_to_glob
from hopper_data.session import open_session
from tests.cases import each

START = datetime(2026, 1, 1, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [
    {"id": "a", "title": "Alpha", "owner": "ann", "priority": "low", "routing_confidence": 0.0},
    {"id": "b", "title": "beta", "owner": None, "priority": "medium", "routing_confidence": 0.25},
    {"id": "c", "title": "100%", "owner": "", "priority": "high", "routing_confidence": 0.5},
    {"id": "d", "title": "a_b", "owner": "ANN", "priority": "urgent", "routing_confidence": 1.0},
    {"id": "e", "title": "axb", "owner": "bob", "priority": "urgent", "status": "completed"},
    {"id": "f", "title": "back\\slash", "owner": "é", "tags": ["x"], "feedback": {"n": 1}},
    {"id": "g", "title": "ÉLAN *?[a]", "owner": "É", "feedback": [1, 2], "status": "blocked"},
]


def fill(tasks: TaskRepository) -> None:
    tasks.bulk_create(
        {**row, "created_at": START + timedelta(days=n)} for n, row in enumerate(ROWS)
    )


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


LOOKUPS: list[tuple[Any, str]] = [
    (None, "abcdefg"),
    ({}, "abcdefg"),
    ({"title": "beta"}, "b"),
    ({"title": "BETA"}, ""),
    ({"title__eq": "beta"}, "b"),
    ({"title__ne": "beta"}, "acdefg"),
    ({"owner": None}, "b"),
    ({"owner__eq": None}, "b"),
    ({"owner__ne": None}, "acdefg"),
    ({"owner__ne": "ann"}, "cdefg"),
    ({"owner": ""}, "c"),
    ({"owner__is": None}, "b"),
    ({"owner__is_not": None}, "acdefg"),
    ({"owner__is_null": True}, "b"),
    ({"owner__is_null": False}, "acdefg"),
    ({"owner__in": ["ann", "bob", "nobody"]}, "ae"),
    ({"owner__in": ("ann", None)}, "ab"),
    ({"owner__in": [None]}, "b"),
    ({"owner__in": []}, ""),
    ({"owner__in": set()}, ""),
    ({"owner__in": {"ann": 1}.keys()}, "a"),
    ({"owner__in": [f"x{n}" for n in range(5000)] + ["ann"]}, "a"),
    ({"owner__in": [f"x{n}" for n in range(5000)] + [None, "bob"]}, "be"),
    ({"owner__not_in": ["ann", "bob"]}, "cdfg"),
    ({"owner__not_in": ["ann", None]}, "cdefg"),
    ({"owner__not_in": [None]}, "acdefg"),
    ({"owner__not_in": []}, "abcdefg"),
    ({"owner__not_in": [f"x{n}" for n in range(5000)] + ["ann"]}, "cdefg"),
    ({"title__lt": "a"}, "ac"),
    ({"title__gt": "beta"}, "g"),
    ({"title__gte": "beta"}, "bg"),
    ({"title__between": ("a", "b")}, "de"),
    ({"routing_confidence__gt": 0.25}, "cd"),
    ({"routing_confidence__gte": 0.25}, "bcd"),
    ({"routing_confidence__lt": 0.25}, "a"),
    ({"routing_confidence__lte": 1}, "abcd"),
    ({"routing_confidence__between": (0.25, 0.5)}, "bc"),
    ({"routing_confidence__between": [1, 0]}, ""),
    ({"routing_confidence": 0}, "a"),
    ({"routing_confidence__lt": 100}, "abcd"),
    ({"routing_confidence__in": [0, 1, 0.3]}, "ad"),
    ({"created_at__gte": START + timedelta(days=5)}, "fg"),
    ({"created_at__lt": START + timedelta(microseconds=1)}, "a"),
    ({"created_at__between": (START, START + timedelta(days=1))}, "ab"),
    ({"created_at__in": [START, START + timedelta(days=2)]}, "ac"),
    ({"status": "completed"}, "e"),
    ({"status": TaskStatus.BLOCKED}, "g"),
    ({"status__in": ["completed", TaskStatus.BLOCKED]}, "eg"),
    ({"status__ne": "pending"}, "eg"),
    ({"status__contains": "PEND"}, "abcdf"),
    ({"status__startswith": "bl"}, "g"),
    ({"priority__gt": "medium"}, "cde"),
    ({"priority__gte": TaskPriority.URGENT}, "de"),
    ({"priority__gt": "urgent"}, ""),
    ({"priority__lte": "medium"}, "abfg"),
    ({"priority__lt": "low"}, ""),
    ({"priority__between": ("low", "high")}, "abcfg"),
    ({"title__contains": "%"}, "c"),
    ({"title__contains": "_"}, "d"),
    ({"title__contains": "\\"}, "f"),
    ({"title__contains": "A_B"}, "d"),
    ({"title__contains": "ALPHA"}, "a"),
    ({"title__contains": "é"}, ""),
    ({"title__contains": "É"}, "g"),
    ({"title__contains": "*?["}, "g"),
    ({"title__contains": ""}, "abcdefg"),
    ({"title__startswith": "A"}, "ade"),
    ({"title__startswith": "100%"}, "c"),
    ({"title__endswith": "%"}, "c"),
    ({"title__endswith": "H"}, "f"),
    ({"title__endswith": "[A]"}, "g"),
    ({"owner__contains": "nn"}, "ad"),
    ({"title__like": "a_b"}, "de"),
    ({"title__like": "A_B"}, ""),
    ({"title__ilike": "A_B"}, "de"),
    ({"title__like": "a\\_b"}, "d"),
    ({"title__like": "%\\%"}, "c"),
    ({"title__like": "back\\\\%"}, "f"),
    ({"title__like": "%[a]"}, "g"),
    ({"title__like": "%*?%"}, "g"),
    ({"title__like": "?beta"}, ""),
    ({"title__like": "b*"}, ""),
    ({"title__like": ""}, ""),
    ({"title__like": "%"}, "abcdefg"),
    ({"title__like": "Alpha"}, "a"),
    ({"title__like": "alpha"}, ""),
    ({"title__ilike": "alpha"}, "a"),
    ({"title__ilike": "élan%"}, ""),
    ({"title__regexp": "^a.b$"}, "de"),
    ({"title__regexp": "^A"}, "a"),
    ({"title__iregexp": "^A"}, "ade"),
    ({"title__regexp": "a|e"}, "abdefg"),
    ({"title__regexp": r"\\"}, "f"),
    ({"owner__regexp": "^$"}, "c"),
    ({"title__regexp": ""}, "abcdefg"),
    ({"feedback": {"n": 1}}, "f"),
    ({"feedback": [1, 2]}, "g"),
    ({"feedback__ne": [1, 2]}, "f"),
    ({"feedback__in": [{"n": 1}, [2, 1]]}, "f"),
    ({"feedback__in": [None, [1, 2]]}, "abcdeg"),
    ({"feedback__contains": {"n": 1}}, "f"),
    ({"feedback__contains": [2]}, "g"),
    ({"feedback": None}, "abcde"),
    ({"tags__contains": ["x"]}, "f"),
    ({"tags__is_null": False}, "f"),
    ({"owner": "ann", "title": "Alpha", "status": "pending"}, "a"),
    ({"owner": "ann", "title": "beta"}, ""),
    ({"owner__is_null": False, "owner__ne": "ann", "priority__gte": "high"}, "cde"),
    ({"title": "'; DROP TABLE tasks; --"}, ""),
    ({"title__contains": "' OR '1'='1"}, ""),
]


@each("number", range(len(LOOKUPS)))
def test_a_lookup_finds_its_rows(tasks: TaskRepository, number: int) -> None:
    fill(tasks)
    filters, expected = LOOKUPS[number]
    with assert_query_count(1):
        found = [row.id for row in tasks.filter(filters)]
    assert found == list(expected), filters
    assert tasks.count(filters) == len(expected), filters


def test_an_iterator_may_be_looked_up(tasks: TaskRepository) -> None:
    fill(tasks)
    assert [row.id for row in tasks.filter({"owner__in": (name for name in ("ann", "bob"))})] == [
        "a",
        "e",
    ]
    assert tasks.count({"owner__in": range(0)}) == 0


def test_a_long_list_is_one_parameter(
    tasks: TaskRepository, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tasks)
    with caplog.at_level("DEBUG"):
        assert tasks.count({"id__in": [f"x{n}" for n in range(40_000)] + ["a"]}) == 1
        moments = [START + timedelta(seconds=n) for n in range(1000)]
        assert tasks.count({"created_at__in": moments}) == 1
        numbers = [n / 1000 for n in range(1001)]
        assert tasks.count({"routing_confidence__in": numbers}) == 4
        assert tasks.count({"status__in": ["pending", "blocked"] * 400}) == 6
    assert max(len(record.getMessage()) for record in caplog.records) < 10_000


def test_the_callers_filters_stay_as_they_are(tasks: TaskRepository) -> None:
    filters = {"owner__in": ["ann", None], "created_at__gte": START}
    tasks.filter(filters)
    assert filters == {"owner__in": ["ann", None], "created_at__gte": START}


@each(
    "filters, field, message",
    [
        ({"staus": "pending"}, "staus", "did you mean 'status'"),
        ({"onwer__in": []}, "onwer", "did you mean 'owner'"),
        ({"zzz": 1}, "zzz", "there are id, title"),
        ({"": 1}, "", "no field ''"),
        ({"__eq": 1}, "", "no field ''"),
        ({5: 1}, "5", "no field '5'"),
        ({None: 1}, "None", "no field 'None'"),
        ({"status__": "pending"}, "status__", "no lookup ''"),
        ({"status__inn": []}, "status__inn", "did you mean 'in'"),
        ({"title__icontains": "x"}, "title__icontains", "did you mean 'contains'"),
        ({"title__exact__x": "x"}, "title__exact__x", "no lookup 'exact__x'"),
        ({"project__name": "x"}, "project__name", "no lookup 'name'"),
        ({"title__EQ": "x"}, "title__EQ", "no lookup 'EQ'"),
        ({"status": "don"}, "status", "is not one of pending"),
        ({"status__in": ["pending", "don"]}, "status", "is not one of pending"),
        ({"priority__gte": "P1"}, "priority", "is not one of low"),
        ({"title": 5}, "title", "must be text"),
        ({"title": ["x"]}, "title", "must be text"),
        ({"title": "a\0"}, "title", "NUL"),
        ({"title": "\ud800"}, "title", "surrogate"),
        ({"title__contains": "a\0"}, "title", "NUL"),
        ({"title__contains": "\ud800"}, "title", "surrogate"),
        ({"title__contains": None}, "title", "needs a text, not None"),
        ({"title__contains": 5}, "title", "needs a text, not 5"),
        ({"title__startswith": ["a"]}, "title", "needs a text"),
        ({"title__contains": "x" * 50_000}, "title", "more than 50,000 bytes"),
        ({"title__like": "*" * 20_000}, "title", "more than 50,000 bytes"),
        ({"title__like": "x\\"}, "title", "single backslash"),
        ({"title__like": "\\\\\\"}, "title", "single backslash"),
        ({"title__regexp": "("}, "title", "not a regular expression"),
        ({"title__iregexp": "*"}, "title", "not a regular expression"),
        ({"routing_confidence__contains": "1"}, "routing_confidence", "looks into text"),
        ({"created_at__startswith": "2026"}, "created_at", "looks into text"),
        ({"feedback__startswith": "x"}, "feedback", "looks into text"),
        ({"feedback__gt": {}}, "feedback", "neither more nor less"),
        ({"feedback__between": (1, 2)}, "feedback", "neither more nor less"),
        ({"owner__in": "ann"}, "owner", "needs a list of values"),
        ({"owner__in": b"ann"}, "owner", "needs a list of values"),
        ({"owner__in": {"a": 1}}, "owner", "needs a list of values"),
        ({"owner__in": None}, "owner", "needs a list of values"),
        ({"owner__not_in": 5}, "owner", "needs a list of values"),
        ({"owner__in": ["ann", 5]}, "owner", "must be text"),
        ({"owner__gt": None}, "owner", "cannot compare with None"),
        ({"owner__between": ("a", None)}, "owner", "cannot compare with None"),
        ({"owner__between": "ab"}, "owner", r"needs a pair \(low, high\)"),
        ({"owner__between": ("a",)}, "owner", r"needs a pair \(low, high\)"),
        ({"owner__between": ("a", "b", "c")}, "owner", r"needs a pair \(low, high\)"),
        ({"owner__between": 5}, "owner", r"needs a pair \(low, high\)"),
        ({"owner__is": "ann"}, "owner", "takes None alone"),
        ({"owner__is_not": False}, "owner", "takes None alone"),
        ({"owner__is_null": None}, "owner", "needs True or False"),
        ({"owner__is_null": 1}, "owner", "needs True or False"),
        ({"owner__is_null": "false"}, "owner", "needs True or False"),
        ({"routing_confidence": "0.5"}, "routing_confidence", "must be a number"),
        ({"routing_confidence__gt": float("nan")}, "routing_confidence", "not a finite"),
        ({"routing_confidence__lt": float("inf")}, "routing_confidence", "not a finite"),
        ({"created_at__gte": START.replace(tzinfo=None)}, "created_at", "naive"),
        ({"created_at": "soon"}, "created_at", "not a time"),
        ("status", "filters", "must be a dict"),
        ([("status", "pending")], "filters", "must be a dict"),
        (5, "filters", "must be a dict"),
        (Task.status == "pending", "filters", "must be a dict"),
    ],
)
def test_another_filter_is_refused(
    tasks: TaskRepository, filters: Any, field: str, message: str
) -> None:
    fill(tasks)
    for attempt in (
        lambda: tasks.filter(filters),
        lambda: tasks.count(filters),
        lambda: tasks.page(filters),
        lambda: tasks.iterate(filters),
        lambda: tasks.search_tasks("alpha", filters=filters),
    ):
        with assert_query_count(0), pytest.raises(ValidationError, match=message) as caught:
            attempt()
        assert caught.value.field == field
    assert tasks.count() == len(ROWS)


def test_numbers_and_truth_are_filters_too(session: Session) -> None:
    projects = ProjectRepository(session)
    projects.bulk_create({"name": f"p{n}", "slug": f"p{n}", "auto_claim": n > 1} for n in range(4))
    assert projects.count({"auto_claim": True}) == 2
    assert projects.count({"auto_claim__ne": True}) == 2
    assert projects.count({"auto_claim__in": [True, False]}) == 4
    for wrong in (1, 0, "true"):
        with pytest.raises(ValidationError, match="True or False"):
            projects.count({"auto_claim": wrong})
    tasks = TaskRepository(session)
    tasks.bulk_create({"id": f"t{n}", "title": "t"} for n in range(4))
    feedback = TaskFeedbackRepository(session)
    feedback.bulk_create({"task_id": f"t{n}", "complexity_rating": n + 1} for n in range(4))
    assert feedback.count({"complexity_rating__gte": 3}) == 2
    assert feedback.count({"complexity_rating__gte": -5}) == 4
    assert feedback.count({"complexity_rating__in": range(1, 3)}) == 2
    assert feedback.count({"complexity_rating__in": list(range(1, 3000))}) == 4
    for wrong in (2**31, 1.0, True, "1"):
        with pytest.raises(ValidationError):
            feedback.count({"complexity_rating": wrong})
    assert [row.task_id for row in feedback.filter({"task_id__startswith": "T"}, limit=2)] == [
        "t0",
        "t1",
    ]


def test_a_pattern_becomes_a_glob() -> None:
    assert like_to_glob("a%b_c") == "a*b?c"
    assert like_to_glob(r"\%\_\\") == r"%_" + "\\"
    assert like_to_glob("*?[]^-") == "[*][?][[]]^-"


def test_a_term_of_ones_own_beside_the_filters(session: Session) -> None:
    fill(TaskRepository(session))
    query = Task.select().where(Task.title.contains("%"), Task.owner.is_null(is_null=False))
    assert [row.id for row in query.execute(session.database)] == ["c"]
    assert [row.id for row in Task.select().where(Task.priority.startswith("ur")).order_by(Task.id)]
    assert Project.select().count() == 0


# -- any filter, the same on both ------------------------------------------------------------------

words = st.sampled_from(["", "a", "A", "ab", "%", "_", "\\", "a%b", "[a]", "é", "É", "ann", "x y"])
patterns = st.text(st.sampled_from(list("aAb%_\\*?[]^-é ")), max_size=6)
values: dict[str, st.SearchStrategy[Any]] = {
    "title": words,
    "owner": words,
    "priority": st.sampled_from(list(TaskPriority)),
    "status": st.sampled_from(["pending", "blocked"]),
    "routing_confidence": st.sampled_from([0, 0.25, 0.5, 1, -1, 7]),
    "created_at": st.integers(-1, 3).map(lambda n: START + timedelta(microseconds=n)),
    "feedback": st.sampled_from([{}, [], {"a": 1}, {"a": [1]}, [1], 1, "a", True]),
}


def conditions(name: str) -> st.SearchStrategy[tuple[str, Any]]:
    value = values[name]
    optional = value | st.none()
    lists = st.lists(optional, max_size=4)
    kinds: list[st.SearchStrategy[tuple[str, Any]]] = [
        st.tuples(st.sampled_from([name, f"{name}__eq", f"{name}__ne"]), optional),
        st.tuples(st.sampled_from([f"{name}__in", f"{name}__not_in"]), lists),
        st.tuples(st.just(f"{name}__is_null"), st.booleans()),
    ]
    if name != "feedback":
        compared = [f"{name}__{lookup}" for lookup in ("lt", "lte", "gt", "gte")]
        kinds.append(st.tuples(st.sampled_from(compared), value))
        kinds.append(st.tuples(st.just(f"{name}__between"), st.tuples(value, value)))
    else:
        kinds.append(st.tuples(st.just("feedback__contains"), value))
    if name in ("title", "owner", "priority", "status"):
        parts = [f"{name}__{lookup}" for lookup in ("contains", "startswith", "endswith")]
        kinds.append(st.tuples(st.sampled_from(parts), patterns))
        likes = [f"{name}__like", f"{name}__ilike"]
        sound = patterns.map(lambda text: text.rstrip("\\"))
        kinds.append(st.tuples(st.sampled_from(likes), sound))
    return st.one_of(kinds)


@st.composite
def any_filters(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(sorted(values)), min_size=1, max_size=3))
    return dict(draw(conditions(name)) for name in names)


any_rows = st.lists(
    st.fixed_dictionaries(
        {
            name: value
            if name in ("title", "priority", "status", "created_at")
            else value.filter(lambda v: v not in (-1, 7)) | st.none()
            for name, value in values.items()
        }
    ),
    min_size=3,
    max_size=8,
)


@given(rows=any_rows, filters=st.lists(any_filters(), min_size=1, max_size=8))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_filter_means_the_same_on_both(
    both_databases: tuple[Database, Database],
    rows: list[dict[str, Any]],
    filters: list[dict[str, Any]],
) -> None:
    answers = []
    for database in both_databases:
        with open_session(database) as session, database.atomic() as scope:
            tasks = TaskRepository(session)
            tasks.bulk_create({"id": f"t{n}", **row} for n, row in enumerate(rows))
            answers.append(
                [(one, [row.id for row in tasks.filter(one)], tasks.count(one)) for one in filters]
            )
            scope.rollback()
    assert answers[0] == answers[1]
    assert all(count == len(found) for _, found, count in answers[0])
