"""Arguments that several repositories take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from hopper_data.errors import ValidationError
from hopper_data.fields import check_text_list, refuse, shorten

__all__ = ["distinct_texts", "seconds", "texts"]

_LONGEST_S = 366 * 86_400


def distinct_texts(value: Any, field: Any) -> list[str]:
    """One text or several, as a sorted list without repetitions; checked as an item of `field`."""
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise refuse(
            field, value, f"is {type(value).__name__}; it must be a text or a list of texts"
        )
    texts = [value] if isinstance(value, str) else list(value)
    check_text_list(texts, field)
    return sorted(set(field.comparable(texts)))


def texts(value: Any, name: str) -> list[str]:
    """One text or several, as a sorted list without repetitions, for the argument `name`."""
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise ValidationError(
            f"{name} is {type(value).__name__}; it must be a text or a list of texts", name
        )
    items = [value] if isinstance(value, str) else list(value)
    for item in items:
        if not isinstance(item, str) or not item or unstorable(item):
            raise ValidationError(
                f"{name} holds {shorten(item)}; every item must be a non-empty text", name
            )
    return sorted({str(item) for item in items})


def unstorable(text: str) -> bool:
    """Whether a text holds what no database can: a NUL, or half of a character."""
    return "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text)


def seconds(value: Any, name: str, *, minimum: float = 0) -> float:
    """A length of time, as a timedelta or as seconds, in seconds; a year at the most."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValidationError(
            f"{name} is {shorten(value)}; it must be a timedelta or a number of seconds", name
        )
    if not minimum <= number <= _LONGEST_S or not math.isfinite(number):
        raise ValidationError(
            f"{name} is {shorten(value)}; it must be {minimum:g} s or more, and a year at the most",
            name,
        )
    return float(number)
