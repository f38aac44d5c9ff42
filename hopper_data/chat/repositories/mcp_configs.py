"""MCP configs: how users reach the servers of the Model Context Protocol."""

from __future__ import annotations

from typing import Any

from hopper_data.chat.models import MCPConfig
from hopper_data.model import normalize_row
from hopper_data.repository import Repository

__all__ = ["MCPConfigRepository"]


class MCPConfigRepository(Repository[MCPConfig]):
    """The configs of all users; a user has one of a name."""

    model = MCPConfig

    def list_enabled(self, user_id: Any, /) -> list[MCPConfig]:
        """A user's configs that are enabled, by name."""
        return self.filter({"user_id": user_id, "enabled": True}, order_by="name")

    def enable(self, id: Any, /) -> MCPConfig | None:
        """Enable a config; None when there is no such config."""
        return self.update(id, enabled=True)

    def disable(self, id: Any, /) -> MCPConfig | None:
        """Disable a config; None when there is no such config."""
        return self.update(id, enabled=False)

    def upsert(
        self, user_id: Any = None, name: Any = None, config: Any = None, **fields: Any
    ) -> MCPConfig:
        """Give a user a config of this name, in place of the one the user has; the row then.

        All three must be given. A config that is there stays enabled or disabled, unless
        `enabled=` says otherwise. Right also when several callers do it at once.
        `IntegrityError` when there is no such user.
        """
        key = {"user_id": user_id, "name": name}
        row = normalize_row(MCPConfig, {**fields, **key, "config": config})
        with self._explaining([row]):
            return self._upsert(row, {*fields, "config"}, [MCPConfig.user, MCPConfig.name])
