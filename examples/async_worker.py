"""A worker for asyncio, which does ten tasks at a time.

Any number of them may share one database. A task whose worker dies goes to another one when its
lease expires.
"""

from __future__ import annotations

import asyncio
import sys

from hopper_data import Task, Worker, get_async_session
from hopper_data.routing.asynchronous import AsyncTaskRepository


async def handle(task: Task) -> None:
    print(f"{task.id}: {task.title}")
    async with get_async_session() as session:
        await AsyncTaskRepository(session).update(task.id, context="seen by an asyncio worker")


if __name__ == "__main__":
    worker = Worker("worker-1", concurrency=10)
    print(asyncio.run(worker.run_async(handle, until_empty="--once" in sys.argv)), "tasks done")
