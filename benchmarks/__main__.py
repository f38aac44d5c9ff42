"""Measures speed against the bare drivers and against peers, and writes docs/performance.md."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import gets, planning, upkeep
from benchmarks.claims import Rates, measure_claims
from benchmarks.data import fill
from benchmarks.databases import BACKENDS, MakeDatabase, databases, server_version
from benchmarks.imports import Import, measure_imports
from benchmarks.measuring import Measured, measure
from benchmarks.operations import OPERATIONS
from benchmarks.page import duration, write_page
from benchmarks.results import Results

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
KEYS = (
    *(operation.key for operation in OPERATIONS),
    gets.KEY,
    upkeep.KEY,
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
    parser.add_argument(
        "--page", type=Path, help="write it here; a part of a run keeps what it has not measured"
    )
    options = parser.parse_args(arguments)
    usual = set(KEYS) - {"planning", upkeep.KEY} if options.quick else set(KEYS)
    options.keys = set(options.only.split(",")) if options.only else usual
    if unknown := options.keys - set(KEYS):
        parser.error(f"no operation {', '.join(sorted(unknown))}; there are {', '.join(KEYS)}")
    options.is_part = bool(options.only or options.backend)
    if options.page is None and not options.quick and not options.is_part:
        options.page = PAGE
    options.tasks = options.tasks or (10_000 if options.quick else 100_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    console.width = max(console.width, 120)
    results = Results(options.tasks)
    backends = [options.backend] if options.backend else list(BACKENDS)
    with databases(backends) as make, console.status("") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                print(text, file=sys.stderr, flush=True)

        for backend in backends:
            results.servers[backend] = server_version(make, backend)
            run_backend(options, make, backend, results, say)
            show(console, results, backend)
        if "import" in options.keys:
            say("imports")
            results.imports = measure_imports(3 if options.quick else 15)
            show_imports(console, results.imports)
    if options.page:
        kept = options.page.with_suffix(".json")
        if options.is_part and kept.exists():
            results = Results.load(kept).updated(results)
        write_page(results, options.page)
    return 0


def run_backend(
    options: argparse.Namespace, make: MakeDatabase, backend: str, results: Results, say: Say
) -> None:
    """Measure on one backend."""
    chosen = [operation for operation in OPERATIONS if operation.key in options.keys]
    growing = [operation for operation in chosen if operation.grows and operation.reads]
    budget_s = 0.1 if options.quick else 1.5
    for size in sizes(options):
        is_main = size == options.tasks
        wanted = chosen if is_main else growing
        also = options.keys & {gets.KEY, upkeep.KEY} if is_main else set()
        if not wanted and not also:
            continue
        say(f"{backend}: {size:,} tasks are made")
        world = fill(make(backend, f"tasks_{size}"), size)
        for operation in wanted:
            say(f"{backend}: {size:,} tasks, {operation.title_for(world)}")
            results.measured.append(measure(world, operation, budget_s))
        if gets.KEY in also:
            say(f"{backend}: {gets.TITLE}")
            results.measured.append(gets.measure_gets(world, 5 if options.quick else 25))
        if upkeep.KEY in also:
            say(f"{backend}: {upkeep.TITLE}")
            results.upkeep.append(upkeep.measure_upkeep(world))
    if "claim" in options.keys:
        say(f"{backend}: claims")
        counts = (200, 1_000) if options.quick else (2_000, 10_000)
        results.claims += measure_claims(make, backend, counts, 1 if options.quick else 3)
    if "planning" in options.keys:
        say(f"{backend}: planning")
        database = make(backend, "planning", migrated=False)
        bench, planned = planning.measure_planning(database, planning.LIMITS_HOLD_TO)
        results.planning.append(planned)
        planning.show(Console(width=120), bench)


def sizes(options: argparse.Namespace) -> list[int]:
    """The sizes of the table, in the order in which they are measured."""
    growing = [] if options.quick or options.only else [options.tasks // 10]
    return [*growing, options.tasks, *([1_000_000] if options.full else [])]


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
