"""From a JSON document back to the frozen records that it was made from, by their annotations.

Knows `int`, `float`, `str`, `Any`, `X | None`, `tuple[X, ...]`, `Mapping[str, X]` and dataclasses of those:
what the records of measurements are made of. A key that is missing or a value of another kind raises.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def from_document(kind: type[Record], document: Any) -> Record:
    """The record of a kind that a document is of."""
    hints = get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], document[field.name]) for field in fields(kind)})  # type: ignore[arg-type]


def _value(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return from_document(kind, value)  # type: ignore[arg-type]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        (known,) = (each for each in inner if each is not type(None))
        return None if value is None else _value(known, value)
    if origin is tuple:
        return tuple(_value(inner[0], each) for each in _expect(list, value))
    if origin is Mapping:
        return {key: _value(inner[1], each) for key, each in _expect(dict, value).items()}
    return _plain(kind, value)


def _plain(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    return float(_expect((int, float), value)) if kind is float else _expect(kind, value)


def _expect(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {kind}, got {str(value)[:60]!r}")
    return value
