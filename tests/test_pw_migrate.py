"""`pw_migrate` in a shell at the project's root, with DATABASE_URL alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hopper_data import check_schema, create_database, get_schema_version, run_migrations
from hopper_data.database import Database
from hopper_data.migrations import migration_history, migration_names
from hopper_data.session import open_session

ROOT = Path(__file__).resolve().parents[1]
KINDS = pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
COMMAND = str(Path(sys.executable).with_name("pw_migrate"))


def environment(url: str | None) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("HOPPER_")}
    env.pop("DATABASE_URL", None)
    return env if url is None else {**env, "DATABASE_URL": url}


def pw_migrate(
    *arguments: str, url: str | None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        cwd=folder,
        env=environment(url),
        capture_output=True,
        text=True,
        timeout=120,
    )


def opened(url: str) -> Database:
    return create_database(url)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the project as far as `pw_migrate` looks at it."""
    root = tmp_path / "project"
    shutil.copytree(
        ROOT / "migrations", root / "migrations", ignore=shutil.ignore_patterns("__pycache__")
    )
    return root


@KINDS
def test_migrate_list_and_rollback(make_url: Callable[..., str], kind: str) -> None:
    url = make_url(kind, migrated=False)
    names = migration_names()
    listed = pw_migrate("list", url=url)
    assert listed.returncode == 0, listed.stderr
    assert [line for line in listed.stdout.splitlines() if line.startswith("- ")] == [
        f"- [ ] {name}" for name in names
    ]
    migrated = pw_migrate("migrate", url=url)
    assert migrated.returncode == 0, migrated.stderr
    for name in names:
        assert f"- [x] {name}" in migrated.stdout
    database = opened(url)
    assert check_schema(database) == []
    assert f"- [x] {names[0]}" in pw_migrate("list", url=url).stdout
    again = pw_migrate("migrate", url=url)
    assert again.returncode == 0
    assert "[x]" not in again.stdout
    for left in reversed(range(len(names))):
        assert pw_migrate("rollback", url=url).returncode == 0
        assert get_schema_version(database) == (names[left - 1] if left else None)
    assert pw_migrate("rollback", url=url).returncode != 0
    assert pw_migrate("migrate", "--name", names[0], url=url).returncode == 0
    assert get_schema_version(database) == names[0]
    assert pw_migrate("migrate", url=url).returncode == 0
    assert pw_migrate("rollback", "--count", str(len(names)), url=url).returncode == 0
    assert get_schema_version(database) is None
    assert pw_migrate("migrate", "--fake", url=url).returncode == 0
    assert get_schema_version(database) == names[-1]
    assert "table tasks is missing" in check_schema(database)
    database.close_pool()


def test_create_writes_a_migration_that_runs(make_url: Callable[..., str], copy: Path) -> None:
    names = migration_names()
    url = make_url("sqlite", migrated=False)
    created = pw_migrate("create", "add_colour", url=url, folder=copy)
    assert created.returncode == 0, created.stderr
    made = copy / "migrations" / f"{len(names) + 1:03}_add_colour.py"
    assert made.is_file()
    assert pw_migrate("create", "more", url=url, folder=copy).returncode == 0
    assert (copy / "migrations" / f"{len(names) + 2:03}_more.py").is_file()
    text = made.read_text(encoding="utf-8")
    text = text.replace('UP_SQLITE = """\n', 'UP_SQLITE = """\nCREATE TABLE colour (id INTEGER);\n')
    text = text.replace('DOWN_SQLITE = """\n', 'DOWN_SQLITE = """\nDROP TABLE colour\n')
    made.write_text(text, encoding="utf-8")
    migrated = pw_migrate("migrate", url=url, folder=copy)
    assert migrated.returncode == 0, migrated.stderr
    database = opened(url)
    with open_session(database) as session:
        assert session.execute("SELECT COUNT(*) FROM colour") == [(0,)]
    for _ in range(2):
        assert pw_migrate("rollback", url=url, folder=copy).returncode == 0
    assert get_schema_version(database) == names[-1]
    assert not database.table_exists("colour")
    database.close_pool()


@pytest.mark.parametrize("name", ["two words", "a/b", "../up", "é"])
def test_a_name_that_makes_no_file_name_is_refused(copy: Path, name: str) -> None:
    before = sorted(copy.rglob("*"))
    result = pw_migrate("create", name, url="sqlite:///x.db", folder=copy)
    assert result.returncode != 0
    assert "may have letters, digits" in result.stderr
    assert [path for path in sorted(copy.rglob("*")) if path.suffix != ".db"] == before


def test_what_would_harm_is_refused(copy: Path) -> None:
    before = sorted(path.name for path in (copy / "migrations").iterdir())
    merged = pw_migrate("merge", url="sqlite:///x.db", folder=copy)
    assert merged.returncode != 0
    assert "never change" in merged.stderr
    (copy / "shop.py").write_text(
        "import peewee\nclass Shop(peewee.Model):\n    name = peewee.CharField()\n"
    )
    automatic = pw_migrate(
        "create", "x", "--auto", "--auto-source", "shop", url="sqlite:///x.db", folder=copy
    )
    assert automatic.returncode != 0
    assert "written by hand" in automatic.stderr
    assert sorted(path.name for path in (copy / "migrations").iterdir()) == before


