import io
import json
import os
import stat
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hopper_data import (
    InvalidTransition,
    TaskRepository,
    ValidationError,
    create_database,
    transfer,
)
from hopper_data.database import Database
from hopper_data.session import open_session
from hopper_data.transfer import ImportReport, export_tasks, import_tasks

REAL_TASKS = Path(
    os.environ.get("HOPPER_TEST_TASKS_FILE")
    or Path(__file__).resolve().parents[2] / "shared" / "data" / "agent-tasks.jsonl"
)
FULL = {
    "id": "t-full",
    "title": "Everything € “quoted” 🎈\u2028 and a line separator",
    "description": "Line one\nline two\ttabbed",
    "project": "atlas",
    "status": "in_progress",
    "priority": "urgent",
    "requester": "mira",
    "owner": "ada",
    "external_id": "gh-1",
    "external_url": "https://example.com/1",
    "external_platform": "github",
    "source": "cli",
    "conversation_id": "c-1",
    "context": "why",
    "tags": ["b", "a", "b"],
    "required_capabilities": ["python"],
    "depends_on": ["t-later"],
    "blocks": [],
    "routing_confidence": 0.123456789012345,
    "routing_reasoning": "because",
    "feedback": {"nested": [1, 2.5, True, None, {"deep": "er"}], "empty": {}},
    "created_at": "2025-01-02T03:04:05.000006Z",
    "updated_at": "2025-02-03T04:05:06Z",
    "lease_expires_at": "2025-02-03T04:10:06.000007Z",
    "lease_token": "0f" * 16,
    "lease_s": 300.5,
    "attempts": 2,
    "max_attempts": 5,
    "run_after": "2025-02-03T04:00:00Z",
    "last_error": "it\ndid not work",
    "dedupe_key": "k-1",
}
LATER = {
    "id": "t-later",
    "title": "Comes later",
    "status": "completed",
    "priority": "low",
    "created_at": "2025-01-01T00:00:00Z",
    "updated_at": "2025-01-01T00:00:00Z",
}


def lines(*rows: dict[str, Any]) -> list[str]:
    return [json.dumps(row) + "\n" for row in rows]


def task(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"t-{number}", "title": f"Task {number}", **fields}


def stored(database: Database) -> list[dict[str, Any]]:
    with open_session(database) as session:
        return [row.to_dict() for row in TaskRepository(session).get_all()]


def exported(database: Database) -> list[dict[str, Any]]:
    target = io.BytesIO()
    export_tasks(target, database=database)
    return [json.loads(line) for line in target.getvalue().split(b"\n") if line]


def refused(database: Database, source: Any) -> ValidationError:
    """The error of an import that must not write anything."""
    before = stored(database)
    with pytest.raises(ValidationError) as caught:
        import_tasks(source, database=database)
    assert stored(database) == before
    return caught.value


# -- there and back -------------------------------------------------------------------------------


def test_what_was_imported_is_exported_as_it_was(database: Database) -> None:
    assert import_tasks(lines(FULL, LATER), database=database) == ImportReport(2, 0, 0)
    assert exported(database) == [FULL, LATER]


def test_a_second_import_touches_nothing(database: Database) -> None:
    import_tasks(lines(FULL, LATER), database=database)
    before = stored(database)
    report = import_tasks(lines(LATER, FULL), database=database)
    assert report == ImportReport(0, 0, 2)
    assert report.total == 2
    assert stored(database) == before


def test_an_unchanged_row_is_not_written(database: Database) -> None:
    import_tasks(lines(FULL, LATER), database=database)
    statements: list[str] = []
    database.query_hooks.append(lambda event: statements.append(event.sql))
    import_tasks(lines(FULL, LATER), database=database)
    database.query_hooks.clear()
    assert statements
    assert not [sql for sql in statements if "UPDATE tasks" in sql or "INSERT" in sql]


def test_an_export_can_be_imported_into_the_other_backend(
    database: Database, tmp_path: Path
) -> None:
    import_tasks(lines(FULL, LATER), database=database)
    export_tasks(tmp_path / "tasks.jsonl", database=database)
    other = create_database("sqlite:///other.db")
    from hopper_data import run_migrations

    run_migrations(database=other)
    import_tasks(tmp_path / "tasks.jsonl", database=other)
    assert exported(other) == [FULL, LATER]
    other.close_pool()


