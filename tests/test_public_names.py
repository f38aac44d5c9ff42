"""The names that callers import. A change here is a change for them: the changelog says so."""

from __future__ import annotations

import inspect

import pytest

import hopper_data
from hopper_data import chat, planning

CORE = """
AsyncSession DatabaseConfig DatabaseError DatabaseNotFound DatabaseUnavailable IntegrityError
GiveBack IntegrityReport InvalidTransition LeaseLost NotFound Page PoolTimeout Repository Worker
SchemaVersionMismatch Session SessionFactory ValidationError analyze_database_statistics
async_wait_for_tasks wait_for_tasks backup_database build_database_url check_database_health
check_integrity check_schema connect create_database dump_schema get_async_session
get_database_health get_database_info get_schema_version get_sync_session init_database
reset_database run_in_async_transaction run_in_transaction run_migrations using vacuum_database
"""
ROUTING = """
DecisionStrategy ExecutorType ExternalMapping ExternalMappingRepository HopperInstance
HopperInstanceRepository InstanceScope InstanceStatus OldestReady Platform Project
ProjectRepository QueueDepth QueueStatistics Readiness
RoutingDecision RoutingDecisionRepository Settled Task TaskEvent TaskFeedback TaskFeedbackRepository
TaskPriority TaskRepository TaskSource TaskStatus Velocity
"""
PLANNING = """
EPIC_KEY FEATURE_KEY TASK_KEY TASK_TRANSITIONS TRANSITION_NAMES AgentType Epic EpicRepository
Feature FeatureRepository ImportReport KeyPattern Level PlanStatus Refusal Task TaskHistory
TaskHistoryRepository TaskRepository TaskStatus import_folder
"""
CHAT = """
Conversation ConversationRepository MCPConfig MCPConfigRepository Message MessageRepository Role
User UserRepository
"""
SEEDS = """
get_sync_session get_async_session init_database run_migrations check_database_health
get_database_info reset_database dump_schema analyze_database_statistics vacuum_database
build_database_url SessionFactory DatabaseConfig create_database TaskRepository ProjectRepository
HopperInstanceRepository RoutingDecisionRepository TaskFeedbackRepository
ExternalMappingRepository
"""


@pytest.mark.parametrize(
    ("module", "names"),
    [(hopper_data, CORE + ROUTING), (planning, PLANNING), (chat, CHAT)],
    ids=["core", "planning", "chat"],
)
def test_the_public_names_are_these(module: object, names: str) -> None:
    assert sorted(module.__all__) == sorted(names.split())  # type: ignore[attr-defined]
    for name in names.split():
        assert getattr(module, name) is not None


def test_the_names_of_the_earlier_guide_are_there() -> None:
    assert set(SEEDS.split()) <= set(hopper_data.__all__)


def test_a_star_brings_them_and_nothing_else() -> None:
    found: dict[str, object] = {}
    exec("from hopper_data import *", found)
    assert set(found) - {"__builtins__"} == set(hopper_data.__all__)


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        ("get_sync_session", "(*, read_only: 'bool' = False)"),
        ("get_async_session", "(*, read_only: 'bool' = False)"),
        ("run_migrations", "(target: 'str' = 'head', *, database: 'Database | None' = None)"),
        ("init_database", "(database: 'Database | None' = None, *, create_tables: 'bool' = False)"),
        ("reset_database", "(database: 'Database | None' = None, *, confirm: 'bool' = False)"),
        ("connect", "(url: 'str | DatabaseConfig | None' = None, **settings: 'Any')"),
        (
            "create_database",
            (
                "(url: 'str | DatabaseConfig | None' = None, *, echo: 'bool' = False, "
                "**settings: 'Any')"
            ),
        ),
        ("using", "(database: 'Database')"),
    ],
)
def test_functions_are_called_as_before(function: str, signature: str) -> None:
    found = str(inspect.signature(getattr(hopper_data, function)))
    assert found.partition(" -> ")[0] == signature


def test_the_verbs_of_a_repository_are_these() -> None:
    verbs = {
        name
        for name, item in vars(hopper_data.Repository).items()
        if inspect.isfunction(item) and not name.startswith("_")
    }
    assert verbs == {
        *("create", "get", "get_or_raise", "get_all", "filter", "page", "iterate", "update"),
        *("delete", "count", "exists", "bulk_create", "bulk_update", "bulk_delete", "upsert"),
    }
