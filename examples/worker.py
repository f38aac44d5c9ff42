"""A worker: takes the most urgent task that is ready, does it, and notes the end."""

from hopper_data import Task, TaskRepository, get_sync_session, run_migrations


def claim(worker: str) -> Task | None:
    with get_sync_session() as session:
        for task in TaskRepository(session).get_ready_tasks(limit=10):
            mine = (Task.id == task.id) & (Task.status == "pending")
            if Task.update(status="claimed", owner=worker).where(mine).execute():
                return task  # nobody was faster
    return None


run_migrations()
with get_sync_session() as session:
    TaskRepository(session).create(title="Say hello", priority="high", tags=["demo"])

while task := claim("worker-1"):
    print(f"{task.priority}: {task.title}")
    with get_sync_session() as session:
        TaskRepository(session).update_status(task.id, "completed")
