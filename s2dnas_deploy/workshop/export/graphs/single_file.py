"""The whole cascade as one ONNX file, for those who have only an onnxruntime in another language.

Place in the flow: the stages' graphs ──nest──▶ one graph with an `If` inside an `If`, for one image at a
time, since an `If` has one condition for its whole batch:

    stage 0; if confidence ≥ threshold 0: its answer, else: stage 1; if confidence ≥ …

Where nobody exits (a threshold above 1) there is no `If`: the next stage follows.
A subgraph sees all that was computed outside of it, so shared features need no wires: each stage's values get
the stage's number in front, and what a stage reads from another keeps the name under which it was given.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from s2dnas_deploy.decide.flow import ANSWERS, IMAGE, LABEL, PROBABILITIES, Flow
from s2dnas_deploy.decide.rules import CONFIDENCE, Threshold
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.export.graphs.simplify import check

EXIT = "exit"


def nest(models: Sequence[ModelProto], flow: Flow, classes: int) -> ModelProto:
    """One graph: image [1, ...] → label [1], confidence [1], probabilities [1, classes], exit [1]."""
    check_nestable(flow)
    rules = [stop.then.by for stop in flow.stops]
    limits = [rule.limit if isinstance(rule, Threshold) else None for rule in rules]
    stages = [_Stage(k, model) for k, model in enumerate(models)]
    nodes, initializers = _cascade(stages, limits, classes)
    image = next((value for model in models for value in model.graph.input if value.name == IMAGE), None)
    assert image is not None, "some stage reads the image"
    fixed = ValueInfoProto()
    fixed.CopyFrom(image)
    fixed.type.tensor_type.shape.dim[0].Clear()
    fixed.type.tensor_type.shape.dim[0].dim_value = 1
    graph = helper.make_graph(nodes, "cascade", [fixed], _answers("", classes), initializers)
    model = helper.make_model(graph, opset_imports=models[0].opset_import, ir_version=models[0].ir_version)
    check(model)
    return model


def check_nestable(flow: Flow) -> None:
    """Refuse what has no place in an `If` inside an `If`."""
    if not flow.is_chain:
        raise OptionError(
            "a single file is made of a chain of stages; the routes of this network are none. Of nested "
            "widths, --in-turn makes a chain"
        )


def _cascade(
    stages: Sequence["_Stage"], limits: Sequence[np.float32 | None], classes: int
) -> tuple[list[NodeProto], list[TensorProto]]:
    """The nodes of these stages, which give the answers under their plain names."""
    (stage, *later), (reached, *later_limits) = stages, limits
    if reached is None:
        names = zip(stage.answers(), (*ANSWERS, EXIT), strict=True)
        return [*stage.nodes, *(helper.make_node("Identity", [a], [b]) for a, b in names)], stage.initializers
    nodes, initializers = _cascade(later, later_limits, classes)
    if np.isnan(reached):
        return [*stage.nodes, *nodes], [*stage.initializers, *initializers]
    limit, condition = f"stage{stage.index}:threshold", f"stage{stage.index}:exits"
    constant = numpy_helper.from_array(np.array([reached]), limit)
    axes = numpy_helper.from_array(np.array([0], dtype=np.int64), f"{limit}/axes")
    leave = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}/left"]) for name in stage.answers()],
        f"exit_at_{stage.index}",
        [],
        [_renamed(v, f"{n}/left") for v, n in zip(_answers("", classes), stage.answers(), strict=True)],
    )
    prefix = f"stage{stage.index}:from_here/"
    go_on = helper.make_graph(
        [*nodes, *(helper.make_node("Identity", [n], [f"{prefix}{n}"]) for n in (*ANSWERS, EXIT))],
        f"go_on_from_{stage.index}",
        [],
        _answers(prefix, classes),
        initializers,
    )
    decide = [
        helper.make_node("GreaterOrEqual", [stage.confidence, limit], [f"{condition}/each"]),
        helper.make_node("Squeeze", [f"{condition}/each", f"{limit}/axes"], [condition]),
        helper.make_node("If", [condition], [*ANSWERS, EXIT], then_branch=leave, else_branch=go_on),
    ]
    return [*stage.nodes, *decide], [*stage.initializers, constant, axes]


class _Stage:
    """A stage's nodes and weights, every value of its own renamed so that no two stages' meet."""

    def __init__(self, index: int, model: ModelProto) -> None:
        self.index = index
        given = {v.name for v in model.graph.input} | {v.name for v in model.graph.output if _is_feature(v)}
        names = _Names(index, given)
        self.nodes = [names.of_node(node) for node in model.graph.node]
        self.initializers = [names.of_initializer(tensor) for tensor in model.graph.initializer]
        exit_ = numpy_helper.from_array(np.array([index], dtype=np.int64), self.exit)
        self.initializers.append(exit_)

    @property
    def confidence(self) -> str:
        return f"stage{self.index}:{CONFIDENCE}"

    @property
    def exit(self) -> str:
        return f"stage{self.index}:{EXIT}"

    def answers(self) -> tuple[str, ...]:
        """Label, confidence, probabilities and exit of this stage."""
        return (*(f"stage{self.index}:{name}" for name in ANSWERS), self.exit)


class _Names:
    """New names for one stage's values; shared features and the image keep theirs."""

    def __init__(self, index: int, kept: set[str]) -> None:
        self.index, self.kept = index, kept

    def __call__(self, name: str) -> str:
        return name if not name or name in self.kept else f"stage{self.index}:{name}"

    def of_node(self, node: NodeProto) -> NodeProto:
        """The node with new names."""
        assert not any(
            a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute
        )
        renamed = NodeProto()
        renamed.CopyFrom(node)
        renamed.name = f"stage{self.index}:{node.name}" if node.name else ""  # no two may share a name
        renamed.input[:] = [self(name) for name in node.input]
        renamed.output[:] = [self(name) for name in node.output]
        return renamed

    def of_initializer(self, tensor: TensorProto) -> TensorProto:
        """The weight with its new name."""
        renamed = TensorProto()
        renamed.CopyFrom(tensor)
        renamed.name = self(tensor.name)
        return renamed


def _is_feature(value: ValueInfoProto) -> bool:
    return value.name not in ANSWERS


def _answers(prefix: str, classes: int) -> list[ValueInfoProto]:
    """The declarations of label, confidence, probabilities and exit, for one image."""
    shapes: Mapping[str, tuple[int, list[int]]] = {
        LABEL: (TensorProto.INT64, [1]),
        CONFIDENCE: (TensorProto.FLOAT, [1]),
        PROBABILITIES: (TensorProto.FLOAT, [1, classes]),
        EXIT: (TensorProto.INT64, [1]),
    }
    return [helper.make_tensor_value_info(f"{prefix}{n}", t, shape) for n, (t, shape) in shapes.items()]


def _renamed(value: ValueInfoProto, name: str) -> ValueInfoProto:
    value.name = name
    return value
