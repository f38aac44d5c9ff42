"""Commands for the plan: its tree, the next task, the steps of tasks, their history, import."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hopper_data.cli.options import C, common_options, settings
from hopper_data.cli.output import Column, cell, console, details, moment, print_table, show, table
from hopper_data.database import Database
from hopper_data.errors import DatabaseError, InvalidTransition, NotFound
from hopper_data.maintenance import require_schema
from hopper_data.planning.importer import ImportReport, import_folder
from hopper_data.planning.keys import EPIC_KEY, TASK_KEY, KeyPattern
from hopper_data.planning.models import Task, TaskHistory
from hopper_data.planning.repositories import (
    EpicRepository,
    FeatureRepository,
    TaskHistoryRepository,
    TaskRepository,
)
from hopper_data.planning.vocabulary import TRANSITION_NAMES, AgentType, TaskStatus
from hopper_data.session import Session, open_session

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["plan_group"]

_BAR_CHARACTERS = 10
_AGENT_TYPES = click.Choice([str(word) for word in AgentType])
_S = TaskStatus


def _key(pattern: KeyPattern) -> Callable[..., str | None]:
    """A callback that checks a key before any database is asked."""

    def check(context: click.Context, parameter: click.Parameter, value: Any) -> str | None:
        if value is not None and not pattern.matches(value):
            raise click.BadParameter(
                f"{value!r} is not a key such as {pattern.example!r}", context, parameter
            )
        return value  # type: ignore[no-any-return]

    return check


_is_epic, _is_task = _key(EPIC_KEY), _key(TASK_KEY)


class _InOrder(click.Group):
    """A group that lists its commands as they are written here."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """In the order in which one needs them."""
        return list(self.commands)


@click.group("plan", cls=_InOrder)
@common_options
def plan_group() -> None:
    """See epics, features and tasks, carry them on, import them."""


# -- reading --------------------------------------------------------------------------------------


@plan_group.command("tree")
@click.argument("epic", required=False, callback=_is_epic)
@click.option("--no-tasks", is_flag=True, help="Show epics and features alone.")
@common_options
def tree_command(epic: str | None, no_tasks: bool) -> None:
    """Show epics, features and tasks, with their progress.

    EPIC is the key of the one to show; without it all are shown.
    """
    with settings().database() as database, _reading(database) as session:
        epics = _plan(session, epic, with_tasks=not no_tasks)
    show({"url": database.label, "epics": epics}, lambda: _print_tree(epics))


def _plan(session: Session, epic: str | None, *, with_tasks: bool) -> list[dict[str, Any]]:
    """Epics as dicts, with their `features`, and these with their `tasks`."""
    epics, features, tasks = (
        EpicRepository(session),
        FeatureRepository(session),
        TaskRepository(session),
    )
    if epic is None:
        chosen = epics.list_all()
        parts = features.list_all()
        work = tasks.list_all() if with_tasks else []
    else:
        found = epics.get_by_key(epic)
        if found is None:
            raise NotFound(f"there is no epic {epic}")
        chosen = [found]
        parts = features.list_by_epic(epic)
        work = tasks.list_by_epic(epic) if with_tasks else []
    below: dict[str, list[dict[str, Any]]] = {}
    for task in work:
        below.setdefault(task.feature_key, []).append(task.to_dict())
    children: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        row = part.to_dict()
        if with_tasks:
            row["tasks"] = below.get(part.key, [])
        children.setdefault(part.epic_key, []).append(row)
    return [{**row.to_dict(), "features": children.get(row.key, [])} for row in chosen]


def _print_tree(epics: list[dict[str, Any]]) -> None:
    from rich.tree import Tree

    if not epics:
        click.echo("there are no epics yet; `hopper-data plan import FOLDER` takes task files in")
    for epic in epics:
        branch = Tree(_line(epic, _bar(epic["progress_pct"])), guide_style="dim")
        for feature in epic["features"]:
            twig = branch.add(_line(feature, _bar(feature["progress_pct"])))
            for task in feature.get("tasks", ()):
                twig.add(_line(task))
        console().print(branch)


def _line(row: dict[str, Any], bar: Text | None = None) -> Text:
    """A key, how far it is, what it is about, and what keeps it."""
    parts = [cell(row["key"], "bold"), bar or cell(row["status"])]
    if row["title"] != row["key"]:
        parts.append(cell(row["title"], ""))
    if bar is not None and row["status"] != "active":
        parts.append(cell(f"({row['status']})", "dim"))
    if row.get("assigned_agent"):
        parts.append(cell(f"@{row['assigned_agent']}", "dim"))
    if row.get("blocked_reason"):
        parts.append(cell(f"blocked: {row['blocked_reason']}", "magenta"))
    return cell(" ", "").join(parts)


def _bar(percent: float) -> Text:
    done = int(percent * _BAR_CHARACTERS / 100)
    bar = cell("█" * done, "green")
    bar.append("░" * (_BAR_CHARACTERS - done), "dim")
    bar.append(f" {percent:3.0f} %", "green" if done == _BAR_CHARACTERS else "")
    return bar


@plan_group.command("next")
@click.option("--agent-type", type=_AGENT_TYPES, help="For this type of agent.")
@click.option("--epic", metavar="KEY", callback=_is_epic, help="Of this epic.")
@common_options
def next_command(agent_type: str | None, epic: str | None) -> None:
    """Show the best task to start, all of whose dependencies are completed."""
    with settings().database() as database, _reading(database) as session:
        task = TaskRepository(session).next_task(agent_type, epic)
        data = task.to_dict() if task else None
    show(data, lambda: _print_task(data))


def _print_task(task: dict[str, Any] | None) -> None:
    if task is None:
        click.echo("there is nothing that could be started")
        return
    shown = {
        "Task": task["key"],
        "Title": task["title"],
        "Priority": task["priority"],
        "For": task["agent_type"],
        "Assigned to": task["assigned_agent"],
        "File": task["file_path"],
        "Description": task["description"],
    }
    screen = console()
    screen.print(details({name: value for name, value in shown.items() if value is not None}))


@plan_group.command("history")
@click.argument("task", required=False, callback=_is_task)
@click.option("--limit", type=click.IntRange(min=0), default=50, show_default=True, metavar="N")
@common_options
def history_command(task: str | None, limit: int) -> None:
    """Show the steps of a task, first to last, or the latest of all tasks.

    TASK is the key of a task.
    """
    with settings().database() as database, _reading(database) as session:
        steps = TaskHistoryRepository(session)
        if task is None:
            found = steps.list_recent(limit)
        else:
            _task(session, task)
            found = steps.list_by_task(task, limit=limit)
        data = {"url": database.label, "history": [step.to_dict() for step in found]}
    show(data, lambda: _print_history(found))


def _print_history(steps: list[TaskHistory]) -> None:
    columns = [
        Column("When"),
        Column("Task"),
        Column("From"),
        Column("To"),
        Column("By"),
        Column("Notes", narrows="wrap"),
    ]
    rows = [
        [
            moment(step.timestamp),
            step.task_key,
            step.old_status,
            step.new_status,
            step.agent,
            step.notes,
        ]
        for step in steps
    ]
    print_table("History", table(columns, rows))


def _reading(database: Database) -> Any:
    require_schema(database)
    return open_session(database, read_only=True)


def _task(session: Session, key: str) -> Task:
    task = TaskRepository(session).get_by_key(key)
    if task is None:
        raise NotFound(f"there is no task {key}")
    return task


# -- steps ----------------------------------------------------------------------------------------


def _step_options(command: C) -> C:
    """Give a step its task, and the options that its history wants to know."""
    for option in (
        common_options,
        click.option("--agent", metavar="NAME", help="Who does it, for the history."),
        click.argument("task", callback=_is_task),
    ):
        command = option(command)
    return command


_notes = click.option("--notes", metavar="TEXT", help="What there is to say, for the history.")


def _step(name: str, key: str, new: TaskStatus, agent: str | None, notes: str | None) -> None:
    """Take a step that has a name; a step of another name that leads to the same is refused."""
    with settings().database() as database:
        require_schema(database)
        with open_session(database) as session:
            task = _task(session, key)
            old = task.status
            if TRANSITION_NAMES.get((old, new)) != name:
                raise DatabaseError(_refusal(name, key, old))
            try:
                moved = TaskRepository(session).update_status(task.id, new, agent, notes)
            except InvalidTransition as error:
                raise DatabaseError(f"{key} was changed by somebody else: {error}") from error
            if moved is None:
                raise NotFound(f"there is no task {key} any more")
            feature = FeatureRepository(session).get_or_raise(moved.feature_id)
    show(
        moved.to_dict(),
        lambda: click.echo(
            f"{key}: {old} → {moved.status}; {feature.key} is at {feature.progress_pct:.0f} %"
        ),
    )


def _refusal(name: str, key: str, old: TaskStatus) -> str:
    steps = dict.fromkeys(step for (before, _), step in TRANSITION_NAMES.items() if before == old)
    return f"cannot {name} {key}, which is {old}; possible is {' or '.join(steps) or 'nothing'}"


@plan_group.command("start")
@_notes
@_step_options
def start_command(task: str, agent: str | None, notes: str | None) -> None:
    """Begin a task that is to do."""
    _step("start", task, _S.IN_PROGRESS, agent, notes)


@plan_group.command("submit")
@_notes
@_step_options
def submit_command(task: str, agent: str | None, notes: str | None) -> None:
    """Hand a task in for review."""
    _step("submit", task, _S.READY_FOR_REVIEW, agent, notes)


@plan_group.command("approve")
@_notes
@_step_options
def approve_command(task: str, agent: str | None, notes: str | None) -> None:
    """Call a reviewed task completed."""
    _step("approve", task, _S.COMPLETED, agent, notes)


@plan_group.command("block")
@click.option("--reason", metavar="TEXT", required=True, help="What keeps the task.")
@_step_options
def block_command(task: str, agent: str | None, reason: str) -> None:
    """Say that something keeps a task."""
    _step("block", task, _S.BLOCKED, agent, reason)


@plan_group.command("unblock")
@click.option("--start", is_flag=True, help="Go on with it at once.")
@_notes
@_step_options
def unblock_command(task: str, agent: str | None, notes: str | None, start: bool) -> None:
    """Say that nothing keeps a task any more."""
    _step("unblock", task, _S.IN_PROGRESS if start else _S.TODO, agent, notes)


@plan_group.command("reopen")
@_notes
@_step_options
def reopen_command(task: str, agent: str | None, notes: str | None) -> None:
    """Take a reviewed or completed task up again."""
    _step("reopen", task, _S.IN_PROGRESS, agent, notes)


@plan_group.command("archive")
@_notes
@_step_options
def archive_command(task: str, agent: str | None, notes: str | None) -> None:
    """Put a completed task away, for good."""
    _step("archive", task, _S.ARCHIVED, agent, notes)


# -- import ---------------------------------------------------------------------------------------


@plan_group.command("import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--project-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="What the paths of the files count from, in place of FOLDER.",
)
@common_options
def import_command(folder: Path, project_root: Path | None) -> None:
    """Take in a folder of Markdown task files.

    Each file has YAML front matter (task_key, status, feature, created, assigned_agent,
    dependencies) and a heading, which is the title. New tasks are added, with their features and
    epics; what a file says anew is set. Files that cannot be taken are listed, and the others are
    taken nonetheless.
    """
    with settings().database() as database:
        require_schema(database)
        with open_session(database) as session:
            report = import_folder(session, folder, project_root=project_root)
    data = {"url": database.label, "folder": str(folder), **report.to_dict()}
    show(data, lambda: _print_report(report))


def _print_report(report: ImportReport) -> None:
    click.echo(
        f"{report.total:,} files: {len(report.new):,} new, {len(report.changed):,} changed, "
        f"{len(report.unchanged):,} unchanged, {len(report.refused):,} not taken"
    )
    if report.new_epics or report.new_features:
        click.echo(
            f"made {len(report.new_epics):,} epics and {len(report.new_features):,} features "
            "that the files name"
        )
    if report.refused:
        columns = [Column("File", narrows="wrap"), Column("Why it was not taken", narrows="wrap")]
        rows = [[refusal.path, refusal.reason] for refusal in report.refused]
        print_table("Files that were not taken", table(columns, rows))