def test_floats_come_back_to_the_last_digit(database: Database) -> None:
    numbers = [0.1, 1 / 3, 0.30000000000000004, 5e-324, 0.9999999999999999, 1, 0]
    rows = [task(i, routing_confidence=x, feedback=[x, -x]) for i, x in enumerate(numbers)]
    import_tasks(lines(*rows), database=database)
    back = exported(database)
    assert [row["routing_confidence"] for row in back] == numbers
    assert [row["feedback"][0] for row in back] == numbers
    assert import_tasks(lines(*rows), database=database).unchanged == len(numbers)


@pytest.mark.skipif(not REAL_TASKS.is_file(), reason=f"there is no {REAL_TASKS.name}")
@pytest.mark.parametrize("backend", ["sqlite", "postgresql"], indirect=True)
def test_thousands_of_real_tasks_make_the_round_trip(database: Database, tmp_path: Path) -> None:
    with REAL_TASKS.open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in map(json.loads, file)}
    assert import_tasks(REAL_TASKS, database=database) == ImportReport(len(rows), 0, 0)
    assert export_tasks(tmp_path / "out.jsonl", database=database) == len(rows)
    with (tmp_path / "out.jsonl").open(encoding="utf-8") as file:
        assert {row["id"]: row for row in map(json.loads, file)} == rows
    assert import_tasks(REAL_TASKS, database=database) == ImportReport(0, 0, len(rows))
    with open_session(database) as session:
        tasks = TaskRepository(session)
        words = next(iter(rows.values()))["title"]
        assert tasks.search_tasks(f'"{words}"', limit=1)[0].title == words
        tag = next(tag for row in rows.values() for tag in row["tags"])
        assert len(tasks.get_tasks_by_tag(tag)) == sum(tag in row["tags"] for row in rows.values())
        ready = {
            key
            for key, row in rows.items()
            if row["status"] == "pending"
            and all(rows[other]["status"] == "completed" for other in row["depends_on"])
        }
        assert {found.id for found in tasks.get_ready_tasks()} == ready


# -- new and changed ------------------------------------------------------------------------------


def test_what_a_new_task_lacks_takes_its_default(database: Database) -> None:
    import_tasks(lines(task(1)), database=database)
    (row,) = stored(database)
    assert (row["status"], row["priority"], row["tags"]) == ("pending", "medium", None)
    assert row["created_at"] == row["updated_at"]


@pytest.mark.parametrize("given", ["created_at", "updated_at"])
def test_one_time_stamp_stands_for_both(database: Database, given: str) -> None:
    import_tasks(lines(task(1, **{given: "2024-05-06T07:08:09+02:00"})), database=database)
    (row,) = stored(database)
    assert row["created_at"] == row["updated_at"] == "2024-05-06T05:08:09Z"


def test_a_changed_task_is_updated_and_its_time_is_that_of_the_file(database: Database) -> None:
    import_tasks(lines(FULL, LATER), database=database)
    changed = {**LATER, "title": "Came later", "updated_at": "2025-06-01T00:00:00Z"}
    assert import_tasks(lines(FULL, changed), database=database) == ImportReport(0, 1, 1)
    assert exported(database) == [FULL, changed]


def test_without_a_time_in_the_file_a_change_is_stamped_now(database: Database) -> None:
    import_tasks(lines(LATER), database=database)
    begin = datetime.now(UTC)
    import_tasks(lines({"id": "t-later", "owner": "ada"}), database=database)
    with open_session(database) as session:
        row = TaskRepository(session).get_or_raise("t-later")
    assert (row.owner, row.title) == ("ada", LATER["title"])
    assert begin <= row.updated_at <= datetime.now(UTC)


def test_what_a_line_leaves_out_stays_and_null_empties(database: Database) -> None:
    import_tasks(lines(FULL, LATER), database=database)
    import_tasks(lines({"id": "t-full", "owner": None}), database=database)
    row = stored(database)[0]
    assert row["owner"] is None
    assert row["description"] == FULL["description"]


def test_true_is_not_one(database: Database) -> None:
    import_tasks(lines(task(1, feedback={"n": [1]}), task(2, feedback=[0])), database=database)
    changed = lines(task(1, feedback={"n": [True]}), task(2, feedback=[0.0]))
    assert import_tasks(changed, database=database) == ImportReport(0, 1, 1)
    assert stored(database)[0]["feedback"] == {"n": [True]}


