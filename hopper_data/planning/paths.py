"""Paths of files that must lie inside a project."""

from __future__ import annotations

import errno
import os
from pathlib import Path, PurePosixPath

from hopper_data.errors import ValidationError
from hopper_data.fields import shorten

__all__ = ["check_inside"]


# Links that lead in a circle; a name that no file can have.
_UNREACHABLE = (errno.ELOOP, errno.ENAMETOOLONG)


def check_inside(path: str, root: str | os.PathLike[str] | None) -> None:
    """Refuse a path that leads out of the folder `root`, by whichever way.

    A relative path is taken from `root`. What counts is where it ends when all `..` and symbolic
    links are followed; the file need not exist. Without a root no more can be told than that a
    relative path leaves whichever root it starts from.
    """
    if root is None:
        leaves = _climbs_out(path)
        inside = "the project"
    else:
        leaves = not _resolves_inside(path, Path(root))
        inside = f"the project root {os.fspath(root)}"
    if leaves:
        raise ValidationError(
            f"Task file_path {shorten(path)} does not lie inside {inside}", "file_path"
        )


def _climbs_out(path: str) -> bool:
    depth = 0
    parts = PurePosixPath(path.replace(os.sep, "/")).parts
    if parts and parts[0] == "/":
        return False
    for part in parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return depth == 0


def _resolves_inside(path: str, root: Path) -> bool:
    if not root.is_dir():
        raise ValidationError(f"the project root {root} is not a folder", "project_root")
    folder = root.resolve()
    try:
        (folder / path).stat()
    except OSError as error:
        if error.errno in _UNREACHABLE:
            return False
    return folder in Path(os.path.realpath(folder / path)).parents
