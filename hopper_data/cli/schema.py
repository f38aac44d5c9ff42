"""Commands for the schema: migrate, rollback, status, check."""

from __future__ import annotations

from typing import Any

import click

from hopper_data.cli.options import common_options, settings
from hopper_data.cli.output import Column, console, moment, show, table
from hopper_data.database import Database
from hopper_data.errors import DatabaseError
from hopper_data.maintenance import check_schema
from hopper_data.migrations import (
    get_schema_version,
    migrate,
    migration_history,
    migration_names,
    refuse_newer,
)
from hopper_data.model import to_json_ready

__all__ = ["check_command", "migrate_command", "rollback_command", "status_command"]


@click.command("migrate")
@click.argument("target", default="head")
@click.option("--fake", is_flag=True, help="Only note the migrations, run none of them.")
@common_options
def migrate_command(target: str, fake: bool) -> None:
    """Bring the database to TARGET.

    TARGET is "head" (all migrations; the default), the name of a migration, or "base" (none: the
    tables go, with their rows). A SQLite file that does not exist is made.
    """
    with settings().database(must_exist=False) as database:
        _move(database, target, fake=fake)


@click.command("rollback")
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many of them."
)
@common_options
def rollback_command(count: int) -> None:
    """Take the newest migrations back, and what they made."""
    with settings().database() as database:
        applied = [name for name, _ in migration_history(database)]
        left = applied[:-count]
        _move(database, left[-1] if left else "base", fake=False)


def _move(database: Database, target: str, *, fake: bool) -> None:
    try:
        steps = migrate(target, database=database, fake=fake)
    except DatabaseError as error:
        if "already exists" not in str(error):
            raise
        raise DatabaseError(
            f"{error}; where the tables were made without migrations, "
            "`hopper-data migrate --fake` notes them"
        ) from error
    version = get_schema_version(database)
    data = {
        "url": database.label,
        "steps": [
            {"name": step.lstrip("-"), "direction": "down" if step.startswith("-") else "up"}
            for step in steps
        ],
        "fake": fake,
        "schema_version": version,
    }
    show(data, lambda: _print_steps(database, steps, version))


def _print_steps(database: Database, steps: list[str], version: str | None) -> None:
    for step in steps:
        name = step.lstrip("-")
        click.echo(f"  - {name}" if step.startswith("-") else f"  + {name}")
    where = f"at {version}" if version else "without any migration"
    click.echo(f"{database.label} is {where}{'' if steps else ' already'}")


@click.command("status")
@common_options
def status_command() -> None:
    """Show which migrations are applied, and which are pending."""
    with settings().database() as database:
        known = migration_names()
        refuse_newer(database, known)
        applied = dict(migration_history(database))
    pending = [name for name in known if name not in applied]
    version = next(reversed(applied), None)
    data = {
        "url": database.label,
        "schema_version": version,
        "head": known[-1],
        "applied": [
            {"name": name, "applied_at": to_json_ready(at)} for name, at in applied.items()
        ],
        "pending": pending,
    }
    show(data, lambda: _print_status(data, applied))


def _print_status(data: dict[str, Any], applied: dict[str, Any]) -> None:
    rows: list[tuple[Any, ...]]
    rows = [(name, "applied", moment(at)) for name, at in applied.items()]
    rows += [(name, "pending", None) for name in data["pending"]]
    columns = [Column("Migration"), Column("State"), Column("Applied at")]
    console().print(table(columns, rows))
    where = f"at {data['schema_version']}" if data["schema_version"] else "not migrated yet"
    todo = len(data["pending"])
    hint = f"; {todo} pending: run `hopper-data migrate`" if todo else "; nothing is pending"
    click.echo(f"{data['url']} is {where}{hint}")


@click.command("check")
@common_options
def check_command() -> None:
    """Compare the database with the models; fail when they differ.

    Tables, columns, types, NOT NULL, defaults, CHECKs, keys, indexes and triggers are compared.
    """
    with settings().database() as database:
        differences = check_schema(database)
        version = get_schema_version(database)
    data = {"url": database.label, "ok": not differences, "differences": differences}
    show(data, lambda: _print_differences(database, differences))
    if differences and not version:
        raise DatabaseError(f"{database.label} is not migrated yet: run `hopper-data migrate`")
    if differences:
        raise DatabaseError(
            f"{database.label} differs from the models in {len(differences):,} "
            f"{'way' if len(differences) == 1 else 'ways'}"
        )


def _print_differences(database: Database, differences: list[str]) -> None:
    for difference in differences:
        click.echo(difference)
    if not differences:
        click.echo(f"{database.label} is what the models declare")
