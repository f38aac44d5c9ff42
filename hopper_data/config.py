"""Where the data is, and how connections to it behave.

`DatabaseConfig` holds every setting of a database; `DatabaseConfig.from_env()` reads the three
environment variables of the package. `DatabaseURL` takes a URL apart and never shows a password.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from hopper_data.errors import ValidationError

__all__ = ["DatabaseConfig", "DatabaseURL", "Environment", "build_database_url"]

DEFAULT_URL = "sqlite:///./hopper.db"
MEMORY = ":memory:"
_MEMORY_URL = f"sqlite:///{MEMORY}"
_MASK = "***"
_SECRET_OPTIONS = frozenset({"password", "passfile", "sslpassword", "sslkey"})
_ACCEPTED = (
    "sqlite:///relative.db, sqlite:////absolute.db, sqlite:///:memory:, "
    "postgresql://, postgres:// and cockroachdb://"
)
_RESERVED = "percent-encode '@', ':', '/', '?' and '%' in user, password and database name"


class Environment(StrEnum):
    """The value of HOPPER_ENV."""

    DEVELOPMENT = "development"
    TEST = "test"
    PRODUCTION = "production"


class Backend(StrEnum):
    """The kind of database that a URL names."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"
    COCKROACHDB = "cockroachdb"


_SCHEMES = {
    "sqlite": Backend.SQLITE,
    "postgresql": Backend.POSTGRESQL,
    "postgres": Backend.POSTGRESQL,
    "cockroachdb": Backend.COCKROACHDB,
}
_ASYNC_DRIVERS = {Backend.SQLITE: "aiosqlite", Backend.POSTGRESQL: "asyncpg"}


class DatabaseURL(NamedTuple):
    """A database URL in parts. `str()` and `repr()` mask the password.

    `database` is the path of the file (`:memory:` for a database in memory) or the name of the
    database. `hosts` are pairs of host and port, an empty host for libpq's default.
    """

    backend: Backend
    database: str
    user: str | None = None
    password: str | None = None
    hosts: tuple[tuple[str, int | None], ...] = ()
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, url: str) -> DatabaseURL:
        """Take `url` apart; a `ValidationError` says which URLs work, and never quotes the rest."""
        if not isinstance(url, str):
            raise ValidationError(
                f"a database URL is a text, not {type(url).__name__}; accepted are {_ACCEPTED}",
                "url",
            )
        scheme, separator, rest = url.strip().partition("://")
        backend = _SCHEMES.get(scheme.partition("+")[0].lower())
        if not separator or backend is None:
            named = separator and scheme.replace("+", "").isalnum()
            shown = f"scheme {scheme!r}" if named else "this text"
            raise ValidationError(f"{shown} is not a database URL; accepted are {_ACCEPTED}", "url")
        if backend is Backend.SQLITE:
            return cls._parse_sqlite(rest)
        return cls._parse_server(backend, rest)

    @classmethod
    def _parse_sqlite(cls, rest: str) -> DatabaseURL:
        path, _, query = rest.partition("?")
        if query:
            raise ValidationError(
                "a SQLite URL takes no options; the settings are fields of DatabaseConfig", "url"
            )
        if path and not path.startswith("/"):
            raise ValidationError(
                f"sqlite://{path} names a host; a file is sqlite:///{path} (relative) "
                f"or sqlite:////{path} (absolute)",
                "url",
            )
        if len(path) < 2:
            raise ValidationError(
                f"the database URL names no file; in memory is sqlite:///{MEMORY}", "url"
            )
        return cls(Backend.SQLITE, _unquote(path[1:]))

    @classmethod
    def _parse_server(cls, backend: Backend, rest: str) -> DatabaseURL:
        authority_path, _, query = rest.partition("?")
        authority, _, database = authority_path.partition("/")
        if "/" in database or "@" in database or "@" in query.partition("=")[0]:
            # Taken as they stand, a part of the password would become the name of the database.
            raise ValidationError(f"the database URL cannot be taken apart: {_RESERVED}", "url")
        credentials, _, hostlist = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        options = _parse_options(query)
        host, port, dbname, other_user, other_password = (
            options.pop(name, "") for name in ("host", "port", "dbname", "user", "password")
        )
        return cls(
            backend=backend,
            database=_unquote(database) or dbname,
            user=_unquote(user) or other_user or None,
            password=_unquote(password) or other_password or None,
            hosts=_parse_hosts(host or _unquote(hostlist), port),
            options=tuple(options.items()),
        )

    @property
    def in_memory(self) -> bool:
        """True for a SQLite database that lives in memory."""
        return self.backend is Backend.SQLITE and self.database == MEMORY

    def render(self, *, driver: str = "", hide_password: bool = True) -> str:
        """The URL as text, with the password masked unless asked otherwise."""
        scheme = f"{self.backend}+{driver}" if driver else str(self.backend)
        if self.backend is Backend.SQLITE:
            return f"{scheme}:///{_quote(self.database, '/:.~')}"
        credentials = _quote(self.user) if self.user else ""
        if self.password:
            credentials += ":" + (_MASK if hide_password else _quote(self.password))
        options = [
            (name, _MASK if hide_password and name in _SECRET_OPTIONS else value)
            for name, value in self.options
        ]
        socket = any(host.startswith("/") for host, _ in self.hosts)
        hosts = "" if socket else ",".join(_render_host(host, port) for host, port in self.hosts)
        if socket:
            options.insert(0, ("host", ",".join(host for host, _ in self.hosts)))
            ports = ",".join(str(port) for _, port in self.hosts if port)
            options[1:1] = [("port", ports)] if ports else []
        query = "&".join(f"{_quote(name)}={_quote(value, '/*,')}" for name, value in options)
        at = "@" if credentials else ""
        mark = "?" if query else ""
        return f"{scheme}://{credentials}{at}{hosts}/{_quote(self.database)}{mark}{query}"

    def render_async(self) -> str:
        """The masked URL with the asynchronous driver named, as SQLAlchemy writes it."""
        return self.render(driver=_ASYNC_DRIVERS.get(self.backend, "asyncpg"))

    def __str__(self) -> str:
        return self.render()

    def __repr__(self) -> str:
        return f"DatabaseURL({self.render()!r})"


