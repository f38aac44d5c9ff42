"""The documents: their code runs on PostgreSQL too, their commands exist, their links lead on.

The root's conftest.py has pytest collect the same blocks, there on SQLite.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

from hopper_data import IntegrityError, create_database, run_migrations
from hopper_data.database import Database, proxy
from hopper_data.migrations import migrate, migration_names, migrations_folder
from hopper_data.routing import HopperInstanceRepository
from hopper_data.session import open_session

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences(path: Path, language: str) -> list[str]:
    """The blocks of a language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.DOTALL | re.MULTILINE)


def files_in(path: Path) -> dict[str, str]:
    """The blocks that are whole files: they begin with their name."""
    named = ((re.match(r"# (\w+\.py)\n", block), block) for block in fences(path, "python"))
    return {match[1]: block for match, block in named if match}


# -- code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_code_of_a_document_runs_on_postgresql(
    path: Path, make_url: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", make_url("postgresql", migrated=False))
    document = Sybil([PythonCodeBlockParser(), SkipParser()]).parse(path)
    try:
        for example in document.examples():
            example.evaluate()
    finally:
        proxy.initialize(None)


def test_the_fixtures_of_the_guide_undo_each_test(tmp_path: Path) -> None:
    files = files_in(ROOT / "docs" / "usage.md")
    assert set(files) == {"conftest.py", "test_tasks.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_the_worker_of_the_readme_is_the_example_and_runs(tmp_path: Path) -> None:
    example = ROOT / "examples" / "worker.py"
    assert fences(README, "python") == [example.read_text()]
    done = subprocess.run(
        [sys.executable, "-W", "error", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "high: Say hello\n"), done.stderr


# -- migrations -----------------------------------------------------------------------------------


@pytest.fixture
def guide_folder(tmp_path: Path) -> Path:
    """The released migrations, and those of the guide after them."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for name in migration_names():
        (folder / f"{name}.py").write_text((migrations_folder() / f"{name}.py").read_text())
    for name, text in files_in(ROOT / "docs" / "migrations.md").items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def guided(database: Database, guide_folder: Path) -> Database:
    """A database with two instances and a task, brought to the end of the guide."""
    with open_session(database) as session:
        instances = HopperInstanceRepository(session)
        instances.create(id="root", name="Root", scope="GLOBAL")
        instances.create(id="child", name="Child", scope="PROJECT", parent_id="root")
        session.execute("INSERT INTO tasks (id, title, description) VALUES ('a', 'A', '')")
    migrate("head", database=database, folder=guide_folder)
    return database


def test_the_migrations_of_the_guide_do_what_they_say(guided: Database, guide_folder: Path) -> None:
    with open_session(guided) as session:
        assert session.execute("SELECT estimate_min FROM tasks") == [(5,)]
        session.execute("UPDATE hopper_instances SET status = 'draining' WHERE id = 'child'")
        assert session.execute("SELECT id, parent_id FROM hopper_instances ORDER BY id") == [
            ("child", "root"),
            ("root", None),
        ]
    with pytest.raises(IntegrityError), open_session(guided) as session:
        session.execute("DELETE FROM hopper_instances WHERE id = 'root'")

    migrate(migration_names()[-1], database=guided, folder=guide_folder)
    with open_session(guided) as session:
        assert session.execute("SELECT status FROM hopper_instances ORDER BY id") == [
            ("paused",),
            ("active",),
        ]
        assert session.execute("SELECT id FROM tasks") == [("a",)]


def test_the_guides_way_back_leaves_what_was_there(
    guided: Database, guide_folder: Path, make_url: Callable[..., str], backend: str
) -> None:
    from hopper_data.introspection import describe

    migrate(migration_names()[-1], database=guided, folder=guide_folder)
    fresh = create_database(make_url(backend, migrated=False))
    run_migrations(database=fresh)
    with open_session(guided):
        found = describe(guided)
    with open_session(fresh):
        assert found == describe(fresh)
    fresh.close_pool()


# -- commands, links ------------------------------------------------------------------------------


def test_the_readme_has_two_commands_of_one_line() -> None:
    commands = [block for block in fences(README, "sh") if "venv" in block]
    assert [command.count("\n") for command in commands] == [1, 1]
    demo, tests = commands
    assert demo.endswith(".venv/bin/hopper-data demo\n")
    # .ci/run starts this line, and `make test` the same.
    assert (
        tests.split(" && ")[-1].strip().replace(".venv/bin", "$(BIN)")
        in (ROOT / "Makefile").read_text()
    )
    assert "grep --max-count=1 '/bin/pytest' README.md" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        linked = (path.parent / file) if file else path
        assert linked.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]
            assert heading in anchors, target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path: Path) -> None:
    from hopper_data.cli.main import main

    named = set(re.findall(r"hopper-data ([a-z]+)", path.read_text()))
    assert named <= set(main.commands), named - set(main.commands)


def test_the_guide_tells_of_every_command() -> None:
    from hopper_data.cli.main import main

    told = re.findall(r"^\| `hopper-data ([a-z]+)", (ROOT / "docs" / "usage.md").read_text(), re.M)
    assert told == list(main.commands)
