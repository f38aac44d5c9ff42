"""A config with credentials is in nothing that the package prints."""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID, uuid4

import peewee
import pytest
from click.testing import CliRunner

from hopper_data import DatabaseError, Session, create_database, using
from hopper_data.chat import MCPConfig, MCPConfigRepository, User, UserRepository
from hopper_data.cli.main import main
from hopper_data.database import Database
from hopper_data.model import MASK
from hopper_data.session import open_session

SECRET = "s3cr3t-t0k3n"
CONFIG = {"command": "npx", "env": {"API_KEY": SECRET}}


class Printed:
    """All that was logged, at every level, as a careless formatter writes it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s %(args)r"))
        self.handler = handler

    @property
    def text(self) -> str:
        return self.stream.getvalue()


@pytest.fixture
def printed() -> Iterator[Printed]:
    printed = Printed()
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in ("", "hopper_data", "peewee")}
    root.addHandler(printed.handler)
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield printed
    root.removeHandler(printed.handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
def talkative(make_url: Callable[..., str], backend: str) -> Iterator[Database]:
    """A database that logs all it does, and finds all of it slow."""
    url = make_url(backend)
    database = create_database(url, echo=True, slow_query_ms=0)
    if backend == "memory":
        from hopper_data import run_migrations

        run_migrations(database=database)
    with using(database):
        yield database
    database.close_pool()


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and all that it came from."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        item = todo.pop()
        if item is None or id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        todo += [item.__cause__, item.__context__, getattr(item, "orig", None)]


def shown(error: BaseException) -> str:
    """Whatever an error says, in every way that it can be asked."""
    parts = ["".join(traceback.format_exception(error))]
    for item in chain(error):
        parts += [str(item), repr(item), repr(item.args), repr(vars(item))]
        diag = getattr(item, "diag", None)
        for holder in (item, diag):
            for name in dir(holder):
                if not name.startswith("__"):
                    parts.append(repr(getattr(holder, name)))
        query = getattr(getattr(item, "cursor", None), "query", None)
        parts.append(repr(query))
    return "\n".join(parts)


def add_config(session: Session) -> MCPConfig:
    user = UserRepository(session).create(email="ada@example.com", subject_id="ada")
    return MCPConfigRepository(session).upsert(user.id, "files", CONFIG)


def refusals(session: Session, config: MCPConfig) -> list[Callable[[], Any]]:
    """Calls that are refused, by the package or by the database, with the secret at hand."""
    configs = MCPConfigRepository(session)
    user_id: UUID = config.user_id
    nobody, bad = uuid4(), {"env": {"API_KEY": SECRET, "limit": float("nan")}}
    row = {"user_id": user_id, "name": "files", "config": CONFIG}
    table = "faceplate.mcp_configs"
    if session.database.dialect == "sqlite":
        table = "faceplate_mcp_configs"
    text = json.dumps(CONFIG)
    return [
        # The package says no.
        lambda: configs.create(user_id=user_id, name="x", config=bad),
        lambda: configs.create(user_id=user_id, name="x", config={SECRET: {1, 2}}),
        lambda: configs.create(user_id=user_id, name="x", config=[SECRET, "\0"]),
        lambda: configs.create(user_id=user_id, name="x", config=SECRET + "\ud800"),
        lambda: configs.create(user_id=user_id, name="x" * 101, config=CONFIG),
        lambda: configs.create(user_id=user_id, name="x", config=CONFIG, confg=CONFIG),
        lambda: configs.upsert(CONFIG, "x", CONFIG),
        lambda: configs.upsert(user_id, CONFIG, "x"),
        lambda: configs.update(config.id, config=bad),
        lambda: configs.update(config.id, enabled=CONFIG),
        lambda: configs.bulk_create([text]),  # type: ignore[list-item]
        lambda: configs.bulk_create(text),  # type: ignore[arg-type]
        lambda: configs.bulk_create(row),  # type: ignore[arg-type]
        lambda: configs.bulk_update([{"id": config.id, "config": bad}]),
        lambda: configs.filter({"config__in": SECRET}),
        lambda: configs.filter({"config__is_null": SECRET}),
        lambda: configs.filter({"config__between": SECRET}),
        lambda: configs.filter({"config__startswith": SECRET}),
        lambda: configs.filter({"config__gt": CONFIG}),
        lambda: configs.filter({"config": bad}),
        lambda: configs.filter({"enabled": CONFIG}),
        lambda: configs.filter(order_by="config"),
        # The database says no.
        lambda: configs.create(**row),
        lambda: configs.create(user_id=nobody, name="x", config=CONFIG),
        lambda: configs.create(id=config.id, user_id=user_id, name="x", config=CONFIG),
        lambda: configs.upsert(nobody, "files", CONFIG),
        lambda: configs.update(config.id, user_id=nobody, config=CONFIG),
        lambda: configs.bulk_create([{**row, "name": "y"}, row]),
        lambda: configs.bulk_create([{**row, "user_id": nobody}]),
        lambda: configs.bulk_update([{"id": config.id, "user_id": nobody, "config": CONFIG}]),
        lambda: MCPConfig.create(**row),
        lambda: MCPConfig.create(user_id=nobody, name="z", config=CONFIG),
        # The row that it shows then holds the secret.
        lambda: MCPConfig.update(name=None).execute(),
        lambda: MCPConfig.insert(user=None, name="q", config=CONFIG).execute(),
        lambda: session.execute(f"UPDATE {table} SET enabled = NULL"),
        lambda: session.execute(f"INSERT INTO {table} (name, config) VALUES (?, ?)", ("q", text)),
        lambda: session.execute(f"INSERT INTO {table} (nme) VALUES (?)", (text,)),
        lambda: session.execute(f"INSERT INTO {table} VALUS (?)", (text,)),
        lambda: session.execute("SELECT * FROM nowhere WHERE config = ?", (text,)),
        lambda: session.execute("SELECT ?, ?", (text,)),
    ]


def test_no_error_shows_a_config(talkative: Database, printed: Printed) -> None:
    with open_session(talkative) as session:
        config = add_config(session)
    with open_session(talkative) as session:
        calls = refusals(session, config)
        for number, call in enumerate(calls):
            with pytest.raises((DatabaseError, peewee.PeeweeException)) as raised:
                call()
            assert SECRET not in shown(raised.value), number
        assert MCPConfigRepository(session).get_or_raise(config.id).config == CONFIG
    assert SECRET not in printed.text


def test_an_error_that_is_logged_shows_no_config(talkative: Database, printed: Printed) -> None:
    with open_session(talkative) as session:
        config = add_config(session)
        count = len(refusals(session, config))
    for number in range(count):
        try:
            with open_session(talkative) as session:
                refusals(session, config)[number]()
        except (DatabaseError, peewee.PeeweeException):
            logging.getLogger("service").exception("could not write")
    assert "could not write" in printed.text
    assert SECRET not in printed.text


def test_no_log_shows_a_config(talkative: Database, printed: Printed) -> None:
    with open_session(talkative) as session:
        config = add_config(session)
        configs = MCPConfigRepository(session)
        configs.update(config.id, config={**CONFIG, "more": SECRET})
        configs.bulk_create(
            {"user_id": config.user_id, "name": str(n), "config": CONFIG} for n in range(3)
        )
        configs.bulk_update([{"id": config.id, "config": CONFIG}])
        assert configs.filter({"config": CONFIG})
        assert configs.count({"config__contains": {"env": {"API_KEY": SECRET}}}) == 4
        assert configs.page({"config__in": [CONFIG]}, limit=2).next
        assert len(list(configs.iterate({"config__ne": SECRET}))) == 4
        row = configs.get_or_raise(config.id)
        row.config["env"]["API_KEY"] = SECRET * 2
        row.save()
        assert (
            MCPConfig.select().where(MCPConfig.config["env"]["API_KEY"] == SECRET * 2).count() == 1
        )
        assert len(configs.list_enabled(config.user_id)) == 4
    assert "slow query" in printed.text
    assert "peewee DEBUG" in printed.text
    assert "mcp_configs" in printed.text
    assert SECRET not in printed.text


def test_no_repr_shows_a_config(database: Database) -> None:
    with open_session(database) as session:
        config = add_config(session)
        configs = MCPConfigRepository(session)
        things = [
            config,
            configs.get_or_raise(config.id),
            configs.page(),
            configs.filter(),
            configs,
            session,
            database,
            MCPConfig(user_id=config.user_id, name="x", config=CONFIG),
            MCPConfig.config,
            MCPConfig.insert(user=config.user_id, name="x", config=CONFIG),
            MCPConfig.select().where(MCPConfig.config == CONFIG),
        ]
    for thing in things:
        assert SECRET not in repr(thing)
        assert SECRET not in f"{thing!r} {[thing]}"
    assert SECRET not in str(config)


def test_a_config_is_masked_unless_asked_for(session: Session) -> None:
    config = add_config(session)
    for row in (config, MCPConfigRepository(session).get_or_raise(config.id)):
        masked = row.to_dict()
        assert masked["config"] == MASK
        assert SECRET not in json.dumps(masked)
        assert list(masked) == list(row.to_dict(include_config=True))
        assert row.to_dict(include_config=True)["config"] == CONFIG
        assert row.to_dict(include_config=False) == masked
    assert User.get().to_dict()["email"] == "ada@example.com"


COMMANDS = [
    ["info"],
    ["health"],
    ["status"],
    ["check"],
    ["stats"],
    ["export", "-"],
    ["migrate"],
    ["plan", "tree"],
]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: "-".join(command))
def test_no_command_shows_a_config(
    make_url: Callable[..., str], kind: str, command: list[str], printed: Printed
) -> None:
    url = make_url(kind)
    database = create_database(url)
    with open_session(database) as session:
        add_config(session)
    database.close_pool()
    for options in ([], ["--json"], ["--json", "-v", "-v"]):
        result = CliRunner().invoke(main, [*options, "--url", url, *command])
        assert result.exit_code == 0, result.output
        assert SECRET not in result.output
    assert SECRET not in printed.text


def test_a_config_that_is_no_json_is_in_no_error(session: Session) -> None:
    if session.database.dialect == "postgresql":
        return  # its columns hold nothing else
    user = UserRepository(session).create(email="ada@example.com", subject_id="ada")
    configs = MCPConfigRepository(session)
    made = configs.create(user_id=user.id, name="files", config=CONFIG)
    session.execute("UPDATE faceplate_mcp_configs SET config = ?", (f'{{"key": "{SECRET}',))
    for read in (lambda: configs.get(made.id), lambda: list(configs.iterate())):
        with pytest.raises(
            DatabaseError, match=r"MCPConfig config .* is not JSON: \(hidden\)"
        ) as e:
            read()
        told: BaseException | None = e.value
        while told is not None:
            assert SECRET not in repr(told) + repr(vars(told))
            told = told.__cause__ or told.__context__
