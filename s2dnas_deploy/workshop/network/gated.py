"""A network with gates while it learns: the same answers, and what each image is spared.

Place in the flow: `Gated` ──▶ `GatedNetwork`, which trains like any multi-stage network of one stage; once
trained it is an ordinary one. Of the MACs of all layers,

    spent = 1 - Σ_blocks Σ_layers macs / total · (1 - on(s) · share_on(gate it reads) · share_on(gate it makes))

where a gate v is on if v > 0. That has no slope, so backwards it is v's own where it is on (straight through);
and a gate that was clamped passes on what would bring it back between 0 and 1, so that none stays shut for ever.
What gates look at learns nothing from them: else features would change so that gates shut, and be of no use.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s2dnas_deploy.workshop.network.blocks import Gated, GatedBlock
from s2dnas_deploy.workshop.network.costs import static_macs
from s2dnas_deploy.workshop.network.graph import Node
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network
from s2dnas_deploy.workshop.network.static_network import run_node


class GatedNetwork(MultiStageNetwork):
    """`forward` gives the logits of the one exit; `spent` then tells what the images took, [N], of 1."""

    def __init__(self, gated: Gated) -> None:
        network = as_network(gated.static)
        super().__init__(network.division, network.weights())
        self._gated, self._gates = gated, gated.gates
        self._looked_at = frozenset(block.looks_at for block in gated.blocks)
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
        if node.name not in self._gates:
            value = super().run(node, values, weights, training)
            return value.detach() if node.name in self._looked_at else value
        before = values[node.inputs[0]]
        self._on[node.name] = _On.apply(before.float())  # type: ignore[no-untyped-call]
        if training:
            clamped: Tensor = _Clamp.apply(before)  # type: ignore[no-untyped-call]
            return clamped
        return run_node(node, values, weights, training)

    @property
    def spent(self) -> Tensor:
        """What each image of the last batch took of all MACs, [N]."""
        spared = sum(self._spared(block) for block in self._gated.blocks)
        assert isinstance(spared, Tensor), "there are blocks"
        return 1 - spared / self._total

    @property
    def blocks_on(self) -> Tensor:
        """Which blocks ran for each image of the last batch, [N, blocks]."""
        return torch.stack([self._on[block.layer_gate][:, 0].detach() for block in self._gated.blocks], 1)

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


class _Clamp(torch.autograd.Function):
    """Between 0 and 1; gradients pass within, and outside those that lead back."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return v.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        leads_back = ((v < 0) & (gradient < 0)) | ((v > 1) & (gradient > 0))
        return gradient * (((v >= 0) & (v <= 1)) | leads_back)


class _On(torch.autograd.Function):
    """Whether a gate is above 0, as 0 or 1; backwards as the gate itself, where it is."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        return (v > 0).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (v,) = ctx.saved_tensors
        return gradient * (v > 0)
