"""The asynchronous faces of the chat repositories. Made by `make async`; do not edit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hopper_data.async_repository import AsyncRepository
from hopper_data.chat.models import Conversation, MCPConfig, Message, Role, User
from hopper_data.chat.repositories.conversations import ConversationRepository
from hopper_data.chat.repositories.mcp_configs import MCPConfigRepository
from hopper_data.chat.repositories.messages import MessageRepository
from hopper_data.chat.repositories.users import UserRepository
from hopper_data.repository import Page

__all__ = [
    "AsyncConversationRepository",
    "AsyncMCPConfigRepository",
    "AsyncMessageRepository",
    "AsyncUserRepository",
]


class AsyncConversationRepository(AsyncRepository[Conversation]):
    """`ConversationRepository`, for asyncio."""

    repository = ConversationRepository

    async def list_for_user(
        self, user_id: Any, /, skip: int = 0, limit: int | None = None
    ) -> list[Conversation]:
        """A user's conversations, newest activity first, in one query."""
        return await self.session.run(self._sync.list_for_user, user_id, skip, limit)

    async def rename(self, id: Any, title: str, /) -> Conversation | None:
        """Give a conversation another title; None when there is no such conversation."""
        return await self.session.run(self._sync.rename, id, title)


class AsyncMCPConfigRepository(AsyncRepository[MCPConfig]):
    """`MCPConfigRepository`, for asyncio."""

    repository = MCPConfigRepository

    async def list_enabled(self, user_id: Any, /) -> list[MCPConfig]:
        """A user's configs that are enabled, by name."""
        return await self.session.run(self._sync.list_enabled, user_id)

    async def enable(self, id: Any, /) -> MCPConfig | None:
        """Enable a config; None when there is no such config."""
        return await self.session.run(self._sync.enable, id)

    async def disable(self, id: Any, /) -> MCPConfig | None:
        """Disable a config; None when there is no such config."""
        return await self.session.run(self._sync.disable, id)

    async def upsert(
        self, user_id: Any = None, name: Any = None, config: Any = None, **fields: Any
    ) -> MCPConfig:
        """Give a user a config of this name, in place of the one the user has; the row then."""
        return await self.session.run(self._sync.upsert, user_id, name, config, **fields)


class AsyncMessageRepository(AsyncRepository[Message]):
    """`MessageRepository`, for asyncio."""

    repository = MessageRepository

    async def append(
        self,
        conversation_id: Any,
        role: Role | str,
        content: str | None = None,
        *,
        tool_calls: Any = None,
        tool_results: Any = None,
    ) -> Message:
        """Add a message to a conversation, whose `updated_at` becomes the time of the message."""
        return await self.session.run(
            self._sync.append,
            conversation_id,
            role,
            content,
            tool_calls=tool_calls,
            tool_results=tool_results,
        )

    async def append_many(
        self, conversation_id: Any, messages: Iterable[Mapping[str, Any]]
    ) -> list[Message]:
        """Add messages to a conversation in the order given, all or none; dicts of fields."""
        return await self.session.run(self._sync.append_many, conversation_id, messages)

    async def history(
        self, conversation_id: Any, limit: int = 50, before: str | None = None
    ) -> Page[Message]:
        """The newest messages of a conversation in reading order, oldest first."""
        return await self.session.run(self._sync.history, conversation_id, limit, before)


class AsyncUserRepository(AsyncRepository[User]):
    """`UserRepository`, for asyncio."""

    repository = UserRepository

    async def get_by_email(self, email: str, /) -> User | None:
        """The user with an email, whatever its case, or None."""
        return await self.session.run(self._sync.get_by_email, email)

    async def get_by_subject_id(self, subject_id: str, /) -> User | None:
        """The user whom the identity provider knows as `subject_id`, or None."""
        return await self.session.run(self._sync.get_by_subject_id, subject_id)

    async def get_or_create_from_claims(self, subject_id: str, email: str) -> User:
        """The user whom a token is about: made when unknown, and with the token's email."""
        return await self.session.run(self._sync.get_or_create_from_claims, subject_id, email)
