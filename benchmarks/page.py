"""`docs/performance.md`, written from what a run has measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.claims import WORKERS, Rates
from benchmarks.drawing import draw
from benchmarks.imports import MEMORY_GOAL_MB, TIME_GOAL, Import
from benchmarks.measuring import Measured
from benchmarks.planning import Planned, is_late, limit_of
from benchmarks.results import Curves, Results
from benchmarks.upkeep import Upkeep

BACKEND_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
TUNED = "driver, tuned"
_PACKAGES = (
    "peewee",
    "psycopg2-binary",
    "asyncpg",
    "aiosqlite",
    "SQLAlchemy",
    "procrastinate",
    "psycopg",
    "pgqueuer",
    "huey",
)


def write_page(results: Results, path: Path) -> None:
    """Write the page, and the curves and the numbers beside it."""
    for backend in results.servers:
        panels = results.curves(backend)
        if panels:
            title = f"Time per call, {BACKEND_NAMES[backend]}"
            _curves_path(path, backend).write_text(draw(title, panels))
    path.write_text("\n".join(_lines(results, path)) + "\n")
    results.save(path.with_suffix(".json"))


def _curves_path(path: Path, backend: str) -> Path:
    return path.with_name(f"{path.stem}-{backend}.svg")


def _lines(results: Results, path: Path) -> Iterator[str]:
    yield _INTRODUCTION.format(size=results.size)
    yield from _machine(results)
    yield from _summary(results)
    for backend in results.servers:
        yield from _backend(results, backend, path)
    yield from _real(results)
    yield from _imports(results.imports)
    yield from _planning(results.planning)
    yield _COSTS
    yield from _upkeep(results.upkeep)


def _backend(results: Results, backend: str, path: Path) -> Iterator[str]:
    lines = results.of(backend)
    rates = results.claims_of(backend)
    if not lines and not rates:
        return
    yield f"\n## {BACKEND_NAMES[backend]}\n"
    yield from _operations(lines)
    yield from _claims(rates)
    if panels := results.curves(backend):
        name = _curves_path(path, backend).name
        yield f"\n![Time per call at growing sizes, {BACKEND_NAMES[backend]}]({name})\n"
        yield from _growth(panels)


# -- the machine ----------------------------------------------------------------------------------


def _machine(results: Results) -> Iterator[str]:
    packages = [(name, _version(name)) for name in _PACKAGES]
    versions = [f"Python {platform.python_version()}", *results.servers.values()]
    versions += [f"{name} {version}" for name, version in packages if version]
    yield f"| measured | {datetime.now(UTC):%d %B %Y} |"
    yield "|---|---|"
    yield f"| machine | {_processor()}, {os.cpu_count()} cores, {_memory_gb():.0f} GB |"
    yield f"| system | {platform.system()} {platform.machine()} |"
    yield f"| versions | {', '.join(versions)} |"


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


# -- in short -------------------------------------------------------------------------------------


def _summary(results: Results) -> Iterator[str]:
    aims = list(_aims(results))
    if not aims:
        return
    missed = [(place, said) for place, said, misses in aims if misses]
    yield f"\n**In short.** {len(aims) - len(missed)} of {len(aims)} goals are met."
    for name in dict.fromkeys(place for place, _ in missed):
        yield f"\nMissed {name}: {'; '.join(said for place, said in missed if place == name)}."
    yield from _against_tuned(results)


def _against_tuned(results: Results) -> Iterator[str]:
    """The same goals against the driver with all that ours does beneath."""
    found = []
    for line in _at_main_size(results):
        times = line.rates if isinstance(line, Rates) else line.seconds
        if line.goal is None or TUNED not in times:
            continue
        place = f"{BACKEND_NAMES[line.backend]}{', real tasks' if line.real else ''}"
        said = f"{line.title} on {place} ({line.ratio_to(TUNED):.2f}, not {line.goal:g})"
        found.append((said, line.misses_against(TUNED)))
    if found:
        missed = [said for said, misses in found if misses]
        yield (
            f"\nOf {len(found)} lines that have *{TUNED}*, {len(found) - len(missed)} would meet "
            f"their goals against it{'; not ' if missed else ''}{'; '.join(missed)}."
        )


def _aims(results: Results) -> Iterator[tuple[str, str, bool]]:
    """Each goal: where, what came of it, and whether it is missed."""
    for line in _at_main_size(results):
        if line.goal is not None:
            place = f"on {BACKEND_NAMES[line.backend]}{' with real tasks' if line.real else ''}"
            said = f"{line.title} ({line.ratio:.2f}, not {line.goal:g})"
            yield place, said, line.misses
    if results.imports:
        ratio, memory = _ratio(results.imports, "hopper_data.session"), _memory(results.imports)
        yield "by the import", f"time ({ratio:.2f}, not {TIME_GOAL:g})", ratio > TIME_GOAL
        said = f"memory ({memory:.1f} MB, not {MEMORY_GOAL_MB})"
        yield "by the import", said, memory > MEMORY_GOAL_MB


def _at_main_size(results: Results) -> Iterator[Measured | Rates]:
    for real in (False, True):
        for backend in results.servers:
            yield from results.of(backend, real=real)
            yield from results.claims_of(backend, real=real)


# -- tables ---------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield "|---" + "|--:" * (len(heads) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    unit, value = next(
        (unit, seconds * factor)
        for unit, factor in (("s", 1), ("ms", 1e3), ("µs", 1e6))
        if seconds * factor >= 1 or unit == "µs"
    )
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def _bold(text: str, missed: bool) -> str:
    return f"**{text}**" if missed else text


def _operations(lines: Sequence[Measured]) -> Iterator[str]:
    if not lines:
        return
    peers = list(dict.fromkeys(name for line in lines for name in line.seconds))[2:]
    heads = ["operation", "driver", "hopper_data", "ratio", "goal", *peers]

    def cells(line: Measured) -> Iterator[str]:
        yield line.title
        yield duration(line.seconds["driver"])
        yield duration(line.seconds["hopper_data"])
        yield _bold(f"{line.ratio:.2f}", line.misses)
        yield "" if line.goal is None else f"≤ {line.goal:g}"
        for name in peers:
            seconds = line.seconds.get(name)
            times = (seconds or 0) / line.seconds["driver"]
            yield f"{duration(seconds)} ({times:.1f})" if seconds else ""

    yield from _table(heads, [list(cells(line)) for line in lines])
    aims = [line for line in lines if line.goal is not None]
    met = [line for line in aims if not line.misses]
    ahead = [line for line in lines if _is_fastest(line)]
    yield ""
    yield (
        f"{len(met)} of {len(aims)} goals are met; what misses its goal is in bold. "
        f"Of the {len(lines)} operations, {len(ahead)} are faster than in every peer."
    )
    tuned = [f"{line.title} {line.ratio_to(TUNED):.2f}" for line in lines if TUNED in line.seconds]
    if tuned:
        yield f"\nHow many times the time of *{TUNED}* ours is: {', '.join(tuned)}."


def _real(results: Results) -> Iterator[str]:
    if results.kind is None:
        return
    yield _REAL.format(size=results.size, kind=results.kind)
    for backend in results.servers:
        if lines := results.of(backend, real=True):
            yield f"\n### {BACKEND_NAMES[backend]}, real tasks\n"
            yield from _operations(lines)
            yield from _claims(results.claims_of(backend, real=True))


def _is_fastest(line: Measured) -> bool:
    ours = line.seconds["hopper_data"]
    no_peers = ("driver", TUNED, "hopper_data")
    return all(ours < time for name, time in line.seconds.items() if name not in no_peers)


def _growth(panels: Curves) -> Iterator[str]:
    sizes = sorted({size for curves in panels.values() for size in curves["driver"]})

    def cell(curves: dict[str, dict[int, float]], size: int) -> str:
        ours, driver = (curves[name].get(size) for name in ("hopper_data", "driver"))
        return f"{duration(ours)} ({ours / driver:.2f})" if ours and driver else ""

    yield "hopper_data, with its ratio, by the number of tasks in the table:\n"
    yield from _table(
        ["operation", *(f"{size:,}" for size in sizes)],
        [[title, *(cell(curves, size) for size in sizes)] for title, curves in panels.items()],
    )


def _claims(lines: Sequence[Rates]) -> Iterator[str]:
    if not lines:
        return
    peers = list(dict.fromkeys(name for line in lines for name in line.rates))[2:]
    yield (
        f"\nTasks per second that {WORKERS} processes take from the table; here more is better:\n"
    )
    yield from _table(
        ["queue", "driver", "hopper_data", "ratio", "goal", *peers],
        [
            [
                line.title,
                f"{line.rates['driver']:,.0f}",
                f"{line.rates['hopper_data']:,.0f}",
                _bold(f"{line.ratio:.2f}", line.misses),
                "" if line.goal is None else f"≥ {line.goal:g}",
                *(f"{line.rates[name]:,.0f}" if name in line.rates else "" for name in peers),
            ]
            for line in lines
        ],
    )


def _imports(lines: Sequence[Import]) -> Iterator[str]:
    if not lines:
        return
    alone, peewee, used = (
        _import(lines, module) for module in ("sys", "peewee", "hopper_data.session")
    )
    ratio, memory = _ratio(lines, "hopper_data.session"), _memory(lines)
    yield "\n## Import\n"
    yield from _table(
        ["program", "time", "memory"],
        [
            [
                "the interpreter alone" if line is alone else f"`import {line.module}`",
                "" if line is alone else f"{line.milliseconds:.0f} ms",
                f"{line.megabytes:.1f} MB",
            ]
            for line in lines
        ],
    )
    yield (
        "\nThe package imports each of its names when it is first used. So the import alone takes "
        f"{_ratio(lines, 'hopper_data'):.2f} times as long as Peewee's, and "
        f"{_bold(f'{memory:.1f}', memory > MEMORY_GOAL_MB)} MB (goal: ≤ {MEMORY_GOAL_MB}). With "
        "what a session needs, Peewee and the driver of PostgreSQL that Peewee brings among it, "
        f"it takes {_bold(f'{ratio:.2f}', ratio > TIME_GOAL)} times as long (goal: ≤ "
        f"{TIME_GOAL:g}), and {used.megabytes:.1f} MB; {peewee.megabytes:.1f} of them are the "
        "interpreter and Peewee."
    )


def _import(lines: Sequence[Import], module: str) -> Import:
    return next(line for line in lines if line.module == module)


def _ratio(lines: Sequence[Import], module: str) -> float:
    """How many times Peewee's time an import takes."""
    return round(_import(lines, module).milliseconds / _import(lines, "peewee").milliseconds, 2)


