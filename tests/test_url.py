"""Database URLs: which are understood, how they are refused, and that no password leaves them."""

from __future__ import annotations

import copy
import logging
import pickle
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopper_data import (
    DatabaseError,
    ValidationError,
    build_database_url,
    create_database,
    get_database_info,
)
from hopper_data.config import Backend, DatabaseConfig, DatabaseURL

SECRET = "s3cr3t-p@ss/w?rd#%:"
QUOTED = "s3cr3t-p%40ss%2Fw%3Frd%23%25%3A"


def parse(url: str) -> DatabaseURL:
    return DatabaseURL.parse(url)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///relative.db", "relative.db"),
        ("sqlite:///./hopper.db", "./hopper.db"),
        ("sqlite:///folder/deep/a.db", "folder/deep/a.db"),
        ("sqlite:////var/lib/absolute.db", "/var/lib/absolute.db"),
        ("sqlite:///with%20blank.db", "with blank.db"),
        ("sqlite:///with blank.db", "with blank.db"),
        ("sqlite:///what%3F.db", "what?.db"),
        ("sqlite:///h%C3%B6pper.db", "höpper.db"),
        ("sqlite:///höpper.db", "höpper.db"),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite+aiosqlite:///relative.db", "relative.db"),
        ("sqlite+pysqlite:////absolute.db", "/absolute.db"),
        ("SQLite:///relative.db", "relative.db"),
        (" sqlite:///relative.db\n", "relative.db"),
    ],
)
def test_a_sqlite_url_names_a_file(url: str, path: str) -> None:
    found = parse(url)
    assert (found.backend, found.database) == (Backend.SQLITE, path)
    assert found.in_memory is (path == ":memory:")
    assert parse(found.render(hide_password=False)) == found


@pytest.mark.parametrize(
    ("scheme", "backend"),
    [
        ("postgresql", "postgresql"),
        ("postgres", "postgresql"),
        ("postgresql+asyncpg", "postgresql"),
        ("postgresql+psycopg2", "postgresql"),
        ("postgres+psycopg", "postgresql"),
        ("cockroachdb", "cockroachdb"),
        ("cockroachdb+asyncpg", "cockroachdb"),
    ],
)
def test_a_server_url_names_everything_a_driver_needs(scheme: str, backend: str) -> None:
    found = parse(f"{scheme}://ann:{QUOTED}@db.example:5433/hop%20per?sslmode=require")
    assert found == DatabaseURL(
        Backend(backend),
        "hop per",
        "ann",
        SECRET,
        (("db.example", 5433),),
        (("sslmode", "require"),),
    )
    assert parse(found.render(hide_password=False)) == found


@pytest.mark.parametrize(
    ("url", "hosts", "options"),
    [
        ("postgresql://h/d", (("h", None),), ()),
        ("postgresql:///d", (), ()),
        ("postgresql://", (), ()),
        (
            "postgresql://h1:1,h2:2,h3/d?target_session_attrs=read-write",
            (("h1", 1), ("h2", 2), ("h3", None)),
            (("target_session_attrs", "read-write"),),
        ),
        ("postgresql://[::1]:5433,[fe80::1]/d", (("::1", 5433), ("fe80::1", None)), ()),
        ("postgresql:///d?host=/run/postgresql", (("/run/postgresql", None),), ()),
        ("postgresql:///d?host=/run/postgresql&port=6", (("/run/postgresql", 6),), ()),
        ("postgresql://%2Frun%2Fpostgresql/d", (("/run/postgresql", None),), ()),
        ("postgresql:///d?host=h1,h2&port=1,2", (("h1", 1), ("h2", 2)), ()),
        ("postgresql:///d?host=h1,h2&port=7", (("h1", 7), ("h2", 7)), ()),
        ("postgresql://h/d?options=-c%20x%3Dy", (("h", None),), (("options", "-c x=y"),)),
        ("postgresql://h/d?application_name=a+b", (("h", None),), (("application_name", "a+b"),)),
    ],
)
def test_hosts_sockets_and_options(
    url: str, hosts: tuple[object, ...], options: tuple[object, ...]
) -> None:
    found = parse(url)
    assert (found.hosts, found.options) == (hosts, options)
    assert parse(found.render(hide_password=False)) == found


