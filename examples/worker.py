"""A worker: takes tasks from the queue, does them, and says how each ended."""

from hopper_data import Task, TaskRepository, Worker, get_sync_session, run_migrations


def handle(task: Task) -> dict[str, str]:
    # No transaction is open here. What this raises makes the task fail, to be tried again later.
    print(f"{task.priority}: {task.title}")
    return {"notes": "said it"}


run_migrations()
with get_sync_session() as session:
    TaskRepository(session).create(title="Say hello", priority="high", tags=["demo"])

# Without `until_empty` it goes on until SIGTERM, and sleeps while there is nothing to do.
Worker("worker-1", capabilities=["python"]).run(handle, until_empty=True)
