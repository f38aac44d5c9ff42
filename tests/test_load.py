"""Many threads and processes at once: none refused, and every write accounted for."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlencode

import pytest

from hopper_data import create_database
from hopper_data.chat import ConversationRepository, MessageRepository, UserRepository
from hopper_data.database import Database
from hopper_data.session import open_session
from tests.conftest import AdminCursor

SESSIONS = 5
# A new interpreter, since a copy of one with threads is none to be relied on.
spawned = multiprocessing.get_context("spawn")


def write(database: Database, name: str) -> None:
    """A few sessions, each of which makes a user with a conversation and adds to a common one."""
    for number in range(SESSIONS):
        with open_session(database) as session:
            users = UserRepository(session)
            user = users.get_or_create_from_claims(
                f"{name}-{number}", f"{name}.{number}@example.com"
            )
            chat = ConversationRepository(session).create(user_id=user.id)
            MessageRepository(session).append(chat.id, "user", f"{name} {number}")


def write_with_threads(url: str, name: str, threads: int) -> None:
    database = create_database(url)
    with ThreadPoolExecutor(threads) as pool:
        for result in [pool.submit(write, database, f"{name}-{n}") for n in range(threads)]:
            result.result()
    status = database.pool_status()
    # A thread that begins late may find the connection of one that has ended.
    assert (status["in_use"], status["max"]) == (0, 20)
    assert 1 <= status["idle"] <= min(threads, 5)
    database.close_pool()


def assert_accounted_for(database: Database, names: set[str]) -> None:
    with open_session(database, read_only=True) as session:
        users = {user.subject_id for user in UserRepository(session).iterate()}
        assert users == {f"{name}-{number}" for name in names for number in range(SESSIONS)}
        assert ConversationRepository(session).count() == len(users)
        contents = [message.content for message in MessageRepository(session).iterate()]
        assert sorted(filter(None, contents)) == sorted(
            f"{name} {number}" for name in names for number in range(SESSIONS)
        )


@contextmanager
def counting(url: str, names: list[str]) -> Iterator[dict[str, int]]:
    """The most connections that the server had for each application while the block ran."""
    most = dict.fromkeys(names, 0)
    stop = threading.Event()

    def look() -> None:
        with AdminCursor(url) as cursor:
            while not stop.is_set():
                cursor.execute(
                    "SELECT application_name, COUNT(*) FROM pg_stat_activity "
                    "WHERE application_name = ANY (%s) GROUP BY application_name",
                    (names,),
                )
                for name, count in cursor.fetchall():
                    most[name] = max(most[name], count)
                time.sleep(0.005)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        yield most
    finally:
        stop.set()
        looker.join(60)


def named(url: str, name: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{urlencode({'application_name': name})}"


def test_fifty_threads_share_twenty_connections(make_url: Callable[..., str]) -> None:
    url = make_url("postgresql")
    with counting(url, ["fifty"]) as most:
        write_with_threads(named(url, "fifty"), "thread", 50)
    assert 5 <= most["fifty"] <= 20
    assert_accounted_for(create_database(url), {f"thread-{n}" for n in range(50)})


def run_processes(urls: list[str], threads: int) -> None:
    processes = [
        spawned.Process(target=write_with_threads, args=(url, f"process{n}", threads))
        for n, url in enumerate(urls)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * len(processes)


def test_four_processes_of_twenty_threads(make_url: Callable[..., str]) -> None:
    url = make_url("postgresql")
    names = [f"process{n}" for n in range(4)]
    with counting(url, names) as most:
        run_processes([named(url, name) for name in names], 20)
    assert all(0 < count <= 20 for count in most.values()), most
    assert_accounted_for(create_database(url), {f"{name}-{n}" for name in names for n in range(20)})


@pytest.mark.parametrize("threads", [1, 5])
def test_four_processes_write_one_file(make_url: Callable[..., str], threads: int) -> None:
    url = make_url("sqlite")
    run_processes([url] * 4, threads)
    names = {f"process{n}-{m}" for n in range(4) for m in range(threads)}
    assert_accounted_for(create_database(url), names)


def test_fifty_threads_write_one_file(make_url: Callable[..., str]) -> None:
    url = make_url("sqlite")
    write_with_threads(url, "thread", 50)
    assert_accounted_for(create_database(url), {f"thread-{n}" for n in range(50)})


def test_every_connection_is_given_back_under_errors(make_url: Callable[..., str]) -> None:
    database = create_database(make_url("postgresql"))

    def fail(number: int) -> None:
        for turn in range(SESSIONS):
            with pytest.raises(LookupError), open_session(database) as session:
                UserRepository(session).create(email=f"a{number}.{turn}@b.example", subject_id="1")
                raise LookupError("mine")

    with ThreadPoolExecutor(30) as pool:
        list(pool.map(fail, range(30)))
    assert database.pool_status() == {"in_use": 0, "idle": 5, "max": 20}
    assert_accounted_for(database, set())
    database.close_pool()
