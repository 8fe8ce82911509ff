"""Spread a gate over all pixels before the product, where that lets the product keep a runtime's layout.

Place in the flow: `Stage` ──spread──▶ `Stage` that computes the same. onnxruntime's convolutions work on
blocks of channels. It multiplies blocks only by a tensor of the same shape; for any other product it puts
both tensors in order, and the result in blocks again. With x [C, H, W] and g [C, 1, 1] in blocks,

    x ∘ g  =  x ∘ upsample(g, H × W)

stays in blocks from the convolution before to the one after. Elsewhere a product is left as it is.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import replace

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.stages import Stage

_BLOCK = 16
"""Channels of the widest block there is; narrower ones divide it."""
_UNBLOCKED_INPUTS, _INPUTS = 8, 4
"""Convolutions of fewer inputs than the first read what is in order; of others, a multiple of the second."""
_KEEPING = frozenset({"relu", "sigmoid", "tanh"})
_FUSED = frozenset({"relu6", "leaky_relu", "hardsigmoid", "hardtanh", "clamp"})
"""Functions that a convolution does by itself, if nothing else reads it."""
_POOLS = frozenset({"max_pool2d", "avg_pool2d"})


def spread_gates(stage: Stage) -> Stage:
    """The same stage with gates in blocks spread over what they weigh, if that is in blocks too."""
    blocked = _blocked(stage)
    return replace(stage, nodes=tuple(new for node in stage.nodes for new in _spread(node, stage, blocked)))


def _spread(node: Node, stage: Stage, blocked: frozenset[str]) -> Iterator[Node]:
    if not _is_product(node) or not set(node.inputs) <= blocked:
        yield node
        return
    inputs = []
    for name in node.inputs:
        if stage.shapes[name] == node.shape:
            inputs.append(name)
            continue
        inputs.append(f"{name}/spread for {node.name}")
        yield Node(
            name=inputs[-1],
            operator="resize",
            inputs=(name,),
            attributes={
                "scale_factor": tuple(map(float, node.shape[1:])),
                "mode": "nearest",
                "align_corners": None,
            },
            weights={},
            shape=node.shape,
        )
    yield replace(node, inputs=tuple(inputs))


def _is_product(node: Node) -> bool:
    """Of two tensors, each of which is whole or a pixel."""
    return node.operator == "binary" and node.attributes["function"] == "mul" and len(node.inputs) == 2


def _blocked(stage: Stage) -> frozenset[str]:
    """The tensors that a runtime has in blocks of channels when it is done with them."""
    by_name = {node.name: node for node in stage.nodes}
    readers = Counter(name for node in stage.nodes for name in node.inputs)
    readers.update([stage.logits, *(feature.node for feature in stage.gives)])
    blocked: set[str] = set()
    for node in stage.nodes:
        fills_blocks = len(node.shape) == 3 and node.channels % _BLOCK == 0
        fused = _is_fused(node, by_name, readers) and set(node.inputs) <= blocked
        if fills_blocks and (fused or _keeps_blocks(node, stage, blocked)):
            blocked.add(node.name)
    return frozenset(blocked)


def _keeps_blocks(node: Node, stage: Stage, blocked: Set[str]) -> bool:
    """Whether what the node gives is in blocks, if its channels fill them."""
    function = str(node.attributes.get("function"))
    if node.operator == "conv":
        inputs = stage.weights[node.weights["weight"]].shape[1]
        return inputs < _UNBLOCKED_INPUTS or inputs % _INPUTS == 0
    if node.operator == "grouped_conv":
        outputs, inputs = stage.weights[node.weights["weight"]].shape[:2]
        width = outputs // int(node.attributes["groups"])
        return (inputs == width == 1) or inputs % _BLOCK == width % _BLOCK == 0
    if node.operator == "pool":
        is_global = function == "adaptive_avg_pool2d" and node.shape[1:] == (1, 1)
        return function in _POOLS or (is_global and set(node.inputs) <= blocked)
    if node.operator == "pointwise" and function not in _KEEPING:
        return False
    if node.operator == "binary" and function not in ("add", "mul"):
        return False
    is_known = node.operator in ("pointwise", "binary", "identity", "dropout")
    return is_known and not node.weights and "number" not in node.attributes and set(node.inputs) <= blocked


def _is_fused(node: Node, by_name: Mapping[str, Node], readers: Mapping[str, int]) -> bool:
    """Whether a convolution does the node's function by itself."""
    layer = by_name.get(node.inputs[0])
    return (
        node.operator == "pointwise"
        and node.attributes["function"] in _FUSED
        and layer is not None
        and layer.operator in ("conv", "grouped_conv")
        and readers[layer.name] == 1
    )
