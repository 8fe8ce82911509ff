"""A request to infer, out of a body, and its answers into one: JSON, with tensors in it or behind it.

Place in the flow: body ──decoded──▶ `Ask` and how its answers are to be written ──▶ … ──encoded──▶ body.

With a header that tells how long the JSON is, tensors of `binary_data_size` follow it, one after the other.
Nothing of what a stranger sent is trusted: sizes are compared before memory is taken.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.strict_json import MisfitError, parse
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.runtime.stages import Array
from s2dnas_deploy.serve.ask import (
    BYTES,
    Ask,
    Tensors,
    as_bytes,
    check_input,
    check_outputs,
    from_binary,
    from_numbers,
    options_from,
)

HEADER_LENGTH = "inference-header-content-length"
_BINARY_SIZE, _BINARY_OUTPUT, _BINARY_OUTPUTS = "binary_data_size", "binary_data", "binary_data_output"
_LARGEST_JSON, _MOST_REMEMBERED = 2**30, 4096


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What was asked, and which of the answers are to be in binary."""

    ask: Ask
    binary: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The JSON of a request: all of it but what may follow it."""

    id: str
    options: Mapping[str, Any]
    outputs: tuple[str, ...]
    binary: frozenset[str]
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    """Bytes that follow; None: the data are here."""
    data: Any = None


def decoded(body: bytes, header_length: str | None, tensors: Tensors) -> Decoded:
    """Read a request to infer; a `DataError` says what is wrong with it."""
    size = _header_size(header_length, len(body))
    head = (_read_once if size <= _MOST_REMEMBERED and size < len(body) else _read)(body[:size], tensors)
    behind = memoryview(body)[size:]
    if head.size is None:
        if len(behind):
            raise DataError(f"{len(behind)} bytes follow the JSON, and no input has a {_BINARY_SIZE}")
        images = _from_json(head.data, head.datatype, head.shape)
    else:
        if head.size != len(behind):
            raise DataError(f"inputs[0]: expected {head.size} bytes behind the JSON, got {len(behind)}")
        images = from_binary(behind, head.datatype, head.shape)
    ask = Ask(id=head.id, images=images, options=head.options, outputs=head.outputs)
    return Decoded(ask=ask, binary=head.binary)


def _read(header: bytes, tensors: Tensors) -> _Head:
    try:
        document = parse(header, largest_bytes=_LARGEST_JSON)
    except MisfitError as problem:
        raise DataError(f"the request: {problem}") from problem
    request = _object(document, "the request", {"id", "parameters", "inputs", "outputs"})
    parameters = _object(request.get("parameters", {}), "parameters")
    wanted = [
        _object(each, "outputs", {"name", "parameters"})
        for each in _list(request.get("outputs", []), "outputs")
    ]
    outputs = check_outputs([_text(each.get("name"), "outputs: name") for each in wanted], tensors)
    inputs = _list(request.get("inputs"), "inputs")
    if len(inputs) != 1:
        raise DataError(f"expected one input, got {len(inputs)}")
    tensor = _object(inputs[0], "inputs[0]", {"name", "shape", "datatype", "parameters", "data"})
    name, datatype = (_text(tensor.get(key), f"inputs[0].{key}") for key in ("name", "datatype"))
    shape = tuple(_count(each) for each in _list(tensor.get("shape"), "inputs[0].shape"))
    check_input(name, datatype, shape, tensors)
    size = _object(tensor.get("parameters", {}), "inputs[0].parameters").get(_BINARY_SIZE)
    if size is None and "data" not in tensor:
        raise DataError(f"inputs[0]: expected data, or {_BINARY_SIZE} and the data behind the JSON")
    return _Head(
        id=_text(request.get("id", ""), "id"),
        options=options_from(parameters, outputs),
        outputs=outputs,
        binary=_in_binary(wanted, outputs, whole=parameters.get(_BINARY_OUTPUTS, False)),
        datatype=datatype,
        shape=shape,
        size=None if size is None else _count(size),
        data=tensor.get("data"),
    )


_read_once = lru_cache(256)(_read)
"""Clients say the same with every image: what is asked is read once, as long as only the pixels change."""


def encoded(
    asked: Decoded, answers: Mapping[str, Array], tensors: Tensors, *, model: str, version: str
) -> tuple[bytes, int | None]:
    """The body of the answers, and how long its JSON is if something follows it."""
    told, behind = [], []
    for name, values in answers.items():
        datatype = tensors.answers[name].datatype
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if name in asked.binary:
            content = as_bytes(values) if datatype == BYTES else np.ascontiguousarray(values).tobytes()
            tensor["parameters"] = {_BINARY_SIZE: len(content)}
            behind.append(content)
        else:
            tensor["data"] = values.ravel().tolist()
        told.append(tensor)
    document: dict[str, Any] = {"model_name": model, "model_version": version}
    document |= {"id": asked.ask.id} if asked.ask.id else {}
    header = json.dumps({**document, "outputs": told}).encode()
    return b"".join((header, *behind)), len(header) if behind else None


def _header_size(given: str | None, size: int) -> int:
    if given is None:
        return size
    if not (given.isascii() and given.isdigit() and len(given) < 20 and int(given) <= size):
        raise DataError(
            f"{HEADER_LENGTH}: expected a number up to the {size} bytes of the body, got {shown(given)}"
        )
    return int(given)


def _from_json(data: Any, datatype: str, shape: Sequence[int]) -> Array | tuple[bytes, ...]:
    """Lists, flat or nested; files in base64."""
    if datatype == BYTES:
        items = _list(data, "inputs[0].data")
        if len(items) != shape[0]:
            raise DataError(f"expected {shape[0]} items of data, got {len(items)}")
        return tuple(_file(item) for item in items)
    try:
        values = np.asarray(data)
    except ValueError as problem:  # lists of different lengths
        raise DataError("inputs[0].data: expected lists of numbers, all of one length") from problem
    return from_numbers(values, datatype, shape)


def _file(item: Any) -> bytes:
    try:
        return base64.b64decode(_text(item, "inputs[0].data"), validate=True)
    except (binascii.Error, ValueError) as problem:
        raise DataError("inputs[0].data: expected files in base64, or in binary behind the JSON") from problem


def _in_binary(wanted: Sequence[Mapping[str, Any]], outputs: Sequence[str], *, whole: Any) -> frozenset[str]:
    if not isinstance(whole, bool):
        raise DataError(f"{_BINARY_OUTPUTS}: expected true or false, got {shown(whole)}")
    chosen = dict.fromkeys(outputs, whole)
    for each in wanted:
        own = _object(each.get("parameters", {}), "outputs: parameters", {_BINARY_OUTPUT})
        if not isinstance(own.get(_BINARY_OUTPUT, whole), bool):
            raise DataError(f"{_BINARY_OUTPUT}: expected true or false, got {shown(own[_BINARY_OUTPUT])}")
        chosen[each["name"]] = own.get(_BINARY_OUTPUT, whole)
    return frozenset(name for name, is_binary in chosen.items() if is_binary)


def _object(value: Any, where: str, known: set[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected an object, got {shown(value)}")
    unknown = [] if known is None else sorted(value.keys() - known)
    if unknown:
        raise DataError(f"{where}: expected {', '.join(sorted(known or ()))}, got {shown(unknown[0])}")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list, got {shown(value)}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: expected text, got {shown(value)}")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise DataError(f"expected a number of 0 or more, got {shown(value)}")
    return value
