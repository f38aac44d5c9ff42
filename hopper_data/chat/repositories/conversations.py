"""Conversations: lists with what was said last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hopper_data import rowsets
from hopper_data.chat.models import Conversation, Message
from hopper_data.repository import Repository, check_count

__all__ = ["ConversationRepository"]


class ConversationRepository(Repository[Conversation]):
    """The conversations of all users."""

    model = Conversation

    def list_for_user(
        self, user_id: Any, /, skip: int = 0, limit: int | None = None
    ) -> list[Conversation]:
        """A user's conversations, newest activity first, in one query.

        Each has `message_count`, and `last_message`: the newest message, None when there is none.
        """
        check_count(skip, "skip")
        if limit is not None and not check_count(limit, "limit"):
            return []
        sql = self._list_sql(skip, limit)
        user = Conversation.user.lookup_value(user_id)
        return [self._with_last(row) for row in self.database.execute_sql(sql, (user,)).fetchall()]

    def _list_sql(self, skip: int, limit: int | None) -> str:
        # Conversations are chosen first, so that messages are looked up for those of one page.
        database = self.database
        conversations = rowsets.table_name(Conversation, database)
        messages = rowsets.table_name(Message, database)
        no_limit = "-1" if database.dialect == "sqlite" else "ALL"
        return (
            f"SELECT {rowsets.columns(Conversation._meta.sorted_fields, 'c.')}, "
            f"(SELECT COUNT(*) FROM {messages} AS n WHERE n.conversation_id = c.id), "
            f"{rowsets.columns(Message._meta.sorted_fields, 'm.')} "
            f"FROM (SELECT * FROM {conversations} WHERE user_id = {database.param} "
            f"ORDER BY updated_at DESC, id LIMIT {no_limit if limit is None else limit} "
            f"OFFSET {skip}) AS c "
            f"LEFT JOIN {messages} AS m ON m.id = (SELECT l.id FROM {messages} AS l "
            "WHERE l.conversation_id = c.id ORDER BY l.created_at DESC, l.id DESC LIMIT 1) "
            "ORDER BY c.updated_at DESC, c.id"
        )

    def _with_last(self, row: Sequence[Any]) -> Conversation:
        width = len(Conversation._meta.sorted_fields)
        conversation = self._from_row(row[:width])
        conversation.message_count = int(row[width])
        fields = Message._meta.sorted_fields
        if row[width + 1] is not None:
            last = Message(__no_default__=True)
            values = zip(fields, row[width + 1 :], strict=True)
            last.__data__.update({field.name: field.python_value(value) for field, value in values})
            conversation.last_message = last
        return conversation

    def rename(self, id: Any, title: str, /) -> Conversation | None:
        """Give a conversation another title; None when there is no such conversation."""
        return self.update(id, title=title)
