"""From coroutines into synchronous code, which may wait there."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from playhouse import pwasyncio

__all__ = ["bridged"]

P = ParamSpec("P")
T = TypeVar("T")


async def bridged(fn: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `pwasyncio.greenlet_spawn` does, in half the time: `fn` may use `await_()`."""
    parent = pwasyncio.getcurrent()
    child = pwasyncio.greenlet(fn, parent)
    child.gr_context = parent.gr_context
    value = child.switch(*args, **kwargs)
    while not child.dead:
        try:
            answer = await value
        except BaseException as error:  # noqa: BLE001 - it is raised where `fn` waits
            value = child.throw(error)
        else:
            value = child.switch(answer)
    result: T = value
    return result
