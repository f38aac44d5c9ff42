"""Markdown task files: YAML front matter, and a heading that is the title.

    ---
    task_key: T-E04-F01-001
    status: todo
    feature: docs/plan/E04-core/E04-F01-database-schema
    created: 2025-12-14
    assigned_agent: ada
    dependencies: [T-E04-F01-002]
    ---

    # Models and schema

What a file says is taken as it is or not at all: nothing is guessed. Other names in the front
matter are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

from hopper_data.errors import ValidationError
from hopper_data.fields import shorten
from hopper_data.model import normalize_row
from hopper_data.planning.keys import FEATURE_KEY, TASK_KEY, feature_key_of
from hopper_data.planning.models import Task
from hopper_data.planning.vocabulary import TaskStatus

__all__ = ["TaskFile", "parse_task_file"]


@dataclass(frozen=True)
class TaskFile:
    """What a file says of its task: `key`, and the normalized `fields` that it gives a value."""

    key: str
    fields: dict[str, Any]


def parse_task_file(content: bytes) -> TaskFile:
    """What the content of a file says; a `ValidationError` tells why it cannot be taken."""
    matter, body = _split(_decode(content))
    data = _load(matter)
    key = _task_key(data)
    _check_feature(data.get("feature"), key)
    fields: dict[str, Any] = {"title": _title(body), "status": _status(data)}
    if data.get("created") is not None:
        fields["created_at"] = _moment(data["created"])
    if "assigned_agent" in data:
        fields["assigned_agent"] = _text(data["assigned_agent"], "assigned_agent")
    if "dependencies" in data:
        fields["depends_on"] = _dependencies(data["dependencies"])
    return TaskFile(key, normalize_row(Task, fields, partial=True))


def _refuse(message: str, field: str | None = None) -> ValidationError:
    return ValidationError(message, field)


# -- front matter ---------------------------------------------------------------------------------


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _refuse(f"the file is not UTF-8 (see byte {error.start + 1})") from None


def _split(text: str) -> tuple[str, list[str]]:
    """The front matter, and the lines behind it."""
    lines = re.split(r"\r\n|\r|\n", text)
    start = next((number for number, line in enumerate(lines) if line.strip()), None)
    if start is None or lines[start].rstrip() != "---":
        raise _refuse("there is no front matter: the file does not begin with a line '---'")
    for end in range(start + 1, len(lines)):
        if lines[end].rstrip() in ("---", "..."):
            return "\n".join(lines[start + 1 : end]), lines[end + 1 :]
    raise _refuse("the front matter does not end with a line '---'")


def _load(matter: str) -> dict[Any, Any]:
    import yaml

    try:
        data = yaml.load(matter, Loader=_loader())  # noqa: S506 - a kind of SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        # The line of '---' is the first one of the file.
        place = f" in line {mark.line + 2} of the file" if mark else ""
        raise _refuse(f"the front matter is not YAML: {error.problem}{place}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error).partition("\n")[0]
        raise _refuse(f"the front matter is not YAML: {reason}") from None
    except RecursionError:
        raise _refuse("the front matter is not YAML that can be read: too deep") from None
    if not isinstance(data, dict):
        raise _refuse("the front matter does not consist of names and values")
    return data


@cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader, which takes the last of two values of one name; this refuses them."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """A mapping without a name that occurs twice."""
            names: set[str] = set()
            for key, _ in getattr(node, "value", ()):
                name = key.value if isinstance(key, yaml.ScalarNode) else None
                if name in names:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{shorten(name)} occurs twice", key.start_mark
                    )
                names.update([name] if name else [])
            return super().construct_mapping(node, deep)

    return Loader


def _kind(value: Any) -> str:
    """A value for a message; of what is no scalar the type alone, since it may be endless."""
    scalar = isinstance(value, str | int | float | date)
    return shorten(value) if scalar else type(value).__name__


def _task_key(data: Mapping[Any, Any]) -> str:
    key = data.get("task_key")
    if key is None:
        raise _refuse("task_key is missing", "task_key")
    if not TASK_KEY.matches(key):
        raise _refuse(
            f"task_key {_kind(key)} is not a key such as {TASK_KEY.example!r}", "task_key"
        )
    return str(key)


def _status(data: Mapping[Any, Any]) -> TaskStatus:
    status = data.get("status")
    if status is None:
        raise _refuse("status is missing", "status")
    try:
        return TaskStatus(status)
    except (ValueError, TypeError):
        choices = ", ".join(TaskStatus)
        raise _refuse(f"status {_kind(status)} is not one of {choices}", "status") from None


# Behind the key nothing, or words set off from it.
_FEATURE = re.compile(r"(E[0-9]{2}-F[0-9]{2})([^0-9A-Za-z].*[0-9A-Za-z].*)?")


def _check_feature(feature: Any, key: str) -> None:
    """A feature is named by its key, or by a path in which a name begins with its key."""
    text = _text(feature, "feature")
    if text is None:
        return
    matches = (_FEATURE.fullmatch(name) for name in re.split(r"[/\\]", text))
    named = {match[1] for match in matches if match}
    if not named:
        raise _refuse(
            f"feature {_kind(feature)} does not name a key such as {FEATURE_KEY.example!r}",
            "feature",
        )
    if named != {feature_key_of(key)}:
        others = ", ".join(sorted(named))
        raise _refuse(f"feature {others!r} is not the one of task_key {key!r}", "feature")


def _moment(created: Any) -> datetime:
    """A day is its beginning; a time without a zone is in UTC, as YAML has it."""
    moment = created
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise _refuse(
                f"created {_kind(created)} is not a date in ISO 8601", "created"
            ) from None
    if isinstance(moment, datetime):
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if isinstance(moment, date):
        return datetime(moment.year, moment.month, moment.day, tzinfo=UTC)
    raise _refuse(f"created {_kind(created)} is not a date", "created")


def _text(value: Any, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value or None
    raise _refuse(f"{name} {_kind(value)} is not a text", name)


def _dependencies(value: Any) -> list[str]:
    keys = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(keys, list):
        raise _refuse(f"dependencies {_kind(value)} is not a list", "dependencies")
    for key in keys:
        if not TASK_KEY.matches(key):
            raise _refuse(
                f"dependencies holds {_kind(key)}, which is not a key such as {TASK_KEY.example!r}",
                "dependencies",
            )
    return keys


# -- title ----------------------------------------------------------------------------------------

_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_NO_TEXT = re.compile(r"\s*$| {4}|\t| {0,3}([-*+>#|]|[0-9]+[.)])")


def _title(lines: Iterable[str]) -> str:
    """The text of the first heading that has one, of either kind that Markdown knows."""
    before = ""
    for line in _without_code(lines):
        heading = _HEADING.fullmatch(line)
        if heading and heading[1].strip("# \t"):
            return str(heading[1]).strip()
        if _UNDERLINE.fullmatch(line) and not _NO_TEXT.match(before):
            return before.strip()
        before = line
    raise _refuse("there is no heading to be the title", "title")


def _without_code(lines: Iterable[str]) -> Iterable[str]:
    text = re.sub(r"<!--.*?-->", "", "\n".join(lines), flags=re.DOTALL)
    fence = ""
    for line in text.split("\n"):
        match = _FENCE.fullmatch(line)
        if not fence and match:
            fence = match[1]
        elif not fence:
            yield line
        elif match and match[1].startswith(fence) and not match[2].strip():
            fence = ""
