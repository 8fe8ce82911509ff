"""The JSON Schema of a record, by the same annotations by which `document` reads it: for other programs.

What several fields must have to do with each other no schema says. A record that stands in several places is
written once, under `$defs`.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from s2dnas_deploy.files.bounds import Above, Between, Length, Matching, Printable
from s2dnas_deploy.files.document import LONGEST_LIST, LONGEST_TEXT, Form, bounds_of, hints_of, tags_of

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PLAIN = {int: "integer", float: "number", bool: "boolean", str: "string"}
# Those that `quoting.is_shown` refuses.
_PRINTABLE = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]*$"


def schema_of(form: Form[Any], title: str) -> dict[str, Any]:
    """The schema of a kind of documents, all of whose keys are written."""
    assert form.head is not None, "a document for others says what it is"
    defined: dict[str, Any] = {}
    own = _record(form.record, defined)
    head = {"format": {"const": form.head.format}, "version": {"const": form.head.version}}
    return {
        "$schema": _DIALECT,
        "title": title,
        **own,
        "required": [*head, *own["required"]],
        "properties": {**head, **own["properties"]},
        "$defs": defined,
    }


def _record(kind: Any, defined: dict[str, Any]) -> dict[str, Any]:
    """An object with the keys of a record, all of them and no others."""
    hints = hints_of(kind)
    told = (kind.__doc__ or "").split("\n\n")[0]
    return {
        "description": " ".join(told.split()),
        "type": "object",
        "required": [each.name for each in fields(kind)],
        "additionalProperties": False,
        "properties": {name: _value(hint, defined) for name, hint in hints.items()},
    }


def _value(kind: Any, defined: dict[str, Any]) -> dict[str, Any]:
    bounds = bounds_of(kind)
    plain = get_args(kind)[0] if bounds else kind
    if is_dataclass(plain):
        name = plain.__name__  # type: ignore[union-attr]
        if name not in defined:
            defined[name] = {}  # stands there already, if it is met again inside
            defined[name] = _record(plain, defined)
        return {"$ref": f"#/$defs/{name}"}
    return _plain(plain, defined) | _bounded(plain, bounds)


def _plain(kind: Any, defined: dict[str, Any]) -> dict[str, Any]:
    if kind in _PLAIN:
        return {"type": _PLAIN[kind]}
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is Mapping:
        return {
            "type": "object",
            "propertyNames": _value(inner[0], defined),
            "additionalProperties": _value(inner[1], defined),
        }
    if origin is tuple and inner[1:] == (Ellipsis,):
        return {"type": "array", "items": _value(inner[0], defined)}
    if origin is tuple:
        items = [_value(each, defined) for each in inner]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    assert origin in (Union, UnionType), kind
    return {"oneOf": _alternatives(inner, defined)}


def _alternatives(kinds: tuple[Any, ...], defined: dict[str, Any]) -> list[dict[str, Any]]:
    known = tuple(each for each in kinds if each is not type(None))
    if len(known) > 1:
        tags_of(known)  # they can be told apart
    nothing: list[dict[str, Any]] = [{"type": "null"}] if len(known) < len(kinds) else []
    return [*nothing, *(_value(each, defined) for each in known)]


def _bounded(kind: Any, bounds: tuple[Any, ...]) -> dict[str, Any]:
    """The bounds of a value, in the schema's words."""
    found: dict[str, Any] = {}
    patterns = []
    noun = {str: "Length", tuple: "Items", Mapping: "Properties"}.get(get_origin(kind) or kind)
    if noun is not None and get_args(kind)[1:2] in ((), (Ellipsis,)):
        found[f"max{noun}"] = LONGEST_TEXT if kind is str else LONGEST_LIST
    for bound in bounds:
        if isinstance(bound, (Between, Above)):
            found["exclusiveMinimum" if isinstance(bound, Above) else "minimum"] = bound.low
            if bound.high < float("inf"):
                found["maximum"] = bound.high
        elif isinstance(bound, Length):
            found[f"min{noun}"] = max(bound.low, found.get(f"min{noun}", 0))
            found[f"max{noun}"] = bound.high
        elif isinstance(bound, Matching):
            patterns.append(f"^(?:{bound.pattern})$")
        elif isinstance(bound, Printable):
            patterns.append(_PRINTABLE)
    if len(patterns) == 1:
        found["pattern"] = patterns[0]
    elif patterns:
        found["allOf"] = [{"pattern": pattern} for pattern in patterns]
    return found
