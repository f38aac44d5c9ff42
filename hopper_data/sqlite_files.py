"""The file of a SQLite database: made privately, and kept so."""

from __future__ import annotations

import logging
import os
import stat
from typing import TYPE_CHECKING

from hopper_data.config import DatabaseConfig
from hopper_data.errors import DatabaseNotFound

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["path_of", "prepare_file"]

logger = logging.getLogger("hopper_data")


def path_of(name: str) -> Path:
    """The path with a name."""
    from pathlib import Path  # felt at import, since nothing else brings it

    return Path(name)


def prepare_file(name: str, config: DatabaseConfig) -> None:
    """Make a file where there is none, unless it must be there, and see to its mode."""
    path = path_of(name)
    if path.is_dir():
        raise DatabaseNotFound(f"{path} is a folder, not a SQLite file")
    if not path.exists():
        if config.must_exist:
            raise DatabaseNotFound(f"the SQLite file {path} does not exist")
        if not path.parent.is_dir():
            raise DatabaseNotFound(f"the folder {path.parent} of the SQLite file does not exist")
        # Made here, so that the file is private from its first moment on; SQLite gives -wal and
        # -shm the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, config.file_mode))
    for file in (path, path_of(f"{path}-wal"), path_of(f"{path}-shm")):
        _restrict(file, config.file_mode)


def _restrict(file: Path, wanted: int) -> None:
    try:
        mode = file.stat().st_mode
        wrong = stat.S_IMODE(mode) != wanted and os.name == "posix"
        if wrong and stat.S_ISREG(mode):
            file.chmod(wanted)
    except FileNotFoundError:
        pass
    except OSError:  # another owner, a medium that cannot be written
        logger.warning("cannot set the mode of %s to %o", file, wanted)
