"""Transactions and savepoints, where Peewee's own fall short."""

from __future__ import annotations

import logging
from typing import Any

import peewee

from hopper_data.errors import DatabaseError

__all__ = ["ReadOnlySavepoint", "ReadOnlyTransaction", "Savepoint", "Transaction"]

logger = logging.getLogger("hopper_data")


class Transaction(peewee._transaction):
    """Peewee's, in fewer steps, since every session pays for them."""

    session: Any = None
    """The session whose transaction it is."""
    _begin: Any

    def __enter__(self) -> Any:
        state = self.db._state
        if not state.transactions:
            self._begin()
        state.transactions.append(self)
        return self

    def __exit__(self, exc_type: Any, *exc_info: Any) -> None:
        state = self.db._state
        state.transactions.pop()
        if state.transactions:
            return
        if exc_type:
            self.rollback(begin=False)
            return
        try:
            self.db.commit()
            if state.commit_callbacks:
                self.db._run_commit_callbacks()
        except Exception:
            self.rollback(begin=False)
            raise


class Savepoint(peewee._savepoint):
    """Peewee's, whose end does not hide the error that broke the connection."""

    def __exit__(self, exc_type: Any, *exc_info: Any) -> None:
        if exc_type is None:
            super().__exit__(exc_type, *exc_info)
            return
        try:
            self.rollback(begin=False)
        except DatabaseError:
            logger.debug("no savepoint to return to in %s", self.db.label, exc_info=True)


class ReadOnlyTransaction(Transaction):
    """A transaction that cannot write."""

    _before: Any = None

    def _begin(self) -> None:
        self._before = self.db.begin_read_only()

    def __exit__(self, *exc_info: Any) -> None:
        try:
            super().__exit__(*exc_info)
        finally:
            self.db.allow_writes(self._before)


class ReadOnlySavepoint(Savepoint):
    """A savepoint that cannot write."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self._before = self.db.forbid_writes()
        return entered

    def __exit__(self, *exc_info: Any) -> None:
        try:
            super().__exit__(*exc_info)
        finally:
            self.db.allow_writes(self._before)
