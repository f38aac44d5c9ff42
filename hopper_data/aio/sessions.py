"""Asynchronous sessions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, ParamSpec, TypeVar

from hopper_data.aio.bridge import bridged
from hopper_data.aio.database import AsyncDatabase
from hopper_data.aio.loops import async_database
from hopper_data.database import Database, enter, leave, proxy
from hopper_data.errors import DatabaseError
from hopper_data.parts import parts_of
from hopper_data.session import Session, check_retries
from hopper_data.transactions import ReadOnlyTransaction, Transaction

__all__ = ["AsyncSession", "open_async_session", "run_in_async_transaction"]

logger = logging.getLogger("hopper_data")
P = ParamSpec("P")
T = TypeVar("T")
_BATCH = 500


class AsyncSession:
    """An open transaction on one database, for the task that opened it.

    Repositories take it as they take a synchronous session; `run()` runs their methods.
    """

    def __init__(self, session: Session) -> None:
        self.sync_session = session
        self._task = asyncio.current_task()
        self.busy = False
        self._streams: list[Any] = []

    def __repr__(self) -> str:
        return f"<AsyncSession on {self.sync_session.database.label}>"

    @property
    def database(self) -> Any:
        """The Peewee database, which `await database.run(fn)` and the like work on."""
        return self.sync_session.database

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a synchronous function that uses this session: a repository's method.

        For methods that give rows one by one, use `stream()`.
        """
        self._check_task()
        self.busy = True
        try:
            parts = parts_of(fn)
            if parts is None:
                return await bridged(fn, *args, **kwargs)
            # To wait between the parts takes less than to wait inside.
            repository: Any = fn.__self__  # type: ignore[attr-defined]
            try:
                asked = getattr(repository, parts.ask)(*args, **kwargs)
            except TypeError:
                asked = None  # wrong arguments, of which the method itself had better speak
            if asked is None or not isinstance(repository.database, AsyncDatabase):
                return await bridged(fn, *args, **kwargs)
            rows = await repository.database.afetch_all(*asked)
            result: T = getattr(repository, parts.answer)(rows, *args, **kwargs)
            return result
        finally:
            self.busy = False

    async def stream(
        self, fn: Callable[P, Iterator[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> AsyncIterator[T]:
        """The rows of a method such as `iterate`, one by one, in constant memory."""
        rows = await self.run(fn, *args, **kwargs)
        self._streams.append(rows)
        try:
            while batch := await self.run(self._take, rows):
                for row in batch:
                    yield row
        finally:
            # The event loop ends a stream that was left early in another task, where nothing can be
            # asked of the database: the session does, when it ends.
            if self.is_of_this_task():
                await self._end_stream(rows)

    def _take(self, rows: Iterator[T]) -> list[T]:
        _ = self.database  # refuses where the session has ended meanwhile
        return list(islice(rows, _BATCH))

    async def end_streams(self) -> None:
        """End the streams that were left early; for the end of the session."""
        for rows in self._streams[:]:
            await self._end_stream(rows)

    async def end_elsewhere(self) -> None:
        """Be at an end without the transaction; for a task that has not opened the session.

        The event loop ends a generator that was left early in a task of its own.
        """
        self.sync_session.end()
        for rows in self._streams:
            with suppress(Exception):  # its transaction is not that of this task
                await bridged(rows.close)

    async def _end_stream(self, rows: Any) -> None:
        self._streams = [other for other in self._streams if other is not rows]
        close = getattr(rows, "close", None)
        if close is not None:
            await self.run(close)

    async def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement of the caller's own and give its rows, as `Session.execute` does."""
        return await self.run(self.sync_session.execute, sql, params)

    def is_of_this_task(self) -> bool:
        """Whether the current task has opened the session."""
        return asyncio.current_task() is self._task

    def _check_task(self) -> None:
        if not self.is_of_this_task():
            raise DatabaseError(
                "a session belongs to the task that opened it: open one in each task, and use "
                "asyncio.timeout() where asyncio.wait_for() would make a task of its own"
            )
        if self.busy:
            raise DatabaseError("a session runs one thing at a time: await the first one")


@dataclass(slots=True)
class _Together:
    """The sessions of one transaction, one inside the other."""

    open: int = 0
    lost: bool = False
    """Whether the outermost one was ended by another task, so that nothing can be committed."""


def _together_of(transaction: Any) -> _Together:
    found: _Together | None = getattr(transaction, "_together", None)
    if found is None:
        found = transaction._together = _Together()
    return found


def open_async_session(
    database: Database | None = None, *, read_only: bool = False
) -> AbstractAsyncContextManager[AsyncSession]:
    """A session on the asynchronous side of a database, or of the one the proxy stands for."""
    return _Opening(database, read_only)


class _Opening(AbstractAsyncContextManager[AsyncSession]):
    """What `open_session()` does, for asyncio.

    The outermost session of a task, which begins with its first statement and often has nothing to
    commit, does it in fewer steps: many live for one statement.
    """

    def __init__(self, database: Database | None, read_only: bool) -> None:
        self._given = database
        self._read_only = read_only
        self._opened = False

    async def __aenter__(self) -> AsyncSession:
        target = self._database = await async_database(self._given or proxy.obj)
        state = self._state = target._state._current()
        nested = bool(state.transactions)
        self._is_late = not nested and target.begins_late()
        if not nested:
            self._opened = state.closed
            self._connection = await target.make_ready(state, read_only=self._read_only)
        try:
            await self._begin(target)
            enter(target)
            session = Session(target, read_only=self._read_only, nested=nested)
        except BaseException:
            await self._release()
            raise
        self._session = AsyncSession(session)
        self._outermost = state.transactions[0]
        self._together = _together_of(self._outermost)
        self._together.open += 1
        return self._session

    async def _begin(self, target: Any) -> None:
        if self._is_late:
            kind = ReadOnlyTransaction if self._read_only else Transaction
            self._scope = kind(target)
            target.begin_late(self._connection, read_only=self._read_only)
            self._state.transactions.append(self._scope)
        else:
            self._scope = target.read_only() if self._read_only else target.atomic()
            await bridged(self._scope.__enter__)

    async def __aexit__(self, *exc_info: Any) -> None:
        together, here = self._together, self._session.is_of_this_task()
        together.open -= 1
        try:
            if here:
                await self._end_streams_and(*exc_info)
            else:
                together.lost |= not self._session.sync_session.nested
                await self._session.end_elsewhere()
        finally:
            if together.lost and not together.open:
                await self._undo()
        if (together.lost or not here) and exc_info[0] is None:
            raise DatabaseError(
                "nothing was committed: a session ends in the task that opened it, and another "
                "task has ended this one, or the one around it"
            )

    async def _end_streams_and(self, *exc_info: Any) -> None:
        try:
            await self._session.end_streams()
        except BaseException as error:
            await self._end(type(error), error, error.__traceback__)
            raise
        await self._end(*exc_info)

    async def _end(self, *exc_info: Any) -> None:
        target, state = self._database, self._state
        self._session.sync_session.end()
        try:
            quiet = self._is_late and not state.commit_callbacks
            if quiet and target.end_quietly(self._connection):
                state.transactions.pop()
            elif quiet and self._read_only and exc_info[0] is None:
                state.transactions.pop()
                await target.acommit(self._connection)
            else:
                await bridged(self._scope.__exit__, *exc_info)
        finally:
            leave(target)
            await self._release()

    async def _undo(self) -> None:
        """Undo a transaction that has lost its session, whose task may not even know."""
        state = self._state
        if state.transactions[:1] == [self._outermost] and not self._session.busy:
            connection = state.conn
            state.reset()
            await self._database._release_conn(connection)

    async def _release(self) -> None:
        state = self._state
        if not self._opened or state.transactions or state.closed:
            return
        connection, state.conn, state.closed = state.conn, None, True
        await self._database._release_conn(connection)


async def run_in_async_transaction(
    fn: Callable[[AsyncSession], Awaitable[T]],
    *,
    database: Database | None = None,
    retries: int = 1,
    delay_s: float = 1.0,
) -> T:
    """The result of `await fn(session)`, run again as `run_in_transaction()` does."""
    check_retries(retries, delay_s)
    target = await async_database(database or proxy.obj)
    attempts = 1 if target.transaction_depth() else retries + 1
    for attempt in range(1, attempts + 1):
        try:
            async with open_async_session(target) as session:
                return await fn(session)
        except DatabaseError as error:
            if not error.retryable or attempt == attempts:
                raise
            logger.warning("transaction failed, trying again in %g s: %s", delay_s, error)
            await asyncio.sleep(delay_s)
    raise AssertionError("unreachable")
