"""What the driver of PostgreSQL is told to connect, and asked about a connection."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Sequence
from typing import Any

from hopper_data.config import DatabaseConfig, DatabaseURL
from hopper_data.errors import DatabaseUnavailable, ValidationError

__all__ = ["copy_text", "hung_up", "keep_alive", "keep_text", "libpq_parameters"]

# None of these is in a text that a column can hold, so one pass over all rows escapes what is.
_NEXT_VALUE, _NEXT_ROW, _NULL = "\ud800", "\ud801", "\ud802"
_ESCAPES = (
    ("\\", "\\\\"),
    ("\n", "\\n"),
    ("\r", "\\r"),
    ("\t", "\\t"),
    (_NEXT_VALUE, "\t"),
    (_NEXT_ROW, "\n"),
    (_NULL, "\\N"),
)


def copy_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows of parameters as COPY reads them."""
    text = _NEXT_ROW.join(
        _NEXT_VALUE.join(
            [
                _NULL if value is None else value if value.__class__ is str else str(value)
                for value in row
            ]
        )
        for row in rows
    )
    for plain, escaped in _ESCAPES:
        text = text.replace(plain, escaped)
    return text


def hung_up(connection: Any) -> bool:
    """Whether the server has ended a connection of psycopg2."""
    if connection.closed or not hasattr(select, "poll"):
        return bool(connection.closed)
    watched = select.poll()
    watched.register(connection.fileno(), select.POLLIN)
    # The first time the server's last words are read, the second time that nothing follows.
    for _ in range(2):
        if not watched.poll(0):
            return False
        try:
            connection.poll()
        except Exception:  # noqa: BLE001  # of the driver, which is not imported here
            return True
    return bool(connection.closed)


def keep_text(text: str) -> str:
    """The text of a document as it is, for the field to parse."""
    return text


# A host that has gone, by a crash or a cut cable, is noticed in about 40 s, not in hours. Seconds,
# seconds, a count and milliseconds; a URL may say otherwise.
_KEEPALIVE = {
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_SOCKET_OPTIONS = {
    "keepalives_idle": "TCP_KEEPIDLE",
    "keepalives_interval": "TCP_KEEPINTVL",
    "keepalives_count": "TCP_KEEPCNT",
    "tcp_user_timeout": "TCP_USER_TIMEOUT",
}


def keep_alive(connection: Any, url: DatabaseURL) -> None:
    """Have a socket tell when the other host has gone, as libpq does, for drivers that do not."""
    options: dict[str, Any] = {**_KEEPALIVE, **dict(url.options)}
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if options.get("keepalives") != "0":
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, constant in _SOCKET_OPTIONS.items():
        if hasattr(socket, constant) and int(options[name]):  # 0 is the system's own
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, constant), int(options[name]))


def libpq_parameters(config: DatabaseConfig, url: DatabaseURL) -> dict[str, Any]:
    """What psycopg2 is given to connect; a `ValidationError` for what libpq does not know."""
    parameters: dict[str, Any] = {
        "application_name": "hopper_data",
        **_KEEPALIVE,
        **dict(url.options),
    }
    if url.hosts:
        parameters["host"] = ",".join(host for host, _ in url.hosts)
        if any(port for _, port in url.hosts):
            parameters["port"] = ",".join(str(port or 5432) for _, port in url.hosts)
    if url.user:
        parameters["user"] = url.user
    if url.password:
        parameters["password"] = url.password
    # libpq counts the time for each address, and knows nothing below 2 seconds. The limit for all
    # of them is kept by `in_time()`; this one leaves time for the next host.
    per_host = config.connect_timeout_s / max(1, len(url.hosts))
    parameters.setdefault("connect_timeout", max(2, int(per_host)))
    _check_parameters(parameters)
    return parameters


def _check_parameters(parameters: dict[str, Any]) -> None:
    try:
        from psycopg2.extensions import make_dsn
    except ImportError as error:
        raise DatabaseUnavailable(
            "PostgreSQL needs its driver: pip install psycopg2-binary", retryable=False
        ) from error
    for name in _KEEPALIVE:
        if not str(parameters[name]).isdecimal():
            raise ValidationError(f"{name} in the URL is not a whole number", "url")
    for name, value in parameters.items():
        try:
            make_dsn(**{name: value})
        except Exception as error:
            raise ValidationError(
                f"{name!r} is not an option that a PostgreSQL URL can have", "url"
            ) from error
