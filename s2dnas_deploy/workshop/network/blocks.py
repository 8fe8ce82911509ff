"""Residual blocks and gates before them: what can be left out of a network, image by image.

Place in the flow: `StaticNetwork` ──gated──▶ a `StaticNetwork` that computes the same, and whose gates can learn
to close. A block adds to its shortcut u what its branch F makes of the block's input x:

    y = u + s · F(x, g)      s = clamp(⟨w, mean(x)⟩ + b, 0, 1)        the layer gate: at 0, F need not run
                             g = clamp(W · mean(x) + c, 0, 1)         a channel gate on each tensor within F:
                                                                      at 0, a channel need not be computed

All gates begin at 1. What they are made of is what networks are made of, so the network is read, kept, exported
and verified as any other.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from s2dnas_deploy.errors import UnsupportedNetworkError
from s2dnas_deploy.workshop.network.graph import ChannelGraph, Node
from s2dnas_deploy.workshop.network.groups import divide_into_groups
from s2dnas_deploy.workshop.network.operators import OPERATORS, macs
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

LAYER_GATE, CHANNEL_GATE = "layer_gate", "channel_gate"
_CLAMP = {"function": "hardtanh", "arguments": {"min_val": 0.0, "max_val": 1.0}}


@dataclass(frozen=True, kw_only=True)
class Block:
    """A residual block: `adds` brings `shortcut` and the last of `branch` together; both come from `reads`."""

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
    before = _all_before(graph)
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).add(node.name)
    found: list[Block] = []
    for node in graph.nodes:
        if node.operator == "binary" and node.attributes["function"] == "add" and len(set(node.inputs)) == 2:
            pairs = (node.inputs, tuple(reversed(node.inputs)))
            sides = [side for u, last in pairs if (side := _side(graph, before, readers, node, u, last))]
            if sides:
                found.append(max(sides, key=lambda side: len(side.layers)))
    inside = {node.name for block in found for node in block.branch}
    return tuple(block for block in found if block.adds not in inside)


def _all_before(graph: ChannelGraph) -> Mapping[str, frozenset[str]]:
    """Each node with all that it needs."""
    before: dict[str, frozenset[str]] = {}
    for node in graph.nodes:
        before[node.name] = frozenset({node.name}).union(*(before[name] for name in node.inputs))
    return before


def _side(
    graph: ChannelGraph,
    before: Mapping[str, frozenset[str]],
    readers: Mapping[str, set[str]],
    adds: Node,
    shortcut: str,
    last: str,
) -> Block | None:
    """The block whose branch ends at `last`, if that can be left out: nothing else reads what is in it."""
    inside = before[last] - before[shortcut]
    branch = tuple(node for node in graph.nodes if node.name in inside)
    reads = {name for node in branch for name in node.inputs if name not in inside}
    alone = all(readers[name] <= inside | {adds.name} for name in inside)
    same = last in inside and graph.by_name[last].shape == graph.by_name[shortcut].shape
    if not (same and alone and len(reads) == 1 and any(map(_computes, branch))):
        return None
    return Block(adds=adds.name, reads=next(iter(reads)), shortcut=shortcut, branch=branch)


@dataclass(frozen=True, kw_only=True)
class GatedLayer:
    """A layer of a branch: its MACs, and the gates of the channels that it reads and makes, if there are any."""

    macs: int
    reads: str | None
    makes: str | None


@dataclass(frozen=True, kw_only=True)
class GatedBlock:
    """What a block's gates are called, as nodes, and what they spare."""

    adds: str
    looks_at: str
    layer_gate: str
    layers: tuple[GatedLayer, ...]


@dataclass(frozen=True, kw_only=True)
class Gated:
    """A network with gates: it computes what it did while all are open."""

    static: StaticNetwork
    blocks: tuple[GatedBlock, ...]

    @property
    def gates(self) -> frozenset[str]:
        """The nodes that give a gate's numbers."""
        channels = {
            gate for block in self.blocks for layer in block.layers for gate in (layer.reads, layer.makes)
        }
        return frozenset(channels - {None}) | {block.layer_gate for block in self.blocks}


