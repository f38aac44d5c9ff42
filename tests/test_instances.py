"""`HopperInstanceRepository`: the hierarchy, and the life of an instance."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from playhouse.test_utils import assert_query_count

from hopper_data import (
    HopperInstance,
    HopperInstanceRepository,
    IntegrityError,
    InvalidTransition,
    NotFound,
    Session,
    ValidationError,
)
from hopper_data.fields import utcnow

THEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def instances(session: Session) -> HopperInstanceRepository:
    return HopperInstanceRepository(session)


def ids(found: list[HopperInstance]) -> list[str]:
    return [instance.id for instance in found]


def fill(instances: HopperInstanceRepository, parents: dict[str, str | None]) -> None:
    instances.bulk_create(
        {"id": key, "name": f"name {key}", "scope": "PROJECT", "parent_id": parent}
        for key, parent in parents.items()
    )


TREE = {
    "root": None,
    "b": "root",
    "a": "root",
    "a2": "a",
    "a1": "a",
    "a1x": "a1",
    "b1": "b",
    "other": None,
    "other1": "other",
}


def test_an_instance_keeps_every_column(instances: HopperInstanceRepository) -> None:
    given: dict[str, Any] = {
        "id": "i" * 100,
        "name": "n" * 100,
        "scope": "ORCHESTRATION",
        "parent_id": None,
        "config": {"a": [1]},
        "status": "paused",
        "description": "long " * 1_000,
        "created_by": "c" * 100,
        "terminated_at": THEN,
        "created_at": THEN,
        "updated_at": THEN,
    }
    made = instances.create(**given)
    stored = instances.get_or_raise("i" * 100)
    for instance in (made, stored):
        assert {name: getattr(instance, name) for name in given} == given
        assert list(instance.to_dict()) == list(given)


WRONG: list[tuple[str, Any]] = [
    ("id", "x" * 101),
    ("name", "x" * 101),
    ("scope", "global"),
    ("scope", "TEAM"),
    ("status", "stopped"),
    ("status", "ACTIVE"),
    ("created_by", "x" * 101),
    ("config", {1: 2}),
    ("terminated_at", "yesterday"),
    ("parent_id", 5),
]


def test_what_is_wrong_is_refused(instances: HopperInstanceRepository) -> None:
    for column, value in WRONG:
        with pytest.raises(ValidationError, match=f"HopperInstance {column}") as caught:
            instances.create(**{"id": "a", "name": "a", "scope": "GLOBAL", column: value})
        assert caught.value.field == column
    assert instances.count() == 0


def test_a_parent_must_exist(instances: HopperInstanceRepository) -> None:
    with pytest.raises(IntegrityError, match="parent_id 'none' names a HopperInstance") as caught:
        instances.create(id="a", name="a", scope="PROJECT", parent_id="none")
    assert caught.value.constraint == "fk_hopper_instances_parent_id"
    fill(instances, {"a": None})
    for write in (
        lambda: instances.move_instance("a", "none"),
        lambda: instances.update("a", parent_id="none"),
        lambda: instances.bulk_update([{"id": "a", "parent_id": "none"}]),
    ):
        with pytest.raises(IntegrityError, match="'none' names a HopperInstance that does not"):
            write()
    assert instances.get_or_raise("a").parent_id is None


def test_one_is_found_by_scope_and_name(instances: HopperInstanceRepository) -> None:
    instances.bulk_create(
        {"id": key, "name": name, "scope": scope, "created_at": THEN + timedelta(hours=age)}
        for key, name, scope, age in (
            ("new", "same", "PROJECT", 2),
            ("old", "same", "PROJECT", 1),
            ("global", "same", "GLOBAL", 0),
        )
    )
    with assert_query_count(1):
        found = instances.get_instance_by_scope_and_name("PROJECT", "same")
    assert found is not None
    assert found.id == "old"
    assert instances.get_instance_by_scope_and_name("GLOBAL", "other") is None
    assert instances.get_instance_by_scope_and_name("ORCHESTRATION", "same") is None
    with pytest.raises(ValidationError, match="'project' is not one of GLOBAL, PROJECT"):
        instances.get_instance_by_scope_and_name("project", "same")


def test_lists_of_instances(instances: HopperInstanceRepository) -> None:
    fill(instances, TREE)
    with assert_query_count(1):
        assert ids(instances.get_child_instances("root")) == ["a", "b"]
    assert ids(instances.get_child_instances("root", skip=1)) == ["b"]
    assert instances.get_child_instances("root", limit=0) == []
    assert instances.get_child_instances("none") == []
    with assert_query_count(1):
        assert ids(instances.get_root_instances()) == ["other", "root"]
    assert ids(instances.get_root_instances(limit=1)) == ["other"]
    instances.pause_instance("a")
    instances.terminate_instance("b")
    with assert_query_count(1):
        active = ids(instances.get_active_instances())
    assert active == ["a1", "a1x", "a2", "b1", "other", "other1", "root"]
    assert ids(instances.get_active_instances(skip=1, limit=2)) == ["a1x", "a2"]
    with pytest.raises(ValidationError, match="skip is -1"):
        instances.get_root_instances(skip=-1)


# -- the hierarchy --------------------------------------------------------------------------------


HIERARCHIES: list[tuple[str, list[str]]] = [
    ("root", ["root", "a", "b", "a1", "a2", "b1", "a1x"]),
    ("a", ["root", "a", "a1", "a2", "a1x"]),
    ("a1", ["root", "a", "a1", "a1x"]),
    ("a1x", ["root", "a", "a1", "a1x"]),
    ("b", ["root", "b", "b1"]),
    ("other1", ["other", "other1"]),
    ("none", []),
]


def test_the_hierarchy_goes_from_the_root_down(instances: HopperInstanceRepository) -> None:
    fill(instances, TREE)
    for key, expected in HIERARCHIES:
        with assert_query_count(1):
            found = instances.get_instance_hierarchy(key)
        assert ids(found) == expected
        for instance in found:
            assert instance.to_dict() == instances.get_or_raise(instance.id).to_dict()


def test_the_hierarchy_of_a_thousand(instances: HopperInstanceRepository) -> None:
    chain = [f"c{number:04}" for number in range(1_000)]
    fill(instances, dict(zip(chain, [None, *chain[:-1]], strict=True)))
    wide = [f"w{number:04}" for number in range(1_000)]
    fill(instances, {"wide": None, **dict.fromkeys(wide, "wide")})
    for key in (chain[0], chain[500], chain[-1]):
        with assert_query_count(1):
            assert ids(instances.get_instance_hierarchy(key)) == chain
    with assert_query_count(1):
        assert ids(instances.get_instance_hierarchy("wide")) == ["wide", *wide]
    assert ids(instances.get_instance_hierarchy("w0500")) == ["wide", "w0500"]


def test_the_hierarchy_ends_in_a_circle(
    instances: HopperInstanceRepository, session: Session
) -> None:
    fill(instances, {"a": None, "b": "a", "c": "b", "d": "c", "self": None})
    session.execute("UPDATE hopper_instances SET parent_id = 'c' WHERE id = 'a'")
    session.execute("UPDATE hopper_instances SET parent_id = 'self' WHERE id = 'self'")
    for key in "abc":
        with assert_query_count(1):
            found = ids(instances.get_instance_hierarchy(key))
        assert sorted(found) == ["a", "b", "c", "d"]
    assert sorted(ids(instances.get_instance_hierarchy("d"))) == ["a", "b", "c", "d"]
    assert ids(instances.get_instance_hierarchy("self")) == ["self"]
    assert instances.move_instance("a", None) is not None
    assert ids(instances.get_instance_hierarchy("d")) == ["a", "b", "c", "d"]


def test_a_key_must_be_a_key(instances: HopperInstanceRepository) -> None:
    wrong: list[Any] = [None, 5, "a\0", ["a"]]
    for value in wrong:
        with pytest.raises(ValidationError, match="HopperInstance id"):
            instances.get_instance_hierarchy(value)


def test_an_instance_moves_with_all_that_stands_under_it(
    instances: HopperInstanceRepository,
) -> None:
    fill(instances, TREE)
    moved = instances.move_instance("a", "other")
    assert moved is not None
    assert moved.parent_id == "other"
    assert ids(instances.get_instance_hierarchy("a1x")) == ["other", "a", "a1", "a1x"]
    assert instances.move_instance("a", None) is not None
    assert ids(instances.get_root_instances()) == ["a", "other", "root"]
    assert instances.move_instance("none", "root") is None
    with pytest.raises(ValidationError, match="circle: 'a' stands under 'a1x'"):
        instances.move_instance("a", "a1x")
    assert instances.get_or_raise("a").parent_id is None


def test_an_instance_with_children_stays(instances: HopperInstanceRepository) -> None:
    fill(instances, TREE)
    with pytest.raises(IntegrityError, match="2 HopperInstance rows refer to this") as caught:
        instances.delete("root")
    assert caught.value.constraint == "fk_hopper_instances_parent_id"
    with pytest.raises(IntegrityError, match="1 HopperInstance row refers to this"):
        instances.delete("b")
    with pytest.raises(IntegrityError, match="refer"):
        instances.bulk_delete(["a2", "a1"])
    assert instances.count() == len(TREE)
    assert instances.bulk_delete(["a2", "a1", "a1x"]) == 3
    assert instances.delete("a") is True
    assert instances.bulk_delete(["root", "b", "b1"]) == 3


# -- its life -------------------------------------------------------------------------------------


def test_an_instance_rests_and_works_again(instances: HopperInstanceRepository) -> None:
    fill(instances, {"a": None})
    for change, status in (
        (instances.pause_instance, "paused"),
        (instances.pause_instance, "paused"),
        (instances.resume_instance, "active"),
        (instances.resume_instance, "active"),
    ):
        before = instances.get_or_raise("a").updated_at
        changed = change("a")
        assert changed is not None
        assert changed.status == status
        assert changed.terminated_at is None
        assert changed.updated_at > before
    for change in (
        instances.pause_instance,
        instances.resume_instance,
        instances.terminate_instance,
    ):
        assert change("none") is None


def test_an_instance_ends_once(instances: HopperInstanceRepository) -> None:
    fill(instances, {"a": None, "b": "a"})
    before = utcnow()
    ended = instances.terminate_instance("a")
    assert ended is not None
    assert ended.status == "terminated"
    assert ended.terminated_at is not None
    assert before <= ended.terminated_at <= utcnow()
    again = instances.terminate_instance("a")
    assert again is not None
    assert again.terminated_at == ended.terminated_at
    for change in (instances.pause_instance, instances.resume_instance):
        with pytest.raises(InvalidTransition, match="HopperInstance status cannot go from"):
            change("a")
    assert instances.get_or_raise("a").status == "terminated"
    assert instances.get_or_raise("b").status == "active"


def test_a_saved_instance_is_a_row(instances: HopperInstanceRepository) -> None:
    fill(instances, {"a": None, "b": None})
    instance = instances.get_or_raise("b")
    instance.parent_id = "a"
    assert instance.save() == 1
    assert instances.get_or_raise("b").parent_id == "a"
    assert instance.parent.name == "name a"
    assert [child.id for child in instance.parent.children] == ["b"]
    with pytest.raises(NotFound, match="does not exist"):
        HopperInstance(id="none", name="x", scope="GLOBAL").save()
