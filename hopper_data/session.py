"""Sessions: a connection and a transaction for the length of a `with` block."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ContextDecorator,
    contextmanager,
    suppress,
)
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from hopper_data.config import DatabaseConfig
from hopper_data.database import Database, create_database, enter, leave, proxy
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError, ValidationError, shorten
from hopper_data.statements import bind_parameters, check_sql, control_word, refuse_end

if TYPE_CHECKING:
    from hopper_data.aio import AsyncSession

__all__ = [
    "Session",
    "SessionFactory",
    "get_async_session",
    "get_sync_session",
    "run_in_transaction",
]

logger = logging.getLogger("hopper_data")
_T = TypeVar("_T")


class Session:
    """An open transaction on one database, for the thread that opened it.

    `database` is the Peewee database, for queries of the caller's own. Sessions are made by
    `get_sync_session()` and `SessionFactory.get_session()`, and end with their `with` block.
    """

    def __init__(
        self, database: Database, *, read_only: bool = False, nested: bool = False
    ) -> None:
        self._database = database
        self.read_only = read_only
        self.nested = nested
        self.has_ended = False
        """Whether its block is over."""
        self.is_used = False
        """Whether anybody has asked for its database."""
        self._changes = database.count_changes()

    def __repr__(self) -> str:
        return f"<Session on {self._database.label}>"

    @property
    def database(self) -> Database:
        """The database of the session; a `DatabaseError` where its transaction is not open."""
        # Peewee would take a connection of its own, and commit each statement at once.
        if self.has_ended or not self._database._state.transactions:
            raise DatabaseError(
                "this session has ended, or belongs to another thread; open one for the work at "
                "hand: with get_sync_session() as session: …"
            )
        self.is_used = True
        return self._database

    def end(self) -> None:
        """Refuse further work; the transaction is over."""
        self.has_ended = True

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Keep nobody from writing during a block, in which this session does nothing.

        A write session on SQLite lets go of its transaction, and begins it again. A `DatabaseError`
        where something was written in it, or where it is inside another session.
        """
        database = self.database
        if self.read_only or database.dialect != "sqlite":
            yield
            return
        if self.nested or database.count_changes() != self._changes:
            raise DatabaseError(
                "this session has written, or is inside another one, and would keep everybody "
                "else from writing; wait in a session of its own"
            )
        database.rollback()
        try:
            yield
        except BaseException:
            # It is what the caller must hear, whoever writes meanwhile. Where no transaction can be
            # begun, SQLite does nothing more in this session.
            with suppress(DatabaseError):
                database.begin()
            raise
        database.begin()

    def execute(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement of the caller's own and give its rows, none when it has no result.

        Placeholders are `?` or `%s` with a sequence, or `:name` with a mapping, on every backend.
        Values come as the driver gives them. Without parameters the text is sent as it is. A
        statement that is refused changes nothing, and the session goes on.
        """
        check_sql(sql)
        refuse_end(sql)
        if control_word(sql):
            return self._run(sql, params)
        with self.database.statement_guard():
            return self._run(sql, params)

    def _run(self, sql: str, params: Sequence[Any] | Mapping[str, Any]) -> list[tuple[Any, ...]]:
        database = self.database
        statement, values = bind_parameters(sql, params, database.dialect)
        cursor = database.execute_sql(statement, values)
        with translated(database):
            return [tuple(row) for row in cursor.fetchall()] if cursor.description else []


class open_session(AbstractContextManager[Session], ContextDecorator):  # noqa: N801  # a verb
    """A session on a database: a transaction, or a savepoint inside of one.

    Without a database, on the one that the proxy stands for when the block begins.
    """

    # A generator would cost every session as much as a statement.
    __slots__ = ("_database", "_open", "_read_only")

    def __init__(self, database: Database | None = None, *, read_only: bool = False) -> None:
        self._database = database
        self._read_only = read_only
        self._open: Any = None

    def _recreate_cm(self) -> open_session:
        return open_session(self._database, read_only=self._read_only)

    def __enter__(self) -> Session:
        if self._open is not None:
            raise DatabaseError("this session is open already; each block needs one of its own")
        database = proxy.obj if self._database is None else self._database
        state = database._state
        if state.transactions:
            _end_abandoned(database)
        nested = bool(state.transactions)
        opened = entered = False
        try:
            opened = not nested and database.connect_for_session()
            enter(database)
            entered = True
            session = Session(database, read_only=self._read_only, nested=nested)
            scope: Any
            if self._read_only:
                scope = database.read_only()
            else:
                scope = database.atomic() if nested else database.transaction()
            scope.session = session
            scope.__enter__()
            self._open = (database, opened, scope, session, state.transactions, get_ident())
        except BaseException:
            if entered:
                leave(database)
            if not nested and state.transactions:
                database.abandon()
            if opened:
                database.release()
            raise
        return session

    def __exit__(self, *exc_info: Any) -> None:
        database, opened, scope, session, transactions, thread = self._open
        session.has_ended = True  # first of all, and no call, which an interrupt could come before
        self._open = None
        try:
            if not transactions or database._state.transactions is not transactions:
                raise DatabaseError(
                    "the transaction of this session is not open here: a session ends in the "
                    "thread that opened it, and before the session around it"
                )
            scope.__exit__(*exc_info)
        finally:
            if thread == get_ident():
                leave(database)
                if opened:
                    database.release()

    def __del__(self) -> None:
        # An interrupt came before `__exit__()` had begun. Where nobody keeps the block, and ends
        # the session by hand, it has gone before the session is used.
        if self._open is not None and self._open[3].is_used:
            self._open[3].has_ended = True


def _end_abandoned(database: Database) -> None:
    """Roll back the transaction of a session that has ended without its own end."""
    state = database._state
    session = getattr(state.transactions[0], "session", None)
    if session is None or not session.has_ended:
        return
    logger.warning("a session on %s was interrupted, and is rolled back", database.label)
    database.abandon()
    leave(database)
    if database.connect_for_session():
        database.release()


class SessionFactory:
    """Makes sessions on one database of its own.

    Takes a `DatabaseConfig`, a URL, or nothing for the environment's database. `close()` closes
    the connections that it keeps; the factory is a context manager that does so.
    """

    def __init__(self, config: DatabaseConfig | str | None = None) -> None:
        self.database = create_database(config)

    @property
    def config(self) -> DatabaseConfig:
        """The settings of the factory's database."""
        return self.database.config

    def get_session(self, *, read_only: bool = False) -> AbstractContextManager[Session]:
        """A session: commits at the end, rolls back on an exception. Nested, a savepoint."""
        return open_session(self.database, read_only=read_only)

    def get_async_session(
        self, *, read_only: bool = False
    ) -> AbstractAsyncContextManager[AsyncSession]:
        """A session for asyncio on this factory's database."""
        from hopper_data.aio import open_async_session

        return open_async_session(self.database, read_only=read_only)

    def run_in_transaction(self, fn: Callable[[Session], _T], **options: Any) -> _T:
        """`run_in_transaction()` on this factory's database."""
        return run_in_transaction(fn, database=self.database, **options)

    def run_in_async_transaction(
        self, fn: Callable[[AsyncSession], Awaitable[_T]], **options: Any
    ) -> Awaitable[_T]:
        """`run_in_async_transaction()` on this factory's database."""
        from hopper_data.aio import run_in_async_transaction

        return run_in_async_transaction(fn, database=self.database, **options)

    def close(self) -> None:
        """Close the connections that are not in use."""
        self.database.close_pool()

    def __enter__(self) -> SessionFactory:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def get_sync_session(*, read_only: bool = False) -> AbstractContextManager[Session]:
    """A session on the database that the proxy stands for.

    Takes a connection, opens a transaction, commits at the end, rolls back on any exception and
    gives the connection back. Inside another session of the same thread it is a savepoint.

    A write transaction on SQLite makes other writers wait. `read_only=True` opens one that blocks
    nobody, sees one state of the data throughout, and cannot write.
    """
    return open_session(read_only=read_only)


def get_async_session(*, read_only: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
    """A session for asyncio, on the database that the proxy stands for.

        async with get_async_session() as session:
            task = await session.run(TaskRepository(session).get, "task-1")

    The same as `get_sync_session()` in all else. It belongs to the task that opens it. Needs the
    extra `hopper-data[async]`; a `DatabaseError` says so where it is missing.
    """
    from hopper_data.aio import open_async_session

    return open_async_session(read_only=read_only)


def run_in_transaction(
    fn: Callable[[Session], _T],
    *,
    database: Database | None = None,
    retries: int = 1,
    delay_s: float = 1.0,
) -> _T:
    """The result of `fn(session)`, run in a session of its own.

    When the connection drops, the server restarts, or the transaction loses a deadlock or a
    serialization race, all of it is rolled back and run again after `delay_s`, at most `retries`
    times; then the error is raised. `fn` may therefore run more than once. Inside another session
    there is no second try, since the outer transaction is lost with the inner one.
    """
    check_retries(retries, delay_s)
    target = database or proxy.obj
    if target._state.transactions:
        _end_abandoned(target)
    nested = target.transaction_depth() > 0
    attempts = 1 if nested else retries + 1
    for attempt in range(1, attempts + 1):
        try:
            with open_session(target) as session:
                return fn(session)
        except DatabaseError as error:
            if not error.retryable or attempt == attempts:
                raise
            logger.warning("transaction failed, trying again in %g s: %s", delay_s, error)
            time.sleep(delay_s)
    raise AssertionError("unreachable")


def check_retries(retries: Any, delay_s: Any) -> None:
    """A `ValidationError` for what `run_in_transaction()` cannot go by."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValidationError(f"retries is {shorten(retries)}; it must be 0 or more", "retries")
    if isinstance(delay_s, bool) or not isinstance(delay_s, int | float) or not delay_s >= 0:
        raise ValidationError(f"delay_s is {shorten(delay_s)}; it must be 0 or more", "delay_s")
