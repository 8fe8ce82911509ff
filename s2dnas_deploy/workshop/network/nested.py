"""Nested widths: sub-networks of one static network, each a part of the next wider one, on shared weights.

Place in the flow: `StaticNetwork` + a plan of widths ──▶ `NestedNetwork`, which trains like a multi-stage
network and which export writes as one graph per width. Width k has the channels that stages 0 … k of the plan
own, and all that lies between them:

    w_k[o, i] = w[o, i]        for outputs and inputs of levels ≤ k

so it is what the first of two stages is where these channels are owned by the first. Each width has norms of
its own, because its statistics are others, and a classifier of its own. With a gate, all begin alike:

    image ──prefix──▶ features ──gate──▶ a number per width; ──width k's rest──▶ logits
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from s2dnas_deploy.plan import Plan, narrowed
from s2dnas_deploy.workshop.network.division import Division, Gate, divide, exit_prefix
from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, carry_over, weight_keys
from s2dnas_deploy.workshop.network.stages import Feature, Stage, first_alone, needed_for, slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, last_reads, run_node


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Which part of a weight a width has: rows and columns of it, or if these do not tell, some numbers.

    What is taken an axis at a time has its gradients added up row by row, not number by number.
    """

    key: str
    shape: torch.Size
    along: tuple[Tensor | None, ...] = ()
    """Of each axis, in order, the indices; None: all."""
    places: Tensor | None = None

    @staticmethod
    def of(key: str, whole: torch.Size, numbers: Tensor) -> "_Part":
        """The part that consists of the numbers at these places of the whole, laid out flat."""
        along, told = [], torch.zeros((), dtype=torch.long)
        for axis, size in enumerate(whole):
            stride, line = prod(whole[axis + 1 :]), [1] * len(whole)
            line[axis] = numbers.shape[axis]
            corner = tuple(slice(None) if each == axis else 0 for each in range(len(whole)))
            own = numbers[corner] // stride % size
            told = told + (own * stride).reshape(line)
            along.append(None if torch.equal(own, torch.arange(size)) else own)
        if torch.equal(told, numbers):
            return _Part(key=key, shape=numbers.shape, along=tuple(along))
        return _Part(key=key, shape=numbers.shape, places=numbers.reshape(-1))

    def taken_of(self, whole: Tensor) -> Tensor:
        """The part; gradients flow back."""
        if self.places is not None:
            return whole.reshape(-1)[self.places.to(whole.device)].reshape(self.shape)
        for axis, own in enumerate(self.along):
            if own is not None:
                whole = whole.index_select(axis, own.to(whole.device))
        return whole


