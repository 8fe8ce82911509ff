"""One set of weights for all plans: trained once, then a plan is judged by its masks alone.

Place in the flow: `StaticNetwork` + `SearchSpace` ──▶ `SharedWeights` ──▶ a `MultiStageNetwork` for any
plan of the space. The body's weights are the static network's. For each place where a stage may exit there is
a classifier over *all* channels there; a plan uses the columns of those that the stage can read. All stages
share it, for each would see too few plans alone, and the later ones fewest.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from s2dnas_deploy.plan import OUTPUT
from s2dnas_deploy.plan import static as static_plan
from s2dnas_deploy.workshop.network.division import Division, Exit, divide
from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.nested import nested_from
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, attribute_name, weight_keys
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.search.space.space import ExitSlot, SearchSpace


class SharedWeights(nn.Module):
    """The weights that all plans of a space share."""

    def __init__(self, static: StaticNetwork, space: SearchSpace) -> None:
        super().__init__()
        self.divisible, self.space = static.divisible, space
        self._attribute: dict[str, str] = {}
        reference = divide(static.divisible, static_plan(space.plans))
        body = {key for node in reference.body for key in node.weights.values()}
        for key, is_buffer in weight_keys(reference).items():
            if key in body:
                self._hold(key, static.weights[key], is_buffer=is_buffer)
        exit_ = reference.exits[0]
        for node in exit_.nodes:
            for role, key in node.weights.items():
                name = exit_.static_name(key)
                is_buffer = role in OPERATORS[node.operator].buffers
                self._hold(_head(OUTPUT, name), static.weights[name], is_buffer=is_buffer)
        # In the order of the slots: a checkpoint's optimizer knows parameters by their number.
        places = [slot.options for slot in space.slots if isinstance(slot, ExitSlot)]
        for place in dict.fromkeys(place for options in places for place in options):
            if place != OUTPUT:
                self._hold_linear(place)

    def _hold(self, key: str, tensor: Tensor, *, is_buffer: bool) -> None:
        name = attribute_name(key)
        self._attribute[key] = name
        if is_buffer:
            self.register_buffer(name, tensor.detach().clone())
        else:
            self.register_parameter(name, nn.Parameter(tensor.detach().clone()))

    def _hold_linear(self, place: str) -> None:
        """A classifier on the mean over space of a node, which starts from "all classes alike"."""
        graph = self.divisible.graph
        shapes = {
            "weight": (graph.classes, graph.by_name[place].channels),
            "bias": (graph.classes,),
        }
        for role, shape in shapes.items():
            self._hold(_head(place, role), torch.zeros(shape), is_buffer=False)

    def weights(self) -> dict[str, Tensor]:
        """All of them, by name."""
        return {key: getattr(self, name) for key, name in self._attribute.items()}

    def divided(self, division: Division) -> MultiStageNetwork:
        """A network of its own for a plan, from a copy of the weights."""
        with torch.no_grad():
            used = self.used_by(division)
            if division.plan.nested:
                own = {key: tensor.detach() for key, tensor in used.items()}
                return nested_from(StaticNetwork(divisible=self.divisible, weights=own), division.plan)
            return MultiStageNetwork(division, used)

    def used_by(self, division: Division) -> dict[str, Tensor]:
        """The weights of a plan's network, under the names that it has for them; gradients flow back.

        Widths are all made of the static network's.
        """
        held = self.weights()
        if division.plan.nested:
            own = _head(OUTPUT, "")
            return {key.removeprefix(own): tensor for key, tensor in held.items()}
        used = {key: held[key] for key in weight_keys(division) if key in held}
        for exit_ in division.exits:
            place = division.plan.exits[exit_.stage]
            for node in exit_.nodes:
                used.update(self._of_head(division, exit_, node, place, held))
        return used

    def _of_head(
        self, division: Division, exit_: Exit, node: Node, place: str, held: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        reads = division.exit_reads(exit_, node)
        weights = {}
        for role, key in node.weights.items():
            whole = held[_head(place, exit_.static_name(key) if place == OUTPUT else role)]
            columns = role == "weight" and reads is not None and len(reads) < whole.shape[1]
            weights[key] = whole[:, torch.from_numpy(reads)] if columns else whole
        return weights


def _head(place: str, key: str) -> str:
    return f"exit at {place}: {key}"