def _unquote(text: str) -> str:
    """A part of a URL as it was meant."""
    from urllib.parse import unquote

    try:
        plain = unquote(text, errors="strict") if "%" in text else text
        plain.encode()
    except UnicodeError:
        # Without the original, which quotes what may be a password.
        raise ValidationError("a database URL is percent-encoded UTF-8", "url") from None
    if "\0" in plain:
        raise ValidationError("a database URL cannot hold a NUL character", "url")
    return plain


def _quote(text: str, safe: str = "") -> str:
    from urllib.parse import quote

    return quote(text, safe=safe)


def _parse_options(query: str) -> dict[str, str]:
    options = {}
    for part in filter(None, query.split("&")):
        name, separator, value = part.partition("=")
        if not separator or not name:
            raise ValidationError(
                "the part of the database URL after '?' is not name=value&name=value", "url"
            )
        options[_unquote(name)] = _unquote(value)
    return options


def _render_host(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" if port else shown


def _parse_hosts(hostlist: str, ports: str) -> tuple[tuple[str, int | None], ...]:
    if not hostlist and not ports:
        return ()
    hosts: list[tuple[str, int | None]] = []
    port_list = ports.split(",") if ports else []
    for number, part in enumerate(hostlist.split(",")):
        if part.startswith("/"):
            host, port = part, ""
        elif part.startswith("["):
            host, _, tail = part[1:].partition("]")
            port = tail.lstrip(":")
        else:
            host, _, port = part.partition(":")
        port = port or (port_list[min(number, len(port_list) - 1)] if port_list else "")
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            # Not quoted: it may be a part of the password.
            raise ValidationError(
                f"a port in the database URL is not a number from 1 to 65535; {_RESERVED}", "url"
            )
        hosts.append((host, int(port) if port else None))
    return tuple(hosts)


def build_database_url(
    backend: str = "sqlite",
    *,
    database: str = "",
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    password: str | None = None,
    **options: str,
) -> str:
    """A URL from its parts, with every part quoted as it must be.

    `host` may be a name, an address or the folder of a socket; `options` are libpq's, such as
    `sslmode="require"`. For SQLite `database` is the path of the file, `:memory:` when empty.
    The URL holds the password in clear: do not log it.
    """
    kind = _SCHEMES.get(backend)
    if kind is None:
        raise ValidationError(f"backend {backend!r} is not one of {', '.join(_SCHEMES)}", "backend")
    if kind is Backend.SQLITE and (host or port or user or password or options):
        raise ValidationError("a SQLite URL has a database file and nothing else", "backend")
    hosts = ((host or "", port),) if host or port else ()
    parts = DatabaseURL(
        kind,
        database or (MEMORY if kind is Backend.SQLITE else ""),
        user,
        password,
        hosts,
        tuple(options.items()),
    )
    return DatabaseURL.parse(parts.render(hide_password=False)).render(hide_password=False)


@dataclass(frozen=True, kw_only=True)
class DatabaseConfig:
    """Every setting of one database. Immutable; `replace(config, …)` of dataclasses copies it.

    Times are in seconds where a name ends in `_s`, in milliseconds where it ends in `_ms`.
    The pool's fields hold for PostgreSQL and for SQLite files: `pool_size` connections are kept
    open, `max_connections` there may be. A database in memory has one connection, which the
    sessions take in turns.
    """

    url: str = field(repr=False)
    environment: Environment = Environment.DEVELOPMENT
    must_exist: bool = False
    echo: bool = False
    slow_query_ms: float = 100.0

    pool_size: int = 5
    max_connections: int = 20
    pool_timeout_s: float = 30.0
    pre_ping: bool = True
    recycle_s: float = 3600.0
    connect_timeout_s: float = 5.0

    foreign_keys: bool = True
    journal_mode: str = "WAL"
    busy_timeout_ms: int = 5000
    synchronous: str = "NORMAL"
    file_mode: int = 0o600

    def __post_init__(self) -> None:
        DatabaseURL.parse(self.url)
        object.__setattr__(self, "environment", _environment(self.environment, "environment"))
        for name in ("must_exist", "echo", "pre_ping", "foreign_keys"):
            self._require(name, isinstance(getattr(self, name), bool), "True or False")
        for name in ("pool_timeout_s", "recycle_s", "connect_timeout_s", "slow_query_ms"):
            self._require(name, _within(getattr(self, name), 0, 1e9), "a number from 0 up")
        for name in ("pool_size", "busy_timeout_ms"):
            self._require(name, _is_whole(getattr(self, name), 0), "a whole number from 0 up")
        self._require("max_connections", _is_whole(self.max_connections, 1), "a number from 1 up")
        # Whoever lowers the most that there may be need not think of how many are kept.
        object.__setattr__(self, "pool_size", min(self.pool_size, self.max_connections))
        mode = self.file_mode
        self._require(
            "file_mode",
            _is_whole(mode, 0) and mode & 0o600 == 0o600 and mode <= 0o777,
            "a mode in which the owner may read and write, such as 0o600",
        )
        self._require_word("journal_mode", ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY"))
        self._require_word("synchronous", ("OFF", "NORMAL", "FULL", "EXTRA"))

    def _require(self, name: str, condition: bool, expected: str) -> None:
        if not condition:
            value = getattr(self, name)
            raise ValidationError(
                f"DatabaseConfig {name} is {value!r}; it must be {expected}", name
            )

    def _require_word(self, name: str, words: tuple[str, ...]) -> None:
        self._require(name, str(getattr(self, name)).upper() in words, " or ".join(words))

    def __repr__(self) -> str:
        shown = (f"{item.name}={getattr(self, item.name)!r}" for item in fields(self) if item.repr)
        return f"DatabaseConfig(url={str(self.parsed_url)!r}, {', '.join(shown)})"

    @property
    def parsed_url(self) -> DatabaseURL:
        """The URL in parts."""
        return DatabaseURL.parse(self.url)

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, *, url: str | None = None, **settings: Any
    ) -> DatabaseConfig:
        """The configuration that DATABASE_URL, HOPPER_ENV and HOPPER_SLOW_QUERY_MS describe.

        `url` and `settings` take the place of what the environment says. Without a URL it is
        `sqlite:///./hopper.db` in development, a database in memory in test, and a
        `ValidationError` in production.
        """
        environ = os.environ if environ is None else environ
        environment = present_environment(environ)
        url = url or environ.get("DATABASE_URL") or _default_url(environment)
        settings.setdefault("slow_query_ms", _read_slow_query_ms(environ))
        settings.setdefault("environment", environment)
        return cls(url=url, **settings)

    def with_url(self, url: str) -> DatabaseConfig:
        """The same settings for another database."""
        return replace(self, url=url)


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**31


def present_environment(environ: Mapping[str, str] | None = None) -> Environment:
    """What HOPPER_ENV says, development when it says nothing."""
    environ = os.environ if environ is None else environ
    return _environment(environ.get("HOPPER_ENV") or "development", "HOPPER_ENV")


def _environment(value: str, name: str) -> Environment:
    try:
        return Environment(value)
    except ValueError:
        choices = ", ".join(Environment)
        raise ValidationError(f"{name} {value!r} is not one of {choices}", name) from None


def _default_url(environment: Environment) -> str:
    if environment is Environment.PRODUCTION:
        raise ValidationError(
            "HOPPER_ENV is production and DATABASE_URL is not set: "
            "production starts only with an explicit DATABASE_URL",
            "DATABASE_URL",
        )
    return _MEMORY_URL if environment is Environment.TEST else DEFAULT_URL


def _read_slow_query_ms(environ: Mapping[str, str]) -> float:
    value = environ.get("HOPPER_SLOW_QUERY_MS") or "100"
    try:
        milliseconds = float(value)
    except ValueError:
        milliseconds = -1.0
    if not _within(milliseconds, 0, 1e9):
        raise ValidationError(
            f"HOPPER_SLOW_QUERY_MS {value!r} is not a number of milliseconds from 0 up",
            "HOPPER_SLOW_QUERY_MS",
        )
    return milliseconds
