"""What an ONNX file says of itself, read without the onnx package: inputs, outputs, and data kept elsewhere.

Place in the flow: a device checks a graph before onnxruntime sees it. An ONNX file is a protocol buffer,
that is, a list of (field number, type, value); only the few fields named below are looked at, the others
skipped. It must not interpret weights or nodes: that is onnxruntime's work.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from s2dnas_deploy.errors import BundleError

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
_EXTERNAL = 1
_DEEPEST = 64  # graphs within attributes within graphs

# Field numbers in onnx.proto3, by message.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_ATTRIBUTE, _FUNCTION_NODE = 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 22, 23
_SPARSE_PARTS = (1, 2)
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_ELEMENT, _TENSOR_SHAPE = 1, 2, 1, 1, 2
_SHAPE_DIMENSION, _DIMENSION_VALUE = 1, 1


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
    view = memoryview(content)
    graphs = [part for number, part in _fields(view) if number == _MODEL_GRAPH]
    if len(graphs) != 1 or not isinstance(graphs[0], memoryview):
        raise BundleError(f"expected an ONNX file with one graph, found {len(graphs)}")
    _refuse_external_data(view)
    return GraphSignature(
        inputs=tuple(_value(part) for part in _messages(graphs[0], _GRAPH_INPUT)),
        outputs=tuple(_value(part) for part in _messages(graphs[0], _GRAPH_OUTPUT)),
    )


# --- data kept in other files ------------------------------------------------------------------------------


def _refuse_external_data(model: memoryview) -> None:
    for graph in _messages(model, _MODEL_GRAPH):
        _check_graph(graph, 0)
    for function in _messages(model, _MODEL_FUNCTIONS):
        for node in _messages(function, _FUNCTION_NODE):
            _check_node(node, 0)


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > _DEEPEST:
        raise BundleError(f"the ONNX file nests graphs more than {_DEEPEST} deep")
    for tensor in _messages(graph, _GRAPH_INITIALIZER):
        _check_tensor(tensor)
    for sparse in _messages(graph, _GRAPH_SPARSE):
        _check_sparse(sparse)
    for node in _messages(graph, _GRAPH_NODE):
        _check_node(node, depth)


def _check_node(node: memoryview, depth: int) -> None:
    for attribute in _messages(node, _NODE_ATTRIBUTE):
        for number in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
            for tensor in _messages(attribute, number):
                _check_tensor(tensor)
        for number in (_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES):
            for sparse in _messages(attribute, number):
                _check_sparse(sparse)
        for number in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
            for graph in _messages(attribute, number):
                _check_graph(graph, depth + 1)


def _check_sparse(sparse: memoryview) -> None:
    for number in _SPARSE_PARTS:
        for tensor in _messages(sparse, number):
            _check_tensor(tensor)


def _check_tensor(tensor: memoryview) -> None:
    for number, part in _fields(tensor):
        if number == _TENSOR_EXTERNAL_DATA or (number == _TENSOR_DATA_LOCATION and part == _EXTERNAL):
            raise BundleError("the ONNX file refers to data in another file; a bundle's graphs are whole")


# --- inputs and outputs ------------------------------------------------------------------------------------


def _value(value: memoryview) -> GraphValue:
    names = _messages(value, _VALUE_NAME)
    tensors = [t for kind in _messages(value, _VALUE_TYPE) for t in _messages(kind, _TYPE_TENSOR)]
    if len(names) != 1 or len(tensors) != 1:
        raise BundleError("the ONNX file has an input or output that is no tensor with a name")
    element = next((part for number, part in _fields(tensors[0]) if number == _TENSOR_ELEMENT), 0)
    dimensions = [d for s in _messages(tensors[0], _TENSOR_SHAPE) for d in _messages(s, _SHAPE_DIMENSION)]
    return GraphValue(
        name=bytes(names[0]).decode("utf-8", "replace"),
        type=_TYPES.get(element, f"type {element}") if isinstance(element, int) else "unknown",
        shape=tuple(_dimension(dimension) for dimension in dimensions),
    )


def _dimension(dimension: memoryview) -> int | None:
    for number, part in _fields(dimension):
        if number == _DIMENSION_VALUE and isinstance(part, int):
            return part
    return None


# --- the protocol buffer itself ----------------------------------------------------------------------------


def _messages(message: memoryview, wanted: int) -> list[memoryview]:
    return [part for number, part in _fields(message) if number == wanted and isinstance(part, memoryview)]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Every field of a message: its number, and its bytes or its whole number."""
    at = 0
    while at < len(message):
        tag, at = _whole_number(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _whole_number(message, at)
            yield number, value
        elif wire == 2:
            size, at = _whole_number(message, at)
            yield number, _taken(message, at, size)
            at += size
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            yield number, _taken(message, at, size)
            at += size
        else:
            raise BundleError("not an ONNX file, or a damaged one")


def _taken(message: memoryview, at: int, size: int) -> memoryview:
    if at + size > len(message):
        raise BundleError("the ONNX file ends in the middle: it is truncated or damaged")
    return message[at : at + size]


def _whole_number(message: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first; and where it ends."""
    value, shift = 0, 0
    while True:
        if at >= len(message) or shift > 63:
            raise BundleError("the ONNX file ends in the middle: it is truncated or damaged")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
