"""Arguments that several repositories take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hopper_data.fields import check_text_list, refuse

__all__ = ["distinct_texts"]


def distinct_texts(value: Any, field: Any) -> list[str]:
    """One text or several, as a sorted list without repetitions; checked as an item of `field`."""
    if isinstance(value, bytes | Mapping) or not isinstance(value, Iterable):
        raise refuse(
            field, value, f"is {type(value).__name__}; it must be a text or a list of texts"
        )
    texts = [value] if isinstance(value, str) else list(value)
    check_text_list(texts, field)
    return sorted(set(field.comparable(texts)))
