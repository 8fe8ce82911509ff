"""Say in ONNX's words what ONNX has no word for: adaptive pooling whose windows differ in size.

Place in the flow: `Stage` ──express──▶ `Stage` that computes the same. Sizes are known, so the windows are:

    output i of an axis pools inputs ⌊i · n / m⌋ to ⌈(i + 1) · n / m⌉        n inputs, m outputs

A mean of means is the mean, and a maximum of maxima the maximum, so the axes are pooled one after the other.
"""

from dataclasses import replace

from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.stages import Stage

_FUNCTIONS = {
    "adaptive_avg_pool2d": "mean",
    "adaptive_max_pool2d": "amax",
    "adaptive_avg_pool1d": "mean",
    "adaptive_max_pool1d": "amax",
}


def express_pooling(stage: Stage, image_shape: tuple[int, ...]) -> Stage:
    """The same stage with every adaptive pooling that does not divide its input evenly spelled out."""
    shapes = {INPUT: image_shape, **stage.shapes}
    nodes = tuple(_expressed(node, shapes[node.inputs[0]]) for node in stage.nodes)
    return replace(stage, nodes=nodes)


def _expressed(node: Node, shape: tuple[int, ...]) -> Node:
    function = _FUNCTIONS.get(str(node.attributes.get("function"))) if node.operator == "pool" else None
    sizes = list(zip(shape[1:], node.shape[1:], strict=True)) if function is not None else []
    if all(inputs % outputs == 0 for inputs, outputs in sizes):
        return node
    windows = [[_window(i, inputs, outputs) for i in range(outputs)] for inputs, outputs in sizes]
    return replace(node, operator="window_pool", attributes={"function": function, "windows": windows})


def _window(i: int, inputs: int, outputs: int) -> tuple[int, int]:
    return i * inputs // outputs, -(-(i + 1) * inputs // outputs)
