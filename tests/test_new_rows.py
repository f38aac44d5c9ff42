"""New rows are what the fields make of them, whether or not the fields are asked."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import IntEnum, StrEnum
from typing import Any
from uuid import UUID

import peewee
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hopper_data import DatabaseError, Session, Task, TaskRepository, ValidationError, fastpath
from hopper_data.fastpath import checking, writing
from hopper_data.fastpath.generating import Regulars
from hopper_data.fields import (
    AutoField,
    CharField,
    EnumField,
    FloatField,
    IntegerField,
    JSONField,
    TextField,
    UTCDateTimeField,
)
from hopper_data.maintenance import all_models
from hopper_data.model import BaseModel, default_values, normalize_row
from hopper_data.repository import Repository
from tests.test_refusals import VALUES

MODELS = {model.__name__ + f" of {model.__module__}": model for model in all_models()}


class Word(str):
    """Text that is not quite text."""


class Mood(StrEnum):
    GOOD = "good"
    HIGH = "high"


EXAMPLES = ["E04", "E04-F01", "T-E04-F01-001", "a@b.example", "user", "todo"]
POOL = {
    **VALUES,
    **dict(zip(EXAMPLES, EXAMPLES, strict=True)),
    "own text": Word("a"),
    "other words": Mood.HIGH,
    "texts": ["é", Word("b")],
}


def base(model: type[BaseModel]) -> dict[str, Any]:
    """The least that a row needs."""
    return {
        field.name: next(value for value in POOL.values() if accepts(field, value))
        for field in model._meta.sorted_fields
        if not field.null and field.default is None and not field.auto_increment
    }


def accepts(field: Any, value: Any) -> bool:
    try:
        return value is not None and field.normalize(value) is not None
    except DatabaseError:
        return False


def outcome(make: Any, model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    before = dict(values)
    try:
        row = make(model, values)
    except DatabaseError as error:
        return type(error), str(error), vars(error)
    assert dict(values) == before
    _, made, moments = default_values(model)
    for name, _ in made + moments:
        if values.get(name) is None:
            row[name] = type(row[name])  # another one each time
    return {name: (type(value), repr(value)) for name, value in row.items()}


def agree(model: type[BaseModel], values: Mapping[str, Any]) -> None:
    expected = outcome(normalize_row, model, values)
    for _ in range(3):  # when the names are new, when they come again, and when they are known
        assert outcome(fastpath.new_row, model, values) == expected, values


def names_of(model: type[BaseModel]) -> list[str]:
    return [name for name in model._meta.combined if name != "__composite_key__"]


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_every_value_of_every_column_meets_the_same_end(model: type[BaseModel]) -> None:
    least = base(model)
    agree(model, least)
    for name in names_of(model):
        for value in POOL.values():
            agree(model, {**least, name: value})
            agree(model, {name: value, **least})


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_names_and_values_meet_the_same_end(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(list(all_models())))
    least = base(model) if data.draw(st.booleans()) else {}
    name = st.sampled_from([*names_of(model), "titel", "__composite_key__"])
    others = data.draw(st.dictionaries(name, st.sampled_from(list(POOL.values())), max_size=4))
    agree(model, {**others, **least})
    agree(model, {**least, **others})


def test_good_values_ask_no_field(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "title": "a",
        "project": "b",
        "status": "pending",
        "priority": "high",
        "source": None,
        "tags": ["c"],
        "attempts": 1,
        "routing_confidence": 0.5,
        "run_after": datetime.now(UTC),
    }
    known = Task._meta.derived(checking._makers)
    known.clear()
    monkeypatch.setattr(known, "_regulars", Regulars())
    for _ in range(2):
        fastpath.new_row(Task, values)  # from here on it is known how
    asked: list[Any] = []
    for field in Task._meta.sorted_fields:
        monkeypatch.setattr(field, "normalize", asked.append)
    monkeypatch.setattr(checking, "normalize_row", asked.append)
    row = fastpath.new_row(Task, values)
    assert {name: row[name] for name in values} == values
    assert asked == []


def test_a_list_is_copied() -> None:
    tags = ["a"]
    row = fastpath.new_row(Task, {"title": "t", "tags": tags})
    tags.append("b")
    assert row["tags"] == ["a"]


def test_both_times_of_a_new_row_are_one() -> None:
    row = fastpath.new_row(Task, {"title": "t"})
    assert row["created_at"] is row["updated_at"]
    assert row["created_at"] - datetime.now(UTC) < timedelta(seconds=1)


class Loud(TextField[str]):
    """A field with a will of its own."""

    def normalize(self, value: Any, field: Any = None) -> Any:
        return super().normalize(value, field).upper()


class Song(BaseModel):
    name = CharField(10, primary_key=True)
    text = Loud(null=True)
    mood = EnumField(Mood, default=Mood.GOOD)
    length_s = FloatField(minimum=0, null=True)
    notes = JSONField(null=True)
    label = CharField(20, null=True, constraints=[peewee.SQL("DEFAULT 'none'")])

    class Meta:
        table_name = "songs"


class SongRepository(Repository[Song]):
    model = Song


def test_a_field_of_ones_own_is_always_asked() -> None:
    assert fastpath.new_row(Song, {"name": "a", "text": "b"})["text"] == "B"


@pytest.mark.parametrize(
    "values",
    [
        {"name": "a", "text": "b", "mood": "high", "length_s": 1.5, "notes": [1]},
        {"name": "a" * 11},
        {"name": "a", "length_s": -1.0},
        {"name": "a", "length_s": float("inf")},
        {"name": "a", "length_s": float("nan")},
        {"name": "a", "mood": "bad"},
        {"name": "a", "mood": None},
        {"name": "a", "mood": []},
        {"name": "a", "notes": UUID(int=1)},
    ],
)
def test_models_of_others_are_checked_alike(values: dict[str, Any]) -> None:
    agree(Song, values)


def test_one_row_is_written_as_many_are(session: Session) -> None:
    session.database.create_tables([Song])
    songs = SongRepository(session)
    songs.create(name="one")
    songs.bulk_create([{"name": "two"}, {"name": "three"}])
    with fastpath.disabled():
        songs.create(name="four")
    assert {(song.label, song.mood) for song in songs.get_all()} == {(None, Mood.GOOD)}


def test_statements_differ_by_what_is_given_alone(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(title="a", owner="o")
    known = len(TaskRepository._statements)
    tasks.create(title="b", owner=None)
    tasks.create(title="c", owner="p", tags=None)
    assert len(TaskRepository._statements) <= known + 1
    assert [task.owner for task in tasks.get_all(order_by="title")] == ["o", None, "p"]


class Numbered(BaseModel):
    id = AutoField()
    text = TextField(null=True)


class NumberedRepository(Repository[Numbered]):
    model = Numbered


def test_a_number_is_enough_for_a_row(session: Session) -> None:
    session.database.create_tables([Numbered])
    rows = NumberedRepository(session)
    numbers = [rows.create().id, rows.create(id=None).id, rows.bulk_create([{}])[0].id]
    with fastpath.disabled():
        numbers.append(rows.create().id)
    assert numbers == [row.id for row in rows.get_all()] == [1, 2, 3, 4]
    assert rows.create(id=9).id == 9


class Even(IntegerField[int]):
    """A field whose range is not a range."""

    def check_range(self, value: Any, field: Any) -> None:
        super().check_range(value, field)
        if value % 2:
            raise ValidationError(f"{value} is odd; it must be even", "number")


class Least(IntEnum):
    ONE = 1


class Odd(BaseModel):
    """With all that Peewee lets a model say."""

    name = CharField(primary_key=True, constraints=[peewee.NodeList((peewee.SQL("CHECK (true)"),))])
    number = Even(null=True)
    least = IntegerField(minimum=Least.ONE, null=True)
    half = FloatField(minimum=Decimal("0.5"), null=True)


class OddRepository(Repository[Odd]):
    model = Odd


@pytest.mark.parametrize(
    "values",
    [{"number": 3}, {"number": 2}, {"least": 0}, {"least": 1}, {"half": 0.25}, {"half": 0.5}],
)
def test_bounds_of_any_kind_hold(values: dict[str, Any], session: Session) -> None:
    agree(Odd, {"name": "a", **values})
    session.database.create_tables([Odd])
    assert OddRepository(session).create(name="b").name == "b"


class Wide(BaseModel):
    """Of as many columns as are in every second row."""

    name = CharField(primary_key=True)
    a = TextField(null=True, default="a")
    b = IntegerField(null=True)
    c = JSONField(null=True)
    d = FloatField(null=True)
    e = UTCDateTimeField(null=True)
    f = TextField(null=True)
    g = EnumField(Mood, null=True)


class WideRepository(Repository[Wide]):
    model = Wide


def test_columns_may_come_in_all_sets_and_orders(session: Session) -> None:
    session.database.create_tables([Wide])
    wides, chance = WideRepository(session), random.Random(1)
    some = {"a": "x", "b": 1, "c": {"d": [1]}, "d": 0.5, "e": datetime.now(UTC), "f": "é"}
    values, expected, known = {**some, "g": "good"}, {}, len(WideRepository._statements)
    for number in range(400):
        given = {name: values[name] for name in chance.sample(sorted(values), number % 7)}
        row = wides.create(**given, name=f"row {number}")
        expected[row.name] = {**dict.fromkeys(values), "a": "a", **given}
        agree(Wide, {**given, "name": "n"})
    assert len(WideRepository._statements) - known <= 50 + 1
    for made in (checking._makers, writing._encoders):
        assert 10 < len(Wide._meta.derived(made)) <= 50
    for row in wides.get_all():
        assert {name: getattr(row, name) for name in values} == expected[row.name]
    # What is not known by now goes the way of all rows, and ends the same.
    with pytest.raises(ValidationError, match="names"):
        wides.create(names="n")


def test_names_that_do_not_exist_are_not_kept() -> None:
    known = Song._meta.derived(checking._makers)
    before = len(known)
    for number in range(10):
        for _ in range(3):
            with pytest.raises(ValidationError):
                fastpath.new_row(Song, {"name": "a", f"name{number}": 1})
    assert len(known) == before


class Wrapped(JSONField):
    """A field that stores more than it is given."""

    def encode(self, value: Any) -> Any:
        return super().encode({"v": value})

    def python_value(self, value: Any) -> Any:
        found = super().python_value(value)
        return found if found is None else found["v"]


class Thing(BaseModel):
    """With defaults of every kind, and an attribute of its own."""

    name = CharField(primary_key=True)
    data = Wrapped(null=True)
    listed = JSONField(default=[])
    at = UTCDateTimeField(
        default=lambda: datetime(2026, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))
    )
    word = CharField(5, default=lambda: "abc")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cache: dict[str, Any] = {}


class ThingRepository(Repository[Thing]):
    model = Thing


def test_what_others_declare_is_kept_to(session: Session) -> None:
    session.database.create_tables([Thing])
    things = ThingRepository(session)
    with fastpath.disabled():
        things.create(name="slow", data=[1])
    things.create(name="one", data=[1]).listed.append("mine")
    for number in range(3):
        things.create(name=f"again {number}", data=[1])
    things.bulk_create({"name": f"many {number}", "data": [1]} for number in range(30))
    things.update("one", data=[1])
    for found in (things.get_all(), [things.create(name="last", data=[1])]):
        for thing in found:
            assert (thing.data, thing.listed, thing.word) == ([1], [], "abc"), thing.name
            assert (thing.at, thing.cache) == (datetime(2026, 1, 1, tzinfo=UTC), {})
    assert things.count({"at": datetime(2026, 1, 1, tzinfo=UTC)}) == 36
    text = "CAST(data AS TEXT)"
    stored = session.execute(f"SELECT DISTINCT replace({text}, ' ', '') FROM thing")
    assert stored == [('{"v":[1]}',)]


class Hasty(BaseModel):
    name = CharField(primary_key=True)
    word = CharField(5, default=lambda: "abcdefgh")


def test_a_default_is_checked_as_a_value_is() -> None:
    for _ in range(3):
        with pytest.raises(ValidationError, match="word"):
            fastpath.new_row(Hasty, {"name": "a"})
    with fastpath.disabled(), pytest.raises(ValidationError, match="word"):
        fastpath.new_row(Hasty, {"name": "a"})
