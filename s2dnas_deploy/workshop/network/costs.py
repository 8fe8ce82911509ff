"""Costs: what a network and each of its stages compute, hold and hand over, counted from their nodes.

Place in the flow: `MultiStageNetwork` ──▶ `Costs`, for inspect and for whoever compares plans. The body is
what the static network and the stages share out; a head is one exit's classifier, which every exit has
for itself. For one image, and with |·| for the number of elements:

    MACs of a convolution or a linear layer   |y| · |w[o]|
    everything else                           0

These are counts; what a stage really takes is for a clock to say.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from s2dnas_deploy.workshop.network import operators
from s2dnas_deploy.workshop.network.division import Division
from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.nested import parts_of
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.stages import Feature, Stage
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LayerCosts:
    """One operation that computes or holds something: MACs for one image, parameters, numbers held.

    A weight that several operations share counts for the first of them only.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    numbers: int

    def __post_init__(self) -> None:
        """Parameters are among the numbers held; the others are statistics."""
        if not 0 <= self.parameters <= self.numbers or self.macs < 0:
            raise ValueError(f"impossible costs: {self}")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """A body and one classifier: the static network as a whole, or one stage with its exit."""

    body: tuple[LayerCosts, ...]
    head: tuple[LayerCosts, ...]

    @property
    def layers(self) -> tuple[LayerCosts, ...]:
        """Body and head."""
        return (*self.body, *self.head)

    @property
    def macs_per_layer(self) -> dict[str, int]:
        """MACs for one image of every layer that has any."""
        return {layer.name: layer.macs for layer in self.layers if layer.macs}

    @property
    def body_macs(self) -> int:
        """MACs for one image, without the classifier's."""
        return sum(layer.macs for layer in self.body)

    @property
    def head_macs(self) -> int:
        """MACs for one image of the classifier alone."""
        return sum(layer.macs for layer in self.head)

    @property
    def macs(self) -> int:
        """MACs for one image."""
        return self.body_macs + self.head_macs

    @property
    def head_parameters(self) -> int:
        """Parameters of the classifier alone."""
        return sum(layer.parameters for layer in self.head)

    @property
    def parameters(self) -> int:
        """Numbers that training decides."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def size_bytes(self) -> int:
        """Size of parameters and statistics in float32."""
        return sum(layer.numbers for layer in self.layers) * FLOAT32_BYTES


@dataclass(frozen=True, kw_only=True)
class StageCosts(Costs):
    """One stage, with the features that it reads from earlier stages and hands to later ones."""

    stage: int
    reads: tuple[Feature, ...]
    gives: tuple[Feature, ...]

    @property
    def gives_bytes(self) -> int:
        """Size of the features that the stage hands over, for one image in float32."""
        return sum(feature_bytes(feature) for feature in self.gives)


def static_macs(static: StaticNetwork) -> dict[str, int]:
    """MACs per layer of the static network, for one image."""
    network = as_network(static)
    (exit_,) = network.division.exits
    counts = static_costs(network).macs_per_layer
    return {exit_.static_name(name): count for name, count in counts.items()}


def static_costs(network: MultiStageNetwork) -> Costs:
    """The costs of the static network that `network` divides; the last exit's classifier is its own."""
    division, weights = network.division, network.weights()
    added = {node.name for node in division.body} - {node.name for node in division.divisible.body}
    body = [node for node in division.body[1:] if node.name not in added]
    if division.plan.nested:
        weights |= _as_in_the_static_network(division, weights)
    count = _Count(division, weights)
    return Costs(body=count.layers(body), head=count.layers(division.exits[-1].nodes))


def _as_in_the_static_network(division: Division, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What norms and the classifier hold where all channels are there, in sizes only."""
    norms = [node for node in division.body if division.prefixes(node) != ("",)]
    sizes: dict[str, tuple[int, ...]] = {
        key: (node.channels,) for node in norms for key in node.weights.values()
    }
    widest = division.exits[-1]
    for node in widest.nodes:
        if division.exit_reads(widest, node) is not None:
            key = node.weights["weight"]
            outputs, _, *kernel = weights[key].shape
            sizes[key] = (outputs, len(division.levels[node.inputs[0]]), *kernel)
    return {key: torch.empty(size, device="meta") for key, size in sizes.items()}


def stage_costs(network: MultiStageNetwork) -> tuple[StageCosts, ...]:
    """The costs of each stage, or of each nested width."""
    return tuple(costs_of(network.division, stage) for stage in parts_of(network))


def costs_of(division: Division, stage: Stage) -> StageCosts:
    """The costs of a stage of a divided network."""
    heads = {node.name for node in division.exits[stage.index].nodes}
    count = _Count(division, stage.weights)
    return StageCosts(
        body=count.layers(node for node in stage.nodes if node.name not in heads),
        head=count.layers(node for node in stage.nodes if node.name in heads),
        stage=stage.index,
        reads=stage.reads,
        gives=stage.gives,
    )


def feature_bytes(feature: Feature) -> int:
    """Size of a shared feature for one image in float32."""
    return prod(feature.shape) * FLOAT32_BYTES


class _Count:
    """Counts nodes one after the other, and a shared weight once."""

    def __init__(self, division: Division, weights: Mapping[str, Tensor]) -> None:
        self.origins = {node.name: node.weights for node in [*division.body, *division.heads]}
        self.weights = weights
        self.seen: set[tuple[str, tuple[int, ...]]] = set()

    def layers(self, nodes: Iterable[Node]) -> tuple[LayerCosts, ...]:
        """The costs of those nodes that have any."""
        counted = [self._layer(node) for node in nodes]
        return tuple(layer for layer in counted if layer.macs or layer.numbers)

    def _layer(self, node: Node) -> LayerCosts:
        own = {role: self.weights[key] for role, key in node.weights.items()}
        held = [role for role in own if own[role].is_floating_point() and self._is_new(node, role, own[role])]
        trained = [role for role in held if role not in OPERATORS[node.operator].buffers]
        return LayerCosts(
            name=node.name,
            operator=node.operator,
            shape=node.shape,
            macs=operators.macs(node, own),
            parameters=_elements(own, trained),
            numbers=_elements(own, held),
        )

    def _is_new(self, node: Node, role: str, weight: Tensor) -> bool:
        """Whether this weight, or this slice of it, has not been counted yet."""
        key = (self.origins.get(node.name, node.weights)[role], tuple(weight.shape))
        new = key not in self.seen
        self.seen.add(key)
        return new


def _elements(weights: Mapping[str, Tensor], roles: Sequence[str]) -> int:
    return sum(weights[role].numel() for role in roles)
