"""migrate, rollback, status, check, and peewee-migrate's own commands."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hopper_data import create_database, get_schema_version
from hopper_data.maintenance import init_database
from hopper_data.migrations import migration_names
from hopper_data.session import open_session
from tests.conftest import ROOT
from tests.test_cli import failed, run

NAMES = migration_names()
HEAD = NAMES[-1]
PW_MIGRATE = [sys.executable, "-c", "from peewee_migrate.cli import cli; cli()"]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest, make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """The URL of a database without tables; the environment names it."""
    made = make_url(request.param, migrated=False)
    monkeypatch.setenv("DATABASE_URL", made)
    return made


def statement(url: str, sql: str) -> None:
    database = create_database(url)
    with open_session(database) as session:
        session.execute(sql)
    database.close_pool()


def version(url: str) -> str | None:
    database = create_database(url)
    try:
        return get_schema_version(database)
    finally:
        database.close_pool()


def test_migrate_brings_a_database_to_its_newest_state(url: str) -> None:
    result = run("migrate")
    assert result.exit_code == 0
    for name in NAMES:
        assert f"+ {name}" in result.stdout
    assert version(url) == HEAD
    assert f"is at {HEAD} already" in run("migrate").stdout


def test_migrate_goes_to_a_name_and_back(url: str) -> None:
    first = json.loads(run("migrate", NAMES[0], "--json").stdout)
    assert first["steps"] == [{"name": NAMES[0], "direction": "up"}]
    assert first["schema_version"] == version(url) == NAMES[0]
    run("migrate")
    back = json.loads(run("migrate", "base", "--json").stdout)
    assert back["steps"] == [{"name": name, "direction": "down"} for name in reversed(NAMES)]
    assert (back["schema_version"], version(url)) == (None, None)
    assert "without any migration" in run("migrate", "base").stdout


def test_rollback_takes_the_newest_back(url: str) -> None:
    run("migrate")
    result = run("rollback")
    assert f"- {HEAD}" in result.stdout
    assert version(url) == (NAMES[-2] if len(NAMES) > 1 else None)
    run("migrate")
    assert run("rollback", "--count", "99").exit_code == 0
    assert version(url) is None
    assert run("rollback").exit_code == 0


def test_status_shows_what_is_applied_and_what_is_pending(url: str) -> None:
    if url.startswith("postgres"):
        before = run("status")
        assert "not migrated yet; " in before.stdout
    run("migrate", NAMES[0])
    data = json.loads(run("status", "--json").stdout)
    assert data["schema_version"] == NAMES[0]
    assert data["head"] == HEAD
    assert [item["name"] for item in data["applied"]] == NAMES[:1]
    assert data["applied"][0]["applied_at"].endswith("Z")
    assert data["pending"] == NAMES[1:]
    run("migrate")
    text = run("status").stdout
    assert "nothing is pending" in text
    assert all(name in text for name in NAMES)


def test_check_is_content_with_a_migrated_database(url: str) -> None:
    run("migrate")
    result = run("check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "is what the models declare" in result.stdout
    data = json.loads(run("check", "--json").stdout)
    assert (data["ok"], data["differences"]) == (True, [])


def test_check_tells_differences_and_fails(url: str) -> None:
    run("migrate")
    statement(url, "DROP INDEX idx_tasks_owner_newest")
    statement(url, "ALTER TABLE projects ADD COLUMN colour VARCHAR(20)")
    result = run("check")
    assert "differs from the models in 2 ways" in failed(result)
    assert "idx_tasks_owner_newest is missing" in result.stdout
    assert "colour" in result.stdout
    result = run("check", "--json")
    assert failed(result)
    data = json.loads(result.stdout)
    assert (data["ok"], len(data["differences"])) == (False, 2)


def test_check_of_a_database_without_tables_says_what_to_do(url: str) -> None:
    statement(url, "CREATE TABLE something (id INTEGER)")
    result = run("check")
    assert "is not migrated yet: run `hopper-data migrate`" in failed(result)
    assert "table tasks is missing" in result.stdout


def test_tables_made_without_migrations_can_be_noted_as_migrated(url: str) -> None:
    database = create_database(url)
    init_database(database, create_tables=True)
    database.close_pool()
    assert run("seed").exit_code == 0
    error = failed(run("migrate"))
    assert "already exists" in error
    assert "`hopper-data migrate --fake` notes them" in error
    data = json.loads(run("migrate", "--fake", "--json").stdout)
    assert (data["fake"], data["schema_version"]) == (True, HEAD)
    assert run("check").exit_code == 0


def test_a_faked_step_back_leaves_the_tables(url: str) -> None:
    run("migrate")
    run("seed")
    assert run("migrate", "base", "--fake").exit_code == 0
    assert version(url) is None
    run("migrate", "--fake")
    assert "nothing was added" in run("seed").stdout


def test_six_processes_that_migrate_at_once_all_succeed(url: str) -> None:
    def migrate(_number: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hopper_data.cli", "migrate"],
            env={**os.environ, "DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(migrate, range(6)))
    assert [(result.returncode, result.stderr) for result in results] == [(0, "")] * 6
    assert run("check").exit_code == 0


# -- pw_migrate -----------------------------------------------------------------------------------


def pw_migrate(folder: Path, url: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PW_MIGRATE, *args],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with the project's migrations, where new ones may be written."""
    folder = tmp_path / "project"
    shutil.copytree(
        ROOT / "migrations", folder / "migrations", ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def test_pw_migrate_works_with_the_environment_alone(url: str, project: Path) -> None:
    listed = pw_migrate(project, url, "list")
    assert f"[ ] {HEAD}" in listed.stdout
    done = pw_migrate(project, url, "migrate")
    assert (done.returncode, f"[x] {HEAD}" in done.stdout) == (0, True)
    assert run("check").exit_code == 0
    assert f"Done: {len(NAMES)}, Pending: 0" in pw_migrate(project, url, "list").stdout
    assert pw_migrate(project, url, "rollback").returncode == 0
    assert f"Done: {len(NAMES) - 1}, Pending: 1" in pw_migrate(project, url, "list").stdout


def test_pw_migrate_creates_a_migration_that_runs(url: str, project: Path) -> None:
    pw_migrate(project, url, "migrate")
    assert pw_migrate(project, url, "create", "add_colour").returncode == 0
    assert (project / "migrations" / f"{len(NAMES) + 1:03}_add_colour.py").is_file()
    (path,) = project.glob("migrations/*_add_colour.py")
    text = path.read_text(encoding="utf-8")
    column = "ALTER TABLE projects ADD COLUMN colour VARCHAR(20) DEFAULT '100%';"
    drop = "ALTER TABLE projects DROP COLUMN colour;"
    for name, sql in (("UP", column), ("DOWN", drop)):
        for backend in ("POSTGRESQL", "SQLITE"):
            text = text.replace(f'{name}_{backend} = """\n', f'{name}_{backend} = """\n{sql}\n')
    path.write_text(text, encoding="utf-8")
    assert f"[x] {path.stem}" in pw_migrate(project, url, "migrate").stdout
    statement(url, "INSERT INTO projects (name, slug, colour) VALUES ('a', 'a', 'red')")
    # What this version knows nothing of is newer than it.
    assert f"'{path.stem}'" in failed(run("status"))
    assert pw_migrate(project, url, "rollback").returncode == 0
    assert run("check").exit_code == 0


def test_six_pw_migrates_at_once_all_succeed(url: str, project: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _number: pw_migrate(project, url, "migrate"), range(6)))
    assert [result.returncode for result in results] == [0] * 6
    assert run("check").exit_code == 0


def test_a_migration_that_fails_leaves_nothing_behind(url: str, project: Path) -> None:
    pw_migrate(project, url, "migrate")
    pw_migrate(project, url, "create", "broken")
    (path,) = project.glob("migrations/*_broken.py")
    sql = "CREATE TABLE half_made (id INTEGER)\n--\nSELECT nothing FROM nowhere\n"
    path.write_text(path.read_text(encoding="utf-8").replace('= """\n', f'= """\n{sql}'))
    assert pw_migrate(project, url, "migrate").returncode == 1
    statement(url, "CREATE TABLE half_made (id INTEGER)")
    assert version(url) == HEAD
