"""What an ONNX file says of itself, read without the onnx package: inputs, outputs, and that it is whole.

Place in the flow: a device checks a graph before onnxruntime sees it. A graph may name other files: tensors
with data outside, nodes of a compiled context. None may, here, for a bundle comes from anyone's hands and
onnxruntime would read them. So every message of the file is visited, by `onnx_schema`, and what is
not known is refused: to pass over it would be to trust that onnxruntime passes over it, too.

Limits: a million fields in all, and messages 100 deep, which is what onnxruntime's own reader allows.
Reading takes a time that is linear in the number of fields; weights are not looked at.
"""

from dataclasses import dataclass

from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.onnx_schema import MESSAGES, Field
from s2dnas_deploy.files.protobuf import BYTES, EIGHT_BYTES, FOUR_BYTES, NUMBER, Allowance, fields_of
from s2dnas_deploy.quoting import shown

LARGEST_GRAPH_BYTES = 2**31  # no ONNX file is larger that keeps its data within itself
_MOST_FIELDS = 1_000_000
_DEEPEST = 100
_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
_WIRE = {"int64": NUMBER, "int32": NUMBER, "float": FOUR_BYTES, "double": EIGHT_BYTES}  # others: BYTES
_OUTSIDE = "the ONNX file refers to data in another file; expected one that is whole in itself"
_REFUSED = {
    ("tensor", 13): _OUTSIDE,  # external_data
    ("model", 20): "the ONNX file holds graphs for training; export the network for inference",
}
_DATA_LOCATION, _OPERATOR = ("tensor", 14), ("node", 4)
_READS_FILES = b"EPContext"  # a compiled graph of some provider, which may lie in another file
_ORT_MARK = b"ORTM"  # from byte 4 on: by it onnxruntime knows a format of its own, of other rules

# Fields by their numbers, of the messages that tell inputs and outputs.
_GRAPH, _INPUT, _OUTPUT, _NAME, _TYPE = 7, 11, 12, 1, 2
_TENSOR, _ELEMENT, _SHAPE, _DIMENSION, _SIZE = 1, 1, 2, 1, 1


@dataclass(frozen=True, kw_only=True)
class GraphValue:
    """A graph's input or output: name, element type, and shape with None for a free dimension."""

    name: str
    type: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class GraphSignature:
    """All inputs and outputs of a graph, in order."""

    inputs: tuple[GraphValue, ...]
    outputs: tuple[GraphValue, ...]


def read_signature(content: bytes) -> GraphSignature:
    """The inputs and outputs of an ONNX file that is whole and keeps all its data within itself."""
    if content[4:8] == _ORT_MARK:
        raise BundleError("expected an ONNX file, got one in onnxruntime's own format")
    model, allowance = memoryview(content), Allowance(fields=_MOST_FIELDS)
    _check(model, "model", allowance, 0)
    graphs = _parts(model, _GRAPH)
    if not graphs:
        raise BundleError("expected an ONNX file with a graph, found none in it")
    return GraphSignature(
        inputs=tuple(_value(each) for each in _parts(graphs[0], _INPUT)),
        outputs=tuple(_value(each) for each in _parts(graphs[0], _OUTPUT)),
    )


# --- every message, whatever it says -----------------------------------------------------------------------


def _check(message: memoryview, kind: str, allowance: Allowance, depth: int) -> None:
    """Refuse a message that has anything in it that is not known, said twice, or outside of the file."""
    if depth > _DEEPEST:
        raise BundleError(f"the ONNX file has messages more than {_DEEPEST} deep")
    known = MESSAGES[kind]
    said: set[int | str] = set()
    for number, wire, value in fields_of(message, allowance):
        field = known.get(number)
        if field is None:
            raise BundleError(_REFUSED.get((kind, number), _unknown(kind, number)))
        once = field.one_of or number
        if not field.many and once in said:
            raise BundleError(f"the ONNX file says field {number} of a {kind} twice, which has two meanings")
        said.add(once)
        if wire != _WIRE.get(field.scalar or "", BYTES) and not _is_packed(field, wire):
            raise BundleError(_unknown(kind, number))
        if field.message is not None and isinstance(value, memoryview):
            _check(value, field.message, allowance, depth + 1)
        elif isinstance(value, int):
            _check_number(value, field, (kind, number))
        elif (kind, number) == _OPERATOR and bytes(value) == _READS_FILES:
            raise BundleError("the ONNX file has an EPContext node, which may read other files")


def _check_number(value: int, field: Field, place: tuple[str, int]) -> None:
    if place == _DATA_LOCATION and value != 0:
        raise BundleError(_OUTSIDE)
    if field.scalar == "int32" and not field.many and value >= 2**31:  # of 32 bits, others would be kept
        raise BundleError(f"the ONNX file has an impossible number in field {place[1]} of a {place[0]}")


def _is_packed(field: Field, wire: int) -> bool:
    """Whether numbers stand one after the other in one field, as a writer may choose."""
    return field.many and field.scalar in _WIRE and wire == BYTES


def _unknown(kind: str, number: int) -> str:
    return f"the ONNX file has a field that no {kind} of ONNX has (number {number}), or is damaged"


# --- inputs and outputs of a file that was checked: what it says, it says once ------------------------------


def _value(value: memoryview) -> GraphValue:
    names = _parts(value, _NAME)
    tensors = [tensor for kind in _parts(value, _TYPE) for tensor in _parts(kind, _TENSOR)]
    if not names or not tensors:
        raise BundleError("the ONNX file has an input or output that is no tensor with a name")
    element = _whole(tensors[0], _ELEMENT)
    dimensions = [size for shape in _parts(tensors[0], _SHAPE) for size in _parts(shape, _DIMENSION)]
    return GraphValue(
        name=_text(names[0]),
        type=_TYPES.get(element or 0, f"type {element}"),
        shape=tuple(_whole(dimension, _SIZE) for dimension in dimensions),
    )


def _text(name: memoryview) -> str:
    try:
        return bytes(name).decode()
    except UnicodeDecodeError as error:
        raise BundleError(f"the ONNX file has a name that is no text: {shown(bytes(name))}") from error


def _parts(message: memoryview, wanted: int) -> list[memoryview]:
    fields = fields_of(message, Allowance(fields=_MOST_FIELDS))
    return [part for number, _, part in fields if number == wanted and isinstance(part, memoryview)]


def _whole(message: memoryview, wanted: int) -> int | None:
    fields = fields_of(message, Allowance(fields=_MOST_FIELDS))
    return next((part for number, _, part in fields if number == wanted and isinstance(part, int)), None)
