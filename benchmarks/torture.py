"""Many workers on one queue while they are killed: `python -m benchmarks.torture [--quick]`.

Processes claim and complete tasks. Meanwhile some are killed at random and others take their
place, and a PostgreSQL server is stopped and started again. Each worker writes down what it begins
before it begins it, in a file of its own that a kill leaves whole. At the end:

- every task is completed, once;
- no task was under two live tokens at once: `task_events` has the end of each claim, or the lapse
  of its lease, before the next one;
- whoever began a task again did so because the worker before had been killed.
"""

from __future__ import annotations

import argparse
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from hopper_data import (
    DatabaseUnavailable,
    TaskRepository,
    Worker,
    connect,
    create_database,
    run_migrations,
)
from hopper_data.database import Database
from hopper_data.session import open_session

CHUNK = 1_000


@dataclass
class Plan:
    """What happens: how many tasks and workers, and how often something dies."""

    tasks: int
    workers: int
    lease_s: float = 10.0
    kill_every_s: float = 0.5
    restarts: int = 0
    patience_s: float = 600.0
    seed: int = 20_261


@dataclass
class Outcome:
    """What came of it; `violations` is empty when all is well."""

    seconds: float
    completed: int
    kills: int
    restarts: int
    begun: int
    begun_again: int
    violations: list[str] = field(default_factory=list)


# -- a worker, in a process of its own ------------------------------------------------------------


def work(url: str, journal: Path, name: str, lease_s: float) -> None:
    """Handle tasks until SIGTERM, and write down which are begun."""
    logging.getLogger("hopper_data").setLevel(logging.ERROR)
    connect(url)
    chance = random.Random(name)
    with journal.open("ab", buffering=0) as file:

        def handle(task: object) -> None:
            # One write to the system: it is there although the process is killed in this moment.
            file.write(f"{task.id}\n".encode())  # type: ignore[attr-defined]
            time.sleep(chance.uniform(0, 0.004))

        worker = Worker(name, concurrency=4, lease=lease_s, grace=lease_s)
        while True:
            try:
                worker.run(handle)
            except DatabaseUnavailable:  # it was started while the server was not there
                time.sleep(0.2)
            else:
                return


class Workers:
    """The processes, of which each has a name that is never used again."""

    def __init__(self, url: str, folder: Path, plan: Plan) -> None:
        self.url = url
        self.folder = folder
        self.plan = plan
        self.killed: set[str] = set()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._numbers = iter(range(1_000_000))

    def start(self) -> None:
        name = f"worker-{next(self._numbers)}"
        arguments = [self.url, str(self.folder / name), name, str(self.plan.lease_s)]
        self._running[name] = subprocess.Popen([sys.executable, __file__, "--work", *arguments])

    def kill_one(self, chance: random.Random) -> None:
        name = chance.choice(sorted(self._running))
        process = self._running.pop(name)
        if process.poll() is None:
            process.kill()
            self.killed.add(name)
        process.wait()

    def failures(self) -> list[str]:
        """Those that ended by themselves, which none should."""
        return [f"{name} ended by itself" for name, p in self._running.items() if p.poll()]

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def journals(self) -> dict[str, list[str]]:
        """Who began each task."""
        begun: dict[str, list[str]] = defaultdict(list)
        for file in self.folder.iterdir():
            for task_id in file.read_text().split():
                begun[task_id].append(file.name)
        return begun


# -- the torture ----------------------------------------------------------------------------------


def torture(database: Database, plan: Plan, restart: Callable[[], None] | None = None) -> Outcome:
    """Fill an empty, migrated database with tasks, and have them done."""
    ids = [f"task-{number:06}" for number in range(plan.tasks)]
    with open_session(database) as session:
        tasks = TaskRepository(session)
        for start in range(0, len(ids), CHUNK):
            tasks.bulk_create(
                {"id": each, "title": each, "max_attempts": 1_000}
                for each in ids[start : start + CHUNK]
            )
    chance = random.Random(plan.seed)
    with tempfile.TemporaryDirectory(prefix="hopper-torture-") as folder:
        workers = Workers(_url(database), Path(folder), plan)
        for _ in range(plan.workers):
            workers.start()
        began = time.monotonic()
        try:
            restarts = _disturb(database, workers, plan, chance, restart)
            failures = workers.failures()
        finally:
            workers.stop()
        seconds = time.monotonic() - began
        return _judge(
            database,
            workers,
            plan,
            Outcome(
                seconds=seconds,
                completed=_completed(database),
                kills=len(workers.killed),
                restarts=restarts,
                begun=0,
                begun_again=0,
                violations=failures,
            ),
        )


def _url(database: Database) -> str:
    return database.url.render(hide_password=False)


def _completed(database: Database) -> int:
    with open_session(database, read_only=True) as session:
        return TaskRepository(session).count({"status": "completed"})


