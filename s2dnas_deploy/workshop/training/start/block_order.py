"""Which residual blocks are left out first: those that the loss misses least.

Place in the flow: trained `StaticNetwork` + labelled images ──▶ how firmly the gates of blocks begin open.

    matters(block) = loss of the network without the block - loss of the network
"""

from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.network.blocks import Block, blocks_of
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_node, values_of
from s2dnas_deploy.workshop.training.batches import in_order
from s2dnas_deploy.workshop.training.start.ranking import batch_to_rank_by, images_to_rank_by


def by_loss_without(
    static: StaticNetwork, images: LabelledImages, preprocessing: Preprocessing, device: torch.device
) -> tuple[int, ...]:
    """The places of the network's blocks, the one that matters most first."""
    chosen = images.evenly(images_to_rank_by(static))
    batches = in_order(chosen, preprocessing, batch_to_rank_by(static), device)
    return by_loss_without_in(static, batches, device)


@torch.no_grad()
def by_loss_without_in(
    static: StaticNetwork, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device
) -> tuple[int, ...]:
    """The same by images that are on the device, as the network reads them, and their labels."""
    blocks = blocks_of(static.graph)
    weights = {key: tensor.detach().to(device, torch.float32) for key, tensor in static.weights.items()}
    loss = np.zeros(len(blocks))
    for pixels, labels in batches:
        values = values_of(static.graph, weights, pixels)
        for k, block in enumerate(blocks):
            logits = _without(block, static, weights, values)
            loss[k] += F.cross_entropy(logits, labels.to(device), reduction="sum").item()
    return tuple(np.argsort(-loss, kind="stable").tolist())


def _without(
    block: Block, static: StaticNetwork, weights: dict[str, Tensor], values: dict[str, Tensor]
) -> Tensor:
    """The logits [N, classes] where only the shortcut goes on; `values` are those of the whole network."""
    values = {**values, block.adds: values[block.shortcut]}
    changed = {block.adds}
    for node in static.graph.nodes:
        if node.name != block.adds and not changed.isdisjoint(node.inputs):
            changed.add(node.name)
            values[node.name] = run_node(node, values, weights)
    return values[static.graph.output]
