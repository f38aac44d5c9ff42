"""The four tables of the chat domain, in the schema `faceplate` where there are schemas."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import peewee
from peewee import fn

from hopper_data.fields import (
    BooleanField,
    CharField,
    EnumField,
    ForeignKeyField,
    JSONField,
    PatternsAreText,
    TextField,
    UTCDateTimeField,
    UUID7Field,
    refuse,
    utcnow,
)
from hopper_data.model import BaseModel, Rule

__all__ = ["CHAT_MODELS", "Conversation", "MCPConfig", "Message", "Role", "User"]

NAMESPACE = "faceplate"


class Role(StrEnum):
    """Who speaks in a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


# Local part, and a domain of at least two labels. Letters of any script, no quoted local parts.
_EMAIL = re.compile(
    r"[\w!#$%&'*+/=?^`{|}~-]+(\.[\w!#$%&'*+/=?^`{|}~-]+)*"
    r"@([^\W_]([\w-]{0,61}[^\W_])?\.)+[^\W_]([\w-]{0,61}[^\W_])?"
)
_MAX_LOCAL_PART = 64


class EmailField(PatternsAreText, CharField[str]):
    """An address of email, kept as it was given."""

    folds_case = True

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> Any:
        text = super().normalize(value, field)
        if not _EMAIL.fullmatch(text) or text.index("@") > _MAX_LOCAL_PART:
            raise refuse(field or self, text, "is not an email address, such as ada@example.com")
        return text


class User(BaseModel):
    """A person who chats, as an identity provider knows them."""

    id = UUID7Field(primary_key=True)
    email = EmailField(255)
    subject_id = CharField(255)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)

    if TYPE_CHECKING:
        conversations: Any
        mcp_configs: Any

    class Meta:
        namespace = NAMESPACE
        table_name = "users"


# The column sorts and folds by code point, so that only A to Z have two cases, on both backends.
User.add_index(fn.LOWER(User.email), unique=True, name="idx_faceplate_users_email")
User.add_index(User.subject_id, unique=True, name="idx_faceplate_users_subject_id")


class Conversation(BaseModel):
    """A conversation of one user. `updated_at` is when it was last active.

    `message_count` and `last_message` are what `ConversationRepository.list_for_user` brings
    along; elsewhere both are None.
    """

    message_count: int | None = None
    last_message: Message | None = None

    id = UUID7Field(primary_key=True)
    user = ForeignKeyField(
        User, column_name="user_id", backref="conversations", on_delete="CASCADE", index=False
    )
    title = CharField(255, default="New Chat", server_default=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)

    if TYPE_CHECKING:
        user_id: Any
        messages: Any

    class Meta:
        namespace = NAMESPACE
        table_name = "conversations"

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-ready data, with `message_count` and `last_message` where they are."""
        row = super().to_dict()
        if self.message_count is None:
            return row
        last = self.last_message and self.last_message.to_dict()
        return {**row, "message_count": self.message_count, "last_message": last}


Conversation.add_index(Conversation.user, name="idx_faceplate_conversations_user_id")


def _has_calls(row: Mapping[str, Any]) -> bool:
    return row.get("tool_calls") not in (None, [], {})


class Message(BaseModel):
    """What somebody said in a conversation, what an assistant called, or what a tool answered."""

    id = UUID7Field(primary_key=True)
    conversation = ForeignKeyField(
        Conversation,
        column_name="conversation_id",
        backref="messages",
        on_delete="CASCADE",
        index=False,
    )
    role = EnumField(Role, 20)
    content = TextField(null=True)
    tool_calls = JSONField(null=True)
    tool_results = JSONField(null=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)

    if TYPE_CHECKING:
        conversation_id: Any

    class Meta:
        namespace = NAMESPACE
        table_name = "messages"
        rules = (
            Rule(
                name="tool_results",
                field="tool_results",
                message="tool_results is missing; a message of role 'tool' carries them",
                sql='"role" <> \'tool\' OR "tool_results" IS NOT NULL',
                holds=lambda row: row["role"] != Role.TOOL or row.get("tool_results") is not None,
            ),
            Rule(
                name="tool_calls",
                field="tool_calls",
                message="tool_calls is given; only a message of role 'assistant' carries them",
                sql='"role" = \'assistant\' OR "tool_calls" IS NULL',
                holds=lambda row: row["role"] == Role.ASSISTANT or row.get("tool_calls") is None,
            ),
            Rule(
                name="content",
                field="content",
                message="content is missing; a message has content, tool_calls or tool_results",
                sql="coalesce(\"content\", '') <> '' OR \"tool_results\" IS NOT NULL "
                "OR coalesce(\"tool_calls\", '[]') NOT IN ('[]', '{}')",
                holds=lambda row: bool(
                    row.get("content") or row.get("tool_results") is not None or _has_calls(row)
                ),
            ),
        )


Message.add_index(Message.conversation, name="idx_faceplate_messages_conversation_id")
Message.add_index(Message.created_at, name="idx_faceplate_messages_created_at")


class MCPConfig(BaseModel):
    """How a user reaches a server of the Model Context Protocol.

    `config` holds credentials. It is never logged, and shown only to who asks for it.
    """

    id = UUID7Field(primary_key=True)
    user = ForeignKeyField(
        User, column_name="user_id", backref="mcp_configs", on_delete="CASCADE", index=False
    )
    name = CharField(100)
    config = JSONField(secret=True)
    enabled = BooleanField(default=True, server_default=True)
    created_at = UTCDateTimeField(default=utcnow, server_default=True)
    updated_at = UTCDateTimeField(default=utcnow, server_default=True)

    if TYPE_CHECKING:
        user_id: Any

    class Meta:
        namespace = NAMESPACE
        table_name = "mcp_configs"

    def to_dict(self, *, include_config: bool = False) -> dict[str, Any]:
        """The row as JSON-ready data, `config` masked unless `include_config` is true."""
        row = super().to_dict()
        return {**row, "config": self.config} if include_config else row


MCPConfig.add_index(MCPConfig.user, name="idx_faceplate_mcp_configs_user_id")
MCPConfig.add_index(
    MCPConfig.user, MCPConfig.name, unique=True, name="idx_faceplate_mcp_configs_user_id_name"
)

CHAT_MODELS: tuple[type[BaseModel], ...] = (User, Conversation, Message, MCPConfig)
"""The domain's models, parents first."""
