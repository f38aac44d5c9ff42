"""Writes the asynchronous faces of the repositories: `python -m tools.async_faces [--check]`.

A face has the methods of its repository with the same names, arguments, types and first lines of
documentation, each a coroutine; what yields row by row becomes an asynchronous iterator. The text
is made from the source of the repositories, so a new method has its face after `make async`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import hopper_data.chat
import hopper_data.planning
import hopper_data.repository
import hopper_data.routing
from hopper_data.repository import Repository

ROOT = Path(__file__).resolve().parents[1]
DOMAINS: tuple[ModuleType, ...] = (hopper_data.routing, hopper_data.planning, hopper_data.chat)
HEAD = '''"""{title} Made by `make async`; do not edit."""

from __future__ import annotations
'''


def targets() -> dict[Path, str]:
    """The files to write, and their texts."""
    texts = {ROOT / "hopper_data" / "async_repository.py": base_module()}
    for domain in DOMAINS:
        classes = repositories(domain)
        if classes:
            folder = Path(str(domain.__file__)).parent
            texts[folder / "asynchronous.py"] = domain_module(domain, classes)
    return texts


def repositories(domain: ModuleType) -> list[type[Any]]:
    """The repository classes that a domain exports."""
    exported = [getattr(domain, name) for name in getattr(domain, "__all__", ())]
    return [item for item in exported if inspect.isclass(item) and issubclass(item, Repository)]


def base_module() -> str:
    """The module of the verbs that every face has."""
    return "\n".join(
        [
            HEAD.format(title="What the asynchronous faces of all repositories share."),
            "from collections.abc import AsyncIterator, Iterable, Mapping, Sequence",
            "from typing import Any, ClassVar, Generic, TypeVar",
            "",
            "from hopper_data.aio import AsyncSession",
            "from hopper_data.model import BaseModel",
            "from hopper_data.repository import Filters, Page, Repository",
            "",
            '__all__ = ["AsyncRepository"]',
            "",
            'M = TypeVar("M", bound=BaseModel)',
            "",
            "",
            "class AsyncRepository(Generic[M]):",
            '    """The rows of one model, in one asynchronous session: `await tasks.get(id)`."""',
            "",
            "    repository: ClassVar[type[Repository[Any]]]",
            "",
            "    def __init__(self, session: AsyncSession, **options: Any) -> None:",
            "        self.session = session",
            "        self._sync: Any = self.repository(session, **options)",
            *methods(Repository),
            "",
        ]
    )


def domain_module(domain: ModuleType, classes: list[type[Any]]) -> str:
    """The module of one domain's faces."""
    name = domain.__name__.rpartition(".")[2]
    exported = ", ".join(f'"Async{item.__name__}"' for item in classes)
    lines = [HEAD.format(title=f"The asynchronous faces of the {name} repositories.")]
    lines += imports(classes)
    lines += ["", f"__all__ = [{exported}]"]
    for item in classes:
        lines += ["", "", f"class Async{item.__name__}(AsyncRepository[{item.model.__name__}]):"]
        lines += [f'    """`{item.__name__}`, for asyncio."""', ""]
        lines += [f"    repository = {item.__name__}"]
        lines += methods(item)
    return "\n".join([*lines, ""])


def imports(classes: list[type[Any]]) -> list[str]:
    """The imports that the signatures of some classes may need."""
    found = {"from hopper_data.async_repository import AsyncRepository"}
    found.add("from collections.abc import AsyncIterator")
    for item in classes:
        for module in modules(item):
            found.update(names_of(module))
        found.add(f"from {item.__module__} import {item.__name__}")
        found.add(f"from {item.model.__module__} import {item.model.__name__}")
    return sorted(found)


def modules(item: type[Any]) -> list[ModuleType]:
    """The modules of a class and of the classes between it and `Repository`."""
    return [sys.modules[base.__module__] for base in own_classes(item)]


def names_of(module: ModuleType) -> Iterator[str]:
    """What a module imports, and the public names that it has itself, one import each."""
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.ImportFrom) and node.module != "__future__":
            yield from (f"from {node.module} import {alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield ast.unparse(node)
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            yield from (
                f"from {module.__name__} import {name}" for name in names if name[:1].isalpha()
            )


def own_classes(item: type[Any]) -> list[type[Any]]:
    """A class and its bases up to `Repository`, without `Generic` and `object`."""
    bases = item.__mro__
    end = bases.index(Repository) if item is not Repository else len(bases)
    return [base for base in bases[:end] if base.__module__.startswith("hopper_data.")]


def methods(item: type[Any]) -> Iterator[str]:
    """The lines of the methods that a class adds to `Repository`."""
    seen: set[str] = set()
    for base in own_classes(item):
        tree = ast.parse(inspect.getsource(base).lstrip())
        for node in tree.body[0].body:  # type: ignore[attr-defined]
            if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
                continue
            if any(map(changes_kind, node.decorator_list)) or node.name in seen:
                continue
            seen.add(node.name)
            yield from method(node if item is Repository else _Concrete(item).visit(node))


class _Concrete(ast.NodeTransformer):
    """Puts the model of a repository in place of the type variable of a generic base class."""

    def __init__(self, item: type[Any]) -> None:
        self.model = item.model.__name__

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.model, node.ctx) if node.id == "M" else node


def changes_kind(decorator: ast.expr) -> bool:
    """Whether a decorator makes something else of a method, such as a property."""
    return not (
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Name)
        and decorator.func.id == "in_parts"
    )


def method(node: ast.FunctionDef) -> Iterator[str]:
    """The lines of one method."""
    returns = ast.unparse(node.returns) if node.returns else "None"
    streams = returns.startswith("Iterator[")
    word = "def" if streams else "async def"
    result = f"Async{returns}" if streams else returns
    documentation = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", "\n        ")
    call = ", ".join([f"self._sync.{node.name}", *passed(node.args)])
    yield ""
    yield f"    {word} {node.name}({ast.unparse(node.args)}) -> {result}:"
    yield f'        """{documentation}"""'
    if streams:
        yield f"        return self.session.stream({call})"
    else:
        yield f"        return await self.session.run({call})"


def passed(arguments: ast.arguments) -> Iterator[str]:
    """The arguments of a method as its face hands them on."""
    positional = [*arguments.posonlyargs, *arguments.args][1:]
    yield from (argument.arg for argument in positional)
    if arguments.vararg:
        yield f"*{arguments.vararg.arg}"
    yield from (f"{argument.arg}={argument.arg}" for argument in arguments.kwonlyargs)
    if arguments.kwarg:
        yield f"**{arguments.kwarg.arg}"


def formatted(text: str, path: Path) -> str:
    """`text` as the formatter of the project writes it, without unused imports."""
    import subprocess

    for command in (["check", "--fix-only", "--select", "F401,I", "-q"], ["format", "-q"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(path), "-"],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        text = done.stdout
    return text


def main() -> int:
    """Write the faces, or say which are stale."""
    stale = []
    for path, text in targets().items():
        made = formatted(text, path)
        if not path.exists() or path.read_text() != made:
            stale.append(path.relative_to(ROOT))
            if "--check" not in sys.argv:
                path.write_text(made)
    if "--check" in sys.argv and stale:
        print("stale, run `make async`:", *stale)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
