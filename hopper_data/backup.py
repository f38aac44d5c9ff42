"""Backups of a whole database, and whether a database is sound.

To restore a backup of SQLite, stop what uses the database, remove its `-wal` and `-shm` files, and
put the copy in the place of the file: it is a whole database, and can also be opened where it lies.
To restore one of PostgreSQL, let `pg_restore` read it into an empty database:

    createdb hopper_restored
    pg_restore --no-owner --exit-on-error --dbname=hopper_restored hopper-….dump

`check_integrity()` then tells whether all is well.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hopper_data.config import Backend
from hopper_data.database import Database
from hopper_data.driver_errors import translated
from hopper_data.errors import (
    DatabaseError,
    DatabaseNotFound,
    DatabaseUnavailable,
    ValidationError,
)
from hopper_data.fields import utcnow
from hopper_data.migrations import target_database
from hopper_data.session import Session, open_session

__all__ = ["IntegrityReport", "backup_database", "check_integrity"]

_PRIVATE = 0o600
_PRIVATE_FOLDER = 0o700


# -- integrity ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegrityReport:
    """What is wrong with a database, a sentence each. True when nothing is."""

    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return {"sound": bool(self), "problems": list(self.problems)}


def check_integrity(database: Database | None = None) -> IntegrityReport:
    """Whether a database is sound; the result is true when it is, and else has the `problems`.

    On SQLite the pages, the indexes, the CHECK constraints and the foreign keys are gone through.
    On PostgreSQL it is looked for rows without the row that they refer to, constraints that were
    never validated, indexes that are not valid and pages whose checksum was wrong; the indexes
    themselves are gone through where the extension `amcheck` is installed. Reads everything, writes
    nothing.
    """
    target = target_database(database)
    _require_file(target)
    check = _sqlite_problems if target.dialect == "sqlite" else _postgresql_problems
    try:
        with open_session(target, read_only=True) as session:
            return IntegrityReport(tuple(check(session)))
    except (DatabaseUnavailable, DatabaseNotFound):
        raise
    except DatabaseError as error:
        # So broken that it cannot be gone through.
        return IntegrityReport((str(error),))


def _require_file(database: Database) -> None:
    if database.url.backend is not Backend.SQLITE or database.url.in_memory:
        return
    if not Path(database.database).exists():
        raise DatabaseNotFound(f"the SQLite file {database.database} does not exist")


def _sqlite_problems(session: Session) -> Iterator[str]:
    for (text,) in session.execute("PRAGMA integrity_check"):
        if text != "ok":
            yield str(text)
    orphans: dict[tuple[str, str], int] = {}
    for table, _, parent, _ in session.execute("PRAGMA foreign_key_check"):
        orphans[table, parent] = orphans.get((table, parent), 0) + 1
    for (table, parent), count in orphans.items():
        yield _orphaned(table, parent, count)


def _orphaned(table: str, parent: str, count: int) -> str:
    rows = "row refers" if count == 1 else "rows refer"
    return f"{count:,} {rows} from {table} to a row of {parent} that does not exist"


_OWN = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"

_FOREIGN_KEYS = f"""
    SELECT k.conrelid::regclass::text, k.confrelid::regclass::text,
        ARRAY(SELECT quote_ident(a.attname)
            FROM unnest(k.conkey) WITH ORDINALITY AS c(number, place)
            JOIN pg_attribute AS a ON a.attrelid = k.conrelid AND a.attnum = c.number
            ORDER BY c.place),
        ARRAY(SELECT quote_ident(a.attname)
            FROM unnest(k.confkey) WITH ORDINALITY AS c(number, place)
            JOIN pg_attribute AS a ON a.attrelid = k.confrelid AND a.attnum = c.number
            ORDER BY c.place)
    FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = k.connamespace
    WHERE k.contype = 'f' AND k.conparentid = 0 AND {_OWN}
    ORDER BY 1, k.conname"""

_UNVALIDATED = f"""
    SELECT k.conrelid::regclass::text, k.conname
    FROM pg_constraint AS k JOIN pg_namespace AS n ON n.oid = k.connamespace
    WHERE NOT k.convalidated AND {_OWN} ORDER BY 1, 2"""

_INVALID_INDEXES = f"""
    SELECT x.indexrelid::regclass::text
    FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE NOT (x.indisvalid AND x.indisready) AND {_OWN} ORDER BY 1"""

_AMCHECK = "SELECT 1 FROM pg_extension WHERE extname = 'amcheck'"

_TREES = f"""
    SELECT c.oid, c.oid::regclass::text
    FROM pg_index AS x JOIN pg_class AS c ON c.oid = x.indexrelid
    JOIN pg_am AS m ON m.oid = c.relam
    JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE m.amname = 'btree' AND c.relkind = 'i' AND x.indisvalid AND c.relpersistence <> 't'
        AND {_OWN} ORDER BY 2"""


def _postgresql_problems(session: Session) -> Iterator[str]:
    for (failures,) in session.execute(
        "SELECT coalesce(checksum_failures, 0) FROM pg_stat_database "
        "WHERE datname = current_database()"
    ):
        if failures:
            yield f"{failures:,} pages had a wrong checksum"
    for table, name in session.execute(_UNVALIDATED):
        yield f"the constraint {name} of {table} was never validated"
    for (name,) in session.execute(_INVALID_INDEXES):
        yield f"the index {name} is not valid; REINDEX makes it anew"
    yield from _broken_trees(session)
    for table, parent, columns, keys in session.execute(_FOREIGN_KEYS):
        given = " AND ".join(f"c.{column} IS NOT NULL" for column in columns)
        match = " AND ".join(
            f"p.{key} = c.{column}" for key, column in zip(keys, columns, strict=True)
        )
        ((count,),) = session.execute(
            f"SELECT COUNT(*) FROM {table} AS c WHERE {given} "
            f"AND NOT EXISTS (SELECT 1 FROM {parent} AS p WHERE {match})"
        )
        if count:
            yield _orphaned(table, parent, count)


def _broken_trees(session: Session) -> Iterator[str]:
    if not session.execute(_AMCHECK):
        return
    for oid, name in session.execute(_TREES):
        try:
            session.execute("SELECT bt_index_check(CAST(? AS OID))", (oid,))
        except DatabaseUnavailable:
            raise
        except DatabaseError as error:
            yield f"the index {name} is broken: {error}"


# -- backup ---------------------------------------------------------------------------------------


def backup_database(folder: str | os.PathLike[str], *, database: Database | None = None) -> Path:
    """Copy a database into a folder, which is made where it is missing; the path of the copy.

    The copy shows one moment of the database, however much others write meanwhile, and is for its
    owner alone (mode 600). Its name has the time in UTC. A copy has its name only when it is whole.

    A copy of SQLite is a database file. One of PostgreSQL is an archive of `pg_dump`, which must be
    on the PATH and as new as the server; a `DatabaseError` says so where it is not. How to restore
    either stands at the head of this module.
    """
    target = target_database(database)
    if target.transaction_depth():
        raise DatabaseError("a database cannot be backed up inside a session: end it first")
    _require_file(target)
    copy = _copy_sqlite if target.dialect == "sqlite" else _dump_postgresql
    with _new_file(_folder(folder), target) as (path, partial):
        copy(target, partial)
    return path


def _folder(folder: str | os.PathLike[str]) -> Path:
    path = Path(folder)
    try:
        path.mkdir(mode=_PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise ValidationError(f"{path} is not a folder: {error.strerror}", "folder") from error
    return path


@contextmanager
def _new_file(folder: Path, database: Database) -> Iterator[tuple[Path, Path]]:
    """A new file, and another one, which the block writes and which then takes the first's place.

    Both are private from their first moment on, and gone when the block fails.
    """
    name = "memory" if database.url.in_memory else Path(database.url.database or "hopper").stem
    ending = "db" if database.dialect == "sqlite" else "dump"
    with _explained(folder):
        path = _reserve(folder, re.sub(r"[^\w.-]", "_", name), ending)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with _explained(folder):
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_RDWR, _PRIVATE))
        yield path, partial
        with _explained(folder):
            _flush(partial)
            partial.replace(path)
            _flush(folder)
    except BaseException:
        partial.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DatabaseError(f"cannot write to {folder}: {error.strerror}") from error


def _reserve(folder: Path, name: str, ending: str) -> Path:
    while True:
        path = folder / f"{name}-{utcnow():%Y%m%dT%H%M%S.%fZ}.{ending}"
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE))
        except FileExistsError:
            continue
        return path


def _flush(path: Path) -> None:
    """Let the disk have it, so that a power cut does not leave an empty backup."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy_sqlite(database: Database, path: Path) -> None:
    opened = database.connect(reuse_if_open=True)
    try:
        with translated(database):
            copy = sqlite3.connect(path)
            try:
                # In one step: copied in several, it would begin anew whenever somebody writes.
                database.connection().backup(copy, pages=-1)
                # A file in WAL mode is whole only together with two others.
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
    finally:
        if opened:
            database.release()