def _memory(lines: Sequence[Import]) -> float:
    """The megabytes of our import alone."""
    return round(_import(lines, "hopper_data").megabytes, 1)


def _planning(found: Sequence[Planned]) -> Iterator[str]:
    if not found:
        return
    yield f"\n## Planning\n\nMilliseconds at {found[0].tasks:,} tasks, against the limits:\n"
    yield from _table(
        ["operation", "limit", *(BACKEND_NAMES[each.backend] for each in found)],
        [
            [
                name,
                f"{limit_of(name):,}",
                *(
                    _bold(f"{each.milliseconds[name]:.1f}", is_late(name, each.milliseconds[name]))
                    for each in found
                ),
            ]
            for name in found[0].milliseconds
        ],
    )


def _upkeep(found: Sequence[Upkeep]) -> Iterator[str]:
    if not found:
        return
    yield "What they add to a new task of {}, in microseconds:\n".format(
        " and ".join(f"{each.whole:.0f} ({BACKEND_NAMES[each.backend]})" for each in found)
    )
    names = {name: None for each in found for name in each.parts}

    def cost(name: str) -> float:
        return max(each.parts.get(name, 0) for each in found)

    def cells(name: str) -> Iterator[str]:
        yield name
        for each in found:
            yield f"{max(each.parts[name], 0):.1f}" if name in each.parts else ""

    yield from _table(
        ["", *(BACKEND_NAMES[each.backend] for each in found)],
        [
            *(list(cells(name)) for name in sorted(names, key=cost, reverse=True)),
            ["the row and its key alone", *(f"{each.bare:.1f}" for each in found)],
        ],
    )


