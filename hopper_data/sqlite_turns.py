"""How the writers of a SQLite file take turns."""

from __future__ import annotations

import sqlite3
import time

__all__ = ["CHECKPOINT_PAGES", "FileConnection"]

CHECKPOINT_PAGES = 4000
"""After so many pages a writer brings the log into the file, and waits for the disk.

SQLite's own 1,000 are some fifty claims; reads cost the same with 4,000, or 16 MB.
"""

_NEWCOMER_S, _WAITED_S, _NEXT_S = 0.006, 0.024, 0.0006
_LONG_S = 0.02


class FileConnection(sqlite3.Connection):
    """A connection to a SQLite file.

    SQLite's own way to wait for a lock sleeps up to 100 ms at a time, so that newcomers overtake,
    and some writers wait for seconds. So a writer that takes its turn switches it off. In WAL mode,
    where nothing else waits inside a transaction, it stays off until it is needed: to switch it
    costs as much as to begin.

    A newcomer leaves the others time for several transactions, since one that follows its own finds
    the pages that it needs where it left them. Whoever has waited for a while asks ever again, and
    is next. After a long transaction, in which others will have waited, so long a pause is left
    for them.
    """

    in_wal = False
    is_shown = False
    """Whether a caller has it, who may wait for a lock at any time."""
    _waits = True
    _is_interrupted = False
    _began = _ended = 0.0

    def begin_in_turn(self, timeout_ms: int) -> None:
        """BEGIN IMMEDIATE, tried again after a short random time for as long as others write."""
        if self._ended - self._began > _LONG_S and time.monotonic() - self._ended < 2 * _NEXT_S:
            time.sleep(2 * _NEXT_S)
        if self._waits:
            self._waits = False  # first, since an interrupt may come at any time
            self.execute("PRAGMA busy_timeout = 0")
        try:
            self.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            self._try_again(error, timeout_ms)
        finally:
            self._began = time.monotonic()
            if self.is_shown or not self.in_wal:
                self.wait_again(timeout_ms)

    def _try_again(self, error: sqlite3.OperationalError, timeout_ms: int) -> None:
        from random import uniform

        self._is_interrupted = False
        start, limit_s, waited_s = time.monotonic(), timeout_ms / 1000, 0.0
        while error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY and waited_s < limit_s:
            if self._is_interrupted:
                break
            about_s = _NEWCOMER_S if waited_s < _WAITED_S else _NEXT_S
            pause_s = about_s * uniform(0.5, 1.5)  # noqa: S311  # no secret
            time.sleep(min(pause_s, limit_s - waited_s))
            waited_s = time.monotonic() - start
            try:
                self.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as another:
                error = another
            else:
                return
        raise error

    def interrupt(self) -> None:
        """End what another thread does with it; also where that waits for its turn."""
        self._is_interrupted = True
        super().interrupt()

    def note_end(self) -> None:
        """A transaction has just ended."""
        self._ended = time.monotonic()

    def wait_again(self, timeout_ms: int) -> None:
        """Let SQLite wait for locks by itself."""
        if not self._waits:
            self.execute(f"PRAGMA busy_timeout = {timeout_ms:d}")
            self._waits = True
