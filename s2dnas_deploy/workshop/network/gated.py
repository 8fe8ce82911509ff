"""A network with gates while it learns: the same answers, and what each image is spared.

Place in the flow: `Gated` ──▶ `GatedNetwork`, which trains like any multi-stage network of one stage; once
trained it is an ordinary one. Of the MACs of all layers,

    spent = 1 - Σ_blocks Σ_layers macs / total · (1 - on(s) · share_on(gate read) · share_on(gate made))

where a gate v is on if v > 0. What gates learn is to be open where that lowers the loss; one number, the
shift, is taken from all that they say, and is steered so that images come to take as much as they may:

    shift ← max(0, shift + rate · (mean(spent) - allowed) / steps of the run)

So the loss never asks for less than is allowed, and gates that are worth more stay open at the cost of
others. A gate that was clamped passes on what would bring it back between 0 and 1, so that none stays shut
for ever. What gates look at learns nothing from them: else features would change so that gates shut.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s2dnas_deploy.workshop.network.blocks import CHANNEL_GATE, LAYER_GATE, Gated, GatedBlock
from s2dnas_deploy.workshop.network.costs import static_macs
from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network, attribute_name
from s2dnas_deploy.workshop.network.static_network import run_node
from s2dnas_deploy.workshop.network.together import mean_and_variance

_RATE, _MOMENTUM, _EPSILON = 0.05, 0.02, 1e-5
_STEERED = 256.0  # shuts all gates in a fraction of a run


class GatedNetwork(MultiStageNetwork):
    """`forward` gives the logits of the one exit; `spent` then tells what the images took, [N], of 1."""

    shift: Tensor

    def __init__(self, gated: Gated, *, learns: bool = False) -> None:
        network = as_network(gated.static)
        super().__init__(network.division, network.weights())
        self._gated, self._gates = gated, gated.gates
        self._looked_at = {
            block.looks_at: attribute_name(f"{block.looks_at} statistics") for block in gated.blocks
        }
        self._learns = learns
        if learns:
            self.register_buffer("shift", torch.zeros(()))
            for node in self.division.body:
                if node.name in self._looked_at:
                    start = torch.stack([torch.zeros(node.channels), torch.ones(node.channels)])
                    self.register_buffer(self._looked_at[node.name], start)
        self._total = sum(static_macs(gated.static).values())
        self._on: dict[str, Tensor] = {}

    def answers(
        self, images: Tensor, weights: dict[str, Tensor], *, training: frozenset[str] = frozenset()
    ) -> list[Tensor]:
        """As any network's; what gates say is remembered."""
        self._on = {}
        return super().answers(images, weights, training=training)

    def run(
        self, node: Node, values: Mapping[str, Tensor], weights: Mapping[str, Tensor], training: bool = False
    ) -> Tensor:
        """As any network's, but for gates."""
        if node.name in self._looked_at:
            seen = super().run(node, values, weights, training).detach()
            return self._standardised(node.name, seen, training) if self._learns else seen
        if node.name not in self._gates:
            return super().run(node, values, weights, training)
        before = values[node.inputs[0]]
        if self._learns:
            before = before - self.shift
        self._on[node.name] = (before > 0).float()
        if training:
            clamped: Tensor = _Clamp.apply(before)  # type: ignore[no-untyped-call]
            return clamped
        return run_node(node, {node.inputs[0]: before}, weights, training)

    @torch.no_grad()
    def steer(self, allowed: float, steps: int) -> None:
        """Shut the gates a little if the last batch took more of the MACs than is allowed; else open them.

        A run has so many steps; in a shorter one, each step does more.
        """
        spent, _, _ = mean_and_variance(self.spent[:, None], [0], self.shift.new_full((1,), allowed))
        self.shift.add_(_STEERED / steps * (spent[0] - allowed)).clamp_(min=0)

    def _standardised(self, name: str, seen: Tensor, training: bool) -> Tensor:
        """What a gate looks at, [N, C], less its mean and over its spread; of the batch, while it learns."""
        kept = getattr(self, self._looked_at[name])
        if training:
            now = _mean_and_variance(seen, kept[0])
            kept.lerp_(now, _MOMENTUM)
        else:
            now = kept
        return ((seen - now[0]) / (now[1] + _EPSILON).sqrt()).to(seen.dtype)

    def masked_weights(self) -> dict[str, Tensor]:
        """As of an ordinary network: what gates learned of standardised features, said of features."""
        weights, layers = super().masked_weights(), self.gate_layers
        for node in self.division.body if self._learns else ():
            if node.name in layers and node.inputs[0] in self._looked_at:
                mean, variance = getattr(self, self._looked_at[node.inputs[0]])
                weight, bias = (weights[node.weights[role]] for role in ("weight", "bias"))
                scaled = weight / (variance + _EPSILON).sqrt()
                weights[node.weights["weight"]] = scaled
                weights[node.weights["bias"]] = bias - scaled @ mean - self.shift
        return weights

    @property
    def gate_layers(self) -> frozenset[str]:
        """The linear layers of the gates."""
        kinds = (f"/{CHANNEL_GATE}/", f"/{LAYER_GATE}/")
        linear = [node.name for node in self.division.body if node.operator == "linear"]
        return frozenset(name for name in linear if any(kind in name for kind in kinds))

    @property
    def gate_rates(self) -> dict[str, float]:
        """The gates' weights, and how fast each learns, of 1.

        All channels that a gate looks at move it, so their weights learn the more slowly.
        """
        rates, weights, layers = {}, self.weights(), self.gate_layers
        for node in self.division.body:
            if node.name in layers:
                for role, key in node.weights.items():
                    rates[key] = _RATE / weights[key].shape[1] if role == "weight" else _RATE
        return rates

    @property
    def has_answered(self) -> bool:
        """Whether there was a batch."""
        return bool(self._on)

    @property
    def spent(self) -> Tensor:
        """What each image of the last batch took of all MACs, [N]."""
        spared = sum(self._spared(block) for block in self._gated.blocks)
        assert isinstance(spared, Tensor), "there are blocks"
        return 1 - spared / self._total

    @property
    def blocks_on(self) -> Tensor:
        """Which blocks ran for each image of the last batch, [N, blocks]."""
        return torch.stack([self._on[block.layer_gate][:, 0] for block in self._gated.blocks], 1)

    @property
    def channels_on(self) -> dict[str, Tensor]:
        """Of each tensor with gates, which channels ran for each image of the last batch, [N, C]."""
        return {
            name: self._on[gate] * self._on[block.layer_gate]
            for block in self._gated.blocks
            for name, gate in block.channel_gates.items()
        }

    def _spared(self, block: GatedBlock) -> Tensor:
        """MACs, [N]."""
        runs = self._on[block.layer_gate][:, 0]
        spared = torch.zeros_like(runs)
        for layer in block.layers:
            used = runs
            for gate in (layer.reads, layer.makes):
                if gate is not None:
                    used = used * self._on[gate].mean(1)
            spared = spared + layer.macs * (1 - used)
        return spared


def _mean_and_variance(seen: Tensor, about: Tensor) -> Tensor:
    """Of the batch, [2, C], as torch counts it: the variance over one less than there are."""
    mean, variance, count = mean_and_variance(seen, [0], about)
    return torch.stack([mean, variance * count / (count - 1)])


class _Clamp(torch.autograd.Function):
    """Between 0 and 1; gradients pass within, and outside those that lead back."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return v.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (v,) = ctx.saved_tensors
        leads_back = ((v < 0) & (gradient < 0)) | ((v > 1) & (gradient > 0))
        within = (v >= 0) & (v <= 1)
        passed: Tensor = gradient * (within | leads_back)
        return passed