def gated(static: StaticNetwork) -> Gated:
    """The same network with gates before all of its residual blocks, all open."""
    blocks = blocks_of(static.graph)
    if not blocks:
        raise UnsupportedNetworkError(
            "the network has no residual block: a branch whose result is added to what goes past it, and which "
            "nothing else reads; without one, nothing can be left out"
        )
    gates = [_Gates(static.graph, block) for block in blocks]
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


class _Gates:
    """The nodes and weights of a block's gates; `products` are what goes after nodes of its branch."""

    def __init__(self, graph: ChannelGraph, block: Block) -> None:
        self.block, self.source = block, graph.by_name[block.adds].source
        self.nodes: list[Node] = []
        self.products: dict[str, Node] = {}
        self.channel_gates: dict[str, str] = {}
        self.weights: dict[str, Tensor] = {}
        reads, last = graph.by_name[block.reads], block.branch[-1]
        self._add("pooled", "reduce", reads.name, (reads.channels,), _mean_over(reads))
        self._gate(LAYER_GATE, 1)
        spread = self._linear(f"{LAYER_GATE}/spread", f"{LAYER_GATE}/clamp", last.channels, bias=None)
        self.products[last.name] = self._product(last, spread, LAYER_GATE)
        for node in _within(block):
            gate = self._gate(f"{CHANNEL_GATE}/{node.name}", node.channels)
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
            looks_at=self._called("pooled"),
            layer_gate=self._called(f"{LAYER_GATE}/clamp"),
            layers=tuple(
                GatedLayer(
                    macs=macs(node, {role: weights[key] for role, key in node.weights.items()}),
                    reads=self.channel_gates.get(node.inputs[0]),
                    makes=makers.get(node.name),
                )
                for node in self.block.layers
            ),
        )

    def _gate(self, name: str, size: int) -> str:
        """Numbers from 0 to 1 of what the block reads, all 1 to begin with."""
        self._linear(f"{name}/linear", "pooled", size, bias=1.0)
        return self._add(f"{name}/clamp", "pointwise", self._called(f"{name}/linear"), (size,), _CLAMP)

    def _linear(self, name: str, reads: str, size: int, *, bias: float | None) -> str:
        """A linear layer; without a bias, it passes one number on to all."""
        inputs = next(node.channels for node in self.nodes if node.name == self._called(reads))
        key = f"{self._called(name)}."
        self.weights[f"{key}weight"] = (torch.ones if bias is None else torch.zeros)(size, inputs)
        roles = {"weight": f"{key}weight"}
        if bias is not None:
            self.weights[f"{key}bias"] = torch.full((size,), bias)
            roles["bias"] = f"{key}bias"
        return self._add(name, "linear", self._called(reads), (size,), {}, roles)

    def _product(self, node: Node, gate: str, name: str) -> Node:
        """A tensor times a gate."""
        if len(node.shape) > 1:
            space = {"space": [1] * (len(node.shape) - 1)}
            gate = self._add(f"{name}/space", "reshape", gate, (node.channels, *space["space"]), space)
        return Node(
            name=self._called(f"{name}/product"),
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
        attributes: Mapping[str, object],
        weights: Mapping[str, str] | None = None,
    ) -> str:
        self.nodes.append(
            Node(
                name=self._called(name),
                operator=operator,
                inputs=(reads,),
                attributes=attributes,
                weights=weights or {},
                shape=shape,
                source=self.source,
            )
        )
        return self._called(name)

    def _called(self, name: str) -> str:
        return f"{self.block.adds}/{name}"


def _mean_over(node: Node) -> Mapping[str, object]:
    return {"function": "mean", "dims": list(range(2, 1 + len(node.shape))), "keepdim": False}


def _within(block: Block) -> Iterator[Node]:
    """The tensors between two layers of a branch: what the later one reads, where channels are as they were made.

    A gate goes right before the layer that mixes, so that channels which are switched off are not read. What has
    been pooled on the way to a gate that the block has of its own is small, and left alone.
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
