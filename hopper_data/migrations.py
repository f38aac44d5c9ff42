"""Migrations: a thin layer over peewee-migrate that makes it safe.

`SafeRouter` is what peewee-migrate's own commands and `run_migrations()` both use. Beyond the
router that it extends, it

- lets processes that migrate at once take turns, and looks at the history again when its turn
  comes;
- switches foreign keys off on SQLite before the transaction begins, and checks them all before it
  ends, so that a table can be rebuilt without its children being emptied by ON DELETE CASCADE;
- never replays old migrations, which peewee-migrate does by patching Peewee for the whole process.
  Migrations are therefore SQL, or functions of `database`, and do not use `migrator.orm`;
- refuses a database that is newer than the migrations it has.
"""

from __future__ import annotations

import re
import runpy
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import peewee
from peewee_migrate.migrator import Migrator
from peewee_migrate.router import Router

from hopper_data.config import DatabaseConfig
from hopper_data.database import Database, create_database, proxy, using
from hopper_data.driver_errors import translated
from hopper_data.errors import DatabaseError, SchemaVersionMismatch, ValidationError, suggest
from hopper_data.fields import utcnow
from hopper_data.session import open_session

__all__ = [
    "SafeRouter",
    "get_schema_version",
    "migrate",
    "migration_history",
    "migration_names",
    "pending_migrations",
    "run_migrations",
    "run_script",
]

HISTORY_TABLE = "migratehistory"
_LOCK = 4_875_002
_NAME = re.compile(r"[0-9A-Za-z_-]+")

_TEMPLATE = '''"""{title}."""

from hopper_data.migrations import run_script

UP_POSTGRESQL = """
"""

UP_SQLITE = """
"""

DOWN_POSTGRESQL = """
"""

DOWN_SQLITE = """
"""


def migrate(migrator, database, *, fake=False):
    run_script(migrator, database, postgresql=UP_POSTGRESQL, sqlite=UP_SQLITE)


def rollback(migrator, database, *, fake=False):
    run_script(migrator, database, postgresql=DOWN_POSTGRESQL, sqlite=DOWN_SQLITE)
'''


def run_script(migrator: Any, database: Any, *, postgresql: str, sqlite: str) -> None:
    """Let a migration run the statements of one of two scripts, whichever the database speaks.

    Statements are separated by a line that is `--` alone, so that triggers and functions may hold
    semicolons. A percent sign is written as it is.
    """
    script = sqlite if getattr(database, "dialect", "") == "sqlite" else postgresql
    for statement in re.split(r"^--$", script, flags=re.MULTILINE):
        text = statement.strip().rstrip(";")
        if text:
            migrator.run(_execute, database, text)


def _execute(database: Any, statement: str) -> None:
    # Straight to the driver: with parameters, even none, it would read a percent sign as one.
    with translated(database):
        database.cursor().execute(statement)


