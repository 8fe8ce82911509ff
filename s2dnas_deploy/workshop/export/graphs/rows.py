"""Read the bytes of an image in the order in which they come, row by row.

Place in the flow: simplified `ModelProto` ──read_rows──▶ `ModelProto` that computes the same. An image file
has the channels of a pixel side by side, [H, W, C], which is one channel of rows of W · C numbers. A layer's
convolution over the channels is one over these rows, with its kernel written in the same order:

    y[o, i, j] = Σ w[o, c, a, b] · x[c, s·i + a - p, s·j + b - q]
               = Σ v[o, a, b·C + c] · r[s·i + a - p, C·(s·j + b - q) + c]

so nothing is transposed. What is read is (pixel - 255 · mean), and v is w / (255 · std): scaling costs
nothing then, and what is padded still is the mean. A graph stays whose image goes anywhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from s2dnas_deploy.decide.flow import IMAGE

_MOST_CHANNELS = 4
"""Of pixels: more would make rows of a kernel that no runtime expects."""
_HEAD = ("Transpose", "Cast", "Mul", "Add")
"""What is done to bytes before anything of the network is: see `StageGraph.normalised`."""
_ROWS, _SHAPE, _MEANS = "image/rows", "image/rows/shape", "image/rows/means"
Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class _Head:
    """The nodes between the bytes and the convolutions, with what they multiply by and add."""

    nodes: tuple[NodeProto, ...]
    scale: Array
    offset: Array
    readers: tuple[NodeProto, ...]


def read_rows(model: ModelProto) -> ModelProto:
    """The same graph with the rows of its image read as they are; the graph itself where that cannot be."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    image = next((value for value in model.graph.input if value.name == IMAGE), None)
    head = _head(model, weights)
    if image is None or head is None:
        return model
    height, width, channels = (dim.dim_value for dim in image.type.tensor_type.shape.dim[1:])
    if not all(_can_read_rows(node, weights, channels) for node in head.readers):
        return model
    gone = {node.output[0] for node in head.nodes}
    readers = {node.output[0] for node in head.readers}
    nodes = [
        _over_rows(node, channels) if node.output[0] in readers else node
        for node in model.graph.node
        if node.output[0] not in gone
    ]
    means = np.tile(head.offset / head.scale, width).astype(np.float32)
    tensors = [
        *weights.values(),
        numpy_helper.from_array(np.array([0, 1, height, width * channels]), _SHAPE),
        numpy_helper.from_array(means, _MEANS),
        *(
            _kernel_in_rows(weights[name], head)
            for name in dict.fromkeys(node.input[1] for node in head.readers)
        ),
    ]
    read = {name for node in nodes for name in node.input} | {_SHAPE, _MEANS}
    changed = ModelProto()
    changed.CopyFrom(model)
    for field, values in (
        (changed.graph.node, [*_beginning(), *nodes]),
        (changed.graph.initializer, [tensor for tensor in tensors if tensor.name in read]),
        (changed.graph.value_info, [value for value in model.graph.value_info if value.name not in gone]),
    ):
        del field[:]
        field.extend(values)
    return changed


def _head(model: ModelProto, weights: Mapping[str, TensorProto]) -> _Head | None:
    """What stands between the image and the network, if it is what `StageGraph.normalised` writes."""
    given = {value.name for value in model.graph.output}
    nodes: list[NodeProto] = []
    at, constants = IMAGE, []
    for kind in _HEAD:
        readers = [node for node in model.graph.node if at in node.input]
        if len(readers) != 1 or readers[0].op_type != kind:
            return None
        constants += [numpy_helper.to_array(weights[name]) for name in readers[0].input if name in weights]
        nodes.append(readers[0])
        at = readers[0].output[0]
    readers = [node for node in model.graph.node if at in node.input]
    if at in given or len(constants) != 2 or not readers:
        return None
    scale, offset = (constant.astype(np.float64).ravel() for constant in constants)
    return _Head(nodes=tuple(nodes), scale=scale, offset=offset, readers=tuple(readers))


def _can_read_rows(node: NodeProto, weights: Mapping[str, TensorProto], channels: int) -> bool:
    if node.op_type != "Conv" or node.input[1] not in weights or channels > _MOST_CHANNELS:
        return False
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return (
        len(weights[node.input[1]].dims) == 4
        and weights[node.input[1]].dims[1] == channels
        and attributes.get("group", 1) == 1
        and attributes.get("auto_pad", b"NOTSET") == b"NOTSET"
        and attributes.get("dilations", [1, 1])[1] == 1
    )


def _kernel_in_rows(kernel: TensorProto, head: _Head) -> TensorProto:
    """The kernel v of w, [O, 1, height, width · C], computed in float64 so that rounding happens once."""
    w = numpy_helper.to_array(kernel).astype(np.float64) * head.scale[:, None, None]
    v = w.transpose(0, 2, 3, 1).reshape(len(w), 1, w.shape[2], -1)
    return numpy_helper.from_array(v.astype(np.float32), _in_rows(kernel.name))


def _over_rows(node: NodeProto, channels: int) -> NodeProto:
    """The convolution with C times the kernel, the strides and the padding along rows."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    down, along = attributes.get("strides", [1, 1])
    attributes.pop("kernel_shape", None)
    attributes["pads"] = [top, left * channels, bottom, right * channels]
    attributes["strides"] = [down, along * channels]
    return helper.make_node(
        "Conv",
        [_ROWS, _in_rows(node.input[1]), *node.input[2:]],
        list(node.output),
        name=node.name,
        **attributes,
    )


def _in_rows(kernel: str) -> str:
    return f"{kernel}/in rows"


def _beginning() -> list[NodeProto]:
    """Bytes to numbers around zero, [N, 1, H, W · C]."""
    as_rows, numbers = f"{_ROWS}/bytes", f"{_ROWS}/numbers"
    return [
        helper.make_node("Reshape", [IMAGE, _SHAPE], [as_rows], name=as_rows),
        helper.make_node("Cast", [as_rows], [numbers], name=numbers, to=TensorProto.FLOAT),
        helper.make_node("Add", [numbers, _MEANS], [_ROWS], name=_ROWS),
    ]
