"""Many workers on one queue while they are killed: `python -m benchmarks.torture [--quick]`.

Processes claim and complete tasks. Meanwhile some are killed at random and others take their
place, some are frozen for longer than their leases, and a PostgreSQL server is stopped and started
again. Each worker writes down what it begins and ends, and under which token, in a file of its own
that a kill leaves whole. At the end:

- every task is completed, once, and nothing happens to it afterwards;
- no task was under two live tokens at once: in `task_events` each claim ends under its own token,
  or its lease lapses, before the next one begins;
- a task is completed after the holder of its token has noted that the work is done;
- whoever began a task for nothing was killed, or frozen.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from pathlib import Path
from typing import NamedTuple

from hopper_data import (
    DatabaseUnavailable,
    Task,
    TaskEvent,
    TaskRepository,
    Worker,
    connect,
    create_database,
    run_migrations,
)
from hopper_data.database import Database
from hopper_data.session import open_session

ROOT = Path(__file__).parent.parent
CHUNK = 1_000
ROUNDING = timedelta(milliseconds=1)
"""What SQLite, which counts in whole milliseconds, makes of the end of a lease."""


@dataclass
class Plan:
    """What happens: how many tasks and workers, and how often something dies."""

    tasks: int
    workers: int
    lease_s: float = 10.0
    kill_every_s: float = 0.5
    restarts: int = 0
    freezes: int = 0
    patience_s: float = 600.0
    seed: int = 20_261


@dataclass
class Outcome:
    """What came of it; `violations` is empty when all is well."""

    seconds: float = 0.0
    completed: int = 0
    kills: int = 0
    restarts: int = 0
    freezes: int = 0
    begun: int = 0
    begun_again: int = 0
    violations: list[str] = field(default_factory=list)


# -- a worker, in a process of its own ------------------------------------------------------------


def work(url: str, journal: Path, name: str, lease_s: float) -> None:
    """Handle tasks until SIGTERM, and write down which are begun."""
    logging.getLogger("hopper_data").setLevel(logging.ERROR)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connect(url)
    chance = random.Random(name)
    with journal.open("ab", buffering=0) as file:

        def handle(task: Task) -> None:
            # One write to the system: it is there although the process is killed in this moment.
            file.write(f"begin {time.time()} {task.id} {task.lease_token}\n".encode())
            # What another had begun takes long, so that one that comes back late finds it held.
            time.sleep(chance.uniform(0, 0.004) if task.attempts == 1 else lease_s / 2)
            file.write(f"end {time.time()} {task.id} {task.lease_token}\n".encode())

        worker = Worker(name, concurrency=4, lease=lease_s, grace=lease_s)
        while True:
            try:
                worker.run(handle)
            except DatabaseUnavailable:  # it was started while the server was not there
                time.sleep(0.2)
            else:
                return


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(1)  # nobody would stop us


class Begun(NamedTuple):
    """A worker has begun a task under a token, and ended it at a moment, or never."""

    worker: str
    task_id: str
    token: str
    ended_at: datetime | None = None


class Workers:
    """The processes, of which each has a name that is never used again."""

    def __init__(self, url: str, folder: Path, plan: Plan) -> None:
        self.url = url
        self.folder = folder
        self.plan = plan
        self.killed: set[str] = set()
        self.frozen: set[str] = set()
        self.wrong: list[str] = []
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._to_thaw: deque[tuple[float, subprocess.Popen[bytes]]] = deque()
        self._numbers = count()

    def start(self) -> None:
        name = f"worker-{next(self._numbers)}"
        arguments = [self.url, str(self.folder / name), name, str(self.plan.lease_s)]
        # As a file of its own it would see its neighbours in place of the standard library.
        program = [sys.executable, "-m", "benchmarks.torture", "--work"]
        self._running[name] = subprocess.Popen(
            [*program, *arguments], cwd=ROOT, stdin=subprocess.PIPE
        )

    def replace_one(self, chance: random.Random) -> None:
        """Kill a worker, and start another."""
        name = chance.choice(sorted(self._running.keys() - self.frozen))
        process = self._running.pop(name)
        process.kill()
        process.communicate()
        self.killed.add(name)
        self.start()

    def freeze_one(self, chance: random.Random) -> None:
        """Have a worker do nothing until others hold what it held; then it goes on."""
        name = chance.choice(sorted(self._running.keys() - self.frozen))
        process = self._running[name]
        process.send_signal(signal.SIGSTOP)
        self.frozen.add(name)
        self._to_thaw.append((time.monotonic() + 1.05 * self.plan.lease_s, process))

    def thaw(self, *, all_of_them: bool = False) -> None:
        while self._to_thaw and (all_of_them or self._to_thaw[0][0] < time.monotonic()):
            self._to_thaw.popleft()[1].send_signal(signal.SIGCONT)

    def watch(self) -> bool:
        """Whether all are at work, as they should be."""
        for name, process in self._running.items():
            if process.poll() is not None:
                self.wrong.append(f"{name} ended by itself, with code {process.returncode}")
        return not self.wrong

    def stop(self) -> None:
        self.thaw(all_of_them=True)
        for process in self._running.values():
            process.terminate()
        for name, process in self._running.items():
            try:
                code = process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                self.wrong.append(f"{name} did not stop")
            else:
                # One that was just started has not learned yet what to do at the signal.
                if code and not (code == -signal.SIGTERM and self._is_new(name)):
                    self.wrong.append(f"{name} was stopped, with code {code}")
            process.communicate()

    def _is_new(self, name: str) -> bool:
        journal = self.folder / name
        return not journal.exists() or not journal.stat().st_size

    def journals(self) -> list[Begun]:
        """What was begun, in the order of the workers."""
        return [each for file in sorted(self.folder.iterdir()) for each in read_journal(file)]


def read_journal(file: Path) -> list[Begun]:
    begun: list[Begun] = []
    ended: dict[str, datetime] = {}
    for line in file.read_text().splitlines():
        verb, moment, task_id, token = line.split()
        if verb == "begin":
            begun.append(Begun(file.name, task_id, token))
        else:
            ended[token] = datetime.fromtimestamp(float(moment), UTC)
    return [each._replace(ended_at=ended.get(each.token)) for each in begun]


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
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="hopper-torture-") as folder:
        workers = Workers(database.url.render(hide_password=False), Path(folder), plan)
        for _ in range(plan.workers):
            workers.start()
        began = time.monotonic()
        try:
            _disturb(database, workers, plan, outcome, restart)
        finally:
            workers.stop()
        outcome.seconds = time.monotonic() - began
        outcome.completed = _completed(database)
        outcome.kills = len(workers.killed)
        outcome.freezes = len(workers.frozen)
        _judge(database, workers, plan, outcome)
    return outcome


def _completed(database: Database) -> int:
    with open_session(database, read_only=True) as session:
        return TaskRepository(session).count({"status": "completed"})


def _disturb(
    database: Database,
    workers: Workers,
    plan: Plan,
    outcome: Outcome,
    restart: Callable[[], None] | None,
) -> None:
    """Kill, freeze and restart until all is done."""
    chance = random.Random(plan.seed)
    deadline = time.monotonic() + plan.patience_s
    while (completed := _completed(database)) < plan.tasks and workers.watch():
        if time.monotonic() > deadline:
            break
        time.sleep(chance.uniform(0.5, 1.5) * plan.kill_every_s)
        workers.thaw()
        if restart and _is_due(completed, outcome.restarts, plan.restarts, plan):
            restart()
            outcome.restarts += 1
        if _is_due(completed, len(workers.frozen), plan.freezes, plan):
            workers.freeze_one(chance)
        if completed < plan.tasks * 0.95:
            workers.replace_one(chance)


def _is_due(completed: int, done: int, planned: int, plan: Plan) -> bool:
    """Whether it is time for the next of `planned` things, spread over the tasks."""
    return done < planned and completed > plan.tasks * done / (planned + 1)


def _judge(database: Database, workers: Workers, plan: Plan, outcome: Outcome) -> None:
    wrong = outcome.violations
    wrong += workers.wrong
    with open_session(database, read_only=True) as session:
        tasks = TaskRepository(session)
        for task in tasks.filter({"status__ne": "completed"}):
            wrong.append(f"{task.id} is {task.status}: {task.last_error}")
        events = tasks.get_recent_events(after_id=0, limit=10_000_000)
    broken, completed = judge_events(events, timedelta(seconds=plan.lease_s))
    begun = workers.journals()
    outcome.begun = len(begun)
    outcome.begun_again = len(begun) - len({each.task_id for each in begun})
    excused = workers.killed | workers.frozen
    wrong += broken + judge_work(begun, completed, excused)


def judge_events(
    events: Iterable[TaskEvent], lease: timedelta
) -> tuple[list[str], dict[str, TaskEvent]]:
    """What the events tell of two live tokens at once, and what completed each task."""
    wrong: list[str] = []
    held: dict[str, TaskEvent] = {}
    completed: dict[str, TaskEvent] = {}
    for event in events:
        before = held.pop(event.task_id, None)
        if event.task_id in completed:
            wrong.append(f"{event.task_id} became {event.to_status} after it was completed")
        if event.to_status == "claimed":
            # A lease that was renewed meanwhile ends later still.
            if before is not None and event.at < before.at + lease - ROUNDING:
                wrong.append(f"{event.task_id} was claimed at {event.at} and at {before.at}")
            held[event.task_id] = event
        elif before is None or event.lease_token != before.lease_token:
            wrong.append(f"{event.task_id} became {event.to_status} by a token that held nothing")
        if event.to_status == "completed":
            completed[event.task_id] = event
    return wrong, completed


def judge_work(
    begun: Iterable[Begun], completed: dict[str, TaskEvent], excused: set[str]
) -> list[str]:
    """What the workers' own notes tell of work that was done twice, or not at all."""
    wrong: list[str] = []
    by_token: dict[str | None, Begun] = {}
    tokens = {event.lease_token for event in completed.values()}
    for each in begun:
        if each.token in by_token:
            wrong.append(f"{each.task_id} was begun twice under one token, by {each.worker}")
        by_token[each.token] = each
        if each.token not in tokens and each.worker not in excused:
            wrong.append(f"{each.worker} began {each.task_id} for nothing, and nothing befell it")
    for task_id, event in completed.items():
        work = by_token.get(event.lease_token)
        if work is None or work.ended_at is None or work.ended_at > event.at:
            who = work.worker if work else "anybody"
            wrong.append(f"{task_id} was completed at {event.at}, before {who} had done the work")
    return wrong