@dataclass(frozen=True, kw_only=True)
class _Width:
    """A sub-network's nodes, and where each of their weights is among the network's.

    Weights of the stage are only what slicing itself has put there: numbers of channels.
    """

    stage: Stage
    parts: Mapping[str, _Part]

    def weights(self, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that the nodes read, of all the network's; gradients flow back."""
        return {
            **self.stage.weights,
            **{key: part.taken_of(network[part.key]) for key, part in self.parts.items()},
        }

    def before(self, gate: Gate) -> tuple[Node, ...]:
        """The nodes that all widths have in common, and those by which slicing brought channels to them."""
        return needed_for(gate.prefix, self.stage.nodes)

    def after(self, gate: Gate | None) -> tuple[Node, ...]:
        """The others: all, without a gate."""
        common = frozenset(node.name for node in self.before(gate)) if gate is not None else frozenset()
        return tuple(node for node in self.stage.nodes if node.name not in common)


class NestedNetwork(MultiStageNetwork):
    """`forward(images [N, C, H, W])` gives one [N, classes] tensor of logits per width, thinnest first."""

    def __init__(self, division: Division, weights: Mapping[str, Tensor]) -> None:
        super().__init__(division, weights)
        self._widths = self._make_widths()

    def divide_anew(self, division: Division) -> None:
        """As any network; its widths are cut anew."""
        super().divide_anew(division)
        self._widths = self._make_widths()

    def _make_widths(self) -> "tuple[_Width, ...]":
        shapes = {key: tensor.shape for key, tensor in self.weights().items()}
        return tuple(_width(self.division, index, shapes) for index in range(self.division.plan.stages))

    def answers(
        self, images: Tensor, weights: dict[str, Tensor], *, training: frozenset[str] = frozenset()
    ) -> list[Tensor]:
        """As `forward`, with other weights of the same names and shapes; some operators as in training."""
        values = self._begin(images, weights, training)
        return [self._finish(width, values, weights, training) for width in self._widths]

    def judged(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Every width's logits, and what the gate looks at, [N, channels]."""
        weights, as_ever = self.weights(), frozenset[str]()
        values = self._begin(images, weights, as_ever)
        logits = [self._finish(width, values, weights, as_ever) for width in self._widths]
        return logits, values[self.gate.looks_at]

    def numbers(self, looked_at: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The gate's numbers, [N, widths], of what it looks at; with other weights of its own if given."""
        values = {self.gate.looks_at: looked_at}
        self._run(self.gate.head, values, self.weights() if weights is None else weights, frozenset())
        return values[self.gate.output]

    @property
    def gate(self) -> Gate:
        """The gate of a network that has one."""
        assert self.division.gate is not None, "a network with a gate"
        return self.division.gate

    def _begin(
        self, images: Tensor, weights: dict[str, Tensor], training: frozenset[str]
    ) -> dict[str, Tensor]:
        """What all widths have in common, by node."""
        values = {INPUT: images}
        if self.division.gate is not None:
            thinnest = self._widths[0]
            self._run(thinnest.before(self.gate), values, thinnest.weights(weights), training)
            self._run(self.gate.pooling, values, {}, training)
        return values

    def _finish(
        self,
        width: "_Width",
        common: Mapping[str, Tensor],
        weights: dict[str, Tensor],
        training: frozenset[str],
    ) -> Tensor:
        """A width's logits."""
        values = dict(common)
        logits = width.stage.logits
        self._run(width.after(self.division.gate), values, width.weights(weights), training, (logits,))
        return values[width.stage.logits]

    def _run(
        self,
        nodes: Sequence[Node],
        values: dict[str, Tensor],
        weights: Mapping[str, Tensor],
        training: frozenset[str],
        kept: Sequence[str] = (),
    ) -> None:
        """Run nodes; where some values are `kept`, others are dropped when they have been read."""
        freed = last_reads(nodes, kept) if kept else {}
        for node in nodes:
            as_in_training = self.training or node.operator in training
            values[node.name] = run_node(node, values, weights, as_in_training)
            for name in freed.get(node.name, ()):
                values.pop(name, None)

    @property
    def own_shapes(self) -> dict[str, torch.Size]:
        """What shape each weight must have that a width or the gate has for itself."""
        shapes = {
            part.key: part.shape
            for width in self._widths
            for part in width.parts.values()
            if part.key.startswith(exit_prefix(width.stage.index))
        }
        inputs = 0 if self.division.gate is None else self.division.gate.reads
        for node in () if self.division.gate is None else self.division.gate.head:
            if node.weights:
                shapes[node.weights["weight"]] = torch.Size((node.channels, inputs))
                shapes[node.weights["bias"]] = torch.Size((node.channels,))
            inputs = node.channels
        return shapes

    def sub_networks(self) -> tuple[Stage, ...]:
        """Every width as a stage that reads the image alone; weights are detached copies."""
        weights = {key: tensor.detach() for key, tensor in self.weights().items()}
        return tuple(
            replace(
                width.stage,
                weights={key: tensor.clone() for key, tensor in width.weights(weights).items()},
            )
            for width in self._widths
        )

    def prefix_and_rests(self) -> tuple[Stage, tuple[Stage, ...]]:
        """The sub-networks cut at the gate: what they have in common, with the gate, and what comes after."""
        gate, whole = self.gate, self.sub_networks()
        common = self._widths[0].before(gate)
        rests = [width.after(gate) for width in self._widths]
        read = {name for rest in rests for node in rest for name in node.inputs}
        gives = tuple(
            Feature(node=node.name, stage=0, shape=node.shape) for node in common if node.name in read
        )
        own = {key: tensor.detach().clone() for key, tensor in self.weights().items()}
        nodes = (*common, *gate.nodes)
        prefix = replace(
            whole[0],
            nodes=nodes,
            weights=_read_by(nodes, {**own, **whole[0].weights}),
            gives=gives,
            logits=gate.output,
        )
        return prefix, tuple(
            _reading(gives, replace(stage, nodes=rest, weights=_read_by(rest, stage.weights)))
            for stage, rest in zip(whole, rests, strict=True)
        )

    def in_turn(self, places: Sequence[int]) -> tuple[Stage, ...]:
        """Some of the sub-networks, as stages one after the other; what is before a gate runs once."""
        whole = self.sub_networks()
        first, *later = places
        if self.division.gate is None:
            return tuple(whole[place] for place in places)
        prefix, rests = self.prefix_and_rests()
        return replace(whole[first], gives=prefix.gives), *(rests[place] for place in later)


def _read_by(nodes: Iterable[Node], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those of the weights that the nodes read."""
    return {key: weights[key] for node in nodes for key in node.weights.values()}


def _reading(features: Sequence[Feature], stage: Stage) -> Stage:
    """A stage whose inputs come from another, under the names that these have between stages."""
    named = {feature.node: feature for feature in features}
    nodes = tuple(
        replace(node, inputs=tuple(named[n].name if n in named else n for n in node.inputs))
        for node in stage.nodes
    )
    read = {name for node in nodes for name in node.inputs}
    return replace(stage, nodes=nodes, reads=tuple(each for each in features if each.name in read))


def nested_from(static: StaticNetwork, plan: Plan) -> NestedNetwork:
    """A static network's sub-networks, with its weights as they are; norms and classifiers are copies.

    A gate begins with small numbers that differ from sample to sample, the same in every network of its size.
    """
    division = divide(static.divisible, plan)
    keys = weight_keys(division)
    weights = {key: tensor for key, tensor in static.weights.items() if key in keys}
    for index in range(plan.stages):
        alone = first_alone(carry_over(static, narrowed(plan, index, static.divisible.space)))
        own = {_of_width(index, key): tensor for key, tensor in alone.weights.items()}
        weights |= {key: tensor for key, tensor in own.items() if key in keys}
    if division.gate is not None:
        dtype = next(tensor.dtype for tensor in weights.values() if tensor.is_floating_point())
        weights |= {key: tensor.to(dtype) for key, tensor in _fresh(division.gate).items()}
    return NestedNetwork(division, weights)


def _fresh(gate: Gate) -> dict[str, Tensor]:
    """Linear layers as He and others begin them, from a seed of their own, with biases of 0."""
    drawn, inputs = torch.Generator().manual_seed(0), gate.reads
    weights = {}
    for node in gate.nodes:
        if node.operator == "linear":
            spread = (2 / inputs) ** 0.5
            weights[node.weights["weight"]] = spread * torch.randn(node.channels, inputs, generator=drawn)
            weights[node.weights["bias"]] = torch.zeros(node.channels)
        inputs = node.channels
    return weights


def planned(static: StaticNetwork, plan: Plan) -> MultiStageNetwork:
    """The network that a plan makes of a static one, of stages or of nested widths, with its weights."""
    return nested_from(static, plan) if plan.nested else carry_over(static, plan)


def parts_of(network: MultiStageNetwork) -> tuple[Stage, ...]:
    """What a network is deployed as: its stages, or the sub-networks that it has."""
    return network.sub_networks() if isinstance(network, NestedNetwork) else slice_stages(network)


def divided_network(division: Division, weights: Mapping[str, Tensor]) -> MultiStageNetwork:
    """The network that a division is of, with weights as they are."""
    return (NestedNetwork if division.plan.nested else MultiStageNetwork)(division, weights)


def _width(division: Division, index: int, shapes: Mapping[str, torch.Size]) -> _Width:
    """Weights that are numbered are sliced as weights are: the slices tell which numbers a width has."""
    alone = divide(division.divisible, narrowed(division.plan, index, division.divisible.space))
    last = division.plan.stages - 1
    norms = [node for node in alone.body if division.prefixes(node) != ("",)]
    of_norms = {key: torch.Size([node.channels]) for node in norms for key in node.weights.values()}
    numbered: dict[str, Tensor] = {}
    firsts: list[int] = []
    at = 0
    for key in weight_keys(alone):
        own = _of_width(index if key.startswith(_FIRST) else last, key)
        shape = of_norms.get(key) or shapes[own if own in shapes else key]
        numbered[key] = torch.arange(at, at + shape.numel(), dtype=torch.float64).reshape(shape)
        firsts.append(at)
        at += shape.numel()
    stage = first_alone(MultiStageNetwork(alone, numbered))
    names, parts = tuple(numbered), {}
    for key, numbers in stage.weights.items():
        if not numbers.is_floating_point():
            continue  # a constant of the slice itself
        place = bisect_right(firsts, int(numbers.reshape(-1)[0])) - 1
        source = names[place]
        found = next((name for name in _own_names(index, source) if name in shapes), None)
        if found is not None:
            parts[key] = _Part(key=found, shape=numbers.shape)
        else:
            parts[key] = _Part.of(source, shapes[source], numbers.long() - firsts[place])
    constants = {key: tensor for key, tensor in stage.weights.items() if key not in parts}
    return _Width(stage=replace(_renamed(stage, index), weights=constants), parts=parts)


_FIRST, _REST = exit_prefix(0), exit_prefix(1)  # the classifiers of a width alone, and of what is left


def _of_width(index: int, key: str) -> str:
    """What a weight of a width alone is called among the network's, if the width has it for itself."""
    return exit_prefix(index) + key.removeprefix(_FIRST).removeprefix(_REST)


def _own_names(index: int, key: str) -> tuple[str, str]:
    """What a weight may be called that a width has for itself, or, before a gate, that all have as one."""
    return _of_width(index, key), _of_width(0, key)


def _renamed(stage: Stage, index: int) -> Stage:
    """The stage of a width alone, with its classifier under the width's own number."""

    def called(name: str) -> str:
        return _of_width(index, name) if name.startswith(_FIRST) else name

    nodes = tuple(
        replace(node, name=called(node.name), inputs=tuple(map(called, node.inputs))) for node in stage.nodes
    )
    return replace(stage, index=index, nodes=nodes, logits=called(stage.logits))
