"""Sample data: the small set in `fixtures/`, and as many made-up tasks as one likes.

Both are the same each time, and are put in as repositories put in any row. What is there already
stays as it is, so that seeding again adds nothing and undoes nothing.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from itertools import islice
from typing import Any

from hopper_data.database import Database
from hopper_data.errors import ValidationError
from hopper_data.fields import public_name
from hopper_data.migrations import target_database
from hopper_data.repository import Repository, check_count
from hopper_data.routing.repositories import (
    ExternalMappingRepository,
    HopperInstanceRepository,
    ProjectRepository,
    RoutingDecisionRepository,
    TaskFeedbackRepository,
    TaskRepository,
)
from hopper_data.routing.vocabulary import TaskPriority, TaskSource, TaskStatus
from hopper_data.session import Session, open_session

__all__ = ["load_fixture", "make_tasks", "seed_database", "seed_tasks"]

DEFAULT_SEED = 20_250_106
_CHUNK = 2_000
_FIXTURES: dict[str, type[Repository[Any]]] = {
    "projects": ProjectRepository,
    "hopper_instances": HopperInstanceRepository,
    "tasks": TaskRepository,
    "routing_decisions": RoutingDecisionRepository,
    "task_feedback": TaskFeedbackRepository,
    "external_mappings": ExternalMappingRepository,
}
_DESTINATIONS = ("projects", "hopper_instances")


def load_fixture(name: str) -> list[dict[str, Any]]:
    """The rows of one sample, by the name of its table, as dicts that `create()` takes."""
    if name not in _FIXTURES:
        raise ValidationError(
            f"there is no sample of {name!r}; there are {', '.join(_FIXTURES)}", "name"
        )
    text = files("hopper_data._fixtures").joinpath(f"{name}.json").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = json.loads(text)
    return rows


def seed_database(database: Database | None = None) -> dict[str, int]:
    """Put the samples of all tables in, all or none; how many rows each table gained.

    A row whose key is there already stays as it is.
    """
    with open_session(target_database(database)) as session:
        return {name: _load(session, name) for name in _FIXTURES}


def seed_tasks(
    count: int,
    database: Database | None = None,
    *,
    seed: int = DEFAULT_SEED,
    progress: Callable[[int], object] | None = None,
) -> dict[str, int]:
    """Put `count` made-up tasks in, with the sample projects and instances; all or nothing.

    How many rows each table gained. `progress` is called with how many tasks were done since it
    was last called.
    """
    tasks = make_tasks(count, seed=seed)
    with open_session(target_database(database)) as session:
        added = {name: _load(session, name) for name in _DESTINATIONS}
        repository = TaskRepository(session)
        added["tasks"] = 0
        while chunk := list(islice(tasks, _CHUNK)):
            added["tasks"] += _add_missing(repository, chunk)
            if progress is not None:
                progress(len(chunk))
    return added


def _load(session: Session, name: str) -> int:
    return _add_missing(_FIXTURES[name](session), load_fixture(name))


def _add_missing(repository: Repository[Any], rows: list[dict[str, Any]]) -> int:
    """Insert the rows whose keys are not there; how many they were."""
    names = [public_name(field) for field in repository.model._meta.get_primary_keys()]
    wanted = {row[names[0]] for row in rows}
    stored = {
        tuple(getattr(row, name) for name in names)
        for row in repository.filter({f"{names[0]}__in": wanted})
    }
    missing = [row for row in rows if tuple(row[name] for name in names) not in stored]
    repository.bulk_create(missing)
    return len(missing)


# -- made-up tasks --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Area:
    """What the tasks of one project are about."""

    project: str
    things: tuple[str, ...]
    tags: tuple[str, ...]
    capabilities: tuple[str, ...]
    owners: tuple[str, ...]


_AREAS = (
    _Area(
        "atlas-api",
        (
            "the login endpoint",
            "the order history",
            "refunds",
            "the webhook sender",
            "the address check",
            "session cookies",
            "the invoice list",
            "the rate limiter",
            "the stock reservation",
            "the mail worker",
        ),
        ("backend", "payments", "database", "mail"),
        ("python", "fastapi", "postgresql", "authentication", "payments", "sql"),
        ("agent-ada", "agent-noor"),
    ),
    _Area(
        "storefront",
        (
            "the checkout page",
            "the date picker",
            "the search field",
            "the product gallery",
            "the cart",
            "the cookie notice",
            "the size table",
            "the account menu",
            "the newsletter form",
        ),
        ("frontend", "checkout", "accessibility", "translation"),
        ("typescript", "react", "css", "accessibility", "web-performance", "checkout"),
        ("agent-brook", "agent-emil"),
    ),
    _Area(
        "platform",
        (
            "the staging cluster",
            "the build runners",
            "the message broker",
            "the log shipper",
            "the backup job",
            "the certificate renewal",
            "the load balancer",
            "the secrets store",
        ),
        ("infrastructure", "observability", "incident"),
        ("kubernetes", "terraform", "observability", "bash", "go", "postgresql"),
        ("cz-network", "cz-storage", "tomasz"),
    ),
    _Area(
        "data-pipelines",
        (
            "the nightly export",
            "the sales model",
            "the customer merge",
            "the exchange rates",
            "the weekly report",
            "the event loader",
            "the stock forecast",
        ),
        ("data", "finance", "quality"),
        ("python", "sql", "airflow", "dbt", "data-quality", "postgresql"),
        ("agent-cyrus",),
    ),
    _Area(
        "field-app",
        (
            "the barcode scanner",
            "the pick list",
            "the offline queue",
            "the delivery signature",
            "the route map",
            "the battery warning",
        ),
        ("mobile", "offline", "accessibility"),
        ("kotlin", "swift", "offline-sync", "bluetooth", "accessibility"),
        ("sofia", "yusuf"),
    ),
    _Area(
        "handbook",
        (
            "the release checklist",
            "the on-call guide",
            "the glossary",
            "the onboarding page",
            "the style guide",
        ),
        ("docs", "onboarding"),
        ("technical-writing", "diagrams", "markdown"),
        ("mira", "priya"),
    ),
)
_AREA_WEIGHTS = (30, 27, 16, 14, 9, 4)


@dataclass(frozen=True)
class _Kind:
    """A kind of task: how its title reads, and what its description begins with."""

    tag: str
    titles: tuple[str, ...]
    openings: tuple[str, ...]


_KINDS = (
    _Kind(
        "bug",
        (
            "Fix a crash in {thing} when the list is empty",
            "Double answer from {thing} after a timeout",
            "Reloading loses the state of {thing}",
            "Wrong time zone in {thing}",
            "Names with an apostrophe look wrong in {thing}",
            "Only {number} entries get through {thing}",
        ),
        (
            "Seen {number} times since {weekday}, always with the same account.",
            "A customer sent a screenshot; it can be repeated on staging.",
            "The log shows a retry, then nothing for {number} seconds.",
            "It began with the release of {weekday}.",
        ),
    ),
    _Kind(
        "feature",
        (
            "Let people undo a change in {thing}",
            "Add a filter by date to {thing}",
            "Offer {thing} in a second language",
            "Export {thing} as CSV",
            "Show the progress of {thing}",
            "Send a note about changes to {thing}",
        ),
        (
            "Asked for by {number} customers in the last survey.",
            "A first version may leave the settings out.",
            "Sales promised it for the end of the month.",
            "Support answers the same question every {weekday}.",
        ),
    ),
    _Kind(
        "chore",
        (
            "Upgrade the libraries behind {thing}",
            "Remove the old code of {thing}",
            "Write tests for {thing}",
            "Split {thing} into two modules",
            "Document the limits of {thing}",
        ),
        (
            "Nobody has touched this for {number} months.",
            "The warnings fill a screen by now.",
            "Needed before the next audit.",
        ),
    ),
    _Kind(
        "performance",
        (
            "Make {thing} faster for large accounts",
            "Cache the repeated queries of {thing}",
            "Halve the memory of {thing}",
        ),
        (
            "The slowest one in a hundred takes {number} seconds.",
            "The profile shows most of the time in one query.",
            "It was quick enough until we had {number},000 rows.",
        ),
    ),
    _Kind(
        "security",
        (
            "Check who may call {thing}",
            "Rotate the keys of {thing}",
            "Keep personal data out of the logs of {thing}",
        ),
        (
            "Found in the review of {weekday}.",
            "Not urgent, but it must not be forgotten again.",
        ),
    ),
)
_KIND_WEIGHTS = (34, 28, 20, 12, 6)
_DETAILS = (
    "{Other} had the same trouble last year, so begin there.",
    "Mind the effect on {other}.",
    "{Requester} knows the history.",
    "At the moment it ends after {limit} entries, and nobody is told.",
    "There is a workaround for {other} that should go with it.",
    "It must still work with {limit} people at once.",
)
_CLOSINGS = (
    "Add a test that fails without the change.",
    "Keep the old behaviour behind a switch for one release.",
    "Tell support when it is out.",
    "A note in the changelog is enough.",
    "Ask before changing the schema.",
    "Done when the dashboard has been quiet for a week.",
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
_REQUESTERS = ("mira", "jonas", "lena", "priya", "tomasz", "support", "sales", "finance")
_PRIORITIES = tuple(TaskPriority)
_PRIORITY_WEIGHTS = (22, 52, 20, 6)
_S = TaskStatus
_STATUSES = tuple(TaskStatus)
_NEW_WEIGHTS = (62, 9, 12, 8, 6, 1, 2)
_OLD_WEIGHTS = (6, 1, 2, 2, 80, 3, 6)
_OPEN = (_S.PENDING, _S.BLOCKED)
_BEGINNING = datetime(2025, 1, 6, 8, 0, tzinfo=UTC)
_SPAN = timedelta(days=180)
_REMEMBERED = 200


def make_tasks(count: int, *, seed: int = DEFAULT_SEED) -> Iterator[dict[str, Any]]:
    """`count` made-up tasks as dicts that `create()` takes, one by one; the same for one seed.

    They were created over half a year, in the order in which they come; old ones are mostly done.
    Some depend on one to three earlier ones, which are completed where the task itself is beyond
    waiting. A tenth of the pending ones has no project yet.
    """
    check_count(count, "count")
    return _made(count, random.Random(seed))  # noqa: S311 - nothing here is a secret


def _made(count: int, chance: random.Random) -> Iterator[dict[str, Any]]:
    earlier: deque[tuple[str, TaskStatus]] = deque(maxlen=_REMEMBERED)
    for number in range(count):
        age = 1 - number / count
        area = chance.choices(_AREAS, _AREA_WEIGHTS)[0]
        created = _BEGINNING + (number + chance.random()) / count * _SPAN
        status = chance.choices(_STATUSES, _OLD_WEIGHTS if age > 0.2 else _NEW_WEIGHTS)[0]
        task = {
            "id": f"sample-{number + 1:06}",
            **_texts(area, chance),
            **_people(area, status, chance),
            "status": status,
            "priority": chance.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0],
            "source": chance.choice(tuple(TaskSource)),
            "required_capabilities": _some(area.capabilities, 1, 2, chance),
            "depends_on": _dependencies(earlier, status, chance),
            "created_at": created,
            "updated_at": _touched(created, status, chance),
        }
        earlier.append((task["id"], status))
        yield task


def _texts(area: _Area, chance: random.Random) -> dict[str, Any]:
    kind = chance.choices(_KINDS, _KIND_WEIGHTS)[0]
    thing, other = chance.sample(area.things, 2)
    words = {
        "thing": thing,
        "other": other,
        "Other": _capital(other),
        "Requester": _capital(chance.choice(_REQUESTERS)),
        "number": chance.randint(4, 40),
        "limit": chance.randint(2, 60) * 50,
        "weekday": chance.choice(_WEEKDAYS),
    }
    sentences = [
        chance.choice(kind.openings),
        *_some(_DETAILS, 0, 2, chance),
        *_some(_CLOSINGS, 0, 1, chance),
    ]
    return {
        "title": chance.choice(kind.titles).format(**words),
        "description": " ".join(sentences).format(**words),
        "tags": [kind.tag, *_some(area.tags, 1, 2, chance)],
    }


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _people(area: _Area, status: TaskStatus, chance: random.Random) -> dict[str, Any]:
    waiting = status is _S.PENDING
    return {
        "requester": chance.choice(_REQUESTERS),
        "owner": None if waiting else chance.choice(area.owners),
        "project": None if waiting and chance.random() < 0.1 else area.project,
    }


def _dependencies(
    earlier: Iterable[tuple[str, TaskStatus]], status: TaskStatus, chance: random.Random
) -> list[str]:
    if chance.random() > 0.12:
        return []
    fit = [key for key, state in earlier if status in _OPEN or state is _S.COMPLETED]
    return _some(fit, 1, 3, chance)


def _touched(created: datetime, status: TaskStatus, chance: random.Random) -> datetime:
    if status is _S.PENDING:
        return created
    return created + timedelta(minutes=chance.randint(10, 20_000))


def _some(items: Iterable[str], low: int, high: int, chance: random.Random) -> list[str]:
    """Between `low` and `high` of the items, as far as there are so many, in random order."""
    choices = list(items)
    return chance.sample(choices, min(len(choices), chance.randint(low, high)))
