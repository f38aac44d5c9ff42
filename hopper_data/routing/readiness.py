"""When a task is ready, and when it can be claimed: each said once, for both backends.

Lists, counts, statistics, the claim and those who wait for work all use these conditions. They are
about a table `tasks` under some name, and take the present moment as an expression of SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from hopper_data.fields import dump_json, to_utc, utcnow
from hopper_data.routing.arguments import texts
from hopper_data.routing.circles import dependencies_of
from hopper_data.routing.models import Task
from hopper_data.routing.schema import HELD

__all__ = [
    "SELECTION_TYPES",
    "Selection",
    "ask_sql",
    "lapsed_sql",
    "moment",
    "moment_sql",
    "ready_sql",
]

Clock = Callable[[], datetime]
Texts = str | Sequence[str] | None
SELECTION_TYPES = {"projects": "JSONB", "capabilities": "JSONB", "tags": "JSONB"}


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
    return (
        f"({task}.depends_on IS NULL OR NOT EXISTS ("
        f"SELECT 1 FROM (SELECT {task}.depends_on AS depends_on) AS this "
        f"{dependencies_of(dialect, 'this')} "
        "LEFT JOIN tasks AS needed ON needed.id = dependency.value "
        "WHERE needed.status IS NULL OR needed.status <> 'completed'))"
    )


def ready_sql(dialect: str, task: str, now: str) -> str:
    """Whether a task can be begun: pending, its time has come, its dependencies are completed."""
    return (
        f"{task}.status = 'pending' AND ({task}.run_after IS NULL OR {task}.run_after <= {now}) "
        f"AND {dependencies_met_sql(dialect, task)}"
    )


def lapsed_sql(task: str, now: str) -> str:
    """Whether somebody has claimed a task and let the lease expire."""
    return (
        f"{task}.lease_token IS NOT NULL AND {task}.lease_expires_at <= {now} "
        f"AND {task}.status IN ({HELD})"
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

    def sql(self, dialect: str, task: str, source: str) -> str:
        """The conditions, each after an AND; the lists are columns of the one row of `source`."""
        terms = _SELECTION_SQL[dialect]
        return "".join(
            " AND " + terms[name].format(task=task, wanted=f"(SELECT {name} FROM {source})")
            for name, value in self._asdict().items()
            if value is not None
        )


def _document(value: Texts, name: str) -> str | None:
    return None if value is None else dump_json(texts(value, name))


_SELECTION_SQL = {
    "sqlite": {
        "projects": "{task}.project IN (SELECT value FROM json_each({wanted}))",
        "capabilities": (
            "NOT EXISTS (SELECT 1 FROM json_each({task}.required_capabilities) AS required "
            "WHERE required.value NOT IN (SELECT value FROM json_each({wanted})))"
        ),
        "tags": (
            "NOT EXISTS (SELECT 1 FROM json_each({wanted}) AS tag WHERE NOT EXISTS ("
            "SELECT 1 FROM task_tags WHERE tag = tag.value AND task_id = {task}.id))"
        ),
    },
    "postgresql": {
        "projects": "{task}.project IN (SELECT jsonb_array_elements_text({wanted}))",
        "capabilities": "coalesce({task}.required_capabilities, '[]') <@ {wanted}",
        "tags": "{task}.tags @> {wanted}",
    },
}
