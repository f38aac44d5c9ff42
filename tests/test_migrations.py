"""Migrations: up, down, failures, races, rebuilt tables, and databases that are newer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import peewee
import pytest
from peewee_migrate.migrator import Migrator

from hopper_data import (
    DatabaseError,
    IntegrityError,
    SchemaVersionMismatch,
    TaskRepository,
    ValidationError,
    check_schema,
    create_database,
    get_async_session,
    get_schema_version,
    init_database,
    reset_database,
    run_migrations,
)
from hopper_data.database import Database
from hopper_data.migrations import (
    SafeRouter,
    migrate,
    migration_history,
    migration_names,
    migrations_folder,
    pending_migrations,
    run_script,
)
from hopper_data.session import open_session

ROOT = Path(__file__).resolve().parents[1]
BOTH = pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
SQLITE = pytest.mark.parametrize("backend", ["memory", "sqlite"], indirect=True)


def tables(database: Database) -> set[str]:
    """All tables that are not the backend's own."""
    with open_session(database, read_only=True) as session:
        if database.dialect == "sqlite":
            sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
        else:
            sql = (
                "SELECT relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
                "WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')"
            )
        return {name for (name,) in session.execute(sql)}


def rows(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with open_session(database) as session:
        return session.execute(sql)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder of migrations."""
    made = tmp_path / "migrations"
    made.mkdir()
    return made


def write(folder: Path, name: str, up: str, down: str = "SELECT 1") -> None:
    """A migration of two scripts that both backends understand."""
    (folder / f"{name}.py").write_text(
        "from hopper_data.migrations import run_script\n"
        f"def migrate(migrator, database, *, fake=False):\n"
        f"    run_script(migrator, database, postgresql={up!r}, sqlite={up!r})\n"
        f"def rollback(migrator, database, *, fake=False):\n"
        f"    run_script(migrator, database, postgresql={down!r}, sqlite={down!r})\n",
        encoding="utf-8",
    )


@pytest.fixture
def three(folder: Path) -> Path:
    """A folder of three migrations, each with a table."""
    for name in ("001_one", "002_two", "003_three"):
        table = name[4:]
        write(folder, name, f"CREATE TABLE {table} (id INTEGER)", f"DROP TABLE {table}")
    return folder


# -- up and down ----------------------------------------------------------------------------------


def test_up_down_and_up_again(empty_database: Database) -> None:
    names = migration_names()
    assert names[0] == "001_routing"
    assert get_schema_version() is None
    assert pending_migrations() == names
    assert migration_history() == []
    assert tables(empty_database) == set()
    assert run_migrations("head") == 0
    assert get_schema_version() == names[-1]
    assert pending_migrations() == []
    assert check_schema() == []
    first = tables(empty_database)
    assert {"tasks", "projects", "migratehistory"} <= first
    with open_session(empty_database) as session:
        TaskRepository(session).create(title="x", tags=["y"])
    assert run_migrations("base") == 0
    assert tables(empty_database) == {"migratehistory"}
    assert get_schema_version() is None
    assert run_migrations() == 0
    assert tables(empty_database) == first
    assert check_schema() == []
    with open_session(empty_database) as session:
        assert TaskRepository(session).count() == 0


@BOTH
def test_nothing_is_left_behind_on_the_way_down(empty_database: Database) -> None:
    """Functions, types, schemas, triggers and sequences go too."""
    sql = (
        "SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"
        if empty_database.dialect == "sqlite"
        else "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace "
        "UNION ALL SELECT typname FROM pg_type WHERE typnamespace = 'public'::regnamespace "
        "AND typname NOT LIKE '%migratehistory%' "
        "UNION ALL SELECT nspname FROM pg_namespace WHERE nspname NOT LIKE 'pg_%' "
        "AND nspname NOT IN ('public', 'information_schema')"
    )
    run_migrations()
    assert len(rows(empty_database, sql)) > 1
    run_migrations("base")
    expected = [("migratehistory",)] if empty_database.dialect == "sqlite" else []
    assert rows(empty_database, sql) == expected


def test_to_a_migration_by_its_name(empty_database: Database, three: Path) -> None:
    def go(target: str) -> list[str]:
        return migrate(target, database=empty_database, folder=three)

    assert go("002_two") == ["001_one", "002_two"]
    assert tables(empty_database) == {"one", "two", "migratehistory"}
    assert go("002_two") == []
    assert go("head") == ["003_three"]
    assert go("001_one") == ["-003_three", "-002_two"]
    assert tables(empty_database) == {"one", "migratehistory"}
    assert go("base") == ["-001_one"]
    assert go("base") == []


@BOTH
def test_an_unknown_target_is_refused(empty_database: Database) -> None:
    for target in ("001_ruoting", "002", "latest", "", "HEAD"):
        with pytest.raises(ValidationError, match=f"there is no migration {target!r}") as caught:
            run_migrations(target)
        assert caught.value.field == "target"
    with pytest.raises(ValidationError, match="did you mean '001_routing'"):
        run_migrations("001_ruoting")
    assert tables(empty_database) == set()


@BOTH
def test_a_migration_that_came_in_between_is_applied(empty_database: Database, three: Path) -> None:
    hidden = (three / "002_two.py").rename(three / "hidden")
    migrate(database=empty_database, folder=three)
    hidden.rename(three / "002_two.py")
    assert migrate(database=empty_database, folder=three) == ["002_two"]
    assert {"one", "two", "three"} < tables(empty_database)


@BOTH
def test_fake_only_takes_note(empty_database: Database, three: Path) -> None:
    assert len(migrate(database=empty_database, folder=three, fake=True)) == 3
    assert tables(empty_database) == {"migratehistory"}
    assert migrate(database=empty_database, folder=three) == []


@BOTH
def test_the_history_has_times(empty_database: Database) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    run_migrations()
    history = migration_history()
    assert [name for name, _ in history] == migration_names()
    assert all(before <= moment <= datetime.now(UTC) for _, moment in history)
    assert [moment for _, moment in history] == sorted(moment for _, moment in history)


def test_not_inside_a_session(database: Database) -> None:
    with open_session(database) as session:
        with pytest.raises(DatabaseError, match="cannot run inside a session"):
            run_migrations("base")
        assert TaskRepository(session).count() == 0
    assert get_schema_version() == migration_names()[-1]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_a_schema_of_its_own_is_respected(empty_database: Database) -> None:
    """The history is looked for where the search path leads, not in `public`."""
    with open_session(empty_database) as session:
        session.execute("CREATE SCHEMA own")
    url = empty_database.config.url
    own = create_database(f"{url}&options=-csearch_path%3Down")
    for _ in range(2):
        run_migrations("001_routing", database=own)
    assert get_schema_version(own) == "001_routing"
    assert get_schema_version(empty_database) is None
    assert rows(own, "SELECT to_regclass('own.tasks')::text") == [("tasks",)]
    run_migrations("001_routing", database=empty_database)
    run_migrations("base", database=own)
    assert get_schema_version(empty_database) == "001_routing"
    own.close_pool()


# -- failures -------------------------------------------------------------------------------------


def test_a_failure_leaves_nothing_behind(empty_database: Database, three: Path) -> None:
    write(
        three,
        "002_two",
        "CREATE TABLE two (id INTEGER)\n--\n"
        "INSERT INTO one VALUES (1)\n--\n"
        "CREATE INDEX two_id ON two (id)\n--\n"
        "ALTER TABLE one ADD COLUMN more INTEGER\n--\n"
        "SELECT nonsense FROM nowhere",
    )
    for _ in range(2):
        with pytest.raises(DatabaseError, match="nowhere"):
            migrate(database=empty_database, folder=three)
        assert tables(empty_database) == {"one", "migratehistory"}
        assert rows(empty_database, "SELECT * FROM one") == []
    history = rows(empty_database, "SELECT name FROM migratehistory")
    assert history == [("001_one",)]
    write(three, "002_two", "CREATE TABLE two (id INTEGER)")
    assert migrate(database=empty_database, folder=three) == ["002_two", "003_three"]


def test_a_failure_of_python_leaves_nothing_behind(empty_database: Database, three: Path) -> None:
    (three / "002_two.py").write_text(
        "def migrate(migrator, database, *, fake=False):\n"
        "    database.execute_sql('CREATE TABLE two (id INTEGER)')\n"
        "    raise RuntimeError('half way')\n"
        "def rollback(migrator, database, *, fake=False): pass\n",
        encoding="utf-8",
    )
    with pytest.raises(RuntimeError, match="half way"):
        migrate(database=empty_database, folder=three)
    assert tables(empty_database) == {"one", "migratehistory"}


def test_a_step_back_that_fails_leaves_everything(empty_database: Database, three: Path) -> None:
    write(three, "003_three", "CREATE TABLE three (id INTEGER)", "DROP TABLE three\n--\nNONSENSE")
    migrate(database=empty_database, folder=three)
    with pytest.raises(DatabaseError, match="NONSENSE"):
        migrate("base", database=empty_database, folder=three)
    assert tables(empty_database) == {"one", "two", "three", "migratehistory"}
    assert len(rows(empty_database, "SELECT name FROM migratehistory")) == 3


@SQLITE
def test_foreign_keys_hold_again_after_a_failure(database: Database, folder: Path) -> None:
    router = SafeRouter(database, folder)
    write(folder, "001_wrong", "NONSENSE")
    database.connect()
    with pytest.raises(DatabaseError, match="NONSENSE"):
        router.run_one("001_wrong", router.migrator, fake=False)
    assert database.execute_sql("PRAGMA foreign_keys").fetchone() == (1,)
    assert not database.in_transaction()
    with pytest.raises(IntegrityError):
        database.execute_sql("INSERT INTO routing_decisions (task_id) VALUES ('none')")
    database.close()


# -- what a migration may contain -----------------------------------------------------------------


def test_scripts_may_hold_signs_of_every_kind(empty_database: Database, folder: Path) -> None:
    write(
        folder,
        "001_signs",
        "CREATE TABLE signs (text TEXT);\n"
        "--\n"
        "INSERT INTO signs VALUES ('100% %s %(x)s %% ? :name ; $1'), ('ÆШ語🚀');\n"
        "--\n"
        "\n"
        "--\n"
        "-- a comment; with -- more\n"
        "INSERT INTO signs VALUES ('''--''');\n",
    )
    migrate(database=empty_database, folder=folder)
    found = {text for (text,) in rows(empty_database, "SELECT text FROM signs")}
    assert found == {"100% %s %(x)s %% ? :name ; $1", "ÆШ語🚀", "'--'"}


def test_a_trigger_may_hold_semicolons(empty_database: Database, folder: Path) -> None:
    (folder / "001_trigger.py").write_text(
        "from hopper_data.migrations import run_script\n"
        "UP = '''CREATE TABLE a (x INTEGER)\n--\nCREATE TABLE log (x INTEGER)\n--\n'''\n"
        "SQLITE = UP + '''CREATE TRIGGER t AFTER INSERT ON a BEGIN\n"
        "    INSERT INTO log VALUES (new.x);\n    INSERT INTO log VALUES (new.x % 10);\nEND'''\n"
        "POSTGRESQL = UP + '''CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS $$\n"
        "BEGIN\n    INSERT INTO log VALUES (new.x);\n    INSERT INTO log VALUES (new.x % 10);\n"
        "    RETURN new;\nEND $$\n--\n"
        "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION f()'''\n"
        "def migrate(migrator, database, *, fake=False):\n"
        "    run_script(migrator, database, postgresql=POSTGRESQL, sqlite=SQLITE)\n"
        "def rollback(migrator, database, *, fake=False): pass\n",
        encoding="utf-8",
    )
    migrate(database=empty_database, folder=folder)
    with open_session(empty_database) as session:
        session.execute("INSERT INTO a VALUES (25)")
        assert session.execute("SELECT x FROM log ORDER BY x") == [(5,), (25,)]


def test_each_backend_runs_its_own_script(empty_database: Database) -> None:
    migrator = Migrator(empty_database)
    run_script(
        migrator,
        empty_database,
        postgresql="CREATE TABLE of_postgresql (id INTEGER)",
        sqlite="CREATE TABLE of_sqlite (id INTEGER)",
    )
    with open_session(empty_database):
        migrator()
    assert tables(empty_database) == {f"of_{empty_database.dialect}"}


def test_a_migration_sees_peewee_as_it_is(empty_database: Database, three: Path) -> None:
    """peewee-migrate replaces parts of Peewee, for all threads, while it replays migrations."""
    (three / "003_three.py").write_text(
        "import peewee\n"
        "seen = peewee.seen_by_migration = []\n"
        "def migrate(migrator, database, *, fake=False):\n"
        "    seen.append((peewee.Model.select, peewee.Database.execute_sql))\n"
        "def rollback(migrator, database, *, fake=False): migrate(migrator, database)\n",
        encoding="utf-8",
    )
    untouched = (peewee.Model.select.__func__, peewee.Database.execute_sql)  # type: ignore[attr-defined]
    stop = threading.Event()
    wrong: list[Any] = []

    def watch() -> None:
        while not stop.is_set():
            now = (peewee.Model.select.__func__, peewee.Database.execute_sql)  # type: ignore[attr-defined]
            if now != untouched:
                wrong.append(now)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for target in ("002_two", "head", "base"):
            migrate(target, database=empty_database, folder=three)
        migrate(database=empty_database, folder=three, fake=True)
    finally:
        stop.set()
        watcher.join()
    assert wrong == []
    seen: list[Any] = peewee.seen_by_migration  # type: ignore[attr-defined]
    assert [(select.__func__, execute) for select, execute in seen] == [untouched]


@BOTH
def test_a_connection_from_before_a_migration_goes_on(database: Database, folder: Path) -> None:
    """Its first write too, which SQLite prepares with what it knew of the schema."""
    other = create_database(database.config)
    other.connect()
    write(folder, "001_more", "CREATE TABLE more (id INTEGER)")
    router = SafeRouter(database, folder)
    router.run_one("001_more", router.migrator, fake=False)
    with open_session(other) as session:
        tasks = TaskRepository(session)
        tasks.create(title="alpha", tags=["x"])
        assert len(tasks.search_tasks("alpha")) == len(tasks.get_tasks_by_tag("x")) == 1
    other.close_pool()


@BOTH
def test_an_asynchronous_one_goes_on_too(database: Database, folder: Path) -> None:
    write(folder, "001_more", "CREATE TABLE more (id INTEGER)")
    router = SafeRouter(database, folder)

    async def work() -> int:
        async with get_async_session() as session:
            await session.execute("SELECT COUNT(*) FROM projects")
        router.run_one("001_more", router.migrator, fake=False)
        async with get_async_session() as session:
            tasks = TaskRepository(session.sync_session)
            await session.run(lambda: tasks.create(title="alpha"))
            return len(await session.run(lambda: tasks.search_tasks("alpha")))

    assert asyncio.run(work()) == 1


@BOTH
def test_others_use_the_database_meanwhile(database: Database, folder: Path) -> None:
    write(folder, "001_more", "CREATE TABLE more (id INTEGER)", "DROP TABLE more")
    other = create_database(database.config)
    stop = threading.Event()
    errors: list[Exception] = []
    count = 0

    def work() -> None:
        nonlocal count
        while not stop.is_set():
            try:
                with open_session(other) as session:
                    tasks = TaskRepository(session)
                    made = tasks.create(title="x", tags=["y"])
                    assert tasks.get_or_raise(made.id).title == "x"
                    count += 1
            except Exception as error:  # noqa: BLE001 - the test shows them
                errors.append(error)
                return

    worker = threading.Thread(target=work)
    worker.start()
    router = SafeRouter(database, folder)
    try:
        for _ in range(5):
            router.run_one("001_more", router.migrator, fake=False)
            router.run_one("001_more", router.migrator, fake=False, downgrade=True)
    finally:
        stop.set()
        worker.join(60)
    assert errors == []
    with open_session(database) as session:
        assert TaskRepository(session).count() == count
    other.close_pool()


# -- tables that are built anew -------------------------------------------------------------------

REBUILD = """
CREATE TABLE projects_new (
    name VARCHAR(100) NOT NULL PRIMARY KEY, slug VARCHAR(100) NOT NULL, colour TEXT
)
--
INSERT INTO projects_new (name, slug) SELECT name, slug FROM projects
--
DROP TABLE projects
--
ALTER TABLE projects_new RENAME TO projects
"""


def _parent_and_children(database: Database) -> None:
    with open_session(database) as session:
        session.execute("INSERT INTO tasks (id, title, tags) VALUES ('t', 'alpha', '[\"x\"]')")
        session.execute("INSERT INTO projects (name, slug) VALUES ('p', 'p')")
        session.execute("INSERT INTO routing_decisions (task_id, project) VALUES ('t', 'p')")
        session.execute("INSERT INTO task_feedback (task_id) VALUES ('t')")


@SQLITE
def test_children_of_a_rebuilt_table_stay(database: Database, folder: Path) -> None:
    _parent_and_children(database)
    write(folder, "001_rebuild", REBUILD)
    router = SafeRouter(database, folder)
    router.run_one("001_rebuild", router.migrator, fake=False)
    assert rows(database, "SELECT task_id, project FROM routing_decisions") == [("t", "p")]
    with open_session(database) as session:
        session.execute("UPDATE projects SET colour = 'red'")
        with pytest.raises(IntegrityError):
            session.execute("UPDATE routing_decisions SET project = 'none'")
        session.execute("DELETE FROM projects")
        assert session.execute("SELECT project FROM routing_decisions") == [(None,)]


@SQLITE
def test_a_rebuilt_table_of_tasks_is_still_searched(database: Database, folder: Path) -> None:
    _parent_and_children(database)
    with open_session(database) as session:
        made = [
            text
            for (text,) in session.execute(
                "SELECT sql FROM sqlite_master WHERE tbl_name = 'tasks' AND sql IS NOT NULL "
                "AND type IN ('trigger', 'index')"
            )
        ]
        (table,) = session.execute("SELECT sql FROM sqlite_master WHERE name = 'tasks'")
    script = [
        table[0].replace('CREATE TABLE "tasks"', "CREATE TABLE tasks_new"),
        "INSERT INTO tasks_new SELECT * FROM tasks",
        "DROP TABLE tasks",
        "ALTER TABLE tasks_new RENAME TO tasks",
        *made,
    ]
    write(folder, "001_rebuild", "\n--\n".join(script))
    router = SafeRouter(database, folder)
    router.run_one("001_rebuild", router.migrator, fake=False)
    with open_session(database) as session:
        tasks = TaskRepository(session)
        assert [task.id for task in tasks.search_tasks("alpha")] == ["t"]
        assert [task.id for task in tasks.get_tasks_by_tag("x")] == ["t"]
        tasks.update("t", title="beta", tags=["y"])
        assert tasks.search_tasks("alpha") == []
        assert [task.id for task in tasks.search_tasks("beta")] == ["t"]
        assert tasks.get_tasks_by_tag("x") == []
        assert session.execute("SELECT task_id FROM task_feedback") == [("t",)]
        tasks.delete("t")
        assert session.execute("SELECT task_id FROM task_feedback") == []


@SQLITE
def test_a_rebuild_that_loses_parents_is_refused(database: Database, folder: Path) -> None:
    _parent_and_children(database)
    write(folder, "001_rebuild", REBUILD.replace("FROM projects\n", "FROM projects WHERE 0\n"))
    router = SafeRouter(database, folder)
    with pytest.raises(DatabaseError, match="would leave 1 rows of routing_decisions without"):
        router.run_one("001_rebuild", router.migrator, fake=False)
    assert rows(database, "SELECT name FROM projects") == [("p",)]
    assert "projects_new" not in tables(database)
    assert router.done == migration_names()


@SQLITE
def test_rows_that_were_broken_before_stop_nothing(database: Database, folder: Path) -> None:
    _parent_and_children(database)
    database.connect()
    database.execute_sql("PRAGMA foreign_keys = OFF")
    database.execute_sql("DELETE FROM projects")
    database.close()
    write(folder, "001_more", "CREATE TABLE more (id INTEGER)")
    router = SafeRouter(database, folder)
    router.run_one("001_more", router.migrator, fake=False)
    assert "more" in tables(database)


# -- newer databases ------------------------------------------------------------------------------


def test_a_newer_database_is_refused(database: Database, three: Path) -> None:
    with open_session(database) as session:
        session.execute(
            "INSERT INTO migratehistory (name, migrated_at) "
            "VALUES ('999_future', '2030-01-01 00:00:00')"
        )
    before = tables(database)
    head = migration_names()[-1]
    for call in (
        run_migrations,
        lambda: run_migrations("base"),
        lambda: run_migrations(head),
        lambda: migrate(fake=True),
        init_database,
        lambda: init_database(create_tables=True),
        lambda: reset_database(confirm=True),
        check_schema,
        SafeRouter(database).run,
        lambda: SafeRouter(database).run(fake=True),
        SafeRouter(database).rollback,
    ):
        with pytest.raises(SchemaVersionMismatch, match="'999_future'") as caught:
            call()
        assert caught.value.current == "999_future"
        assert caught.value.expected == head
    assert tables(database) == before
    assert get_schema_version() == "999_future"
    assert pending_migrations() == []


# -- races ----------------------------------------------------------------------------------------

_PROCESS = """
import sys
from hopper_data import create_database, run_migrations
database = create_database(sys.argv[1])
sys.stdin.readline()
run_migrations(database=database)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_six_processes_migrate_at_once(
    make_url: Callable[..., str], kind: str, tmp_path: Path
) -> None:
    url = make_url(kind, migrated=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            text=True,
        )
        for _ in range(6)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, results
    database = create_database(url)
    assert [name for name, _ in migration_history(database)] == migration_names()
    assert check_schema(database) == []
    database.close_pool()


@BOTH
def test_threads_migrate_up_and_down_at_once(empty_database: Database, three: Path) -> None:
    barrier = threading.Barrier(4, timeout=60)
    errors: list[Exception] = []

    def work() -> None:
        own = create_database(empty_database.config)
        try:
            for target in ("head", "base", "head"):
                barrier.wait()
                migrate(target, database=own, folder=three)
        except Exception as error:  # noqa: BLE001 - the test shows them
            errors.append(error)
        finally:
            own.close_pool()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    assert tables(empty_database) == {"one", "two", "three", "migratehistory"}
    assert len(rows(empty_database, "SELECT * FROM migratehistory")) == 3


# -- the files ------------------------------------------------------------------------------------


def test_released_migrations_do_not_know_the_models() -> None:
    for file in migrations_folder().glob("[0-9]*.py"):
        text = file.read_text(encoding="utf-8")
        imports = [line for line in text.splitlines() if line.startswith(("import ", "from "))]
        assert imports == ["from hopper_data.migrations import run_script"], file.name


def test_migrations_are_read_as_utf8_in_every_locale(tmp_path: Path) -> None:
    code = "from hopper_data import *; run_migrations(database=create_database('sqlite:///x.db'))"
    done = subprocess.run(
        [sys.executable, "-X", "utf8=0", "-c", code],
        cwd=tmp_path,
        env={"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_migrations_have_numbers_without_gaps() -> None:
    names = migration_names()
    assert [int(name[:3]) for name in names] == list(range(1, len(names) + 1))
