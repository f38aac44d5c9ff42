"""Commands for the rows: seed, reset, import, export, stats."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import click

from hopper_data.cli.options import common_options, settings
from hopper_data.cli.output import Column, console, print_table, progress, show, table
from hopper_data.database import Database
from hopper_data.errors import DatabaseError, ValidationError
from hopper_data.maintenance import (
    analyze_database_statistics,
    analyze_task_statistics,
    require_schema,
    reset_database,
)
from hopper_data.routing.repositories import RoutingDecisionRepository, TaskRepository
from hopper_data.seeding import seed_database, seed_tasks
from hopper_data.session import open_session
from hopper_data.transfer import export_tasks, import_tasks

__all__ = [
    "export_command",
    "import_command",
    "print_projects",
    "reset_command",
    "seed_command",
    "stats_command",
]

_SHOWN_PROJECTS = 30
_yes = click.option("--yes", is_flag=True, help="Do not ask whether all data may go.")


@click.command("seed")
@click.option("--reset", is_flag=True, help="Drop all data first, and make the tables anew.")
@click.option(
    "--tasks",
    type=click.IntRange(min=0),
    metavar="N",
    help="Put in N made-up tasks, not the sample ones.",
)
@_yes
@common_options
def seed_command(reset: bool, tasks: int | None, yes: bool) -> None:
    """Put sample data in.

    Rows that are there already stay as they are, so that seeding again adds nothing.
    """
    with settings().database(must_exist=not reset) as database:
        if reset:
            _ask(database, yes or not _is_terminal())
            reset_database(database, confirm=True)
        require_schema(database)
        if tasks is None:
            added = seed_database(database)
        else:
            with progress("Making up tasks", tasks) as advance:
                added = seed_tasks(tasks, database, progress=advance)
    data = {"url": database.label, "added": added, "total_added": sum(added.values())}
    show(data, lambda: _print_added(database, added))


def _is_terminal() -> bool:
    """Whether a person is there to answer."""
    return sys.stdin.isatty()


def _ask(database: Database, agreed: bool) -> None:
    if not agreed:
        click.confirm(f"Drop all data of {database.label}?", abort=True, err=True)


def _print_added(database: Database, added: dict[str, int]) -> None:
    if not any(added.values()):
        click.echo(f"{database.label} has all of it already; nothing was added")
        return
    columns = [Column("Table"), Column("Rows added", numeric=True)]
    console().print(table(columns, added.items()))


@click.command("reset")
@_yes
@common_options
def reset_command(yes: bool) -> None:
    """Drop all data, and make the tables anew.

    Asks first, and where nobody can answer it needs --yes. Refused where HOPPER_ENV is production.
    """
    with settings().database(must_exist=False) as database:
        if not yes and not _is_terminal():
            raise click.UsageError(f"reset drops all data of {database.label}; add --yes to do it")
        _ask(database, yes)
        reset_database(database, confirm=True)
    show(
        {"url": database.label, "reset": True},
        lambda: click.echo(f"{database.label} is empty, with all its tables"),
    )


@click.command("import")
@click.argument("file", type=click.File("rb"))
@common_options
def import_command(file: BinaryIO) -> None:
    """Take in tasks from a JSON Lines file.

    FILE has one JSON object a line; "-" is standard input. New tasks are added, the given fields
    of others are set, and what is already as the file says stays untouched. All of it or, when a
    line is wrong, nothing.
    """
    with settings().database() as database:
        require_schema(database)
        try:
            with progress("Importing", _file_size(file), of_bytes=True) as advance:
                report = import_tasks(file, database=database, progress=advance)
        except ValidationError as error:
            # The command was right, the file is not.
            raise DatabaseError(f"{_name(file)}, {error}; nothing was imported") from error
    data = {
        "url": database.label,
        "file": _name(file),
        "total": report.total,
        "new": report.new,
        "changed": report.changed,
        "unchanged": report.unchanged,
    }
    show(
        data,
        lambda: click.echo(
            f"{report.total:,} tasks: {report.new:,} new, {report.changed:,} changed, "
            f"{report.unchanged:,} unchanged"
        ),
    )


def _name(file: BinaryIO) -> str:
    name = getattr(file, "name", None)
    return name if isinstance(name, str) and name != "<stdin>" else "standard input"


def _file_size(file: BinaryIO) -> int | None:
    """The size of a file; None for a pipe."""
    try:
        return os.fstat(file.fileno()).st_size or None
    except OSError:
        return None


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@common_options
def export_command(file: Path) -> None:
    """Write all tasks to a JSON Lines file.

    FILE gets one JSON object a line; "-" is standard output. A file of that name is replaced when
    all is written, and not before.
    """
    piped = str(file) == "-"
    with settings().database() as database:
        require_schema(database)
        with open_session(database, read_only=True) as session:
            total = TaskRepository(session).count()
            with progress("Exporting", total) as advance:
                target: Path | BinaryIO = sys.stdout.buffer if piped else file
                count = export_tasks(target, database=database, progress=advance)
    if piped:
        # The tasks are the output. Where JSON is wanted there is a program, which can count.
        if not settings().as_json:
            click.echo(f"{count:,} tasks exported", err=True)
        return
    data = {"url": database.label, "file": str(file), "total": count}
    show(data, lambda: click.echo(f"{count:,} tasks exported to {file}"))


@click.command("stats")
@common_options
def stats_command() -> None:
    """Count rows, tasks by project, and routing decisions."""
    with settings().database() as database:
        require_schema(database)
        with open_session(database, read_only=True) as session:
            data = {
                "url": database.label,
                **analyze_database_statistics(database),
                "projects": analyze_task_statistics(database),
                "routing": RoutingDecisionRepository(session).get_decision_analytics(),
            }
    show(data, lambda: _print_statistics(data))


def _print_statistics(data: dict[str, Any]) -> None:
    columns = [Column("Table"), Column("Rows", numeric=True)]
    rows = [*data["row_counts"].items(), ("all", data["total_rows"])]
    print_table(f"Rows in {data['url']}", table(columns, rows))
    if data["projects"]:
        print_projects(data["projects"])
    routing = data["routing"]
    if routing["total_decisions"]:
        _print_routing(routing)


def print_projects(projects: list[dict[str, Any]]) -> None:
    """How the tasks stand, a line for each project, the busiest ones where there are many."""
    busy = sorted(projects, key=lambda entry: -entry["total_tasks"])[:_SHOWN_PROJECTS]
    shown = [entry for entry in projects if entry in busy]
    states = {
        "Pending": ("pending",),
        "Active": ("claimed", "in_progress"),
        "Blocked": ("blocked",),
        "Done": ("completed",),
        "Failed": ("failed",),
        "Cancelled": ("cancelled",),
    }
    columns = [Column("Project", narrows="cut"), Column("Tasks", numeric=True, style="bold")]
    columns += [Column(name, numeric=True) for name in states]
    rows = [
        [
            entry["project"] or "(none yet)",
            entry["total_tasks"],
            *(sum(entry[status] for status in group) for group in states.values()),
        ]
        for entry in shown
    ]
    more = len(projects) - len(shown)
    title = f"Tasks by project, without {more:,} smaller ones" if more else "Tasks by project"
    print_table(title, table(columns, rows))


def _print_routing(routing: dict[str, Any]) -> None:
    columns = [
        Column("Decided by"),
        Column("Decisions", numeric=True),
        Column("Confidence", numeric=True),
        Column("Time", numeric=True),
    ]
    rows = [
        [name, entry["count"], _share(entry["avg_confidence"]), _ms(entry["avg_decision_time_ms"])]
        for name, entry in routing["strategy_stats"].items()
    ]
    rate = routing["good_match_rate"]
    title = "Routing" if rate is None else f"Routing: {rate:.0%} called a good match"
    print_table(title, table(columns, rows))


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.0%}"


def _ms(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f} ms"
