"""INT8: each stage quantised on the features that the quantised earlier stages really produce.

Place in the flow: the stages' float32 graphs + calibration images ──quantise──▶ the same graphs in INT8 (QDQ,
weights per channel), which onnxruntime fuses into integer kernels. What comes before the first layer and
after the classifier stays float32: pixels are bytes already, and a confidence in 256 steps is none.

Features are handed over as the bytes that they are: a stage gives the quantised tensor, and the next one
reads it with the same scale, in place of two conversions at every border.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from s2dnas_deploy.decide.flow import ANSWERS, IMAGE
from s2dnas_deploy.sessions.every_stage import Array, StageSession, whole_batch
from s2dnas_deploy.workshop.export.graphs.simplify import check

_LAYERS = ("Conv", "Gemm", "MatMul")
_BATCH = 32


def quantise_chain(
    models: Sequence[ModelProto], images: Array, on_stage: Callable[[int, int], None]
) -> list[ModelProto]:
    """The stages in INT8; `images` are as the graphs take them. Calls `on_stage(done, total)`."""
    batches = [images[at : at + _BATCH] for at in range(0, len(images), _BATCH)]
    values = [whole_batch(batch, len(models)) for batch in batches]
    quantised = []
    for k, model in enumerate(models):
        quantised.append(_quantised(model, values))
        session = StageSession(quantised[k].SerializeToString())
        for batch in values:
            batch.update(session.run(batch).features)
        on_stage(k + 1, len(models))
    edges: dict[str, _Edge] = {}
    for model in quantised:
        _read_bytes(model, edges)
        edges.update(_give_bytes(model))
        check(model)
    return quantised


def _quantised(model: ModelProto, values: Sequence[Mapping[str, Array]]) -> ModelProto:
    """One stage by onnxruntime's static quantisation; its inputs and outputs stay what they are."""
    inputs = [value.name for value in model.graph.input]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        onnx.save_model(model, str(source))
        with _unasked_advice():
            quantize_static(
                source,
                target,
                _Reader(values, inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=_outside_the_network(model),
            )
        return onnx.load_model(str(target))


@contextmanager
def _unasked_advice() -> Iterator[None]:
    """Onnxruntime advises to simplify the graph first, also when that has been done."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands the calibration batches on, one after the other."""

    def __init__(self, values: Sequence[Mapping[str, Array]], inputs: Sequence[str]) -> None:
        self.batches = ({name: batch[name] for name in inputs} for batch in values)

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, None after the last."""
        return next(self.batches, None)


def _outside_the_network(model: ModelProto) -> list[str]:
    """The nodes before the first layer and after the last: pixels to numbers, logits to confidence."""
    by_output = {name: node for node in model.graph.node for name in node.output}
    before: set[str] = set()
    reached = {IMAGE}
    for node in model.graph.node:  # forward from the image, up to the layers
        if node.op_type not in _LAYERS and any(name in reached for name in node.input):
            constants = {tensor.name for tensor in model.graph.initializer}
            if all(name in reached or name in constants or not name for name in node.input):
                reached.update(node.output)
                before.add(node.name)
    after: set[str] = set()
    left = [name for name in ANSWERS if name in by_output]
    while left:  # backward from the answers, down to the classifier
        node = by_output.get(left.pop())
        if node is not None and node.op_type not in _LAYERS and node.name not in after:
            after.add(node.name)
            left.extend(node.input)
    return sorted(before | after)


# --- hand-over in bytes ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Edge:
    """How a feature is quantised, as its giver's initializers say: real = (byte - zero) * scale."""

    scale: TensorProto
    zero: TensorProto


def _give_bytes(model: ModelProto) -> dict[str, _Edge]:
    """Give every quantised feature as it is, without making floats of it first."""
    graph = model.graph
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    edges = {}
    for value in graph.output:
        maker = makers.get(value.name)
        if value.name in ANSWERS or maker is None:
            continue
        feature, inner = value.name, f"{value.name}/real"
        quantised, scale, zero = maker.input
        edges[feature] = _Edge(scale=_copy(weights[scale]), zero=_copy(weights[zero]))
        for node in graph.node:  # the bytes take the feature's name, the floats another
            node.input[:] = [_swapped(name, {feature: inner, quantised: feature}) for name in node.input]
            node.output[:] = [_swapped(name, {feature: inner, quantised: feature}) for name in node.output]
        value.type.tensor_type.elem_type = weights[zero].data_type
    _drop_unread(model)
    return edges


def _read_bytes(model: ModelProto, edges: Mapping[str, _Edge]) -> None:
    """Read features as the bytes that an earlier stage gives, with that stage's scale."""
    graph = model.graph
    for value in graph.input:
        edge = edges.get(value.name)
        if edge is None:
            continue
        feature = value.name
        real, scale, zero = f"{feature}/real", f"{feature}/scale", f"{feature}/zero"
        quantisers = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == feature]
        bytes_of = {node.output[0] for node in quantisers}
        dequantised = {
            n.output[0] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in bytes_of
        }
        renames = {feature: real, **dict.fromkeys(dequantised, real)}
        kept = [
            node
            for node in graph.node
            if node.output[0] not in bytes_of and node.output[0] not in dequantised
        ]
        for node in kept:
            node.input[:] = [_swapped(name, renames) for name in node.input]
        for output in graph.output:
            assert output.name not in dequantised, "a feature that is read is not given again"
        first = helper.make_node(
            "DequantizeLinear", [feature, scale, zero], [real], name=f"{feature}/from_bytes"
        )
        del graph.node[:]
        graph.node.extend([first, *kept])
        for name, tensor in ((scale, edge.scale), (zero, edge.zero)):
            own = _copy(tensor)
            own.name = name
            graph.initializer.append(own)
        value.type.tensor_type.elem_type = edge.zero.data_type
    _drop_unread(model)


def _drop_unread(model: ModelProto) -> None:
    """Remove nodes and weights that nothing reads any more."""
    graph = model.graph
    while True:
        read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
        unread = [node for node in graph.node if not any(name in read for name in node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    weights = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    del graph.value_info[:]


def _swapped(name: str, renames: Mapping[str, str]) -> str:
    return renames.get(name, name)


def _copy(tensor: TensorProto) -> TensorProto:
    copy = TensorProto()
    copy.CopyFrom(tensor)
    return copy
