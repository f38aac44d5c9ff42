"""The tables of the chat domain, as other programs meet them: by statements round the package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from hopper_data import (
    IntegrityError,
    Session,
    check_schema,
    create_database,
    dump_schema,
    get_schema_version,
    init_database,
    reset_database,
    run_migrations,
    using,
)
from hopper_data.chat import Conversation, MCPConfigRepository, Message, User, UserRepository
from hopper_data.chat.models import CHAT_MODELS
from hopper_data.database import Database
from hopper_data.driver_errors import ConstraintViolation
from hopper_data.session import open_session
from tests.conftest import AdminCursor

BEFORE = "002_planning"


class Tables:
    """Writes to the tables of the chat domain by hand."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.prefix = "faceplate_" if session.database.dialect == "sqlite" else "faceplate."

    def insert(self, table: str, **values: Any) -> str:
        values.setdefault("id", str(uuid4()))
        places = ", ".join("?" for _ in values)
        self.session.execute(
            f"INSERT INTO {self.prefix}{table} ({', '.join(values)}) VALUES ({places})",
            tuple(values.values()),
        )
        return str(values["id"])

    def count(self, table: str) -> int:
        return int(self.session.execute(f"SELECT COUNT(*) FROM {self.prefix}{table}")[0][0])

    def user(self, name: str = "ada") -> str:
        return self.insert("users", email=f"{name}@example.com", subject_id=name)

    def conversation(self) -> str:
        return self.insert("conversations", user_id=self.user())


@pytest.fixture
def tables(database: Database) -> Iterator[Tables]:
    with open_session(database) as session:
        yield Tables(session)


def test_the_database_fills_in_times_titles_and_flags(tables: Tables) -> None:
    user = tables.user()
    tables.insert("conversations", user_id=user)
    tables.insert("mcp_configs", user_id=user, name="files", config="{}")
    now = datetime.now(UTC)
    row = UserRepository(tables.session).get_or_raise(user)
    assert abs(now - row.created_at) < timedelta(minutes=1)
    chat = row.conversations.get()
    assert chat.title == "New Chat"
    assert chat.created_at == chat.updated_at
    config = row.mcp_configs.get()
    assert config.enabled is True
    assert config.created_at == config.updated_at
    tables.insert("messages", conversation_id=str(chat.id), role="user", content="hello")
    assert abs(now - chat.messages.get().created_at) < timedelta(minutes=1)


CALLS = json.dumps([{"id": "1"}])
BROKEN: list[tuple[str, dict[str, Any], str]] = [
    ("messages", {"role": "owner", "content": "x"}, "ck_faceplate_messages_role"),
    ("messages", {"role": "tool", "content": "x"}, "ck_faceplate_messages_tool_results"),
    (
        "messages",
        {"role": "user", "content": "x", "tool_calls": CALLS},
        "ck_faceplate_messages_tool_calls",
    ),
    ("messages", {"role": "user"}, "ck_faceplate_messages_content"),
    ("messages", {"role": "user", "content": ""}, "ck_faceplate_messages_content"),
    ("messages", {"role": "assistant", "tool_calls": "[]"}, "ck_faceplate_messages_content"),
]


@pytest.mark.parametrize(("table", "values", "constraint"), BROKEN)
def test_the_database_refuses_broken_messages(
    tables: Tables, table: str, values: dict[str, Any], constraint: str
) -> None:
    chat = tables.conversation()
    with pytest.raises(ConstraintViolation) as raised:
        tables.insert(table, conversation_id=chat, **values)
    assert raised.value.constraint == constraint
    assert tables.count(table) == 0


def test_the_database_takes_whole_messages(tables: Tables) -> None:
    chat = tables.conversation()
    for values in (
        {"role": "system", "content": "x"},
        {"role": "assistant", "tool_calls": CALLS},
        {"role": "tool", "tool_results": "[]"},
    ):
        tables.insert("messages", conversation_id=chat, **values)
    assert tables.count("messages") == 3


