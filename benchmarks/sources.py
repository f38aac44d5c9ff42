"""Where the tasks of a table come from: made up from a seed, or taken from a file of real ones.

Rows are tuples of what both backends read: times and JSON as text.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.data import (
    BEGINNING,
    RARE_TAG,
    RARE_WORD,
    SEED,
    STEP,
    TASK_COLUMNS,
    as_text,
    names,
    task_id,
)
from hopper_data import create_database, run_migrations
from hopper_data.session import open_session
from hopper_data.transfer import import_tasks


class Source(Protocol):
    """Tasks without end. One in 1,000 has the rare tag, one in 500 the rare word."""

    is_real: bool

    @property
    def projects(self) -> Sequence[str]:
        """The names of the projects that the tasks are of."""

    @property
    def project(self) -> str:
        """The one that is asked about."""

    def rows(self, count: int) -> Iterator[tuple[Any, ...]]:
        """The first rows of `tasks`, in the order of their times."""

    def new(self, count: int) -> list[dict[str, Any]]:
        """The fields of new tasks, as a caller gives them."""


# -- made up --------------------------------------------------------------------------------------

_WORDS = [
    f"{begin}{end}"
    for begin in names("acid bolt cedar delta ember flint grove harbor iron jade kelp lumen")
    for end in names("ing er ory ation al ive ness ful less ward like ment ism ship hood dom")
]
_STATUSES = ("completed", "pending", "in_progress", "blocked", "failed", "cancelled")
_STATUS_WEIGHTS = (60, 25, 5, 3, 4, 3)
_PRIORITIES = ("low", "medium", "high", "urgent")
_PRIORITY_WEIGHTS = (20, 50, 25, 5)
_TAGS = ("bug", "feature", "docs", "infra", "security", "ui", "api", "data", "ops", "tests")
_CAPABILITIES = ("python", "sql", "react", "terraform", "review")
_SOURCES = ("mcp", "cli", "http", "webhook")


class MadeUp:
    """Tasks of 40 projects, most of them done, in words that do not exist."""

    is_real = False
    projects = tuple(f"project-{number:02d}" for number in range(40))
    project = projects[3]

    def rows(self, count: int) -> Iterator[tuple[Any, ...]]:
        chance = random.Random(SEED)
        done: list[int] = [0]
        for number in range(count):
            status = chance.choices(_STATUSES, _STATUS_WEIGHTS)[0]
            # The last projects have nothing to do any more.
            quiet = status in ("completed", "failed", "cancelled")
            projects = len(self.projects) - (0 if quiet else 5)
            project = self.projects[chance.randrange(projects)]
            created = as_text(BEGINNING + number * STEP)
            tags = chance.sample(_TAGS, chance.randrange(4))
            if number % 1_000 == 500:
                tags.append(RARE_TAG)
            title = _sentence(chance, 5)
            if number % 500 == 250:
                title = f"{title} {RARE_WORD}"
            needed = None
            if number % 10 == 9:
                earlier = chance.choice(done[-100:] if number % 20 == 9 else range(number))
                needed = json.dumps([task_id(earlier)])
            yield (
                task_id(number),
                title,
                _sentence(chance, 12),
                project if number % 25 else None,
                status,
                chance.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0],
                f"person-{number % 50}",
                None if status == "pending" else f"worker-{number % 20}",
                *(None, None, None),
                _SOURCES[number % 4],
                *(None, None),
                _dumps(tags) if tags else None,
                _dumps([_CAPABILITIES[number % 5]]),
                needed,
                None,
                round(chance.random(), 3),
                *(None, None),
                created,
                created,
                *(None, None, None),
                0 if status == "pending" else 1,
                3,
                *(None, None, None),
            )
            if status == "completed":
                done.append(number)

    def new(self, count: int) -> list[dict[str, Any]]:
        chance = random.Random(SEED)
        return [
            {
                "title": _sentence(chance, 5),
                "description": _sentence(chance, 12),
                "project": chance.choice(self.projects),
                "priority": chance.choices(_PRIORITIES, _PRIORITY_WEIGHTS)[0],
                "requester": f"person-{chance.randrange(50)}",
                "source": chance.choice(_SOURCES),
                "tags": chance.sample(_TAGS, 2),
                "required_capabilities": [chance.choice(_CAPABILITIES)],
            }
            for _ in range(count)
        ]


def _sentence(chance: random.Random, words: int) -> str:
    return " ".join(chance.choices(_WORDS, k=words)).capitalize()


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


# -- of a file ------------------------------------------------------------------------------------

_GIVEN = names("title description project priority requester source context")
_LISTS = names("tags required_capabilities")
_LONGEST_TITLE = 500


@dataclass(frozen=True)
class Kind:
    """What kind of tasks a file has: how many, and how long their descriptions are."""

    tasks: int
    usual: int
    longest: int


class FromFile:
    """Real tasks, again and again under new ids, at times of ours.

    The file is one that `hopper-data import` takes. What is wrong in it is a `ValidationError`.
    """

    is_real = True

    def __init__(self, path: Path) -> None:
        database = create_database("sqlite:///:memory:", slow_query_ms=60_000)
        run_migrations(database=database)
        import_tasks(path, database=database)
        with open_session(database, read_only=True) as session:
            columns = ", ".join(TASK_COLUMNS)
            found = session.execute(f"SELECT {columns} FROM tasks ORDER BY created_at, id")
        database.close_pool()
        if not found:
            raise ValueError(f"{path.name} has no tasks")
        self._tasks = [dict(zip(TASK_COLUMNS, row, strict=True)) for row in found]
        self._places = {task["id"]: place for place, task in enumerate(self._tasks)}
        counts = Counter(task["project"] or "none" for task in self._tasks)
        self.projects = sorted(counts)
        self.project = counts.most_common(1)[0][0]

    @property
    def kind(self) -> Kind:
        lengths = sorted(len(task["description"] or "") for task in self._tasks)
        return Kind(len(lengths), lengths[len(lengths) // 2], lengths[-1])

    def rows(self, count: int) -> Iterator[tuple[Any, ...]]:
        for number in range(count):
            place = number % len(self._tasks)
            task = dict(self._tasks[place])
            moment = as_text(BEGINNING + number * STEP)
            task.update(id=task_id(number), created_at=moment, updated_at=moment, dedupe_key=None)
            if task["depends_on"] is not None:
                needed = [
                    number - place + self._places[key] for key in json.loads(task["depends_on"])
                ]
                task["depends_on"] = _dumps([task_id(each) for each in needed if each < count])
            if number % 1_000 == 500:
                task["tags"] = _dumps([*json.loads(task["tags"] or "[]"), RARE_TAG])
            if number % 500 == 250:
                task["title"] = f"{task['title'][: _LONGEST_TITLE - 10]} {RARE_WORD}"
            yield tuple(task.values())

    def new(self, count: int) -> list[dict[str, Any]]:
        made = []
        for number in range(count):
            task = self._tasks[number % len(self._tasks)]
            fields = {name: task[name] for name in _GIVEN if task[name]}
            lists = {name: json.loads(task[name]) for name in _LISTS if task[name]}
            made.append({**fields, **lists})
        return made
