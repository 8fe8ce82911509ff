"""Say a mean over all of space as pooling, which a runtime does in the layout that convolutions leave.

Place in the flow: `Stage` ──pool──▶ `Stage` that computes the same. onnxruntime's convolutions work on blocks
of channels. It has global pooling for blocks and no mean, before which a whole tensor is put in order again:

    mean(x, dims=(2, 3))  =  flatten(adaptive_avg_pool2d(x, 1))
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.stages import Stage


def pool_means(stage: Stage, image_shape: tuple[int, ...]) -> Stage:
    """The same stage with global average pooling in place of means over both axes of space."""
    shapes = {INPUT: image_shape, **stage.shapes}
    return replace(stage, nodes=tuple(new for node in stage.nodes for new in _pooled(node, shapes)))


def _pooled(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Node]:
    a = node.attributes
    is_mean = node.operator == "reduce" and a["function"] == "mean" and set(a["dims"]) == {2, 3}
    if not is_mean or len(shapes[node.inputs[0]]) != 3:
        yield node
        return
    pool = {"function": "adaptive_avg_pool2d", "arguments": {"output_size": 1}}
    name = node.name if a["keepdim"] else f"{node.name}/averaged"
    yield replace(node, name=name, operator="pool", attributes=pool, shape=(node.channels, 1, 1))
    if not a["keepdim"]:
        yield replace(node, operator="flatten", inputs=(name,), attributes={})
