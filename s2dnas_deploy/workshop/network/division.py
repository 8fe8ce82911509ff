"""A division: one plan applied to one network. Who computes which channel of which tensor, and the exits.

Place in the flow: plan + channel graph ──divide──▶ `Division`, which `network` turns into masks and
`stages` into slices. It holds integers only, no weights. The rule it applies (see `plan`):

    level(n, c) = max(owner(c), depth(n))

and `NOTHING`, if c is not there for it: a layer that may read nothing gives nothing, and a sum of two does
without the one that is not there (see `plan.presence`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import OUTPUT, Plan, check, narrowed
from s2dnas_deploy.workshop.network.graph import INPUT, ChannelGraph, Node
from s2dnas_deploy.workshop.network.groups import Divisible, carried
from s2dnas_deploy.workshop.network.operators import OPERATORS, is_sum

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
IMAGE_LEVEL = -1  # every stage has the image
NOTHING = 1 << 20  # the level of a channel that no stage computes, because there is nothing to read for it


@dataclass(frozen=True, kw_only=True)
class Exit:
    """A stage's classifier: its own nodes, and where its logits are."""

    stage: int
    nodes: tuple[Node, ...]
    output: str

    def static_name(self, name: str) -> str:
        """What the static network calls a node or weight of its own classifier."""
        return name.removeprefix(exit_prefix(self.stage))


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A small head on what all widths have in common: its own nodes, and where its numbers are, one a width.

    `prefix` are the nodes of the body that run before it; of the last of them it reads `reads` channels.
    """

    nodes: tuple[Node, ...]
    output: str
    prefix: frozenset[str]
    reads: int

    @property
    def head(self) -> tuple[Node, ...]:
        """The nodes that compute the numbers of what is looked at."""
        first = next(k for k, node in enumerate(self.nodes) if node.operator == "linear")
        return self.nodes[first:]

    @property
    def pooling(self) -> tuple[Node, ...]:
        """The nodes before those, if it takes any."""
        return self.nodes[: len(self.nodes) - len(self.head)]

    @property
    def looks_at(self) -> str:
        """The features of the prefix, without space."""
        return self.head[0].inputs[0]


def exit_prefix(stage: int) -> str:
    """What the names of an exit's nodes and weights start with."""
    return f"exit{stage}/"


@dataclass(frozen=True, kw_only=True)
class Division:
    """The body's nodes, the atom and the level of each of their channels, and one exit per stage."""

    divisible: Divisible
    plan: Plan
    body: tuple[Node, ...]
    atoms: Mapping[str, Indices]
    levels: Mapping[str, Indices]
    exits: tuple[Exit, ...]
    left_out: tuple[frozenset[str], ...] = ()
    """Of each nested width, the nodes that are not there for it."""
    gate: Gate | None = None

    @property
    def graph(self) -> ChannelGraph:
        """The static network's channel graph."""
        return self.divisible.graph

    @property
    def heads(self) -> tuple[Node, ...]:
        """The nodes of all exits and of the gate."""
        of_exits = tuple(node for exit_ in self.exits for node in exit_.nodes)
        return of_exits if self.gate is None else (*of_exits, *self.gate.nodes)

    def prefixes(self, node: Node) -> tuple[str, ...]:
        """What precedes the names of a body node's weights: of nested widths, each has norms of its own.

        Before a gate, where all widths are one, they have the thinnest's.
        """
        if not self.plan.nested or node.operator != "batch_norm":
            return ("",)
        is_common = self.gate is not None and node.name in self.gate.prefix
        have = (index for index in range(1 if is_common else self.plan.stages) if self.has(index, node.name))
        return tuple(exit_prefix(index) for index in have)

    def has(self, width: int, name: str) -> bool:
        """Whether a nested width has a node of the body, and leaves no block out that it is in."""
        return name not in self.left_out[width]

    def reads(self, node: Node) -> Flags:
        """Which output channel of a mixing node reads which input channel, [C_out, C_in]."""
        return self._read_by(node, self.levels[node.name])

    def readable(self, node: Node, level: int) -> Indices:
        """The input channels that a mixing node's outputs of `level` read, in order."""
        return np.flatnonzero(self._read_by(node, np.array([level])))

    def _read_by(self, node: Node, levels: Indices) -> Flags:
        """Which input channels a mixing node's outputs of these levels read, [levels, C_in]."""
        outputs, inputs = levels[:, None], self.levels[node.inputs[0]][None, :]
        if self.plan.nested:
            return np.ones((len(outputs), inputs.shape[1]), np.bool_)  # all that lies between its channels
        if node.name not in self.plan.no_reuse:
            within = np.less_equal(inputs, outputs)
        else:
            within = np.equal(inputs, outputs) | self._of_the_image(node.inputs[0])[None, :]
        found: Flags = within & (outputs != NOTHING) & (inputs != NOTHING)
        return found

    def exit_reads(self, exit_: Exit, node: Node) -> Indices | None:
        """The body's channels that an exit's node reads; None if it reads the exit's own nodes."""
        if not OPERATORS[node.operator].mixes or node.inputs[0] not in self.levels:
            return None
        return np.flatnonzero(self.levels[node.inputs[0]] <= exit_.stage)

    def _of_the_image(self, name: str) -> Flags:
        """The channels that are the image's own, which every layer may read."""
        return np.isin(self.atoms[name], self.atoms[INPUT])


