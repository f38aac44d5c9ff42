"""Keyset pages: every row once, in every order, whatever happens between two pages."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.test_utils import assert_query_count

from hopper_data import (
    ExternalMappingRepository,
    HopperInstanceRepository,
    Page,
    ProjectRepository,
    Repository,
    RoutingDecisionRepository,
    Session,
    TaskPriority,
    TaskRepository,
    ValidationError,
)
from hopper_data.database import Database
from hopper_data.session import open_session
from tests.cases import each

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def fill(tasks: TaskRepository, number: int = 12) -> None:
    words = list(TaskPriority)
    tasks.bulk_create(
        {
            "id": f"t{n:02}",
            "title": f"Task {n % 3}",
            "priority": words[n % 4],
            "owner": None if n % 3 == 0 else f"o{n % 2}",
            "routing_confidence": None if n % 4 == 1 else (n % 5) / 4,
            "created_at": START + timedelta(hours=n // 3),
        }
        for n in range(number)
    )


def walk(repository: Repository[Any], limit: int, **options: Any) -> list[Any]:
    """All rows, page by page."""
    rows: list[Any] = []
    after = None
    for _ in range(1000):
        page = repository.page(limit=limit, after=after, **options)
        assert isinstance(page, Page)
        rows.extend(page.items)
        if page.next is None:
            return rows
        assert len(page.items) == limit
        after = page.next
    raise AssertionError("the pages do not end")


def ids(rows: list[Any]) -> list[Any]:
    return [row._pk for row in rows]


ORDERS = (
    None,
    "id",
    "-id",
    "created_at",
    "-created_at",
    "title,-created_at",
    "-title,-created_at,-id",
    "priority",
    "-priority,created_at",
    "owner",
    "-owner",
    "owner,-priority,id",
    "-owner,-owner,title",
    "routing_confidence",
    "-routing_confidence,owner,-created_at",
    "status,priority,owner,external_id,title",
)


@each("order_by", ORDERS)
def test_the_pages_are_the_list(tasks: TaskRepository, order_by: str | None) -> None:
    fill(tasks)
    whole = ids(tasks.get_all(order_by=order_by))
    for limit in (1, 2, 5, 11, 12, 13):
        assert ids(walk(tasks, limit, order_by=order_by)) == whole
    filters = {"owner": None}
    some = ids(tasks.filter(filters, order_by=order_by))
    assert ids(walk(tasks, 2, order_by=order_by, filters=filters)) == some


def test_the_last_page_has_no_next(tasks: TaskRepository) -> None:
    assert tasks.page() == Page([], None)
    fill(tasks, 4)
    assert tasks.page(limit=4).next is None
    assert tasks.page(limit=5).next is None
    page = tasks.page(limit=3)
    assert page.next is not None
    rest = tasks.page(limit=3, after=page.next)
    assert (ids(rest.items), rest.next) == (["t03"], None)


def test_a_page_without_rows(tasks: TaskRepository) -> None:
    fill(tasks, 4)
    assert tasks.page(limit=0) == Page([], None)
    assert tasks.page({"id": "ghost"}) == Page([], None)


def test_a_page_takes_one_query(tasks: TaskRepository) -> None:
    fill(tasks)
    after = None
    for _ in range(3):
        with assert_query_count(1):
            page = tasks.page(limit=3, after=after, order_by="-priority")
        after = page.next


def test_a_cursor_is_text_that_may_stand_in_a_url(tasks: TaskRepository) -> None:
    tasks.bulk_create({"id": f"{n}?&=/%+ é", "title": "t"} for n in range(3))
    after = tasks.page(limit=1, order_by="-title").next
    assert after is not None
    assert after.isascii()
    assert all(character.isalnum() or character in "-_" for character in after)
    assert ids(tasks.page(after=after, order_by="-title").items) == ["1?&=/%+ é", "2?&=/%+ é"]


def test_pages_of_a_key_of_two_columns(session: Session) -> None:
    TaskRepository(session).bulk_create([{"id": "a", "title": "t"}, {"id": "b", "title": "t"}])
    mappings = ExternalMappingRepository(session)
    mappings.bulk_create(
        {"task_id": t, "platform": p, "external_id": str(n % 2), "external_url": u}
        for n, (t, p, u) in enumerate(
            [(t, p, u) for t in "ab" for p, u in (("x", None), ("y", "u"), ("z", None))]
        )
    )
    for order in (None, "platform", "-platform", "external_id,-task_id", "external_url,-platform"):
        whole = ids(mappings.get_all(order_by=order))
        for limit in (1, 2, 4):
            assert ids(walk(mappings, limit, order_by=order)) == whole


def test_pages_by_references_and_other_kinds(session: Session) -> None:
    TaskRepository(session).bulk_create({"id": f"t{n}", "title": "t"} for n in range(6))
    projects = ProjectRepository(session)
    projects.bulk_create(
        {"name": f"p{n}", "slug": f"s{n}", "auto_claim": n % 2 == 0, "last_sync": sync}
        for n, sync in enumerate([START, None, START - timedelta(days=1), None])
    )
    for order in ("auto_claim", "-auto_claim", "last_sync", "-last_sync,auto_claim"):
        whole = ids(projects.get_all(order_by=order))
        assert ids(walk(projects, 1, order_by=order)) == whole
    decisions = RoutingDecisionRepository(session)
    decisions.bulk_create(
        {"task_id": f"t{n}", "project": project, "confidence": n / 7}
        for n, project in enumerate(["p1", None, "p0", "p1", None, "p3"])
    )
    for order in ("project", "-project", "confidence", "-confidence,project", "-task_id"):
        whole = ids(decisions.get_all(order_by=order))
        assert ids(walk(decisions, 2, order_by=order)) == whole
    instances = HopperInstanceRepository(session)
    instances.create(id="top", name="n", scope="GLOBAL")
    instances.bulk_create(
        {"id": f"i{n}", "name": "n", "scope": scope, "parent_id": "top"}
        for n, scope in enumerate(["PROJECT", "ORCHESTRATION", "PROJECT", "GLOBAL"])
    )
    for order in ("scope", "-scope", "parent_id", "-parent_id,scope"):
        whole = ids(instances.get_all(order_by=order))
        assert ids(walk(instances, 2, order_by=order)) == whole


# -- what happens between two pages ----------------------------------------------------------------


def test_rows_that_come_and_go_disturb_no_other(tasks: TaskRepository) -> None:
    for order, descending in (("id", False), ("-id", True), ("created_at", False)):
        with tasks.database.atomic() as scope:
            fill(tasks, 12)
            first = tasks.page(limit=4, order_by=order)
            seen = ids(first.items)
            # Before the cursor, behind it, the row of the cursor itself.
            tasks.create(id="s99" if not descending else "u99", title="t", created_at=START)
            late = START + timedelta(days=9)
            tasks.create(id="t99" if not descending else "t000", title="t", created_at=late)
            tasks.delete(seen[-1])
            tasks.delete(seen[0])
            rest: list[Any] = []
            after = first.next
            while after:
                page = tasks.page(limit=4, after=after, order_by=order)
                rest += ids(page.items)
                after = page.next
            expected = {f"t{n:02}" for n in range(12)} - set(seen)
            expected |= {"t99" if not descending else "t000"}
            assert set(rest) == expected
            assert len(rest) == len(set(rest))
            scope.rollback()


def test_the_rows_of_a_page_may_all_go(tasks: TaskRepository) -> None:
    fill(tasks, 9)
    page = tasks.page(limit=3, order_by="-priority")
    later = ids(walk_from(tasks, page.next, "-priority"))
    tasks.bulk_delete([row.id for row in page.items])
    assert ids(walk_from(tasks, page.next, "-priority")) == later


def walk_from(tasks: TaskRepository, after: str | None, order_by: str) -> list[Any]:
    rows: list[Any] = []
    while after:
        page = tasks.page(limit=3, after=after, order_by=order_by)
        rows += page.items
        after = page.next
    return rows


def test_a_cursor_outlives_its_session(database: Database) -> None:
    with open_session(database) as session:
        fill(TaskRepository(session), 6)
        after = TaskRepository(session).page(limit=2, order_by="owner").next
        whole = ids(TaskRepository(session).get_all(order_by="owner"))
    with open_session(database) as session:
        rest = TaskRepository(session).page(after=after, order_by="owner")
        assert ids(rest.items) == whole[2:]


def test_a_cursor_of_one_backend_serves_the_other(
    both_databases: tuple[Database, Database],
) -> None:
    for order in ORDERS:
        pages = []
        for database in both_databases:
            with open_session(database) as session, database.atomic() as scope:
                fill(TaskRepository(session))
                page = TaskRepository(session).page(limit=5, order_by=order)
                pages.append((ids(page.items), page.next))
                scope.rollback()
        assert pages[0] == pages[1]


# -- cursors of others -----------------------------------------------------------------------------


def cursor(payload: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(payload).encode()).decode().rstrip("=")


@each(
    "after",
    [
        "",
        "x",
        "not a cursor",
        "äöü",
        "\ud800",
        "\0",
        5,
        True,
        b"x",
        ["x"],
        Page([], None),
        cursor(None),
        cursor(5),
        cursor([]),
        cursor(["id"]),
        cursor(["id", []]),
        cursor(["id", ["a", "b"]]),
        cursor(["id", "a"]),
        cursor(["id", {"a": 1}]),
        cursor(["id", [None]]),
        cursor(["id", [5]]),
        cursor(["id", [True]]),
        cursor(["id", [["a"]]]),
        cursor(["id", [{"a": 1}]]),
        cursor(["id", ["a\0"]]),
        cursor(["id", ["\ud800"]]),
        cursor({"id": 1, "b": 2}),
        cursor("ab"),
        cursor(["id", ["a"]])[:-3],
        "A" * 100_000,
        base64.urlsafe_b64encode(b"[" * 50_000).decode(),
    ],
)
def test_what_is_no_cursor_is_refused(tasks: TaskRepository, after: Any) -> None:
    fill(tasks, 3)
    with pytest.raises(ValidationError, match="is not a cursor") as caught:
        tasks.page(after=after)
    assert caught.value.field == "after"


@each(
    "order, values",
    [
        ("created_at", ["yesterday", "t00"]),
        ("created_at", ["2026-01-01T00:00:00", "t00"]),
        ("created_at", [5, "t00"]),
        ("priority", ["high", "t00"]),
        ("priority", [1e400, "t00"]),
        ("priority", [[], "t00"]),
        ("routing_confidence", ["x", "t00"]),
        ("routing_confidence", [float("nan"), "t00"]),
        ("status", ["nonsense", "t00"]),
    ],
)
def test_a_forged_cursor_is_refused(tasks: TaskRepository, order: str, values: list[Any]) -> None:
    fill(tasks, 3)
    with pytest.raises(ValidationError, match="is not a cursor"):
        tasks.page(after=cursor([f"{order},id", values]), order_by=order)


def test_a_cursor_belongs_to_its_order(tasks: TaskRepository) -> None:
    fill(tasks)
    after = tasks.page(limit=2, order_by="-created_at").next
    for order in (None, "created_at", "-created_at,title", "-updated_at", "-created_at,-id"):
        with pytest.raises(ValidationError, match="cursor of the order '-created_at,id'"):
            tasks.page(after=after, order_by=order)
    assert tasks.page(after=after, order_by="-created_at,id").items


@each("limit", [-1, None, 1.5, "5", True, 2**63])
def test_another_limit_is_refused(tasks: TaskRepository, limit: Any) -> None:
    with pytest.raises(ValidationError, match="limit"):
        tasks.page(limit=limit)


# -- any rows, any order ---------------------------------------------------------------------------

rows = st.lists(
    st.fixed_dictionaries(
        {
            "title": st.sampled_from(["", "a", "A", "b", "é", "Z z"]),
            "owner": st.none() | st.sampled_from(["", "a", "B", "ann"]),
            "priority": st.sampled_from(list(TaskPriority)),
            "routing_confidence": st.none() | st.sampled_from([0, 0.1, 0.5, 1]),
            "created_at": st.sampled_from(
                [START, START + timedelta(microseconds=1), START + timedelta(days=400)]
            ),
        }
    ),
    max_size=10,
)
keys = st.lists(
    st.tuples(
        st.sampled_from(["", "-"]),
        st.sampled_from(["title", "owner", "priority", "routing_confidence", "created_at", "id"]),
    ).map("".join),
    max_size=4,
)


@given(rows=rows, order=keys, limit=st.integers(1, 5))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_pages_are_the_list_and_the_same_on_both(
    both_databases: tuple[Database, Database],
    rows: list[dict[str, Any]],
    order: list[str],
    limit: int,
) -> None:
    lists = []
    for database in both_databases:
        with open_session(database) as session, database.atomic() as scope:
            tasks = TaskRepository(session)
            tasks.bulk_create({"id": f"t{n}", **row} for n, row in enumerate(rows))
            whole = ids(tasks.get_all(order_by=order))
            assert ids(walk(tasks, limit, order_by=order)) == whole
            assert ids(list(tasks.iterate(order_by=order))) == whole
            lists.append(whole)
            scope.rollback()
    assert lists[0] == lists[1]
    assert lists[0] == [f"t{n}" for n in expected_order(rows, order)]


def expected_order(rows: list[dict[str, Any]], order: list[str]) -> list[int]:
    """What Python says; rows without a value last."""
    words = list(TaskPriority)
    numbers = list(range(len(rows)))
    # Of a repeated name the first one counts.
    seen: dict[str, bool] = {}
    for key in order:
        seen.setdefault(key.lstrip("-"), key.startswith("-"))
    for name, down in reversed(seen.items()):
        if name == "id":
            numbers.sort(reverse=down)
            continue

        def value(number: int, name: str = name) -> Any:
            found = rows[number][name]
            return words.index(found) if name == "priority" else found

        some = [n for n in numbers if value(n) is not None]
        some.sort(key=value, reverse=down)
        numbers = some + [n for n in numbers if value(n) is None]
    return numbers
