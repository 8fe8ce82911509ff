"""A division: one plan applied to one network. Who computes which channel of which tensor, and the exits.

Place in the flow: plan + channel graph ──divide──▶ `Division`, which `network` turns into masks and
`stages` into slices. It holds integers only, no weights. The rule it applies (see `plan`):

    level(n, c) = max(owner(c), depth(n))
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.build.graph import INPUT, ChannelGraph, Node
from s2dnas_deploy.build.groups import Divisible
from s2dnas_deploy.build.operators import OPERATORS
from s2dnas_deploy.plan import OUTPUT, Plan, check

Indices = npt.NDArray[np.int64]
IMAGE_LEVEL = -1  # every stage has the image


@dataclass(frozen=True, kw_only=True)
class Exit:
    """A stage's classifier: its own nodes, and where its logits are."""

    stage: int
    nodes: tuple[Node, ...]
    output: str


@dataclass(frozen=True, kw_only=True)
class Division:
    """The body's nodes, the level of each of their channels, and one exit per stage."""

    divisible: Divisible
    plan: Plan
    body: tuple[Node, ...]
    levels: Mapping[str, Indices]
    exits: tuple[Exit, ...]

    @property
    def graph(self) -> ChannelGraph:
        """The static network's channel graph."""
        return self.divisible.graph

    def readable(self, node: Node, level: int) -> Indices:
        """The input channels that a mixing node's outputs of `level` may read, in order."""
        levels = self.levels[node.inputs[0]]
        if node.name in self.plan.no_reuse:
            return np.flatnonzero((levels == level) | self._is_image(node.inputs[0]))
        return np.flatnonzero(levels <= level)

    def reads(self, node: Node) -> npt.NDArray[np.bool_]:
        """Which output channel of a mixing node reads which input channel, [C_out, C_in]."""
        outputs, inputs = self.levels[node.name][:, None], self.levels[node.inputs[0]][None, :]
        if node.name in self.plan.no_reuse:
            return np.asarray((inputs == outputs) | self._is_image(node.inputs[0])[None, :])
        return np.asarray(inputs <= outputs)

    def _is_image(self, name: str) -> npt.NDArray[np.bool_]:
        """The channels that are the image's own, which every layer may read."""
        atoms = self.divisible.atoms
        pooled_from = {node.name: node.inputs[0] for node in self.body if node.name not in atoms}
        return np.isin(atoms[pooled_from.get(name, name)], atoms[INPUT])


def divide(divisible: Divisible, plan: Plan) -> Division:
    """Apply a plan, which must be legal, to a network."""
    check(plan, divisible.space)
    depths = divisible.space.depths(plan.exits)
    owner = _owners(divisible, plan)
    levels = {
        node.name: np.maximum(owner[divisible.atoms[node.name]], depths[node.name]) for node in divisible.body
    }
    levels[INPUT] = np.full(divisible.graph.nodes[0].channels, IMAGE_LEVEL)
    body, reads = list(divisible.body), {}
    for stage, exit_name in enumerate(plan.exits):
        node = divisible.graph.by_name.get(exit_name)
        if exit_name != OUTPUT and exit_name not in reads and node is not None:
            reads[exit_name] = _pooled(node)
            if reads[exit_name] is not node:
                body.append(reads[exit_name])
                levels[reads[exit_name].name] = np.maximum(levels[exit_name], stage)
    exits = tuple(
        _own_classifier(divisible, stage) if name == OUTPUT else _linear_exit(divisible, stage, reads[name])
        for stage, name in enumerate(plan.exits)
    )
    return Division(divisible=divisible, plan=plan, body=tuple(body), levels=levels, exits=exits)


def _owners(divisible: Divisible, plan: Plan) -> Indices:
    """The stage that owns each atom; a group's atoms go to the stages in order. The image counts as 0."""
    owner = np.zeros(1 + max(int(own.max()) for own in divisible.atoms.values()), dtype=np.int64)
    for group in divisible.space.groups:
        portions = [count // group.granule for count in plan.channels[group.name]]
        owner[divisible.group_atoms[group.name]] = np.repeat(np.arange(plan.stages), portions)
    return owner


def _pooled(node: Node) -> Node:
    """What a linear classifier reads of a node: its mean over space, or itself if it has none."""
    if len(node.shape) == 1:
        return node
    dims = list(range(2, 1 + len(node.shape)))
    return Node(
        name=f"{node.name}/pooled",
        operator="reduce",
        inputs=(node.name,),
        attributes={"function": "mean", "dims": dims, "keepdim": False},
        weights={},
        shape=(node.channels,),
        source=node.source,
    )


def _linear_exit(divisible: Divisible, stage: int, reads: Node) -> Exit:
    """An exit in the middle of the network: one linear layer on the pooled features."""
    node = Node(
        name=f"exit{stage}/linear",
        operator="linear",
        inputs=(reads.name,),
        attributes={},
        weights={"weight": f"exit{stage}/linear.weight", "bias": f"exit{stage}/linear.bias"},
        shape=(divisible.graph.classes,),
        source=reads.source,
    )
    return Exit(stage=stage, nodes=(node,), output=node.name)


def _own_classifier(divisible: Divisible, stage: int) -> Exit:
    """An exit at the network's output: a classifier like the network's own, with weights of its own."""
    nodes = tuple(
        Node(
            name=f"exit{stage}/{node.name}",
            operator=node.operator,
            inputs=tuple(f"exit{stage}/{n}" if n in divisible.classifier else n for n in node.inputs),
            attributes=node.attributes,
            weights={role: f"exit{stage}/{key}" for role, key in node.weights.items()},
            shape=node.shape,
            source=node.source,
        )
        for node in divisible.head
    )
    return Exit(stage=stage, nodes=nodes, output=f"exit{stage}/{divisible.graph.output}")


def reads_body(division: Division, node: Node) -> bool:
    """Whether an exit's node reads the body (and so only some channels), not the exit's own nodes."""
    return OPERATORS[node.operator].mixes and node.inputs[0] in division.levels