def test_a_status_moves_on_as_the_transitions_allow(database: Database) -> None:
    import_tasks(lines(task(1), task(2)), database=database)
    report = import_tasks(lines(task(1, status="claimed"), task(2, title="!")), database=database)
    assert report == ImportReport(0, 2, 0)
    assert [row["status"] for row in stored(database)] == ["claimed", "pending"]


def test_a_status_that_may_not_follow_is_refused(database: Database) -> None:
    import_tasks(lines(task(1), task(2, status="completed")), database=database)
    error = refused(database, lines(task(1, title="!"), task(2, status="failed")))
    assert isinstance(error, InvalidTransition)
    assert (error.old, error.new, error.field) == ("completed", "failed", "status")
    assert str(error).startswith("line 2, field status: ")
    assert "can go to pending" in str(error)


def test_the_creation_of_a_task_never_changes(database: Database) -> None:
    import_tasks(lines(LATER), database=database)
    error = refused(database, lines({**LATER, "created_at": "2025-01-01T00:00:01Z"}))
    assert "line 1, field created_at:" in str(error)
    assert "2025-01-01T00:00:00Z" in str(error)


# -- dependencies ---------------------------------------------------------------------------------


def test_a_task_may_depend_on_a_later_line(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CHUNK_LINES", 2)
    rows = [task(i, depends_on=[f"t-{i + 1}"]) for i in range(1, 7)]
    import_tasks(lines(*rows, task(7)), database=database)
    with open_session(database) as session:
        assert [row.id for row in TaskRepository(session).get_ready_tasks()] == ["t-7"]


def test_a_circle_is_refused_with_its_first_line(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CHUNK_LINES", 2)
    rows = [task(0), *(task(i, depends_on=[f"t-{i % 5 + 1}"]) for i in range(1, 6))]
    error = refused(database, lines(*rows))
    assert str(error).startswith("line 2, field depends_on: would close a circle: ")
    assert "'t-5' depends on 't-1'" in str(error)
    assert error.field == "depends_on"


def test_a_circle_with_a_stored_task_is_refused(database: Database) -> None:
    import_tasks(lines(task(1, depends_on=["t-2"])), database=database)
    error = refused(database, lines(task(3), task(2, depends_on=["t-1"])))
    assert "line 2, field depends_on" in str(error)


def test_a_circle_that_a_later_line_opens_is_none(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_tasks(lines(task(1, depends_on=["t-2"]), task(2)), database=database)
    monkeypatch.setattr(transfer, "_CHUNK_LINES", 1)
    rows = [task(2, depends_on=["t-1"]), task(1, depends_on=[])]
    assert import_tasks(lines(*rows), database=database).changed == 2


# -- broken lines ---------------------------------------------------------------------------------

BROKEN = {
    "a word that is none of the vocabulary": (
        '{"id": "x", "title": "x", "priority": "urgnt"}',
        "line 3, field priority: 'urgnt' is not one of low, medium, high, urgent",
        "priority",
    ),
    "an unknown field": (
        '{"id": "x", "titel": "x"}',
        "line 3, field titel: Task has no field 'titel'; did you mean 'title'?",
        "titel",
    ),
    "no id": ('{"title": "x"}', "line 3, field id: is missing", "id"),
    "no title": ('{"id": "x"}', "line 3, field title: is missing", "title"),
    "an empty title": ('{"id": "x", "title": null}', "line 3, field title: cannot be", "title"),
    "an empty id": ('{"id": null, "title": "x"}', "line 3, field id: cannot be empty", "id"),
    "an id twice": ('{"id": "t-1", "title": "x"}', "line 3, field id: 't-1' is the id", "id"),
    "a key twice": ('{"id": "x", "id": "y"}', "line 3, field id: is given twice", "id"),
    "a number for text": ('{"id": "x", "title": 5}', "line 3, field title: 5 is int;", "title"),
    "too long a title": (
        json.dumps({"id": "x", "title": "x" * 501}),
        "line 3, field title: 'xxx",
        "title",
    ),
    "a naive time": (
        '{"id": "x", "title": "x", "created_at": "2025-01-01T00:00:00"}',
        "line 3, field created_at: '2025-01-01T00:00:00' is a naive time",
        "created_at",
    ),
    "a NUL character": ('{"id": "x", "title": "a\\u0000b"}', "line 3, field title:", "title"),
    "a lone surrogate": ('{"id": "x", "title": "\\ud800"}', "line 3, field title:", "title"),
    "a number that is none": (
        '{"id": "x", "title": "x", "routing_confidence": NaN}',
        "line 3, field routing_confidence: nan is not a finite number",
        "routing_confidence",
    ),
    "an infinity inside": (
        '{"id": "x", "title": "x", "feedback": [1e999]}',
        "line 3, field feedback: inf is not finite",
        "feedback",
    ),
    "tags that are no list": (
        '{"id": "x", "title": "x", "tags": "a"}',
        "line 3, field tags:",
        "tags",
    ),
    "no JSON": ("{'id': 'x'}", "line 3 is not JSON: ", None),
    "half a line": ('{"id": "x", "title": "x', "line 3 is not JSON: Unterminated", None),
    "two objects": ('{"id": "x", "title": "x"} {}', "line 3 is not JSON: Extra data", None),
    "a list": ('["id"]', "line 3 is ['id']; it must be a JSON object", None),
    "a text": ('"id"', "line 3 is 'id'; it must be a JSON object", None),
    "deep nesting": ("[" * 200_000, "line 3 is ", None),
    "a deep document": (
        '{"id": "x", "title": "x", "feedback": ' + "[" * 300 + "]" * 300 + "}",
        "line 3, field feedback:",
        "feedback",
    ),
    "too many digits": ('{"id": "x", "title": ' + "9" * 5000 + "}", "line 3 is not JSON", None),
}


def test_a_broken_line_is_named_and_nothing_is_written(database: Database) -> None:
    for what, (line, message, name) in BROKEN.items():
        error = refused(database, [*lines(task(1), task(2)), line + "\n", *lines(task(4))])
        assert str(error).startswith(message), what
        assert error.field == name, what


def test_a_broken_line_undoes_the_chunks_before_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CHUNK_LINES", 2)
    import_tasks(lines(task(1)), database=database)
    rows = [task(1, title="changed"), *(task(i) for i in range(2, 10)), task(10, status="done")]
    error = refused(database, lines(*rows))
    assert "line 10, field status: 'done' is not one of" in str(error)


def test_bytes_that_are_not_utf8_are_named(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"id": "a", "title": "a"}\n{"id": "b", "title": "\xe4"}\n')
    assert str(refused(database, path)) == "line 2 is not UTF-8: byte 23 is 0xe4"


def test_a_file_in_utf16_is_refused(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "wide.jsonl"
    path.write_bytes('{"id": "a"}\n'.encode("utf-16"))
    assert "line 1 is not UTF-8" in str(refused(database, path))


def test_an_endless_line_is_not_read_to_its_end(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "endless.jsonl"
    path.write_bytes(b'{"id": "a", "title": "a"}\n' + b" " * 5000 + b"{}")
    assert str(refused(database, path)) == "line 2 is longer than 1,000 bytes"


def test_a_line_of_megabytes_is_taken_in(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "huge.jsonl"
    text = "ä word " * 400_000
    path.write_text(json.dumps(task(1, description=text)), encoding="utf-8")
    import_tasks(path, database=database)
    assert stored(database)[0]["description"] == text


# -- kinds of sources -----------------------------------------------------------------------------


def test_marks_blank_lines_and_carriage_returns_are_skipped(
    database: Database, tmp_path: Path
) -> None:
    path = tmp_path / "windows.jsonl"
    rows = lines(task(1), task(2))
    path.write_text("\ufeff\r\n" + "\r\n  \t\r\n".join(row.strip() for row in rows), newline="")
    assert import_tasks(path, database=database).new == 2
    error = refused(database, [*path.read_text(encoding="utf-8").split("\n"), "{}"])
    assert str(error).startswith("line 5, field id: is missing")


@pytest.mark.parametrize("first", ["\ufeff{", b"\xef\xbb\xbf{"])
def test_a_mark_is_skipped_in_lines_too(database: Database, first: Any) -> None:
    rest = '"id": "a", "title": "a"}'
    line = first + (rest.encode() if isinstance(first, bytes) else rest)
    assert import_tasks([line], database=database).new == 1


def test_an_empty_file_is_no_tasks(database: Database, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert import_tasks(tmp_path / "empty.jsonl", database=database) == ImportReport(0, 0, 0)


@pytest.mark.parametrize("kind", ["path", "text path", "binary file", "text file", "lines"])
def test_a_source_may_be_of_many_kinds(database: Database, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(lines(FULL, LATER)), encoding="utf-8")
    sources: dict[str, Callable[[], Any]] = {
        "path": lambda: path,
        "text path": lambda: str(path),
        "binary file": lambda: io.BytesIO(path.read_bytes()),
        "text file": lambda: io.StringIO(path.read_text(encoding="utf-8")),
        "lines": lambda: iter(path.read_bytes().splitlines()),
    }
    assert import_tasks(sources[kind](), database=database).new == 2
    assert exported(database) == [FULL, LATER]


@pytest.mark.parametrize("text", [False, True])
def test_a_pipe_is_read_before_the_transaction_begins(database: Database, text: bool) -> None:
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.left = "".join(lines(task(1), task(2))).encode()

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            assert database.transaction_depth() == 0
            part, self.left = self.left[: len(buffer)], self.left[len(buffer) :]
            buffer[: len(part)] = part
            return len(part)

    binary = io.BufferedReader(Pipe(), 16)
    source: Any = io.TextIOWrapper(binary, encoding="utf-8") if text else binary
    assert import_tasks(source, database=database).new == 2


@pytest.mark.parametrize("source", [None, 5, b"{}", {"id": "a"}])
def test_what_is_no_source_is_refused(database: Database, source: Any) -> None:
    assert refused(database, source).field == "source"


def test_a_line_that_is_no_text_is_refused(database: Database) -> None:
    wrong: Any = [*lines(task(1)), {"id": "a"}]
    assert str(refused(database, wrong)) == "line 2 is dict; it must be text"


def test_progress_tells_how_many_bytes_were_done(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "_CHUNK_LINES", 3)
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(lines(*(task(i) for i in range(10)))), newline="")
    done: list[int] = []
    import_tasks(path, database=database, progress=done.append)
    assert len(done) == 4
    assert sum(done) == path.stat().st_size
    done.clear()
    export_tasks(tmp_path / "out.jsonl", database=database, progress=done.append)
    assert done == [3, 3, 3, 1]


# -- out ------------------------------------------------------------------------------------------


def test_an_export_of_nothing_is_an_empty_file(database: Database, tmp_path: Path) -> None:
    assert export_tasks(tmp_path / "out.jsonl", database=database) == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_an_export_may_be_narrowed(database: Database) -> None:
    import_tasks(lines(FULL, LATER), database=database)
    target = io.BytesIO()
    assert export_tasks(target, database=database, filters={"status": "completed"}) == 1
    assert json.loads(target.getvalue()) == LATER


def test_a_failed_export_leaves_the_file_that_was_there(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_tasks(lines(task(1), task(2)), database=database)
    path = tmp_path / "out.jsonl"
    path.write_text("as it was")

    def broken(_task: Any) -> bytes:
        raise OSError("the disk is full")

    monkeypatch.setattr(transfer, "_line", broken)
    with pytest.raises(OSError, match="disk is full"):
        export_tasks(path, database=database)
    assert path.read_text() == "as it was"
    assert list(tmp_path.glob(".*.part")) == []


def test_a_replaced_file_keeps_its_mode_and_a_link_its_target(
    database: Database, tmp_path: Path
) -> None:
    import_tasks(lines(task(1)), database=database)
    path, link = tmp_path / "out.jsonl", tmp_path / "link.jsonl"
    path.touch(mode=0o640)
    path.chmod(0o640)
    link.symlink_to(path)
    export_tasks(link, database=database)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert json.loads(path.read_text())["id"] == "t-1"


def test_a_device_is_written_to_and_not_replaced(database: Database) -> None:
    import_tasks(lines(task(1)), database=database)
    assert export_tasks("/dev/null", database=database) == 1
    assert not Path("/dev/null").is_file()


def test_a_folder_that_is_not_there_is_an_os_error(database: Database) -> None:
    with pytest.raises(FileNotFoundError):
        export_tasks("no/such/folder.jsonl", database=database)


@pytest.fixture
def two_databases(make_url: Callable[..., str]) -> Iterator[tuple[Database, Database]]:
    """Two ways to one PostgreSQL database."""
    url = make_url("postgresql")
    pair = create_database(url), create_database(url)
    yield pair
    for database in pair:
        database.close_pool()


def test_an_export_sees_one_moment(
    two_databases: tuple[Database, Database], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = two_databases
    import_tasks(lines(task(1), task(2)), database=writer)
    original = transfer._line

    def slow(row: Any) -> bytes:
        if row.id == "t-1":
            import_tasks(lines(task(2, title="changed"), task(3)), database=writer)
        return original(row)

    monkeypatch.setattr(transfer, "_line", slow)
    assert [row["title"] for row in exported(reader)] == ["Task 1", "Task 2"]