def divide(divisible: Divisible, plan: Plan) -> Division:
    """Apply a plan, which must be legal, to a network."""
    check(plan, divisible.space)
    pools = {name: _pool(divisible.graph.by_name[name]) for name in plan.exits if name != OUTPUT}
    new = {name: pool for name, pool in pools.items() if pool.name not in divisible.atoms}
    atoms = {**divisible.atoms, **{pool.name: divisible.atoms[name] for name, pool in new.items()}}
    depths = divisible.space.depths(plan.exits)
    depths |= {pool.name: plan.exits.index(name) for name, pool in new.items()}
    owner = _owners(divisible, plan)
    body = (*divisible.body, *new.values())
    levels = {node.name: np.maximum(owner[atoms[node.name]], depths[node.name]) for node in body}
    levels[INPUT] = np.full(divisible.graph.nodes[0].channels, IMAGE_LEVEL)
    exits = tuple(
        _own_classifier(divisible, stage) if name == OUTPUT else _linear_exit(divisible, stage, pools[name])
        for stage, name in enumerate(plan.exits)
    )
    division = Division(
        divisible=divisible,
        plan=plan,
        body=body,
        atoms=atoms,
        levels=levels,
        exits=exits,
        left_out=tuple(
            _left_out(divisible, plan, index) for index in range(plan.stages if plan.nested else 0)
        ),
        gate=None if plan.gate is None else _gate(divisible, plan, int((levels[plan.gate] == 0).sum())),
    )
    return division if plan.nested else replace(division, levels=_without_what_reads_nothing(division))


def _left_out(divisible: Divisible, plan: Plan, width: int) -> frozenset[str]:
    """The nodes of the blocks that a nested width leaves out."""
    if all(sum(counts[: width + 1]) for counts in plan.channels.values()):
        return frozenset()
    alone = divide(divisible, narrowed(plan, width, divisible.space))
    return frozenset(name for name, levels in alone.levels.items() if (levels != 0).all() and name != INPUT)


def _without_what_reads_nothing(division: Division) -> Mapping[str, Indices]:
    """The levels, where channels that nothing is read for are `NOTHING`."""
    levels = dict(division.levels)
    known = replace(division, levels=levels)  # what it reads goes by what is found here, node after node
    by_name = {node.name: node for node in division.body}
    for node in division.body[1:]:
        if OPERATORS[node.operator].mixes:
            lacking = ~known.reads(node).any(axis=1)
        else:
            lacking = _lacking(node, levels, by_name)
        if lacking.any():
            levels[node.name] = np.where(lacking, NOTHING, levels[node.name])
    return levels