def _disturb(
    database: Database,
    workers: Workers,
    plan: Plan,
    chance: random.Random,
    restart: Callable[[], None] | None,
) -> int:
    """Kill and restart until all is done; how often the server was restarted."""
    deadline = time.monotonic() + plan.patience_s
    restarts = 0
    while (completed := _completed(database)) < plan.tasks and not workers.failures():
        if time.monotonic() > deadline:
            break
        time.sleep(chance.uniform(0.5, 1.5) * plan.kill_every_s)
        if restart and restarts < plan.restarts and completed > restarts * plan.tasks / 5:
            restart()
            restarts += 1
        if completed < plan.tasks * 0.95:
            workers.kill_one(chance)
            workers.start()
    return restarts


def _judge(database: Database, workers: Workers, plan: Plan, outcome: Outcome) -> Outcome:
    wrong = outcome.violations
    with open_session(database, read_only=True) as session:
        for task in TaskRepository(session).filter({"status__ne": "completed"}):
            wrong.append(f"{task.id} is {task.status}: {task.last_error}")
    wrong += _double_claims(database, timedelta(seconds=plan.lease_s))
    begun = workers.journals()
    outcome.begun = sum(map(len, begun.values()))
    outcome.begun_again = outcome.begun - len(begun)
    for task_id, names in sorted(begun.items()):
        survivors = Counter(name for name in names if name not in workers.killed)
        # The last one to begin it lives; the others must have died.
        if sum(survivors.values()) > 1:
            wrong.append(f"{task_id} was begun by {names}, and more than one of them lived on")
    if len(begun) != plan.tasks:
        wrong.append(f"{len(begun)} tasks were begun, of {plan.tasks}")
    return outcome


def _double_claims(database: Database, lease: timedelta) -> list[str]:
    """Claims of a task that was held by a live token at that moment, and second completions."""
    wrong = []
    held: dict[str, object] = {}
    completed: set[str] = set()
    with open_session(database, read_only=True) as session:
        events = TaskRepository(session).get_recent_events(after_id=0, limit=10_000_000)
    for event in events:
        if event.to_status == "claimed":
            before = held.get(event.task_id)
            if before is not None and event.at < before + lease:  # type: ignore[operator]
                wrong.append(f"{event.task_id} was claimed at {event.at}, and before at {before}")
            held[event.task_id] = event.at
        else:
            held.pop(event.task_id, None)
        if event.to_status == "completed":
            if event.task_id in completed:
                wrong.append(f"{event.task_id} was completed twice")
            completed.add(event.task_id)
    return wrong


# -- the program ----------------------------------------------------------------------------------


@contextmanager
def places(backend: str) -> Iterator[tuple[Database, Callable[[], None] | None]]:
    """An empty, migrated database, and what restarts its server."""
    if backend == "sqlite":
        with tempfile.TemporaryDirectory(prefix="hopper-torture-") as folder:
            database = create_database(f"sqlite:///{folder}/queue.db")
            run_migrations(database=database)
            yield database, None
            database.close_pool()
        return
    from tests.servers import own_server

    with own_server() as server:
        database = create_database(server.url)
        run_migrations(database=database)
        modes = iter(["fast", "immediate"] * 1_000)
        yield database, lambda: server.restart(next(modes))
        database.close_pool()


PLANS = {
    "postgresql": Plan(tasks=20_000, workers=16, restarts=4),
    "sqlite": Plan(tasks=5_000, workers=4),
}
QUICK_PLANS = {
    "postgresql": Plan(tasks=2_000, workers=8, restarts=2, lease_s=5),
    "sqlite": Plan(tasks=500, workers=4, lease_s=5),
}


def main() -> int:
    if sys.argv[1:2] == ["--work"]:
        url, journal, name, lease_s = sys.argv[2:]
        work(url, Path(journal), name, float(lease_s))
        return 0
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="fewer tasks and workers")
    parser.add_argument("--backend", choices=list(PLANS), action="append")
    options = parser.parse_args()
    logging.getLogger("hopper_data").setLevel(logging.ERROR)  # slow queries are no news here
    plans = QUICK_PLANS if options.quick else PLANS
    outcomes = {}
    for backend in options.backend or list(PLANS):
        with places(backend) as (database, restart):
            outcomes[backend] = torture(database, plans[backend], restart)
    return report(outcomes, plans)


def report(outcomes: dict[str, Outcome], plans: dict[str, Plan]) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Workers that die")
    rows = ("tasks", "workers", "completed", "kills", "restarts", "begun again", "tasks/s", "wrong")
    table.add_column("")
    for backend in outcomes:
        table.add_column(backend, justify="right")
    cells = {
        backend: (
            plans[backend].tasks,
            plans[backend].workers,
            outcome.completed,
            outcome.kills,
            outcome.restarts,
            outcome.begun_again,
            round(outcome.completed / outcome.seconds),
            len(outcome.violations),
        )
        for backend, outcome in outcomes.items()
    }
    for number, name in enumerate(rows):
        table.add_row(name, *(f"{cells[backend][number]:,}" for backend in outcomes))
    console = Console()
    console.print(table)
    wrong = [text for outcome in outcomes.values() for text in outcome.violations]
    for text in wrong[:50]:
        console.print(text, style="red")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