class SafeRouter(Router):
    """peewee-migrate's router, as safe as the head of this module says."""

    def __init__(
        self, database: Any, migrate_dir: str | Path | None = None, **options: Any
    ) -> None:
        super().__init__(database, migrate_dir or migrations_folder(), **options)

    @property
    def target(self) -> Database:
        """The database behind the proxy, if it is one."""
        database: Any = self.database
        return getattr(database, "obj", database)  # type: ignore[no-any-return]

    @cached_property
    def model(self) -> Any:
        """The table of what was applied, bound to this router's database alone."""
        return history_model(self.target, self.migrate_table)

    @cached_property
    def migrator(self) -> Migrator:
        """A migrator that knows nothing of earlier migrations, since none of ours needs it."""
        return Migrator(self.target)

    @property
    def todo(self) -> list[str]:
        """The names of all migrations, in their order."""
        return migration_names(Path(self.migrate_dir))

    @property
    def done(self) -> list[str]:
        """The names of the applied migrations, oldest first."""
        with open_session(self.target, read_only=True):
            return applied_migrations(self.target, self.migrate_table)

    def run_one(
        self,
        name: str,
        migrator: Migrator,
        *,
        fake: bool = True,
        downgrade: bool = False,
        force: bool = False,
    ) -> str:
        """Apply or take back one migration, whole or not at all, unless somebody has already."""
        if fake and not force:
            return name
        history = self.model
        with migration_turn(self.target):
            history.create_table(safe=True)
            applied = name in applied_migrations(self.target, self.migrate_table)
            if applied != downgrade:
                return name
            self.logger.info("%s %s", "Rolling back" if downgrade else "Migrate", name)
            if not fake:
                step = self.read(name)[1 if downgrade else 0]
                migrator.__ops__ = []
                step(migrator, self.target, fake=False)
                migrator()
            if downgrade:
                history.delete().where(history.name == name).execute()
            else:
                history.create(name=name)
        return name

    def read(self, name: str) -> tuple[Any, Any]:
        """The two functions of a migration."""
        # Python reads a file as UTF-8 whatever the locale, and tracebacks name it.
        scope = runpy.run_path(str(Path(self.migrate_dir) / f"{name}.py"))
        return scope["migrate"], scope["rollback"]

    def run(self, name: str | None = None, *, fake: bool = False) -> list[str]:
        """Apply what is missing, up to `name`; what this call applied, or found done meanwhile."""
        refuse_newer(self.target, self.todo, self.migrate_table)
        _check_name(name, self.todo)
        return super().run(name, fake=fake)

    def rollback(self) -> None:
        """Take the newest applied migration back."""
        refuse_newer(self.target, self.todo, self.migrate_table)
        super().rollback()  # type: ignore[no-untyped-call]

    def compile(
        self, name: str, migrate: str = "", rollback: str = "", num: int | None = None
    ) -> str:
        """Write an empty migration with the next free number, and give its name."""
        if migrate or rollback:
            raise DatabaseError(
                "migrations are written by hand: what --auto makes has no CHECKs, no JSONB and no "
                "triggers"
            )
        if not _NAME.fullmatch(name):
            raise ValidationError(
                f"migration name {name!r} may have letters, digits, '_' and '-' alone", "name"
            )
        taken = [int(existing[:3]) for existing in self.todo]
        number = max(taken, default=0) + 1 if num is None else num + 1
        full = f"{number:03}_{name}"
        text = _TEMPLATE.format(title=name.replace("_", " ").capitalize())
        (Path(self.migrate_dir) / f"{full}.py").write_text(text, encoding="utf-8")
        return full

    def merge(self, name: str = "initial") -> None:
        """Refused: migrations that were released never change."""
        raise DatabaseError(
            f"migrations are not merged into {name!r}: those that were released never change"
        )

    def clear(self) -> None:
        """Refused likewise."""
        raise DatabaseError("migrations are not removed: those that were released never change")


def use_safe_router(database: Any = None) -> Any:
    """Make peewee-migrate's own commands use `SafeRouter`; the database that they shall migrate.

    `migrations/conf.py` calls it. Without an argument it is the one that the command's option
    `--database` names, and without that the environment's.
    """
    import click
    from peewee_migrate import cli

    commands: Any = cli
    commands.Router = SafeRouter
    context = click.get_current_context(silent=True)
    # peewee-migrate lets the configuration win over its own option.
    return database or create_database(context.params.get("database") if context else None)


def migrations_folder() -> Path:
    """The folder of the migrations, in the source tree as in an installed package."""
    with as_file(files("hopper_data._migrations")) as folder:
        return Path(folder)


def migration_names(folder: Path | None = None) -> list[str]:
    """The names of all migrations that this version has, in their order."""
    where = folder or migrations_folder()
    if not where.is_dir():
        return []
    return sorted(file.stem for file in where.iterdir() if Router.filemask.match(file.name))


def history_model(database: Database, table: str = HISTORY_TABLE) -> Any:
    """A model of peewee-migrate's table of applied migrations, for one database."""

    class Meta:
        table_name = table

    fields = {
        "__module__": __name__,
        "Meta": Meta,
        "id": peewee.AutoField(),
        "name": peewee.CharField(),
        "migrated_at": peewee.DateTimeField(default=lambda: utcnow().replace(tzinfo=None)),
    }
    model: Any = type("MigrateHistory", (peewee.Model,), fields)
    model._meta.set_database(database)
    return model


def applied_migrations(database: Database, table: str = HISTORY_TABLE) -> list[str]:
    """The names of the migrations that a database has, oldest first. Creates nothing."""
    if not _has_table(database, table):
        return []
    return [
        name
        for (name,) in database.execute_sql(f'SELECT name FROM "{table}" ORDER BY id').fetchall()
    ]


def _has_table(database: Database, table: str) -> bool:
    if database.dialect == "sqlite":
        return bool(database.table_exists(table))
    # Peewee looks into the schema "public", wherever the search path leads.
    sql = "SELECT 1 FROM pg_tables WHERE schemaname = current_schema() AND tablename = %s"
    return database.execute_sql(sql, (table,)).fetchone() is not None


