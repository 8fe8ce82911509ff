"""Nested widths on weights that all plans share: what a width has not is zero.

Place in the flow: a `Division` into widths + shared weights ──▶ every width's logits, through which weights
learn. With m the channels of a node that a width has,

    y = m · f(m · x)        node after node, for each width

is what its slice computes where channels meet only in convolutions and linear layers. It takes a dense
network's time for each width, and nothing for a plan that was never seen before. Norms over groups of
channels count the zeros, which a slice does not, so their statistics are a little off meanwhile.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from s2dnas_deploy.workshop.network.division import Division
from s2dnas_deploy.workshop.network.graph import INPUT
from s2dnas_deploy.workshop.network.network import attribute_name
from s2dnas_deploy.workshop.network.static_network import run_node


class MaskedWidths(nn.Module):
    """The widths of a plan; weights are another's, under the names that the static network has for them."""

    def __init__(self, division: Division) -> None:
        super().__init__()
        self.division = division
        self._masks: dict[tuple[int, str], str] = {}
        for width in range(division.plan.stages):
            for node in division.graph.nodes[1:]:
                has = division.levels[node.name] <= width if node.name in division.levels else np.ones(1)
                has = has * division.has(width, node.name)
                if not has.all():
                    name = attribute_name(f"width {width} {node.name}")
                    mask = torch.from_numpy(has).float().reshape(-1, *[1] * (len(node.shape) - 1))
                    self.register_buffer(name, mask, persistent=False)
                    self._masks[width, node.name] = name

    def answers(self, images: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """One [N, classes] tensor of logits per width, thinnest first."""
        return [self._answer(width, images, weights) for width in range(self.division.plan.stages)]

    def _answer(self, width: int, images: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        graph, values = self.division.graph, {INPUT: images}
        for node in graph.nodes[1:]:
            found = run_node(node, values, weights, self.training)
            mask = self._masks.get((width, node.name))
            values[node.name] = found if mask is None else found * getattr(self, mask).to(found.dtype)
        return values[graph.output]
