"""Which channels come first: those that matter most, so that early stages own them.

Place in the flow: trained `StaticNetwork` + labelled images ──▶ the order in which stages take its channels.
With a gate g = 1 on every channel c of a node n,

    matters(n, c) = √ Σ_images (∂ loss / ∂ g(n, c))²

is, to first order, what the loss would change by if the channel were switched off. Nodes differ in scale, so
each one's numbers are taken relative to their mean; what the nodes that hold a channel say is added up.
"""

from collections.abc import Iterable, Mapping
from math import prod

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.network.costs import static_macs
from s2dnas_deploy.workshop.network.graph import INPUT, Node
from s2dnas_deploy.workshop.network.groups import Divisible, Order
from s2dnas_deploy.workshop.network.operators import OPERATORS
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_node
from s2dnas_deploy.workshop.training.batches import in_order

MOST_IMAGES, FEWEST_IMAGES = 512, 64
_MOST_MACS = 10**12  # of all images, forwards: a minute or two on two cores
_MOST_BYTES, _LARGEST_BATCH = 2**28, 32  # of features that wait for their gradients


def by_importance(
    static: StaticNetwork, images: LabelledImages, preprocessing: Preprocessing, device: torch.device
) -> Order:
    """Each group's channels, the one that matters most first."""
    chosen = images.evenly(images_to_rank_by(static))
    return by_importance_in(static, in_order(chosen, preprocessing, batch_to_rank_by(static), device), device)


def by_importance_in(
    static: StaticNetwork, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Order:
    """The same by images that are on the device, as the network reads them, and their labels."""
    divisible = static.divisible
    matters = np.zeros(1 + max(int(own.max()) for own in divisible.atoms.values()))
    for name, found in _of_each_node(static, batches, device).items():
        scale = float(found.mean())
        if scale > 0:
            np.add.at(matters, divisible.atoms[name], found / scale)
    return {
        name: np.argsort(-matters[np.sort(own)], kind="stable") for name, own in divisible.group_atoms.items()
    }


def images_to_rank_by(static: StaticNetwork) -> int:
    """As many as take no long time."""
    macs = sum(static_macs(static).values())
    return min(MOST_IMAGES, max(FEWEST_IMAGES, _MOST_MACS // max(macs, 1)))


def batch_to_rank_by(static: StaticNetwork) -> int:
    """As many images at a time as have their features held in little memory, with gates and without."""
    each = 2 * 4 * sum(prod(node.shape) for node in static.graph.nodes)
    return min(_LARGEST_BATCH, max(1, _MOST_BYTES // each))


def _of_each_node(
    static: StaticNetwork, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> Mapping[str, npt.NDArray[np.float64]]:
    """How much each channel of the gated nodes matters, [C] each."""
    gated = _gated(static.divisible)
    weights = {key: tensor.detach().to(device, torch.float32) for key, tensor in static.weights.items()}
    total = {node.name: torch.zeros(node.channels, dtype=torch.float64) for node in gated}
    for pixels, labels in batches:
        gates = {node.name: torch.ones(len(pixels), node.channels, device=device) for node in gated}
        logits = _with_gates(static, weights, pixels, gates)
        loss = F.cross_entropy(logits, labels.to(device), reduction="sum")
        for name, gradient in zip(gates, torch.autograd.grad(loss, list(gates.values())), strict=True):
            total[name] += gradient.double().pow(2).sum(0).cpu()
    return {name: found.sqrt().numpy() for name, found in total.items()}


def _gated(divisible: Divisible) -> list[Node]:
    """The batch norms of the body, and the layers whose channels none of them holds."""
    norms = [node for node in divisible.body if node.operator == "batch_norm"]
    held = {atom for node in norms for atom in divisible.atoms[node.name].tolist()}
    layers = [node for node in divisible.body if OPERATORS[node.operator].mixes]
    return norms + [node for node in layers if held.isdisjoint(divisible.atoms[node.name].tolist())]


def _with_gates(
    static: StaticNetwork, weights: Mapping[str, Tensor], pixels: Tensor, gates: Mapping[str, Tensor]
) -> Tensor:
    """The logits [N, classes], with each gated node's channels multiplied by a gate, [N, C]."""
    values = {INPUT: pixels}
    for node in static.graph.nodes[1:]:
        value = run_node(node, values, weights)
        if node.name in gates:
            gate = gates[node.name].requires_grad_()
            value = value * gate.reshape(*gate.shape, *[1] * (value.dim() - 2))
        values[node.name] = value
    return values[static.graph.output]
