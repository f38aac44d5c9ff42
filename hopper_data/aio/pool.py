"""The places of an asynchronous pool, and the tasks that wait for one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

__all__ = ["Places"]

_PATIENCE_S = 0.001
_SOON_S = 0.05


class Places:
    """At most `limit` connections out at a time, `kept` of which stay for the next one to come.

    What comes back goes straight to the task that has waited longest: one that comes back soon is
    had sooner than a new one. So only `eager` are given out at once; where none comes back within
    `patience_s`, up to `kept`, and where none does for longer, up to `limit`. For one event loop.
    """

    def __init__(
        self, limit: int, kept: int, *, eager: int, patience_s: float = _PATIENCE_S
    ) -> None:
        self.in_use = 0
        self.idle: list[Any] = []
        self._limit = limit
        self._kept = min(kept, limit)
        self._eager = min(eager, limit)
        self._patience_s = patience_s
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        """Those that wait, and until when."""
        self._timer: asyncio.TimerHandle | None = None
        self._moving = False

    async def take(self, limit_s: float) -> Any:
        """A connection that was kept, or None with a place for a new one.

        `TimeoutError` where there is no place within `limit_s`.
        """
        if self.in_use < self._eager:
            return self._enter()
        loop = asyncio.get_running_loop()
        waiting = (loop.create_future(), loop.time() + limit_s)
        self._waiting.append(waiting)
        self._watch()
        future = waiting[0]
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self.give_back(future.result())
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            raise

    def is_wanted(self) -> bool:
        """Whether a connection that comes back now would be used again."""
        return len(self.idle) < self._kept or self.has_waiters()

    def has_waiters(self) -> bool:
        """Whether a task waits for a place."""
        return any(not future.done() for future, _ in self._waiting)

    def give_back(self, connection: Any) -> None:
        """Give a place back, with a connection that can be used or None."""
        self._moving = True
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return
        self.in_use -= 1
        if connection is not None:
            self.idle.append(connection)

    def _enter(self) -> Any:
        self.in_use += 1
        return self.idle.pop() if self.idle else None

    def _watch(self) -> None:
        """Look again after a while whether anything comes back, and who has waited too long."""
        if self._timer is None and self._waiting:
            self._moving = False
            wait_s = self._patience_s if self.in_use < self._kept else _SOON_S
            loop = asyncio.get_running_loop()
            first_s = min(until for _, until in self._waiting) - loop.time()
            self._timer = loop.call_later(max(0.0, min(wait_s, first_s)), self._look)

    def _look(self) -> None:
        self._timer = None
        room = self._kept if self.in_use < self._kept else self._limit
        while not self._moving and self._waiting and self.in_use < room:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_result(self._enter())
        self._give_up()
        self._watch()

    def _give_up(self) -> None:
        now = asyncio.get_running_loop().time()
        late = [waiting for waiting in self._waiting if waiting[1] <= now]
        for waiting in late:
            self._waiting.remove(waiting)
            if waiting[0].done():
                continue
            if self.in_use < self._limit:
                waiting[0].set_result(self._enter())
            else:
                waiting[0].set_exception(TimeoutError())
