"""One asynchronous database for each synchronous one and event loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from typing import Any

from hopper_data.aio.database import AsyncDatabase
from hopper_data.aio.postgresql import AsyncPostgresqlDatabase
from hopper_data.aio.sqlite import AsyncSqliteDatabase
from hopper_data.database import Database
from hopper_data.sqlite_database import SqliteDatabase

__all__ = ["async_database"]

_by_loop: weakref.WeakKeyDictionary[Any, dict[int, Any]] = weakref.WeakKeyDictionary()


async def async_database(database: Database) -> Any:
    """The asynchronous side of a database in the running event loop."""
    if isinstance(database, AsyncDatabase):
        return database
    loop = asyncio.get_running_loop()
    known = _by_loop.get(loop)
    if known is None:
        known = _by_loop[loop] = {}
    found = known.get(id(database))
    if found is None or found[0]() is not database:
        made = _make(database)
        closer = _close_with_loop(made, known, id(database))
        await anext(closer)
        found = known[id(database)] = (weakref.ref(database), made, closer)
    return found[1]


def _make(database: Database) -> Any:
    if isinstance(database, SqliteDatabase):
        return AsyncSqliteDatabase(database.config, database.url, database)
    return AsyncPostgresqlDatabase(database.config, database.url)


async def _close_with_loop(database: Any, known: dict[int, Any], key: int) -> AsyncIterator[None]:
    """Suspended until the loop shuts its generators down, which is when connections are closed."""
    try:
        yield
    finally:
        try:
            await database.aclose_all()
        finally:
            # The generator holds its loop, and with the entry both would stay for ever. Another
            # database may have the same number by now.
            if key in known and known[key][1] is database:
                del known[key]