def _lacking(node: Node, levels: Mapping[str, Indices], by_name: Mapping[str, Node]) -> Flags:
    """Which channels of a carrying node are not there, given which of its inputs' are not."""
    some = np.zeros(node.channels, np.bool_)
    if not any((levels[name] == NOTHING).any() for name in node.inputs):
        return some
    every, nearly_every = np.ones((2, node.channels), np.bool_)
    for name, carry in zip(node.inputs, carried(node, by_name), strict=True):
        missing, padded = levels[name] == NOTHING, _is_padding(by_name[name])
        for column in carry.T:
            read = column >= 0
            some[read] |= missing[column[read]]
            every[read] &= missing[column[read]]
            nearly_every[read] &= (missing | padded)[column[read]]
    if is_sum(node):
        return some & nearly_every
    if (some == (some & every)).all():
        return some
    raise PlanError(f"node {node.name!r} would be made of channels that are there and channels that are not")


def _is_padding(node: Node) -> Flags:
    """Which of a node's channels are zeros that it adds to what it pads."""
    padded = np.zeros(node.channels, np.bool_)
    if node.operator == "channel_pad" and node.attributes["value"] == 0:
        padded[: node.attributes["before"]] = True
        padded[node.channels - node.attributes["after"] :] = True
    return padded


def _owners(divisible: Divisible, plan: Plan) -> Indices:
    """The stage that owns each atom; a group's atoms go to the stages in order. The image counts as 0.

    Those that are no one's come after the last stage.
    """
    owner = np.zeros(1 + max(int(own.max()) for own in divisible.atoms.values()), dtype=np.int64)
    for group in divisible.space.groups:
        portions = [count // group.granule for count in plan.channels[group.name]]
        portions.append(group.channels // group.granule - sum(portions))
        owner[divisible.group_atoms[group.name]] = np.repeat(np.arange(plan.stages + 1), portions)
    return owner


def _pool(node: Node) -> Node:
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
    name = f"{exit_prefix(stage)}linear"
    node = Node(
        name=name,
        operator="linear",
        inputs=(reads.name,),
        attributes={},
        weights={"weight": f"{name}.weight", "bias": f"{name}.bias"},
        shape=(divisible.graph.classes,),
        source=reads.source,
    )
    return Exit(stage=stage, nodes=(node,), output=name)


def _gate(divisible: Divisible, plan: Plan, channels: int) -> Gate:
    """Pooling, a linear layer to two thirds of the channels, ReLU, a linear layer to a number per width."""
    assert plan.gate is not None, "a plan with a gate"
    reads = divisible.graph.by_name[plan.gate]
    thin = replace(reads, shape=(channels, *reads.shape[1:]))
    pooled = _pool(thin)
    hidden = max(_FEWEST_HIDDEN, round(channels / 1.5))
    linear, active, numbers = f"{GATE}hidden", f"{GATE}active", f"{GATE}numbers"

    def node(name: str, operator: str, read: str, size: int) -> Node:
        is_linear = operator == "linear"
        return Node(
            name=name,
            operator=operator,
            inputs=(read,),
            attributes={} if is_linear else {"function": "relu", "arguments": {}},
            weights={role: f"{name}.{role}" for role in ("weight", "bias")} if is_linear else {},
            shape=(size,),
            source=reads.source,
        )

    nodes = (
        node(linear, "linear", pooled.name, hidden),
        node(active, "pointwise", linear, hidden),
        node(numbers, "linear", active, plan.stages),
    )
    return Gate(
        nodes=(pooled, *nodes) if pooled is not thin else nodes,
        output=numbers,
        prefix=divisible.space.covered_by(plan.gate),
        reads=channels,
    )


GATE = "gate/"
_FEWEST_HIDDEN = 16


def _own_classifier(divisible: Divisible, stage: int) -> Exit:
    """An exit at the network's output: a classifier like the network's own, with weights of its own."""
    prefix = exit_prefix(stage)
    nodes = tuple(
        replace(
            node,
            name=f"{prefix}{node.name}",
            inputs=tuple(f"{prefix}{n}" if n in divisible.classifier else n for n in node.inputs),
            weights={role: f"{prefix}{key}" for role, key in node.weights.items()},
        )
        for node in divisible.head
    )
    return Exit(stage=stage, nodes=nodes, output=f"{prefix}{divisible.graph.output}")
