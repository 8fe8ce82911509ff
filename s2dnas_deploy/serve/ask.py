"""What a request asks for, whatever it was spoken in: images, options and which answers are wanted.

Place in the flow: HTTP or gRPC ──▶ `Ask` ──▶ `Service.submit` ──▶ answers ──▶ `answers_of` ──▶ HTTP or gRPC.

Tensors are those of the Open Inference Protocol (KServe v2). There is one input, `image`: pixels as the
bundle's graphs take them, or whole files (JPEG, PNG, …) as BYTES. Of the answers, `probabilities` come only
if they are asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.runtime.pictures import Reader
from s2dnas_deploy.runtime.predictions import Predictions
from s2dnas_deploy.runtime.stages import Array

IMAGE = "image"
LABEL, NAME, CONFIDENCE, EXIT, PROBABILITIES = "label", "name", "confidence", "exit", "probabilities"
USUAL = (LABEL, NAME, CONFIDENCE, EXIT)
"""The answers that come where none are named."""
BYTES = "BYTES"
DATATYPES: Mapping[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
"""Of pixels; `check_input` lets no others in."""
_SETTING = "setting."
_IGNORED, _OF_TRITON = frozenset({"priority", "binary_data_output"}), "triton_"
"""Parameters that change nothing here, or are for the transport; Triton's clients send some unasked."""


@dataclass(frozen=True, kw_only=True)
class Named:
    """A tensor as metadata tells of it; -1 is any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tensors:
    """What a model reads, and what may be asked of it; each is only equal to itself."""

    image: Named
    answers: Mapping[str, Named]

    @staticmethod
    def of(manifest: Manifest) -> "Tensors":
        """A bundle's."""
        datatype = "UINT8" if manifest.image_type == "uint8" else "FP32"
        answers = (
            Named(name=LABEL, datatype="INT64", shape=(-1,)),
            Named(name=NAME, datatype=BYTES, shape=(-1,)),
            Named(name=CONFIDENCE, datatype="FP32", shape=(-1,)),
            Named(name=EXIT, datatype="INT64", shape=(-1,)),
            Named(name=PROBABILITIES, datatype="FP32", shape=(-1, len(manifest.labels))),
        )
        return Tensors(
            image=Named(name=IMAGE, datatype=datatype, shape=(-1, *manifest.image_shape)),
            answers={each.name: each for each in answers},
        )


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request, checked as far as it can be without its images: what `Service.submit` is told."""

    id: str
    images: Array | tuple[bytes, ...]
    """Pixels [N, …], or N files."""
    options: Mapping[str, Any]
    outputs: tuple[str, ...]


def answers_of(said: Predictions, labels: Sequence[str], outputs: Sequence[str]) -> dict[str, Array]:
    """The answers by name, as they are sent; names of classes as objects."""
    found: dict[str, Array] = {}
    for name in outputs:
        if name == NAME:
            found[name] = np.array([labels[label] for label in said.label], np.object_)
        elif name == PROBABILITIES:
            assert said.probabilities is not None, "they were asked for"
            found[name] = said.probabilities
        else:
            plain: Mapping[str, Array] = {LABEL: said.label, CONFIDENCE: said.confidence, EXIT: said.exit}
            found[name] = plain[name]
    return found


def check_input(name: str, datatype: str, shape: Sequence[int], tensors: Tensors) -> None:
    """That a tensor is the one that is read, of a type and shape that fit."""
    known = tensors.image
    if name != known.name:
        raise DataError(f"expected the input {known.name!r}, got {shown(name)}")
    if datatype == BYTES:
        if len(shape) != 1 or shape[0] < 1:
            raise DataError(f"expected {name!r} as BYTES [N], a file an item, got {list(shape)}")
        return
    fits = len(shape) == len(known.shape) and shape[0] >= 1 and tuple(shape[1:]) == known.shape[1:]
    if datatype != known.datatype or not fits:
        raise DataError(
            f"expected {name!r} as {known.datatype} [N, {', '.join(map(str, known.shape[1:]))}] or as BYTES "
            f"[N] (files: JPEG, PNG, …), got {shown(datatype)} {list(shape)}"
        )


def check_outputs(asked: Sequence[str], tensors: Tensors) -> tuple[str, ...]:
    """The answers that are wanted; where none are named, the usual ones."""
    for name in asked:
        if name not in tensors.answers:
            raise DataError(f"expected outputs among {', '.join(tensors.answers)}, got {shown(name)}")
    return tuple(dict.fromkeys(asked)) or USUAL


def options_from(parameters: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """What `Service.submit` is told, from the parameters of a request."""
    options: dict[str, Any] = {"probabilities": PROBABILITIES in outputs}
    settings: dict[str, str] = {}
    for name, value in parameters.items():
        if name in ("thresholds", "offsets"):
            options[name] = _numbers(name, value)
        elif name == "last_stage":
            options[name] = _whole(name, value)
        elif name == "deadline_ms":
            options[name] = _number(name, value)
        elif name == "timeout":  # microseconds, as Triton's clients give it
            options["deadline_ms"] = _number(name, value) / 1e3
        elif name.startswith(_SETTING):
            settings[name.removeprefix(_SETTING)] = str(value)
        elif name not in _IGNORED and not name.startswith(_OF_TRITON):
            raise DataError(
                "expected parameters among thresholds, offsets, last_stage, deadline_ms, timeout and "
                f"{_SETTING}NAME, got {shown(name)}"
            )
    return {**options, **({"settings": settings} if settings else {})}


def pixels_of(files: Sequence[bytes], reader: Reader) -> Array:
    """The pixels of files, which are decoded: that takes its time."""
    pixels = np.empty((len(files), *reader.shape), reader.dtype)
    for number, content in enumerate(files):
        pixels[number] = reader.from_file(content, f"image {number}")
    return pixels


def _numbers(name: str, value: Any) -> tuple[float, ...]:
    """Of a parameter that has several: a list, or text, for parameters of gRPC are single."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, (list, tuple)):
        parts = [parts]
    return tuple(_number(name, part) for part in parts)


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected a number, got {shown(value)}") from None


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if number != int(number):
        raise DataError(f"{name}: expected a whole number, got {shown(value)}")
    return int(number)


