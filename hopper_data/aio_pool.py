"""The places of an asynchronous pool, and the tasks that wait for one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["Places"]

_SOON_S = 0.05


class Places:
    """At most `limit` connections out at a time, `kept` of which stay for the next one to come.

    What comes back goes straight to the task that has waited longest. For one event loop.
    """

    def __init__(self, limit: int, kept: int) -> None:
        self.in_use = 0
        self.idle: list[Any] = []
        self._limit = limit
        self._kept = min(kept, limit)
        self._waiting: deque[asyncio.Future[Any]] = deque()

    async def take(self, limit_s: float) -> Any:
        """A connection that was kept, or None with a place for a new one.

        `TimeoutError` where nothing came back within `limit_s`. One that comes back soon is had
        sooner than a new one.
        """
        if self.idle or self.in_use < self._kept:
            self.in_use += 1
            return self.idle.pop() if self.idle else None
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self._waiting.append(future)
        timers = (
            loop.call_later(min(_SOON_S, limit_s / 2), self._make_room, future),
            loop.call_later(limit_s, _give_up, future),
        )
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if future in self._waiting:
                self._waiting.remove(future)

    def is_wanted(self) -> bool:
        """Whether a connection that comes back now would be used again."""
        return len(self.idle) < self._kept or any(not future.done() for future in self._waiting)

    def give_back(self, connection: Any) -> None:
        """Give a place back, with a connection that can be used or None."""
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        self.in_use -= 1
        if connection is not None:
            self.idle.append(connection)

    def _make_room(self, future: asyncio.Future[Any]) -> None:
        if not future.done() and self.in_use < self._limit:
            self.in_use += 1
            future.set_result(None)


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError())
