"""The multi-stage network: the static network whose weights are masked, with one classifier per stage.

Place in the flow: `StaticNetwork` + plan ──▶ `MultiStageNetwork`, which trains like any module, and which
`stages` slices. One forward pass gives every exit's logits, because with

    w'[o, i] = w[o, i] · [level(o) reads level(i)]

the features of a stage depend on no later stage's. It knows nothing of training or of files.
"""

from collections import Counter
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from s2dnas_deploy.plan import OUTPUT, Plan
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.workshop.network.division import NOTHING, Division, Exit, Indices, divide
from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, last_reads, run_node


class MultiStageNetwork(nn.Module):
    """`forward(images [N, C, H, W])` gives one [N, classes] tensor of logits per exit, first to last."""

    def __init__(self, division: Division, weights: Mapping[str, Tensor]) -> None:
        """Take `weights` (see `weight_keys`) as they are; `carry_over` makes them from a static network."""
        super().__init__()
        self.division = division
        keys = weight_keys(division)
        self._attribute = {key: attribute_name(key) for key in keys}
        for key, is_buffer in keys.items():
            tensor = weights[key].detach().clone()
            if is_buffer:
                self.register_buffer(self._attribute[key], tensor)
            else:
                self.register_parameter(self._attribute[key], nn.Parameter(tensor))
        self._masks = self._register_masks()
        self._there = self._register_there()
        self._columns = self._register_columns()
        read_by_exits = {name for exit_ in division.exits for node in exit_.nodes for name in node.inputs}
        self._last_reads = last_reads(
            division.body[1:], read_by_exits | {exit_.output for exit_ in division.exits}
        )

    def divide_anew(self, division: Division) -> None:
        """Take the same plan's division by another order of channels; weights stay as they are."""
        device = next(self.parameters()).device
        self.division = division
        self._masks = self._register_masks()
        self._there = self._register_there()
        self._columns = self._register_columns()
        self.to(device)

    @property
    def stages(self) -> int:
        """How many exits `forward` gives."""
        return self.division.plan.stages

    def weights(self) -> dict[str, Tensor]:
        """All weights and statistics under the names that the channel graph and the exits use."""
        return {key: getattr(self, name) for key, name in self._attribute.items()}

    def masked_weights(self) -> dict[str, Tensor]:
        """`weights`, detached, with zeros where a mask hides them from every node that reads them."""
        weights = {key: tensor.detach() for key, tensor in self.weights().items()}
        readers = Counter(key for node in self.division.body for key in node.weights.values())
        for node in self.division.body[1:]:
            if node.name in self._masks and readers[node.weights["weight"]] == 1:
                weights[node.weights["weight"]] = self._masked(node, weights)
        return weights

    def _masked(self, node: Node, weights: Mapping[str, Tensor]) -> Tensor:
        """The node's kernel with zeros where an output channel may not read an input channel."""
        return torch.where(getattr(self, self._masks[node.name]), weights[node.weights["weight"]], 0.0)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Every exit's logits in one pass of the masked network."""
        return self.answers(images, self.weights())

    def answers(
        self, images: Tensor, weights: dict[str, Tensor], *, training: frozenset[str] = frozenset()
    ) -> list[Tensor]:
        """As `forward`, with other weights of the same names and shapes; some operators as in training."""
        values = {INPUT: images}
        for node in self.division.body[1:]:
            as_in_training = self.training or node.operator in training
            values[node.name] = self.run(node, values, weights, as_in_training)
            for name in self._last_reads.get(node.name, ()):
                values.pop(name, None)
        return [self._run_exit(exit_, values, weights, training) for exit_ in self.division.exits]

    def run(
        self, node: Node, values: Mapping[str, Tensor], weights: Mapping[str, Tensor], training: bool = False
    ) -> Tensor:
        """What a node of the body gives, with its kernel masked; zeros where it gives nothing."""
        if node.name in self._masks:
            weights = {**weights, node.weights["weight"]: self._masked(node, weights)}
        given = run_node(node, values, weights, training)
        there = self._there.get(node.name)
        return given if there is None else torch.where(getattr(self, there), given, 0.0)

    def is_masked(self, node: Node) -> bool:
        """Whether the node's channels may not all read all that they do in the static network."""
        return node.name in self._masks

    def run_in_exit(
        self, node: Node, values: Mapping[str, Tensor], weights: Mapping[str, Tensor], training: bool = False
    ) -> Tensor:
        """What a node of an exit gives, which reads only the channels that its stage may read."""
        if node.name in self._columns:
            read = values[node.inputs[0]][:, getattr(self, self._columns[node.name])]
            values = {node.inputs[0]: read}
        return run_node(node, values, weights, training)

    def _run_exit(
        self,
        exit_: Exit,
        values: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
        training: frozenset[str],
    ) -> Tensor:
        """An exit's logits."""
        own = dict(values)
        for node in exit_.nodes:
            as_in_training = self.training or node.operator in training
            own[node.name] = self.run_in_exit(node, own, weights, as_in_training)
        return own[exit_.output]

    def _register_masks(self) -> dict[str, str]:
        """A mask for each layer of the body that may not read everything, as [C_out, C_in, 1, 1]."""
        names = {}
        for node in self.division.body[1:]:
            if not OPERATORS[node.operator].mixes:
                continue
            reads = torch.from_numpy(self.division.reads(node))
            if not bool(reads.all()):
                names[node.name] = attribute_name(f"mask {node.name}")
                rank = getattr(self, self._attribute[node.weights["weight"]]).dim()
                mask = reads.reshape(*reads.shape, *[1] * (rank - 2))
                self.register_buffer(names[node.name], mask, persistent=False)
        return names

    def _register_there(self) -> dict[str, str]:
        """Which channels of a node there are, [C, 1, 1], for each node that lacks some."""
        names = {}
        for node in self.division.body[1:]:
            there = torch.from_numpy(self.division.levels[node.name] != NOTHING)
            if not bool(there.all()):
                names[node.name] = attribute_name(f"there {node.name}")
                column = there.reshape(-1, *[1] * (len(node.shape) - 1))
                self.register_buffer(names[node.name], column, persistent=False)
        return names

    def _register_columns(self) -> dict[str, str]:
        """The channels that each exit's classifier reads, where it does not read them all."""
        names = {}
        for exit_ in self.division.exits:
            for node in exit_.nodes:
                reads = self.division.exit_reads(exit_, node)
                if reads is not None and len(reads) < len(self.division.levels[node.inputs[0]]):
                    names[node.name] = attribute_name(f"columns {node.name}")
                    self.register_buffer(names[node.name], torch.from_numpy(reads), persistent=False)
        return names


