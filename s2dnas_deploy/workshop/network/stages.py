"""Stages: the multi-stage network cut into plain modules that compute what they own and nothing else.

Place in the flow: `MultiStageNetwork` ──slice──▶ one `StageNetwork` per stage, which export writes to ONNX.
The masked weights are zero wherever a slice is left out, so the chain of stages computes the same function.
A stage is itself a short list of nodes of the operator table; here they are built, and run.

    stage k: (image, shared features of stages 0..k-1) → (logits, the features that later stages read)
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from s2dnas_deploy.workshop.network.division import NOTHING, Division, Exit
from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.groups import carried
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, attribute_name
from s2dnas_deploy.workshop.network.operators import OPERATORS, Attributes, is_sum
from s2dnas_deploy.workshop.network.static_network import last_reads, run_node

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The channels of one tensor that one stage computes and later stages read."""

    node: str
    stage: int
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """How the feature is called between stages."""
        return f"stage{self.stage}/{self.node}"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage as nodes with sliced weights; `reads` and `gives` are its shared features, in order.

    `joins` names the nodes that slicing added to bring channels together; the network has none such.
    """

    index: int
    nodes: tuple[Node, ...]
    weights: Mapping[str, Tensor]
    reads: tuple[Feature, ...]
    gives: tuple[Feature, ...]
    logits: str
    joins: frozenset[str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what its nodes give and of the features that it reads, by name, without the batch."""
        shapes = {node.name: node.shape for node in self.nodes}
        return shapes | {feature.name: feature.shape for feature in self.reads}


class StageNetwork(nn.Module):
    """A stage as a module: `forward(image, *reads)` gives `(logits, *gives)`."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self._attribute = {key: attribute_name(key) for key in stage.weights}
        for key, tensor in stage.weights.items():
            self.register_buffer(self._attribute[key], tensor)
        self._last_reads = last_reads(stage.nodes, (stage.logits, *(feature.node for feature in stage.gives)))

    def forward(self, image: Tensor, *shared: Tensor) -> tuple[Tensor, ...]:
        """Logits [N, classes] first, then the features that later stages read."""
        weights = {key: getattr(self, name) for key, name in self._attribute.items()}
        values = {INPUT: image}
        values.update({feature.name: x for feature, x in zip(self.stage.reads, shared, strict=True)})
        for node in self.stage.nodes:
            values[node.name] = run_node(node, values, weights)
            for name in self._last_reads.get(node.name, ()):
                values.pop(name, None)
        return (values[self.stage.logits], *(values[feature.node] for feature in self.stage.gives))


def slice_stages(network: MultiStageNetwork) -> tuple[Stage, ...]:
    """Cut the network into its stages; weights are detached copies.

    A plan may give a stage channels that lead nowhere (all their readers own none in that stage): they are
    not computed, and what only they would have read is not handed over.
    """
    stages: list[Stage] = []
    wanted: set[str] = set()
    for index in reversed(range(network.stages)):
        slicer = _Slicer(network, index)
        slicer.slice()
        stages.insert(0, slicer.stage(wanted))
        wanted |= {feature.name for feature in stages[0].reads}
    return tuple(stages)


def first_alone(network: MultiStageNetwork) -> Stage:
    """The first stage as if none came after it: it hands nothing over."""
    slicer = _Slicer(network, 0)
    slicer.slice()
    return slicer.stage(frozenset())


def needed_for(results: Set[str], nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes that must run before the results are known, in order."""
    needed, found = set(results), []
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
            found.append(node)
    return tuple(reversed(found))


