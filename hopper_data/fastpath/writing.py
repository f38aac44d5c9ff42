"""Parameters of normalized values, by code that is made for each model from its fields."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from hopper_data import fields as kinds
from hopper_data.fastpath.generating import ByNames, Known, compiled
from hopper_data.fields import dump_json, dump_texts, json_text
from hopper_data.model import BaseModel

__all__ = ["parameters", "row_parameters"]

Encode = Callable[[Mapping[str, Any]], Sequence[Any]]


def row_parameters(model: type[BaseModel], row: Mapping[str, Any]) -> Sequence[Any]:
    """The parameters for the columns of a new row, in their order.

    Without the number that the database gives.
    """
    encode: Encode = model._meta.derived(_make_row_encoder)
    return encode(row)


def parameters(model: type[BaseModel], values: Mapping[str, Any]) -> Sequence[Any]:
    """The parameters for some normalized values by field name, in their order.

    What is not a field is left out.
    """
    encoders: ByNames[Encode] = model._meta.derived(_encoders)
    return encoders[tuple(values)](values)


def _encoders(model: type[BaseModel]) -> ByNames[Encode]:
    functions = {field.name: _encode_of(field) for field in model._meta.sorted_fields}

    def encode_any(values: Mapping[str, Any]) -> Sequence[Any]:
        return [
            value if value is None else functions[name](value)
            for name, value in values.items()
            if name in functions
        ]

    return ByNames(partial(_make_encoder, model), encode_any)


def _make_encoder(model: type[BaseModel], names: tuple[str, ...]) -> Encode | None:
    if not names:
        return None
    places = [f"v{place}" for place in range(len(names))]
    known = model._meta.fields
    fields = {
        place: known[name] for place, name in zip(places, names, strict=True) if name in known
    }
    return _encoder(model, fields, f"{', '.join(places)}, = values.values()")


def _make_row_encoder(model: type[BaseModel]) -> Encode:
    fields = [field for field in model._meta.sorted_fields if not field.auto_increment]
    return _encoder(model, {f"get({field.name!r})": field for field in fields}, "get = values.get")


def _encoder(model: type[BaseModel], fields: Mapping[str, Any], first: str) -> Encode:
    """The function that makes parameters of expressions, each for its field, after a line."""
    code: dict[str, Any] = {}
    items = []
    for number, (value, field) in enumerate(fields.items()):
        template, code[f"encode{number}"] = _encoding(field)
        text = template.format(encode=f"encode{number}")
        items.append(value if text == "v" else f"None if (v := {value}) is None else {text}")
    source = (
        "def encode(values):\n"
        f"    {first}\n"
        "    moment = text = None\n"
        f"    return ({', '.join(items)},)\n"
    )
    encode: Encode = compiled(source, f"parameters of {model.__name__}", code)
    return encode


def _encode_of(field: Any) -> Callable[[Any], Any]:
    if isinstance(field, kinds.ForeignKeyField):
        return _encode_of(field.rel_field)
    if type(field).encode is kinds.JSONField.encode:
        return dump_texts if field.items is str else dump_json
    encode: Callable[[Any], Any] = field.encode
    if isinstance(field, kinds.JSONField):
        return lambda value: json_text(encode(value))
    return encode


# How a value `v`, which is not None, is encoded: an expression of `{encode}`, and what that stands
# for.

Encoding = tuple[str, Any]


def _encoding(field: Any) -> Encoding:
    if isinstance(field, kinds.ForeignKeyField):
        return _encoding(field.rel_field)
    make = _ENCODINGS.get(type(field).encode)
    return make(field) if make else ("{encode}(v)", _encode_of(field))


_ENCODINGS: dict[Callable[..., Any], Callable[[Any], Encoding]] = {
    kinds.CheckedField.encode: lambda _: ("v", None),
    kinds.EnumField.encode: lambda field: ("{encode}[v]", Known(field.encode, field.enum)),
    kinds.JSONField.encode: lambda field: ("{encode}(v)", _encode_of(field)),
    # A new row has the same one twice.
    kinds.UTCDateTimeField.encode: lambda field: (
        "text if v is moment else (text := {encode}(moment := v))",
        field.encode,
    ),
}
