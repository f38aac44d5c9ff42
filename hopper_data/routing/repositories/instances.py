"""Hopper instances: a hierarchy of running Hoppers."""

from __future__ import annotations

from hopper_data.errors import InvalidTransition
from hopper_data.fields import utcnow
from hopper_data.routing.circles import INSTANCE_PARENTS, AcyclicRepository
from hopper_data.routing.models import HopperInstance
from hopper_data.routing.vocabulary import InstanceScope, InstanceStatus
from hopper_data.rowsets import columns

__all__ = ["HopperInstanceRepository"]

_BY_NAME = "name"
_MAX_DEPTH = 10_000


class HopperInstanceRepository(AcyclicRepository[HopperInstance]):
    """The Hopper instances. Lists are in the order of their names.

    No instance may come to stand under itself, by whichever way its parent is written.
    """

    model = HopperInstance
    references = INSTANCE_PARENTS

    def get_instance_by_scope_and_name(
        self, scope: InstanceScope | str, name: str, /
    ) -> HopperInstance | None:
        """The instance of a scope with a name, the oldest if there are several; or None."""
        found = self.filter({"scope": scope, "name": name}, limit=1, order_by="created_at")
        return found[0] if found else None

    def get_child_instances(
        self, parent_id: str, /, skip: int = 0, limit: int | None = None
    ) -> list[HopperInstance]:
        """The instances right under one."""
        return self.filter({"parent_id": parent_id}, skip, limit, _BY_NAME)

    def get_root_instances(self, skip: int = 0, limit: int | None = None) -> list[HopperInstance]:
        """The instances that stand under none."""
        return self.filter({"parent_id": None}, skip, limit, _BY_NAME)

    def get_active_instances(self, skip: int = 0, limit: int | None = None) -> list[HopperInstance]:
        """The instances that are neither paused nor terminated."""
        return self.filter({"status": InstanceStatus.ACTIVE}, skip, limit, _BY_NAME)

    def get_instance_hierarchy(self, id: str, /) -> list[HopperInstance]:
        """The root above an instance, down to the instance, then all that stands under it.

        What is under it comes level by level, each level by name. Empty when there is no such
        instance. One query, which ends even where the data has a circle.
        """
        fields = HopperInstance._meta.sorted_fields
        sql = f"""
            WITH RECURSIVE
            above(id, parent_id, depth) AS (
                SELECT id, parent_id, 0 FROM hopper_instances WHERE id = ?
                UNION
                SELECT up.id, up.parent_id, above.depth - 1 FROM above
                JOIN hopper_instances AS up ON up.id = above.parent_id
                WHERE above.depth > -{_MAX_DEPTH}
            ),
            below(id, depth) AS (
                SELECT id, 0 FROM hopper_instances WHERE id = ?
                UNION
                SELECT down.id, below.depth + 1 FROM below
                JOIN hopper_instances AS down ON down.parent_id = below.id
                WHERE below.depth < {_MAX_DEPTH}
            ),
            found(id, depth) AS (
                SELECT id, MAX(depth) FROM above GROUP BY id
                UNION ALL
                SELECT id, MIN(depth) FROM below WHERE depth > 0
                AND id NOT IN (SELECT id FROM above) GROUP BY id
            )
            SELECT {columns(fields, "i.")} FROM found
            JOIN hopper_instances AS i ON i.id = found.id
            ORDER BY found.depth, i.name, i.id"""
        key = self._key(id)["id"]
        return self._models(sql.replace("?", self.database.param), (key, key))

    def move_instance(self, id: str, parent_id: str | None, /) -> HopperInstance | None:
        """Put an instance, with all that stands under it, under another one or under none.

        None when there is no such instance; a `ValidationError` when it would come to stand
        under itself.
        """
        return self.update(id, parent_id=parent_id)

    def pause_instance(self, id: str, /) -> HopperInstance | None:
        """Let an instance rest; None when there is no such instance."""
        return self._move_on(id, InstanceStatus.PAUSED)

    def resume_instance(self, id: str, /) -> HopperInstance | None:
        """Let a paused instance work again; None when there is no such instance."""
        return self._move_on(id, InstanceStatus.ACTIVE)

    def terminate_instance(self, id: str, /) -> HopperInstance | None:
        """End an instance and note the time; None when there is no such instance.

        An instance that has ended keeps the time of its end.
        """
        with self.database.atomic():
            instance = self.get(id)
            if instance is None or instance.terminated_at is not None:
                return instance
            return self.update(id, status=InstanceStatus.TERMINATED, terminated_at=utcnow())

    def _move_on(self, id: str, status: InstanceStatus) -> HopperInstance | None:
        with self.database.atomic():
            instance = self.get(id)
            if instance is not None and instance.status == InstanceStatus.TERMINATED:
                raise InvalidTransition(instance.status, status, subject="HopperInstance status")
            return self.update(id, status=status)