class _Slicer:
    """Builds the nodes of one stage, in the order of the network's own."""

    def __init__(self, network: MultiStageNetwork, index: int) -> None:
        self.division: Division = network.division
        self.all_weights = network.weights()
        self.index = index
        self.nodes: list[Node] = []
        self.weights: dict[str, Tensor] = {}
        self.reads: dict[str, Feature] = {}
        self.assembled: dict[tuple[str, bytes], str] = {}
        self.joins: set[str] = set()
        self.by_name = {node.name: node for node in self.division.body}

    def slice(self) -> None:
        """Every node of the body that has channels of this stage, then the exit."""
        for node in self.division.body[1:]:
            own = np.flatnonzero(self.division.levels[node.name] == self.index)
            if len(own):
                self._slice_node(node, own)
        exit_ = self.division.exits[self.index]
        for node in exit_.nodes:
            self._slice_exit_node(exit_, node)

    def stage(self, wanted: Set[str]) -> Stage:
        """The finished stage: its exit, those of its features that are `wanted`, and what these need."""
        own = [Feature(node=node.name, stage=self.index, shape=node.shape) for node in self.nodes]
        gives = tuple(feature for feature in own if feature.name in wanted)
        logits = self.division.exits[self.index].output
        nodes = needed_for({logits, *(feature.node for feature in gives)}, self.nodes)
        read = {name for node in nodes for name in node.inputs}
        keys = {key for node in nodes for key in node.weights.values()}
        return Stage(
            index=self.index,
            nodes=nodes,
            weights={key: tensor for key, tensor in self.weights.items() if key in keys},
            reads=tuple(feature for feature in self.reads.values() if feature.name in read),
            gives=gives,
            logits=logits,
            joins=frozenset(self.joins),
        )

    # -- nodes ---------------------------------------------------------------------------------------

    def _slice_node(self, node: Node, own: Indices) -> None:
        if OPERATORS[node.operator].mixes:
            name, columns = self._read_all(node.inputs[0], self.division.readable(node, self.index))
            self._add(node, own, [name], [columns])
            return
        inputs, picked = [], []
        for source, carry in zip(node.inputs, carried(node, self.by_name), strict=True):
            channels = _in_order(carry[own])
            if (self._levels(source)[channels] != NOTHING).any():
                inputs.append(self._read(source, channels))
                picked.append(channels)
        if len(inputs) == 1 and is_sum(node):
            self._add(replace(node, operator="identity", attributes={}), own, inputs, picked)
        elif inputs:
            self._add(node, own, inputs, picked)
        else:
            self._add_padding(node, own)

    def _slice_exit_node(self, exit_: Exit, node: Node) -> None:
        """An exit's node; its columns follow the order in which the channels are brought together."""
        every = np.arange(node.channels)
        reads = self.division.exit_reads(exit_, node)
        if reads is None:
            self._add(node, every, list(node.inputs), None)
        else:
            name, order = self._read_all(node.inputs[0], reads)
            self._add(node, every, [name], [np.searchsorted(reads, order)])

    def _add(self, node: Node, own: Indices, inputs: Sequence[str], picked: Sequence[Indices] | None) -> None:
        """The node restricted to its own output channels and the input channels that were read."""
        attributes: Attributes = node.attributes
        weights = {role: self.all_weights[key].detach() for role, key in node.weights.items()}
        if picked is not None:
            restrict = OPERATORS[node.operator].restrict
            attributes, sliced = restrict(attributes, weights, own, picked)
            weights = {role: tensor.clone() for role, tensor in sliced.items()}
        self._append(
            Node(
                name=node.name,
                operator=node.operator,
                inputs=tuple(inputs),
                attributes=attributes,
                weights={role: self._key(node, role, tensor) for role, tensor in weights.items()},
                shape=(len(own), *node.shape[1:]),
                source=node.source,
            ),
            weights,
        )

    def _key(self, node: Node, role: str, tensor: Tensor) -> str:
        """The weight's own name, so that a shared weight is held once; the node's if slices differ."""
        key = node.weights[role]
        held = self.weights.get(key)
        same = held is None or (held.shape == tensor.shape and bool(torch.equal(held, tensor)))
        return key if same else f"{node.name}.{role}"

    def _add_padding(self, node: Node, own: Indices) -> None:
        """Channels that come from nothing: the padding of a channel pad, with nothing of what it pads."""
        attributes = {"value": node.attributes["value"], "shape": [len(own), *node.shape[1:]]}
        padding = Node(
            name=node.name,
            operator="fill",
            inputs=(INPUT,),
            attributes=attributes,
            weights={},
            shape=(len(own), *node.shape[1:]),
            source=node.source,
        )
        self._append(padding, {})

    def _append(self, node: Node, weights: Mapping[str, Tensor]) -> None:
        self.nodes.append(node)
        self.weights.update({node.weights[role]: tensor for role, tensor in weights.items()})

    # -- reading -------------------------------------------------------------------------------------

    def _read_all(self, name: str, channels: Indices) -> tuple[str, Indices]:
        """A tensor with all of `channels`, in the order that costs least, and that order."""
        levels = self._levels(name)[channels]
        order = channels[np.argsort(levels, kind="stable")]
        return self._read(name, order), order

    def _read(self, name: str, channels: Indices) -> str:
        """The name of a tensor that holds exactly `channels` of node `name`, in that order."""
        key = (name, channels.tobytes())
        if key not in self.assembled:
            self.assembled[key] = self._assemble(name, channels)
        return self.assembled[key]

    def _assemble(self, name: str, channels: Indices) -> str:
        levels = self._levels(name)
        present = sorted(set(levels[channels].tolist()))
        parts = [self._part(name, level) for level in present]
        held = np.concatenate([np.flatnonzero(levels == level) for level in present])
        space = self.by_name[name].shape[1:]
        whole = parts[0]
        if len(parts) > 1:
            whole = self._derived(name, "cat", parts, {"dim": 1}, {}, (len(held), *space))
        if np.array_equal(held, channels):
            return whole
        place = {int(channel): i for i, channel in enumerate(held)}
        index = torch.tensor([place[int(channel)] for channel in channels])
        return self._derived(name, "select", [whole], {}, {"index": index}, (len(channels), *space))

    def _derived(  # noqa: PLR0917
        self,
        name: str,
        operator: str,
        inputs: Sequence[str],
        attributes: Attributes,
        weights: Mapping[str, Tensor],
        shape: tuple[int, ...],
    ) -> str:
        """A node that the network does not have, which brings channels together for a reader."""
        taken = {node.name for node in self.nodes}
        new, count = f"{name}/{operator}", 1
        while new in taken:
            new, count = f"{name}/{operator}_{count}", count + 1
        keys = {role: f"{new}.{role}" for role in weights}
        node = Node(
            name=new,
            operator=operator,
            inputs=tuple(inputs),
            attributes=attributes,
            weights=keys,
            shape=shape,
        )
        self._append(node, weights)
        self.joins.add(new)
        return new

    def _part(self, name: str, level: int) -> str:
        """The channels of a node that one stage computes: the stage's own, or a shared feature; or zeros."""
        if name == INPUT or level == self.index:
            return name
        shape = (int((self._levels(name) == level).sum()), *self.by_name[name].shape[1:])
        if level == NOTHING:
            return self._derived(name, "fill", [INPUT], {"value": 0.0, "shape": list(shape)}, {}, shape)
        feature = Feature(node=name, stage=level, shape=shape)
        self.reads.setdefault(feature.name, feature)
        return feature.name

    def _levels(self, name: str) -> Indices:
        return self.division.levels[name]


def _in_order(carry: Indices) -> Indices:
    """The channels in a carry, each once, in the order in which they first occur."""
    flat = carry.ravel()
    return np.array(list(dict.fromkeys(flat[flat >= 0].tolist())), dtype=np.int64)
