"""Chat: users, conversations, messages and MCP configs.

A person says something in a new conversation::

    with get_sync_session() as session:
        user = UserRepository(session).get_or_create_from_claims("auth0|1", "ada@example.com")
        chat = ConversationRepository(session).create(user_id=user.id)
        MessageRepository(session).append(chat.id, "user", "Hello")
"""

from hopper_data.chat.models import Conversation, MCPConfig, Message, Role, User
from hopper_data.chat.repositories import (
    ConversationRepository,
    MCPConfigRepository,
    MessageRepository,
    UserRepository,
)

__all__ = [
    "Conversation",
    "ConversationRepository",
    "MCPConfig",
    "MCPConfigRepository",
    "Message",
    "MessageRepository",
    "Role",
    "User",
    "UserRepository",
]
