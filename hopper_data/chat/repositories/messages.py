"""Messages: what is said in conversations, page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from hopper_data import fastpath, rowsets
from hopper_data.chat.models import Conversation, Message, Role
from hopper_data.errors import ValidationError
from hopper_data.fields import TICK, utcnow
from hopper_data.querying import after_cursor, parse_order
from hopper_data.repository import Page, Repository, as_rows, check_count

__all__ = ["MessageRepository"]

_NEWEST = "-created_at,-id"


class MessageRepository(Repository[Message]):
    """The messages of all conversations.

    `append` and `append_many` are how a conversation grows. `create` and `bulk_create` write rows
    as they are, such as those of another system with the times that they had there. However a
    message is written, `updated_at` of its conversation is not before it.
    """

    model = Message

    def append(
        self,
        conversation_id: Any,
        role: Role | str,
        content: str | None = None,
        *,
        tool_calls: Any = None,
        tool_results: Any = None,
    ) -> Message:
        """Add a message to a conversation, whose `updated_at` becomes the time of the message.

        `IntegrityError` when there is no such conversation.
        """
        row = {
            "role": role,
            "content": content,
            "tool_calls": tool_calls,
            "tool_results": tool_results,
        }
        return self.append_many(conversation_id, [row])[0]

    def append_many(
        self, conversation_id: Any, messages: Iterable[Mapping[str, Any]]
    ) -> list[Message]:
        """Add messages to a conversation in the order given, all or none; dicts of fields.

        As `append` does. Who else adds to the conversation waits until this session ends, so that
        no message ever appears before one that was there already.
        """
        rows = [self._row(conversation_id, message) for message in as_rows(messages)]
        if not rows:
            return []
        with self._explaining(rows, new=True), self.database.atomic():
            moment = self._next_moment(rows[0]["conversation"])
            for number, row in enumerate(rows):
                row["created_at"] = moment + number * TICK
            self._insert(rows)
        return [self._make(row) for row in rows]

    def _insert(self, rows: list[dict[str, Any]]) -> None:
        with self.database.atomic():
            super()._insert(rows)
            self._note_activity(rows)

    def _upsert(self, row: dict[str, Any], given: set[str], target: Sequence[Any]) -> Message:
        with self.database.atomic():
            message = super()._upsert(row, given, target)
            self._note_activity([message.__data__])
        return message

    def _row(self, conversation_id: Any, message: Mapping[str, Any]) -> dict[str, Any]:
        for name in ("created_at", "conversation_id", "conversation"):
            if name in message:
                raise ValidationError(
                    f"Message {name} is not for the message to say where it is appended; "
                    "write rows as they are with bulk_create()",
                    name,
                )
        return fastpath.new_row(Message, {**message, "conversation_id": conversation_id})

    def _next_moment(self, conversation: Any) -> datetime:
        """A time after that of every message that the conversation has; locks the conversation."""
        # On SQLite a transaction that writes is the only one.
        lock = "" if self.database.dialect == "sqlite" else " FOR NO KEY UPDATE"
        sql = (
            f"SELECT updated_at FROM {rowsets.table_name(Conversation, self.database)} "
            f"WHERE id = {self.database.param}{lock}"
        )
        found = self.database.execute_sql(sql, (str(conversation),)).fetchone()
        now = utcnow()
        if found is None:
            return now  # the INSERT will say so
        last: datetime = Conversation.updated_at.python_value(found[0])
        return max(now, last + TICK)

    def _note_activity(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Let the activity of conversations be that of their newest messages, where it is later."""
        newest: dict[Any, datetime] = {}
        for message in messages:
            conversation, moment = message["conversation"], message["created_at"]
            newest[conversation] = max(moment, newest.get(conversation, moment))
        fields = [Conversation.id, Conversation.updated_at]
        table = rowsets.table_name(Conversation, self.database)
        # In one order for all, so that no two writers wait for each other.
        lock = "" if self.database.dialect == "sqlite" else " ORDER BY c.id FOR NO KEY UPDATE OF c"
        sql = (
            f"UPDATE {table} SET updated_at = n.updated_at FROM (SELECT v.id, v.updated_at "
            f"FROM {rowsets.rowset(self.database, fields)} JOIN {table} AS c ON c.id = v.id "
            f"WHERE c.updated_at < v.updated_at{lock}) AS n WHERE {table}.id = n.id"
        )
        rows = [{"id": key, "updated_at": moment} for key, moment in newest.items()]
        for chunk in rowsets.chunks(rows):
            self.database.execute_sql(sql, (rowsets.document(fields, chunk),))

    def history(
        self, conversation_id: Any, limit: int = 50, before: str | None = None
    ) -> Page[Message]:
        """The newest messages of a conversation in reading order, oldest first.

        `next` of the page is the cursor to give as `before` for the messages before these, None
        when there are none. Messages that are appended meanwhile make no other one appear twice
        or be left out. A cursor is for the conversation whose page it comes from.
        """
        check_count(limit, "limit")
        keys = parse_order(Message, _NEWEST)
        scope = f"conversation {Message.conversation.lookup_value(conversation_id)}"
        query = self._filtered(self._select(), {"conversation_id": conversation_id})
        if before is not None:
            query = query.where(after_cursor(keys, before, "before", scope))
        rows = self._list(query.order_by(*(key.node() for key in keys)), 0, limit + 1)
        page = self._page(keys, rows, limit, scope)
        return Page(page.items[::-1], page.next)