def test_user_password_and_name_may_be_options() -> None:
    found = parse("postgresql://h?user=ann&password=p%26w&dbname=hopper")
    assert (found.user, found.password, found.database) == ("ann", "p&w", "hopper")
    found = parse("postgresql://bob:x@h/other?user=ann&password=secret&dbname=hopper")
    assert (found.user, found.password, found.database) == ("bob", "x", "other")
    assert found.options == ()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:p@h/d",
        "oracle+cx://h",
        "mssql://h",
        "hopper.db",
        "/var/lib/hopper.db",
        "sqlite:relative.db",
        "sqlite",
        "",
        "://",
        "postgresql:/h/d",
        "http://h/d",
        "file:///x.db",
        "sqlit:///x.db",
    ],
)
def test_another_scheme_is_refused_with_those_that_work(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(url)
    for scheme in ("sqlite:///", "sqlite:////", ":memory:", "postgresql://", "postgres://"):
        assert scheme in str(caught.value)
    assert "cockroachdb://" in str(caught.value)
    assert caught.value.field == "url"


@pytest.mark.parametrize("url", [None, 5, b"sqlite:///x.db", ["sqlite:///x.db"]])
def test_a_url_is_a_text(url: object) -> None:
    with pytest.raises(ValidationError, match="is a text"):
        parse(url)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite://relative.db", "sqlite:///relative.db"),
        ("sqlite://", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///x.db?mode=ro", "no options"),
        ("sqlite:///a%00b.db", "NUL"),
        ("sqlite:///a\0b.db", "NUL"),
        ("sqlite:///a\ud800.db", "UTF-8"),
        ("sqlite:///a%ff.db", "UTF-8"),
        ("postgresql://u:a%00b@h/d", "NUL"),
        ("postgresql://h:0/d", "port"),
        ("postgresql://h:65536/d", "port"),
        ("postgresql://h:five/d", "port"),
        ("postgresql://h:-1/d", "port"),
        ("postgresql://h:٣/d", "port"),
        ("postgresql://h/d?sslmode", "name=value"),
        ("postgresql://h/d?=x", "name=value"),
        ("postgresql://h/a/b", "percent-encode"),
    ],
)
def test_a_broken_url_is_refused_with_what_is_wrong(url: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(url)


@pytest.mark.parametrize("option", ["colour=blue", "drop%20table=x", "sslmodes=require"])
def test_an_option_that_libpq_does_not_know_is_refused(option: str) -> None:
    name = option.partition("=")[0].replace("%20", " ")
    with pytest.raises(ValidationError, match=name):
        create_database(f"postgresql://h/d?{option}")


def test_a_url_is_built_from_its_parts() -> None:
    assert build_database_url(database="a b?.db") == "sqlite:///a%20b%3F.db"
    assert build_database_url(database="/var/lib/x.db") == "sqlite:////var/lib/x.db"
    assert build_database_url() == "sqlite:///:memory:"
    url = build_database_url(
        "postgresql",
        database="hop/per",
        host="db.example",
        port=5433,
        user="ann@corp",
        password=SECRET,
        sslmode="verify-full",
        sslrootcert="/etc/ssl/my ca&.pem",
    )
    found = parse(url)
    assert (found.user, found.password, found.database) == ("ann@corp", SECRET, "hop/per")
    assert found.hosts == (("db.example", 5433),)
    assert dict(found.options) == {"sslmode": "verify-full", "sslrootcert": "/etc/ssl/my ca&.pem"}
    assert parse(build_database_url("postgres", host="/run/pg", database="d")).hosts == (
        ("/run/pg", None),
    )
    assert parse(build_database_url("postgresql", host="::1", port=5, database="d")).hosts == (
        ("::1", 5),
    )


def test_parts_that_make_no_url_are_refused() -> None:
    with pytest.raises(ValidationError, match="sqlite, postgresql, postgres, cockroachdb"):
        build_database_url("mysql")
    with pytest.raises(ValidationError, match="nothing else"):
        build_database_url(database="x.db", host="h")
    with pytest.raises(ValidationError, match="port"):
        build_database_url("postgresql", host="h", port=70_000)


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)


@given(user=text, password=text, database=text)
def test_every_text_survives_in_a_url(user: str, password: str, database: str) -> None:
    url = build_database_url(
        "postgresql", database=database, host="h", user=user, password=password
    )
    found = parse(url)
    assert (found.user, found.password, found.database) == (user, password, database)
    assert found.render() == DatabaseURL.parse(found.render()).render()


@given(database=text)
def test_every_path_survives_in_a_url(database: str) -> None:
    assert parse(build_database_url(database=database)).database == database


# -- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{QUOTED}@h/d",
        f"postgresql+asyncpg://ann:{QUOTED}@h1,h2/d?target_session_attrs=any",
        f"postgresql://h/d?user=ann&password={QUOTED}",
        f"postgresql://h/d?sslpassword={QUOTED}",
        f"postgresql:///d?host=/run/pg&user=ann&password={QUOTED}",
        f"cockroachdb://ann:{QUOTED}@h/d",
    ],
)
def test_no_view_of_a_configuration_shows_the_password(url: str) -> None:
    config = DatabaseConfig(url=url)
    database = create_database(url)
    views = [
        str(config),
        repr(config),
        str(config.parsed_url),
        repr(config.parsed_url),
        repr(database),
        str(database),
        database.label,
        str(get_database_info(database)),
        f"{config} {database}",
    ]
    for view in views:
        assert SECRET not in view
        assert QUOTED not in view
        assert "***" in view


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ann:hush/secret@h/d",
        "postgresql://ann:12/34hush@h/d",
        "postgresql://ann:hush?secret@h/d",
        "postgresql://ann:hush:more@h:x/d",
        "postgresql://ann:hush#x@h:99999/d",
        "postgresql://ann:hush%ff@h/d",
        "postgresql://ann:hush%00@h/d",
        "postgresql://ann:hush\ud800@h/d",
        "mysql://ann:hush@h/d",
        "ann:hush://h",
        "ann:hush@h/d",
        "postgresql://ann:hush@h/d?colour=hush",
    ],
)
def test_no_refusal_shows_the_password(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        create_database(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "hush" not in str(error)
        assert "1234" not in str(error)
        error = error.__cause__
    assert "hush" not in "".join(traceback.format_exception_only(caught.value))


def test_an_absent_server_is_named_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = create_database(f"postgresql://ann:{QUOTED}@127.0.0.1:1/d", connect_timeout_s=2)
    with caplog.at_level(logging.DEBUG), pytest.raises(DatabaseError) as caught:
        database.connect()
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text
    for form in (SECRET, QUOTED):
        assert form not in shown
    assert "127.0.0.1" in str(caught.value)
    assert "***" in str(caught.value)


def test_a_configuration_is_a_value() -> None:
    config = DatabaseConfig(url=f"postgresql://ann:{QUOTED}@h/d", pool_size=3)
    assert pickle.loads(pickle.dumps(config)) == config == copy.deepcopy(config)
    assert hash(config) == hash(copy.copy(config))
    assert config.parsed_url.password == SECRET
    assert config.with_url("sqlite:///x.db").pool_size == 3
    with pytest.raises(AttributeError):
        config.url = "sqlite:///y.db"  # type: ignore[misc]
