"""What `hopper-data demo` does: route what has no project, and let workers carry tasks through."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from hopper_data.database import Database
from hopper_data.routing.models import Project, RoutingDecision, Task
from hopper_data.routing.repositories import (
    ProjectRepository,
    RoutingDecisionRepository,
    TaskFeedbackRepository,
    TaskRepository,
)
from hopper_data.routing.vocabulary import DecisionStrategy, TaskStatus
from hopper_data.session import Session, open_session

__all__ = ["Carried", "Worker", "route_unrouted", "work"]

_LOOKED_AT = 100
_SURE = 0.97
_DOUBT = 0.18


def route_unrouted(database: Database) -> tuple[list[RoutingDecision], list[Task]]:
    """Send unrouted tasks, the newest hundred, to projects with every capability they require.

    The decisions in the order of the tasks, and the tasks that no project can do.
    """
    decisions: list[RoutingDecision] = []
    left: list[Task] = []
    with open_session(database) as session:
        for task in reversed(TaskRepository(session).get_unassigned_tasks(limit=_LOOKED_AT)):
            decision = _route(session, task)
            if decision is None:
                left.append(task)
            else:
                decisions.append(decision)
    return decisions, left


def _route(session: Session, task: Task) -> RoutingDecision | None:
    start = time.perf_counter()
    projects = ProjectRepository(session)
    able = projects.find_projects_for(task.required_capabilities)
    if not able:
        return None
    load = {project.name: _open_tasks(projects, project) for project in able}
    chosen, *others = sorted(load, key=lambda name: (load[name], name))
    confidence = max(0.5, _SURE - _DOUBT * len(others))
    return RoutingDecisionRepository(session).route_task(
        task.id,
        chosen,
        confidence=round(confidence, 2),
        reasoning=_reason(task.required_capabilities or [], others),
        decided_by=DecisionStrategy.RULES,
        alternatives=[{"project": name, "open_tasks": load[name]} for name in others],
        decision_time_ms=round((time.perf_counter() - start) * 1000, 2),
        workload_snapshot=load,
    )


def _open_tasks(projects: ProjectRepository, project: Project) -> int:
    counts = projects.get_project_statistics(project.name)
    done = (TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED)
    return counts["total_tasks"] - sum(counts[status] for status in done)


def _reason(wanted: Sequence[str], others: Sequence[str]) -> str:
    skills = " and ".join(wanted) or "time"
    if not others:
        return f"the only one with {skills}"
    return f"the least busy of {len(others) + 1} with {skills}"


@dataclass(frozen=True)
class Worker:
    """Somebody who takes up to `tasks` tasks, one after the other; the `fails_at`-th one fails."""

    name: str
    tasks: int = 4
    fails_at: int | None = None


@dataclass(frozen=True)
class Carried:
    """A task that a worker has taken as far as `status`, in `seconds`."""

    worker: str
    task_id: str
    title: str
    project: str
    status: TaskStatus
    seconds: float


def work(database: Database, workers: Sequence[Worker]) -> list[Carried]:
    """Let workers, each in a thread of its own, carry ready tasks through; in the order of ends."""
    finished: list[Carried] = []
    lock = threading.Lock()

    def carry_on(worker: Worker) -> None:
        for number in range(1, worker.tasks + 1):
            carried = _carry(database, worker, fails=number == worker.fails_at)
            if carried is None:
                return
            with lock:
                finished.append(carried)

    with ThreadPoolExecutor(len(workers)) as pool:
        for future in [pool.submit(carry_on, worker) for worker in workers]:
            future.result()
    return finished


def _carry(database: Database, worker: Worker, *, fails: bool) -> Carried | None:
    start = time.perf_counter()
    task = _claim(database, worker)
    if task is None:
        return None
    end = TaskStatus.FAILED if fails else TaskStatus.COMPLETED
    with open_session(database) as session:
        TaskRepository(session).update_status(task.id, TaskStatus.IN_PROGRESS)
    # As if something were done, so that the other worker has its turn.
    time.sleep(0.02)
    with open_session(database) as session:
        TaskRepository(session).update_status(task.id, end)
        TaskFeedbackRepository(session).record(task.id, **_feedback(fails))
    seconds = time.perf_counter() - start
    return Carried(worker.name, task.id, task.title, task.project or "", end, seconds)


def _claim(database: Database, worker: Worker) -> Task | None:
    # The transaction keeps every other writer of a SQLite file out, from the look to the claim.
    with open_session(database) as session:
        tasks = TaskRepository(session)
        ready = tasks.get_ready_tasks(limit=_LOOKED_AT)
        task = next((task for task in ready if task.project), None)
        if task is None:
            return None
        return tasks.update(task.id, status=TaskStatus.CLAIMED, owner=worker.name)


def _feedback(failed: bool) -> dict[str, Any]:
    if failed:
        return {
            "estimated_duration": "2h",
            "complexity_rating": 8,
            "quality_score": 0.2,
            "was_good_match": False,
            "routing_feedback": "Bigger than it looked.",
        }
    return {
        "estimated_duration": "2h",
        "actual_duration": "2h",
        "complexity_rating": 3,
        "quality_score": 0.9,
        "required_rework": False,
        "was_good_match": True,
    }
