"""Where the data is, and how connections to it behave.

`DatabaseConfig` holds every setting of a database; `DatabaseConfig.from_env()` reads the three
environment variables of the package. `DatabaseURL` takes a URL apart and never shows a password.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

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


@dataclass(frozen=True)
class DatabaseURL:
    """A database URL in parts. `str()` and `repr()` mask the password.

    `database` is the path of the file (`:memory:` for a database in memory) or the name of the
    database. `hosts` are pairs of host and port, an empty host for libpq's default.
    """

    backend: Backend
    database: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    hosts: tuple[tuple[str, int | None], ...] = ()
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def parse(cls, url: str) -> DatabaseURL:
        """Take `url` apart; a `ValidationError` says which URLs work."""
        if not isinstance(url, str):
            raise ValidationError(
                f"a database URL is a text, not {type(url).__name__}; accepted are {_ACCEPTED}",
                "url",
            )
        scheme, separator, rest = url.strip().partition("://")
        backend = _SCHEMES.get(scheme.partition("+")[0].lower())
        if not separator or backend is None:
            shown = f"scheme {scheme!r}" if separator else "this text"
            raise ValidationError(
                f"{shown} is not a database URL; accepted are {_ACCEPTED}", "url"
            )
        if "\0" in rest:
            raise ValidationError("a database URL cannot hold a NUL character", "url")
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
        return cls(Backend.SQLITE, unquote(path[1:]) or MEMORY)

    @classmethod
    def _parse_server(cls, backend: Backend, rest: str) -> DatabaseURL:
        authority_path, _, query = rest.partition("?")
        authority, _, database = authority_path.partition("/")
        credentials, _, hostlist = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        try:
            options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
        except ValueError:
            raise ValidationError(
                "the part of the database URL after '?' is not name=value&name=value", "url"
            ) from None
        hosts = _parse_hosts(options.pop("host", None) or unquote(hostlist), options.pop("port", ""))
        return cls(
            backend=backend,
            database=unquote(database) or options.pop("dbname", ""),
            user=unquote(user) or options.pop("user", None) or None,
            password=unquote(password) or options.pop("password", None) or None,
            hosts=hosts,
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
            return f"{scheme}:///{quote(self.database, safe='/:.~ ')}"
        credentials = quote(self.user, safe="") if self.user else ""
        if self.password:
            credentials += ":" + (_MASK if hide_password else quote(self.password, safe=""))
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
        query = "?" + urlencode(options, safe="/*,") if options else ""
        at = "@" if credentials else ""
        return f"{scheme}://{credentials}{at}{hosts}/{quote(self.database, safe='')}{query}"

    def render_async(self) -> str:
        """The masked URL with the asynchronous driver named, as SQLAlchemy writes it."""
        return self.render(driver=_ASYNC_DRIVERS.get(self.backend, "asyncpg"))

    def __str__(self) -> str:
        return self.render()


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
            raise ValidationError(
                f"port {port!r} in the database URL is not a number from 1 to 65535", "url"
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
        raise ValidationError(
            f"backend {backend!r} is not one of {', '.join(_SCHEMES)}", "backend"
        )
    if kind is Backend.SQLITE and (host or port or user or password or options):
        raise ValidationError("a SQLite URL has a database file and nothing else", "backend")
    hosts = ((host or "", port),) if host or port else ()
    parts = DatabaseURL(
        kind, database or (MEMORY if kind is Backend.SQLITE else ""), user, password, hosts,
        tuple(options.items()),
    )
    return DatabaseURL.parse(parts.render(hide_password=False)).render(hide_password=False)


@dataclass(frozen=True, kw_only=True)
class DatabaseConfig:
    """Every setting of one database. Immutable; `replace(config, …)` of dataclasses copies it.

    Times are in seconds where a name ends in `_s`, in milliseconds where it ends in `_ms`.
    The pool's fields hold for PostgreSQL and for SQLite files; a database in memory has one
    connection, which the sessions take in turns.
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
        for name in ("pool_timeout_s", "recycle_s", "connect_timeout_s", "slow_query_ms"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "a number from 0 up")
        _require(self.max_connections >= 1, "max_connections", self.max_connections, "at least 1")
        _require(
            0 <= self.pool_size <= self.max_connections,
            "pool_size",
            self.pool_size,
            f"between 0 and max_connections ({self.max_connections})",
        )
        _require(self.busy_timeout_ms >= 0, "busy_timeout_ms", self.busy_timeout_ms, "0 or more")
        modes = ("WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY")
        _require(
            self.journal_mode.upper() in modes, "journal_mode", self.journal_mode, "/".join(modes)
        )
        levels = ("OFF", "NORMAL", "FULL", "EXTRA")
        _require(
            self.synchronous.upper() in levels, "synchronous", self.synchronous, "/".join(levels)
        )

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
        environment = _read_environment(environ)
        url = url or environ.get("DATABASE_URL") or _default_url(environment)
        settings.setdefault("slow_query_ms", _read_slow_query_ms(environ))
        return cls(url=url, environment=environment, **settings)

    def with_url(self, url: str) -> DatabaseConfig:
        """The same settings for another database."""
        return replace(self, url=url)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ValidationError(f"DatabaseConfig {name} is {value!r}; it must be {expected}", name)


def _read_environment(environ: Mapping[str, str]) -> Environment:
    value = environ.get("HOPPER_ENV") or Environment.DEVELOPMENT
    try:
        return Environment(value)
    except ValueError:
        choices = ", ".join(Environment)
        raise ValidationError(f"HOPPER_ENV {value!r} is not one of {choices}", "HOPPER_ENV") from None


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
    if not 0 <= milliseconds < float("inf"):
        raise ValidationError(
            f"HOPPER_SLOW_QUERY_MS {value!r} is not a number of milliseconds from 0 up",
            "HOPPER_SLOW_QUERY_MS",
        )
    return milliseconds
