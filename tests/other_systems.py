"""Small networks of the systems that are no chain of stages, as export reads them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from exports import as_model
from small_networks import residual

from s2dnas_deploy import plan as plans
from s2dnas_deploy.workshop.export.chain import chain_of
from s2dnas_deploy.workshop.export.staged import StagedNetwork
from s2dnas_deploy.workshop.export.widths import widths_of
from s2dnas_deploy.workshop.network.blocks import gated
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.nested import nested_from
from s2dnas_deploy.workshop.network.static_network import StaticNetwork


@torch.no_grad()
def widths(plan: str, in_turn: Sequence[str] = ()) -> StagedNetwork:
    """A network's nested widths, whose gate, if there is one, likes each as much as the others."""
    static = residual()
    network = nested_from(static, plans.from_text(plan, static.divisible.space)).eval()
    if network.division.gate is not None:
        torch.manual_seed(0)
        _, seen = network.judged(torch.randn(64, *static.graph.input_shape))
        bias = network.gate.head[-1].weights["bias"]
        network.weights()[bias].sub_(network.numbers(seen).mean(0))
    return widths_of(as_model(network), name="test", split=True, in_turn=in_turn)


@torch.no_grad()
def with_drawn_gates(static: StaticNetwork, seed: int) -> GatedNetwork:
    """Gates before blocks that differ from image to image, some of them shut."""
    network, drawn = GatedNetwork(gated(static)), torch.Generator().manual_seed(seed)
    for key in network.gate_rates:
        weight = network.weights()[key]
        weight.copy_(torch.randn(weight.shape, generator=drawn) * (0.7 if weight.dim() > 1 else 0.5))
    return network.eval()


SYSTEMS: Mapping[str, Callable[[], StagedNetwork]] = {
    "widths": lambda: widths("widths:0.25,0.5,1"),
    "in-turn": lambda: widths("widths:0.25,0.5,1", in_turn=("quarter", "full")),
    "gate": lambda: widths("gate:0.25,0.5,1"),
    "blocks": lambda: chain_of(as_model(with_drawn_gates(residual(), 0)), name="test", split=True),
}
