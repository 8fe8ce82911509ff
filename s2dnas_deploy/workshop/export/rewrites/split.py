"""Read shared and own channels without first copying them into one tensor.

Place in the flow: `Stage` ──split──▶ `Stage` that computes the same. A convolution over a concatenation is a
sum of convolutions; where the result is added to something, as in a residual block, the sum starts from that:

    W ∗ [x_0, x_1, …] + r = ((r + W_0 ∗ x_0) + W_1 ∗ x_1) + …      W_i the columns of W that meet x_i

so that every addition has a convolution of its own, with which onnxruntime fuses it. Only concatenations that
slicing put there are taken apart, never those of the network itself.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.operators import is_sum
from s2dnas_deploy.workshop.network.stages import Stage


def split_convolutions(stage: Stage) -> Stage:
    """The same stage with convolutions over joined features written as sums, and unused joins dropped."""
    splitter = _Splitter(stage)
    nodes = [new for node in stage.nodes for new in splitter.rewritten(node)]
    still_read = {name for node in nodes for name in node.inputs}
    kept = tuple(node for node in nodes if node.name not in stage.joins or node.name in still_read)
    return replace(stage, nodes=kept, weights=splitter.weights)


class _Splitter:
    """Rewrites the nodes of a stage one after the other, and collects their weights."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.by_name = {node.name: node for node in stage.nodes}
        self.widths = {name: shape[0] for name, shape in stage.shapes.items()}
        self.weights: dict[str, Tensor] = {}
        self.postponed = self._added_to_something()

    def rewritten(self, node: Node) -> Iterator[Node]:
        """What takes the node's place: itself, nothing yet, or a sum that has its name."""
        if node.name in self.postponed:
            return
        terms = [name for name in node.inputs if name in self.postponed]
        if terms:
            (convolution,) = terms
            (start,) = (name for name in node.inputs if name != convolution)
            yield from self._sum(self.by_name[convolution], start, node)
        elif self._is_split(node):
            yield from self._sum(node, None, node)
        else:
            self.weights.update({key: self.stage.weights[key] for key in node.weights.values()})
            yield node

    def _is_split(self, node: Node) -> bool:
        join = self.by_name.get(node.inputs[0]) if node.inputs else None
        return (
            node.operator == "conv"
            and join is not None
            and join.name in self.stage.joins
            and join.operator == "cat"
        )

    def _added_to_something(self) -> frozenset[str]:
        """The split convolutions that only an addition reads, one for each addition: they wait for it."""
        readers = Counter(name for node in self.stage.nodes for name in node.inputs)
        given = {feature.node for feature in self.stage.gives}
        waiting = set()
        for node in self.stage.nodes:
            if is_sum(node):
                terms = [name for name in node.inputs if name in self.by_name and readers[name] == 1]
                terms = [name for name in terms if name not in given and self._is_split(self.by_name[name])]
                same_shape = {self.by_name[name].shape == node.shape for name in terms} <= {True}
                if terms and same_shape and node.inputs[0] != node.inputs[1]:
                    waiting.add(terms[0])
        return frozenset(waiting)

    def _sum(self, convolution: Node, start: str | None, result: Node) -> Iterator[Node]:
        """`start` plus one convolution per tensor that the join brings together, under `result`'s name."""
        join = self.by_name[convolution.inputs[0]]
        total = start
        for part in self._parts(convolution, join):
            yield part
            if total is None:
                total = part.name
                continue
            last = part.inputs[0] == join.inputs[-1]
            name = result.name if last else f"{part.name}/sum"
            yield replace(
                result,
                name=name,
                operator="binary",
                inputs=(total, part.name),
                attributes={"function": "add", "reversed": False},
                weights={},
            )
            total = name

    def _parts(self, convolution: Node, join: Node) -> Iterator[Node]:
        """The convolution of each joined tensor by the columns that meet it; the first has the bias."""
        kernel = self.stage.weights[convolution.weights["weight"]]
        column = 0
        for i, source in enumerate(join.inputs):
            name, width = f"{convolution.name}/of/{source}", self.widths[source]
            keys = {"weight": f"{name}.weight"}
            self.weights[keys["weight"]] = kernel[:, column : column + width].clone()
            if i == 0 and "bias" in convolution.weights:
                keys["bias"] = convolution.weights["bias"]
                self.weights[keys["bias"]] = self.stage.weights[keys["bias"]]
            yield replace(convolution, name=name, inputs=(source,), weights=keys)
            column += width
