"""Those who are measured: each does the same work in its own best way, with the same answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

from hopper_data.database import Database

Rows = Sequence[dict[str, Any]]


class Contender(Protocol):
    """One way to work with the tables. Rows are records of whatever kind it gives its callers."""

    name: str

    def reading(self) -> AbstractContextManager[None]:
        """What is paid once for many reads."""

    def plain(self, record: Any) -> dict[str, Any]:
        """A record as values by column, to compare with those of others."""

    def get(self, id: str) -> Any: ...
    def get_alone(self, id: str) -> Any: ...
    def create_each(self, rows: Rows) -> list[Any]: ...
    def create_together(self, rows: Rows) -> list[Any]: ...
    def bulk_create(self, rows: Rows) -> list[Any]: ...
    def update_together(self, owners: dict[str, str]) -> list[Any]: ...
    def bulk_update(self, rows: Rows) -> int: ...
    def bulk_delete(self, ids: Sequence[str]) -> int: ...
    def newest(self, project: str, status: str) -> list[Any]: ...
    def page(self, created_at: datetime, id: str) -> list[Any]: ...
    def tagged(self, tag: str) -> list[Any]: ...
    def search(self) -> list[Any]: ...
    def ready(self) -> list[Any]: ...
    def active_projects(self) -> list[Any]: ...
    def statistics(self, project: str) -> dict[str, int]: ...
    def hierarchy(self, id: str) -> list[Any]: ...
    def analytics(self) -> dict[str, Any]: ...
    def rows(self, count: int) -> list[Any]: ...
    def close(self) -> None: ...


def contenders(database: Database, *, tuned: bool = False) -> list[Contender]:
    """All that are installed, the driver first and ours second.

    With `tuned` the driver is there once more, with all that ours does beneath.
    """
    from benchmarks.contenders.ours import Ours
    from benchmarks.contenders.plain import PlainPeewee
    from benchmarks.contenders.raw import RawPostgresql, RawSqlite, TunedPostgresql, TunedSqlite

    drivers: tuple[Callable[[Database], Contender], ...] = (RawSqlite, TunedSqlite)
    if database.dialect == "postgresql":
        drivers = (RawPostgresql, TunedPostgresql)
    makers: list[Callable[[Database], Contender]] = [drivers[0], Ours, *drivers[1 : 1 + tuned]]
    makers.append(PlainPeewee)
    if importlib.util.find_spec("sqlalchemy"):
        from benchmarks.contenders.orm import Alchemy

        makers.append(Alchemy)
    return [make(database) for make in makers]
