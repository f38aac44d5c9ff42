"""Errors: the tree, what each carries, and that both backends say the same."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import peewee
import pytest

import hopper_data
from hopper_data import (
    DatabaseError,
    DatabaseNotFound,
    DatabaseUnavailable,
    ExternalMappingRepository,
    HopperInstanceRepository,
    IntegrityError,
    InvalidTransition,
    LeaseLost,
    NotFound,
    PoolTimeout,
    ProjectRepository,
    RoutingDecisionRepository,
    SchemaVersionMismatch,
    Session,
    TaskFeedbackRepository,
    TaskRepository,
    ValidationError,
    create_database,
)
from hopper_data.database import Database
from hopper_data.session import open_session

TREE = {
    DatabaseUnavailable: DatabaseError,
    PoolTimeout: DatabaseUnavailable,
    DatabaseNotFound: DatabaseError,
    SchemaVersionMismatch: DatabaseError,
    IntegrityError: DatabaseError,
    ValidationError: DatabaseError,
    InvalidTransition: ValidationError,
    NotFound: DatabaseError,
    LeaseLost: DatabaseError,
}


def test_the_tree_is_the_contracts() -> None:
    assert DatabaseError.__base__ is Exception
    for error, base in TREE.items():
        assert error.__base__ is base
    exported = {
        item
        for item in vars(hopper_data).values()
        if inspect.isclass(item) and issubclass(item, BaseException)
    }
    # The last one is no error: it is what a worker's handler says.
    assert exported - {DatabaseError, *TREE} <= {hopper_data.GiveBack}


def test_errors_carry_data() -> None:
    assert IntegrityError("m", "c").constraint == "c"
    assert IntegrityError("m").constraint is None
    assert ValidationError("m", "f").field == "f"
    assert ValidationError("m").field is None
    mismatch = SchemaVersionMismatch("009_new", "001_routing")
    assert (mismatch.current, mismatch.expected) == ("009_new", "001_routing")
    assert "009_new" in str(mismatch)
    assert "001_routing" in str(mismatch)
    wrong = InvalidTransition("a", "b", ["c", "d"])
    assert (wrong.old, wrong.new, wrong.field) == ("a", "b", "status")
    assert "c, d" in str(wrong)


def test_only_what_may_pass_by_itself_is_worth_another_try() -> None:
    assert DatabaseUnavailable("m").retryable
    assert DatabaseError("m", retryable=True).retryable
    for error in (
        DatabaseError("m"),
        PoolTimeout("m"),
        IntegrityError("m"),
        ValidationError("m"),
        NotFound("m"),
        DatabaseNotFound("m"),
    ):
        assert not error.retryable


def test_errors_survive_the_way_between_processes() -> None:
    for error in (
        IntegrityError("m", "c"),
        ValidationError("m", "f"),
        DatabaseUnavailable("m", retryable=False),
        InvalidTransition("a", "b", ["c"]),
        SchemaVersionMismatch("9", "1"),
        NotFound("m"),
    ):
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is type(error)
        assert str(found) == str(error)
        assert vars(found) == vars(error)


# -- the same on both backends ---------------------------------------------------------------------


def fill(session: Session) -> None:
    TaskRepository(session).bulk_create(
        [{"id": "t", "title": "t"}, {"id": "u", "title": "u", "status": "completed"}]
    )
    ProjectRepository(session).bulk_create(
        [{"name": "p", "slug": "ps"}, {"name": "q", "slug": "qs"}]
    )
    instances = HopperInstanceRepository(session)
    instances.create(id="top", name="top", scope="GLOBAL")
    instances.bulk_create(
        {"id": f"low{n}", "name": "low", "scope": "PROJECT", "parent_id": "top"} for n in range(3)
    )
    ExternalMappingRepository(session).create(task_id="t", platform="github", external_id="1")
    RoutingDecisionRepository(session).create(task_id="t", project="p")


def task(s: Session) -> TaskRepository:
    return TaskRepository(s)


def project(s: Session) -> ProjectRepository:
    return ProjectRepository(s)


CALLS: dict[str, Callable[[Session], Any]] = {
    "taken key": lambda s: task(s).create(id="t", title="x"),
    "taken key with a quote": lambda s: [task(s).create(id="a'b", title="x") for _ in "12"],
    "taken slug": lambda s: project(s).create(name="r", slug="ps"),
    "taken key and slug": lambda s: project(s).create(name="p", slug="qs"),
    "taken slug by update": lambda s: project(s).update("p", slug="qs"),
    "taken slug by bulk update": lambda s: project(s).bulk_update(
        [{"name": "q", "slug": "free"}, {"name": "p", "slug": "free"}]
    ),
    "taken slug by upsert": lambda s: project(s).upsert(name="p", slug="qs"),
    "taken slug by new upsert": lambda s: project(s).upsert(name="new", slug="qs"),
    "taken in bulk": lambda s: task(s).bulk_create(
        {"id": key, "title": "x"} for key in ("n1", "u", "t", "n2")
    ),
    "twice in bulk": lambda s: task(s).bulk_create(
        {"id": key, "title": "x"} for key in ("n1", "n2", "n3", "n2", "n1")
    ),
    "twice and taken in bulk": lambda s: project(s).bulk_create(
        {"name": f"n{n}", "slug": slug} for n, slug in enumerate(("a", "b", "a", "ps"))
    ),
    "twice among thousands": lambda s: task(s).bulk_create(
        {"id": f"n{n % 4000}", "title": "x"} for n in range(4500)
    ),
    "taken composite key": lambda s: ExternalMappingRepository(s).create(
        task_id="t", platform="github", external_id="2"
    ),
    "taken composite key in bulk": lambda s: ExternalMappingRepository(s).bulk_create(
        {"task_id": "u", "platform": p, "external_id": "1"} for p in ("a, b", "c", "a, b")
    ),
    "taken reference": lambda s: RoutingDecisionRepository(s).create(task_id="t"),
    "missing parent": lambda s: RoutingDecisionRepository(s).create(task_id="ghost"),
    "missing project": lambda s: RoutingDecisionRepository(s).create(task_id="u", project="none"),
    "missing project by update": lambda s: RoutingDecisionRepository(s).update("t", project="no"),
    "missing parent in bulk": lambda s: TaskFeedbackRepository(s).bulk_create(
        {"task_id": key} for key in ("t", "ghost", "u", "other")
    ),
    "missing parent of an instance": lambda s: HopperInstanceRepository(s).create(
        id="x", name="x", scope="PROJECT", parent_id="ghost"
    ),
    "rows below": lambda s: HopperInstanceRepository(s).delete("top"),
    "rows below in bulk": lambda s: HopperInstanceRepository(s).bulk_delete(["low0", "top"]),
    "unknown field": lambda s: task(s).create(titel="x"),
    "unknown field in update": lambda s: task(s).update("t", titel="x"),
    "unknown filter": lambda s: task(s).filter({"staus": "pending"}),
    "unknown lookup": lambda s: task(s).filter({"status__greater": "pending"}),
    "unknown order": lambda s: task(s).get_all(order_by="-creatd_at"),
    "negative limit": lambda s: task(s).get_all(limit=-1),
    "negative skip": lambda s: task(s).get_all(skip=-1),
    "missing field": lambda s: task(s).create(description="x"),
    "empty field": lambda s: task(s).update("t", title=None),
    "wrong word": lambda s: task(s).create(title="x", priority="urgnt"),
    "long text": lambda s: task(s).create(title="x" * 501),
    "NUL": lambda s: task(s).create(title="a\0"),
    "surrogate": lambda s: task(s).create(title="\ud800"),
    "naive time": lambda s: task(s).create(
        title="x", created_at=datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None)
    ),
    "transition": lambda s: task(s).update("u", status="failed"),
    "transition in bulk": lambda s: task(s).bulk_update(
        [{"id": "t", "status": "claimed"}, {"id": "u", "status": "failed"}]
    ),
    "transition by upsert": lambda s: task(s).upsert(id="u", title="u", status="failed"),
    "no such row": lambda s: task(s).get_or_raise("ghost"),
    "no such composite row": lambda s: ExternalMappingRepository(s).get_or_raise(("t", "x")),
    "wrong key": lambda s: ExternalMappingRepository(s).get("t"),
    "fixed key": lambda s: task(s).update("t", id="v"),
    "fixed moment": lambda s: task(s).update("t", created_at=datetime.now(UTC)),
    "repeated key": lambda s: task(s).bulk_update([{"id": "t", "title": "a"}] * 2),
    "foreign cursor": lambda s: task(s).page(after="xyz"),
    "late pattern": lambda s: task(s).filter({"title__contains": "x" * 60_000}),
    "wrong regexp": lambda s: task(s).filter({"title__regexp": "("}),
    "raw CHECK": lambda s: s.execute("UPDATE tasks SET status = 'x' WHERE id = 't'"),
    "raw naive time": lambda s: s.execute(
        "SELECT ?", (datetime(2026, 1, 1, tzinfo=UTC).replace(tzinfo=None),)
    ),
}


@pytest.fixture(scope="module")
def outcomes(both_databases: tuple[Database, Database]) -> dict[str, list[Any]]:
    """What each call ends with on SQLite and on PostgreSQL."""
    found: dict[str, list[Any]] = {name: [] for name in CALLS}
    for database in both_databases:
        with open_session(database) as session, database.atomic() as scope:
            fill(session)
            before = state(session)
            for name, call in CALLS.items():
                with pytest.raises(DatabaseError) as caught, database.atomic():
                    call(session)
                error = caught.value
                found[name].append((type(error), str(error), vars(error)))
                assert state(session) == before, f"{name} wrote something"
            scope.rollback()
    return found


def state(session: Session) -> list[Any]:
    tables = ("tasks", "projects", "hopper_instances", "external_mappings", "task_feedback")
    return [session.execute(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


@pytest.mark.parametrize("name", CALLS)
def test_both_backends_say_the_same(name: str, outcomes: dict[str, list[Any]]) -> None:
    on_sqlite, on_postgresql = outcomes[name]
    assert on_sqlite == on_postgresql or name.startswith("raw")
    assert on_sqlite[0] is on_postgresql[0]
    assert on_sqlite[2] == on_postgresql[2] or name.startswith("raw")


@pytest.mark.parametrize(
    ("name", "kind", "message", "data"),
    [
        ("taken key", IntegrityError, "Task id 't' is already taken", "tasks_pkey"),
        ("taken slug", IntegrityError, "Project slug 'ps' is already taken", "idx_projects_slug"),
        (
            "taken key and slug",
            IntegrityError,
            "Project name 'p' is already taken",
            "projects_pkey",
        ),
        ("taken in bulk", IntegrityError, "Task id 'u' is already taken", "tasks_pkey"),
        ("twice in bulk", IntegrityError, "Task id 'n2' is already taken", "tasks_pkey"),
        (
            "twice among thousands",
            IntegrityError,
            "Task id 'n0' is already taken",
            "tasks_pkey",
        ),
        (
            "twice and taken in bulk",
            IntegrityError,
            "Project slug 'a' is already taken",
            "idx_projects_slug",
        ),
        (
            "taken composite key in bulk",
            IntegrityError,
            "ExternalMapping task_id, platform ('u', 'a, b') is already taken",
            "external_mappings_pkey",
        ),
        (
            "missing parent",
            IntegrityError,
            "RoutingDecision task_id 'ghost' names a Task that does not exist",
            "fk_routing_decisions_task_id",
        ),
        (
            "missing parent in bulk",
            IntegrityError,
            "TaskFeedback task_id 'ghost' names a Task that does not exist",
            "fk_task_feedback_task_id",
        ),
        (
            "rows below",
            IntegrityError,
            (
                "3 HopperInstance rows refer to this HopperInstance by parent_id; "
                "delete or move them first"
            ),
            "fk_hopper_instances_parent_id",
        ),
        (
            "unknown filter",
            ValidationError,
            "Task has no field 'staus'; did you mean 'status'?",
            "staus",
        ),
        (
            "unknown lookup",
            ValidationError,
            "Task filter 'status__greater': there is no lookup 'greater'; did you mean 'gte'?",
            "status__greater",
        ),
        (
            "wrong word",
            ValidationError,
            "Task priority 'urgnt' is not one of low, medium, high, urgent",
            "priority",
        ),
        (
            "transition",
            InvalidTransition,
            (
                "Task status cannot go from 'completed' to 'failed'; "
                "from 'completed' it can go to pending"
            ),
            "status",
        ),
        ("no such row", NotFound, "Task 'ghost' does not exist", None),
        (
            "no such composite row",
            NotFound,
            "ExternalMapping ('t', 'x') does not exist",
            None,
        ),
        (
            "wrong key",
            ValidationError,
            "the key of ExternalMapping is the tuple (task_id, platform), not 't'",
            "id",
        ),
    ],
)
def test_a_message_is_in_the_callers_terms(
    name: str,
    kind: type[DatabaseError],
    message: str,
    data: str | None,
    outcomes: dict[str, list[Any]],
) -> None:
    for found, text, values in outcomes[name]:
        assert (found, text) == (kind, message)
        assert values.get("constraint", values.get("field")) == data


def test_a_drivers_exception_is_the_cause(session: Session) -> None:
    TaskRepository(session).create(id="t", title="t")
    for attempt in (
        lambda: TaskRepository(session).create(id="t", title="t"),
        lambda: TaskFeedbackRepository(session).create(task_id="ghost"),
        lambda: session.execute("INSERT INTO tasks (id, title) VALUES ('t', 'x')"),
        lambda: session.execute("SELECT * FROM no_such_table"),
        lambda: session.execute("SELEC 1"),
    ):
        with pytest.raises(DatabaseError) as caught:
            attempt()
        cause = caught.value.__cause__
        assert cause is not None
        assert not isinstance(cause, DatabaseError)
        assert isinstance(cause, peewee.PeeweeException) or type(cause).__module__.startswith(
            ("sqlite3", "psycopg2", "asyncpg")
        )


def test_a_table_that_is_missing_says_what_to_do(empty_database: Database) -> None:
    with open_session(empty_database) as session:
        for attempt in (
            lambda: TaskRepository(session).get("t"),
            lambda: TaskRepository(session).create(title="t"),
            lambda: session.execute("SELECT * FROM tasks"),
        ):
            with pytest.raises(DatabaseError, match="hopper-data migrate"):
                attempt()
        assert session.execute("SELECT 1") == [(1,)]


def test_a_file_that_must_exist_and_does_not(tmp_path: Any) -> None:
    for path, settings in (
        (tmp_path / "none.db", {"must_exist": True}),
        (tmp_path / "no" / "folder" / "x.db", {}),
    ):
        database = create_database(f"sqlite:///{path}", **settings)
        with pytest.raises(DatabaseNotFound, match="does not exist"), open_session(database):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_file(tmp_path: Any) -> None:
    tmp_path.chmod(0o755)
    database = create_database(f"sqlite:///{tmp_path}")
    with pytest.raises(DatabaseNotFound, match="is a folder"), open_session(database):
        pass
    assert tmp_path.stat().st_mode & 0o777 == 0o755


def test_a_file_that_is_no_database(tmp_path: Any) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("These are my notes. " * 100)
    database = create_database(f"sqlite:///{path}")
    with (
        pytest.raises(DatabaseError, match="not a sound SQLite database"),
        open_session(database) as session,
    ):
        session.execute("SELECT * FROM tasks")
    assert path.read_text() == "These are my notes. " * 100


def test_a_server_that_is_not_there() -> None:
    database = create_database("postgresql://ann:secret@127.0.0.1:1/hopper", connect_timeout_s=2)
    with pytest.raises(DatabaseUnavailable) as caught, open_session(database):
        pass
    assert caught.value.retryable
    assert "127.0.0.1:1/hopper" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is not None
    assert database.pool_status()["in_use"] == 0


def test_a_database_that_is_not_on_the_server(make_postgres: Callable[..., str]) -> None:
    url = make_postgres(migrated=False)
    missing = url.replace("/hopper_", "/no_hopper_")
    database = create_database(missing)
    with pytest.raises(DatabaseUnavailable, match="does not exist"), open_session(database):
        pass
