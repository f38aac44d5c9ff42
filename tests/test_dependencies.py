"""What tasks depend on: circles, readiness, what blocks and what waits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.test_utils import assert_query_count, count_queries

from hopper_data import (
    DatabaseError,
    HopperInstance,
    HopperInstanceRepository,
    Session,
    Task,
    TaskRepository,
    ValidationError,
    create_database,
)
from hopper_data.database import Database
from hopper_data.session import open_session

THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def ids(found: list[Task]) -> list[str]:
    return [task.id for task in found]


def row(key: str, *needs: str, **fields: Any) -> dict[str, Any]:
    return {"id": key, "title": key, "depends_on": list(needs), **fields}


# -- circles --------------------------------------------------------------------------------------


def test_a_task_cannot_depend_on_itself(tasks: TaskRepository) -> None:
    with pytest.raises(ValidationError, match="'a' depends on 'a'") as caught:
        tasks.create(**row("a", "a"))
    assert caught.value.field == "depends_on"
    assert tasks.count() == 0
    tasks.create(**row("a"))
    with pytest.raises(ValidationError, match="would close a circle: 'a' depends on 'a'"):
        tasks.update("a", depends_on=["b", "a"])
    assert tasks.get_or_raise("a").depends_on == []


def test_two_tasks_cannot_depend_on_each_other(tasks: TaskRepository) -> None:
    tasks.create(**row("a", "b"))
    with pytest.raises(ValidationError, match="circle"):
        tasks.create(**row("b", "a"))
    assert tasks.get("b") is None
    tasks.create(**row("b"))
    with pytest.raises(ValidationError, match="'b' depends on 'a'"):
        tasks.update("b", depends_on=["a"])
    assert tasks.get_or_raise("b").depends_on == []


def test_every_way_of_writing_is_watched(tasks: TaskRepository) -> None:
    tasks.bulk_create([row("a", "b"), row("b", "c"), row("c"), row("d")])
    with pytest.raises(ValidationError, match="circle"):
        tasks.update("c", depends_on=["a"])
    with pytest.raises(ValidationError, match="circle"):
        tasks.upsert(**row("c", "a"))
    with pytest.raises(ValidationError, match="circle"):
        tasks.bulk_update([{"id": "c", "depends_on": ["d"]}, {"id": "d", "depends_on": ["a"]}])
    with pytest.raises(ValidationError, match="circle"):
        tasks.bulk_create([row("e", "f"), row("f", "g"), row("g", "e")])
    task = tasks.get_or_raise("c")
    task.depends_on = ["a"]
    with pytest.raises(ValidationError, match="circle"):
        task.save()
    task = tasks.get_or_raise("c")
    task.depends_on.append("a")
    with pytest.raises(ValidationError, match="circle"):
        task.save()
    with pytest.raises(ValidationError, match="circle"):
        Task.create(**row("h", "h"))
    assert {task.id: task.depends_on for task in tasks.get_all()} == {
        "a": ["b"],
        "b": ["c"],
        "c": [],
        "d": [],
    }


def test_a_missing_task_may_close_a_circle_when_it_comes(tasks: TaskRepository) -> None:
    tasks.create(**row("a", "later"))
    tasks.create(**row("b", "a", "never"))
    with pytest.raises(ValidationError, match="circle"):
        tasks.create(**row("later", "b"))
    tasks.create(**row("later", "elsewhere"))
    assert tasks.get_or_raise("later").depends_on == ["elsewhere"]


def test_a_diamond_is_no_circle(tasks: TaskRepository) -> None:
    tasks.bulk_create([row("d", "b", "c"), row("b", "a"), row("c", "a", "a"), row("a")])
    tasks.update("d", depends_on=["a", "b", "c"])
    assert ids(tasks.get_dependent_tasks("a")) == ["d", "b", "c"]


def test_a_circle_may_be_opened_and_turned(tasks: TaskRepository) -> None:
    tasks.bulk_create([row("a", "b"), row("b")])
    assert tasks.bulk_update([{"id": "a", "depends_on": []}, {"id": "b", "depends_on": ["a"]}]) == 2
    assert tasks.get_or_raise("b").depends_on == ["a"]


def test_a_long_chain_is_written_at_once_and_cannot_be_closed(tasks: TaskRepository) -> None:
    rows = [row(f"{n:05}", f"{n + 1:05}") for n in range(4_999)]
    with count_queries() as counted:
        tasks.bulk_create([*rows, row("04999")])
    assert counted.count < 10
    with pytest.raises(ValidationError, match="circle"):
        tasks.update("04999", depends_on=["00000"])
    tasks.update("04999", depends_on=["05000"])
    assert ids(tasks.get_blocking_tasks("00000")) == ["00001"]


def test_a_write_without_dependencies_asks_nothing_more(tasks: TaskRepository) -> None:
    tasks.create(**row("a"))
    with assert_query_count(1):
        tasks.create(id="b", title="b")
    with assert_query_count(1):
        tasks.update("b", title="c")


def test_the_error_names_no_more_than_the_circle(tasks: TaskRepository) -> None:
    tasks.bulk_create([row("x", "y"), row("y", "a"), row("a", "b"), row("b")])
    with pytest.raises(ValidationError, match="circle") as caught:
        tasks.update("b", depends_on=["a"])
    assert "'x'" not in str(caught.value)
    assert "'y'" not in str(caught.value)


def _close_together(
    url: str, write: Callable[[Session, str, str], Any], first: str, second: str
) -> list[DatabaseError]:
    """Two transactions that each write a half of a circle, both open at the same time."""
    written = threading.Barrier(2, timeout=60)
    errors: list[DatabaseError] = []

    def half(one: str, other: str, leader: bool) -> None:
        database = create_database(url)
        try:
            if not leader:
                written.wait()
            with open_session(database) as session:
                write(session, one, other)
                if leader:
                    written.wait()
                    # Time for the other one to begin its write.
                    threading.Event().wait(0.2)
        except DatabaseError as error:
            errors.append(error)
        finally:
            database.close_pool()

    threads = [
        threading.Thread(target=half, args=(first, second, True)),
        threading.Thread(target=half, args=(second, first, False)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_two_transactions_do_not_close_a_circle_together(
    make_url: Callable[..., str], kind: str
) -> None:
    url = make_url(kind)
    database = create_database(url)
    with open_session(database) as session:
        TaskRepository(session).bulk_create([row("a"), row("b")])
        HopperInstanceRepository(session).bulk_create(
            {"id": key, "name": key, "scope": "PROJECT"} for key in "ab"
        )

    def depend(session: Session, one: str, other: str) -> None:
        TaskRepository(session).update(one, depends_on=[other])

    def stand(session: Session, one: str, other: str) -> None:
        HopperInstanceRepository(session).move_instance(one, other)

    for write in (depend, stand):
        (error,) = _close_together(url, write, "a", "b")
        assert isinstance(error, ValidationError), error
    with open_session(database) as session:
        assert ids(TaskRepository(session).get_dependent_tasks("b")) == ["a"]
        assert TaskRepository(session).get_dependent_tasks("a") == []
        assert HopperInstanceRepository(session).get_or_raise("b").parent_id is None
    database.close_pool()


def test_instances_do_not_stand_under_themselves(session: Session) -> None:
    instances = HopperInstanceRepository(session)
    instances.bulk_create(
        {"id": key, "name": key, "scope": "PROJECT", "parent_id": parent}
        for key, parent in (("a", None), ("b", "a"), ("c", "b"))
    )
    instance = instances.get_or_raise("a")
    instance.parent_id = "c"
    for write in (
        lambda: instances.move_instance("a", "c"),
        lambda: instances.move_instance("a", "a"),
        lambda: instances.update("a", parent_id="b"),
        lambda: instances.update("a", parent="b"),
        lambda: instances.upsert(id="a", name="a", scope="PROJECT", parent_id="c"),
        lambda: instances.bulk_update([{"id": "a", "parent_id": "c"}]),
        lambda: instances.create(id="d", name="d", scope="PROJECT", parent_id="d"),
        lambda: instances.bulk_create(
            [
                {"id": "d", "name": "d", "scope": "PROJECT", "parent_id": "e"},
                {"id": "e", "name": "e", "scope": "PROJECT", "parent_id": "d"},
            ]
        ),
        instance.save,
        lambda: HopperInstance.create(id="d", name="d", scope="PROJECT", parent="d"),
    ):
        with pytest.raises(ValidationError, match=r"would close a circle: .* stands under"):
            write()
    assert [one.parent_id for one in instances.get_all()] == [None, "a", "b"]


# -- readiness ------------------------------------------------------------------------------------


def test_a_task_is_ready_when_all_it_depends_on_is_completed(tasks: TaskRepository) -> None:
    states = ("pending", "claimed", "in_progress", "blocked", "completed", "failed", "cancelled")
    tasks.bulk_create(row(state, status=state) for state in states)
    tasks.bulk_create(row(f"needs {state}", state) for state in states)
    tasks.create(**row("needs two", "completed", "failed"))
    tasks.create(**row("needs done", "completed", "completed"))
    tasks.create(**row("needs none"))
    tasks.create(id="needs null", title="x", depends_on=None)
    tasks.create(**row("needs missing", "completed", "missing"))
    tasks.create(**row("not pending", "completed", status="blocked"))
    with assert_query_count(1):
        ready = tasks.get_ready_tasks()
    assert set(ids(ready)) == {
        "pending",
        "needs completed",
        "needs done",
        "needs none",
        "needs null",
    }
    tasks.create(id="missing", title="x", status="completed")
    assert "needs missing" in ids(tasks.get_ready_tasks())


def test_readiness_follows_the_states(tasks: TaskRepository) -> None:
    tasks.bulk_create([row("a"), row("b", "a"), row("c", "b")])
    assert ids(tasks.get_ready_tasks()) == ["a"]
    tasks.update_status("a", "completed")
    assert ids(tasks.get_ready_tasks()) == ["b"]
    tasks.update_status("a", "pending")
    assert ids(tasks.get_ready_tasks()) == ["a"]
    tasks.delete("a")
    assert tasks.get_ready_tasks() == []


def test_what_blocks_a_task_and_what_waits_for_it(tasks: TaskRepository) -> None:
    rows = [
        row("low", priority="low"),
        row("old", priority="high"),
        row("new", priority="high"),
        row("done", status="completed"),
        row("off", status="cancelled", priority="urgent"),
        row("task", "low", "new", "old", "done", "off", "missing"),
        row("other", "low"),
    ]
    tasks.bulk_create(
        {**values, "created_at": THEN + timedelta(hours=number)}
        for number, values in enumerate(rows)
    )
    with assert_query_count(1):
        assert ids(tasks.get_blocking_tasks("task")) == ["off", "old", "new", "low"]
    assert ids(tasks.get_blocking_tasks("task", limit=1)) == ["off"]
    assert ids(tasks.get_blocking_tasks("task", skip=3)) == ["low"]
    assert tasks.get_blocking_tasks("task", limit=0) == []
    with assert_query_count(1):
        assert ids(tasks.get_dependent_tasks("low")) == ["task", "other"]
    assert ids(tasks.get_dependent_tasks("missing")) == ["task"]
    assert ids(tasks.get_dependent_tasks("low", limit=1)) == ["task"]
    assert tasks.get_blocking_tasks("low") == []
    assert tasks.get_dependent_tasks("task") == []


def test_dependents_follow_every_write(tasks: TaskRepository) -> None:
    tasks.bulk_create([row("a"), row("b", "a"), row("c", "a")])
    tasks.update("b", depends_on=["c"])
    assert ids(tasks.get_dependent_tasks("a")) == ["c"]
    assert ids(tasks.get_dependent_tasks("c")) == ["b"]
    tasks.bulk_update([{"id": "c", "depends_on": None}, {"id": "b", "depends_on": ["a", "c"]}])
    assert ids(tasks.get_dependent_tasks("a")) == ["b"]
    tasks.delete("b")
    assert tasks.get_dependent_tasks("a") == []


@pytest.mark.parametrize(
    "text", ['{"a": "b"}', '"b"', "5", "null", "true", '[1, null, ["b"], {"b": 1}, 1.5]', "[[]]"]
)
def test_json_that_is_no_list_of_ids_breaks_no_query(
    tasks: TaskRepository, session: Session, text: str
) -> None:
    tasks.create(id="b", title="b")
    session.execute(f"INSERT INTO tasks (id, title, depends_on) VALUES ('a', 'a', '{text}')")
    ready = set(ids(tasks.get_ready_tasks()))
    assert ready == ({"a", "b"} if text[0] != "[" else {"b"})
    assert tasks.get_blocking_tasks("a") == []
    assert tasks.get_dependent_tasks("b") == []
    tasks.create(**row("c", "a"))
    assert ids(tasks.get_blocking_tasks("c")) == ["a"]
    assert tasks.get_or_raise("a").title == "a"


@pytest.mark.parametrize("column", ["depends_on", "tags"])
def test_what_is_not_even_json_is_refused(session: Session, column: str) -> None:
    with pytest.raises(DatabaseError):
        session.execute(f"INSERT INTO tasks (id, title, {column}) VALUES ('a', 'a', '[1')")
    assert TaskRepository(session).count() == 0


def test_a_circle_made_by_raw_sql_breaks_no_query(tasks: TaskRepository, session: Session) -> None:
    for key, needs in (("a", "b"), ("b", "a"), ("s", "s")):
        session.execute(
            f"INSERT INTO tasks (id, title, depends_on) VALUES ('{key}', 'x', '[\"{needs}\"]')"
        )
    assert tasks.get_ready_tasks() == []
    assert ids(tasks.get_blocking_tasks("a")) == ["b"]
    assert ids(tasks.get_blocking_tasks("s")) == ["s"]
    tasks.update("a", title="y")
    with pytest.raises(ValidationError, match="circle"):
        tasks.create(**row("c", "a"))
    tasks.bulk_update([{"id": "a", "depends_on": []}, {"id": "s", "depends_on": []}])
    tasks.create(**row("c", "a", "b", "s"))


_KEYS = ["a", "b", "c", "d"]
_GRAPHS = st.dictionaries(
    st.sampled_from(_KEYS), st.lists(st.sampled_from([*_KEYS, "missing"]), max_size=3)
)


def _has_circle(graph: dict[str, list[str]]) -> bool:
    def reaches(start: str, goal: str, seen: set[str]) -> bool:
        for key in graph.get(start, []):
            if key == goal:
                return True
            if key not in seen and reaches(key, goal, seen | {key}):
                return True
        return False

    return any(reaches(key, key, set()) for key in graph)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(graph=_GRAPHS, states=st.lists(st.sampled_from(["pending", "completed"]), min_size=4))
def test_sql_agrees_with_python(
    database: Database, graph: dict[str, list[str]], states: list[str]
) -> None:
    status = dict(zip(_KEYS, states, strict=False))
    rows = [row(key, *needs, status=status[key]) for key, needs in graph.items()]
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.bulk_delete(_KEYS)
        if _has_circle(graph):
            with pytest.raises(ValidationError, match="circle"):
                tasks.bulk_create(rows)
            assert tasks.count() == 0
            return
        tasks.bulk_create(rows)
        ready = {
            key
            for key, needs in graph.items()
            if status[key] == "pending"
            and all(need in graph and status[need] == "completed" for need in needs)
        }
        assert set(ids(tasks.get_ready_tasks())) == ready
