"""A worker for asyncio: takes the best task that is ready, does it, and says how it ended.

Any number of them may share one database. A task whose worker dies goes to another one when its
lease expires.
"""

from __future__ import annotations

import asyncio

from hopper_data import Task, get_async_session
from hopper_data.routing.asynchronous import AsyncTaskRepository


async def take(worker: str) -> Task | None:
    async with get_async_session() as session:
        claimed = await AsyncTaskRepository(session).claim_next(worker)
        return claimed[0] if claimed else None


async def work(worker: str) -> int:
    done = 0
    while (task := await take(worker)) is not None:
        print(f"{worker} does {task.id}: {task.title}")
        async with get_async_session() as session:
            await AsyncTaskRepository(session).complete(task.id, task.lease_token)
        done += 1
    return done


if __name__ == "__main__":
    print(asyncio.run(work("worker-1")), "tasks done")
