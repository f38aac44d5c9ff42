"""When a task is ready, and when it can be claimed: each said once, for both backends.

Lists, counts, statistics, the claim and those who wait for work all use these conditions. They are
about a table `tasks` under some name, and take the present moment as an expression of SQL.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from hopper_data.fields import JSONField, dump_json, to_utc, utcnow
from hopper_data.model import to_json_ready
from hopper_data.routing.arguments import texts
from hopper_data.routing.circles import dependencies_of
from hopper_data.routing.models import Task
from hopper_data.routing.schema import HELD
from hopper_data.routing.vocabulary import HELD_STATUSES, TaskStatus
from hopper_data.rowsets import columns

__all__ = [
    "SELECTION_TYPES",
    "Readiness",
    "Selection",
    "ask_sql",
    "candidates_sql",
    "lapsed_sql",
    "moment",
    "moment_sql",
    "readable_sql",
    "readiness_sql",
    "ready_sql",
    "reasons",
]

Clock = Callable[[], datetime]
Texts = str | Sequence[str] | None
SELECTION_TYPES = {"projects": "JSONB", "capabilities": "JSONB", "tags": "JSONB"}
_ASKED = tuple(f"(SELECT {name} FROM ask)" for name in SELECTION_TYPES)


def moment_sql(dialect: str) -> str:
    """The present moment, as an expression with one parameter: a time, or None on PostgreSQL.

    The servers' clock is the one that all workers share; SQLite has those of the processes alone.
    """
    if dialect == "sqlite":
        return "?"
    return "coalesce(CAST(%s AS TIMESTAMPTZ), statement_timestamp())"


def moment(dialect: str, clock: Clock | None) -> str | None:
    """The parameter for it: what the clock says, else what this machine says on SQLite."""
    if clock is not None:
        return Task.updated_at.encode(to_utc(clock(), Task.updated_at))
    return Task.updated_at.encode(utcnow()) if dialect == "sqlite" else None


def dependencies_met_sql(dialect: str, task: str) -> str:
    """Whether all tasks that a task depends on are completed; one that is missing is not."""
    return f"({task}.depends_on IS NULL OR NOT EXISTS (SELECT 1 {_unmet_sql(dialect, task)}))"


def _unmet_sql(dialect: str, task: str) -> str:
    """FROM the dependencies of a task, as `dependency.value`, that are not completed."""
    # The status is a query of its own, so that each is looked up by its key: PostgreSQL thinks that
    # a task has a hundred dependencies, and would rather read all tasks.
    return (
        f"FROM (SELECT {task}.depends_on AS depends_on) AS this "
        f"{dependencies_of(dialect, 'this')} WHERE coalesce({_NEEDED_STATUS}, '') <> 'completed'"
    )


_NEEDED_STATUS = "(SELECT needed.status FROM tasks AS needed WHERE needed.id = dependency.value)"


def ready_sql(dialect: str, task: str, now: str, *, claim: bool = False) -> str:
    """Whether a task can be begun: pending, its time has come, its dependencies are completed.

    `claim` says it in the words of the index that is in the order of the claim.
    """
    pending = f"({task}.status = 'pending') IS TRUE" if claim else f"{task}.status = 'pending'"
    return (
        f"{pending} AND ({task}.run_after IS NULL OR {task}.run_after <= {now}) "
        f"AND {dependencies_met_sql(dialect, task)}"
    )


def candidates_sql(dialect: str, index: str) -> str:
    """The tasks, under the name `task`, for a condition that an index is made for.

    Without statistics SQLite would choose another one; PostgreSQL has its own statistics soon.
    """
    return f"tasks AS task INDEXED BY {index}" if dialect == "sqlite" else "tasks AS task"


def lapsed_sql(task: str, now: str) -> str:
    """Whether somebody has claimed a task and let the lease expire."""
    # IS TRUE keeps the planners from an index on the status.
    return (
        f"{task}.lease_token IS NOT NULL AND {task}.lease_expires_at <= {now} "
        f"AND ({task}.status IN ({HELD})) IS TRUE"
    )


def readable_sql(dialect: str, task: str) -> str:
    """After an AND: whether a task can be read at all; one that cannot must not stop the others.

    Other programs may have written what is no JSON into SQLite.
    """
    if dialect != "sqlite":
        return ""
    documents = [field.name for field in Task._meta.sorted_fields if isinstance(field, JSONField)]
    return "".join(
        f" AND ({task}.{name} IS NULL OR json_valid({task}.{name}))" for name in documents
    )


def ask_sql(dialect: str, columns: Mapping[str, str]) -> str:
    """`WITH ask AS …`: now, and the parameters of a statement, as the one row of a table.

    `columns` maps the parameters' names to their types on PostgreSQL. The first parameter is the
    moment.
    """
    if dialect == "sqlite":
        values = [f"? AS {name}" for name in columns]
    else:
        values = [f"CAST(%s AS {kind}) AS {name}" for name, kind in columns.items()]
    return f"WITH ask AS (SELECT {', '.join([f'{moment_sql(dialect)} AS now', *values])})"


class Selection(NamedTuple):
    """What a worker takes: tasks of some projects, with all of some tags, within its capabilities.

    Each is a JSON list, or None for no such condition.
    """

    projects: str | None
    capabilities: str | None
    tags: str | None

    @classmethod
    def shaped(cls, given: Sequence[bool]) -> Selection:
        """A selection with the same conditions as another one, for the text of a statement."""
        return cls(*("" if there else None for there in given))

    @classmethod
    def of(cls, projects: Texts, capabilities: Texts, tags: Texts) -> Selection:
        """The selection that a caller means by a text, a list of texts or None for each."""
        return cls(
            _document(projects, "projects"),
            _document(capabilities, "capabilities"),
            _document(tags, "tags"),
        )

    def terms(self, dialect: str, task: str, wanted: Sequence[str] = _ASKED) -> list[str]:
        """The conditions; `wanted` says what the lists are, each as an expression of SQL."""
        sql = _SELECTION_SQL[dialect]
        return [
            sql[name].format(task=task, wanted=expression)
            for name, value, expression in zip(self._fields, self, wanted, strict=True)
            if value is not None
        ]

    def sql(self, dialect: str, task: str, wanted: Sequence[str] = _ASKED) -> str:
        """The same, each after an AND."""
        return "".join(f" AND {term}" for term in self.terms(dialect, task, wanted))


class Readiness(NamedTuple):
    """Whether a worker would be offered a task; if not, all the reasons, in words."""

    ready: bool
    reasons: list[str]


def readiness_sql(dialect: str, selection: Selection) -> str:
    """SELECT about one task: now, whether it would be offered, what it waits for, its columns.

    What it waits for is a JSON list of pairs: the id of a task, and its status or null.
    """
    now = "(SELECT now FROM ask)"
    chosen = selection.sql(dialect, "task")
    lapsed = f"{lapsed_sql('task', now)} AND task.attempts < task.max_attempts"
    pair = f"dependency.value, {_NEEDED_STATUS}"
    pairs = {
        "sqlite": f"json_group_array(json_array({pair}))",
        "postgresql": f"CAST(jsonb_agg(jsonb_build_array({pair})) AS TEXT)",
    }[dialect]
    return (
        f"{ask_sql(dialect, {**SELECTION_TYPES, 'id': 'TEXT'})} SELECT {now}, "
        f"(({ready_sql(dialect, 'task', now)}) OR ({lapsed})){chosen}, "
        f"(SELECT {pairs} {_unmet_sql(dialect, 'task')}), "
        f"{columns(Task._meta.sorted_fields, 'task.')} "
        "FROM tasks AS task WHERE task.id = (SELECT id FROM ask)"
    )


def reasons(
    task: Task, now: datetime, unmet: Iterable[tuple[str, str | None]], selection: Selection
) -> Iterator[str]:
    """Why a task is not offered, in words; nothing when it is."""
    if task.status in HELD_STATUSES:
        yield from _held(task, now)
    else:
        if task.status != TaskStatus.PENDING:
            yield f"it is {task.status.value}"
        if task.run_after is not None and task.run_after > now:
            yield f"it may not begin before {to_json_ready(task.run_after)}"
        for needed, status in unmet:
            state = f"is {status}" if status else "does not exist"
            yield f"it depends on {needed!r}, which {state}"
    projects, capabilities, tags = (
        None if value is None else json.loads(value) for value in selection
    )
    if projects is not None and task.project not in projects:
        named = f"its project is {task.project!r}" if task.project else "it names no project"
        yield f"{named}; the worker takes those of {_named(projects)}"
    lacking = sorted({*(task.required_capabilities or ())} - {*(capabilities or ())})
    if capabilities is not None and lacking:
        yield f"it requires {_named(lacking)}, which the worker lacks"
    absent = sorted({*(tags or ())} - {*(task.tags or ())})
    if absent:
        yield f"it has no tag {_named(absent)}"


def _held(task: Task, now: datetime) -> Iterator[str]:
    if task.lease_token is None or task.lease_expires_at is None:
        yield f"it is {task.status.value} by {task.owner!r}, without a lease that could expire"
    elif task.lease_expires_at > now:
        until = to_json_ready(task.lease_expires_at)
        yield f"it is {task.status.value} by {task.owner!r}, whose lease lasts until {until}"
    elif task.attempts >= task.max_attempts:
        yield f"the lease of {task.owner!r} has expired in the last of {task.attempts} attempts"


def _named(names: list[str]) -> str:
    return ", ".join(map(repr, names)) or "none"


def _document(value: Texts, name: str) -> str | None:
    return None if value is None else dump_json(texts(value, name))


_SELECTION_SQL = {
    "sqlite": {
        "projects": "{task}.project IN (SELECT value FROM json_each({wanted}))",
        "capabilities": (
            "NOT EXISTS (SELECT 1 FROM json_each(iif(json_valid({task}.required_capabilities), "
            "{task}.required_capabilities, '[]')) AS required "
            "WHERE required.value NOT IN (SELECT value FROM json_each({wanted})))"
        ),
        "tags": (
            "NOT EXISTS (SELECT 1 FROM json_each({wanted}) AS tag WHERE NOT EXISTS ("
            "SELECT 1 FROM task_tags WHERE tag = tag.value AND task_id = {task}.id))"
        ),
    },
    "postgresql": {
        "projects": "{task}.project = ANY(ARRAY(SELECT jsonb_array_elements_text({wanted})))",
        "capabilities": "coalesce({task}.required_capabilities, '[]') <@ {wanted}",
        "tags": "coalesce({task}.tags, '[]') @> {wanted}",
    },
}
