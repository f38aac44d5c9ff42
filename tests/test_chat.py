"""Users, conversations, messages and MCP configs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import IntegrityError, Page, Session, ValidationError, create_database, using
from hopper_data.chat import (
    Conversation,
    ConversationRepository,
    MCPConfig,
    MCPConfigRepository,
    Message,
    MessageRepository,
    Role,
    User,
    UserRepository,
)
from hopper_data.database import Database
from hopper_data.session import open_session

RACERS = 16
OLD = datetime(2020, 1, 1, tzinfo=UTC)


def add_user(session: Session, name: str = "ada") -> User:
    return UserRepository(session).create(email=f"{name}@example.com", subject_id=f"auth0|{name}")


def add_conversation(session: Session, name: str = "ada", **fields: Any) -> Conversation:
    user = UserRepository(session).get_by_subject_id(f"auth0|{name}") or add_user(session, name)
    return ConversationRepository(session).create(user_id=user.id, **fields)


def race(database: Database, job: Callable[[Session, int], Any]) -> list[Any]:
    """The results, or the errors, of a job that many threads begin at once."""
    barrier = threading.Barrier(RACERS)

    def run(number: int) -> Any:
        barrier.wait(30)
        try:
            with open_session(database) as session:
                return job(session, number)
        except IntegrityError as error:
            return error

    with ThreadPoolExecutor(RACERS) as pool:
        return list(pool.map(run, range(RACERS)))


# -- users ----------------------------------------------------------------------------------------


def test_a_user_has_a_key_of_version_7_and_a_time(session: Session) -> None:
    user = add_user(session)
    assert isinstance(user.id, UUID)
    assert user.id.version == 7
    assert user.created_at.tzinfo is UTC
    assert UserRepository(session).get_or_raise(user.id) == user
    assert UserRepository(session).get(str(user.id)) == user
    assert user.to_dict() == {
        "id": str(user.id),
        "email": "ada@example.com",
        "subject_id": "auth0|ada",
        "created_at": user.created_at.isoformat().replace("+00:00", "Z"),
    }


def test_keys_rise_in_the_order_of_their_making(session: Session) -> None:
    rows = [{"email": f"u{n}@example.com", "subject_id": str(n)} for n in range(50)]
    users = UserRepository(session).bulk_create(rows)
    assert [user.id for user in users] == sorted(user.id for user in users)
    assert UserRepository(session).get_all() == users


def test_an_email_is_kept_as_given_and_found_whatever_its_case(session: Session) -> None:
    users = UserRepository(session)
    user = users.create(email="Ada.Lovelace@Example.COM", subject_id="1")
    assert users.get_or_raise(user.id).email == "Ada.Lovelace@Example.COM"
    assert users.get_by_email("ada.lovelace@example.com") == user
    assert users.get_by_email("ADA.LOVELACE@EXAMPLE.COM") == user
    assert users.get_by_email("nobody@example.com") is None
    assert users.get_by_email("not an address") is None


def test_only_the_case_of_a_to_z_does_not_count(session: Session) -> None:
    users = UserRepository(session)
    small = users.create(email="müller@example.com", subject_id="1")
    large = users.create(email="mÜller@example.com", subject_id="2")
    assert users.get_by_email("MüLLER@example.com") == small
    assert users.get_by_email("MÜLLER@example.com") == large


def test_an_email_belongs_to_one_user_whatever_its_case(session: Session) -> None:
    users = UserRepository(session)
    add_user(session)
    with pytest.raises(
        IntegrityError, match=r"User email 'ADA@example\.com' is already taken"
    ) as e:
        users.create(email="ADA@example.com", subject_id="2")
    assert e.value.constraint == "idx_faceplate_users_email"
    assert users.count() == 1


def test_a_bulk_write_names_the_email_that_is_taken(session: Session) -> None:
    users = UserRepository(session)
    add_user(session)
    new = [
        {"email": f"{name}@example.com", "subject_id": name}
        for name in ("bob", "Eve", "ADA", "eve")
    ]
    with pytest.raises(IntegrityError, match=r"User email 'ADA@example\.com' is already taken"):
        users.bulk_create(new)
    with pytest.raises(IntegrityError, match=r"User email 'eve@example\.com' is already taken"):
        users.bulk_create([row for row in new if row["subject_id"] != "ADA"])
    assert users.count() == 1


def test_a_subject_is_one_user(session: Session) -> None:
    user = add_user(session)
    users = UserRepository(session)
    with pytest.raises(IntegrityError, match=r"User subject_id 'auth0\|ada' is already taken"):
        users.create(email="other@example.com", subject_id="auth0|ada")
    assert users.get_by_subject_id("auth0|ada") == user
    assert users.get_by_subject_id("auth0|ADA") is None


@pytest.mark.parametrize(
    "email",
    [
        "a@example.com",
        "first.last+tag@sub.example.co.uk",
        "o'brien@example.com",
        "user_1%x@ex-ample.org",
        "jürgen@müller.example",
        "x" * 64 + "@example.com",
    ],
)
def test_addresses_that_are_valid(email: str, database: Database) -> None:
    with open_session(database) as session:
        assert UserRepository(session).create(email=email, subject_id="1").email == email


@pytest.mark.parametrize(
    "email",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@example",
        "ada@@example.com",
        "ada lovelace@example.com",
        "ada@exa mple.com",
        "ada@example.com\n",
        " ada@example.com",
        ".ada@example.com",
        "ada..l@example.com",
        "ada@-example.com",
        "ada@example..com",
        "ada@example.com.",
        "x" * 65 + "@example.com",
        "a@" + "b.c" * 100 + ".com",
        None,
        7,
    ],
)
def test_addresses_that_are_not(email: Any, database: Database) -> None:
    with open_session(database) as session:
        with pytest.raises(ValidationError, match="User email") as raised:
            UserRepository(session).create(email=email, subject_id="1")
        assert raised.value.field == "email"
        assert UserRepository(session).count() == 0


def test_claims_make_a_user_once(session: Session) -> None:
    users = UserRepository(session)
    user = users.get_or_create_from_claims("auth0|1", "ada@example.com")
    assert users.get_or_create_from_claims("auth0|1", "ada@example.com") == user
    assert users.get_all() == [user]


def test_claims_bring_a_changed_email(session: Session) -> None:
    users = UserRepository(session)
    user = users.get_or_create_from_claims("auth0|1", "ada@example.com")
    for email in ("ada@example.org", "Ada@example.org"):
        changed = users.get_or_create_from_claims("auth0|1", email)
        assert (changed.id, changed.email) == (user.id, email)
        assert changed.created_at == user.created_at
        assert users.get_or_raise(user.id).email == email


def test_claims_do_not_take_an_email_from_another(session: Session) -> None:
    users = UserRepository(session)
    add_user(session)
    bob = users.get_or_create_from_claims("auth0|bob", "bob@example.com")
    for subject in ("auth0|bob", "auth0|new"):
        with pytest.raises(IntegrityError, match=r"email 'Ada@example\.com' is already taken"):
            users.get_or_create_from_claims(subject, "Ada@example.com")
    assert users.get_or_raise(bob.id).email == "bob@example.com"
    assert users.count() == 2


def test_claims_are_checked(session: Session) -> None:
    with pytest.raises(ValidationError, match="User email 'ada' is not an email address"):
        UserRepository(session).get_or_create_from_claims("auth0|1", "ada")


def test_callers_who_race_with_the_same_claims_get_the_same_user(database: Database) -> None:
    def claim(session: Session, number: int) -> UUID:
        users = UserRepository(session)
        return users.get_or_create_from_claims("auth0|1", "ada@example.com").id

    for _ in range(3):
        found = race(database, claim)
        assert len(set(found)) == 1
        with open_session(database) as session:
            users = UserRepository(session)
            assert [user.id for user in users.get_all()] == [found[0]]
            users.delete(found[0])


def test_callers_who_race_for_an_email_have_one_winner(database: Database) -> None:
    def claim(session: Session, number: int) -> User:
        users = UserRepository(session)
        return users.get_or_create_from_claims(f"auth0|{number}", "ada@example.com")

    found = race(database, claim)
    winners = [user for user in found if isinstance(user, User)]
    assert len(winners) == 1
    assert all(
        "User email 'ada@example.com' is already taken" in str(error)
        for error in found
        if isinstance(error, IntegrityError)
    )
    with open_session(database) as session:
        assert UserRepository(session).get_all() == winners


# -- conversations --------------------------------------------------------------------------------


def test_a_conversation_begins_as_a_new_chat(session: Session) -> None:
    chat = add_conversation(session)
    assert chat.title == "New Chat"
    assert chat.created_at == chat.updated_at
    assert chat.id.version == 7


def test_a_conversation_needs_its_user(session: Session) -> None:
    with pytest.raises(IntegrityError, match=r"user_id .* names a User that does not exist") as e:
        ConversationRepository(session).create(user_id=uuid4())
    assert e.value.constraint == "fk_faceplate_conversations_user_id"
    with pytest.raises(ValidationError, match="Conversation user_id is missing"):
        ConversationRepository(session).create(title="of nobody")
    assert ConversationRepository(session).count() == 0


def test_a_conversation_can_be_renamed(session: Session) -> None:
    chats = ConversationRepository(session)
    chat = add_conversation(session)
    renamed = chats.rename(chat.id, "Engines")
    assert renamed is not None
    assert renamed.title == "Engines"
    assert renamed.updated_at > chat.updated_at
    assert chats.rename(uuid4(), "Nothing") is None
    with pytest.raises(ValidationError, match=r"title .* has 256 characters; 255 are the most"):
        chats.rename(chat.id, "x" * 256)


def test_conversations_are_listed_by_their_last_activity(session: Session) -> None:
    chats, messages = ConversationRepository(session), MessageRepository(session)
    first, second, third = (add_conversation(session, title=str(n)) for n in range(3))
    add_conversation(session, "bob")
    messages.append(first.id, "user", "one")
    last = messages.append(first.id, "assistant", "two")
    listed = chats.list_for_user(first.user_id)
    assert [chat.id for chat in listed] == [first.id, third.id, second.id]
    assert [chat.message_count for chat in listed] == [2, 0, 0]
    assert listed[0].last_message == last
    assert listed[0].last_message.content == "two"
    assert listed[0].updated_at == last.created_at
    assert listed[1].last_message is None
    messages.append(second.id, "user", "hello")
    assert chats.list_for_user(first.user_id)[0] == second


def test_the_list_is_one_query_and_pages(database: Database) -> None:
    with open_session(database) as session:
        chats = ConversationRepository(session)
        made = [add_conversation(session) for _ in range(5)]
        user = made[0].user_id
        for chat in made:
            MessageRepository(session).append_many(
                chat.id, [{"role": "user", "content": str(n)} for n in range(3)]
            )
        newest = [chat.id for chat in reversed(made)]
        with assert_query_count(1):
            assert [chat.id for chat in chats.list_for_user(user)] == newest
        assert [chat.id for chat in chats.list_for_user(user, limit=1)] == newest[:1]
        assert [chat.id for chat in chats.list_for_user(user, 1, 2)] == newest[1:3]
        assert [chat.id for chat in chats.list_for_user(user, skip=3)] == newest[3:]
        assert chats.list_for_user(user, limit=0) == []
        assert chats.list_for_user(uuid4()) == []
        for skip, limit in ((-1, 1), (0, -1)):
            with pytest.raises(ValidationError, match="0 or more"):
                chats.list_for_user(user, skip, limit)


def test_a_listed_conversation_shows_what_came_along(session: Session) -> None:
    chat = add_conversation(session)
    assert "message_count" not in chat.to_dict()
    last = MessageRepository(session).append(chat.id, "user", "hello")
    shown = ConversationRepository(session).list_for_user(chat.user_id)[0].to_dict()
    assert shown["message_count"] == 1
    assert shown["last_message"] == last.to_dict()


def test_what_belongs_to_a_user_goes_with_the_user(session: Session) -> None:
    chat = add_conversation(session)
    kept = add_conversation(session, "bob")
    for conversation in (chat, kept):
        MessageRepository(session).append(conversation.id, "user", "hello")
        MCPConfigRepository(session).upsert(conversation.user_id, "files", {})
    UserRepository(session).delete(chat.user_id)
    assert ConversationRepository(session).get_all() == [kept]
    assert [row.conversation_id for row in MessageRepository(session).get_all()] == [kept.id]
    assert [row.user_id for row in MCPConfigRepository(session).get_all()] == [kept.user_id]


# -- messages -------------------------------------------------------------------------------------

CALLS = [{"id": "call_1", "name": "read_file", "arguments": {"path": "a.txt"}}]


def test_a_message_moves_the_activity_of_its_conversation(session: Session) -> None:
    chat = add_conversation(session)
    message = MessageRepository(session).append(chat.id, "user", "hello")
    assert message.role is Role.USER
    assert message.created_at > chat.updated_at
    stored = ConversationRepository(session).get_or_raise(chat.id)
    assert stored.updated_at == message.created_at
    assert MessageRepository(session).get_or_raise(message.id).to_dict() == message.to_dict()


def test_a_refused_message_moves_nothing(session: Session) -> None:
    chat = add_conversation(session)
    messages = MessageRepository(session)
    rows: list[dict[str, Any]] = [{"role": "user", "content": "fine"}, {"role": "user"}]
    with pytest.raises(ValidationError, match="Message content is missing"):
        messages.append_many(chat.id, rows)
    with pytest.raises(IntegrityError, match="names a Conversation that does not exist") as e:
        messages.append(uuid4(), "user", "hello")
    assert e.value.constraint == "fk_faceplate_messages_conversation_id"
    taken = messages.append(chat.id, "user", "hello")
    before = ConversationRepository(session).get_or_raise(chat.id).updated_at
    with pytest.raises(IntegrityError, match=r"Message id .* is already taken"):
        messages.append_many(chat.id, [{**rows[0]}, {**rows[0], "id": taken.id}])
    assert ConversationRepository(session).get_or_raise(chat.id).updated_at == before
    assert messages.get_all() == [taken]


def test_however_a_message_is_written_its_conversation_is_as_new(session: Session) -> None:
    one, two = add_conversation(session), add_conversation(session)
    messages, conversations = MessageRepository(session), ConversationRepository(session)

    def activity() -> list[datetime]:
        return [conversations.get_or_raise(chat.id).updated_at for chat in (one, two)]

    row: dict[str, Any] = {"role": "user", "content": "hello"}
    made = messages.create(conversation_id=one.id, **row)
    assert activity() == [made.created_at, two.updated_at]
    old = messages.create(conversation_id=one.id, created_at=OLD, **row)
    assert old.created_at == OLD
    assert activity() == [made.created_at, two.updated_at]
    later = [made.created_at + timedelta(days=n) for n in (3, 1, 2)]
    messages.bulk_create(
        {"conversation_id": chat.id, "created_at": moment, **row}
        for chat, moment in zip((one, one, two), later, strict=True)
    )
    assert activity() == [later[0], later[2]]
    put = messages.upsert(
        conversation_id=two.id, created_at=later[2] + timedelta(days=9), id=uuid4(), **row
    )
    assert activity() == [later[0], put.created_at]
    with pytest.raises(IntegrityError, match="is already taken"):
        messages.create(id=put.id, conversation_id=one.id, **row)
    with pytest.raises(IntegrityError, match="names a Conversation that does not exist"):
        messages.create(conversation_id=uuid4(), **row)
    assert activity() == [later[0], put.created_at]
    listed = conversations.list_for_user(one.user_id)
    assert [chat.id for chat in listed] == [two.id, one.id]


def test_who_is_missing_is_named_as_the_caller_named_it(session: Session) -> None:
    ghost = uuid4()
    with pytest.raises(IntegrityError) as caught:
        ConversationRepository(session).create(user_id=ghost)
    assert str(caught.value) == (f"Conversation user_id '{ghost}' names a User that does not exist")


def test_several_messages_keep_their_order(session: Session) -> None:
    chat = add_conversation(session)
    messages = MessageRepository(session)
    rows = [{"role": "user", "content": str(n)} for n in range(20)]
    made = messages.append_many(chat.id, rows)
    assert [message.content for message in made] == [str(n) for n in range(20)]
    assert messages.history(chat.id).items == made
    assert rows[0] == {"role": "user", "content": "0"}
    assert messages.append_many(chat.id, []) == []
    for name in ("created_at", "conversation_id"):
        with pytest.raises(ValidationError, match=f"Message {name} is not for the message"):
            messages.append_many(chat.id, [{**rows[0], name: "2020-01-01T00:00:00Z"}])


def test_messages_that_are_whole(session: Session) -> None:
    chat = add_conversation(session)
    messages = MessageRepository(session)
    made = [
        messages.append(chat.id, Role.SYSTEM, "Be brief."),
        messages.append(chat.id, "user", "What is in a.txt?"),
        messages.append(chat.id, "assistant", tool_calls=CALLS),
        messages.append(chat.id, "assistant", "Let me see.", tool_calls=CALLS),
        messages.append(chat.id, "tool", tool_results=[{"id": "call_1", "text": "ä"}]),
        messages.append(chat.id, "tool", tool_results=[]),
        messages.append(chat.id, "assistant", "An ä.", tool_calls=[]),
    ]
    stored = messages.history(chat.id).items
    assert [row.to_dict() for row in stored] == [row.to_dict() for row in made]
    assert stored[2].tool_calls == CALLS
    assert stored[2].content is None


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"role": "tool", "content": "no results"}, "tool_results"),
    ({"role": "user", "content": "x", "tool_calls": CALLS}, "tool_calls"),
    ({"role": "tool", "tool_results": [], "tool_calls": CALLS}, "tool_calls"),
    ({"role": "user"}, "content"),
    ({"role": "user", "content": ""}, "content"),
    ({"role": "assistant", "tool_calls": []}, "content"),
    ({"role": "assistant", "content": "", "tool_calls": {}}, "content"),
    ({"role": "owner", "content": "x"}, "role"),
    ({"role": None, "content": "x"}, "role"),
]


@pytest.mark.parametrize(("row", "field"), BROKEN)
def test_messages_that_are_not(row: dict[str, Any], field: str, database: Database) -> None:
    with open_session(database) as session:
        chat = add_conversation(session)
        messages = MessageRepository(session)
        with pytest.raises(ValidationError) as raised:
            messages.append_many(chat.id, [row])
        assert raised.value.field == field
        with pytest.raises(ValidationError) as raised:
            messages.create(conversation_id=chat.id, **row)
        assert raised.value.field == field
        with pytest.raises(ValidationError):
            Message.create(conversation_id=chat.id, **row)
        assert messages.count() == 0


def test_a_change_may_not_break_a_message(session: Session) -> None:
    chat = add_conversation(session)
    messages = MessageRepository(session)
    message = messages.append(chat.id, "user", "hello")
    changes: list[tuple[dict[str, Any], str]] = [
        ({"content": None}, "content"),
        ({"role": "tool"}, "tool_results"),
        ({"tool_calls": CALLS}, "tool_calls"),
    ]
    for change, field in changes:
        with pytest.raises(ValidationError) as raised:
            messages.update(message.id, **change)
        assert raised.value.field == field
        with pytest.raises(ValidationError):
            messages.bulk_update([{"id": message.id, **change}])
    assert messages.get_or_raise(message.id).to_dict() == message.to_dict()
    changed = messages.update(message.id, role="assistant", content=None, tool_calls=CALLS)
    assert changed is not None
    assert changed.role is Role.ASSISTANT


def contents(page: Page[Message]) -> list[str | None]:
    return [message.content for message in page.items]


def test_history_is_read_from_the_newest_page_back(session: Session) -> None:
    chat, other = add_conversation(session), add_conversation(session)
    messages = MessageRepository(session)
    messages.append_many(chat.id, [{"role": "user", "content": str(n)} for n in range(7)])
    messages.append(other.id, "user", "elsewhere")
    page = messages.history(chat.id, limit=3)
    assert contents(page) == ["4", "5", "6"]
    page = messages.history(chat.id, limit=3, before=page.next)
    assert contents(page) == ["1", "2", "3"]
    page = messages.history(chat.id, limit=3, before=page.next)
    assert contents(page) == ["0"]
    assert page.next is None
    assert messages.history(chat.id, 7).next is None
    assert messages.history(chat.id, 0) == Page([], None)
    assert contents(messages.history(chat.id, 1)) == ["6"]
    assert messages.history(uuid4()) == Page([], None)


def test_history_refuses_what_is_no_cursor(session: Session) -> None:
    chat = add_conversation(session)
    messages = MessageRepository(session)
    messages.append_many(chat.id, [{"role": "user", "content": str(n)} for n in range(3)])
    for before in ("nonsense", "", 5, messages.page({}, 1).next):
        with pytest.raises(ValidationError, match=r"^before ") as raised:
            messages.history(chat.id, before=before)  # type: ignore[arg-type]
        assert raised.value.field == "before"
    with pytest.raises(ValidationError, match="limit is -1"):
        messages.history(chat.id, -1)


def test_a_cursor_is_for_the_conversation_that_it_comes_from(session: Session) -> None:
    one, two = add_conversation(session), add_conversation(session)
    messages = MessageRepository(session)
    for chat in (one, two):
        messages.append_many(chat.id, [{"role": "user", "content": str(n)} for n in range(3)])
    cursor = messages.history(one.id, 1).next
    assert contents(messages.history(str(one.id), 1, cursor)) == ["1"]
    with pytest.raises(ValidationError, match="before is a cursor of other rows") as raised:
        messages.history(two.id, 1, cursor)
    assert raised.value.field == "before"
    with pytest.raises(ValidationError, match="after is a cursor of other rows"):
        messages.page({}, 1, cursor, "-created_at,-id")


def test_history_has_no_gap_and_no_repeat_at_equal_times(session: Session) -> None:
    chat = add_conversation(session)
    messages = MessageRepository(session)
    row = {"conversation_id": chat.id, "role": "user", "created_at": OLD}
    made = messages.bulk_create([{**row, "content": str(n)} for n in range(10)])
    seen: list[str | None] = []
    cursor = None
    while True:
        page = messages.history(chat.id, 3, cursor)
        seen = [*contents(page), *seen]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [message.content for message in made]


def test_history_is_stable_while_messages_are_appended(database: Database) -> None:
    with open_session(database) as session:
        chat = add_conversation(session)
        MessageRepository(session).append_many(
            chat.id, [{"role": "user", "content": f"old {n}"} for n in range(40)]
        )
    stop = threading.Event()

    def write(name: int) -> int:
        count = 0
        while not stop.is_set() and count < 200:
            with open_session(database) as session:
                MessageRepository(session).append(chat.id, "assistant", f"{name} {count}")
            count += 1
        return count

    def read() -> list[UUID]:
        seen: list[UUID] = []
        cursor = None
        while True:
            with open_session(database, read_only=True) as session:
                page = MessageRepository(session).history(chat.id, 7, cursor)
            seen = [*(message.id for message in page.items), *seen]
            cursor = page.next
            if cursor is None:
                return seen

    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write, name) for name in range(2)]
        try:
            walks = [read() for _ in range(5)]
        finally:
            stop.set()
        counts = [writer.result(60) for writer in writers]
    with open_session(database, read_only=True) as session:
        rows = MessageRepository(session).history(chat.id, 1000).items
        stored = ConversationRepository(session).get_or_raise(chat.id)
    everything = [row.id for row in rows]
    assert len(everything) == 40 + sum(counts)
    for walk in walks:
        # What a walk saw is what there was up to its beginning, whole and in order.
        assert walk == everything[: len(walk)]
    times = [row.created_at for row in rows]
    assert times == sorted(set(times))
    assert stored.updated_at == times[-1]
    for name in range(2):
        own = [row.content for row in rows if (row.content or "").startswith(f"{name} ")]
        assert own == [f"{name} {n}" for n in range(counts[name])]


def test_a_message_is_never_older_than_what_was_there(session: Session) -> None:
    chat = add_conversation(session)
    future = chat.created_at + timedelta(days=1)
    ConversationRepository(session).update(chat.id, updated_at=future)
    message = MessageRepository(session).append(chat.id, "user", "by a clock that is late")
    assert message.created_at == future + timedelta(microseconds=1)


# -- MCP configs ----------------------------------------------------------------------------------


def test_a_config_is_put_in_the_place_of_the_one_of_its_name(session: Session) -> None:
    user, bob = add_user(session), add_user(session, "bob")
    configs = MCPConfigRepository(session)
    made = configs.upsert(user.id, "files", {"command": "a"})
    assert made.enabled is True
    configs.disable(made.id)
    again = configs.upsert(user.id, "files", {"command": "b"})
    assert (again.id, again.enabled, again.config) == (made.id, False, {"command": "b"})
    assert again.created_at == made.created_at
    assert again.updated_at > made.updated_at
    assert configs.upsert(user.id, "files", {}, enabled=True).enabled is True
    other = configs.upsert(bob.id, "files", {"command": "c"}, enabled=False)
    assert other.enabled is False
    assert configs.count() == 2
    with pytest.raises(IntegrityError, match=r"MCPConfig user_id, name \(.*'files'\) is already"):
        configs.create(user_id=user.id, name="files", config={})
    with pytest.raises(IntegrityError, match="names a User that does not exist"):
        configs.upsert(uuid4(), "files", {})


def test_enabled_configs_are_listed_by_name(session: Session) -> None:
    user, bob = add_user(session), add_user(session, "bob")
    configs = MCPConfigRepository(session)
    for name in ("web", "files", "mail"):
        configs.upsert(user.id, name, {"name": name})
    mail = configs.upsert(user.id, "mail", {})
    configs.upsert(bob.id, "files", {})
    disabled = configs.disable(mail.id)
    assert disabled is not None
    assert disabled.enabled is False
    assert [config.name for config in configs.list_enabled(user.id)] == ["files", "web"]
    configs.enable(mail.id)
    assert [config.name for config in configs.list_enabled(user.id)] == ["files", "mail", "web"]
    assert configs.enable(uuid4()) is None
    assert configs.disable(uuid4()) is None
    assert configs.list_enabled(uuid4()) == []


def test_callers_who_race_with_a_config_write_one_row(database: Database) -> None:
    with open_session(database) as session:
        user = add_user(session)

    def write(session: Session, number: int) -> MCPConfig:
        return MCPConfigRepository(session).upsert(user.id, "files", {"number": number})

    written = race(database, write)
    with open_session(database) as session:
        (stored,) = MCPConfigRepository(session).get_all()
    assert {config.id for config in written} == {stored.id}
    assert sorted(config.config["number"] for config in written) == list(range(RACERS))
    assert stored.config in [config.config for config in written]


# -- both databases at once -----------------------------------------------------------------------


def test_the_same_models_work_on_both_backends_at_once(make_url: Callable[..., str]) -> None:
    databases = [create_database(make_url(kind)) for kind in ("sqlite", "postgresql")]
    barrier = threading.Barrier(2)

    def work(database: Database) -> list[str | None]:
        names = []
        for number in range(20):
            barrier.wait(30)
            with open_session(database) as session:
                name = f"{database.dialect}{number}"
                chat = add_conversation(session, name)
                MessageRepository(session).append(chat.id, "user", name)
                names += [User.select().where(User.id == chat.user_id).get().email]
                query = Message.select(Message, Conversation, User)
                query = query.join(Conversation).join(User).where(User.email.startswith(name))
                names += [row.conversation.user.email for row in query]
                change = User.update(email=f"{name}@example.org")
                assert change.where(User.id == chat.user_id).execute() == 1
                assert Message.delete().where(Message.content == name).execute() == 1
                assert chat.user.email == f"{name}@example.org"
                assert [row.id for row in chat.user.conversations] == [chat.id]
        return names

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(work, databases))
    for database, names in zip(databases, results, strict=True):
        wanted = [f"{database.dialect}{n}@example.com" for n in range(20) for _ in range(2)]
        assert names == wanted
        database.close_pool()


def test_a_repository_may_be_used_while_the_context_is_elsewhere(
    make_url: Callable[..., str],
) -> None:
    lite, server = (create_database(make_url(kind)) for kind in ("sqlite", "postgresql"))
    for inner, outer in ((lite, server), (server, lite)):
        with open_session(inner) as session, using(outer):
            chat = add_conversation(session)
            messages = MessageRepository(session)
            first = messages.append(chat.id, "user", "hello")
            assert messages.history(chat.id).items == [first]
            assert list(messages.iterate({"role": "user"}, "-created_at")) == [first]
            assert messages.update(first.id, content="bye") is not None
            assert messages.page({"content__startswith": "b"}).items == [first]
            assert messages.bulk_update([{"id": first.id, "content": "x"}]) == 1
            with pytest.raises(IntegrityError, match="that does not exist"):
                messages.append(uuid4(), "user", "nowhere")
            chats = ConversationRepository(session)
            assert chats.list_for_user(chat.user_id)[0].message_count == 1
            assert messages.bulk_delete([first.id]) == 1
            assert UserRepository(session).delete(chat.user_id)
    for database in (lite, server):
        database.close_pool()
