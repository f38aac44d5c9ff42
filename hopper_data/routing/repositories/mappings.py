"""External mappings: the issues on other platforms that tasks stand for."""

from __future__ import annotations

from hopper_data.repository import Repository
from hopper_data.routing.models import ExternalMapping

__all__ = ["ExternalMappingRepository"]


class ExternalMappingRepository(Repository[ExternalMapping]):
    """The mappings, at most one for a task and a platform. The key is `(task_id, platform)`."""

    model = ExternalMapping

    def link(
        self, task_id: str, platform: str, external_id: str, external_url: str | None = None
    ) -> ExternalMapping:
        """Link a task to an issue on a platform; the link that the task had there is replaced.

        Doing it again changes nothing. `IntegrityError` when there is no such task.
        """
        return self.upsert(
            task_id=task_id, platform=platform, external_id=external_id, external_url=external_url
        )

    def unlink(self, task_id: str, platform: str) -> bool:
        """Take a task's link to a platform away; whether there was one."""
        return self.delete((task_id, platform))

    def get_by_external_id(self, platform: str, external_id: str) -> ExternalMapping | None:
        """The mapping of an issue, or None; the first by task when several tasks stand for it."""
        found = self.filter(
            {"platform": platform, "external_id": external_id}, limit=1, order_by="task_id"
        )
        return found[0] if found else None

    def get_mappings_by_task(self, task_id: str) -> list[ExternalMapping]:
        """The issues that a task stands for, by platform."""
        return self.filter({"task_id": task_id})
