"""Commands for the queue: worker, queue, tail."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hopper_data.cli.options import common_options, settings
from hopper_data.cli.output import Column, cell, console, details, print_table, show, table
from hopper_data.database import Database
from hopper_data.errors import DatabaseUnavailable, NotFound, shorten
from hopper_data.maintenance import require_schema
from hopper_data.routing.models import TaskEvent
from hopper_data.routing.repositories import TaskRepository
from hopper_data.routing.statistics import QueueStatistics
from hopper_data.session import open_session

__all__ = ["queue_command", "tail_command", "worker_command"]

C = TypeVar("C", bound=Callable[..., Any])
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
if TYPE_CHECKING:
    from rich.text import Text

    _ParamType = click.ParamType[float]
else:
    _ParamType = click.ParamType  # generic for type checkers, and from some release on
_LOOK_AGAIN_S = 0.5
_WINDOW = 1000
_AT_ONCE = 2 * _WINDOW
_CHANGE_WIDTH = len("in progress → completed")
_NOTE_WIDTH = 200


class Duration(_ParamType):
    """A length of time such as 90, 90s, 5m or 1.5h, as seconds."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """The seconds."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value))
        if match is None:
            self.fail(f"{value!r} is no length of time; it may be 90, 90s, 5m or 1h", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


# -- worker ---------------------------------------------------------------------------------------


@contextmanager
def _warnings_shown() -> Iterator[None]:
    """Failures and lost leases are what an operator must see, also without `-v`."""
    logger = logging.getLogger("hopper_data.worker")
    level = logger.level
    if not logger.isEnabledFor(logging.WARNING):
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _several(option: str, what: str) -> Callable[[C], C]:
    return click.option(option, multiple=True, metavar="NAME", help=f"{what} May be repeated.")


@click.command("worker")
@click.option("--exec", "command", required=True, metavar="COMMAND", help="What to run for a task.")
@click.option("--owner", metavar="NAME", help="Who the worker is; by default host and process.")
@_several("--project", "Take tasks of this project alone.")
@_several("--capability", "What the worker can do; tasks that need more are not taken.")
@_several("--tag", "Take tasks with this tag alone.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many commands may run at once.",
)
@click.option(
    "--lease",
    type=Duration(),
    default="5m",
    show_default=True,
    help="After how long without a sign of life others may take a task.",
)
@click.option(
    "--grace",
    type=Duration(),
    default="30s",
    show_default=True,
    help="How long commands may go on when the worker is stopped.",
)
@click.option("--until-empty", is_flag=True, help="End when there is nothing to do.")
@click.option("--max-tasks", type=click.IntRange(min=0), metavar="N", help="End after N tasks.")
@common_options
def worker_command(
    command: str,
    owner: str | None,
    project: tuple[str, ...],
    capability: tuple[str, ...],
    tag: tuple[str, ...],
    concurrency: int,
    lease: float,
    grace: float,
    until_empty: bool,
    max_tasks: int | None,
) -> None:
    """Run a shell command for each task of the queue.

    \b
      hopper-data worker --exec './build.sh {id}' --capability python
      hopper-data worker --exec 'jq -r .title' --until-empty

    The command finds the task as JSON on its standard input, and each field in its environment:
    HOPPER_TASK_ID, HOPPER_TASK_TITLE and so on. {id}, or another field, stands for a safe reference
    to that. Exit code 0 completes the task, and a JSON object as the last line of output is its
    feedback; any other code fails it, to be tried again later.

    SIGTERM and Ctrl-C end the worker when its commands have ended.
    """  # noqa: D301  # click's sign for lines that stay as they are is a real backspace
    from hopper_data.cli.shell import ShellHandler, ShellWorker

    # Where JSON is wanted, it is all that standard output has.
    handler = ShellHandler(command, grace, sys.stderr if settings().as_json else sys.stdout)
    with settings().database() as database, _warnings_shown():
        require_schema(database)
        worker = ShellWorker(
            handler,
            owner or f"{socket.gethostname()}-{os.getpid()}",
            projects=project or None,
            capabilities=capability or None,
            tags=tag or None,
            concurrency=concurrency,
            lease=lease,
            database=database,
        )
        try:
            count = worker.run(handler, until_empty=until_empty, max_tasks=max_tasks)
        finally:
            handler.end_all()
    noun = "task" if count == 1 else "tasks"
    data = {"url": database.label, "owner": worker.owner, "handled": count}
    show(data, lambda: click.echo(f"{worker.owner} handled {count:,} {noun}", err=True))


# -- queue ----------------------------------------------------------------------------------------


@click.command("queue")
@common_options
def queue_command() -> None:
    """Show what waits to be done, and who is at work.

    \b
      hopper-data queue
      hopper-data queue --json | jq .ready

    Ready is what a worker may take now; waiting is what has to wait for its time, or for tasks
    that it depends on. A lease expires when its worker gives no sign of life; the next worker
    takes such a task.
    """  # noqa: D301  # as above
    with settings().database() as database:
        require_schema(database)
        with open_session(database, read_only=True) as session:
            statistics = TaskRepository(session).get_queue_statistics()
    data = {"url": database.label, **statistics.to_dict()}
    show(data, lambda: _print_queue(database, statistics))


def _print_queue(database: Database, statistics: QueueStatistics) -> None:
    columns = [
        Column("Project", narrows="cut"),
        Column("Priority"),
        Column("Ready", numeric=True, style="bold"),
        Column("Waiting", numeric=True),
    ]
    rows: list[list[Any]] = []
    for row in statistics.depth:
        first = not rows or rows[-1][-1] != row.project
        name = (row.project or "(none yet)") if first else ""
        rows.append([name, row.priority, row.ready, row.waiting, row.project])
    shown = [row[:-1] for row in rows]
    if shown:
        print_table(f"Pending in {database.label}", table(columns, shown))
    oldest = statistics.oldest_ready
    waiting, lapsed = statistics.waiting, statistics.leases_expired
    console().print()
    console().print(
        details(
            {
                "Ready": statistics.ready,
                "Waiting": f"{waiting:,}, for their time or for others" if waiting else 0,
                "Oldest ready": None if oldest is None else f"{oldest.id}, {_age(oldest.age_s)}",
                "Leases": f"{statistics.leases_held:,} held, {lapsed:,} expired",
                "Last hour": f"{statistics.completed_last_hour:,} completed, "
                f"{statistics.failed_last_hour:,} failed",
            }
        )
    )


def _age(seconds: float) -> str:
    for unit, name in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:,.1f} {name} old"
    return f"{max(seconds, 0):.0f} s old"


