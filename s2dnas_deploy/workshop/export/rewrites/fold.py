"""Fold batch norms into the layers before them, so that a device computes one thing in place of two.

Place in the flow: `Stage` ──fold──▶ `Stage` that computes the same. In evaluation a batch norm is a scale and
an offset per channel, so with g = weight / √(variance + eps):

    bn(W ∗ x + b) = (g · W) ∗ x + (b - mean) · g + bias

A layer is folded only if nothing but its batch norm reads it; what cannot be folded stays as it is.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.stages import Stage

_LAYERS = frozenset({"conv", "grouped_conv", "linear"})


def fold_batch_norms(stage: Stage) -> Stage:
    """The same stage with every batch norm that follows a layer of its own folded into that layer."""
    by_name = {node.name: node for node in stage.nodes}
    readers = Counter(name for node in stage.nodes for name in node.inputs)
    handed_over = {feature.node for feature in stage.gives}
    folded: dict[str, str] = {}  # the layer before → the batch norm whose name its result now has
    for node in stage.nodes:
        if node.operator != "batch_norm" or node.inputs[0] not in by_name:
            continue
        layer = by_name[node.inputs[0]]
        if layer.operator in _LAYERS and readers[layer.name] == 1 and layer.name not in handed_over:
            folded[layer.name] = node.name
    nodes: list[Node] = []
    weights: dict[str, Tensor] = {}
    norms = set(folded.values())
    for node in stage.nodes:
        if node.name in norms:
            continue
        new, own = _folded(node, by_name, folded, stage.weights)
        nodes.append(new)
        weights.update(own)
    return replace(stage, nodes=tuple(nodes), weights=weights)


def _folded(
    node: Node, by_name: Mapping[str, Node], folded: Mapping[str, str], weights: Mapping[str, Tensor]
) -> tuple[Node, dict[str, Tensor]]:
    """The node and its weights, with its batch norm in it if it has one to take in."""
    if node.name not in folded:
        return node, {key: weights[key] for key in node.weights.values()}
    norm = by_name[folded[node.name]]
    kernel, bias = _scaled(
        {role: weights[key] for role, key in node.weights.items()},
        {role: weights[key] for role, key in norm.weights.items()},
        float(norm.attributes["eps"]),
    )
    keys = {"weight": f"{norm.name}.folded_weight", "bias": f"{norm.name}.folded_bias"}
    return replace(node, name=norm.name, weights=keys), {keys["weight"]: kernel, keys["bias"]: bias}


def _scaled(layer: Mapping[str, Tensor], norm: Mapping[str, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """The layer's kernel and bias after folding, computed in float64 so that rounding happens once."""
    kernel, dtype = layer["weight"].double(), layer["weight"].dtype
    gain = torch.rsqrt(norm["variance"].double() + eps)
    if "weight" in norm:
        gain = gain * norm["weight"].double()
    bias = layer["bias"].double() if "bias" in layer else torch.zeros_like(gain)
    shifted = (bias - norm["mean"].double()) * gain
    if "bias" in norm:
        shifted = shifted + norm["bias"].double()
    shape = (-1, *[1] * (kernel.dim() - 1))
    return (kernel * gain.reshape(shape)).to(dtype), shifted.to(dtype)
