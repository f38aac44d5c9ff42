"""Workers that are killed, and a server that is restarted, lose nothing and do nothing twice."""

from __future__ import annotations

import pytest

from benchmarks.torture import Plan, places, torture


@pytest.mark.parametrize(
    ("backend", "plan"),
    [
        ("sqlite", Plan(tasks=300, workers=4, lease_s=3, kill_every_s=0.3)),
        ("postgresql", Plan(tasks=400, workers=4, lease_s=3, kill_every_s=0.3, restarts=1)),
    ],
)
def test_every_task_is_done_whoever_dies(backend: str, plan: Plan) -> None:
    with places(backend) as (database, restart):
        outcome = torture(database, plan, restart)
    assert outcome.violations == []
    assert outcome.completed == plan.tasks
    assert outcome.kills > 0
    assert outcome.restarts == plan.restarts
