"""Say a shortcut of strided pixels and zero channels as a convolution, which keeps a runtime's layout.

Place in the flow: `Stage` ──convolve──▶ `Stage` that computes the same. A residual block that has no weights
in its shortcut takes every s-th pixel and adds channels of zeros. With E[before + i, i] = 1 and 0 elsewhere,

    pad(x[:, ::s, ::s])  =  E ∗ x   in strides of s

onnxruntime has convolutions for blocks of channels, and neither slices nor padding of them: what the shortcut
is added to would be put in order, and so would all that is added after it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.stages import Stage


def convolve_shortcuts(stage: Stage, image_shape: tuple[int, ...]) -> Stage:
    """The same stage with convolutions in place of zero channels, and of the slices that these alone read."""
    shapes = {INPUT: image_shape, **stage.shapes}
    readers = Counter(name for node in stage.nodes for name in node.inputs)
    readers.update([stage.logits, *(feature.node for feature in stage.gives)])
    slices = {
        node.name: node for node in stage.nodes if readers[node.name] == 1 and _is_strided(node, shapes)
    }
    weights = dict(stage.weights)
    nodes: dict[str, Node] = {}
    for node in stage.nodes:
        nodes[node.name] = node
        if not _adds_zeros(node):
            continue
        strided = slices.get(node.inputs[0])
        if strided is not None:
            del nodes[strided.name]
        nodes[node.name] = _convolution(node, strided)
        weights[_key(node)] = _selection(node, stage.weights)
    return replace(stage, nodes=tuple(nodes.values()), weights=weights)


def _adds_zeros(node: Node) -> bool:
    return node.operator == "channel_pad" and node.attributes["value"] == 0 and len(node.shape) == 3


def _is_strided(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a slice begins with the first pixel of each axis and goes on to the last."""
    if node.operator != "spatial_slice" or len(node.shape) != 3:
        return False
    sizes = shapes[node.inputs[0]][1:]
    return all(
        start == 0 and stop >= size
        for (start, stop, _), size in zip(node.attributes["slices"], sizes, strict=True)
    )


def _convolution(node: Node, strided: Node | None) -> Node:
    steps = (1, 1) if strided is None else tuple(step for _, _, step in strided.attributes["slices"])
    return replace(
        node,
        operator="conv",
        inputs=node.inputs if strided is None else strided.inputs,
        attributes={"stride": steps, "padding": (0, 0), "dilation": (1, 1), "groups": 1},
        weights={"weight": _key(node)},
    )


def _key(node: Node) -> str:
    return f"{node.name}.selection"


def _selection(node: Node, weights: Mapping[str, Tensor]) -> Tensor:
    """The kernel that copies each channel to its place, in the type of the stage's other weights."""
    before, after = int(node.attributes["before"]), int(node.attributes["after"])
    kept = node.channels - before - after
    dtype = next((w.dtype for w in weights.values() if w.is_floating_point()), torch.float32)
    selection = torch.zeros(node.channels, kept, 1, 1, dtype=dtype)
    selection[before : before + kept, :, 0, 0] = torch.eye(kept, dtype=dtype)
    return selection
