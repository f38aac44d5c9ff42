"""A PostgreSQL host that has gone is noticed: what the sockets of both drivers are told."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from hopper_data import ValidationError, create_database
from hopper_data.aio import open_async_session
from hopper_data.config import DatabaseURL
from hopper_data.libpq import keep_alive
from hopper_data.session import open_session

OPTIONS = {
    "idle": (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
    "interval": (socket.IPPROTO_TCP, "TCP_KEEPINTVL"),
    "count": (socket.IPPROTO_TCP, "TCP_KEEPCNT"),
    "user_timeout": (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
    "on": (socket.SOL_SOCKET, "SO_KEEPALIVE"),
}


def told(connection: Any) -> dict[str, int]:
    """What the system knows of a socket, as far as it has a word for it."""
    return {
        name: connection.getsockopt(level, getattr(socket, constant))
        for name, (level, constant) in OPTIONS.items()
        if hasattr(socket, constant)
    }


def expected(**values: int) -> dict[str, int]:
    return {name: value for name, value in values.items() if hasattr(socket, OPTIONS[name][1])}


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def tcp_url(make_url: Callable[..., str]) -> Iterator[str]:
    """A PostgreSQL database by TCP, also where the server listens on a socket in a folder."""
    url = make_url("postgresql")
    parts = urlsplit(url)
    if parts.hostname:
        yield url
        return
    folder = parse_qs(parts.query)["host"][0]
    opened: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(door: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = door.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(f"{folder}/.s.PGSQL.5432")
                opened.extend((client, server))
                for ends in ((client, server), (server, client)):
                    threads.append(threading.Thread(target=pump, args=ends))
                    threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as door:
        threads.append(threading.Thread(target=serve, args=(door,)))
        threads[0].start()
        yield f"postgresql://{parts.username}@127.0.0.1:{door.getsockname()[1]}{parts.path}"
        with suppress(OSError):
            door.shutdown(socket.SHUT_RDWR)
    for end in opened:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(30)
    for end in opened:
        end.close()


def told_to_psycopg2(url: str) -> dict[str, int]:
    database = create_database(url)
    with open_session(database) as session:
        session.execute("SELECT 1")
        number = os.dup(database.connection().fileno())
        with closing(socket.socket(fileno=number)) as connection:
            found = told(connection)
    database.close_pool()
    return found


def told_to_asyncpg(url: str) -> dict[str, int]:
    async def work() -> dict[str, int]:
        async with open_async_session(create_database(url)) as session:
            await session.execute("SELECT 1")
            connection = session.database._state.conn.conn
            return told(connection._transport.get_extra_info("socket"))

    return asyncio.run(work())


@pytest.mark.parametrize("told_to", [told_to_psycopg2, told_to_asyncpg])
def test_a_socket_is_told_to_notice_that_the_host_has_gone(
    tcp_url: str, told_to: Callable[[str], dict[str, int]]
) -> None:
    assert told_to(tcp_url) == expected(idle=30, interval=10, count=3, user_timeout=30_000, on=1)
    other = (
        f"{tcp_url}{'&' if '?' in tcp_url else '?'}keepalives_idle=7&keepalives_interval=5"
        "&keepalives_count=2&tcp_user_timeout=9000"
    )
    assert told_to(other) == expected(idle=7, interval=5, count=2, user_timeout=9000, on=1)


def test_a_url_may_leave_it_to_the_system() -> None:
    off = "keepalives=0&keepalives_idle=0&keepalives_interval=0&keepalives_count=0"
    url = DatabaseURL.parse(f"postgresql://h/d?{off}&tcp_user_timeout=0")
    with socket.socket() as connection:
        before = told(connection)
        keep_alive(connection, url)
        assert told(connection) == before


def test_what_is_no_number_is_refused() -> None:
    for value in ("soon", "-1", "1.5", ""):
        with pytest.raises(ValidationError, match="keepalives_idle in the URL is not a whole"):
            create_database(f"postgresql://h/d?keepalives_idle={value}")


def test_a_socket_in_a_folder_has_no_host_that_could_go() -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        keep_alive(connection, DatabaseURL.parse("postgresql:///d?host=/tmp"))


def test_an_asynchronous_session_is_in_utc_and_has_the_name_of_its_url(
    make_url: Callable[..., str],
) -> None:
    url = make_url("postgresql")
    database = create_database(url)
    with open_session(database) as session:
        session.execute(f"ALTER DATABASE \"{database.database}\" SET timezone TO 'Asia/Kolkata'")
    database.close_pool()

    async def ask(url: str) -> list[tuple[Any, ...]]:
        async with open_async_session(create_database(url)) as session:
            return [
                *await session.execute("SHOW timezone"),
                *await session.execute("SHOW application_name"),
            ]

    assert asyncio.run(ask(url)) == [("UTC",), ("hopper_data",)]
    named = f"{url}{'&' if '?' in url else '?'}application_name=worker-7"
    assert asyncio.run(ask(named)) == [("UTC",), ("worker-7",)]
