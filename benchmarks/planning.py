"""How long planning takes, against the limits that it must keep.

Each operation has a median and a slowest run, in milliseconds. The limits are those for 10,000
tasks; with more, a filter that finds more rows may take longer.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from hopper_data import init_database
from hopper_data.database import Database
from hopper_data.planning import (
    AgentType,
    EpicRepository,
    FeatureRepository,
    TaskHistoryRepository,
    TaskRepository,
)
from hopper_data.session import open_session

FEATURES_PER_EPIC = 50
TASKS_PER_FEATURE = 20
LIMITS_MS = {
    "initialise": 500,
    "one insert": 50,
    "one status change": 50,
    "get by key": 10,
    "filter": 100,
    "next task": 100,
    "100 tasks in bulk": 2000,
    "100 status changes in bulk": 2000,
    "delete an epic of 50 features, 1,000 tasks": 500,
    "an epic's progress": 200,
}
LIMITS_HOLD_TO = 10_000
Measured = dict[str, list[float]]


class Bench:
    """One database, filled, and the operations on it."""

    def __init__(self, database: Database, tasks: int) -> None:
        self.database = database
        self.tasks = tasks
        self.chance = random.Random(7)
        self.measured: Measured = {}
        self.rows: dict[str, int] = {}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.measured.setdefault(name, []).append((time.perf_counter() - start) * 1000)

    def repeat(self, name: str, work: Callable[[Any], Any], runs: int) -> None:
        """Time `work(session)` in sessions of its own, the first run left out."""
        for run in range(runs + 1):
            with open_session(self.database) as session:
                if run == 0:
                    work(session)
                    continue
                with self.timed(name):
                    found = work(session)
                if isinstance(found, list):
                    self.rows[name] = len(found)

    def initialise(self) -> None:
        with self.timed("initialise"):
            init_database(self.database)

    def fill(self) -> None:
        """Epics of 50 features of 20 tasks each, of every status and agent type."""
        statuses = ["todo"] * 40 + ["completed"] * 35 + ["in_progress"] * 10
        statuses += ["ready_for_review"] * 5 + ["blocked"] * 5 + ["archived"] * 5
        agents = [*AgentType, None]
        per_epic = FEATURES_PER_EPIC * TASKS_PER_FEATURE
        for number in range(1, max(1, self.tasks // per_epic) + 1):
            with open_session(self.database) as session:
                epic = EpicRepository(session).create(key=_epic_key(number), title="An epic")
                features = FeatureRepository(session).bulk_create(
                    {"epic_id": epic.id, "key": f"{epic.key}-F{part:02}", "title": "A feature"}
                    for part in range(1, FEATURES_PER_EPIC + 1)
                )
                TaskRepository(session).bulk_create(
                    {
                        "feature_id": feature.id,
                        "key": f"T-{feature.key}-{task:03}",
                        "title": "Write the part of the plan that is missing",
                        "description": "What is to be done, and how we will know. " * 10,
                        "status": self.chance.choice(statuses),
                        "agent_type": self.chance.choice(agents),
                        "priority": self.chance.randint(1, 10),
                        "depends_on": [f"T-{feature.key}-{task - 1:03}"] if task % 4 == 0 else [],
                    }
                    for feature in features
                    for task in range(1, TASKS_PER_FEATURE + 1)
                )
        if self.database.dialect == "postgresql":
            with open_session(self.database) as session:
                session.execute("ANALYZE")

    def run(self) -> None:
        """Every operation that has a limit, and some that have none."""
        key = "T-E02-F07-011"
        numbers = iter(range(100, 999))
        with open_session(self.database) as session:
            feature = FeatureRepository(session).get_by_key("E01-F01")
            epic = EpicRepository(session).get_by_key("E01")
        assert feature is not None
        assert epic is not None

        def row() -> dict[str, Any]:
            task = f"T-E01-F01-{next(numbers)}"
            return {"feature_id": feature.id, "key": task, "title": "x"}

        self.repeat("one insert", lambda s: TaskRepository(s).create(**row()), 20)
        self.repeat("one status change", self._step, 20)
        self.repeat("get by key", lambda s: TaskRepository(s).get_by_key(key), 50)
        for name, conditions in {
            "filter: status and epic": {"status": "todo", "epic_key": "E02"},
            "filter: agent type": {"agent_type": "backend"},
            "filter: status": {"status": "completed"},
            "filter: priority 1 to 3": {"min_priority": 1, "max_priority": 3},
            "filter: feature": {"feature_key": "E02-F07"},
            "filter: all six": {
                "status": "todo",
                "epic_key": "E02",
                "feature_key": "E02-F07",
                "agent_type": "backend",
                "min_priority": 1,
                "max_priority": 9,
            },
            "filter: the best 50 todos": {"status": "todo", "limit": 50},
            "filter: the best 50 for backend": {"agent_type": "backend", "limit": 50},
        }.items():
            self.repeat(name, lambda s, c=conditions: TaskRepository(s).filter_combined(**c), 7)
        self.repeat("list all tasks", lambda s: TaskRepository(s).list_all(), 3)
        self.repeat("list all epics", lambda s: EpicRepository(s).list_all(), 5)
        self.repeat("recent history", lambda s: TaskHistoryRepository(s).list_recent(), 10)
        self.repeat("next task", lambda s: TaskRepository(s).next_task("backend"), 10)
        self.repeat("next task of an epic", lambda s: TaskRepository(s).next_task(None, "E02"), 10)
        self.repeat(
            "an epic's progress", lambda s: EpicRepository(s).calculate_progress(epic.id), 20
        )
        self._bulk()
        self._delete()

    def _step(self, session: Any) -> None:
        tasks = TaskRepository(session)
        task = tasks.filter_combined(status="todo", epic_key="E03", limit=1)[0]
        tasks.update_status(task.id, "in_progress", agent="ada")

    def _bulk(self) -> None:
        for part in range(4):
            with open_session(self.database) as session:
                epic = EpicRepository(session).get_by_key("E01")
                assert epic is not None
                feature = FeatureRepository(session).create(
                    epic_id=epic.id, key=f"E01-F{90 + part}", title="x"
                )
            rows = [
                {"feature_id": feature.id, "key": f"T-{feature.key}-{task:03}", "title": "x"}
                for task in range(100)
            ]
            with self.timed("100 tasks in bulk"), open_session(self.database) as session:
                tasks = TaskRepository(session).bulk_create(rows)
            with self.timed("100 status changes in bulk"), open_session(self.database) as session:
                TaskRepository(session).bulk_update(
                    {"id": task.id, "status": "in_progress"} for task in tasks
                )

    def _delete(self) -> None:
        last = max(1, self.tasks // (FEATURES_PER_EPIC * TASKS_PER_FEATURE))
        for number in range(last, max(3, last - 3), -1):
            with open_session(self.database) as session:
                epics = EpicRepository(session)
                epic = epics.get_by_key(_epic_key(number))
                assert epic is not None
            with (
                self.timed("delete an epic of 50 features, 1,000 tasks"),
                open_session(self.database) as session,
            ):
                EpicRepository(session).delete(epic.id)


def _epic_key(number: int) -> str:
    # A hundred epics at the most.
    return f"E{number % 100:02}"


def limit_of(name: str) -> int | None:
    """The limit of an operation; a variant, named after a colon, has that of its kind."""
    return LIMITS_MS.get(name, LIMITS_MS.get(name.partition(":")[0]))


def is_late(name: str, milliseconds: float) -> bool:
    """Whether an operation has exceeded its limit."""
    limit = limit_of(name)
    return limit is not None and milliseconds > limit


def show(console: Console, bench: Bench) -> None:
    """Print what was measured."""
    title = f"planning: {bench.database.dialect}, {bench.tasks:,} tasks (ms)"
    table = Table("operation", "rows", "limit", "median", "slowest", "within", title=title)
    for name, times in bench.measured.items():
        limit, median = limit_of(name), statistics.median(times)
        table.add_row(
            name,
            f"{bench.rows[name]:,}" if name in bench.rows else "",
            f"{limit:,}" if limit else "",
            f"{median:,.2f}",
            f"{max(times):,.2f}",
            f"{limit / median:,.1f}" if limit else "",
            style="red" if is_late(name, median) else "",
        )
    console.print(table)


@dataclass(frozen=True)
class Planned:
    """The median milliseconds of the operations that have a limit."""

    backend: str
    tasks: int
    milliseconds: dict[str, float]


def measure_planning(database: Database, tasks: int) -> tuple[Bench, Planned]:
    """Every operation of planning, on an empty database."""
    bench = Bench(database, tasks)
    bench.initialise()
    bench.fill()
    bench.run()
    medians = {
        name: statistics.median(times) for name, times in bench.measured.items() if limit_of(name)
    }
    return bench, Planned(str(database.dialect), tasks, medians)
