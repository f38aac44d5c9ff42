"""Hostile values in every column, by every way of writing: refused alike, and nothing written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import peewee
import pytest

from hopper_data import (
    DatabaseError,
    ExternalMappingRepository,
    HopperInstanceRepository,
    ProjectRepository,
    Repository,
    RoutingDecisionRepository,
    Session,
    Task,
    TaskFeedbackRepository,
    TaskRepository,
    ValidationError,
)
from hopper_data.database import Database
from hopper_data.session import open_session
from tests.cases import each

MOMENT = datetime(2026, 3, 4, 5, 6, 7, 8, tzinfo=UTC)

VALUES: dict[str, Any] = {
    "None": None,
    "empty": "",
    "NUL": "a\0b",
    "high surrogate": "\ud83d",
    "low surrogate": "x\ude00",
    "both": "\ud83d\ude00",
    "emoji": "😀",
    "quotes": "'\"`;--%s?:x",
    "20": "x" * 20,
    "51": "x" * 51,
    "101": "x" * 101,
    "501": "x" * 501,
    "bytes": b"x",
    "zero": 0,
    "one": 1,
    "minus one": -1,
    "eleven": 11,
    "int32": 2**31 - 1,
    "beyond int32": 2**31,
    "below int32": -(2**31) - 1,
    "beyond int64": 2**63,
    "beyond all": 10**400,
    "beyond printing": 10**5000,
    "half": 0.5,
    "whole": 1.0,
    "above one": 1.5,
    "nan": math.nan,
    "inf": math.inf,
    "-inf": -math.inf,
    "tiny": 5e-324,
    "true": True,
    "false": False,
    "number text": "5",
    "decimal": Decimal("0.5"),
    "uuid": UUID(int=1),
    "moment": MOMENT,
    "other zone": MOMENT.astimezone(timezone(timedelta(hours=-3))),
    "naive": MOMENT.replace(tzinfo=None),
    "first year": datetime(1, 1, 1, tzinfo=UTC),
    "before the first year": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
    "date": date(2026, 1, 1),
    "moment text": "2026-01-02T03:04:05Z",
    "naive text": "2026-01-02T03:04:05",
    "list": ["a", "b"],
    "empty list": [],
    "list of all": ["a", 1, None],
    "nested": {"a": [1, {"b": None}]},
    "int keys": {1: "a"},
    "nan inside": {"a": [math.nan]},
    "NUL inside": {"a": ["\0"]},
    "surrogate key": {"\ud800": 1},
    "tuple": ("a", "b"),
    "set": {1},
    "object": object,
    "word": "pending",
    "other word": "PENDING",
    "high": "high",
    "scope": "GLOBAL",
    "active": "active",
    "node": peewee.SQL,
}

BASES: dict[type[Repository[Any]], dict[str, Any]] = {
    ProjectRepository: {"name": "new", "slug": "new"},
    TaskRepository: {"id": "new", "title": "new"},
    HopperInstanceRepository: {"id": "new", "name": "new", "scope": "PROJECT"},
    RoutingDecisionRepository: {"task_id": "free"},
    TaskFeedbackRepository: {"task_id": "free"},
    ExternalMappingRepository: {"task_id": "free", "platform": "new", "external_id": "new"},
}
OLD: dict[type[Repository[Any]], dict[str, Any]] = {
    ProjectRepository: {"name": "old", "slug": "old"},
    TaskRepository: {"id": "old", "title": "old"},
    HopperInstanceRepository: {"id": "old", "name": "old", "scope": "GLOBAL"},
    RoutingDecisionRepository: {"task_id": "old"},
    TaskFeedbackRepository: {"task_id": "old"},
    ExternalMappingRepository: {"task_id": "old", "platform": "old", "external_id": "old"},
}


def fill(session: Session) -> None:
    for kind, row in OLD.items():
        kind(session).create(**row)
        if kind is TaskRepository:
            kind(session).create(id="free", title="free")


def column_names(kind: type[Repository[Any]]) -> list[str]:
    return [field.column_name for field in kind.model._meta.sorted_fields]


def ways(
    repository: Repository[Any], column: str, value: Any
) -> Iterator[tuple[str, Callable[[], Any]]]:
    base, old = BASES[type(repository)], OLD[type(repository)]
    keys = [field.column_name for field in repository.model._meta.get_primary_keys()]
    key: Any = tuple(old[name] for name in keys)
    key = key if len(keys) > 1 else key[0]
    by_key = {name: old[name] for name in keys}
    yield "create", lambda: repository.create(**{**base, column: value})
    yield "bulk_create", lambda: repository.bulk_create([{**base, column: value}])
    yield "upsert", lambda: repository.upsert(**{**old, column: value})
    yield "update", lambda: repository.update(key, **{column: value})
    yield "bulk_update", lambda: repository.bulk_update([{**by_key, column: value}])
    yield "filter", lambda: repository.filter({column: value})
    yield "filter in", lambda: repository.filter({f"{column}__in": [value]})


def outcome(call: Callable[[], Any], column: str) -> tuple[Any, ...]:
    """What a call ends with, without what depends on the hour or on chance."""
    try:
        result = call()
    except DatabaseError as error:
        return type(error), str(error), getattr(error, "field", None)
    rows = result if isinstance(result, list) else [result]
    by_chance = column in ("id", "created_at", "updated_at", "decided_at")
    return "accepted", [
        row.to_dict()[column]
        if isinstance(row, peewee.Model) and not by_chance
        else str(row)
        if isinstance(row, int)
        else type(row).__name__
        for row in rows
    ]


@pytest.mark.parametrize("kind", BASES, ids=lambda kind: kind.model.__name__)
def test_every_value_meets_the_same_end_on_both(
    both_databases: tuple[Database, Database], kind: type[Repository[Any]]
) -> None:
    answers: list[dict[tuple[str, str, str], Any]] = []
    for database in both_databases:
        found: dict[tuple[str, str, str], Any] = {}
        with open_session(database) as session, database.atomic() as scope:
            fill(session)
            repository = kind(session)
            before = state(session)
            for column in column_names(kind):
                with database.atomic() as attempt:
                    for name, value in VALUES.items():
                        for way, call in ways(repository, column, value):
                            end = found[column, name, way] = outcome(call, column)
                            if end[0] == "accepted" and not way.startswith("filter"):
                                attempt.rollback()
                    assert state(session) == before, column
            scope.rollback()
        answers.append(found)
    different = {
        case: (answers[0][case], answers[1][case])
        for case in answers[0]
        if answers[0][case] != answers[1][case]
    }
    assert different == {}
    refused = [end for end in answers[0].values() if end[0] != "accepted"]
    assert all(issubclass(end[0], DatabaseError) for end in refused)
    # Most is wrong in most columns, and a refusal names its column.
    assert len(refused) > len(answers[0]) / 2


def state(session: Session) -> list[Any]:
    return [[row.to_dict() for row in kind(session).get_all()] for kind in BASES]


@each(
    "name",
    [
        "nope",
        "",
        "TITLE",
        "t1.title",
        "title; DROP TABLE tasks",
        "__data__",
        "save",
        "_meta",
        "__composite_key__",
        "priority__gte",
    ],
)
def test_an_unknown_column_is_refused_everywhere(session: Session, name: str) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="old", title="old")
    for attempt in (
        lambda: tasks.create(**{"title": "t", name: "x"}),
        lambda: tasks.bulk_create([{"title": "t", name: "x"}]),
        lambda: tasks.update("old", **{name: "x"}),
        lambda: tasks.bulk_update([{"id": "old", name: "x"}]),
        lambda: tasks.upsert(**{"id": "old", "title": "t", name: "x"}),
        lambda: tasks.get_all(order_by=name),
        lambda: tasks.page(order_by=[name]),
    ):
        with pytest.raises(ValidationError):
            attempt()
    if name != "priority__gte":
        with pytest.raises(ValidationError):
            tasks.filter({name: "x"})
    assert [row.title for row in tasks.get_all()] == ["old"]


@each("name", ["nope", "__data__", "_dirty", "_meta", "save"])
def test_a_model_knows_its_names(session: Session, name: str) -> None:
    with pytest.raises(ValidationError):
        Task(**{"title": "t", name: "x"})
