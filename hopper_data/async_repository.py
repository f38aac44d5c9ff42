"""What the asynchronous faces of all repositories share. Made by `make async`; do not edit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from hopper_data.aio import AsyncSession
from hopper_data.model import BaseModel
from hopper_data.repository import Filters, Page, Repository

__all__ = ["AsyncRepository"]

M = TypeVar("M", bound=BaseModel)


class AsyncRepository(Generic[M]):
    """The rows of one model, in one asynchronous session: `await tasks.get(id)`."""

    repository: ClassVar[type[Repository[Any]]]

    def __init__(self, session: AsyncSession, **options: Any) -> None:
        self.session = session
        self._sync: Any = self.repository(session, **options)

    async def get(self, id: Any, /) -> M | None:
        """The row with this primary key, or None."""
        return await self.session.run(self._sync.get, id)

    async def get_or_raise(self, id: Any, /) -> M:
        """The row with this primary key; `NotFound` when there is none."""
        return await self.session.run(self._sync.get_or_raise, id)

    async def get_all(
        self, skip: int = 0, limit: int | None = None, order_by: str | Sequence[str] | None = None
    ) -> list[M]:
        """All rows, in the given order. `limit=None` means no limit."""
        return await self.session.run(self._sync.get_all, skip, limit, order_by)

    async def filter(
        self,
        filters: Filters | None = None,
        skip: int = 0,
        limit: int | None = None,
        order_by: str | Sequence[str] | None = None,
    ) -> list[M]:
        """The rows that meet every filter, in the given order."""
        return await self.session.run(self._sync.filter, filters, skip, limit, order_by)

    async def page(
        self,
        filters: Filters | None = None,
        limit: int = 50,
        after: str | None = None,
        order_by: str | Sequence[str] | None = None,
    ) -> Page[M]:
        """One page of the rows that meet the filters, from behind the cursor `after`."""
        return await self.session.run(self._sync.page, filters, limit, after, order_by)

    def iterate(
        self, filters: Filters | None = None, order_by: str | Sequence[str] | None = None
    ) -> AsyncIterator[M]:
        """The rows that meet the filters, one by one, as they were when the first was asked for."""
        return self.session.stream(self._sync.iterate, filters, order_by)

    async def count(self, filters: Filters | None = None) -> int:
        """How many rows meet the filters."""
        return await self.session.run(self._sync.count, filters)

    async def exists(self, id: Any, /) -> bool:
        """Whether there is a row with this primary key."""
        return await self.session.run(self._sync.exists, id)

    async def create(self, /, **fields: Any) -> M:
        """Insert a row and return it. `IntegrityError` when a key is taken or a parent missing."""
        return await self.session.run(self._sync.create, **fields)

    async def update(self, id: Any, /, **fields: Any) -> M | None:
        """Set some fields of a row and return it as it is then; None when there is no such row."""
        return await self.session.run(self._sync.update, id, **fields)

    async def delete(self, id: Any, /) -> bool:
        """Delete a row; whether there was one."""
        return await self.session.run(self._sync.delete, id)

    async def upsert(self, /, **fields: Any) -> M:
        """Insert a row, or set the given fields of the row with its key; the row as it is then."""
        return await self.session.run(self._sync.upsert, **fields)

    async def bulk_create(self, rows: Iterable[Mapping[str, Any]]) -> list[M]:
        """Insert many rows, all or none, and return them in the order given."""
        return await self.session.run(self._sync.bulk_create, rows)

    async def bulk_update(self, rows: Iterable[Mapping[str, Any]]) -> int:
        """Set fields of many rows, all or none; each dict has the key and what is to change."""
        return await self.session.run(self._sync.bulk_update, rows)

    async def bulk_delete(self, ids: Iterable[Any]) -> int:
        """Delete many rows, all or none; the number of rows that were there."""
        return await self.session.run(self._sync.bulk_delete, ids)