def as_files(raw: bytes | memoryview, count: int) -> tuple[bytes, ...]:
    """BYTES in binary: each item's length as 4 bytes, little end first, and the item."""
    view, at, found = memoryview(raw), 0, []
    for number in range(count):
        size = int.from_bytes(view[at : at + 4], "little")
        if len(view) < at + 4 + size:
            raise DataError(f"BYTES: item {number} of {count} ends before its length")
        found.append(bytes(view[at + 4 : at + 4 + size]))
        at += 4 + size
    if at != len(view):
        raise DataError(f"BYTES: {len(view) - at} bytes follow the last of {count} items")
    return tuple(found)


def as_bytes(values: npt.NDArray[np.object_]) -> bytes:
    """Text as BYTES in binary."""
    items = [str(value).encode() for value in values.ravel()]
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def from_binary(raw: bytes | memoryview, datatype: str, shape: Sequence[int]) -> Array | tuple[bytes, ...]:
    """A tensor of which the bytes are there."""
    if datatype == BYTES:
        return as_files(raw, shape[0])
    kind = DATATYPES[datatype]
    wanted = kind.itemsize * prod(shape)
    if len(raw) != wanted:
        raise DataError(f"expected {wanted} bytes for {datatype} {list(shape)}, got {len(raw)}")
    return np.frombuffer(raw, kind).reshape(shape)


def from_numbers(values: Array, datatype: str, shape: Sequence[int]) -> Array:
    """A tensor of which the numbers are there, of whatever type."""
    kind = DATATYPES[datatype]
    if values.dtype.kind not in ("iu" if kind.kind == "u" else "iuf") or values.size != prod(shape):
        raise DataError(f"{IMAGE}: expected {prod(shape)} numbers of {datatype}, got {values.size}")
    if kind.kind == "u" and not (values.min() >= 0 and values.max() <= np.iinfo(kind).max):
        raise DataError(f"{IMAGE}: expected numbers from 0 to {np.iinfo(kind).max}")
    return values.astype(kind).reshape(shape)
