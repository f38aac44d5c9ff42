"""What the databases of both backends share."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import peewee

from hopper_data.config import DatabaseConfig, DatabaseURL
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError, DatabaseUnavailable
from hopper_data.pool import JUST_NOW_S, PooledConnections
from hopper_data.transactions import ReadOnlySavepoint, ReadOnlyTransaction, Savepoint, Transaction

__all__ = ["Database"]

logger = logging.getLogger("hopper_data")
_peewee_logger = logging.getLogger("peewee")

_LONGEST_LOGGED = 5_000

POSTGRESQL = "postgresql"
SQLITE = "sqlite"


class _Guard(threading.local):
    """What a thread knows of its connection, and of the transaction on it."""

    answered = 0.0
    """When the server has answered last."""
    # PostgreSQL
    begin = ""
    """The BEGIN that travels with the next statement."""
    number = 0
    """Of the last savepoint that was made for a statement."""
    open = False
    """Whether that savepoint is there."""
    covers_reads = False
    """Whether nothing was written since it was made."""
    # SQLite
    forbids = False
    """Whether the connection refuses writes."""
    forbids_late = False
    """Whether it will, before the next statement that is not a read of ours."""
    before: Any = None
    """Whether it did before that."""


class Database(PooledConnections):
    """What the databases of both backends share: settings, logging, errors, transactions.

    `dialect` is "sqlite" or "postgresql". `label` names the database in messages, without a
    password. `schema_prefix` comes before the names of the schemas that models ask for. Made by
    `create_database()`.
    """

    dialect: str
    schema_prefix = ""

    def _setup(self, config: DatabaseConfig, url: DatabaseURL) -> None:
        self.config = config
        self.url = url
        self.label = str(url)
        self._guard = _Guard()
        self._prepare_pool()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._guard = _Guard()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.label}>"

    def get_context_options(self) -> dict[str, Any]:
        # What nodes of ours that are written differently ask `ctx.state` for.
        options = super().get_context_options()
        return {**options, "dialect": self.dialect, "schema_prefix": self.schema_prefix}

    def connect(self, reuse_if_open: bool = False, *, for_session: bool = False) -> bool:
        try:
            return super().connect(reuse_if_open, for_session=for_session)
        except Exception:
            with translated(self):
                raise

    def _last_answer(self) -> float:
        return self._guard.answered

    def _note_answer(self, at: float) -> None:
        self._guard.answered = at

    def has_lost_connection(self) -> bool:
        """Whether the server has ended this thread's connection; asks only this machine."""
        return False

    def _may_be_lost(self) -> bool:
        """Whether this thread's connection is lost; one that has just answered is not asked."""
        silent_s = time.perf_counter() - self._guard.answered
        return silent_s > JUST_NOW_S and self.has_lost_connection()

    def _log_query(self, sql: str, params: Any) -> None:
        # Never the values: they may be credentials.
        if _peewee_logger.isEnabledFor(logging.DEBUG):
            _peewee_logger.debug((sql, f"{len(params or ())} parameters"))

    def _execute_cursor(self, sql: str, params: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            with translated(self):
                cursor = self._run_statement(sql, params, **options)
            self._guard.answered = time.perf_counter()
            return cursor
        except DatabaseUnavailable:
            if not self.in_transaction():
                # Peewee took a connection for this statement, and nobody would give it back.
                self.release()
            raise
        finally:
            self._log_statement(sql, start)

    def _log_statement(self, sql: str, start: float) -> None:
        elapsed_ms = (time.perf_counter() - start) * 1000
        if len(sql) > _LONGEST_LOGGED:
            sql = f"{sql[:_LONGEST_LOGGED]}…"
        if self.config.echo:
            logger.info("%s (%.1f ms)", sql, elapsed_ms)
        if elapsed_ms >= self.config.slow_query_ms:
            logger.warning("slow query, %.0f ms: %s", elapsed_ms, sql)

    def _run_statement(self, sql: str, params: Any, **options: Any) -> Any:
        return super()._execute_cursor(sql, params, **options)

    def begin(self, *args: Any, **kwargs: Any) -> None:
        with translated(self):
            super().begin(*args, **kwargs)

    def commit(self) -> None:
        with translated(self):
            super().commit()

    def rollback(self) -> None:
        # A connection that broke has rolled back already; the error that broke it is the news.
        try:
            super().rollback()
        except (peewee.PeeweeException, DatabaseError):
            logger.debug("rollback on a lost connection of %s", self.label, exc_info=True)

    def abandon(self) -> None:
        """Roll back a transaction that nobody will end, and forget what was to be done after it."""
        self._state.transactions.clear()
        self.rollback()

    def transaction(self, *args: Any, **kwargs: Any) -> Any:
        return Transaction(self, *args, **kwargs)

    def savepoint(self) -> Any:
        return Savepoint(self)

    def count_changes(self) -> int:
        """A number that moves on with each row that this thread's connection writes to SQLite."""
        return 0

    def begin_read_only(self) -> Any:
        """Begin a transaction for `read_only()`; what `allow_writes()` must be told after it."""
        raise NotImplementedError

    def forbid_writes(self) -> Any:
        """Refuse writes from now on in this transaction; what `allow_writes()` must be told."""

    def allow_writes(self, before: Any) -> None:
        """Be as it was before `forbid_writes()`, after the transaction or savepoint."""

    def is_missing(self) -> bool:
        """True for a SQLite file that is not there yet; the first connection makes it."""
        return False

    def read_only(self) -> AbstractContextManager[Any]:
        """A transaction that sees one state of the data, blocks no writer and cannot write.

        Inside another transaction it is a savepoint that cannot write.
        """
        return ReadOnlySavepoint(self) if self.in_transaction() else ReadOnlyTransaction(self)

    def statement_guard(self) -> AbstractContextManager[Any]:
        """Undoes one statement of unknown quality when it fails, and nothing else."""
        return nullcontext()

    def send(self, sql: str, params: Sequence[Any] = ()) -> Any:
        """The cursor of a statement of ours, straight from the driver where that may be.

        A statement of ours is about rows alone, not about transactions.
        """
        return self.execute_sql(sql, tuple(params))

    copies = False
    """Whether `copy_rows()` can be used."""

    def copy_rows(self, table: str, columns: str, rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows of parameters in a transaction; when one is refused, none."""
        raise NotImplementedError

    def fetch_all(self, sql: str, params: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query of ours that writes nothing."""
        with translated(self):
            rows: list[Any] = self.send(sql, params).fetchall()
        return rows

    def _note_time(self, sql: str, start: float) -> None:
        self._guard.answered = now = time.perf_counter()
        if (now - start) * 1000 >= self.config.slow_query_ms:
            self._log_statement(sql, start)

    def _is_watched(self) -> bool:
        """Whether somebody wants to see each statement."""
        return bool(
            self.query_hooks or self.config.echo or _peewee_logger.isEnabledFor(logging.DEBUG)
        )

    def fetch_sorted(self, sql: str) -> list[Any]:
        """The rows of a query of ours that sorts a whole table."""
        with self.sorting_on_disk():
            return self.fetch_all(sql)

    def sorting_on_disk(self) -> AbstractContextManager[Any]:
        """Inside the block, what needs much room takes it on disk, not in memory.

        SQLite also sorts many rows in half of the time there: it keeps them side by side, not each
        in a place of its own.
        """
        return nullcontext()

    def stream(self, sql: str, params: Any) -> Generator[Any, None, None]:
        """The rows of a query one by one, without holding all of them."""
        yield from self.execute_sql(sql, params)

    def release(self) -> None:
        """Give this thread's connection back to the pool, unless a transaction is open on it."""
        state = self._state
        if not (state.closed or state.transactions):
            self.close()
