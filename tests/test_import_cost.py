"""What an import brings along: little more than Peewee does. Modules are counted, not times."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = """
alembic asyncio asyncpg aiosqlite click concurrent.futures difflib graphlib greenlet hypothesis
ipaddress jinja2 multiprocessing pathlib peewee_migrate playhouse.pwasyncio psycopg pytest random
rich secrets sqlalchemy sybil tempfile unittest unittest.mock urllib.parse
"""


def modules_after(statement: str) -> set[str]:
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}\n{statement}\nprint(*sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


SESSION = "from hopper_data import get_sync_session"


def test_an_import_alone_brings_nothing_along() -> None:
    brought = modules_after("import hopper_data") - modules_after("")
    foreign = {name for name in brought if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign == {"hopper_data"}
    assert not brought & set(HEAVY.split())


def test_the_errors_come_without_a_database() -> None:
    assert "peewee" not in modules_after("from hopper_data import DatabaseError, NotFound")


def test_a_session_brings_little_more_than_peewee() -> None:
    brought = modules_after(SESSION) - modules_after("import peewee, playhouse.pool")
    assert not brought & set(HEAVY.split())


def test_modules_that_are_not_imported_yet_are_there() -> None:
    assert "hopper_data.errors" in modules_after("import hopper_data; hopper_data.errors.NotFound")


def test_what_an_operator_needs_comes_when_it_is_used() -> None:
    base = modules_after(SESSION)
    assert "hopper_data.migrations" not in base
    assert "hopper_data.maintenance" not in base
    assert "hopper_data.aio" not in base
    assert "hopper_data.planning" not in base
    assert "hopper_data.chat" not in base
    assert "hopper_data.model" not in base
    assert "hopper_data.routing" in modules_after("from hopper_data import Task")
    assert "hopper_data.routing" in modules_after("import hopper_data; hopper_data.routing.Task")
    assert "hopper_data.migrations" in modules_after("from hopper_data import run_migrations")
    assert "hopper_data.maintenance" in modules_after("from hopper_data import init_database")


THREADS = """
import importlib, random, threading
import hopper_data

def use(name, module):
    barrier.wait()
    try:
        getattr(hopper_data, name)
        importlib.import_module(f"hopper_data.{module}")
    except BaseException as error:
        wrong.append((name, module, error))

chance, wrong, barrier = random.Random(SEED), [], threading.Barrier(12)
names, modules = sorted(hopper_data.__all__), sorted(hopper_data._MODULES)
threads = [
    threading.Thread(target=use, args=(chance.choice(names), chance.choice(modules)))
    for _ in range(12)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong, wrong
"""


@pytest.mark.parametrize("seed", range(4))
def test_many_threads_may_be_the_first_to_use_it(seed: int) -> None:
    assert "hopper_data" in modules_after(THREADS.replace("SEED", str(seed)))
