from hopper_data import Session, TaskRepository


def test_a_task_comes_back(session: Session) -> None:
    tasks = TaskRepository(session)
    made = tasks.create(title="Write a test", tags=["tests"])
    assert tasks.get(made.id) == made
    assert [task.id for task in tasks.search_tasks("test")] == [made.id]