# -- the program ----------------------------------------------------------------------------------


@contextmanager
def places(backend: str) -> Iterator[tuple[Database, Callable[[], None] | None]]:
    """An empty, migrated database, and what restarts its server."""
    with ExitStack() as stack:
        if backend == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hopper-torture-"))
            url, restart = f"sqlite:///{folder}/queue.db", None
        else:
            from tests.servers import own_server

            server = stack.enter_context(own_server())
            modes = cycle(["fast", "immediate"])
            url, restart = server.url, lambda: server.restart(next(modes))
        database = create_database(url)
        stack.callback(database.close_pool)
        run_migrations(database=database)
        yield database, restart


PLANS = {
    "postgresql": Plan(tasks=20_000, workers=16, restarts=4, freezes=6),
    "sqlite": Plan(tasks=5_000, workers=4),
}
QUICK_PLANS = {
    "postgresql": Plan(tasks=2_000, workers=8, restarts=2, freezes=3, lease_s=5),
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


def _numbers(plan: Plan, outcome: Outcome) -> dict[str, int]:
    return {
        "tasks": plan.tasks,
        "workers": plan.workers,
        "completed": outcome.completed,
        "kills": outcome.kills,
        "freezes": outcome.freezes,
        "restarts": outcome.restarts,
        "begun again": outcome.begun_again,
        "tasks/s": round(outcome.completed / outcome.seconds),
        "wrong": len(outcome.violations),
    }


def report(outcomes: dict[str, Outcome], plans: dict[str, Plan]) -> int:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Workers that die")
    table.add_column("")
    columns = [_numbers(plans[backend], outcome) for backend, outcome in outcomes.items()]
    for backend in outcomes:
        table.add_column(backend, justify="right")
    for name in columns[0]:
        table.add_row(name, *(f"{column[name]:,}" for column in columns))
    console = Console()
    console.print(table)
    wrong = [text for outcome in outcomes.values() for text in outcome.violations]
    for text in wrong[:50]:
        console.print(text, style="red")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
