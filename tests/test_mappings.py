"""`ExternalMappingRepository`: the issues on other platforms that tasks stand for."""

from __future__ import annotations

from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    ExternalMapping,
    ExternalMappingRepository,
    IntegrityError,
    Platform,
    Session,
    TaskRepository,
    ValidationError,
)


@pytest.fixture
def mappings(session: Session) -> ExternalMappingRepository:
    return ExternalMappingRepository(session)


def prepare(session: Session, *keys: str) -> None:
    TaskRepository(session).bulk_create({"id": key, "title": key} for key in keys)


def keys(found: list[ExternalMapping]) -> list[tuple[str, str, str]]:
    return [(mapping.task_id, mapping.platform, mapping.external_id) for mapping in found]


def test_a_task_is_linked_idempotently(
    mappings: ExternalMappingRepository, session: Session
) -> None:
    prepare(session, "a")
    first = mappings.link("a", "github", "42", "https://example.org/42")
    again = mappings.link("a", "github", "42", "https://example.org/42")
    assert first.to_dict() == again.to_dict()
    assert first.to_dict() == {
        "task_id": "a",
        "platform": "github",
        "external_id": "42",
        "external_url": "https://example.org/42",
    }
    assert mappings.count() == 1
    changed = mappings.link("a", Platform.GITHUB, "43")
    assert (changed.external_id, changed.external_url) == ("43", None)
    assert mappings.count() == 1
    assert mappings.get_by_external_id("github", "42") is None
    mappings.link("a", "gitlab", "43")
    mappings.link("a", "an own forge", "43")
    assert keys(mappings.get_mappings_by_task("a")) == [
        ("a", "an own forge", "43"),
        ("a", "github", "43"),
        ("a", "gitlab", "43"),
    ]


def test_a_task_is_found_by_its_issue(
    mappings: ExternalMappingRepository, session: Session
) -> None:
    prepare(session, "b", "a")
    for task, platform, issue in (("b", "github", "1"), ("a", "github", "1"), ("b", "gitlab", "2")):
        mappings.link(task, platform, issue)
    with assert_query_count(1):
        found = mappings.get_by_external_id("github", "1")
    assert found is not None
    assert found.task_id == "a"
    assert found.task.title == "a"
    other = mappings.get_by_external_id(Platform.GITLAB, "2")
    assert other is not None
    assert other.task_id == "b"
    assert mappings.get_by_external_id("gitlab", "1") is None
    assert mappings.get_by_external_id("GitHub", "1") is None
    assert mappings.get_mappings_by_task("none") == []


def test_a_key_of_two_columns_is_a_tuple(
    mappings: ExternalMappingRepository, session: Session
) -> None:
    prepare(session, "a", "b")
    mappings.bulk_create(
        {"task_id": task, "platform": platform, "external_id": "1"}
        for task in ("a", "b")
        for platform in ("github", "gitlab")
    )
    assert mappings.exists(("a", "github"))
    assert mappings.get(("a", "none")) is None
    assert mappings.get_or_raise(("b", "gitlab")).external_id == "1"
    assert mappings.update(("b", "gitlab"), external_id="2") is not None
    rows = [{"task_id": "a", "platform": "github", "external_id": "3"}]
    assert mappings.bulk_update(rows) == 1
    assert keys(mappings.filter({"external_id__ne": "1"})) == [
        ("a", "github", "3"),
        ("b", "gitlab", "2"),
    ]
    page = mappings.page(limit=3)
    assert keys(page.items)[-1] == ("b", "github", "1")
    assert keys(mappings.page(limit=3, after=page.next).items) == [("b", "gitlab", "2")]
    assert mappings.bulk_delete([("a", "github"), ("a", "none")]) == 1
    wrong: list[Any] = ["a", ("a",), ("a", "github", "x"), None, ("a", None)]
    for key in wrong:
        with pytest.raises(ValidationError, match=r"key of ExternalMapping|a key must be given"):
            mappings.get(key)


def test_a_link_is_taken_away(mappings: ExternalMappingRepository, session: Session) -> None:
    prepare(session, "a")
    mappings.link("a", "github", "1")
    assert mappings.unlink("a", "gitlab") is False
    assert mappings.unlink("a", "github") is True
    assert mappings.unlink("a", "github") is False
    assert mappings.count() == 0


def test_wrong_links_are_refused(mappings: ExternalMappingRepository, session: Session) -> None:
    prepare(session, "a")
    with pytest.raises(IntegrityError, match="task_id 'none' names a Task that does not exist"):
        mappings.link("none", "github", "1")
    wrong: list[tuple[Any, ...]] = [
        ("a", "x" * 51, "1"),
        ("a", "github", "x" * 101),
        ("a", "github", "1", "x" * 501),
        ("a", "github", 1),
        ("a", None, "1"),
        ("a", "github", None),
        (None, "github", "1"),
        ("a", "git\0hub", "1"),
    ]
    for arguments in wrong:
        with pytest.raises(ValidationError, match="ExternalMapping"):
            mappings.link(*arguments)
    mappings.create(task_id="a", platform="github", external_id="1")
    with pytest.raises(IntegrityError, match=r"task_id, platform \('a', 'github'\) is already"):
        mappings.create(task_id="a", platform="github", external_id="2")
    assert keys(mappings.get_all()) == [("a", "github", "1")]


def test_links_go_with_their_task(mappings: ExternalMappingRepository, session: Session) -> None:
    prepare(session, "a", "b")
    for task in ("a", "b"):
        for platform in ("github", "gitlab"):
            mappings.link(task, platform, "1")
    TaskRepository(session).delete("a")
    assert keys(mappings.get_all()) == [("b", "github", "1"), ("b", "gitlab", "1")]
