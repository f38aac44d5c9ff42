"""Tasks: lists, search, states and dependencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from peewee import SQL, Source

from hopper_data.errors import ValidationError
from hopper_data.fastpath import Outline
from hopper_data.fields import dump_json, shorten
from hopper_data.querying import outline
from hopper_data.repository import Filters
from hopper_data.routing.arguments import distinct_texts
from hopper_data.routing.circles import dependencies_of
from hopper_data.routing.models import Task
from hopper_data.routing.readiness import moment_sql, ready_sql
from hopper_data.routing.repositories.queue import QueueRepository
from hopper_data.routing.search import SearchQuery, parse_search
from hopper_data.routing.vocabulary import TaskStatus

__all__ = ["TaskRepository"]

_NEWEST = "-created_at"
_QUEUE = "-priority,created_at"
_NOTHING = SQL("1 = 0")


class TaskRepository(QueueRepository):
    """The tasks that Hopper routes.

    Lists are newest first; the lists of what is to do (`get_pending_tasks`, `get_ready_tasks`) are
    highest priority first, then oldest. `skip` and `limit` page through each. Every way of writing
    `status` obeys the transitions, and no dependency may close a circle.

    Workers take tasks with `claim_next` and end them with `complete`, `fail` or `release`.
    """

    # -- lists ------------------------------------------------------------------------------------

    def get_tasks_by_project(
        self, project: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that name a project, newest first."""
        return self.filter({"project": project}, skip, limit, _NEWEST)

    def get_tasks_by_status(
        self, status: TaskStatus | str, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks with a status, newest first."""
        return self.filter({"status": status}, skip, limit, _NEWEST)

    def get_tasks_by_requester(
        self, requester: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that somebody asked for, newest first."""
        return self.filter({"requester": requester}, skip, limit, _NEWEST)

    def get_tasks_by_owner(
        self, owner: str | None, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that somebody has taken, newest first."""
        return self.filter({"owner": owner}, skip, limit, _NEWEST)

    def get_unassigned_tasks(self, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The tasks that name no project, newest first."""
        return self.filter({"project": None}, skip, limit, _NEWEST)

    def get_pending_tasks(self, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The pending tasks, highest priority first, then oldest."""
        # The status is written into the statement, so that the partial index is used.
        return self._find(SQL("status = 'pending'"), order_by=_QUEUE, skip=skip, limit=limit)

    def get_tasks_by_tag(
        self,
        tags: str | Sequence[str],
        skip: int = 0,
        limit: int | None = None,
        *,
        match: Literal["all", "any"] = "all",
    ) -> list[Task]:
        """The tasks that have a tag, all of several tags, or any of them; newest first."""
        wanted = distinct_texts(tags, Task.tags)
        if match not in ("all", "any"):
            raise ValidationError(f"match is {match!r}; it must be 'all' or 'any'", "match")
        term = self._tag_term(wanted, match) if wanted else _NOTHING
        return self._find(term, order_by=_NEWEST, skip=skip, limit=limit)

    def _tag_term(self, tags: list[str], match: str) -> Any:
        if self.database.dialect == "sqlite":
            # The plus keeps the query planner from walking through every tag of every task.
            both = "GROUP BY +task_id HAVING COUNT(*) = ?" if match == "all" else ""
            return SQL(
                '"t1"."id" IN (SELECT task_id FROM task_tags '
                f"WHERE tag IN (SELECT value FROM json_each(?)) {both})",
                (dump_json(tags), len(tags)) if both else (dump_json(tags),),
            )
        if match == "all":
            return SQL('"t1"."tags" @> CAST(%s AS JSONB)', (dump_json(tags),))
        terms = " OR ".join('"t1"."tags" @> CAST(%s AS JSONB)' for _ in tags)
        return SQL(f"({terms})", tuple(dump_json([tag]) for tag in tags))

    # -- search -----------------------------------------------------------------------------------

    def search_tasks(
        self, query: str, skip: int = 0, limit: int | None = None, filters: Filters | None = None
    ) -> list[Task]:
        """The tasks whose title, description or context match, best match first.

        A hit in the title weighs most, one in the context least; equals are newest first. The
        query is what people type: `"exact phrase"`, `-without`, `or`, `prefix*`; nothing in it is
        an error. `filters` narrow the result.
        """
        if not isinstance(query, str):
            raise ValidationError(f"query is {shorten(query)}; it must be a text", "query")
        parsed = parse_search(query)
        if not parsed:
            return self._list(self._filtered(self._select(), filters).where(_NOTHING), skip, limit)
        hits = _Hits(self.database.dialect, parsed)
        question = Outline(("search",), hits.values).then(outline(Task, filters))
        return self._some(question, lambda: self._matching(hits, filters), skip, limit)

    def _matching(self, hits: _Hits, filters: Filters | None) -> Any:
        base = self._filtered(self._select(), filters)
        joined = base.join(hits, on=SQL('hit.task_id = "t1"."id"'), attr="hit")
        return joined.order_by(
            SQL("hit.place DESC"), SQL("hit.score DESC"), Task.created_at.desc(), Task.id
        )

    # -- states -----------------------------------------------------------------------------------

    def update_status(self, id: str, status: TaskStatus | str, /) -> Task | None:
        """Move a task to another status; None when there is no such task.

        `InvalidTransition` when the one may not follow the other.
        """
        return self.update(id, status=status)

    def assign_to_project(self, id: str, project: str | None, /) -> Task | None:
        """Name the project of a task, or none; None when there is no such task."""
        return self.update(id, project=project)

    # -- dependencies -----------------------------------------------------------------------------

    def get_ready_tasks(self, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The tasks that can be begun, highest priority first, then oldest.

        They are pending, the time of `run_after` has come, and all that they depend on is
        completed. A dependency on a task that does not exist is not completed.
        """
        return self._find(self._ready(), order_by=_QUEUE, skip=skip, limit=limit)

    def count_ready_tasks(self) -> int:
        """How many tasks can be begun."""
        query = Task.select(SQL("COUNT(*)")).where(self._ready())
        return int(query.tuples().execute(self.database)[0][0])

    def _ready(self) -> SQL:
        dialect = self.database.dialect
        return SQL(ready_sql(dialect, '"t1"', moment_sql(dialect)), (self._now(),))

    def get_blocking_tasks(self, id: str, /, skip: int = 0, limit: int | None = None) -> list[Task]:
        """The tasks that a task depends on and that are not completed, highest priority first."""
        dependencies = dependencies_of(self.database.dialect, "this")
        found = SQL(
            f'"t1"."id" IN (SELECT dependency.value FROM tasks AS this {dependencies} '
            f"WHERE this.id = {self.database.param})",
            (self._key(id)["id"],),
        )
        return self._find(
            found,
            Task.status != TaskStatus.COMPLETED,
            order_by=_QUEUE,
            skip=skip,
            limit=limit,
        )

    def get_dependent_tasks(
        self, id: str, /, skip: int = 0, limit: int | None = None
    ) -> list[Task]:
        """The tasks that depend on a task, highest priority first."""
        key = self._key(id)["id"]
        if self.database.dialect == "sqlite":
            term = SQL(
                '"t1"."id" IN (SELECT task_id FROM task_dependencies WHERE needed_id = ?)', (key,)
            )
        else:
            term = SQL('"t1"."depends_on" @> CAST(%s AS JSONB)', (dump_json([key]),))
        return self._find(term, order_by=_QUEUE, skip=skip, limit=limit)


class _Hits(Source):
    """The tasks that a search finds, as a table `hit` of `task_id`, `place` and `score`.

    Place 2 is for those whose title alone meets the query, 1 for title and description together.
    Within a place the backends have a measure of their own: how often, in how long a text.
    """

    def __init__(self, dialect: str, query: SearchQuery) -> None:
        super().__init__()
        self.dialect = dialect
        if dialect == "sqlite":
            self.values = [query.fts5("title"), query.fts5("title", "description"), query.fts5()]
        else:
            self.values = [query.tsquery()]

    def __sql__(self, ctx: Any) -> Any:
        if self.dialect == "sqlite":
            return self._fts5(ctx)
        ctx.literal(
            "(SELECT task.id AS task_id, ts_rank('{0.02, 0.1, 0.3, 1.0}', search_tsvector, query) "
            "AS score, CASE WHEN ts_filter(search_tsvector, '{a}') @@ query THEN 2 "
            "WHEN ts_filter(search_tsvector, '{a, b}') @@ query THEN 1 ELSE 0 END AS place "
            "FROM tasks AS task, CAST("
        )
        ctx.value(self.values[0], converter=False)
        return ctx.literal(" AS tsquery) AS query WHERE search_tsvector @@ query) AS hit")

    def _fts5(self, ctx: Any) -> Any:
        among = "task_search.rowid IN (SELECT rowid FROM task_search WHERE task_search MATCH "
        ctx.literal(f"(SELECT d.task_id, -bm25(task_search, 8.0, 3.0, 1.0) AS score, ({among}")
        ctx.value(self.values[0], converter=False).literal(f")) + ({among}")
        ctx.value(self.values[1], converter=False)
        ctx.literal(
            ")) AS place FROM task_search JOIN task_documents AS d ON d.id = task_search.rowid "
            "WHERE task_search MATCH "
        )
        return ctx.value(self.values[2], converter=False).literal(") AS hit")
