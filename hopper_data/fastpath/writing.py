"""Parameters of normalized rows, by code that is made for each model from its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hopper_data import fields as kinds
from hopper_data.fields import dump_json, dump_texts
from hopper_data.model import BaseModel

__all__ = ["parameters", "row_parameters"]

Encode = Callable[[Mapping[str, Any]], tuple[Any, ...]]


def row_parameters(model: type[BaseModel], row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The parameters for the columns of a new row, in their order.

    Without the number that the database gives.
    """
    encode: Encode = model._meta.derived(_make_encoder)
    return encode(row)


def parameters(model: type[BaseModel], values: Mapping[str, Any]) -> list[Any]:
    """The parameters for some normalized values by field name, in their order."""
    encoders = model._meta.derived(_encoders)
    return [
        value if value is None or (encode := encoders[name]) is None else encode(value)
        for name, value in values.items()
    ]


def _encoders(model: type[BaseModel]) -> dict[str, Callable[[Any], Any] | None]:
    return {field.name: _encoder(field) for field in model._meta.sorted_fields}


def _make_encoder(model: type[BaseModel]) -> Encode:
    names: dict[str, Any] = {}
    items = []
    encoders = model._meta.derived(_encoders)
    fields = [field for field in model._meta.sorted_fields if not field.auto_increment]
    for number, field in enumerate(fields):
        encode = encoders[field.name]
        value = f"get({field.name!r})"
        if encode is not None:
            names[f"encode{number}"] = encode
            text = f"encode{number}(v)"
            if _is_moment(field):  # a new row has the same one twice
                text = f"text if v is moment else (text := encode{number}(moment := v))"
            value = f"None if (v := {value}) is None else {text}"
        items.append(value)
    source = (
        "def encode(row):\n"
        "    get = row.get\n"
        "    moment = text = None\n"
        f"    return ({', '.join(items)},)\n"
    )
    exec(compile(source, f"<parameters of {model.__name__}>", "exec"), names)  # noqa: S102  # ours
    return names["encode"]  # type: ignore[no-any-return]


def _is_moment(field: Any) -> bool:
    return type(field).encode is kinds.UTCDateTimeField.encode


def _encoder(field: Any) -> Callable[[Any], Any] | None:
    """What encodes a value of a field; None where it is given as it is."""
    if isinstance(field, kinds.ForeignKeyField):
        return _encoder(field.rel_field)
    if type(field).encode is kinds.CheckedField.encode:
        return None
    if type(field).encode is kinds.JSONField.encode:
        return dump_texts if field.items is str else dump_json
    encode: Callable[[Any], Any] = field.encode
    return encode
