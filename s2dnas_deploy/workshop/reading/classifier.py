"""A new classifier: the layer that gives the outputs, made anew for another number of classes.

Place in the flow: `StaticNetwork` of other classes ──▶ the same body with a new last layer, which knows
nothing yet. It is found in the channel graph, whatever the network's code calls it: the one layer that makes
the outputs, after which nothing but what treats all channels alike may come.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.network.graph import ChannelGraph, Node
from s2dnas_deploy.workshop.network.groups import divide_into_groups
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

_MOVE_CHANNELS = frozenset({"cat", "channel_slice", "channel_pad", "channel_shuffle", "flatten", "fill"})


@dataclass(frozen=True, kw_only=True)
class NewClassifier:
    """A network with a new classifier, and what that is."""

    static: StaticNetwork
    layer: str
    weights: tuple[str, ...]
    """The names of its weights."""
    inputs: int
    outputs: int
    """How many the layer in its place had."""

    def in_words(self) -> str:
        """What was replaced by what."""
        return (
            f"the classifier {shown(self.layer)}, {self.inputs} channels to {self.outputs} outputs, is "
            f"replaced by a new one for {self.static.graph.classes} classes"
        )


def with_new_classifier(static: StaticNetwork, classes: int, *, seed: int) -> NewClassifier:
    """The network with other outputs; the new layer's weights are drawn from the seed."""
    layer = _classifier_of(static)
    outputs = static.graph.classes
    old = {role: static.weights[key] for role, key in layer.weights.items()}
    new = _drawn(old, classes, seed)
    weights = {layer.weights[role]: tensor for role, tensor in new.items()}
    graph = _with_outputs(static.graph, static.divisible.classifier, classes)
    return NewClassifier(
        static=StaticNetwork(divisible=divide_into_groups(graph), weights={**static.weights, **weights}),
        layer=layer.name,
        weights=tuple(weights),
        inputs=int(old["weight"].shape[1]),
        outputs=outputs,
    )


def _classifier_of(static: StaticNetwork) -> Node:
    """The one layer that makes the outputs; what else holds them must be content with any number of them."""
    head, graph = static.divisible.head, static.graph
    layers = [node for node in head if OPERATORS[node.operator].mixes]
    if len(layers) != 1:
        names = ", ".join(shown(node.name) for node in layers[:5]) or "none"
        raise ModelError(
            f"the classifier cannot be replaced: expected one layer that makes the network's {graph.classes} "
            f"outputs, found {names}; give the network so many outputs yourself (--model-args)"
        )
    for node in head:
        problem = _why_not(node, node is layers[0], static)
        if problem:
            raise ModelError(
                f"the classifier {shown(layers[0].name)} cannot be replaced: {shown(node.name)} {problem}; "
                f"give the network so many outputs yourself (--model-args)\n  at {node.source}"
            )
    return layers[0]


def _why_not(node: Node, is_layer: bool, static: StaticNetwork) -> str:
    """Why a node that holds the outputs could not hold another number of them."""
    if node.channels != static.graph.classes:
        return f"has {node.channels} channels in place of {static.graph.classes}"
    if is_layer:
        users = [
            each for each in static.graph.nodes if set(each.weights.values()) & set(node.weights.values())
        ]
        return "shares its weights with another" if len(users) > 1 else ""
    if node.weights:
        return "has weights for each output"
    return "moves the outputs" if node.operator in _MOVE_CHANNELS or len(node.inputs) > 1 else ""


def _drawn(old: Mapping[str, Tensor], classes: int, seed: int) -> dict[str, Tensor]:
    """Weights as `torch.nn.Linear` draws them, U(-1/√inputs, 1/√inputs), and a bias of zeros."""
    generator = torch.Generator().manual_seed(seed)
    shape = (classes, *old["weight"].shape[1:])
    bound = float(old["weight"][0].numel()) ** -0.5
    weight = torch.empty(shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
    new = {"weight": weight.to(old["weight"].dtype)}
    if "bias" in old:
        new["bias"] = torch.zeros(classes, dtype=old["bias"].dtype)
    return new


def _with_outputs(graph: ChannelGraph, classifier: frozenset[str], classes: int) -> ChannelGraph:
    nodes = tuple(
        replace(node, shape=(classes, *node.shape[1:])) if node.name in classifier else node
        for node in graph.nodes
    )
    return ChannelGraph(nodes=nodes, output=graph.output)
