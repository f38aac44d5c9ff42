"""Ways round the rules that were once open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hopper_data import (
    DatabaseConfig,
    DatabaseError,
    HopperInstanceRepository,
    Session,
    Task,
    TaskRepository,
    ValidationError,
    connect,
    create_database,
    get_schema_version,
    reset_database,
)
from hopper_data.database import Database, proxy
from hopper_data.session import open_session


@pytest.mark.parametrize("confirm", [False, "no", 1, None])
def test_only_true_is_consent_to_a_reset(database: Database, confirm: Any) -> None:
    with open_session(database) as session:
        TaskRepository(session).create(title="kept")
    with pytest.raises(ValidationError, match="confirm=True"):
        reset_database(database, confirm=confirm)
    with open_session(database) as session:
        assert TaskRepository(session).count() == 1


def test_a_configuration_made_by_hand_does_not_leave_production(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOPPER_ENV", "production")
    database = create_database(DatabaseConfig(url=f"sqlite:///{tmp_path}/kept.db"))
    with pytest.raises(DatabaseError, match="production"):
        reset_database(database, confirm=True)


def test_asking_for_the_version_makes_no_file(tmp_path: Path) -> None:
    path = tmp_path / "typo.db"
    connect(f"sqlite:///{path}")
    assert get_schema_version() is None
    assert not path.exists()
    proxy.initialize(None)


def test_a_key_too_long_for_its_column_is_one_that_no_row_has(session: Session) -> None:
    tasks = TaskRepository(session)
    assert tasks.delete("x" * 51) is False
    assert tasks.bulk_delete(["x" * 51]) == 0
    assert tasks.bulk_update([{"id": "x" * 51, "title": "a"}]) == 0


def test_a_query_of_peewee_obeys_the_transitions(session: Session) -> None:
    tasks = TaskRepository(session)
    tasks.create(id="a", title="a")
    assert Task.update(status="failed").where(Task.id == "a").execute() == 0
    assert tasks.get_or_raise("a").status == "pending"
    assert Task.update(status="claimed").where(Task.id == "a").execute() == 1


@pytest.mark.parametrize(
    "sql", ["; commit", "\ufeffcommit", "select 1; commit", "select 1; select 2"]
)
def test_a_session_is_not_ended_from_inside(session: Session, sql: str) -> None:
    with pytest.raises(ValidationError):
        session.execute(sql)
    assert session.execute("SELECT 'a;b' -- one; statement\n;") == [("a;b",)]


def test_an_instance_that_update_ended_still_gets_its_time(session: Session) -> None:
    instances = HopperInstanceRepository(session)
    instances.create(id="g", name="g", scope="GLOBAL")
    instances.update("g", status="terminated")
    ended = instances.terminate_instance("g")
    assert ended is not None
    assert ended.terminated_at is not None


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_none_is_no_parameter(session: Session, number: float) -> None:
    with pytest.raises(ValidationError, match="not a finite number"):
        session.execute("SELECT ?", (number,))
