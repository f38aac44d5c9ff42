"""The best SQL that we know for what no query builder says well; for all but ours.

`?` stands for a parameter; `{columns}` are those of the rows that are wanted.
"""

from __future__ import annotations

from benchmarks.data import RARE_WORD

ACTIVE = ("pending", "claimed", "in_progress", "blocked")
STATUSES = (*ACTIVE, "completed", "failed", "cancelled")
RANK = (
    "CASE priority WHEN 'low' THEN 0 WHEN 'medium' THEN 1 WHEN 'high' THEN 2 "
    "WHEN 'urgent' THEN 3 END"
)

SEARCH = {
    "sqlite": (
        "SELECT {columns} FROM tasks AS t JOIN (SELECT d.task_id, "
        "-bm25(task_search, 8.0, 3.0, 1.0) AS score, "
        "(task_search.rowid IN (SELECT rowid FROM task_search WHERE task_search MATCH ?)) "
        "+ (task_search.rowid IN (SELECT rowid FROM task_search WHERE task_search MATCH ?)) "
        "AS place FROM task_search JOIN task_documents AS d ON d.id = task_search.rowid "
        "WHERE task_search MATCH ?) AS hit ON hit.task_id = t.id "
        "ORDER BY hit.place DESC, hit.score DESC, t.created_at DESC, t.id LIMIT 50"
    ),
    "postgresql": (
        "SELECT {columns} FROM tasks AS t JOIN (SELECT task.id AS task_id, "
        "ts_rank('{{0.02, 0.1, 0.3, 1.0}}', search_tsvector, query) AS score, "
        "CASE WHEN ts_filter(search_tsvector, '{{a}}') @@ query THEN 2 "
        "WHEN ts_filter(search_tsvector, '{{a, b}}') @@ query THEN 1 ELSE 0 END AS place "
        "FROM tasks AS task, CAST(? AS tsquery) AS query WHERE search_tsvector @@ query) AS hit "
        "ON hit.task_id = t.id "
        "ORDER BY hit.place DESC, hit.score DESC, t.created_at DESC, t.id LIMIT 50"
    ),
}
SEARCH_PARAMETERS = {
    "sqlite": (
        f'{{title}} : ("{RARE_WORD}"*)',
        f'{{title description}} : ("{RARE_WORD}"*)',
        f'"{RARE_WORD}"*',
    ),
    "postgresql": (f"'{RARE_WORD}':*",),
}

READY = {
    "sqlite": (
        "SELECT {columns} FROM tasks AS t WHERE status = 'pending' "
        "AND (run_after IS NULL OR run_after <= ?) AND (depends_on IS NULL OR NOT EXISTS ("
        "SELECT 1 FROM json_each(t.depends_on) AS needed WHERE coalesce("
        "(SELECT n.status FROM tasks AS n WHERE n.id = needed.value), '') <> 'completed')) "
        f"ORDER BY {RANK} DESC, created_at, id LIMIT 50"
    ),
    "postgresql": (
        "SELECT {columns} FROM tasks AS t WHERE status = 'pending' "
        "AND (run_after IS NULL OR run_after <= ?) AND (depends_on IS NULL OR NOT EXISTS ("
        "SELECT 1 FROM jsonb_array_elements_text(t.depends_on) AS needed WHERE coalesce("
        "(SELECT n.status FROM tasks AS n WHERE n.id = needed.value), '') <> 'completed')) "
        f"ORDER BY {RANK} DESC, created_at, id LIMIT 50"
    ),
}

HIERARCHY = """
    WITH RECURSIVE
    above(id, parent_id, depth) AS (
        SELECT id, parent_id, 0 FROM hopper_instances WHERE id = ?
        UNION ALL
        SELECT up.id, up.parent_id, depth - 1 FROM above
        JOIN hopper_instances AS up ON up.id = above.parent_id
    ),
    below(id, depth) AS (
        SELECT id, 0 FROM hopper_instances WHERE id = ?
        UNION ALL
        SELECT down.id, depth + 1 FROM below
        JOIN hopper_instances AS down ON down.parent_id = below.id
    ),
    found(id, depth) AS (
        SELECT id, depth FROM above UNION ALL SELECT id, depth FROM below WHERE depth > 0
    )
    SELECT {columns} FROM found JOIN hopper_instances AS t ON t.id = found.id
    ORDER BY found.depth, t.name, t.id"""

# One reading of the table: what is asked for by strategy, by project and by confidence is added up
# from the combinations of the three, of which there are few.
DECISIONS = {
    "sqlite": (
        "SELECT coalesce(decided_by, 'unknown'), coalesce(project, 'unassigned'), "
        "min(9, CAST(confidence * 10 AS INTEGER)) AS bucket, COUNT(*), COUNT(confidence), "
        "SUM(confidence), COUNT(decision_time_ms), SUM(decision_time_ms) "
        "FROM routing_decisions GROUP BY 1, 2, 3"
    ),
    "postgresql": (
        "SELECT coalesce(decided_by, 'unknown'), coalesce(project, 'unassigned'), "
        "least(9, CAST(floor(confidence * 10) AS INTEGER)) AS bucket, COUNT(*), COUNT(confidence), "
        "SUM(confidence), COUNT(decision_time_ms), SUM(decision_time_ms) "
        "FROM routing_decisions GROUP BY 1, 2, 3"
    ),
}
RATED = (
    "SELECT COUNT(*), SUM(CASE WHEN was_good_match THEN 1 ELSE 0 END) FROM task_feedback AS f "
    "JOIN routing_decisions AS d ON d.task_id = f.task_id WHERE f.was_good_match IS NOT NULL"
)


def analytics(groups: list[tuple[object, ...]], rated: tuple[int, int | None]) -> dict[str, object]:
    """The answer from the rows of `DECISIONS` and the row of `RATED`."""
    total, by_strategy, by_project, histogram = [0, 0, 0.0, 0, 0.0], {}, {}, [0] * 10
    for strategy, project, bucket, *numbers in groups:
        mine = by_strategy.setdefault(strategy, [0, 0, 0.0, 0, 0.0])
        for part in (total, mine):
            for place, number in enumerate(numbers):
                part[place] += number or 0
        by_project[project] = by_project.get(project, 0) + numbers[0]
        if bucket is not None:
            histogram[bucket] += numbers[0]
    good = rated[1] or 0
    return {
        "total_decisions": total[0],
        "strategy_stats": {
            name: {
                "count": part[0],
                "avg_confidence": part[2] / part[1] if part[1] else None,
                "avg_decision_time_ms": part[4] / part[3] if part[3] else None,
            }
            for name, part in by_strategy.items()
        },
        "overall_avg_confidence": total[2] / total[1] if total[1] else None,
        "overall_avg_decision_time_ms": total[4] / total[3] if total[3] else None,
        "by_project": by_project,
        "confidence_histogram": [
            {"from": place / 10, "to": (place + 1) / 10, "count": count}
            for place, count in enumerate(histogram)
        ],
        "feedback_count": rated[0],
        "good_match_count": good,
        "good_match_rate": good / rated[0] if rated[0] else None,
    }


def statistics(counts: dict[str, int]) -> dict[str, int]:
    """The numbers of a project's tasks, zeros included."""
    return {"total_tasks": sum(counts.values()), **{name: counts.get(name, 0) for name in STATUSES}}