# -- tail -----------------------------------------------------------------------------------------


@click.command("tail")
@click.argument("task_id", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=0, max=1_000_000),
    default=20,
    show_default=True,
    metavar="N",
    help="How many of the newest events.",
)
@common_options
def tail_command(task_id: str | None, follow: bool, lines: int) -> None:
    """Show who did what, to all tasks or to one.

    \b
      hopper-data tail 4711
      hopper-data tail --follow --json | jq -r .to_status

    With --follow and --json each event is one line of JSON. A server that goes away meanwhile is
    waited for.
    """  # noqa: D301  # as above
    with settings().database() as database:
        require_schema(database)
        events = _newest(database, task_id, lines)
        if not follow:
            data = {"url": database.label, "events": [event.to_dict() for event in events]}
            show(data, lambda: _print_events(events))
            return
        with suppress(KeyboardInterrupt):
            for event in events:
                _print_line(event)
            _follow(database, task_id, events[-1].id if events else None)


def _newest(database: Database, task_id: str | None, lines: int) -> list[TaskEvent]:
    with open_session(database, read_only=True) as session:
        tasks = TaskRepository(session)
        if task_id is None:
            return tasks.get_recent_events(limit=lines) if lines else []
        if not tasks.exists(task_id):
            raise NotFound(f"Task {shorten(task_id)} does not exist")
        events = tasks.get_events(task_id)
        return events[-lines:] if lines else []


def _follow(database: Database, task_id: str | None, newest: int | None) -> None:
    # A transaction that takes its time ends after others whose events have higher numbers.
    recent = _after(database, None)
    top = max([event.id for event in recent], default=0)
    printed = top if newest is None else newest
    new = {e.id for e in recent if e.id > printed and task_id in (None, e.task_id)}
    seen = {event.id for event in recent} - new
    while True:
        after = max(seen, default=top) - _WINDOW
        found = _patiently_after(database, after)
        for event in found:
            if event.id not in seen and task_id in (None, event.task_id):
                _print_line(event)
            seen.add(event.id)
        seen = {number for number in seen if number > after}
        if len(found) < _AT_ONCE:
            time.sleep(_LOOK_AGAIN_S)


def _patiently_after(database: Database, number: int) -> list[TaskEvent]:
    told = False
    while True:
        try:
            return _after(database, number)
        except DatabaseUnavailable as error:
            if not told:
                click.echo(f"waiting: {error}", err=True)
            told = True
            time.sleep(_LOOK_AGAIN_S)


def _after(database: Database, number: int | None) -> list[TaskEvent]:
    with open_session(database, read_only=True) as session:
        return TaskRepository(session).get_recent_events(after_id=number, limit=_AT_ONCE)


def _print_line(event: TaskEvent) -> None:
    if settings().as_json:
        click.echo(json.dumps(event.to_dict(), ensure_ascii=False))
        return
    # A line that is too long for the terminal goes on in the next one, with nothing cut.
    console().print(_line(event), soft_wrap=True)


def _line(event: TaskEvent) -> Text:
    from rich.text import Text

    change = Text.assemble(cell(event.from_status), " → ", cell(event.to_status))
    change.align("left", _CHANGE_WIDTH)
    words = [cell(f"{event.at:%Y-%m-%d %H:%M:%S}", "dim"), cell(event.task_id), change]
    if event.owner:
        words.append(cell(event.owner))
    if event.attempt > 1:
        words.append(cell(f"attempt {event.attempt}", "yellow"))
    if event.note:
        words.append(cell(_on_one_line(event.note, _NOTE_WIDTH), "dim"))
    line = Text("  ").join(words)
    line.rstrip()
    return line


def _on_one_line(text: str, width: int) -> str:
    """A text on one line, of at most `width` characters."""
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _print_events(events: list[TaskEvent]) -> None:
    if not events:
        click.echo("nothing has happened yet")
    for event in events:
        _print_line(event)
