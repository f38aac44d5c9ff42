"""`get_tasks_by_tag`, and the index behind it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from playhouse.test_utils import assert_query_count

from hopper_data import Session, Task, TaskRepository, ValidationError
from hopper_data.database import Database
from hopper_data.session import open_session


@pytest.fixture
def tasks(session: Session) -> TaskRepository:
    return TaskRepository(session)


def ids(found: list[Task]) -> set[str]:
    return {task.id for task in found}


def fill(tasks: TaskRepository, tags: dict[str, list[str] | None]) -> None:
    tasks.bulk_create({"id": key, "title": key, "tags": value} for key, value in tags.items())


def test_all_of_several_tags_or_any_of_them(tasks: TaskRepository) -> None:
    fill(
        tasks,
        {"a": ["x"], "b": ["x", "y"], "c": ["y", "z"], "d": ["z", "y", "x"], "e": [], "f": None},
    )
    for tags, match, expected in (
        ("x", "all", {"a", "b", "d"}),
        ("x", "any", {"a", "b", "d"}),
        (["x"], "all", {"a", "b", "d"}),
        (["x", "y"], "all", {"b", "d"}),
        (("y", "x"), "all", {"b", "d"}),
        (["x", "x", "y"], "all", {"b", "d"}),
        (["x", "y", "z"], "all", {"d"}),
        (["x", "nothing"], "all", set()),
        (["x", "z"], "any", {"a", "b", "c", "d"}),
        (["nothing", "z"], "any", {"c", "d"}),
        ("nothing", "any", set()),
        ([], "all", set()),
        ([], "any", set()),
    ):
        with assert_query_count(1):
            found = tasks.get_tasks_by_tag(tags, match=match)  # type: ignore[arg-type]
        assert ids(found) == expected, (tags, match)


def test_a_tag_is_matched_to_the_letter(tasks: TaskRepository) -> None:
    texts = ["a", "A", "ab", " a", "a ", "%", "_", "a%", "*", '"', "'", "\\", "ü", "u\u0308"]
    texts += ["null", "1", "true", "[]", '["a"]', "日本", "🚀", "a,b", "\n", "x" * 5_000]
    fill(tasks, {str(number): [text] for number, text in enumerate(texts)})
    for number, text in enumerate(texts):
        assert ids(tasks.get_tasks_by_tag(text)) == {str(number)}, text
        assert ids(tasks.get_tasks_by_tag([text, "none"], match="any")) == {str(number)}, text
    assert ids(tasks.get_tasks_by_tag(texts, match="any")) == set(map(str, range(len(texts))))


def test_a_tag_that_a_task_has_twice_counts_once(tasks: TaskRepository) -> None:
    fill(tasks, {"a": ["x", "x"], "b": ["x", "y"]})
    assert ids(tasks.get_tasks_by_tag(["x", "y"])) == {"b"}
    assert tasks.get_or_raise("a").tags == ["x", "x"]


def test_wrong_tags_are_refused(tasks: TaskRepository) -> None:
    wrong: list[Any] = ["", [""], [1], [None], ["a\0"], "a\0", "\ud800", {"a": 1}, [["a"]]]
    for tags in [*wrong, None, 5, b"a"]:
        with pytest.raises(ValidationError, match="Task tags"):
            tasks.get_tasks_by_tag(tags)
    with pytest.raises(ValidationError, match="match is 'some'; it must be 'all' or 'any'"):
        tasks.get_tasks_by_tag("a", match="some")  # type: ignore[arg-type]


def test_tags_follow_every_write(tasks: TaskRepository, session: Session) -> None:
    fill(tasks, {"a": ["x"], "b": ["x"]})
    tasks.update("a", tags=["y"])
    assert ids(tasks.get_tasks_by_tag("x")) == {"b"}
    tasks.update("a", title="same tags")
    assert ids(tasks.get_tasks_by_tag("y")) == {"a"}
    tasks.bulk_update([{"id": "a", "tags": ["x", "z"]}, {"id": "b", "tags": None}])
    assert ids(tasks.get_tasks_by_tag("x")) == {"a"}
    tasks.upsert(id="b", title="b", tags=["z"])
    assert ids(tasks.get_tasks_by_tag("z")) == {"a", "b"}
    task = tasks.get_or_raise("b")
    task.tags.append("in place")
    task.save()
    assert ids(tasks.get_tasks_by_tag("in place")) == {"b"}
    session.execute("UPDATE tasks SET tags = '[\"raw\"]' WHERE id = 'b'")
    assert ids(tasks.get_tasks_by_tag("raw")) == {"b"}
    assert ids(tasks.get_tasks_by_tag("z")) == {"a"}
    session.execute("UPDATE tasks SET id = 'c' WHERE id = 'b'")
    assert ids(tasks.get_tasks_by_tag("raw")) == {"c"}
    tasks.delete("c")
    assert tasks.get_tasks_by_tag("raw") == []
    session.execute("DELETE FROM tasks")
    assert tasks.get_tasks_by_tag(["x", "z"], match="any") == []


@pytest.mark.parametrize("text", ['{"a": "x"}', '"x"', "5", "null", '[["x"], {"x": "x"}, null]'])
def test_json_that_is_no_list_of_texts_has_no_tags(
    tasks: TaskRepository, session: Session, text: str
) -> None:
    session.execute(f"INSERT INTO tasks (id, title, tags) VALUES ('a', 'a', '{text}')")
    assert tasks.get_tasks_by_tag("x") == []
    tasks.create(id="b", title="b", tags=["x"])
    session.execute(f"UPDATE tasks SET tags = '{text}' WHERE id = 'b'")
    assert tasks.get_tasks_by_tag(["x", "y"], match="any") == []
    assert len(tasks.get_all()) == 2


_TAGS = st.lists(st.sampled_from(["a", "b", "c", "d", "A", "é", "%"]), max_size=4)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stored=st.lists(_TAGS | st.none(), max_size=6), wanted=_TAGS)
def test_sql_agrees_with_python(
    database: Database, stored: list[list[str] | None], wanted: list[str]
) -> None:
    with open_session(database) as session:
        tasks = TaskRepository(session)
        tasks.bulk_delete([task.id for task in tasks.get_all()])
        fill(tasks, {str(number): tags for number, tags in enumerate(stored)})
        sets = {str(number): set(tags or ()) for number, tags in enumerate(stored)}
        every = {key for key, tags in sets.items() if wanted and tags >= set(wanted)}
        some = {key for key, tags in sets.items() if tags & set(wanted)}
        assert ids(tasks.get_tasks_by_tag(wanted)) == every
        assert ids(tasks.get_tasks_by_tag(wanted, match="any")) == some