def test_the_database_refuses_what_is_taken_or_missing(tables: Tables) -> None:
    user = tables.user()
    tables.insert("mcp_configs", user_id=user, name="files", config="{}")
    nobody = str(uuid4())
    refused: list[tuple[str, dict[str, Any]]] = [
        ("users", {"email": "ADA@Example.com", "subject_id": "2"}),
        ("users", {"email": "b@example.com", "subject_id": "ada"}),
        ("users", {"email": None, "subject_id": "2"}),
        ("users", {"email": "b@example.com", "subject_id": None}),
        ("conversations", {"user_id": nobody}),
        ("conversations", {"user_id": user, "title": None}),
        ("messages", {"conversation_id": nobody, "role": "user", "content": "x"}),
        ("mcp_configs", {"user_id": user, "name": "files", "config": "{}"}),
        ("mcp_configs", {"user_id": nobody, "name": "x", "config": "{}"}),
        ("mcp_configs", {"user_id": user, "name": "x", "config": None}),
    ]
    for table, values in refused:
        before = tables.count(table)
        with pytest.raises(IntegrityError):
            tables.insert(table, **values)
        assert tables.count(table) == before


def test_the_database_deletes_what_hangs_on_a_row(tables: Tables) -> None:
    chat = tables.conversation()
    tables.insert("messages", conversation_id=chat, role="user", content="x")
    tables.insert("conversations", user_id=tables.user("bob"))
    (row,) = tables.session.execute(
        f"SELECT user_id FROM {tables.prefix}conversations WHERE id = ?", (chat,)
    )
    tables.insert("mcp_configs", user_id=str(row[0]), name="files", config="{}")
    tables.session.execute(f"DELETE FROM {tables.prefix}users WHERE id = ?", (str(row[0]),))
    counts = [tables.count(name) for name in ("users", "conversations", "messages", "mcp_configs")]
    assert counts == [1, 1, 0, 0]


def test_a_config_is_json_for_other_programs(tables: Tables) -> None:
    user = tables.user()
    MCPConfigRepository(tables.session).upsert(user, "files", {"b": [1, "ä"]})
    (row,) = tables.session.execute(f"SELECT config FROM {tables.prefix}mcp_configs")
    assert json.loads(row[0]) == {"b": [1, "ä"]}


# -- names and indexes ----------------------------------------------------------------------------

INDEXES = {
    "users": {"email", "subject_id"},
    "conversations": {"user_id"},
    "messages": {"conversation_id", "created_at"},
    "mcp_configs": {"user_id", "user_id_name"},
}


def test_the_tables_have_the_indexes_of_the_models(database: Database) -> None:
    prefix = "faceplate_" if database.dialect == "sqlite" else "faceplate."
    tables = dump_schema(database)
    for name, columns in INDEXES.items():
        table = tables[f"{prefix}{name}"]
        assert set(table["indexes"]) == {f"idx_faceplate_{name}_{column}" for column in columns}
        assert table["primary_key"] == ["id"]
    assert "UNIQUE" in tables[f"{prefix}users"]["indexes"]["idx_faceplate_users_subject_id"].upper()
    assert "lower" in tables[f"{prefix}users"]["indexes"]["idx_faceplate_users_email"].lower()


def test_peewee_finds_the_tables(database: Database) -> None:
    assert all(model.table_exists() for model in CHAT_MODELS)
    assert all(database.table_exists(model) for model in CHAT_MODELS)
    schema = None if database.dialect == "sqlite" else "faceplate"
    assert User._meta.schema == schema
    columns = database.get_columns(User._meta.table_name, User._meta.schema)
    assert [column.name for column in columns] == ["id", "email", "subject_id", "created_at"]


def test_peewee_queries_of_all_kinds(database: Database) -> None:
    with open_session(database):
        user = User.create(email="ada@example.com", subject_id="ada")
        chat = Conversation.create(user=user)
        Message.insert_many(
            [{"conversation": chat, "role": "user", "content": str(n)} for n in range(3)]
        ).execute()
        alias = Message.alias("m")
        query = alias.select(alias.content).where(alias.content > "0").order_by(alias.content)
        assert [row.content for row in query] == ["1", "2"]
        newest = Message.select(Message.content).order_by(Message.content.desc()).limit(1)
        assert Message.select().where(Message.content.in_(newest)).count() == 1
        owners = User.select().where(User.id.in_(Conversation.select(Conversation.user)))
        assert list(owners) == [user]
        change = Message.update(content="x").where(Message.content == "2").returning(Message)
        assert [row.content for row in change] == ["x"]
        nested = Message.delete().where(Message.conversation.in_(Conversation.select()))
        assert nested.execute() == 3
        insert = User.insert(email="b@example.com", subject_id="ada")
        kept = insert.on_conflict(
            conflict_target=[User.subject_id],
            update={User.email: "c@example.com"},
            where=(User.email != "b@example.com"),
        )
        kept.execute()
        assert User.get().email == "c@example.com"
        user.email = "d@example.com"
        assert user.save() == 1
        assert user.delete_instance(recursive=True)
        assert Conversation.select().count() == 0