@contextmanager
def migration_turn(database: Database) -> Iterator[None]:
    """A transaction in which this process alone changes the schema.

    On SQLite foreign keys are off inside, and all of them are checked before the commit.
    """
    if database.transaction_depth():
        raise DatabaseError("migrations cannot run inside a session: end it first")
    opened = database.connect(reuse_if_open=True)
    try:
        with using(database), translated(database):
            if database.dialect == "sqlite":
                with _sqlite_turn(database):
                    yield
            else:
                with database.atomic():
                    database.execute_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                    yield
    finally:
        if opened:
            database.release()


@contextmanager
def _sqlite_turn(database: Database) -> Iterator[None]:
    # Inside a transaction this pragma does nothing.
    database.execute_sql("PRAGMA foreign_keys = OFF")
    try:
        with database.sorting_on_disk(), database.atomic():
            before = _orphans(database)
            yield
            # Rows that were broken before, by a program without foreign keys, are not its fault.
            broken = _orphans(database) - before
            if broken:
                raise DatabaseError(
                    f"the migration would leave {broken.total():,} rows of "
                    f"{', '.join(sorted(broken))} without the row that they refer to"
                )
    finally:
        if database.config.foreign_keys:
            database.execute_sql("PRAGMA foreign_keys = ON")


def _orphans(database: Database) -> Counter[str]:
    """How many rows of each table of a SQLite database refer to one that does not exist."""
    rows = database.execute_sql("PRAGMA foreign_key_check").fetchall()
    return Counter(str(row[0]) for row in rows)


def refuse_newer(database: Database, known: Iterable[str], table: str = HISTORY_TABLE) -> None:
    """`SchemaVersionMismatch` when a database has a migration that is not among the known."""
    names = list(known)
    with open_session(database, read_only=True):
        applied = applied_migrations(database, table)
    unknown = [name for name in applied if name not in names]
    if unknown:
        raise SchemaVersionMismatch(unknown[-1], names[-1] if names else None)


def _check_name(name: str | None, known: list[str]) -> None:
    if name is not None and name not in known:
        raise ValidationError(
            f"there is no migration {name!r}; {suggest(name, [*known, 'head', 'base'])}", "target"
        )


def target_database(database: Database | str | DatabaseConfig | None) -> Database:
    """The database that a call is about: the one given, or the one that the proxy stands for."""
    if database is None:
        return proxy.obj
    return database if isinstance(database, Database) else create_database(database)


def migrate(
    target: str = "head",
    *,
    database: Database | None = None,
    fake: bool = False,
    folder: Path | None = None,
) -> list[str]:
    """Bring a database to "head", to a migration, or to "base" (none); the names of the steps.

    A step back is named with a leading `-`. `fake` only notes which migrations are applied.
    """
    router = SafeRouter(target_database(database), folder)
    known = router.todo
    if target not in ("head", "base"):
        _check_name(target, known)
    refuse_newer(router.target, known)
    keep = {"head": len(known), "base": 0}.get(target)
    keep = known.index(target) + 1 if keep is None else keep
    steps = []
    applied = set(router.done)
    for name in reversed(known[keep:]):
        if name in applied:
            router.run_one(name, router.migrator, fake=fake, force=fake, downgrade=True)
            steps.append(f"-{name}")
    for name in known[:keep]:
        if name not in applied:
            router.run_one(name, router.migrator, fake=fake, force=fake)
            steps.append(name)
    return steps


def run_migrations(target: str = "head", *, database: Database | None = None) -> int:
    """Bring the database to "head", to a migration by its name, or to "base"; always 0.

    A failure is an exception, and the migration that failed has left nothing behind. The result
    is the exit code that callers of earlier versions look at.
    """
    migrate(target, database=database)
    return 0


def get_schema_version(database: Database | None = None) -> str | None:
    """The name of the newest migration that a database has, or None. Creates nothing."""
    target = target_database(database)
    if target.is_missing():
        return None
    with open_session(target, read_only=True) as session:
        applied = applied_migrations(session.database)
    return applied[-1] if applied else None


def migration_history(database: Database | None = None) -> list[tuple[str, datetime]]:
    """The applied migrations with the time of each, oldest first. Creates nothing."""
    target = target_database(database)
    with open_session(target, read_only=True):
        if not _has_table(target, HISTORY_TABLE):
            return []
        history = history_model(target)
        rows = history.select(history.name, history.migrated_at).order_by(history.id)
        return [(row.name, row.migrated_at.replace(tzinfo=UTC)) for row in rows]


def pending_migrations(database: Database | None = None) -> list[str]:
    """The names of the migrations that a database lacks, in their order."""
    with open_session(target_database(database), read_only=True) as session:
        applied = set(applied_migrations(session.database))
    return [name for name in migration_names() if name not in applied]
