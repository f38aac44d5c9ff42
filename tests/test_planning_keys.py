"""Keys: which are accepted, to the last character, in Python and by the database."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hopper_data import IntegrityError, Session, ValidationError
from hopper_data.planning import EPIC_KEY, FEATURE_KEY, TASK_KEY, Epic, Feature, KeyPattern, Task
from hopper_data.planning.keys import epic_key_of, feature_key_of
from tests.planning_data import Plan, plan, raw

__all__ = ["plan"]

PATTERNS = {
    EPIC_KEY: re.compile(r"E[0-9]{2}"),
    FEATURE_KEY: re.compile(r"E[0-9]{2}-F[0-9]{2}"),
    TASK_KEY: re.compile(r"T-E[0-9]{2}-F[0-9]{2}-[0-9]{3}"),
}
FIELDS = {EPIC_KEY: Epic.key, FEATURE_KEY: Feature.key, TASK_KEY: Task.key}
WRONG = [
    "",
    "E4",
    "E004",
    "e04",
    "E04 ",
    " E04",
    "E04\n",
    "E04\r",
    "E0\uff14",  # a digit, but not of ASCII
    "E\u0660\u0664",
    "\u041504",  # the first letter is Cyrillic
    "E04-F1",
    "E04-F001",
    "E04-F01\n",
    "E04_F01",
    "E04-f01",
    "E04\u2013F01",
    "T-E04-F01-01",
    "T-E04-F01-0001",
    "T-E04-F01-001\n",
    "t-E04-F01-001",
    "T_E04-F01-001",
    "T-E04-F01-00\u0661",
    "E04-F01-001",
    "T-E04-F01-001-a",
]
near_keys = st.text(st.sampled_from("TEF-0123456789\n\u0663 e"), max_size=14)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.example)
@pytest.mark.parametrize("text", WRONG, ids=ascii)
def test_what_is_almost_a_key_is_none(pattern: KeyPattern, text: str) -> None:
    assert not pattern.matches(text)
    with pytest.raises(ValidationError, match="is not a key such as") as caught:
        FIELDS[pattern].normalize(text)
    assert caught.value.field == "key"


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.example)
def test_only_a_text_is_a_key(pattern: KeyPattern) -> None:
    for value in (4, None, b"E04", ["E04"]):
        assert not pattern.matches(value)
        with pytest.raises(ValidationError):
            FIELDS[pattern].normalize(value)


@given(near_keys)
def test_a_pattern_is_its_regular_expression(text: str) -> None:
    for pattern, regex in PATTERNS.items():
        assert pattern.matches(text) == bool(regex.fullmatch(text))


@given(st.data())
def test_a_key_holds_those_of_its_parents(data: st.DataObject) -> None:
    key = data.draw(st.from_regex(PATTERNS[TASK_KEY], fullmatch=True))

    assert TASK_KEY.matches(key)
    assert FEATURE_KEY.matches(feature_key_of(key))
    assert EPIC_KEY.matches(epic_key_of(key))
    assert epic_key_of(feature_key_of(key)) == epic_key_of(key)
    assert key.startswith(f"T-{feature_key_of(key)}-")


def test_the_database_refuses_the_same_keys(session: Session) -> None:
    insert = raw(session).insert
    insert("planning_epics", id=1, key="E04", title="x")
    insert("planning_features", id=1, epic_id=1, key="E04-F01", title="x")
    for text in WRONG:
        for table, more in (
            ("planning_epics", {}),
            ("planning_features", {"epic_id": 1}),
            ("planning_tasks", {"feature_id": 1}),
        ):
            with pytest.raises(IntegrityError, match="ck_planning"):
                insert(table, key=text, title="x", **more)


def test_the_database_and_python_agree_on_every_text(session: Session) -> None:
    texts = [
        "E04",
        "E99",
        "E4",
        "E04-F01",
        "E04-F0",
        "T-E04-F01-001",
        "T-E04-F01-00x",
        "E0:",
        "E/1",
    ]
    for pattern in PATTERNS:
        sql = f"SELECT CASE WHEN {pattern.check_sql('x')} THEN 1 ELSE 0 END FROM (SELECT ? AS x) t"
        for text in texts:
            ((found,),) = session.execute(sql.replace("?", "CAST(? AS TEXT)"), (text,))
            assert bool(found) == pattern.matches(text), (pattern, text)


# -- against the parent's key ---------------------------------------------------------------------


def test_a_child_must_begin_with_its_parents_key(plan: Plan) -> None:
    epic = plan.epic(4)
    feature = plan.feature(epic, 1)
    with pytest.raises(ValidationError, match="must begin with 'E04'") as caught:
        plan.features.create(epic_id=epic.id, key="E05-F01", title="x")
    assert caught.value.field == "key"
    for key in ("T-E04-F02-001", "T-E05-F01-001"):
        with pytest.raises(ValidationError, match="must begin with 'T-E04-F01'"):
            plan.tasks.create(feature_id=feature.id, key=key, title="x")
        with pytest.raises(ValidationError, match="must begin with 'T-E04-F01'"):
            plan.tasks.bulk_create([plan.row(feature, 1), {**plan.row(feature, 2), "key": key}])
        with pytest.raises(ValidationError, match="must begin with 'T-E04-F01'"):
            plan.tasks.upsert(feature_id=feature.id, key=key, title="x")
        with pytest.raises(ValidationError, match="must begin with 'T-E04-F01'"):
            Task(feature=feature, key=key, title="x").save()
    assert (plan.features.count(), plan.tasks.count()) == (1, 0)


def test_a_key_does_not_change_under_its_children(plan: Plan) -> None:
    epic, other = plan.epic(4), plan.epic(5)
    feature = plan.feature(epic, 1)
    task = plan.task(feature)
    with pytest.raises(ValidationError, match="'E04-F01' must begin with 'E06'"):
        plan.epics.update(epic.id, key="E06")
    with pytest.raises(ValidationError, match="'E04-F01' must begin with 'E06'"):
        plan.epics.bulk_update([{"id": epic.id, "key": "E06"}])
    with pytest.raises(ValidationError, match="'T-E04-F01-001' must begin with 'T-E04-F02'"):
        plan.features.update(feature.id, key="E04-F02")
    with pytest.raises(ValidationError, match="'E04-F01' must begin with 'E05'"):
        plan.features.update(feature.id, epic_id=other.id)
    with pytest.raises(ValidationError, match="'T-E04-F01-001' must begin with 'T-E05-F01'"):
        plan.features.update(feature.id, epic_id=other.id, key="E05-F01")
    with pytest.raises(ValidationError, match="must begin with 'T-E04-F01'"):
        plan.tasks.update(task.id, key="T-E04-F02-001")
    assert plan.epics.get_by_key("E04")
    assert plan.features.get_by_key("E04-F01")
    assert plan.tasks.get_by_key("T-E04-F01-001")


def test_what_has_no_children_may_move_with_its_key(plan: Plan) -> None:
    epic, other = plan.epic(4), plan.epic(5)
    feature = plan.feature(epic, 1)

    moved = plan.features.update(feature.id, epic_id=other.id, key="E05-F07")
    renamed = plan.epics.update(epic.id, key="E09")

    assert moved is not None
    assert renamed is not None
    assert (moved.key, moved.to_dict()["epic_key"]) == ("E05-F07", "E05")
    assert renamed.key == "E09"


def test_several_keys_may_change_at_once(plan: Plan) -> None:
    feature = plan.feature()
    first, second = plan.many(feature, 2)

    changed = plan.tasks.bulk_update(
        [{"id": first.id, "key": "T-E04-F01-011"}, {"id": second.id, "key": "T-E04-F01-012"}]
    )

    assert changed == 2
    assert [task.key for task in plan.tasks.list_all()] == ["T-E04-F01-011", "T-E04-F01-012"]
