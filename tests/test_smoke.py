import pytest

from hopper_data import Session, TaskRepository, fastpath


def test_a_task_comes_back(session: Session) -> None:
    tasks = TaskRepository(session)
    made = tasks.create(title="Write a test", tags=["tests"])
    assert tasks.get(made.id) == made
    assert [task.id for task in tasks.search_tasks("test")] == [made.id]


def test_the_fast_path_is_off_where_a_test_is_named_plain(
    session: Session, request: pytest.FixtureRequest
) -> None:
    assert fastpath.is_enabled() is ("[plain-" not in request.node.name)
