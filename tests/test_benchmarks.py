"""The benchmark runs from end to end, and all whom it measures give the same answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from benchmarks.__main__ import main, parse
from benchmarks.claims import CLAIMINGS, put_in, rate, take_out
from benchmarks.data import World, fill, task_id
from benchmarks.drawing import draw
from benchmarks.gets import TITLES, measure_gets
from benchmarks.measuring import AnswersDiffer, check, comparable, measure
from benchmarks.operations import OPERATIONS, Operation
from benchmarks.page import duration
from benchmarks.queues import TAKES_ONE, open_queue, peers, queues
from benchmarks.results import Results
from benchmarks.sources import FromFile, MadeUp
from benchmarks.timing import Effort
from benchmarks.upkeep import measure_upkeep
from hopper_data import TaskRepository, create_database
from hopper_data.introspection import describe
from hopper_data.session import open_session

TASKS = 300
BY_KEY = {operation.key: operation for operation in OPERATIONS}


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def world(server: str, make_url: Callable[..., str]) -> Iterator[World]:
    database = create_database(make_url(server), slow_query_ms=60_000)
    yield fill(database, TASKS, MadeUp())
    database.close_pool()


def test_everybody_gives_the_same_answers(world: World) -> None:
    for operation in OPERATIONS:
        check(world, operation)


def test_a_session_of_its_own_is_inside_no_other(world: World) -> None:
    operation, depths = BY_KEY["session"], []

    def run(contender: Any, ids: Any) -> Any:
        depths.append(world.database.transaction_depth())
        return operation.run(contender, ids)

    check(world, replace(operation, run=run))
    assert {*depths} == {0}


@pytest.fixture
def real_tasks(tmp_path: Path) -> Path:
    """A file of eight tasks, with all that a text may have."""
    texts = ['a "b", c', "a\nb\r\n\\.\n\\", "", "é 🐝\t" * 50, "%s %(a)s ? :a {b}"]
    tasks: list[dict[str, Any]] = [
        {"id": f"t{number}", "title": f"Task {number}", "project": "a", "status": "pending"}
        | {"description": texts[number % 5], "tags": ["é", "b"], "priority": "high"}
        | {"created_at": f"2026-01-01T00:00:0{number}Z"}
        for number in range(8)
    ]
    tasks[2] |= {"depends_on": ["t1", "t7"], "project": None, "title": "long " * 100}
    tasks[3] |= {"status": "completed", "tags": None, "context": "c", "owner": "o"}
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return path


def test_everybody_gives_the_same_answers_on_real_tasks(
    server: str, make_url: Callable[..., str], real_tasks: Path
) -> None:
    source = FromFile(real_tasks)
    assert source.kind.tasks == 8
    database = create_database(make_url(server), slow_query_ms=60_000)
    world = fill(database, TASKS + 2, source)
    for operation in OPERATIONS:
        check(world, operation)
    with open_session(database, read_only=True) as session:
        tasks = TaskRepository(session)
        assert tasks.count({"status": "completed"}) == 38
        assert tasks.get_or_raise(task_id(10)).depends_on == [task_id(9), task_id(15)]
        assert tasks.get_or_raise(task_id(298)).depends_on == [task_id(297)]
        assert tasks.get_or_raise(task_id(1)).description == "a\nb\r\n\\.\n\\"
        assert [task.title[-7:] for task in tasks.search_tasks("lattice")] == ["lattice"]
    database.close_pool()


def test_what_is_written_is_taken_back(world: World) -> None:
    with open_session(world.database, read_only=True) as session:
        before = session.execute("SELECT COUNT(*), COUNT(owner) FROM tasks")
    for key in ("create", "bulk-create", "bulk-delete"):
        found = measure(world, BY_KEY[key], Effort(0, 1))
        assert {"driver", "hopper_data", "peewee"} <= set(found.seconds)
        assert all(seconds > 0 for seconds in found.seconds.values())
    with open_session(world.database, read_only=True) as session:
        assert session.execute("SELECT COUNT(*), COUNT(owner) FROM tasks") == before


def test_the_data_is_as_triggers_would_have_left_it(world: World) -> None:
    with open_session(world.database) as session:
        tasks = TaskRepository(session)
        assert len(tasks.get_tasks_by_tag("bug")) > 10
        (found,) = tasks.search_tasks("lattice")
        tasks.update(found.id, tags=["own"], title="Nothing of the kind")
        assert tasks.search_tasks("lattice") == []
        assert tasks.get_tasks_by_tag("own") == [found]
        waiting = next(task for task in tasks.get_all() if task.depends_on)
        assert waiting in tasks.get_dependent_tasks(waiting.depends_on[0])


def test_the_upkeep_of_the_indexes_leaves_the_table_as_it_was(world: World) -> None:
    with open_session(world.database, read_only=True) as session:
        before = describe(world.database)
    found = measure_upkeep(world, rows=5, rounds=1)
    assert {"search", "tags and dependencies"} <= set(found.parts)
    with open_session(world.database, read_only=True) as session:
        assert session.execute("SELECT COUNT(*) FROM tasks") == [(TASKS,)]
        assert describe(world.database) == before


def test_an_answer_that_differs_ends_the_run(world: World) -> None:
    def run(contender: object, _: object) -> list[str]:
        return [type(contender).__name__]

    odd: Operation = replace(BY_KEY["filter"], run=run)
    with pytest.raises(AnswersDiffer, match="Ours"):
        check(world, odd)


def test_asynchronous_gets_are_measured(world: World) -> None:
    for key in TITLES:
        found = measure_gets(world, key, rounds=1)
        assert {"driver", "hopper_data", "peewee"} <= set(found.seconds)


@pytest.mark.parametrize("finish", [False, True])
@pytest.mark.parametrize("many", [1, 10])
def test_every_queue_hands_out_all_of_its_tasks(world: World, many: int, finish: bool) -> None:
    url, server = world.database.url.render(hide_password=False), str(world.database.dialect)
    for name in queues(server):
        put_in(world, 30)
        queue = open_queue(name, server, url)
        tickets = iter([1, 30 // many - 1, 0])
        assert queue.work(many, finish, lambda tickets=tickets: next(tickets)) == 30, name
        queue.close()
        take_out(world)


@pytest.mark.parametrize("many", [1, 10])
def test_every_peer_hands_out_all_of_its_tasks(
    server: str, make_url: Callable[..., str], many: int
) -> None:
    url = make_url(server)
    for name in peers(server):
        if many > 1 and name in TAKES_ONE:
            continue
        queue: Any = open_queue(name, server, url)
        queue.fill(25)
        assert queue.work(many, finish=True, tickets=lambda: 0) == 25, name
        queue.close()


def test_tasks_that_are_left_over_end_the_run(world: World) -> None:
    put_in(world, 30)
    with pytest.raises(AssertionError, match=r"^30 tasks were left, and 0 taken that came later$"):
        take_out(world)
    with open_session(world.database) as session:
        assert session.execute("SELECT COUNT(*) FROM tasks") == [(TASKS,)]
        TaskRepository(session).claim_next("somebody")
    put_in(world, 30)
    with pytest.raises(AssertionError, match=r"^30 tasks were left, and 1 taken that came later$"):
        take_out(world)


def test_processes_share_a_queue(world: World) -> None:
    url, server = world.database.url.render(hide_password=False), str(world.database.dialect)
    for claiming in CLAIMINGS[1:3]:
        put_in(world, 40)
        assert rate("hopper_data", server, url, claiming, 40) > 0
        take_out(world)


def test_a_run_writes_a_page_and_its_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, real_tasks: Path
) -> None:
    page = tmp_path / "performance.md"
    monkeypatch.setattr("benchmarks.__main__.sizes", lambda _: [100, 200])
    for effort in ("GROWTH", "QUICK"):
        monkeypatch.setattr(f"benchmarks.__main__.{effort}", Effort(0, 1))
    chosen = "get,page,bulk-update,async,claim"
    monkeypatch.setattr("benchmarks.__main__.growing", lambda _: {*chosen.split(",")})
    arguments = ["--quick", "--backend=sqlite", f"--only={chosen}", "--size=200"]
    assert main([*arguments, f"--page={page}"]) == 0
    text = page.read_text()
    for line in ("get by key", "keyset page at 100", "50 concurrent asynchronous gets"):
        assert re.search(rf"^\| {line} \| [\d.]+ [µm]?s \| [\d.]+ [µm]?s \| ", text, re.M), line
    assert re.search(r"^\*\*In short.\*\* \d+ of \d+ goals are met\.$", text, re.M)
    assert re.search(r"^\| claim, in tens \| [\d,]+ \| [\d,]+ \| [\d*.]+ \| ≥ 0.85 \|", text, re.M)
    assert re.search(r"^\| operation \| 100 \| 200 \|$", text, re.M)
    assert re.search(r"^\| claim, in tens: a task \| [^|]+\) \| [^|]+\) \|$", text, re.M)
    assert "![Time per call at growing sizes, SQLite](performance-sqlite.svg)" in text
    assert Results.load(page.with_suffix(".json")).of("sqlite")
    picture = (tmp_path / "performance-sqlite.svg").read_text()
    assert picture.count("<circle") >= 2 * 2 * 3
    assert str(tmp_path) not in text + picture

    assert "Real tasks" not in text
    arguments = ["--quick", "--backend=sqlite", "--only=get", "--size=200", f"--page={page}"]
    assert main([*arguments, f"--tasks={real_tasks}"]) == 0
    before, after = page.read_text().split("## Real tasks")
    assert "that repeat the 8 of a file" in after.replace("\n", " ")
    assert "| get by key |" in before
    assert "| get by key |" in after
    assert real_tasks.name not in before + after

    assert main(["--quick", "--backend=sqlite", "--only=import", f"--page={page}"]) == 0
    assert "## Import" in page.read_text()
    assert "| get by key |" in page.read_text()


def test_a_name_that_is_no_operation_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--only", "get,gte"])
    assert "no operation gte" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--full", "--quick"], "--full goes neither"),
        (["--tasks=a", "--only=import"], "--tasks says nothing of import"),
        (["--tasks=a"], "there is no file a"),
        (["--size=0"], "--size is 0; it must be 1 or more"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert says in capsys.readouterr().err


def test_only_a_whole_run_writes_the_page_of_the_project() -> None:
    assert parse([]).page.name == "performance.md"
    assert parse([f"--tasks={__file__}"]).page.name == "performance.md"
    assert parse(["--full"]).page.name == "performance.md"
    assert [parse([flag]).page for flag in ("--quick", "--only=get", "--backend=sqlite")] == [
        None,
        None,
        None,
    ]


def test_curves_are_an_svg_of_one_panel_for_each_operation() -> None:
    curve = {10_000: 2e-5, 100_000: 3e-5, 1_000_000: 4e-4}
    picture = draw("A < B", {"get & set": {"driver": curve, "hopper_data": curve}})
    root = ET.fromstring(picture)
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"A < B", "get & set", "10k", "1M", "10 µs", "1 ms", "driver", "hopper_data"} <= {*texts}


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (0.00045, "450 µs"), (2e-7, "0.20 µs")],
)
def test_durations_have_three_digits(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_answers_are_compared_without_their_last_digits() -> None:
    one, other = {"average": [0.1 + 0.2, None]}, {"average": [0.3, None]}
    assert comparable(one) == comparable(other)
