"""The package, as its guide shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from benchmarks.contenders import Rows
from benchmarks.data import RARE_WORD
from hopper_data import (
    HopperInstanceRepository,
    ProjectRepository,
    RoutingDecisionRepository,
    TaskRepository,
)
from hopper_data.database import Database
from hopper_data.session import Session, open_session


class Ours:
    name = "hopper_data"

    def __init__(self, database: Database) -> None:
        self.database = database
        self._cursors: dict[str, str | None] = {}
        self._session: Session

    def close(self) -> None:
        """The pool is the database's."""

    @contextmanager
    def reading(self) -> Iterator[None]:
        with open_session(self.database, read_only=True) as self._session:
            self._tasks = TaskRepository(self._session)
            yield

    def plain(self, record: Any) -> dict[str, Any]:
        values = record.__data__
        return {field.column_name: values.get(field.name) for field in record._meta.sorted_fields}

    # -- one row ----------------------------------------------------------------------------------

    def get(self, id: str) -> Any:
        return self._tasks.get(id)

    def get_alone(self, id: str) -> Any:
        with open_session(self.database, read_only=True) as session:
            return TaskRepository(session).get(id)

    def create_each(self, rows: Rows) -> list[Any]:
        made = []
        for row in rows:
            with open_session(self.database) as session:
                made.append(TaskRepository(session).create(**row))
        return made

    def create_together(self, rows: Rows) -> list[Any]:
        with open_session(self.database) as session:
            tasks = TaskRepository(session)
            return [tasks.create(**row) for row in rows]

    def update_together(self, owners: dict[str, str]) -> list[Any]:
        with open_session(self.database) as session:
            tasks = TaskRepository(session)
            return [tasks.update(key, owner=owner) for key, owner in owners.items()]

    # -- many rows --------------------------------------------------------------------------------

    def bulk_create(self, rows: Rows) -> list[Any]:
        with open_session(self.database) as session:
            return TaskRepository(session).bulk_create(rows)

    def bulk_update(self, rows: Rows) -> int:
        with open_session(self.database) as session:
            return TaskRepository(session).bulk_update(rows)

    def bulk_delete(self, ids: Sequence[str]) -> int:
        with open_session(self.database) as session:
            return TaskRepository(session).bulk_delete(ids)

    # -- lists ------------------------------------------------------------------------------------

    def newest(self, project: str, status: str) -> list[Any]:
        filters = {"project": project, "status": status}
        return self._tasks.filter(filters, limit=50, order_by="-created_at")

    def page(self, created_at: datetime, id: str) -> list[Any]:
        if id not in self._cursors:
            # What a caller has from the page before.
            before = {"created_at__gte": created_at}
            count = self._tasks.count(before)
            page = self._tasks.page(before, limit=count, order_by="-created_at")
            assert page.items[-1].id == id
            first = self._tasks.page(None, limit=count, order_by="-created_at")
            self._cursors[id] = first.next
        after = self._cursors[id]
        return self._tasks.page(None, limit=50, after=after, order_by="-created_at").items

    def tagged(self, tag: str) -> list[Any]:
        return self._tasks.get_tasks_by_tag(tag, limit=50)

    def search(self) -> list[Any]:
        return self._tasks.search_tasks(RARE_WORD, limit=50)

    def ready(self) -> list[Any]:
        return self._tasks.get_ready_tasks(limit=50)

    def rows(self, count: int) -> list[Any]:
        return self._tasks.get_all(limit=count)

    def active_projects(self) -> list[Any]:
        return ProjectRepository(self._session).get_projects_with_active_tasks()

    def hierarchy(self, id: str) -> list[Any]:
        return HopperInstanceRepository(self._session).get_instance_hierarchy(id)

    # -- numbers ----------------------------------------------------------------------------------

    def statistics(self, project: str) -> dict[str, int]:
        return ProjectRepository(self._session).get_project_statistics(project)

    def analytics(self) -> dict[str, Any]:
        return RoutingDecisionRepository(self._session).get_decision_analytics()
