"""What the fault tests of asynchronous sessions do with the table `entries`."""

from __future__ import annotations

import asyncio

from hopper_data.aio import AsyncSession, async_database, open_async_session
from hopper_data.database import Database


async def add(session: AsyncSession, number: int) -> None:
    await session.execute("INSERT INTO entries (number) VALUES (?)", (number,))


async def pid_of(session: AsyncSession) -> int:
    return int((await session.execute("SELECT pg_backend_pid()"))[0][0])


async def in_use(database: Database) -> int:
    return int((await async_database(database)).pool_status()["in_use"])


async def assert_well(database: Database) -> None:
    """No connection has leaked, and the next session works."""
    assert await in_use(database) == 0
    async with asyncio.timeout(30), open_async_session(database) as session:
        assert await session.execute("SELECT 1") == [(1,)]
    assert await in_use(database) == 0
