"""The keys of epics, features and tasks: `E04`, `E04-F01`, `T-E04-F01-001`.

The key of a child holds the key of its parent. One pattern for each kind of key makes both the
check in Python and the CHECK constraint of the column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import peewee
from peewee import Node

from hopper_data.fields import JSONField, TextField, refuse, shorten

__all__ = [
    "EPIC_KEY",
    "FEATURE_KEY",
    "TASK_KEY",
    "KeyField",
    "KeyPattern",
    "TaskKeysField",
    "epic_key_of",
    "feature_key_of",
]

_DIGITS = "0123456789"


@dataclass(frozen=True)
class KeyPattern:
    """What the keys of one kind look like: an example, in which each digit may be another one."""

    example: str

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        return re.compile(re.sub("[0-9]+", lambda run: f"[0-9]{{{len(run[0])}}}", self.example))

    def matches(self, text: object) -> bool:
        """Whether a text is such a key, from its first to its last character."""
        return isinstance(text, str) and self._regex.fullmatch(text) is not None

    def check_sql(self, column: str) -> str:
        """The condition that a column holds such a key, for both backends."""
        letters, digits = [], []
        for run in re.finditer("[0-9]+|[^0-9]+", self.example):
            part = f"substr({column}, {run.start() + 1}, {len(run[0])})"
            if run[0].isdigit():
                digits.append(part)
            else:
                letters.append(f"{part} = '{run[0]}'")
        return " AND ".join(
            [
                f"length({column}) = {len(self.example)}",
                *letters,
                f"ltrim({' || '.join(digits)}, '{_DIGITS}') = ''",
            ]
        )


EPIC_KEY: Final = KeyPattern("E04")
FEATURE_KEY: Final = KeyPattern("E04-F01")
TASK_KEY: Final = KeyPattern("T-E04-F01-001")

_EPIC_CHARACTERS = len(EPIC_KEY.example)
_FEATURE_CHARACTERS = len(FEATURE_KEY.example)
_TASK_PREFIX = "T-"


def epic_key_of(key: str) -> str:
    """The key of the epic that a feature or a task belongs to, going by its key."""
    return key.removeprefix(_TASK_PREFIX)[:_EPIC_CHARACTERS]


def feature_key_of(key: str) -> str:
    """The key of the feature that a task belongs to, going by its key."""
    return key.removeprefix(_TASK_PREFIX)[:_FEATURE_CHARACTERS]


class KeyField(TextField[str]):
    """A key of a given pattern."""

    def __init__(self, pattern: KeyPattern, **kwargs: Any) -> None:
        self.pattern = pattern
        super().__init__(**kwargs)

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> str:
        text: str = super().normalize(value, field)
        if not self.pattern.matches(text):
            raise refuse(field or self, text, f"is not a key such as {self.pattern.example!r}")
        return text

    def check_clause(self) -> str:
        return self.pattern.check_sql(f'"{self.column_name}"')


class TaskKeysField(JSONField):
    """A list of keys of tasks, which need not exist. Never NULL: without any it is empty."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(items=str, default=list, **kwargs)
        self.server_default = True

    def normalize(self, value: Any, field: peewee.Field[Any] | None = None) -> list[str]:
        keys: list[str] = super().normalize([] if value is None else value, field)
        for key in keys:
            if not TASK_KEY.matches(key):
                shown = shorten(key)
                raise refuse(
                    self, keys, f"holds {shown}, which is not a key such as {TASK_KEY.example!r}"
                )
        return keys

    def default_sql(self, dialect: str) -> str:  # noqa: ARG002 - one for both
        return "'[]'"

    def bind(self, model: Any, name: str, set_attribute: bool = True) -> None:
        super().bind(model, name, set_attribute)
        constraint = f"ck_{model._meta.full_name}_{self.column_name}"
        self.constraints = [_IsArray(constraint, self.column_name)]


class _IsArray(Node):
    """The CHECK that a column holds a JSON array."""

    def __init__(self, constraint: str, column: str) -> None:
        self.constraint = constraint
        self.column = column

    def __sql__(self, ctx: Any) -> Any:
        if ctx.state.dialect == "postgresql":
            condition = f"jsonb_typeof(\"{self.column}\") = 'array'"
        else:
            condition = f'json_valid("{self.column}") AND json_type("{self.column}") = \'array\''
        return ctx.literal(f'CONSTRAINT "{self.constraint}" CHECK ({condition})')
