"""A worker: takes the best task that is ready, does it, and says how it ended."""

from hopper_data import Task, TaskRepository, get_sync_session, run_migrations


def claim() -> Task | None:
    with get_sync_session() as session:
        claimed = TaskRepository(session).claim_next("worker-1", capabilities=["python"])
    return claimed[0] if claimed else None


run_migrations()
with get_sync_session() as session:
    TaskRepository(session).create(title="Say hello", priority="high", tags=["demo"])

while task := claim():
    print(f"{task.priority}: {task.title}")
    with get_sync_session() as session:
        # Whoever was too slow, and lost the task to another worker, gets `LeaseLost` here.
        TaskRepository(session).complete(task.id, task.lease_token)
