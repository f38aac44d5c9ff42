"""How results look: JSON, lines, tables, and a bar while something takes long."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from hopper_data.cli.options import settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "Column",
    "cell",
    "console",
    "details",
    "moment",
    "print_table",
    "progress",
    "show",
    "size",
    "table",
]

_NARROWEST = 12
_STYLES = {
    "pending": "yellow",
    "claimed": "cyan",
    "in_progress": "cyan",
    "blocked": "magenta",
    "completed": "green",
    "failed": "red",
    "cancelled": "dim",
    "urgent": "bold red",
    "high": "yellow",
    "low": "dim",
}


def show(data: Any, draw: Callable[[], object]) -> None:
    """Print a result: `data` where JSON is wanted, else what `draw` prints."""
    if not settings().as_json:
        draw()
        return
    plain = "utf" not in (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
    click.echo(json.dumps(data, indent=2, ensure_ascii=plain, default=str))


def console() -> Console:
    """Standard output, as wide as the terminal is."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


def cell(value: Any, style: str | None = None) -> Text:
    """A value as text for people: without what would steer the terminal, words in their colours."""
    from rich.text import Text

    if value is None:
        return Text("-", style="dim")
    if isinstance(value, int) and not isinstance(value, bool):
        return Text(f"{value:,}", style=style or ("" if value else "dim"))
    text = "".join(character if _visible(character) else " " for character in str(value))
    return Text(
        text.replace("_", " ") if text == "in_progress" else text,
        style=style or _STYLES.get(text, ""),
    )


def _visible(character: str) -> bool:
    return not unicodedata.category(character).startswith("C") or character == "\u200d"


class Column(NamedTuple):
    """A column of a table.

    `narrows` is how its cells make do with less room than they need: "cut" short, or on several
    lines ("wrap"). Without it they have the room that they need.
    """

    title: str
    numeric: bool = False
    narrows: Literal["cut", "wrap"] | None = None
    style: str | None = None


def table(columns: Sequence[Column], rows: Iterable[Sequence[Any]]) -> Table:
    """Rows under the titles of their columns. A cell is a value, or what `cell` has made of it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    result = Table(
        box=box.SIMPLE_HEAD,
        border_style="dim",
        header_style="dim",
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        result.add_column(
            column.title,
            justify="right" if column.numeric else "left",
            no_wrap=column.narrows is None,
            min_width=None if column.narrows is None else _NARROWEST,
            overflow="fold",
        )
    for row in rows:
        cells = []
        for column, value in zip(columns, row, strict=True):
            text = value if isinstance(value, Text) else cell(value, column.style)
            if column.narrows == "cut":
                # Said of the column, all of the columns would be cut.
                text.no_wrap, text.overflow = True, "ellipsis"
            cells.append(text)
        result.add_row(*cells)
    return result


def print_table(title: str, content: Table) -> None:
    """A table under a title of its own, with a blank line before and after."""
    screen = console()
    screen.print()
    screen.print(cell(title, "bold"))
    screen.print(content)


def details(pairs: Mapping[str, Any]) -> Table:
    """Names and values, one pair a line."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        grid.add_row(cell(name, "bold"), cell(value))
    return grid


def moment(value: datetime) -> str:
    """A moment for people, in UTC."""
    return value.strftime("%Y-%m-%d %H:%M UTC")


def size(number: int) -> str:
    """A number of bytes for people."""
    amount = float(number)
    for unit in ("bytes", "kB", "MB"):
        if amount < 1000:
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} GB"


@contextmanager
def progress(
    label: str, total: int | None, *, of_bytes: bool = False
) -> Iterator[Callable[[int], object]]:
    """A bar on stderr while the block runs; call the result with how much more is done.

    None where stderr is not a terminal.
    """
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    amount = DownloadColumn() if of_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
