"""A worker for asyncio: takes the most urgent task that is ready, does it, and looks for the next.

Any number of them may share one database: a task goes to whoever changes its status first.
"""

from __future__ import annotations

import asyncio

from hopper_data import Task, get_async_session
from hopper_data.routing.asynchronous import AsyncTaskRepository


def claim(task: Task, worker: str) -> bool:
    mine = (Task.id == task.id) & (Task.status == "pending")
    return bool(Task.update(status="claimed", owner=worker).where(mine).execute())


async def take(worker: str) -> Task | None:
    async with get_async_session() as session:
        for task in await AsyncTaskRepository(session).get_ready_tasks(limit=10):
            if await session.run(claim, task, worker):
                return task
    return None


async def work(worker: str) -> int:
    done = 0
    while (task := await take(worker)) is not None:
        print(f"{worker} does {task.id}: {task.title}")
        async with get_async_session() as session:
            await AsyncTaskRepository(session).update_status(task.id, "completed")
        done += 1
    return done


if __name__ == "__main__":
    print(asyncio.run(work("worker-1")), "tasks done")
