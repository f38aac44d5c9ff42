"""Tasks in and out as JSON Lines: one task a line, a JSON object as `Task.to_dict()` makes it.

What is empty is left out. A file that was exported can be imported anywhere, and exporting it again
gives the same objects.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias, TypeVar

from hopper_data import rowsets
from hopper_data.database import Database
from hopper_data.errors import InvalidTransition, ValidationError
from hopper_data.fields import JSONField, shorten, utcnow
from hopper_data.migrations import target_database
from hopper_data.model import missing_fields, normalize_row
from hopper_data.repository import Filters
from hopper_data.routing.models import Task
from hopper_data.routing.repositories.tasks import TaskRepository
from hopper_data.session import open_session

__all__ = ["ImportReport", "export_tasks", "import_tasks"]

MAX_LINE_BYTES = 64 * 2**20
_CHUNK_LINES = 2_000
_CHUNK_BYTES = 4 * 2**20

T = TypeVar("T")
Progress: TypeAlias = Callable[[int], object]
Source: TypeAlias = "str | os.PathLike[str] | BinaryIO | Iterable[str | bytes]"


@dataclass(frozen=True)
class ImportReport:
    """How many tasks an import added, changed, and found to be as the file says."""

    new: int
    changed: int
    unchanged: int

    @property
    def total(self) -> int:
        """How many tasks the file has."""
        return self.new + self.changed + self.unchanged


# -- in -------------------------------------------------------------------------------------------


def import_tasks(
    source: Source, *, database: Database | None = None, progress: Progress | None = None
) -> ImportReport:
    """Take in tasks from JSON Lines: the path of a file, an open file, or the lines themselves.

    A task with a new id is added; of one that is there, the given fields are set, and one that is
    already as the line says is not touched. Time stamps are those of the file. Tasks may depend on
    tasks of later lines. Blank lines and a byte order mark are skipped.

    It is one transaction: a `ValidationError` names the first line, and the field, that is wrong
    (`line 17, field priority: …`), and then nothing was written. It is an `InvalidTransition` when
    a status may not follow the stored one.

    `progress` is called with how many bytes were done since it was last called.
    """
    with _reading(source) as lines, open_session(target_database(database)) as session:
        return _TaskImport(session).run(lines, progress or _ignore)


def _ignore(_done: int) -> None:
    """Nobody looks."""


class _Line(NamedTuple):
    """A line that was read: its number, its size, and its values by field name, normalized."""

    number: int
    size: int
    values: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.values["id"])


@dataclass
class _Changes:
    """What a chunk of lines comes to."""

    new: list[dict[str, Any]] = field(default_factory=list)
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = field(default_factory=list)
    unchanged: int = 0

    def rows(self) -> list[dict[str, Any]]:
        """The rows to write, by field name."""
        return [*self.new, *({**key, **changes} for key, changes in self.changed)]


class _TaskImport(TaskRepository):
    """Writes tasks chunk by chunk, and looks for circles when all of them are there."""

    def run(self, lines: Iterable[tuple[int, str | bytes]], progress: Progress) -> ImportReport:
        # First of all, as every other writer of dependencies does, or two would wait crosswise.
        self._take_turn()
        numbers: dict[str, int] = {}
        referring: list[str] = []
        new = changed = unchanged = 0
        for chunk in _chunks(_read(lines, numbers)):
            changes = self._compare(chunk)
            self._write(changes)
            new += len(changes.new)
            changed += len(changes.changed)
            unchanged += changes.unchanged
            referring += [row["id"] for row in changes.rows() if row.get("depends_on")]
            progress(sum(line.size for line in chunk))
        self._refuse_circle(referring, numbers)
        return ImportReport(new, changed, unchanged)

    def _compare(self, lines: list[_Line]) -> _Changes:
        stored = self._stored([line.id for line in lines])
        result = _Changes()
        for line in lines:
            row = stored.get(line.id)
            if row is None:
                result.new.append(_complete(line))
                continue
            changes = _differences(line, row)
            if changes:
                result.changed.append(({"id": line.id}, changes))
            else:
                result.unchanged += 1
        return result

    def _stored(self, ids: list[str]) -> dict[str, Task]:
        """The tasks that are there already, which nobody changes meanwhile."""
        fields = Task._meta.sorted_fields
        lock = "" if self.database.dialect == "sqlite" else " FOR UPDATE OF t"
        sql = (
            f"SELECT {rowsets.columns(fields, 't.')} FROM tasks AS t "
            f'JOIN {rowsets.rowset(self.database, [Task.id])} ON t."id" = v."id"{lock}'
        )
        document = rowsets.document([Task.id], [{"id": key} for key in ids])
        return {task.id: task for task in self._models(sql, (document,))}

    def _write(self, changes: _Changes) -> None:
        with self._explaining(changes.rows()):
            if changes.new:
                self._insert(changes.new)
            if changes.changed:
                self._bulk_update(changes.changed)

    def _without_circle(self, _rows: Any, write: Callable[[], T]) -> T:
        # The chunks to come may add to a circle, or open it again.
        return write()

    def _refuse_circle(self, ids: list[str], numbers: Mapping[str, int]) -> None:
        circle = self._find_circle(ids) if ids else []
        if circle:
            number = min(numbers[key] for key in circle if key in numbers)
            _refuse(number, self._describe(circle), "depends_on")


def _complete(line: _Line) -> dict[str, Any]:
    """The row of a new task."""
    values = line.values
    meta: Any = Task._meta
    row: dict[str, Any] = {**meta.get_default_dict(), **values}
    if "created_at" in values or "updated_at" in values:
        row["created_at"] = values.get("created_at", row["updated_at"])
        row["updated_at"] = values.get("updated_at", row["created_at"])
    else:
        row["updated_at"] = row["created_at"]
    error = missing_fields(Task, row)
    if error:
        _refuse(line.number, str(error), error.field)
    return row


def _differences(line: _Line, stored: Task) -> dict[str, Any]:
    """The fields of a stored task that the line changes, with their new values."""
    fields = Task._meta.fields
    changes = {
        name: value
        for name, value in line.values.items()
        if not _same(fields[name], value, stored.__data__[name])
    }
    if "created_at" in changes:
        _refuse(
            line.number,
            f"the task was created at {stored.to_dict()['created_at']}, and that never changes",
            "created_at",
        )
    if "status" in changes and stored.status not in Task.status.sources(changes["status"]):
        raise InvalidTransition(
            stored.status,
            changes["status"],
            map(str, (Task.status.transitions or {})[stored.status]),
            subject=f"line {line.number}, field status: Task status",
        )
    if changes and "updated_at" not in line.values:
        changes["updated_at"] = utcnow()
    return changes


def _same(column: Any, new: Any, old: Any) -> bool:
    return _same_json(new, old) if isinstance(column, JSONField) else bool(new == old)


def _same_json(new: Any, old: Any) -> bool:
    """Whether two documents are equal; Python takes True for 1, JSON does not."""
    if isinstance(new, bool) or isinstance(old, bool):
        return new is old
    if isinstance(new, dict) and isinstance(old, dict):
        return new.keys() == old.keys() and all(_same_json(new[key], old[key]) for key in new)
    if isinstance(new, list) and isinstance(old, list):
        return len(new) == len(old) and all(map(_same_json, new, old))
    return bool(new == old)


# -- lines ----------------------------------------------------------------------------------------


@contextmanager
def _reading(source: Source) -> Iterator[Iterable[tuple[int, str | bytes]]]:
    """The lines of a source, with their numbers."""
    if isinstance(source, str | os.PathLike):
        with Path(source).open("rb") as file:
            yield _number(_bounded(file))
    elif hasattr(source, "readline"):
        with _whole(source) as file:
            yield _number(_bounded(file))
    elif isinstance(source, bytes | Mapping) or not isinstance(source, Iterable):
        raise ValidationError(
            f"source is {type(source).__name__}; it must be a path, an open file or lines", "source"
        )
    else:
        yield _number(source)


@contextmanager
def _whole(file: Any) -> Iterator[Any]:
    """An open file; what comes through a pipe is taken in whole first.

    However slowly it comes, no transaction is open meanwhile that others would wait for.
    """
    if not hasattr(file, "seekable") or file.seekable():
        yield file
        return
    mode = "w+b" if isinstance(file.read(0), bytes) else "w+"
    with tempfile.SpooledTemporaryFile(8 * 2**20, mode) as copy:
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        yield copy


def _bounded(file: Any) -> Iterator[str | bytes]:
    # One more than is allowed, so that a file without line ends is noticed and not read whole.
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def _number(lines: Iterable[str | bytes]) -> Iterator[tuple[int, str | bytes]]:
    for number, line in enumerate(lines, 1):
        if not isinstance(line, str | bytes):
            _refuse(number, f"is {type(line).__name__}; it must be text")
        yield number, _without_mark(line) if number == 1 else line


def _without_mark(line: str | bytes) -> str | bytes:
    """A first line without the byte order mark that some programs write."""
    if isinstance(line, str):
        return line.removeprefix("\ufeff")
    return line.removeprefix(b"\xef\xbb\xbf")


def _read(lines: Iterable[tuple[int, str | bytes]], numbers: dict[str, int]) -> Iterator[_Line]:
    """The lines with a task. `numbers` takes up the line of each id."""
    for number, raw in lines:
        if len(raw) > MAX_LINE_BYTES:
            _refuse(number, f"is longer than {MAX_LINE_BYTES:,} bytes")
        if not raw.strip():
            continue
        line = _Line(number, len(raw), _normalize(number, _parse(number, raw)))
        first = numbers.setdefault(line.id, number)
        if first != number:
            _refuse(number, f"{shorten(line.id)} is the id of line {first} already", "id")
        yield line


def _parse(number: int, raw: str | bytes) -> dict[str, Any]:
    try:
        text = raw if isinstance(raw, str) else raw.decode()
        value = _decoder.decode(text.rstrip("\r\n"))
    except _RepeatedKeyError as error:
        _refuse(number, "is given twice", error.key)
    except json.JSONDecodeError as error:
        _refuse(number, f"is not JSON: {error.msg.removesuffix(' at')} at column {error.colno}")
    except UnicodeDecodeError as error:
        _refuse(
            number, f"is not UTF-8: byte {error.start + 1} is 0x{error.object[error.start]:02x}"
        )
    except RecursionError:
        _refuse(number, "is nested too deeply")
    except ValueError as error:
        _refuse(number, f"is not JSON that can be read: {error}")
    if not isinstance(value, dict):
        _refuse(number, f"is {shorten(value)}; it must be a JSON object, the fields of a task")
    return value


class _RepeatedKeyError(Exception):
    """An object of JSON names a key twice, of which Python would keep the last in silence."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedKeyError(next(name for name in names if names.count(name) > 1))
    return result