# -- text -----------------------------------------------------------------------------------------

_INTRODUCTION = """# Performance

What the package costs over the bare drivers, and how it stands among its peers. This page is
written by the benchmark, and says what it has measured, good or bad:

```sh
make bench    # or: python -m benchmarks, with --full for curves up to 1,000,000 tasks
```

Every contender does the same work on the same tables of {size:,} made-up tasks, with all indexes
and triggers, and must give the same answers, or the run fails. *driver* is `sqlite3`, psycopg2,
aiosqlite or asyncpg alone, with the best SQL that we know for the job and a dataclass for each row,
times and JSON included, used as its documentation shows it. *driver, tuned* is the driver with all
that ours does beneath: psycopg2 with the statements about one row prepared on the server, `sqlite3`
with our pragmas (the log of the file is brought into it every 4,000 pages, not every 1,000; what is
kept aside is in memory), both without garbage collections among 10,000 rows, asyncpg without the
reset of each connection that comes back to its pool. And aiosqlite with one hop to its thread for
each get, not three: 50 gets at once are then one batch on one connection, which sessions that have
a transaction each cannot be. *peewee* and *sqlalchemy* (its ORM) have models of their own, and
asynchronous sides of their own. Ours also checks every value, as it always does.

They take turns, another one first in each round, after a warm-up and a garbage collection; a time
is the median of the rounds, for one call. *ratio* is ours over the driver's. What else the machine
does at that moment slows all of a line alike; times of two lines, or of two sizes, were taken at
different moments. Reads run in a session that is open already, except where the line says
otherwise; the drivers, Peewee and SQLAlchemy read without a transaction. Only in the line of
snapshots all have one on PostgreSQL, where a snapshot is nothing else: what it costs against a
plain get is the difference to the line above it. Writes are a transaction each for everybody.
SQLite is a file in WAL mode; PostgreSQL runs with `fsync` off, so that the disk is not what is
measured.

At other sizes of the table a slope means the same in all curves. Tags, searches, statistics and
analytics are about a share of the tasks, which is ten times as many in a table of ten times the
size. A table of 10,000 has its page at 5,000.
"""