# -- migrations -----------------------------------------------------------------------------------


def test_the_migration_goes_up_and_down(empty_database: Database) -> None:
    run_migrations(BEFORE, database=empty_database)
    names = set(dump_schema(empty_database))
    for _ in range(2):
        run_migrations(database=empty_database)
        assert check_schema(empty_database) == []
        with open_session(empty_database) as session:
            Tables(session).conversation()
        run_migrations(BEFORE, database=empty_database)
        assert set(dump_schema(empty_database)) == names
        assert get_schema_version(empty_database) == BEFORE


def test_tables_made_from_the_models_are_those_of_the_migration(
    make_url: Callable[..., str], backend: str
) -> None:
    database = create_database(make_url(backend, migrated=False))
    init_database(database, create_tables=True)
    assert check_schema(database) == []
    made = dump_schema(database)
    reset_database(database, confirm=True)
    migrated = dump_schema(database)
    names = [name for name in migrated if name.startswith("faceplate")]
    assert len(names) == 4
    assert {name: made[name] for name in names} == {name: migrated[name] for name in names}
    database.close_pool()


def schemas(database: Database) -> set[str]:
    with open_session(database, read_only=True) as session:
        return {name for (name,) in session.execute("SELECT nspname FROM pg_namespace")}


def test_going_back_drops_the_schema_that_the_migration_made(
    make_url: Callable[..., str],
) -> None:
    database = create_database(make_url("postgresql"))
    assert "faceplate" in schemas(database)
    run_migrations("base", database=database)
    assert "faceplate" not in schemas(database)
    database.close_pool()


@pytest.mark.parametrize("there", ["a schema", "a table in it"])
def test_going_back_leaves_what_others_have_made(make_url: Callable[..., str], there: str) -> None:
    url = make_url("postgresql", migrated=False)
    database = create_database(url)
    if there == "a schema":
        with AdminCursor(url) as cursor:
            cursor.execute("CREATE SCHEMA faceplate")
    run_migrations(database=database)
    if there == "a table in it":
        with AdminCursor(url) as cursor:
            cursor.execute("CREATE TABLE faceplate.other (id INTEGER)")
    assert check_schema(database) == []
    run_migrations("base", database=database)
    assert "faceplate" in schemas(database)
    run_migrations(database=database)
    assert check_schema(database) == []
    database.close_pool()


DAMAGE = [
    "DROP INDEX faceplate.idx_faceplate_users_email",
    "ALTER TABLE faceplate.messages DROP CONSTRAINT ck_faceplate_messages_content",
    "ALTER TABLE faceplate.conversations ALTER title DROP DEFAULT",
    "ALTER TABLE faceplate.users ALTER email TYPE TEXT",
    "ALTER TABLE faceplate.mcp_configs ALTER config DROP NOT NULL",
    "ALTER TABLE faceplate.messages DROP CONSTRAINT fk_faceplate_messages_conversation_id",
    "DROP TABLE faceplate.mcp_configs",
]


@pytest.mark.parametrize("statement", DAMAGE)
def test_the_check_sees_damage_in_the_schema(make_url: Callable[..., str], statement: str) -> None:
    url = make_url("postgresql")
    with AdminCursor(url) as cursor:
        cursor.execute(statement)
    database = create_database(url)
    differences = check_schema(database)
    assert differences
    assert all(difference.startswith("table faceplate.") for difference in differences)
    assert schemas(database) >= {"public", "faceplate"}
    assert not {name for name in schemas(database) if name.startswith("hopper_check")}
    database.close_pool()


def test_a_check_is_not_seen_by_others(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("postgresql"))
    with using(database), open_session(database) as session:
        Tables(session).user()
        assert check_schema(database) == []
        assert User.select().count() == 1
    database.close_pool()