def _dump_postgresql(database: Database, path: Path) -> None:
    from psycopg2.extensions import make_dsn

    with open_session(database, read_only=True) as session:
        ((version, number),) = session.execute(
            "SELECT current_setting('server_version'), current_setting('server_version_num')"
        )
    program = _find_pg_dump(int(number) // 10_000, version)
    parameters = dict(database.connect_params)
    password = parameters.pop("password", None)
    command = [
        program,
        "--format=custom",
        f"--file={path}",
        f"--dbname={make_dsn(dbname=database.database, **parameters)}",
    ]
    # Not among the arguments, which every user of the machine can see.
    environment = {**os.environ, **({"PGPASSWORD": str(password)} if password else {})}
    done = subprocess.run(  # noqa: S603 - no shell, and a program found on the PATH
        command, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise DatabaseError(f"{database.label}: {_last_line(done.stderr)}")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "pg_dump failed"


def _find_pg_dump(needed: int, server_version: str) -> str:
    """The first `pg_dump` on the PATH that is as new as the server."""
    found = []
    for folder in os.get_exec_path():
        program = Path(folder, "pg_dump")
        if not os.access(program, os.X_OK) or program.is_dir():
            continue
        version = _version_of(program)
        if version >= needed:
            return str(program)
        found.append(f"{program} is {version}")
    raise DatabaseError(
        f"a backup of PostgreSQL {server_version} needs pg_dump {needed} or newer on the PATH"
        f"{', and ' + ', '.join(found) if found else ''}; it comes with the client programs "
        "of PostgreSQL"
    )


def _version_of(program: Path) -> int:
    """The major version of a program of PostgreSQL, 0 when it does not tell."""
    try:
        done = subprocess.run(  # noqa: S603 - as above
            [program, "--version"], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r"\) ([0-9]+)", done.stdout)
    return int(match[1]) if match else 0
