"""Residual blocks and gates before them: what can be left out of a network, image by image.

Place in the flow: `StaticNetwork` ──gated──▶ a `StaticNetwork` that computes the same, and whose gates can
learn to close. A block adds to its shortcut u what its branch F makes of the block's input x:

    y = u + s · F(x, g)      s = clamp(⟨w, mean(x)⟩ + b, 0, 1)        the layer gate: at 0, F need not run
                             g = clamp(W · mean(x) + c, 0, 1)         a channel gate on each tensor within F:
                                                                      at 0, a channel need not be computed

All gates begin at 1, and those of what matters much keep at it longest: they begin further above it, so far
apart that few are between 0 and 1 while the rest is open or shut. If all fell alike, nothing would be lost
until all are shut, for a norm after them makes up for any common factor. A block is worth more than its
channels, so the gates of blocks begin to shut when some channels are gone. What gates are made of is what
networks are made of, so the network is read, kept, exported and verified as any other.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from s2dnas_deploy.errors import UnsupportedNetworkError
from s2dnas_deploy.workshop.network.graph import ChannelGraph, Node
from s2dnas_deploy.workshop.network.groups import Divisible, divide_into_groups
from s2dnas_deploy.workshop.network.operators import OPERATORS, is_sum, macs
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

LAYER_GATE, CHANNEL_GATE, POOLED, PRODUCT = "layer_gate", "channel_gate", "gates_see", "product"
_FIRMEST, _BLOCKS_FROM = 16.0, 0.5
_IS_GATE = re.compile(rf"/({LAYER_GATE}|{CHANNEL_GATE})/|/{POOLED}$")
_CLAMP = {"function": "hardtanh", "arguments": {"min_val": 0.0, "max_val": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A residual block: `adds` brings `shortcut` and the end of `branch` together; both come from `reads`."""

    adds: str
    reads: str
    shortcut: str
    branch: tuple[Node, ...]

    @property
    def layers(self) -> tuple[Node, ...]:
        """Those of the branch that compute."""
        return tuple(node for node in self.branch if _computes(node))


def _computes(node: Node) -> bool:
    operator = OPERATORS[node.operator]
    return operator.mixes or operator.counts_macs


def blocks_of(graph: ChannelGraph) -> tuple[Block, ...]:
    """The residual blocks of a network, in order; none lies within another."""
    ways, found = _Ways(graph), list[Block]()
    for node in graph.nodes:
        if is_sum(node) and len(set(node.inputs)) == 2:
            first, second = node.inputs
            sides = [ways.block(node.name, *pair) for pair in ((first, second), (second, first))]
            found += sorted(filter(None, sides), key=lambda block: len(block.layers))[-1:]
    inside = {node.name for block in found for node in block.branch}
    return tuple(block for block in found if block.adds not in inside)


class _Ways:
    """What comes before each node of a graph, and who reads it."""

    def __init__(self, graph: ChannelGraph) -> None:
        self.graph = graph
        self.before: dict[str, frozenset[str]] = {}
        self.readers: dict[str, set[str]] = {node.name: set() for node in graph.nodes}
        for node in graph.nodes:
            self.before[node.name] = frozenset({node.name}).union(*(self.before[n] for n in node.inputs))
            for name in node.inputs:
                self.readers[name].add(node.name)

    def block(self, adds: str, shortcut: str, last: str) -> Block | None:
        """The block whose branch ends at `last`, if it can be left out: nothing else reads what is in it."""
        inside = self.before[last] - self.before[shortcut]
        branch = tuple(node for node in self.graph.nodes if node.name in inside)
        reads = {name for node in branch for name in node.inputs if name not in inside}
        alone = all(self.readers[name] <= inside | {adds} for name in inside)
        alike = self.graph.by_name[last].shape == self.graph.by_name[shortcut].shape
        if not (last in inside and alike and alone and len(reads) == 1 and any(map(_computes, branch))):
            return None
        return Block(adds=adds, reads=next(iter(reads)), shortcut=shortcut, branch=branch)


@dataclass(frozen=True, kw_only=True)
class GatedLayer:
    """A layer of a branch: its MACs, and the gates of the channels that it reads and makes, if any."""

    macs: int
    reads: str | None
    makes: str | None


