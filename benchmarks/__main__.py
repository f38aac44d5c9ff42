"""Measures speed against the bare drivers and against peers, and writes docs/performance.md."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import gets, planning, upkeep
from benchmarks.claims import CLAIMINGS, Rates, measure_claims, measure_peers
from benchmarks.data import World, fill
from benchmarks.databases import BACKENDS, MakeDatabase, databases, server_version
from benchmarks.imports import Import, measure_imports
from benchmarks.measuring import Measured, measure
from benchmarks.operations import OPERATIONS
from benchmarks.page import duration, write_page
from benchmarks.results import Results
from benchmarks.sources import FromFile, MadeUp, Source
from benchmarks.timing import GROWTH, QUICK, USUAL, Effort

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
ON_TASKS = (*(operation.key for operation in OPERATIONS), *gets.TITLES, "claim")
KEYS = (*ON_TASKS, upkeep.KEY, "planning", "import")
Say = Callable[[str], None]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=f"Operations: {', '.join(KEYS)}.",
    )
    parser.add_argument("--quick", action="store_true", help="a look, within a minute; no page")
    parser.add_argument(
        "--full", action="store_true", help="curves up to 1,000,000 tasks, and of writes"
    )
    parser.add_argument("--size", type=int, help="how many tasks (100,000; with --quick 10,000)")
    parser.add_argument(
        "--tasks", metavar="FILE", type=Path, help="real ones, as `hopper-data import` takes them"
    )
    parser.add_argument("--only", metavar="KEY,…", help="these operations alone; no page")
    parser.add_argument("--backend", choices=BACKENDS, help="one alone; no page")
    parser.add_argument(
        "--page", type=Path, help="write it here; a part of a run keeps what it has not measured"
    )
    options = parser.parse_args(arguments)
    options.keys = set(options.only.split(",")) if options.only else _usual_keys(options)
    if unknown := options.keys - set(KEYS):
        parser.error(f"no operation {', '.join(sorted(unknown))}; there are {', '.join(KEYS)}")
    if options.tasks and (others := options.keys - set(ON_TASKS)):
        parser.error(f"--tasks says nothing of {', '.join(sorted(others))}")
    if options.tasks and not options.tasks.is_file():
        parser.error(f"there is no file {options.tasks}")
    if options.size is not None and options.size < 1:
        parser.error(f"--size is {options.size}; it must be 1 or more")
    if options.full and (options.quick or options.tasks):
        parser.error("--full goes neither with --quick nor with --tasks")
    if options.page is None and not (options.quick or options.only or options.backend):
        options.page = PAGE
    options.is_part = bool(options.only or options.backend or options.tasks)
    options.size = options.size or (10_000 if options.quick else 100_000)
    return options


def _usual_keys(options: argparse.Namespace) -> set[str]:
    if options.tasks:
        return set(ON_TASKS)
    return set(KEYS) - {"planning", upkeep.KEY} if options.quick else set(KEYS)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    console.width = max(console.width, 150)
    results = Results(options.size)
    source = FromFile(options.tasks) if options.tasks else MadeUp()
    if isinstance(source, FromFile):
        results.kind = source.kind
    backends = [options.backend] if options.backend else list(BACKENDS)
    kept = _kept(options)
    with databases(backends) as make, console.status("") as status:

        def say(text: str) -> None:
            status.update(text)
            if not console.is_terminal:
                print(text, file=sys.stderr, flush=True)

        run = Run(options, make, source, results, say)
        for backend in backends:
            run.on_backend(backend)
            show(console, results, backend)
        if "import" in options.keys:
            say("imports")
            results.imports = measure_imports(2 if options.quick else 15)
            show_imports(console, results.imports)
    if options.page:
        if kept is not None:
            results = kept.updated(results)
        write_page(results, options.page)
    return 0


def _kept(options: argparse.Namespace) -> Results | None:
    """What the page has already, which a part of a run keeps; read before anything is measured."""
    if not (options.page and options.is_part):
        return None
    path = options.page.with_suffix(".json")
    return Results.load(path) if path.exists() else None


@dataclass
class Run:
    """What is measured, where, and what came of it."""

    options: argparse.Namespace
    make: MakeDatabase
    source: Source
    results: Results
    say: Say

    def on_backend(self, backend: str) -> None:
        keys = self.options.keys
        self.results.servers[backend] = server_version(self.make, backend)
        for size in sizes(self.options):
            self.on_tables(backend, size)
        if "planning" in keys:
            self.say(f"{backend}: planning")
            database = self.make(backend, "planning", migrated=False)
            bench, planned = planning.measure_planning(database, planning.LIMITS_HOLD_TO)
            self.results.planning.append(planned)
            planning.show(Console(width=120), bench)

    def on_tables(self, backend: str, size: int) -> None:
        """Everything at the main size; at others what they may make slower."""
        quick, keys = self.options.quick, self.options.keys
        effort = QUICK if quick else USUAL
        if size != self.options.size:
            effort, keys = GROWTH, keys & growing(self.options)
        if not keys & {*ON_TASKS, upkeep.KEY}:
            return
        self.say(f"{backend}: {size:,} tasks are made")
        bulk = 1_000 if quick else 10_000
        world = fill(self.make(backend, f"tasks_{size}"), size, self.source, bulk)
        for operation in OPERATIONS:
            if operation.key in keys:
                self.say(f"{backend}: {size:,} tasks, {operation.title_for(world)}")
                self.results.measured.append(measure(world, operation, effort))
        for key, title in gets.TITLES.items():
            if key in keys:
                self.say(f"{backend}: {size:,} tasks, {title}")
                rounds = 25 if effort is USUAL else 5
                self.results.measured.append(gets.measure_gets(world, key, rounds))
        if "claim" in keys:
            self.say(f"{backend}: {size:,} tasks, claims")
            self.results.claims += self._claims(world, effort)
        if upkeep.KEY in keys:
            self.say(f"{backend}: {upkeep.TITLE}")
            self.results.upkeep.append(upkeep.measure_upkeep(world))

    def _claims(self, world: World, effort: Effort) -> list[Rates]:
        """Claims; at the main size also what their peers do, and the whole way of a task."""
        counts, rounds = ((200, 1_000), 1) if self.options.quick else ((2_000, 10_000), 3)
        lines = CLAIMINGS[: {USUAL: 4, QUICK: 3, GROWTH: 2}[effort]]
        rates = list(measure_claims(world, counts, rounds, lines))
        if effort is not GROWTH and not world.source.is_real:
            others = measure_peers(self.make, str(world.database.dialect), counts, rounds)
            for line in rates:
                line.rates.update(others.get(line.title, {}))
        return rates


def growing(options: argparse.Namespace) -> set[str]:
    """What is measured at several sizes; what takes its time in full runs alone."""
    if options.full:
        return set(ON_TASKS)
    return {each.key for each in OPERATIONS if each.reads}


def sizes(options: argparse.Namespace) -> list[int]:
    """The sizes of the table, in the order in which they are measured."""
    one = options.quick or options.only or options.tasks
    return [
        *([] if one else [options.size // 10]),
        options.size,
        *([1_000_000] if options.full else []),
    ]


def show(console: Console, results: Results, backend: str) -> None:
    """Print what was measured on a backend."""
    for size in sorted({line.size for line in results.measured}):
        here = (backend, size)
        lines = [line for line in results.measured if (line.backend, line.size) == here]
        if lines:
            _show_times(console, f"{backend}, {size:,} tasks", lines)
    for size in sorted({line.size for line in results.claims}):
        here = (backend, size)
        rates = [line for line in results.claims if (line.backend, line.size) == here]
        if rates:
            _show_rates(console, f"{backend}, {size:,} tasks, taken per second", rates)


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
    # The server goes with its folder, also when the run is told to end.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.exit(main())
