"""Parameters of normalized rows, by code that is made for each model from its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hopper_data import fields as kinds
from hopper_data.fields import dump_json
from hopper_data.model import BaseModel

__all__ = ["row_parameters"]

Encode = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def row_parameters(model: type[BaseModel], row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The parameters for the columns of a new row, in their order.

    Without the number that the database gives.
    """
    encode: Encode = model._meta.derived(_make_encoder)
    return encode(row)


def _make_encoder(model: type[BaseModel]) -> Encode:
    names: dict[str, Any] = {}
    items = []
    fields = [field for field in model._meta.sorted_fields if not field.auto_increment]
    for number, field in enumerate(fields):
        encode = _encoder(field)
        value = f"get({field.name!r})"
        if encode is not None:
            names[f"encode{number}"] = encode
            value = f"None if (v := {value}) is None else encode{number}(v)"
        items.append(value)
    source = f"def encode(row):\n    get = row.get\n    return ({', '.join(items)},)\n"
    exec(compile(source, f"<parameters of {model.__name__}>", "exec"), names)  # noqa: S102  # ours
    return names["encode"]  # type: ignore[no-any-return]


def _encoder(field: Any) -> Callable[[Any], Any] | None:
    """What encodes a value of a field; None where it is given as it is."""
    if isinstance(field, kinds.ForeignKeyField):
        return _encoder(field.rel_field)
    if type(field).encode is kinds.CheckedField.encode:
        return None
    if type(field).encode is kinds.JSONField.encode:
        return dump_json
    encode: Callable[[Any], Any] = field.encode
    return encode
