"""The fast path gives what Peewee gives, and writes each statement once."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.test_utils import assert_query_count

from hopper_data import (
    DatabaseError,
    IntegrityError,
    Page,
    Repository,
    Session,
    Task,
    TaskRepository,
    ValidationError,
    fastpath,
)
from hopper_data.chat import (
    ConversationRepository,
    MCPConfigRepository,
    MessageRepository,
    UserRepository,
)
from hopper_data.database import Database
from hopper_data.fields import TextField
from hopper_data.model import BaseModel
from hopper_data.routing import (
    ExternalMappingRepository,
    HopperInstanceRepository,
    ProjectRepository,
    RoutingDecisionRepository,
    TaskFeedbackRepository,
)
from hopper_data.seeding import load_fixture
from hopper_data.session import open_session
from tests.cases import each
from tests.planning_data import Plan

pytestmark = pytest.mark.fast_path
MARCH = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Everything:
    """Repositories of all domains, with rows for each."""

    def __init__(self, session: Session) -> None:
        self.projects = fill(ProjectRepository(session), "projects")
        self.instances = fill(HopperInstanceRepository(session), "hopper_instances")
        self.tasks = fill(TaskRepository(session), "tasks")
        self.decisions = fill(RoutingDecisionRepository(session), "routing_decisions")
        self.feedback = fill(TaskFeedbackRepository(session), "task_feedback")
        self.mappings = fill(ExternalMappingRepository(session), "external_mappings")
        self.plan = Plan(session)
        feature = self.plan.feature()
        self.plan.walk(self.plan.many(feature, 3, priority=2)[0], "in_progress")
        self.users, self.configs = UserRepository(session), MCPConfigRepository(session)
        self.conversations = ConversationRepository(session)
        self.messages = MessageRepository(session)
        self.users.bulk_create(
            {"id": KEYS[n], "email": f"{n}@example.com", "subject_id": f"auth0|{n}"}
            for n in range(3)
        )
        for number in range(4):
            self.conversations.create(id=KEYS[number], user_id=KEYS[number % 2], title="a")
        for number in range(5):
            self.messages.append(KEYS[number % 2], "user", f"text {number}")
        self.configs.create(id=KEYS[0], user_id=KEYS[0], name="files", config={"a": [1]})
        self.configs.create(id=KEYS[1], user_id=KEYS[0], name="web", config={}, enabled=False)

    def repositories(self) -> Iterator[Repository[Any]]:
        for value in (*vars(self).values(), *vars(self.plan).values()):
            if isinstance(value, Repository):
                yield value


KEYS = [UUID(int=number + 1) for number in range(9)]


def fill(repository: Any, name: str) -> Any:
    repository.bulk_create(load_fixture(name))
    return repository


def seen(value: Any) -> Any:
    """All that there is to see of an answer, types included."""
    if isinstance(value, Page):
        return (seen(value.items), value.next)
    if isinstance(value, list | tuple):
        return [seen(item) for item in value]
    if isinstance(value, BaseModel):
        data = [(name, type(item), item) for name, item in sorted(value.__data__.items())]
        rest = (value._dirty, value.__rel__, sorted(value.__dict__), value.to_dict())
        return (type(value), data, rest, getattr(value, "_computed", None))
    return (type(value), value)


def answer(read: Callable[[], Any]) -> Any:
    """What a question gives, be it an error."""
    try:
        found = read()
        return seen(list(found) if isinstance(found, Iterator) else found)
    except DatabaseError as error:
        return (type(error), str(error), vars(error))


READS: dict[str, Callable[[Everything], Any]] = {
    "get": lambda it: it.tasks.get(it.tasks.get_all()[0].id),
    "get, missing": lambda it: it.tasks.get("no such task"),
    "get, no text": lambda it: it.tasks.get(7),
    "get, a NUL": lambda it: it.tasks.get("a\0b"),
    "get, two keys": lambda it: it.mappings.get(it.mappings.get_all()[0]._pk),
    "get, one of two keys": lambda it: it.mappings.get("task-1"),
    "get, a reference as key": lambda it: it.decisions.get(it.decisions.get_all()[0].task_id),
    "get_or_raise": lambda it: it.projects.get_or_raise("nowhere"),
    "exists": lambda it: [it.projects.exists("nowhere"), it.projects.exists("hopper")],
    "all": lambda it: it.tasks.get_all(),
    "all, bounded": lambda it: it.tasks.get_all(2, 3, "-priority,created_at"),
    "all, skipped": lambda it: it.tasks.get_all(skip=4),
    "all, none": lambda it: it.tasks.get_all(limit=0),
    "all, limit below": lambda it: it.tasks.get_all(limit=-1),
    "all, skip no number": lambda it: it.tasks.get_all(skip="1"),
    "all, order unknown": lambda it: it.tasks.get_all(order_by="-prioritty"),
    "all, order no text": lambda it: it.tasks.get_all(order_by={"id": 1}),
    "all, orders": lambda it: it.tasks.get_all(order_by=["-project", "title"]),
    "count": lambda it: it.tasks.count(),
    "count, some": lambda it: it.tasks.count({"status__in": ["pending", "claimed"]}),
    "iterate": lambda it: it.tasks.iterate({"priority": "high"}, "-created_at"),
    "page": lambda it: it.tasks.page(limit=2),
    "pages": lambda it: pages(it.tasks, {}, None),
    "pages, newest": lambda it: pages(it.tasks, {"status": "pending"}, "-created_at"),
    "pages, ranked": lambda it: pages(it.tasks, {}, "-priority,created_at"),
    "pages, nullable": lambda it: pages(it.tasks, {}, "project,-owner"),
    "pages, down": lambda it: pages(it.tasks, {}, "-created_at,-id"),
    "page, no cursor": lambda it: it.tasks.page(after="%"),
    "page, wrong filter first": lambda it: it.tasks.page({"titel": 1}, after="%"),
    "pending": lambda it: it.tasks.get_pending_tasks(limit=3),
    "ready": lambda it: it.tasks.get_ready_tasks(limit=3),
    "tag": lambda it: it.tasks.get_tasks_by_tag("api", limit=3),
    "tags": lambda it: it.tasks.get_tasks_by_tag(["api", "db"], match="any"),
    "search": lambda it: it.tasks.search_tasks("api or queue", filters={"status": "pending"}),
    "blocking": lambda it: [it.tasks.get_blocking_tasks(t.id) for t in it.tasks.get_all()],
    "dependent": lambda it: [it.tasks.get_dependent_tasks(t.id) for t in it.tasks.get_all()],
    "projects": lambda it: it.projects.get_all(),
    "active projects": lambda it: it.projects.get_projects_with_active_tasks(),
    "instances": lambda it: it.instances.get_all(),
    "hierarchy": lambda it: [
        it.instances.get_instance_hierarchy(row.id) for row in it.instances.get_root_instances()
    ],
    "statistics": lambda it: it.projects.get_project_statistics("hopper"),
    "analytics": lambda it: it.decisions.get_decision_analytics(),
    "decisions": lambda it: it.decisions.get_all(),
    "feedback": lambda it: it.feedback.get_all(),
    "mappings": lambda it: it.mappings.get_all(),
    "events": lambda it: it.tasks.get_recent_events(),
    "claims": lambda it: [type(task) for task in it.tasks.claim_next("w", limit=2)],
    "plan": lambda it: [it.plan.epics.get_all(), it.plan.features.get_all()],
    "plan, tasks": lambda it: it.plan.tasks.list_by_epic("E04"),
    "plan, history": lambda it: it.plan.history.list_recent(),
    "users": lambda it: it.users.get_all(),
    "user": lambda it: [it.users.get(KEYS[1]), it.users.get(str(KEYS[1])), it.users.get("no key")],
    "user, missing": lambda it: it.users.get_or_raise(KEYS[8]),
    "user by email": lambda it: it.users.get_by_email("1@EXAMPLE.com"),
    "user by subject": lambda it: it.users.get_by_subject_id("auth0|2"),
    "conversations": lambda it: [it.conversations.list_for_user(key) for key in KEYS[:3]],
    "conversations, some": lambda it: it.conversations.filter({"user_id": KEYS[0]}, 1, 1),
    "messages": lambda it: it.messages.get_all(),
    "history": lambda it: it.messages.history(KEYS[0], 2),
    "history, before": lambda it: it.messages.history(
        KEYS[0], 2, it.messages.history(KEYS[0], 2).next
    ),
    "history, no cursor": lambda it: it.messages.history(KEYS[0], 2, "%"),
    "configs": lambda it: [it.configs.get_all(), it.configs.list_enabled(KEYS[0])],
    "configs, encrypted or not": lambda it: pages(it.configs, {}, "name"),
}
FILTERS: list[dict[Any, Any]] = [
    {"status": "pending"},
    {"status": "PENDING"},
    {"status": None},
    {"status__ne": "pending", "owner": None},
    {"owner__ne": None},
    {"owner__is_null": True},
    {"owner__lt": None},
    {"priority__gte": "high"},
    {"priority__in": ["high", "urgent"]},
    {"priority__in": ("high",)},
    {"priority__in": []},
    {"owner__in": ["ada", None]},
    {"title__in": [f"title {number}" for number in range(600)]},
    {"title__in": (name for name in ("a", "b"))},
    {"title__in": "text"},
    {"created_at__gte": MARCH, "created_at__lt": MARCH + timedelta(days=300)},
    {"created_at__gte": MARCH.astimezone(timezone(timedelta(hours=2)))},
    {"created_at__gte": "2026-03-01T00:00:00Z"},
    {"created_at__gte": datetime(2026, 3, 1)},  # noqa: DTZ001
    {"created_at__between": (MARCH, MARCH + timedelta(days=300))},
    {"routing_confidence__gt": 0.5},
    {"routing_confidence": float("nan")},
    {"attempts": 2**40},
    {"attempts": True},
    {"tags": ["api"]},
    {"tags__contains": ["api"]},
    {"title__contains": "a"},
    {"title": "lone \ud800"},
    {"title__startswith": 5},
    {"titel": "a"},
    {"title__near": "a"},
    {"title": "a", "titel": "b"},
    {"titel": "b", "title": 5},
    {5: 6},
]


def pages(repository: Repository[Any], filters: dict[str, Any], order: str | None) -> list[Any]:
    found = [repository.page(filters, 2, order_by=order)]
    while found[-1].next:
        found.append(repository.page(filters, 2, found[-1].next, order))
    return found


def compare(session: Session, read: Callable[[], Any]) -> None:
    """The answers by Peewee, the first time, and from then on are one."""
    with fastpath.disabled():
        expected = undone(session, read)
    assert undone(session, read) == expected
    assert undone(session, read) == expected


def undone(session: Session, read: Callable[[], Any]) -> Any:
    with session.database.atomic() as scope:
        found = answer(read)
        scope.rollback()
    return found


def test_a_repository_answers_as_peewee_does(session: Session) -> None:
    everything = Everything(session)
    for name, read in READS.items():
        try:
            compare(session, lambda read=read: read(everything))  # type: ignore[misc]
        except BaseException as error:
            error.add_note(f"in the case {name!r}")
            raise


def test_a_repository_writes_as_peewee_does(session: Session) -> None:
    it = Everything(session)

    def outcome(write: Callable[[Everything], Any]) -> Any:
        found = answer(lambda: write(it))
        stored = (it.tasks, it.mappings, it.instances, it.projects, it.plan.epics)
        stored += (it.users, it.conversations, it.configs, it.messages)
        return found, [answer(repository.get_all) for repository in stored]

    for name, write in WRITES.items():
        try:
            compare(session, lambda write=write: outcome(write))  # type: ignore[misc]
        except BaseException as error:
            error.add_note(f"in the case {name!r}")
            raise


def test_all_repositories_are_asked(session: Session) -> None:
    def below(kind: type[Any]) -> set[type[Any]]:
        return {kind}.union(*map(below, kind.__subclasses__()))

    ours = {
        kind
        for kind in below(Repository)
        if kind.__module__.startswith("hopper_data.")
        and hasattr(kind, "model")
        and not kind.__name__.startswith("_")
    }
    asked = {kind for it in Everything(session).repositories() for kind in type(it).__mro__}
    assert {kind.__name__ for kind in ours - asked} == set()


@each("filters", FILTERS)
def test_filters_choose_as_peewee_does(session: Session, filters: dict[Any, Any]) -> None:
    tasks = fill(TaskRepository(session), "tasks")
    again = dict(filters)
    if any(isinstance(value, Iterator) for value in filters.values()):
        again = {key: list(value) for key, value in filters.items()}
    compare(session, lambda: tasks.filter(again))
    compare(session, lambda: tasks.count(again))
    compare(session, lambda: tasks.page(again, 1))


NOW = {"created_at": MARCH, "updated_at": MARCH}
TEXT = "a\tb\nc\rd\\N\\.\\ \x01\x7f '\" \ufeff\u2028 \U0001f600"
WRITES: dict[str, Callable[[Everything], Any]] = {
    "user": lambda it: it.users.create(id=KEYS[8], email="E@x.example", subject_id="s", **NOW),
    "user, taken": lambda it: it.users.create(id=KEYS[8], email="1@example.com", subject_id="s"),
    "user, no address": lambda it: it.users.create(id=KEYS[8], email="1", subject_id="s"),
    "user, claims": lambda it: it.users.get_or_create_from_claims("auth0|1", "1@example.com").id,
    "user, gone": lambda it: it.users.delete(KEYS[0]),
    "conversation": lambda it: it.conversations.create(id=KEYS[8], user_id=KEYS[2], **NOW),
    "conversation, nobody's": lambda it: it.conversations.create(id=KEYS[8], user_id=KEYS[7]),
    "message": lambda it: it.messages.create(
        id=KEYS[8], conversation_id=KEYS[2], role="tool", tool_results=[{"a": 1}], created_at=MARCH
    ),
    "message, no role": lambda it: it.messages.append(KEYS[2], "wrong", "a"),
    "message, no conversation": lambda it: it.messages.append(KEYS[8], "user", "a"),
    "config": lambda it: it.configs.create(
        id=KEYS[8], user_id=KEYS[1], name="n", config={"b": [None]}, **NOW
    ),
    "config, taken": lambda it: it.configs.create(user_id=KEYS[0], name="web", config={}),
    "config, upsert": lambda it: it.configs.upsert(
        KEYS[0], "web", {"c": 1}, updated_at=MARCH.replace(year=2200)
    ),
    "config, disabled": lambda it: it.configs.update(
        KEYS[0], enabled=False, updated_at=MARCH.replace(year=2200)
    ),
    "create": lambda it: it.tasks.create(id="new", title="a", priority="high", tags=["b"], **NOW),
    "create, defaults": lambda it: it.tasks.create(
        id="new", title="a", tags=None, status=None, **NOW
    ),
    "create, missing": lambda it: it.tasks.create(id="new"),
    "create, unknown": lambda it: it.tasks.create(id="new", titel="a"),
    "create, too long": lambda it: it.tasks.create(id="new", title="a" * 501),
    "create, wrong": lambda it: it.tasks.create(id="new", title="a", status="wrong"),
    "create, key taken": lambda it: it.tasks.create(id=it.tasks.get_all()[0].id, title="a"),
    "create, circle": lambda it: it.tasks.create(id="new", title="a", depends_on=["new"]),
    "create, no parent": lambda it: it.instances.create(
        id="new", name="n", scope="GLOBAL", parent="none", **NOW
    ),
    "create, two keys": lambda it: it.mappings.create(
        task_id=it.tasks.get_all()[0].id, platform="p", external_id="1"
    ),
    "create, no task": lambda it: it.mappings.create(task_id="no", platform="p", external_id="1"),
    "create, numbered": lambda it: it.plan.epics.delete(
        it.plan.epics.create(key="E77", title="a").id  # another number each time
    ),
    "create, given number": lambda it: it.plan.epics.create(id=777, key="E77", title="a", **NOW),
    "update": lambda it: it.tasks.update(it.tasks.get_all()[0].id, title="b", updated_at=MARCH),
    "update, nothing": lambda it: it.tasks.update(it.tasks.get_all()[0].id),
    "update, missing": lambda it: it.tasks.update("none", title="b"),
    "update, document": lambda it: it.tasks.update(
        it.tasks.get_all()[0].id, feedback={"a": [1]}, tags=None, updated_at=MARCH
    ),
    "update, transition": lambda it: [
        it.tasks.update(task.id, status="completed", updated_at=MARCH)
        for task in it.tasks.get_all(order_by="id")
    ],
    "update, key": lambda it: it.tasks.update(it.tasks.get_all()[0].id, id="b"),
    "update, empty": lambda it: it.tasks.update(it.tasks.get_all()[0].id, title=None),
    "update, two keys": lambda it: it.mappings.update(
        it.mappings.get_all()[0]._pk, external_url="u"
    ),
    "delete": lambda it: [it.tasks.delete(it.tasks.get_all()[0].id), it.tasks.delete("none")],
    "delete, two keys": lambda it: it.mappings.delete(it.mappings.get_all()[0]._pk),
    "upsert": lambda it: it.projects.upsert(name="hopper", slug="other", created_at=MARCH),
    "bulk create": lambda it: it.tasks.bulk_create(
        {"id": f"n{number}", "title": "a", **NOW} for number in range(3)
    ),
    "bulk create, taken": lambda it: it.tasks.bulk_create(
        {"id": f"n{number % 2}", "title": "a"} for number in range(3)
    ),
    "bulk create, many": lambda it: it.tasks.bulk_create(
        {"id": f"n{number}", "title": f"{number}{TEXT}", "context": TEXT, "tags": [TEXT], **NOW}
        for number in range(60)
    ),
    "bulk create, one of many taken": lambda it: it.tasks.bulk_create(
        {"id": f"n{number % 59}", "title": "a"} for number in range(60)
    ),
    "bulk create, many without a parent": lambda it: it.mappings.bulk_create(
        {"task_id": "no", "platform": f"p{number}", "external_id": "1"} for number in range(60)
    ),
    "bulk update": lambda it: it.tasks.bulk_update(
        {"id": task.id, "owner": "o", "updated_at": MARCH} for task in it.tasks.get_all()
    ),
    "bulk delete": lambda it: it.tasks.bulk_delete([task.id for task in it.tasks.get_all()][:2]),
    "plan, refused": lambda it: it.plan.epics.update(1, key="F1"),
}

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
MOMENTS = st.datetimes(timezones=st.timezones() | st.just(UTC)).filter(
    lambda moment: 2 < moment.year < 9998
)
ROWS = st.fixed_dictionaries(
    {"title": TEXTS},
    optional={
        "description": st.none() | TEXTS,
        "priority": st.sampled_from(["low", "urgent"]),
        "tags": st.none() | st.lists(TEXTS.filter(bool), max_size=3),
        "feedback": DOCUMENTS,
        "routing_confidence": st.none() | st.floats(0, 1) | st.integers(0, 1),
        "created_at": MOMENTS,
        "run_after": st.none() | MOMENTS,
        "attempts": st.integers(0, 9),
    },
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(ROWS, max_size=3))
def test_any_rows_are_read_as_peewee_reads_them(session: Session, rows: list[Any]) -> None:
    with session.database.atomic() as scope:
        tasks = TaskRepository(session)
        tasks.bulk_create(rows)
        compare(session, tasks.get_all)
        for row in rows:
            compare(session, lambda row=row: tasks.filter({"title": row["title"]}))  # type: ignore[misc]
        scope.rollback()


def test_what_other_programs_have_written_is_read_as_peewee_reads_it(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="a", title="t", feedback={"a": [1, 2.5]})
    changes = ["feedback = ' [1] '", "created_at = '2026-01-01 12:00:00+02:00'"]
    if session.database.dialect == "sqlite":
        changes += ["created_at = '2026-01-01T12:00:00'", "routing_confidence = 1"]
    for change in changes:
        session.execute(f"UPDATE tasks SET {change} WHERE id = 'a'")
        compare(session, lambda: tasks.get("a"))


def test_a_model_can_be_edited_and_saved(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="a", title="old", tags=["x"])
    task = tasks.get_or_raise("a")
    task.title = "new"
    task.tags.append("y")
    assert task.save() == 1
    found = tasks.get_or_raise("a")
    assert (found.title, found.tags) == ("new", ["x", "y"])


def test_a_statement_is_written_once(session: Session) -> None:
    tasks = TaskRepository(session)
    statements = TaskRepository._statements

    def ask(number: int) -> None:
        tasks.get(f"task-{number}")
        tasks.exists(f"task-{number}")
        tasks.get_tasks_by_status("pending" if number % 2 else "completed", number, number + 1)
        tasks.filter({"created_at__lt": MARCH, "owner": f"{number}"}, limit=number + 1)
        tasks.count({"owner": f"{number}"})
        tasks.get_ready_tasks(limit=number + 1)
        tasks.get_tasks_by_tag(f"tag {number}", limit=5)

    tasks.get_tasks_by_status("pending", 1, 1)
    ask(1)
    before = statements.compiled
    for number in range(1, 9, 2):
        ask(number)
    assert statements.compiled == before


def test_the_texts_that_are_kept_do_not_grow_without_end(session: Session) -> None:
    tasks = TaskRepository(session)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hopper_data.fastpath.statements._MOST", 20)
        names = [name for name in Task._meta.fields if name not in ("tags", "feedback")]
        for first, second in itertools.combinations(names[:10], 2):
            tasks.count({first: None, f"{second}__ne": None})
            assert len(TaskRepository._statements) <= 20


def test_statements_are_seen_by_those_who_watch(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.get("a")
    with assert_query_count(2):
        tasks.get("a")
        tasks.get_all(limit=1)


def test_a_slow_query_is_logged(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.get("a")
        object.__setattr__(database.config, "slow_query_ms", 0)
        tasks.get("a")
    assert "slow query" in caplog.text
    assert "tasks" in caplog.text


def test_a_query_that_fails_says_why(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.get("a")
    missing = pytest.raises(DatabaseError, match="run `hopper-data migrate` first")
    with missing, open_session(database) as session:
        session.execute("ALTER TABLE tasks RENAME TO gone")
        TaskRepository(session).get("a")
    with pytest.raises(DatabaseError, match="has ended"):
        tasks.get("a")


def test_a_read_that_fails_takes_nothing_back(database: Database) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.create(id="a", title="kept")
        for _ in range(2):
            tasks.get("a")
        session.execute("SAVEPOINT before")
        session.execute("ALTER TABLE tasks RENAME TO gone")
        for _ in range(2):
            with pytest.raises(DatabaseError, match="run `hopper-data migrate` first"):
                tasks.get("a")
        session.execute("ROLLBACK TO before")
        tasks.get("a")
        tasks.create(id="b", title="kept, too")
        with pytest.raises(IntegrityError):
            tasks.create(id="b", title="refused")
        assert tasks.exists("b")
        with pytest.raises(DatabaseError):
            database.fetch_all("SELECT * FROM nowhere")
        assert [task.id for task in tasks.get_all()] == ["a", "b"]
    with open_session(database) as session:
        assert TaskRepository(session).count() == 2


def test_garbage_is_collected_again_after_a_long_list() -> None:
    assert gc.isenabled()
    with fastpath.without_collection():
        assert not gc.isenabled()
        with fastpath.without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="unpack"):
        fastpath.build_models(Task, [("a", "b")])


def test_a_wrong_word_is_refused_as_peewee_refuses_it() -> None:
    width = len(Task._meta.sorted_fields)
    with pytest.raises(ValueError, match="not a valid TaskStatus"):
        fastpath.build_models(Task, [("wrong",) * width])


def test_a_refused_value_names_the_field(session: Session) -> None:
    with pytest.raises(ValidationError, match="Task title"):
        TaskRepository(session).filter({"title": 5})


def test_a_field_that_makes_something_of_nothing_is_asked() -> None:
    class Words(TextField[Any]):
        def python_value(self, value: Any) -> Any:
            return (value or "nothing").split()

    class Line(BaseModel):
        id = TextField(primary_key=True)
        words = Words(null=True)
        rest = TextField(null=True)

    rows = [("a", None, None), ("b", "x y", "z")]
    lines = fastpath.build_models(Line, rows)
    assert [line.words for line in lines] == [["nothing"], ["x", "y"]]
    assert [line.rest for line in lines] == [None, "z"]
    assert all([*line.__data__] == ["id", "words", "rest"] for line in lines)
