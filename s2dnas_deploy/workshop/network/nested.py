"""Nested widths: sub-networks of one static network, each a part of the next wider one, on shared weights.

Place in the flow: `StaticNetwork` + a plan of widths ──▶ `NestedNetwork`, which trains like a multi-stage
network and which export writes as one graph per width. Width k has the channels that stages 0 … k of the plan
own, and all that lies between them:

    w_k[o, i] = w[o, i]        for outputs and inputs of levels ≤ k

so it is what the first of two stages is where these channels are owned by the first. Each width has norms of
its own, because its statistics are others, and a classifier of its own.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s2dnas_deploy.plan import OUTPUT, Plan
from s2dnas_deploy.workshop.network.division import Division, divide, exit_prefix
from s2dnas_deploy.workshop.network.graph import INPUT
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, carry_over, weight_keys
from s2dnas_deploy.workshop.network.stages import Stage, first_alone, slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_node


@dataclass(frozen=True, kw_only=True)
class _Part:
    """Which numbers of a weight a width has: those at `places` of it, in this shape; None: all of them."""

    key: str
    places: Tensor | None
    shape: torch.Size

    def of(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The part; gradients flow back."""
        whole = weights[self.key]
        if self.places is None:
            return whole
        return whole.reshape(-1)[self.places.to(whole.device)].reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class _Width:
    """A sub-network's nodes, and where each of their weights is among the network's.

    Weights of the stage are only what slicing itself has put there: numbers of channels.
    """

    stage: Stage
    parts: Mapping[str, _Part]

    def weights(self, network: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those that the nodes read, of all the network's; gradients flow back."""
        return {**self.stage.weights, **{key: part.of(network) for key, part in self.parts.items()}}


class NestedNetwork(MultiStageNetwork):
    """`forward(images [N, C, H, W])` gives one [N, classes] tensor of logits per width, thinnest first."""

    def __init__(self, division: Division, weights: Mapping[str, Tensor]) -> None:
        super().__init__(division, weights)
        shapes = {key: tensor.shape for key, tensor in weights.items()}
        self._widths = tuple(_width(division, index, shapes) for index in range(division.plan.stages))

    def answers(
        self, images: Tensor, weights: dict[str, Tensor], *, training: frozenset[str] = frozenset()
    ) -> list[Tensor]:
        """As `forward`, with other weights of the same names and shapes; some operators as in training."""
        logits = []
        for width in self._widths:
            own = width.weights(weights)
            values = {INPUT: images}
            for node in width.stage.nodes:
                as_in_training = self.training or node.operator in training
                values[node.name] = run_node(node, values, own, as_in_training)
            logits.append(values[width.stage.logits])
        return logits

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


def nested_from(static: StaticNetwork, plan: Plan) -> NestedNetwork:
    """A static network's sub-networks, with its weights as they are; norms and classifiers are copies."""
    division = divide(static.divisible, plan)
    keys = weight_keys(division)
    weights = {key: tensor for key, tensor in static.weights.items() if key in keys}
    for index in range(plan.stages):
        alone = first_alone(carry_over(static, narrowed(plan, index)))
        own = {_of_width(index, key): tensor for key, tensor in alone.weights.items()}
        weights |= {key: tensor for key, tensor in own.items() if key in keys}
    return NestedNetwork(division, weights)


def planned(static: StaticNetwork, plan: Plan) -> MultiStageNetwork:
    """The network that a plan makes of a static one, of stages or of nested widths, with its weights."""
    return nested_from(static, plan) if plan.nested else carry_over(static, plan)


def parts_of(network: MultiStageNetwork) -> tuple[Stage, ...]:
    """What a network is deployed as: its stages, or the sub-networks that it has."""
    return network.sub_networks() if isinstance(network, NestedNetwork) else slice_stages(network)


def divided_network(division: Division, weights: Mapping[str, Tensor]) -> MultiStageNetwork:
    """The network that a division is of, with weights as they are."""
    return (NestedNetwork if division.plan.nested else MultiStageNetwork)(division, weights)


def narrowed(plan: Plan, index: int) -> Plan:
    """Width `index` as the first of two stages; the widest is the static network."""
    owned = {name: sum(counts[: index + 1]) for name, counts in plan.channels.items()}
    if index == plan.stages - 1:
        return Plan(channels={name: (count,) for name, count in owned.items()}, exits=(OUTPUT,))
    rest = {name: sum(counts) - owned[name] for name, counts in plan.channels.items()}
    return Plan(channels={name: (owned[name], rest[name]) for name in owned}, exits=(OUTPUT,) * 2)


def _width(division: Division, index: int, shapes: Mapping[str, torch.Size]) -> _Width:
    """Weights that are numbered are sliced as weights are: the slices tell which numbers a width has."""
    alone = divide(division.divisible, narrowed(division.plan, index))
    last = division.plan.stages - 1
    numbered: dict[str, Tensor] = {}
    firsts: list[int] = []
    at = 0
    for key in weight_keys(alone):
        own = _of_width(index if key.startswith(_FIRST) else last, key)
        shape = shapes[own if own in shapes else key]
        numbered[key] = torch.arange(at, at + shape.numel(), dtype=torch.float64).reshape(shape)
        firsts.append(at)
        at += shape.numel()
    stage = first_alone(MultiStageNetwork(alone, numbered))
    names, parts = tuple(numbered), {}
    for key, numbers in stage.weights.items():
        if not numbers.is_floating_point():
            continue  # a constant of the slice itself
        place = bisect_right(firsts, int(numbers.reshape(-1)[0])) - 1
        places = numbers.long().reshape(-1) - firsts[place]
        source, own = names[place], _of_width(index, names[place])
        if own in shapes:
            parts[key] = _Part(key=own, places=None, shape=numbers.shape)
        else:
            whole = torch.equal(places, torch.arange(shapes[source].numel()))
            parts[key] = _Part(key=source, places=None if whole else places, shape=numbers.shape)
    constants = {key: tensor for key, tensor in stage.weights.items() if key not in parts}
    return _Width(stage=replace(_renamed(stage, index), weights=constants), parts=parts)


_FIRST, _REST = exit_prefix(0), exit_prefix(1)  # the classifiers of a width alone, and of what is left


def _of_width(index: int, key: str) -> str:
    """What a weight of a width alone is called among the network's, if the width has it for itself."""
    return exit_prefix(index) + key.removeprefix(_FIRST).removeprefix(_REST)


def _renamed(stage: Stage, index: int) -> Stage:
    """The stage of a width alone, with its classifier under the width's own number."""

    def called(name: str) -> str:
        return _of_width(index, name) if name.startswith(_FIRST) else name

    nodes = tuple(
        replace(node, name=called(node.name), inputs=tuple(map(called, node.inputs))) for node in stage.nodes
    )
    return replace(stage, index=index, nodes=nodes, logits=called(stage.logits))
