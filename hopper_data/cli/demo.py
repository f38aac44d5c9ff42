"""The command that shows everything at work on a SQLite file: demo."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hopper_data.cli.data import print_projects
from hopper_data.cli.demonstration import Carried, Worker, route_unrouted, work
from hopper_data.cli.options import common_options, settings
from hopper_data.cli.output import Column, cell, console, details, print_table, show, table
from hopper_data.config import build_database_url
from hopper_data.database import Database
from hopper_data.fields import utcnow
from hopper_data.maintenance import analyze_task_statistics
from hopper_data.migrations import get_schema_version, migrate
from hopper_data.routing.models import RoutingDecision, Task
from hopper_data.routing.repositories import TaskFeedbackRepository, TaskRepository
from hopper_data.routing.vocabulary import TaskStatus
from hopper_data.seeding import seed_database
from hopper_data.session import open_session

__all__ = ["demo_command"]

_WORKERS = (Worker("ada"), Worker("brook", fails_at=4))
_QUEUE_LENGTH = 10
_SURE = 0.8
_WORDS = {
    "projects": "projects",
    "hopper_instances": "instances",
    "tasks": "tasks",
    "routing_decisions": "decisions",
    "task_feedback": "notes of feedback",
    "external_mappings": "links to issues",
}


@click.command("demo")
@click.option(
    "--database",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="PATH",
    help="Use this SQLite file, and keep it.",
)
@common_options
def demo_command(path: Path | None) -> None:
    """Show everything at work, on a file of its own.

    Needs no server. Makes the tables, loads the sample data, routes the tasks that have no
    project by their capabilities, and lets two workers carry some through. The SQLite file lies
    in a temporary folder and goes away afterwards, unless --database names one.
    """
    options = settings()
    if options.url:
        raise click.UsageError("demo works on a SQLite file of its own: name it by --database PATH")
    start = time.perf_counter()
    with _file(path) as file:
        options.url = build_database_url("sqlite", database=str(file))
        with options.database(must_exist=False) as database:
            data = _run(database)
    data["seconds"] = round(time.perf_counter() - start, 2)
    data["kept"] = str(path) if path else None
    show(_json_ready(data), lambda: _draw(data))


@contextmanager
def _file(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="hopper-demo-") as folder:
        yield Path(folder) / "hopper.db"


def _run(database: Database) -> dict[str, Any]:
    migrations = migrate(database=database)
    loaded = seed_database(database)
    decisions, left = route_unrouted(database)
    carried = work(database, _WORKERS)
    with open_session(database, read_only=True) as session:
        tasks = TaskRepository(session)
        queue = [
            (task, tasks.get_blocking_tasks(task.id))
            for task in tasks.get_pending_tasks(limit=_QUEUE_LENGTH)
        ]
        pending = tasks.count({"status": TaskStatus.PENDING})
        titles = {
            task.id: task.title
            for task in tasks.filter({"id__in": [decision.task_id for decision in decisions]})
        }
        accuracy = TaskFeedbackRepository(session).get_routing_accuracy()
    return {
        "database": database.label,
        "migrations": migrations,
        "schema_version": get_schema_version(database),
        "loaded": loaded,
        "decisions": decisions,
        "titles": titles,
        "unroutable": left,
        "work": carried,
        "queue": queue,
        "pending": pending,
        "projects": analyze_task_statistics(database),
        "accuracy": accuracy,
    }


def _json_ready(data: dict[str, Any]) -> dict[str, Any]:
    return {
        **{key: value for key, value in data.items() if key != "titles"},
        "decisions": [decision.to_dict() for decision in data["decisions"]],
        "unroutable": [task.to_dict() for task in data["unroutable"]],
        "work": [asdict(carried) for carried in data["work"]],
        "queue": [
            {**task.to_dict(), "blocked_by": [other.id for other in blockers]}
            for task, blockers in data["queue"]
        ],
    }


# -- for people -----------------------------------------------------------------------------------


def _draw(data: dict[str, Any]) -> None:
    _print_story(data)
    if data["decisions"]:
        _print_decisions(data["decisions"], data["titles"])
    if data["work"]:
        _print_work(data["work"])
    if data["queue"]:
        _print_queue(data["queue"], data["pending"])
    print_projects(data["projects"])
    overall = data["accuracy"]["overall"]
    click.echo(
        f"\n{overall['good']} of {overall['rated']} rated tasks were called a good match. "
        f"All of this took {data['seconds']:.1f} s."
    )
    if data["kept"]:
        click.echo(f"Look on: hopper-data stats --url {shlex.quote(data['database'])}")
    else:
        click.echo("Keep the file next time: hopper-data demo --database demo.db")


def _print_story(data: dict[str, Any]) -> None:
    added = ", ".join(f"{count} {_WORDS[name]}" for name, count in data["loaded"].items() if count)
    done = sum(item.status is TaskStatus.COMPLETED for item in data["work"])
    failed = len(data["work"]) - done
    count = len(data["decisions"])
    routed = f"{count} tasks to projects that can do them" if count else "nothing new"
    steps = {
        "Migrated": f"to {data['schema_version']}",
        "Loaded": added or "nothing: the sample data is there already",
        "Routed": routed + _unroutable(data["unroutable"]),
        "Worked": f"two workers completed {done} tasks, {failed} failed"
        + ("; that one is tried again in an hour" if failed == 1 else ""),
    }
    console().print(details(steps))


def _unroutable(tasks: list[Task]) -> str:
    if not tasks:
        return ""
    lacking = ", or ".join(" and ".join(task.required_capabilities or []) for task in tasks)
    return f"; {len(tasks)} wait for a project with {lacking}"


def _print_decisions(decisions: list[RoutingDecision], titles: dict[str, str]) -> None:
    columns = [
        Column("Task"),
        Column("Title", narrows="cut"),
        Column("Goes to"),
        Column("Sure", numeric=True),
        Column("Because it is", narrows="wrap"),
    ]
    rows = [
        [
            decision.task_id,
            titles[decision.task_id],
            cell(decision.project, "cyan"),
            _sureness(decision.confidence or 0.0),
            decision.reasoning,
        ]
        for decision in decisions
    ]
    print_table("Routing decisions", table(columns, rows))


def _sureness(confidence: float) -> Any:
    return cell(f"{confidence:.0%}", "green" if confidence > _SURE else "yellow")


def _print_work(work: list[Carried]) -> None:
    columns = [
        Column("Worker"),
        Column("Task"),
        Column("Title", narrows="cut"),
        Column("Project"),
        Column("Ended as"),
    ]
    rows = [
        [item.worker, item.task_id, item.title, cell(item.project, "cyan"), _ended_as(item.status)]
        for item in work
    ]
    print_table("Work done, in the order in which it ended", table(columns, rows))


def _ended_as(status: TaskStatus) -> Any:
    return cell("failed for now", "red") if status is TaskStatus.PENDING else str(status)


def _print_queue(queue: list[tuple[Task, list[Task]]], pending: int) -> None:
    columns = [
        Column("Priority"),
        Column("Task"),
        Column("Title", narrows="cut"),
        Column("Project"),
        Column("Waits for"),
    ]
    rows = [
        [
            str(task.priority),
            task.id,
            task.title,
            cell(task.project, "cyan") if task.project else cell("(none yet)", "dim"),
            _waits_for(task, blockers),
        ]
        for task, blockers in queue
    ]
    title = f"The queue: {pending:,} pending tasks, the most urgent first"
    if len(queue) < pending:
        title = f"The queue: the {len(queue)} most urgent of {pending:,} pending tasks"
    print_table(title, table(columns, rows))


def _waits_for(task: Task, blockers: list[Task]) -> Any:
    if blockers:
        return ", ".join(other.id for other in blockers)
    if task.run_after and task.run_after > utcnow():
        return cell("its next try", "yellow")
    return cell("a worker", "green") if task.project else "a project"
