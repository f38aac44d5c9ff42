"""Asynchronous sessions, over `playhouse.pwasyncio`.

No query is written twice. A repository's method runs as it is in a greenlet; where it would wait
for the database, control goes to the event loop instead. `AsyncSession.run()` does that.

The databases here are those of `hopper_data.database` with the connections of asyncpg and
aiosqlite. There is one for each synchronous database and event loop, made when it is first asked
for, and its connections are closed when the loop shuts down.
"""

from __future__ import annotations

from hopper_data.errors import DatabaseError

try:
    import aiosqlite as _aiosqlite  # noqa: F401
    import asyncpg as _asyncpg  # noqa: F401
    import greenlet as _greenlet  # type: ignore[import-untyped]  # noqa: F401
except ImportError as error:
    raise DatabaseError(
        "asynchronous sessions need an extra: pip install 'hopper-data[async]'"
    ) from error

from hopper_data.aio.loops import async_database
from hopper_data.aio.sessions import AsyncSession, open_async_session, run_in_async_transaction

__all__ = ["AsyncSession", "async_database", "open_async_session", "run_in_async_transaction"]
