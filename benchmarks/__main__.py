"""Measures speed against the bare drivers and against peers: `python -m benchmarks`."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from benchmarks.data import fill
from benchmarks.databases import BACKENDS, databases
from benchmarks.measuring import Measured, measure
from benchmarks.operations import OPERATIONS


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--tasks", type=int, help="how many (100,000; with --quick 10,000)")
    parser.add_argument("--quick", action="store_true", help="within a minute")
    parser.add_argument("--only", help="operations, separated by commas", metavar="KEY,…")
    parser.add_argument("--backend", choices=BACKENDS, help="one alone")
    options = parser.parse_args()
    keys = [operation.key for operation in OPERATIONS]
    options.only = options.only.split(",") if options.only else keys
    unknown = set(options.only) - set(keys)
    if unknown:
        parser.error(
            f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(keys)}"
        )
    return options


def show(console: Console, title: str, measured: list[Measured]) -> None:
    """Print what was measured, in microseconds, and ours over the driver's."""
    table = Table(title=f"{title} (µs)", title_justify="left")
    table.add_column("operation", no_wrap=True)
    names = list(measured[0].seconds)
    for name in (*names, "ratio", "goal"):
        table.add_column(name, justify="right")
    for line in measured:
        late = line.goal is not None and line.ratio > line.goal
        table.add_row(
            line.title,
            *(f"{line.seconds[name] * 1e6:,.0f}" for name in names),
            f"[{'red' if late else 'green'}]{line.ratio:.2f}[/]",
            "" if line.goal is None else f"≤ {line.goal}",
        )
    console.print(table)


def main() -> int:
    options = parse()
    size = options.tasks or (10_000 if options.quick else 100_000)
    chosen = [operation for operation in OPERATIONS if operation.key in options.only]
    console = Console()
    console.width = max(console.width, 120)
    backends = [options.backend] if options.backend else list(BACKENDS)
    with databases(backends) as make:
        for backend in backends:
            with console.status(f"{backend}: {size:,} tasks") as status:
                world = fill(make(backend, f"tasks_{size}"), size)
                found = []
                for operation, line in measure(world, chosen, 0.5 if options.quick else 2):
                    status.update(f"{backend}: {operation.title}")
                    found.append(line)
            show(console, f"{backend}, {size:,} tasks", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
