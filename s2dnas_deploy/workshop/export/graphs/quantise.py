"""INT8: each stage quantised on the features that the quantised earlier stages really produce.

Place in the flow: the stages' float32 graphs + calibration images ──quantise──▶ the same graphs in INT8 (QDQ,
weights per channel), which onnxruntime fuses into integer kernels. What comes before the first layer and
after the classifier stays float32: pixels are bytes already, and a confidence in 256 steps is none.

Features are handed over as the bytes that they are: a stage gives the quantised tensor, and the next one
reads it with the same scale, in place of two conversions at every border. What rules compare, and what
several stages give, is handed over in float32.

A range is that of all batches, however they are cut, so one batch is held at a time. What comes to a stage is
computed anew for it, by the stages before: kept for all images, it would be gigabytes.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import CalibraterBase

from s2dnas_deploy.decide.course import Course
from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, Flow
from s2dnas_deploy.files.atomic import passing_folder
from s2dnas_deploy.workshop.export.batches import at_once_in
from s2dnas_deploy.workshop.export.graphs.follow import (
    OnnxStages,
    Party,
    Values,
    leading_to,
    passing,
    sent_to,
)
from s2dnas_deploy.workshop.export.graphs.simplify import check
from s2dnas_deploy.workshop.export.graphs.stage_graph import StageGraph
from s2dnas_deploy.workshop.export.samples import Images

_LAYERS = ("Conv", "Gemm", "MatMul")
_BATCH = 32


def quantise_stages(
    graphs: Sequence[StageGraph],
    models: Sequence[ModelProto],
    flow: Flow,
    images: Images,
    on_stage: Callable[[int, int], None],
) -> list[ModelProto]:
    """The stages in INT8; `images` are as the graphs take them. Calls `on_stage(done, total)`.

    Each is calibrated on the images that come to it when nobody exits early, by any setting.
    """
    run, size = OnnxStages(graphs), at_once_in(models, _BATCH)
    quantised = []
    looked_at = {name for name in flow.looked_at if name is not None}
    for k, (graph, model) in enumerate(zip(graphs, models, strict=True)):
        values = (run.fed(k, brought) for brought in _coming(flow, k, images, size, run))
        compared = [output for name, output in graph.outputs.items() if name in looked_at]
        quantised.append(_quantised(model, values, compared))
        run.add(quantised[k].SerializeToString())
        on_stage(k + 1, len(models))
    real = looked_at | _of_several(flow)
    edges: dict[str, _Edge] = {}
    for graph, model in zip(graphs, quantised, strict=True):
        _read_bytes(model, edges)
        edges.update(_give_bytes(model, [output for name, output in graph.outputs.items() if name in real]))
        check(model)
    return quantised


def _coming(flow: Flow, place: int, images: Images, size: int, run: OnnxStages) -> Iterator[Values]:
    """What the images bring to a stage, batch by batch; if none comes by itself, all are sent there."""
    nobody = True
    for course in passing(flow):
        for brought in _brought(course, place, images, size, run):
            nobody = False
            yield brought
    if nobody:
        yield from _brought(sent_to(flow, place), place, images, size, run)


def _brought(course: Course, place: int, images: Images, size: int, run: OnnxStages) -> Iterator[Values]:
    """The same, on one course."""
    leading = leading_to(course.flow, place)
    for at in range(0, len(images), size):
        party = Party(course, images[at : at + size])
        for earlier in leading:
            party.visit(earlier, run)
        if party.came[place].any():
            yield party.brought(place)


def _of_several(flow: Flow) -> set[str]:
    """What several stages give: there is no one scale that its bytes could have."""
    times = Counter(name for stop in flow.stops for name in stop.gives)
    return {name for name, count in times.items() if count > 1}


def _quantised(model: ModelProto, values: Iterable[Values], compared: Sequence[str]) -> ModelProto:
    """One stage by onnxruntime's static quantisation; its inputs and outputs stay what they are."""
    inputs = [value.name for value in model.graph.input]
    with passing_folder("s2dnas-int8-") as folder:
        source, target = folder / "float32.onnx", folder / "int8.onnx"
        onnx.save_model(model, str(source))
        with _unasked_advice(), _in_little_memory():
            quantize_static(
                source,
                target,
                _Reader(values, inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=_outside_the_network(model, compared),
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


@contextmanager
def _in_little_memory() -> Iterator[None]:
    """Onnxruntime's calibration runs all layers, and then takes the range of each, in memory that doubles.

    In this order each tensor's range is taken as soon as it is there, and the tensor is gone.
    """
    real = CalibraterBase.create_inference_session
    CalibraterBase.create_inference_session = _make_frugal_session
    try:
        yield
    finally:
        CalibraterBase.create_inference_session = real


def _make_frugal_session(calibrater: CalibraterBase) -> None:
    """As onnxruntime does it, in another order and without memory of its own."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other work may want the cores
    calibrater.infer_session = onnxruntime.InferenceSession(
        calibrater.augmented_model_path, options, providers=calibrater.execution_providers
    )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Hands the calibration batches on, one after the other."""

    def __init__(self, values: Iterable[Values], inputs: Sequence[str]) -> None:
        self.batches = ({name: batch[name] for name in inputs} for batch in values)

    def get_next(self) -> Values | None:
        """The next batch, None after the last."""
        return next(self.batches, None)


def _outside_the_network(model: ModelProto, compared: Sequence[str]) -> list[str]:
    """The nodes before the first layer and after the last: pixels to numbers, logits to confidence.

    What rules look at is compared like a confidence.
    """
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
    left = [name for name in (*ANSWERS, *compared) if name in by_output]
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


def _give_bytes(model: ModelProto, real: Sequence[str]) -> dict[str, _Edge]:
    """Give every quantised feature as it is, without making floats of it first, but for those in `real`."""
    graph = model.graph
    makers = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = {tensor.name: tensor for tensor in graph.initializer}
    edges = {}
    for value in graph.output:
        maker = makers.get(value.name)
        if value.name in (*ANSWERS, *real) or maker is None:
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