@dataclass(frozen=True, kw_only=True)
class GatedBlock:
    """What a block's gates are called, as nodes, and what they spare."""

    adds: str
    looks_at: str
    layer_gate: str
    channel_gates: Mapping[str, str]
    """By tensor of the branch."""
    layers: tuple[GatedLayer, ...]


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A network with gates: it computes what it did while all are open."""

    static: StaticNetwork
    blocks: tuple[GatedBlock, ...]

    @property
    def gates(self) -> frozenset[str]:
        """The nodes that give a gate's numbers."""
        layers = (layer for block in self.blocks for layer in block.layers)
        channels = {gate for layer in layers for gate in (layer.reads, layer.makes) if gate is not None}
        return frozenset(channels) | {block.layer_gate for block in self.blocks}


def gated(static: StaticNetwork, firmest: Sequence[int] | None = None) -> Gated:
    """The same network with gates before all of its residual blocks, all open.

    `firmest` are the places of the blocks, those that keep open longest first; else as they come.
    """
    blocks = blocks_of(static.graph)
    if not blocks:
        raise UnsupportedNetworkError(
            "the network has no residual block: a branch whose result is added to what goes past it, and "
            "which nothing else reads; without one, nothing can be left out"
        )
    firm = _firmness(static.divisible)
    starts = dict(zip(firmest or range(len(blocks)), np.linspace(1, _BLOCKS_FROM, len(blocks)), strict=True))
    gates = [_Gates(static.graph, block, firm, starts[k]) for k, block in enumerate(blocks)]
    products = {name: each.products[name] for each in gates for name in each.products}
    nodes: list[Node] = []
    due = {block.branch[0].name: each for block, each in zip(blocks, gates, strict=True)}
    renamed: dict[str, str] = {}
    for node in static.graph.nodes:
        if node.name in due:
            nodes += due[node.name].nodes
        nodes.append(replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs)))
        if node.name in products:
            nodes.append(products[node.name])
            renamed[node.name] = products[node.name].name
    graph = ChannelGraph(nodes=tuple(nodes), output=static.graph.output)
    dtype = next(tensor.dtype for tensor in static.weights.values() if tensor.is_floating_point())
    own = {key: tensor.to(dtype) for each in gates for key, tensor in each.weights.items()}
    return Gated(
        static=StaticNetwork(divisible=divide_into_groups(graph), weights={**static.weights, **own}),
        blocks=tuple(each.told(static.weights) for each in gates),
    )


def found_in(static: StaticNetwork) -> Gated | None:
    """The gates that `gated` has put into a network; None if there are none.

    Without its gates it is the network that they were put into, which tells what each of them spares.
    """
    if not any(_IS_GATE.search(node.name) for node in static.graph.nodes):
        return None
    return Gated(static=static, blocks=gated(without_gates(static)).blocks)


def without_gates(static: StaticNetwork) -> StaticNetwork:
    """The network that gates were put into, with the weights that it has now."""
    past = {node.name: node.inputs[0] for node in static.graph.nodes if node.name.endswith(f"/{PRODUCT}")}
    nodes = tuple(
        replace(node, inputs=tuple(past.get(name, name) for name in node.inputs))
        for node in static.graph.nodes
        if not _IS_GATE.search(node.name)
    )
    graph = ChannelGraph(nodes=nodes, output=static.graph.output)
    keys = {key for node in nodes for key in node.weights.values()}
    weights = {key: tensor for key, tensor in static.weights.items() if key in keys}
    return StaticNetwork(divisible=divide_into_groups(graph), weights=weights)