def weight_keys(division: Division) -> dict[str, bool]:
    """The weights that a multi-stage network has, and whether each is a buffer (not trained)."""
    return {
        prefix + key: role in OPERATORS[node.operator].buffers
        for nodes, prefixes in ((division.body[1:], division.prefixes), (division.heads, lambda _: ("",)))
        for node in nodes
        for prefix in prefixes(node)
        for role, key in node.weights.items()
    }


def carry_over(static: StaticNetwork, plan: Plan) -> MultiStageNetwork:
    """Divide a static network by a plan; its weights carry over as they are."""
    return carry_into(divide(static.divisible, plan), static)


def carry_into(division: Division, static: StaticNetwork) -> MultiStageNetwork:
    """A static network that is divided already, with its weights as they are.

    An exit at the output starts from the static classifier's weights for the channels it reads; an exit
    elsewhere starts from zeros, so that its first answer is "all classes alike".
    """
    weights = dict(static.weights)
    for exit_ in division.exits:
        start = _like_the_classifier if division.plan.exits[exit_.stage] == OUTPUT else _zeros
        for node in exit_.nodes:
            weights.update(start(static, exit_, node, division.exit_reads(exit_, node)))
    return MultiStageNetwork(division, weights)


def _like_the_classifier(
    static: StaticNetwork, exit_: Exit, node: Node, reads: Indices | None
) -> dict[str, Tensor]:
    """The static classifier's weights, for the channels that the exit reads."""
    weights = {}
    for role, key in node.weights.items():
        whole = static.weights[exit_.static_name(key)]
        sliced = role == "weight" and reads is not None
        weights[key] = whole[:, torch.from_numpy(reads)] if sliced else whole
    return weights


def _zeros(static: StaticNetwork, exit_: Exit, node: Node, reads: Indices | None) -> dict[str, Tensor]:
    """A linear layer that answers "all classes alike"."""
    assert reads is not None, "an exit in the middle of the network reads the body"
    dtype = next(tensor.dtype for tensor in static.weights.values() if tensor.is_floating_point())
    shapes = {"weight": (node.channels, len(reads)), "bias": (node.channels,)}
    return {key: torch.zeros(shapes[role], dtype=dtype) for role, key in node.weights.items()}


def as_network(static: StaticNetwork) -> MultiStageNetwork:
    """The static network as a multi-stage network of one stage."""
    return carry_over(static, static_plan(static.divisible.space))


def as_static(network: MultiStageNetwork) -> StaticNetwork:
    """A network of one stage as the static network that it is."""
    assert network.stages == 1, "only a network of one stage is static"
    (own,) = network.division.exits
    weights = {own.static_name(key): tensor.detach() for key, tensor in network.weights().items()}
    return StaticNetwork(divisible=network.division.divisible, weights=weights)


def attribute_name(key: str) -> str:
    """A module attribute may hold no dots, and must not be one that every module has (`weights`)."""
    return key.replace("|", "||").replace(".", "|") if "." in key else f"|{key}"
