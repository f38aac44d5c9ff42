"""What an import costs a program: time, and memory."""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

# Peewee imports psycopg 3 where it is there, which only a peer of the benchmark brings along.
_PROGRAM = """
import sys, time
sys.modules["psycopg"] = None
start = time.perf_counter()
import {module}
taken = time.perf_counter() - start
try:
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    memory = int(status["VmHWM"].split()[0]) / 1024
except OSError:
    import resource
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(taken, memory)
"""
TIME_GOAL = 1.3
MEMORY_GOAL_MB = 25


@dataclass(frozen=True)
class Import:
    """The median milliseconds and megabytes of a program that imports one package."""

    module: str
    milliseconds: float
    megabytes: float


def measure_imports(rounds: int = 15) -> list[Import]:
    """The interpreter alone (as `sys`), Peewee, ours, ours with a session, SQLAlchemy's ORM."""
    modules = ["sys", "peewee", "hopper_data", "hopper_data.session"]
    if importlib.util.find_spec("sqlalchemy"):
        modules.append("sqlalchemy.orm")
    found: dict[str, list[tuple[float, float]]] = {module: [] for module in modules}
    for number in range(rounds + 1):
        for module in modules:
            costs = _cost(module)
            if number:  # the first writes what is compiled
                found[module].append(costs)
    return [
        Import(
            module,
            statistics.median(time for time, _ in each) * 1000,
            statistics.median(memory for _, memory in each),
        )
        for module, each in found.items()
    ]


def _cost(module: str) -> tuple[float, float]:
    # What is compiled may be kept, as it is for every program that is installed.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=kept,
    )
    time, memory = map(float, done.stdout.split())
    return time, memory