class _Gates:
    """The nodes and weights of a block's gates; `products` are what goes after nodes of its branch."""

    def __init__(self, graph: ChannelGraph, block: Block, firm: Mapping[str, Tensor], own: float) -> None:
        self.block, self.source = block, graph.by_name[block.adds].source
        self.nodes: list[Node] = []
        self.products: dict[str, Node] = {}
        self.channel_gates: dict[str, str] = {}
        self.weights: dict[str, Tensor] = {}
        reads, last = graph.by_name[block.reads], block.branch[-1]
        self._add(POOLED, "reduce", reads.name, (reads.channels,), attributes=_mean_over(reads))
        self._gate(LAYER_GATE, torch.full((1,), 1 + _FIRMEST * own))
        spread = self._linear(f"{LAYER_GATE}/spread", f"{LAYER_GATE}/clamp", last.channels, bias=None)
        self.products[last.name] = self._product(last, spread, LAYER_GATE)
        for node in _within(block):
            gate = self._gate(f"{CHANNEL_GATE}/{node.name}", 1 + _FIRMEST * firm[node.name])
            self.channel_gates[node.name] = gate
            self.products[node.name] = self._product(node, gate, f"{CHANNEL_GATE}/{node.name}")

    def told(self, weights: Mapping[str, Tensor]) -> GatedBlock:
        """The gates by name, and what they spare."""
        makers: dict[str, str] = {}
        for node in reversed(self.block.branch):  # what goes on to a gate without being mixed
            gate = self.channel_gates.get(node.name) or makers.get(node.name)
            if gate is not None:
                makers[node.name] = gate
                if not OPERATORS[node.operator].mixes:
                    makers.update(dict.fromkeys(node.inputs, gate))
        return GatedBlock(
            adds=self.block.adds,
            looks_at=self._called(POOLED),
            layer_gate=self._called(f"{LAYER_GATE}/clamp"),
            channel_gates=self.channel_gates,
            layers=tuple(
                GatedLayer(
                    macs=macs(node, {role: weights[key] for role, key in node.weights.items()}),
                    reads=self.channel_gates.get(node.inputs[0]),
                    makes=makers.get(node.name),
                )
                for node in self.block.layers
            ),
        )

    def _gate(self, name: str, start: Tensor) -> str:
        """Numbers from 0 to 1 of what the block reads; the larger they start, the longer they are 1."""
        linear = self._linear(f"{name}/linear", POOLED, len(start), bias=start)
        return self._add(f"{name}/clamp", "pointwise", linear, (len(start),), attributes=_CLAMP)

    def _linear(self, name: str, reads: str, size: int, *, bias: Tensor | None) -> str:
        """A linear layer; without a bias, it passes one number on to all."""
        inputs = next(node.channels for node in self.nodes if node.name == self._called(reads))
        key = f"{self._called(name)}."
        self.weights[f"{key}weight"] = (torch.ones if bias is None else torch.zeros)(size, inputs)
        roles = {"weight": f"{key}weight"}
        if bias is not None:
            self.weights[f"{key}bias"] = bias
            roles["bias"] = f"{key}bias"
        return self._add(name, "linear", self._called(reads), (size,), weights=roles)

    def _product(self, node: Node, gate: str, name: str) -> Node:
        """A tensor times a gate."""
        if len(node.shape) > 1:
            space = {"space": [1] * (len(node.shape) - 1)}
            shape = (node.channels, *space["space"])
            gate = self._add(f"{name}/space", "reshape", gate, shape, attributes=space)
        return Node(
            name=self._called(f"{name}/{PRODUCT}"),
            operator="binary",
            inputs=(node.name, gate),
            attributes={"function": "mul", "reversed": False},
            weights={},
            shape=node.shape,
            source=self.source,
        )

    def _add(
        self,
        name: str,
        operator: str,
        reads: str,
        shape: tuple[int, ...],
        *,
        attributes: Mapping[str, object] | None = None,
        weights: Mapping[str, str] | None = None,
    ) -> str:
        self.nodes.append(
            Node(
                name=self._called(name),
                operator=operator,
                inputs=(reads,),
                attributes=attributes or {},
                weights=weights or {},
                shape=shape,
                source=self.source,
            )
        )
        return self._called(name)

    def _called(self, name: str) -> str:
        return f"{self.block.adds}/{name}"


def _firmness(divisible: Divisible) -> Mapping[str, Tensor]:
    """From 0 to 1 of each node's channels, the higher the earlier they come in the order of their group."""
    rank = np.zeros(1 + max(int(own.max()) for own in divisible.atoms.values()))
    for own in divisible.group_atoms.values():
        rank[own] = np.linspace(1, 0, len(own))
    return {name: torch.from_numpy(rank[own]).float() for name, own in divisible.atoms.items()}


def _mean_over(node: Node) -> Mapping[str, object]:
    return {"function": "mean", "dims": list(range(2, 1 + len(node.shape))), "keepdim": False}


def _within(block: Block) -> Iterator[Node]:
    """The tensors between two layers of a branch that get a gate: what a layer that mixes channels reads.

    So channels that are switched off are neither made nor read. What has been pooled on the way to a gate
    that the block has of its own is small, and left alone.
    """
    names = {node.name: node for node in block.branch}
    least = prod(block.branch[-1].shape[1:])
    seen = set[str]()
    for node in block.branch:
        read = names.get(node.inputs[0])
        if read is None or read.name in seen or not OPERATORS[node.operator].mixes:
            continue
        if prod(read.shape[1:]) >= least:
            seen.add(read.name)
            yield read
