"""Compute gates in the shape in which they are used, so that nothing is reshaped on the way.

Place in the flow: all `Stage`s ──keep──▶ `Stage`s that compute the same. A gate is a vector made of pooled
channels, and is put into the shape of pixels again to weigh them. With p [C, 1, 1] it needs no other shape:

    W · flatten(p)  =  flatten(W[:, :, None, None] ∗ p)

A runtime then keeps to the layout that convolutions leave. What stages hand to each other changes its shape
as well, so all of them are looked at together.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.stages import Feature, Stage

_PIXEL = (1, 1)
_AS_CONVOLUTION = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
_ELEMENT_WISE = frozenset({"pointwise", "dropout", "identity", "cat", "select"})


def keep_pixels(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The same stages with gates as pixels [C, 1, 1] from pooling to product."""
    gates = _gates(stages)
    return tuple(_Keeper(stage, gates).stage() for stage in stages)


class _Keeper:
    """Rewrites the nodes of a stage one after the other, and collects the weights that are new."""

    def __init__(self, stage: Stage, gates: frozenset[str]) -> None:
        self.old, self.gates = stage, gates
        self.reads = tuple(map(self._as_pixel, stage.reads))
        self.as_pixels = {node.name for node in stage.nodes if node.name in gates}
        self.as_pixels |= {feature.name for feature in stage.reads if feature.node in gates}
        self.flat: set[str] = set()
        self.weights = dict(stage.weights)

    def stage(self) -> Stage:
        """The stage with its gates as pixels."""
        nodes = tuple(new for node in self.old.nodes for new in self._rewritten(node))
        keys = {key for node in nodes for key in node.weights.values()}
        return replace(
            self.old,
            nodes=nodes,
            weights={key: tensor for key, tensor in self.weights.items() if key in keys},
            reads=self.reads,
            gives=tuple(map(self._as_pixel, self.old.gives)),
        )

    def _as_pixel(self, feature: Feature) -> Feature:
        return replace(feature, shape=(*feature.shape, *_PIXEL)) if feature.node in self.gates else feature

    def _rewritten(self, node: Node) -> Iterator[Node]:
        if node.name in self.gates:
            yield self._pixel(node)
        elif _is_pixel(node) and set(node.inputs) <= self.as_pixels:
            yield replace(node, operator="identity", attributes={})
        else:
            for name in node.inputs:
                if name in self.as_pixels - self.flat:
                    self.flat.add(name)
                    yield self._flattened(name)
            inputs = tuple(f"{name}/flat" if name in self.flat else name for name in node.inputs)
            yield replace(node, inputs=inputs)

    def _pixel(self, node: Node) -> Node:
        """The node with a pixel for its vector."""
        pixel = replace(node, shape=(*node.shape, *_PIXEL))
        if node.operator == "flatten":
            return replace(pixel, operator="identity", attributes={})
        if node.operator != "linear":
            return pixel
        key = f"{node.name}.as_kernel"
        self.weights[key] = self._kernel(node)
        return replace(
            pixel, operator="conv", attributes=_AS_CONVOLUTION, weights={**node.weights, "weight": key}
        )

    def _kernel(self, node: Node) -> Tensor:
        return self.old.weights[node.weights["weight"]][:, :, None, None]

    def _flattened(self, name: str) -> Node:
        return Node(
            name=f"{name}/flat",
            operator="flatten",
            inputs=(name,),
            attributes={},
            weights={},
            shape=self.old.shapes[name],
        )


def _gates(stages: Sequence[Stage]) -> frozenset[str]:
    """The vectors, by the names that the network has for them, of which all that is made is pixels."""
    source = {feature.name: feature.node for stage in stages for feature in stage.reads}
    nodes = [
        (replace(node, inputs=tuple(source.get(name, name) for name in node.inputs)), stage)
        for stage in stages
        for node in stage.nodes
    ]
    shapes = {node.name: node.shape for node, _ in nodes}
    vectors = {node.name for node, stage in nodes if len(node.shape) == 1 and node.name != stage.logits}
    while left_out := {
        node.name for node, _ in nodes if node.name in vectors and not _can_be_pixel(node, vectors, shapes)
    }:
        vectors -= left_out
    gates: set[str] = set()
    while more := {
        name
        for node, _ in nodes
        if _is_pixel(node) or node.name in gates
        for name in node.inputs
        if name in vectors - gates
    }:
        gates |= more
    return frozenset(gates)


def _can_be_pixel(node: Node, vectors: set[str], shapes: dict[str, tuple[int, ...]]) -> bool:
    if node.operator == "flatten":
        return shapes[node.inputs[0]][1:] == _PIXEL
    is_known = node.operator in _ELEMENT_WISE or node.operator == "linear"
    is_known |= node.operator == "binary" and not node.weights
    return is_known and vectors.issuperset(node.inputs)


def _is_pixel(node: Node) -> bool:
    """Whether a vector is put into the shape of pixels, of which it is one."""
    return node.operator == "reshape" and node.shape[1:] == _PIXEL
