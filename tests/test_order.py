"""Orders of several keys."""

from __future__ import annotations

from hopper_data import Project, ProjectRepository, Session
from hopper_data.querying import parse_order


def test_every_key_of_an_order_counts(session: Session) -> None:
    projects = ProjectRepository(session)
    for name, kind, slug in (("a", "human", "1"), ("b", "human", "2"), ("c", "agent", "3")):
        projects.create(name=name, slug=slug, executor_type=kind)

    found = projects.get_all(order_by="executor_type,-slug")

    assert [project.name for project in found] == ["c", "b", "a"]


def test_a_key_named_twice_counts_where_it_came_first() -> None:
    keys = parse_order(Project, "-slug,executor_type,slug")

    assert [(key.field.name, key.descending) for key in keys] == [
        ("slug", True),
        ("executor_type", False),
        ("name", False),
    ]