def test_the_option_wins_over_the_environment(make_url: Callable[..., str]) -> None:
    named, other = make_url("sqlite", migrated=False), make_url("sqlite", migrated=False)
    assert pw_migrate("migrate", "--database", named, url=other).returncode == 0
    assert not Path(other.removeprefix("sqlite:///")).exists()
    database = opened(named)
    assert get_schema_version(database) == migration_names()[-1]
    database.close_pool()


def test_without_a_url_it_is_the_file_of_the_folder(copy: Path) -> None:
    assert pw_migrate("migrate", url=None, folder=copy).returncode == 0
    assert (copy / "hopper.db").is_file()
    assert (copy / "hopper.db").stat().st_mode & 0o777 == 0o600


def test_a_wrong_url_is_an_error_without_its_password(copy: Path) -> None:
    for url in ("mysql://me:secret@host/x", "postgresql://me:secret@127.0.0.1:1/x"):
        result = pw_migrate("migrate", url=url, folder=copy)
        assert result.returncode != 0
        assert "secret" not in result.stdout + result.stderr


@KINDS
def test_a_failing_migration_leaves_nothing(
    make_url: Callable[..., str], kind: str, copy: Path
) -> None:
    url = make_url(kind)
    number = len(migration_names()) + 1
    script = "CREATE TABLE half (id INTEGER)\\n--\\nNONSENSE"
    (copy / "migrations" / f"{number:03}_bad.py").write_text(
        "from hopper_data.migrations import run_script\n"
        "def migrate(migrator, database, *, fake=False):\n"
        f'    run_script(migrator, database, postgresql="{script}", sqlite="{script}")\n'
        "def rollback(migrator, database, *, fake=False): pass\n",
        encoding="utf-8",
    )
    result = pw_migrate("migrate", url=url, folder=copy)
    assert result.returncode != 0
    assert "NONSENSE" in result.stderr
    database = opened(url)
    assert not database.table_exists("half")
    assert get_schema_version(database) == migration_names()[-1]
    assert check_schema(database) == []
    database.close_pool()


@KINDS
def test_a_newer_database_is_refused(make_url: Callable[..., str], kind: str) -> None:
    url = make_url(kind)
    database = opened(url)
    with open_session(database) as session:
        session.execute(
            "INSERT INTO migratehistory (name, migrated_at) VALUES ('999_future', '2030-01-01')"
        )
    for command in ("migrate", "rollback"):
        result = pw_migrate(command, url=url)
        assert result.returncode != 0
        assert "999_future" in result.stderr
    assert get_schema_version(database) == "999_future"
    database.close_pool()


@KINDS
def test_children_of_a_rebuilt_table_stay(
    make_url: Callable[..., str], kind: str, copy: Path
) -> None:
    if kind == "postgresql":
        script = "ALTER TABLE projects ADD COLUMN colour TEXT"
    else:
        script = "\\n--\\n".join(
            [
                "CREATE TABLE fresh (name VARCHAR(100) NOT NULL PRIMARY KEY, slug TEXT NOT NULL)",
                "INSERT INTO fresh SELECT name, slug FROM projects",
                "DROP TABLE projects",
                "ALTER TABLE fresh RENAME TO projects",
            ]
        )
    (copy / "migrations" / "900_rebuild.py").write_text(
        "from hopper_data.migrations import run_script\n"
        "def migrate(migrator, database, *, fake=False):\n"
        f'    run_script(migrator, database, postgresql="{script}", sqlite="{script}")\n'
        "def rollback(migrator, database, *, fake=False): pass\n",
        encoding="utf-8",
    )
    url = make_url(kind)
    database = opened(url)
    with open_session(database) as session:
        session.execute("INSERT INTO tasks (id, title) VALUES ('t', 't')")
        session.execute("INSERT INTO projects (name, slug) VALUES ('p', 'p')")
        session.execute("INSERT INTO routing_decisions (task_id, project) VALUES ('t', 'p')")
    assert pw_migrate("migrate", url=url, folder=copy).returncode == 0
    with open_session(database) as session:
        found = session.execute("SELECT task_id, project FROM routing_decisions")
    assert found == [("t", "p")]
    database.close_pool()


@KINDS
def test_six_commands_at_once_all_succeed(make_url: Callable[..., str], kind: str) -> None:
    """Three of peewee-migrate's own, three of ours from Python."""
    url = make_url(kind, migrated=False)
    code = "from hopper_data import run_migrations; run_migrations()"
    commands = [[COMMAND, "migrate"], [sys.executable, "-c", code]] * 3
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment(url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 6, results
    database = opened(url)
    assert [name for name, _ in migration_history(database)] == migration_names()
    assert check_schema(database) == []
    run_migrations(database=database)
    database.close_pool()
