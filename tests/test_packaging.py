"""The wheel: what is in it, and that it works far from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hopper_data.migrations import migration_names

ROOT = Path(__file__).parent.parent
PLACES = {
    "hopper_data": "hopper_data",
    "migrations": "hopper_data/_migrations",
    "fixtures": "hopper_data/_fixtures",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    for name in PLACES:
        shutil.copytree(
            ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.py[co]")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    command = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([sys.executable, "-m", "pip", *command, folder, copy], check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder to put on the path: the wheel, unpacked."""
    folder = wheel.with_name("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, *arguments: str) -> str:
    # Coverage is that of the checkout.
    environment = {key: text for key, text in os.environ.items() if "COV" not in key}
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        env={**environment, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_has_every_source_and_nothing_else(installed: Path) -> None:
    expected = {
        f"{PLACES[source]}/{file.relative_to(ROOT / source)}"
        for source in PLACES
        for file in (ROOT / source).rglob("*")
        if file.is_file() and file.suffix in (".py", ".json", ".typed")
    }
    files = {str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file()}
    assert {file for file in files if ".dist-info/" not in file} == expected


def test_the_wheel_needs_no_compiler(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_an_installed_package_migrates_in_an_empty_folder(installed: Path) -> None:
    where = run(installed, "-c", "import hopper_data; print(hopper_data.__file__)")
    assert where.strip() == str(installed / "hopper_data" / "__init__.py")
    assert migration_names()[-1] in run(installed, "-m", "hopper_data.cli", "migrate")
    run(installed, "-m", "hopper_data.cli", "check")
    assert sorted(file.name for file in Path.cwd().iterdir()) == ["hopper.db"]


def test_an_installed_package_has_its_sample_data(installed: Path) -> None:
    program = ("-m", "hopper_data.cli", "--url", "sqlite:///sample.db")
    run(installed, *program, "migrate")
    run(installed, *program, "seed")
    assert json.loads(run(installed, *program, "--json", "stats"))
    code = "from hopper_data import *; connect('sqlite:///sample.db', must_exist=True)\n"
    code += "with get_sync_session() as session: print(TaskRepository(session).count())"
    assert int(run(installed, "-c", code)) > 0
