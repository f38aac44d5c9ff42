"""Measures speed against the bare drivers and against peers, and writes docs/performance.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import concurrent, planning
from benchmarks.claims import Rates, measure_claims
from benchmarks.data import fill
from benchmarks.databases import BACKENDS, MakeDatabase, databases, server_version
from benchmarks.imports import Import, measure_imports
from benchmarks.measuring import Measured, measure
from benchmarks.operations import OPERATIONS
from benchmarks.page import Results, duration, write_page

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
KEYS = (
    *(operation.key for operation in OPERATIONS),
    concurrent.KEY,
    "claim",
    "planning",
    "import",
)
Say = Callable[[str], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"Operations: {', '.join(KEYS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="a look, within a minute; no page")
    parser.add_argument("--full", action="store_true", help="curves up to 1,000,000 tasks, too")
    parser.add_argument("--tasks", type=int, help="how many (100,000; with --quick 10,000)")
    parser.add_argument("--only", metavar="KEY,…", help="these operations alone; no page")
    parser.add_argument("--backend", choices=BACKENDS, help="one alone; no page")
    parser.add_argument("--page", type=Path, help="where to write the page")
    options = parser.parse_args(arguments)
    usual = set(KEYS) - {"planning"} if options.quick else set(KEYS)
    options.keys = set(options.only.split(",")) if options.only else usual
    if unknown := options.keys - set(KEYS):
        parser.error(f"no operation {', '.join(sorted(unknown))}; there are {', '.join(KEYS)}")
    if options.page is None and not (options.quick or options.only or options.backend):
        options.page = PAGE
    options.tasks = options.tasks or (10_000 if options.quick else 100_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    console.width = max(console.width, 120)
    command = " ".join(["python -m benchmarks", *(["--full"] if options.full else [])])
    results = Results(options.tasks, command)
    backends = [options.backend] if options.backend else list(BACKENDS)
    with databases(backends) as make, console.status("") as status:
        for backend in backends:

            def say(text: str, backend: str = backend) -> None:
                status.update(f"{backend}: {text}")

            results.servers[backend] = server_version(make, backend)
            run_backend(options, make, backend, results, say)
            show(console, results, backend)
        if "import" in options.keys:
            status.update("imports")
            results.imports = measure_imports(3 if options.quick else 15)
            show_imports(console, results.imports)
    if options.page:
        write_page(results, options.page)
    return 0


def run_backend(
    options: argparse.Namespace, make: MakeDatabase, backend: str, results: Results, say: Say
) -> None:
    """Measure on one backend: the main size last, since all that follows has its caches warm."""
    chosen = [operation for operation in OPERATIONS if operation.key in options.keys]
    growing = [operation for operation in chosen if operation.grows and operation.reads]
    budget_s = 0.2 if options.quick else 2
    for size in sizes(options):
        wanted = chosen if size == options.tasks else growing
        if not wanted and concurrent.KEY not in options.keys:
            continue
        say(f"{size:,} tasks are made")
        world = fill(make(backend, f"tasks_{size}"), size)
        for operation in wanted:
            say(f"{size:,} tasks, {operation.title}")
            results.measured.append(measure(world, operation, budget_s))
        if size == options.tasks and concurrent.KEY in options.keys:
            say(concurrent.TITLE)
            results.measured.append(concurrent.measure_gets(world, 5 if options.quick else 25))
    if "claim" in options.keys:
        say("claims")
        counts = (200, 1_000) if options.quick else (2_000, 10_000)
        rounds = 1 if options.quick else 3
        results.claims += measure_claims(make, backend, counts, rounds)
    if "planning" in options.keys:
        say("planning")
        database = make(backend, "planning", migrated=False)
        results.planning.append(planning.measure_planning(database, planning.LIMITS_HOLD_TO))


def sizes(options: argparse.Namespace) -> list[int]:
    """The sizes of the table, in the order in which they are measured."""
    if options.quick or options.only:
        return [options.tasks]
    more = [1_000_000] if options.full else []
    return [options.tasks // 10, options.tasks, *more]


def show(console: Console, results: Results, backend: str) -> None:
    """Print what was measured on a backend."""
    for size in sorted({line.size for line in results.measured}):
        here = (backend, size)
        lines = [line for line in results.measured if (line.backend, line.size) == here]
        if lines:
            _show_times(console, f"{backend}, {size:,} tasks", lines)
    rates = [line for line in results.claims if line.backend == backend]
    if rates:
        _show_rates(console, f"{backend}, tasks per second", rates)
    for bench in results.planning:
        if bench.database.dialect == backend:
            planning.show(console, bench)


def _show_times(console: Console, title: str, lines: Sequence[Measured]) -> None:
    names = list(dict.fromkeys(name for line in lines for name in line.seconds))
    table = _table(title, names)
    for line in lines:
        times = (duration(line.seconds[name]) if name in line.seconds else "" for name in names)
        goal = "" if line.goal is None else f"≤ {line.goal}"
        table.add_row(line.title, *times, _ratio(line), goal)
    console.print(table)


def _show_rates(console: Console, title: str, lines: Sequence[Rates]) -> None:
    names = list(dict.fromkeys(name for line in lines for name in line.rates))
    table = _table(title, names)
    for line in lines:
        rates = (f"{line.rates[name]:,.0f}" if name in line.rates else "" for name in names)
        goal = "" if line.goal is None else f"≥ {line.goal}"
        table.add_row(line.title, *rates, _ratio(line), goal)
    console.print(table)


def _ratio(line: Measured | Rates) -> str:
    return f"[{'red' if line.misses else 'green'}]{line.ratio:.2f}[/]"


def _table(title: str, names: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    for name in (*names, "ratio", "goal"):
        table.add_column(name, justify="right", no_wrap=True)
    return table


def show_imports(console: Console, lines: Sequence[Import]) -> None:
    table = Table("import", "ms", "MB", title="imports", title_justify="left")
    for line in lines:
        table.add_row(line.module, f"{line.milliseconds:.1f}", f"{line.megabytes:.1f}")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
