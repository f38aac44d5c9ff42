"""hopper_data: the data layer of Hopper, on SQLite and on PostgreSQL.

    from hopper_data import TaskRepository, get_sync_session

    with get_sync_session() as session:
        for task in TaskRepository(session).get_ready_tasks(limit=10):
            print(task.id, task.title)

The core, every error and the routing domain are here; planning is `hopper_data.planning`, chat is
`hopper_data.chat`. Importing the package does no I/O and reads no environment. Each name is
imported when it is first used, and with it what it needs: Peewee and its driver, the models.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hopper_data import aio as aio
    from hopper_data import backup as backup
    from hopper_data import chat as chat
    from hopper_data import config as config
    from hopper_data import database as database
    from hopper_data import errors as errors
    from hopper_data import fastpath as fastpath
    from hopper_data import fields as fields
    from hopper_data import maintenance as maintenance
    from hopper_data import migrations as migrations
    from hopper_data import model as model
    from hopper_data import planning as planning
    from hopper_data import repository as repository
    from hopper_data import routing as routing
    from hopper_data import seeding as seeding
    from hopper_data import session as session
    from hopper_data import transfer as transfer
    from hopper_data.aio import AsyncSession, run_in_async_transaction
    from hopper_data.backup import IntegrityReport, backup_database, check_integrity
    from hopper_data.config import DatabaseConfig, build_database_url
    from hopper_data.database import connect, create_database, using
    from hopper_data.errors import (
        DatabaseError,
        DatabaseNotFound,
        DatabaseUnavailable,
        IntegrityError,
        InvalidTransition,
        LeaseLost,
        NotFound,
        PoolTimeout,
        SchemaVersionMismatch,
        ValidationError,
    )
    from hopper_data.maintenance import (
        analyze_database_statistics,
        check_database_health,
        check_schema,
        dump_schema,
        get_database_health,
        get_database_info,
        init_database,
        reset_database,
        vacuum_database,
    )
    from hopper_data.migrations import get_schema_version, run_migrations
    from hopper_data.repository import Page, Repository
    from hopper_data.routing import (
        DecisionStrategy,
        ExecutorType,
        ExternalMapping,
        ExternalMappingRepository,
        HopperInstance,
        HopperInstanceRepository,
        InstanceScope,
        InstanceStatus,
        OldestReady,
        Platform,
        Project,
        ProjectRepository,
        QueueDepth,
        QueueStatistics,
        Readiness,
        RoutingDecision,
        RoutingDecisionRepository,
        Settled,
        Task,
        TaskEvent,
        TaskFeedback,
        TaskFeedbackRepository,
        TaskPriority,
        TaskRepository,
        TaskSource,
        TaskStatus,
        Velocity,
    )
    from hopper_data.routing.waiting import async_wait_for_tasks, wait_for_tasks
    from hopper_data.routing.worker import GiveBack, Worker
    from hopper_data.session import (
        Session,
        SessionFactory,
        get_async_session,
        get_sync_session,
        run_in_transaction,
    )

__version__ = "0.1.0"

__all__ = [
    "AsyncSession",
    "DatabaseConfig",
    "DatabaseError",
    "DatabaseNotFound",
    "DatabaseUnavailable",
    "DecisionStrategy",
    "ExecutorType",
    "ExternalMapping",
    "ExternalMappingRepository",
    "GiveBack",
    "HopperInstance",
    "HopperInstanceRepository",
    "InstanceScope",
    "InstanceStatus",
    "IntegrityError",
    "IntegrityReport",
    "InvalidTransition",
    "LeaseLost",
    "NotFound",
    "OldestReady",
    "Page",
    "Platform",
    "PoolTimeout",
    "Project",
    "ProjectRepository",
    "QueueDepth",
    "QueueStatistics",
    "Readiness",
    "Repository",
    "RoutingDecision",
    "RoutingDecisionRepository",
    "SchemaVersionMismatch",
    "Session",
    "SessionFactory",
    "Settled",
    "Task",
    "TaskEvent",
    "TaskFeedback",
    "TaskFeedbackRepository",
    "TaskPriority",
    "TaskRepository",
    "TaskSource",
    "TaskStatus",
    "ValidationError",
    "Velocity",
    "Worker",
    "analyze_database_statistics",
    "async_wait_for_tasks",
    "backup_database",
    "build_database_url",
    "check_database_health",
    "check_integrity",
    "check_schema",
    "connect",
    "create_database",
    "dump_schema",
    "get_async_session",
    "get_database_health",
    "get_database_info",
    "get_schema_version",
    "get_sync_session",
    "init_database",
    "reset_database",
    "run_in_async_transaction",
    "run_in_transaction",
    "run_migrations",
    "using",
    "vacuum_database",
    "wait_for_tasks",
]

_HOMES = {
    "AsyncSession": "aio",
    "run_in_async_transaction": "aio",
    "IntegrityReport": "backup",
    "backup_database": "backup",
    "check_integrity": "backup",
    "DatabaseConfig": "config",
    "build_database_url": "config",
    "connect": "database",
    "create_database": "database",
    "using": "database",
    "DatabaseError": "errors",
    "DatabaseNotFound": "errors",
    "DatabaseUnavailable": "errors",
    "IntegrityError": "errors",
    "InvalidTransition": "errors",
    "LeaseLost": "errors",
    "NotFound": "errors",
    "PoolTimeout": "errors",
    "SchemaVersionMismatch": "errors",
    "ValidationError": "errors",
    "analyze_database_statistics": "maintenance",
    "check_database_health": "maintenance",
    "check_schema": "maintenance",
    "dump_schema": "maintenance",
    "get_database_health": "maintenance",
    "get_database_info": "maintenance",
    "init_database": "maintenance",
    "reset_database": "maintenance",
    "vacuum_database": "maintenance",
    "get_schema_version": "migrations",
    "run_migrations": "migrations",
    "Page": "repository",
    "Repository": "repository",
    "DecisionStrategy": "routing",
    "ExecutorType": "routing",
    "ExternalMapping": "routing",
    "ExternalMappingRepository": "routing",
    "HopperInstance": "routing",
    "HopperInstanceRepository": "routing",
    "InstanceScope": "routing",
    "InstanceStatus": "routing",
    "OldestReady": "routing",
    "Platform": "routing",
    "Project": "routing",
    "ProjectRepository": "routing",
    "QueueDepth": "routing",
    "QueueStatistics": "routing",
    "Readiness": "routing",
    "RoutingDecision": "routing",
    "RoutingDecisionRepository": "routing",
    "Settled": "routing",
    "Task": "routing",
    "TaskEvent": "routing",
    "TaskFeedback": "routing",
    "TaskFeedbackRepository": "routing",
    "TaskPriority": "routing",
    "TaskRepository": "routing",
    "TaskSource": "routing",
    "TaskStatus": "routing",
    "Velocity": "routing",
    "async_wait_for_tasks": "routing.waiting",
    "wait_for_tasks": "routing.waiting",
    "GiveBack": "routing.worker",
    "Worker": "routing.worker",
    "Session": "session",
    "SessionFactory": "session",
    "get_async_session": "session",
    "get_sync_session": "session",
    "run_in_transaction": "session",
}
_MODULES = (
    *("aio", "backup", "chat", "config", "database", "errors", "fastpath", "fields", "maintenance"),
    *("migrations", "model", "planning", "repository", "routing", "seeding", "session", "transfer"),
)

if not TYPE_CHECKING:  # type checkers know the names, and should find those that are wrong

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            try:
                return import_module(f"{__name__}.{name}")
            except Exception as error:  # without what an extra brings
                text = f"module {__name__!r} has no attribute {name!r}: {error}"
                raise AttributeError(text) from error
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        # The package before its module, as the package itself does: two threads that lock them in
        # different orders would not get both.
        import_module(f"{__name__}.{home.partition('.')[0]}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
        return value


def __dir__() -> list[str]:
    special = [name for name in globals() if name.startswith("__")]
    return sorted({*__all__, *_MODULES, *special})