_decoder = json.JSONDecoder(object_pairs_hook=_as_object)


def _normalize(number: int, values: dict[str, Any]) -> dict[str, Any]:
    try:
        row = normalize_row(Task, values, partial=True)
    except ValidationError as error:
        _refuse(number, str(error), error.field)
    if "id" not in row:
        _refuse(number, "is missing; without it the task could not be found again", "id")
    return row


def _refuse(number: int, reason: str, name: str | None = None) -> NoReturn:
    if name is None:
        raise ValidationError(f"line {number} {reason}")
    reason = reason.removeprefix(f"Task {name} ")
    raise ValidationError(f"line {number}, field {name}: {reason}", name)


def _chunks(lines: Iterable[_Line]) -> Iterator[list[_Line]]:
    chunk: list[_Line] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += line.size
        if len(chunk) >= _CHUNK_LINES or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


# -- out ------------------------------------------------------------------------------------------


def export_tasks(
    target: str | os.PathLike[str] | BinaryIO,
    *,
    database: Database | None = None,
    filters: Filters | None = None,
    progress: Progress | None = None,
) -> int:
    """Write the tasks as JSON Lines to the path of a file or to an open file; how many they were.

    They are as they stood together at one moment, in the order of their ids. Memory stays constant.
    A file that was at the path is replaced when all is written, and not before. `progress` is
    called with how many tasks were done since it was last called.
    """
    report = progress or _ignore
    with (
        open_session(target_database(database), read_only=True) as session,
        _writing(target) as file,
    ):
        count = 0
        for count, task in enumerate(TaskRepository(session).iterate(filters), 1):
            file.write(_line(task))
            if count % _CHUNK_LINES == 0:
                report(_CHUNK_LINES)
        report(count % _CHUNK_LINES)
    return count


_UNTOUCHED = {name: Task._meta.fields[name].default for name in ("attempts", "max_attempts")}
"""What a task has that no worker has taken; a line without it means the same."""


def _line(task: Task) -> bytes:
    data = {
        name: value
        for name, value in task.to_dict().items()
        if value is not None and value != _UNTOUCHED.get(name)
    }
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


@contextmanager
def _writing(target: str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    path = Path(target).resolve()
    if path.exists() and not path.is_file():
        # A pipe or a device cannot be replaced.
        with path.open("wb") as file:
            yield file
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            yield file
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
