"""What every module of the package keeps to."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import peewee
import pytest

import hopper_data

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hopper_data"
MOST_LINES = 800
SOURCES = sorted(PACKAGE.rglob("*.py"))
MODULES = sorted(
    name
    for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "hopper_data.")
    if "._" not in name  # the data folders
)


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_file_can_be_read_in_one_go(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MOST_LINES, (
        f"{short(path)} has {lines} lines: split it by what changes together"
    )


@pytest.mark.parametrize("path", SOURCES, ids=short)
def test_a_module_does_not_import_the_front(path: Path) -> None:
    """The front imports all the rest; whoever imports it has no place in the layers."""
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    names = {
        name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "hopper_data"
        for name in (alias.name for alias in node.names)
    }
    modules = {item.name.removesuffix(".py") for item in PACKAGE.iterdir()}
    assert names <= modules | {"__version__"}


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_sorted_and_real(name: str) -> None:
    module = importlib.import_module(name)
    names = getattr(module, "__all__", None)
    if names is None:
        return
    assert len(names) == len(set(names))
    # Constants, then classes, then functions, as ruff sorts them.
    assert names == sorted(names, key=_rank)
    for item in names:
        assert hasattr(module, item), item


def _rank(name: str) -> tuple[int, str]:
    if name.isupper():
        return (0, name)
    return (1 if name[0].isupper() else 2, name)


def public_objects(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The functions and classes of a module, and the methods that are new in these classes."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(item):
            yield name, item
        elif inspect.isclass(item):
            yield name, item
            yield from (
                (f"{name}.{part}", method)
                for part, method in vars(item).items()
                if isinstance(method, METHODS)
                and not part.startswith("_")
                # What overrides does what the other says.
                and part not in PEEWEES
                and not any(hasattr(base, part) for base in item.__bases__)
            )


METHODS = (FunctionType, property, classmethod, staticmethod)
PEEWEES = {name for item in vars(peewee).values() if inspect.isclass(item) for name in dir(item)}


@pytest.mark.parametrize("name", ["hopper_data", *MODULES])
def test_what_is_public_says_what_it_does(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__ or Path(str(module.__file__)).stat().st_size == 0
    assert not [label for label, item in public_objects(module) if not inspect.getdoc(item)]


def test_the_front_has_all_that_it_promises() -> None:
    assert hopper_data.__all__ == sorted(hopper_data.__all__)
    for name in hopper_data.__all__:
        assert getattr(hopper_data, name) is not None
    public = {name for name in dir(hopper_data) if not name.startswith("_")}
    assert public == {*hopper_data.__all__, *hopper_data._MODULES}
    front = (PACKAGE / "__init__.py").read_text()
    for name in hopper_data._MODULES:
        assert getattr(hopper_data, name).__name__ == f"hopper_data.{name}"
        assert f"import {name} as {name}\n" in front  # for those who check types
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = hopper_data.no_such_name


def test_every_package_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    found = {".".join(file.parent.relative_to(ROOT).parts) for file in PACKAGE.rglob("__init__.py")}
    assert listed == found | {"hopper_data._migrations", "hopper_data._fixtures"}
    assert project["project"]["version"] == hopper_data.__version__


def test_the_changelog_knows_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## \[{re.escape(hopper_data.__version__)}\]", text, re.MULTILINE)


def test_importing_reads_no_environment_and_opens_nothing(tmp_path: Path) -> None:
    code = """
import os, sys
class Refusing(dict):
    def __getitem__(self, key): raise AssertionError(key)
    get = __getitem__
opened = []
sys.addaudithook(lambda event, args: opened.append((event, args)) if event in
    ("sqlite3.connect", "socket.connect", "os.mkdir") else None)
import peewee
real, os.environ = os.environ, Refusing()
import hopper_data, hopper_data.planning, hopper_data.chat
os.environ = real
assert not opened, opened
heavy = {"rich", "click", "asyncpg", "aiosqlite", "greenlet", "psycopg2", "peewee_migrate"}
print(sorted(heavy & set(sys.modules) - before))
"""
    code = code.replace("import peewee\n", "import peewee\nbefore = set(sys.modules)\n")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr
    assert list(tmp_path.iterdir()) == []
