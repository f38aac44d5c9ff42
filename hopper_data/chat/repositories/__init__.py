"""The repositories of the chat domain."""

from hopper_data.chat.repositories.conversations import ConversationRepository
from hopper_data.chat.repositories.mcp_configs import MCPConfigRepository
from hopper_data.chat.repositories.messages import MessageRepository
from hopper_data.chat.repositories.users import UserRepository

__all__ = [
    "ConversationRepository",
    "MCPConfigRepository",
    "MessageRepository",
    "UserRepository",
]
