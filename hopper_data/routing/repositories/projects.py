"""Projects: the destinations of tasks, and what is going on in them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from peewee import SQL

from hopper_data.fields import dump_json, utcnow
from hopper_data.repository import Repository
from hopper_data.routing.arguments import distinct_texts
from hopper_data.routing.models import Project
from hopper_data.routing.schema import ACTIVE
from hopper_data.routing.vocabulary import TaskStatus

__all__ = ["ProjectRepository"]

_STATUSES = tuple(map(str, TaskStatus))


class ProjectRepository(Repository[Project]):
    """The registered projects. Lists are in the order of their names."""

    model = Project

    def get_by_slug(self, slug: str, /) -> Project | None:
        """The project with a slug, or None."""
        found = self.filter({"slug": slug}, limit=1)
        return found[0] if found else None

    def get_project_by_slug(self, slug: str, /) -> Project | None:
        """The same as `get_by_slug`."""
        return self.get_by_slug(slug)

    def get_projects_with_active_tasks(
        self, skip: int = 0, limit: int | None = None
    ) -> list[Project]:
        """The projects with a task that is neither completed, failed nor cancelled."""
        active = SQL(f'EXISTS (SELECT 1 FROM tasks WHERE project = "t1"."name" AND {ACTIVE})')
        return self._find(active, skip=skip, limit=limit)

    def get_project_statistics(self, name: str, /) -> dict[str, int]:
        """`total_tasks`, and the number of tasks in every status, zeros included.

        Counts the tasks that name the project, whether it is registered or not.
        """
        counts = dict(
            self._rows(
                "SELECT status, COUNT(*) FROM tasks WHERE project = ? GROUP BY status",
                Project.name.lookup_value(name),
            )
        )
        by_status = {status: int(counts.get(status, 0)) for status in _STATUSES}
        return {"total_tasks": sum(by_status.values()), **by_status}

    def get_auto_claim_projects(self, skip: int = 0, limit: int | None = None) -> list[Project]:
        """The projects that claim matching tasks by themselves."""
        return self.filter({"auto_claim": True}, skip, limit)

    def get_projects_by_executor_type(
        self, executor_type: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Project]:
        """The projects whose tasks are done by one kind of executor."""
        return self.filter({"executor_type": executor_type}, skip, limit)

    def find_projects_for(
        self,
        required_capabilities: str | Sequence[str] | None,
        skip: int = 0,
        limit: int | None = None,
    ) -> list[Project]:
        """The projects that have every one of some capabilities; all, when none is required.

        Every text in a project's `capabilities` is one, however deep: `["python"]` and
        `{"languages": ["python"]}` both have "python".
        """
        wanted = distinct_texts(
            () if required_capabilities is None else required_capabilities, Project.capabilities
        )
        return self._find(self._capable(wanted), skip=skip, limit=limit)

    def _capable(self, wanted: list[str]) -> SQL:
        if self.database.dialect == "sqlite":
            missing = (
                "SELECT 1 FROM json_each(?) AS wanted WHERE NOT EXISTS ("
                'SELECT 1 FROM json_tree("t1"."capabilities") AS had '
                "WHERE had.type = 'text' AND had.atom = wanted.value)"
            )
        else:
            missing = (
                "SELECT 1 FROM jsonb_array_elements(CAST(%s AS JSONB)) AS wanted WHERE "
                '"t1"."capabilities" IS NULL OR NOT jsonb_path_exists('
                '"t1"."capabilities", \'$.** ? (@ == $text)\', '
                "jsonb_build_object('text', wanted.value))"
            )
        return SQL(f"NOT EXISTS ({missing})", (dump_json(wanted),))

    def update_last_sync(self, name: str, /, at: datetime | None = None) -> Project | None:
        """Note that a project was synchronised, now or at a given time; None without a project."""
        return self.update(name, last_sync=at or utcnow())
