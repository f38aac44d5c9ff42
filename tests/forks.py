"""A program that forks while other threads work: `python -m tests.forks URL NAME`.

A program of its own, since what watches the tests, such as coverage, has locks in every thread.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from hopper_data import ProjectRepository, create_database
from hopper_data.database import Database
from hopper_data.session import open_session

FORKS = 5


def in_child(work: Callable[[], object]) -> None:
    """Run `work` in a fork; an error there ends this program, too."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            work()
        except BaseException:  # noqa: BLE001 - told to the parent
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def names(database: Database) -> list[str]:
    with open_session(database) as session:
        return [row.name for row in ProjectRepository(session).get_all()]


def add(database: Database, name: str) -> None:
    with open_session(database) as session:
        ProjectRepository(session).create(name=name, slug=name)


def another_thread_has_a_session(database: Database) -> None:
    entered, go_on = threading.Event(), threading.Event()
    counts: list[int] = []

    def work() -> None:
        with open_session(database, read_only=True) as session:
            counts.append(ProjectRepository(session).count())
            entered.set()
            go_on.wait(60)
            counts.append(ProjectRepository(session).count())

    thread = threading.Thread(target=work)
    thread.start()
    assert entered.wait(30)
    try:
        for number in range(FORKS):
            in_child(lambda number=number: add(database, f"child {number}"))
    finally:
        go_on.set()
        thread.join(30)
    assert counts == [1, 1]
    assert len(names(database)) == 1 + FORKS


def other_threads_take_and_give_back(database: Database) -> None:
    # Without a statement between: SQLite's own locks, which one might hold, outlive no fork.
    stop, connected = threading.Event(), threading.Barrier(3, timeout=30)

    def work() -> None:
        with database.connection_context():
            connected.wait()  # each has opened one, and none is opened from now on
        while not stop.is_set():
            with database.connection_context():
                pass

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    connected.wait()
    try:
        for _ in range(FORKS):
            in_child(lambda: names(database))
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert names(database) == ["first"]


PROGRAMS = {
    program.__name__: program
    for program in (another_thread_has_a_session, other_threads_take_and_give_back)
}


if __name__ == "__main__":
    signal.alarm(110)
    target = create_database(sys.argv[1])
    add(target, "first")
    PROGRAMS[sys.argv[2]](target)
