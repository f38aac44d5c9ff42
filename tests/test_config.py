"""The environment, and the settings of a database."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hopper_data import (
    DatabaseConfig,
    DatabaseError,
    Project,
    ProjectRepository,
    SessionFactory,
    ValidationError,
    connect,
    create_database,
    get_sync_session,
    init_database,
    reset_database,
)
from hopper_data.config import Environment
from hopper_data.database import proxy


def from_env(**environ: str) -> DatabaseConfig:
    return DatabaseConfig.from_env(environ)


def test_the_defaults_are_those_of_the_table() -> None:
    config = from_env()
    assert config.url == "sqlite:///./hopper.db"
    assert config.environment is Environment.DEVELOPMENT
    assert config.slow_query_ms == 100
    assert (config.pool_size, config.max_connections, config.pool_timeout_s) == (5, 20, 30)
    assert (config.pre_ping, config.recycle_s, config.connect_timeout_s) == (True, 3600, 5)
    assert (config.foreign_keys, config.journal_mode) == (True, "WAL")
    assert (config.busy_timeout_ms, config.synchronous, config.file_mode) == (5000, "NORMAL", 0o600)


def test_each_environment_has_its_database() -> None:
    assert from_env(HOPPER_ENV="development").url == "sqlite:///./hopper.db"
    assert from_env(HOPPER_ENV="test").url == "sqlite:///:memory:"
    assert from_env(HOPPER_ENV="test", DATABASE_URL="sqlite:///x.db").url == "sqlite:///x.db"
    assert from_env(HOPPER_ENV="").environment is Environment.DEVELOPMENT
    assert from_env(DATABASE_URL="").url == "sqlite:///./hopper.db"


@pytest.mark.parametrize("url", [{}, {"DATABASE_URL": ""}])
def test_production_does_not_start_without_a_url(url: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="DATABASE_URL") as caught:
        from_env(HOPPER_ENV="production", **url)
    assert caught.value.field == "DATABASE_URL"
    config = from_env(HOPPER_ENV="production", DATABASE_URL="sqlite:///x.db")
    assert config.environment is Environment.PRODUCTION


def test_production_without_a_url_creates_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOPPER_ENV", "production")
    for attempt in (connect, create_database, SessionFactory, init_database):
        with pytest.raises(ValidationError, match="DATABASE_URL"):
            attempt()
    with pytest.raises(ValidationError, match="DATABASE_URL"), get_sync_session():
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["prod", "Production", "staging", " production"])
def test_another_environment_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="development, test, production") as caught:
        from_env(HOPPER_ENV=value)
    assert caught.value.field == "HOPPER_ENV"


@pytest.mark.parametrize(("value", "expected"), [("250", 250), ("0", 0), ("2.5", 2.5), ("", 100)])
def test_the_slow_query_limit_is_read(value: str, expected: float) -> None:
    assert from_env(HOPPER_SLOW_QUERY_MS=value).slow_query_ms == expected


@pytest.mark.parametrize("value", ["fast", "-1", "nan", "inf", "1e400", "100ms"])
def test_another_slow_query_limit_is_refused(value: str) -> None:
    with pytest.raises(ValidationError, match="HOPPER_SLOW_QUERY_MS"):
        from_env(HOPPER_SLOW_QUERY_MS=value)


def test_settings_take_the_place_of_the_environment() -> None:
    environ = {"DATABASE_URL": "sqlite:///a.db", "HOPPER_ENV": "test", "HOPPER_SLOW_QUERY_MS": "7"}
    config = DatabaseConfig.from_env(
        environ, url="sqlite:///b.db", slow_query_ms=9, environment="development", pool_size=1
    )
    assert config.url == "sqlite:///b.db"
    assert (config.slow_query_ms, config.pool_size) == (9, 1)
    assert config.environment is Environment.DEVELOPMENT


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool_size", -1),
        ("pool_size", 2.5),
        ("pool_size", True),
        ("max_connections", 0),
        ("max_connections", "20"),
        ("pool_timeout_s", -0.1),
        ("pool_timeout_s", "30"),
        ("pool_timeout_s", float("nan")),
        ("pool_timeout_s", float("inf")),
        ("recycle_s", None),
        ("connect_timeout_s", -5),
        ("slow_query_ms", []),
        ("busy_timeout_ms", -1),
        ("busy_timeout_ms", 1.5),
        ("journal_mode", "FAST"),
        ("journal_mode", None),
        ("journal_mode", "WAL; DROP TABLE tasks"),
        ("synchronous", "SOMETIMES"),
        ("file_mode", 0o200),
        ("file_mode", 0),
        ("file_mode", 0o1777),
        ("file_mode", "600"),
        ("foreign_keys", "no"),
        ("pre_ping", 1),
        ("echo", "yes"),
        ("must_exist", None),
        ("environment", "prod"),
    ],
)
def test_a_setting_of_a_wrong_kind_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=name) as caught:
        DatabaseConfig(url="sqlite:///x.db", **{name: value})  # type: ignore[arg-type]
    assert caught.value.field == name


def test_no_more_connections_are_kept_than_there_may_be() -> None:
    config = DatabaseConfig(url="sqlite:///x.db", max_connections=2)
    assert (config.pool_size, config.max_connections) == (2, 2)
    assert DatabaseConfig(url="sqlite:///x.db", pool_size=50).pool_size == 20


def test_every_setting_is_a_keyword() -> None:
    assert all(item.kw_only for item in fields(DatabaseConfig))
    with pytest.raises(TypeError):
        DatabaseConfig("sqlite:///x.db")  # type: ignore[misc]


def test_settings_beside_a_configuration_are_not_ignored() -> None:
    config = DatabaseConfig(url="sqlite:///:memory:")
    database = create_database(config, echo=True, slow_query_ms=3)
    assert (database.config.echo, database.config.slow_query_ms) == (True, 3)
    assert create_database(config).config.echo is False


# -- what the settings do -------------------------------------------------------------------------


def test_reset_is_refused_in_production(make_url: Callable[..., str], backend: str) -> None:
    url = make_url(backend)
    for environment in (Environment.PRODUCTION, "production"):
        database = create_database(url, environment=environment)
        init_database(database)
        with SessionFactory(url).get_session() if backend != "memory" else _session(database) as s:
            ProjectRepository(s).upsert(name="kept", slug="kept")
        with pytest.raises(DatabaseError, match="production"):
            reset_database(database, confirm=True)
        with _session(database) as s:
            assert ProjectRepository(s).exists("kept")
        database.close_pool()


def _session(database: Any) -> Any:
    from hopper_data.session import open_session

    return open_session(database)


def test_reset_wants_to_be_confirmed(make_url: Callable[..., str], backend: str) -> None:
    database = create_database(make_url(backend))
    init_database(database)
    with _session(database) as s:
        ProjectRepository(s).create(name="gone", slug="gone")
    with pytest.raises(ValidationError, match="confirm=True"):
        reset_database(database)
    with _session(database) as s:
        assert ProjectRepository(s).exists("gone")
    reset_database(database, confirm=True)
    with _session(database) as s:
        assert ProjectRepository(s).count() == 0
    database.close_pool()


def test_slow_queries_are_logged_without_their_values(
    make_url: Callable[..., str], backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = create_database(make_url(backend), slow_query_ms=0)
    with caplog.at_level(logging.WARNING, "hopper_data"), _session(database) as s:
        s.execute("SELECT ?", ("hush-hush",))
    slow = [record for record in caplog.records if "SELECT" in record.getMessage()]
    assert slow
    assert slow[0].levelno == logging.WARNING
    assert "hush-hush" not in caplog.text
    caplog.clear()
    quick = create_database(make_url(backend), slow_query_ms=60_000)
    with caplog.at_level(logging.DEBUG), _session(quick) as s:
        s.execute("SELECT ?", ("hush-hush",))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "hush-hush" not in caplog.text
    database.close_pool()
    quick.close_pool()


def test_echo_logs_each_statement(
    make_url: Callable[..., str], backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    database = create_database(make_url(backend), echo=True)
    with caplog.at_level(logging.INFO, "hopper_data"), _session(database) as s:
        s.execute("SELECT 40 + 2")
    assert "SELECT 40 + 2" in caplog.text
    database.close_pool()


def test_a_long_statement_is_not_logged_whole(caplog: pytest.LogCaptureFixture) -> None:
    database = create_database("sqlite:///:memory:", echo=True)
    with caplog.at_level(logging.INFO, "hopper_data"), _session(database) as s:
        s.execute(f"SELECT '{'x' * 50_000}'")
    assert "SELECT 'xxx" in caplog.text
    assert len(caplog.text) < 10_000
    database.close_pool()


def test_the_environment_is_read_when_it_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy.initialize(None)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/a.db")
    first = proxy.obj
    assert proxy.obj is first
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/b.db")
    second = proxy.obj
    assert (first.url.database, second.url.database) == (f"{tmp_path}/a.db", f"{tmp_path}/b.db")
    explicit = connect(f"sqlite:///{tmp_path}/c.db")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/d.db")
    assert proxy.obj is explicit
    proxy.initialize(None)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_file_is_one_of_the_present_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy.initialize(None)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///x.db")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        init_database(create_tables=True)
        with get_sync_session() as s:
            ProjectRepository(s).create(name=name, slug=name)
            assert [row.name for row in Project.select()] == [name]
    assert (tmp_path / "one" / "x.db").exists()
    proxy.initialize(None)


def test_a_database_in_memory_does_not_depend_on_the_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proxy.initialize(None)
    monkeypatch.setenv("HOPPER_ENV", "test")
    init_database()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    with get_sync_session() as s:
        assert ProjectRepository(s).count() == 0
    proxy.initialize(None)