_REAL = """
## Real tasks

The same, by `python -m benchmarks --tasks FILE`, on tables of {size:,} tasks that repeat the
{kind.tasks:,} of a file under new ids, with their texts, tags, priorities, states, projects and
dependencies. Half of their descriptions have more than {kind.usual:,} characters, the longest has
{kind.longest:,}."""

_COSTS = """
## What it costs

**What is kept.** The SQL of a question is written once for each shape (method, fields and lookups
of the filters, order, bounds) by Peewee itself, and kept with the repository's class: some
kilobytes for a shape. After that only values travel. Models are built by code that is made once for
each model, from its fields. On PostgreSQL a connection has the statements about one row prepared,
at most 200 of them, the second time that it runs them.

**A session** takes a connection of the pool and gives it back. A connection that has just answered
is not asked whether it is alive. On PostgreSQL the transaction begins together with the first
statement that writes; on SQLite one that may write keeps other writers waiting, `read_only=True`
does not. What is not a read of a repository has SQLite refuse writes there, and prepare all its
statements anew. The line "each in a session of its own" is what that adds to a read: several reads
belong in one session.

**A write** on PostgreSQL stands behind a savepoint, so that a refused statement does not spoil the
rest of the transaction, as on SQLite; all but the first, after which the transaction begins again.
It travels with the statement: no round trip more. Many new rows are a COPY there.

**Claims** are of the most urgent tasks of the table; those of peers are all of a table of their
own. Ours give a lease with a token, keep the order of the queue, look at dependencies, fail what
has had all its attempts, and leave an event behind. The driver's SQL does the same but for tasks
whose lease has expired, and each call is a transaction by itself; ours is a session with a claim in
it. On PostgreSQL ours are functions of the database, which it plans once for each connection; the
driver sends its SQL as text. huey forgets a task when it hands it out.

**Writers of a SQLite file** take turns. One that finds another at work leaves it some milliseconds,
for several transactions with the pages that it has at hand; who has waited for a while is next.
SQLite's own way to wait, which the driver uses here, hands out more, and lets some wait for a
second. And ours bring the log into the file every 4,000 pages, not every 1,000; the driver, which
does as SQLite does by itself, would gain as much by that.

**Indexes** are what a new task costs most, with whatever library it is written. Each serves a list,
a count or a claim of the repositories; [schema.md](schema.md) has their columns. GIN indexes of
PostgreSQL keep what was just written on a list, which each lookup reads: those of ours are as short
as can be, and that of the dependencies, which each completion asks, has none.
"""
