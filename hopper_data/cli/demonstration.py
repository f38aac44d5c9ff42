"""What `hopper-data demo` does: route what has no project, and let workers carry tasks through."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
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
_RETRY_IN = timedelta(hours=1)


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
    """Somebody who takes up to `tasks` tasks, one after the other; the `fails_at`-th one fails.

    One that fails is pending again, for an hour later.
    """

    name: str
    tasks: int = 4
    fails_at: int | None = None


@dataclass(frozen=True)
class Carried:
    """A task that a worker has taken as far as `status`, in `seconds`; pending after a failure."""

    worker: str
    task_id: str
    title: str
    project: str
    status: TaskStatus
    seconds: float


def work(database: Database, workers: Sequence[Worker]) -> list[Carried]:
    """Let workers, each in a thread of its own, carry tasks through; in the order of the ends."""
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
    with open_session(database) as session:
        names = [project.name for project in ProjectRepository(session).get_all()]
        claimed = TaskRepository(session).claim_next(worker.name, projects=names)
    if not claimed:
        return None
    # As if something were done, so that the other worker has its turn.
    time.sleep(0.02)
    with open_session(database) as session:
        task = (_give_up if fails else _complete)(session, claimed[0])
    seconds = time.perf_counter() - start
    return Carried(worker.name, task.id, task.title, task.project or "", task.status, seconds)


def _complete(session: Session, task: Task) -> Task:
    return TaskRepository(session).complete(task.id, task.lease_token, _GOOD)


def _give_up(session: Session, task: Task) -> Task:
    TaskFeedbackRepository(session).record(task.id, **_BAD)
    return TaskRepository(session).fail(
        task.id, task.lease_token, _BAD["routing_feedback"], retry_in=_RETRY_IN
    )


_GOOD: dict[str, Any] = {
    "estimated_duration": "2h",
    "actual_duration": "2h",
    "complexity_rating": 3,
    "quality_score": 0.9,
    "required_rework": False,
    "was_good_match": True,
}
_BAD: dict[str, Any] = {
    "estimated_duration": "2h",
    "complexity_rating": 8,
    "quality_score": 0.2,
    "was_good_match": False,
    "routing_feedback": "Bigger than it looked.",
}
