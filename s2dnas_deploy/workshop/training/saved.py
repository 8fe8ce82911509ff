"""What gates before blocks spare: how much of the MACs is left, and for how many images each block runs.

Place in the flow: trained `GatedNetwork` + images ──▶ `Saved`, which is said at the end of a training.
"""

from dataclasses import dataclass

import torch

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.workshop.data.labelled import LabelledImages
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.training.batches import at_once, in_order


@dataclass(frozen=True, kw_only=True)
class Saved:
    """The share of all MACs that an image takes on average, and of images for which each block runs."""

    spent: float
    runs: tuple[float, ...]


@torch.no_grad()
def saved_on(network: GatedNetwork, images: LabelledImages, preprocessing: Preprocessing) -> Saved:
    """Ask the gates of a network about images."""
    network.eval()
    spent, runs = [], []
    for inputs, _ in in_order(images, preprocessing, at_once(network)):
        network(inputs)
        spent.append(network.spent)
        runs.append(network.blocks_on)
    return Saved(
        spent=float(torch.cat(spent).mean()),
        runs=tuple(torch.cat(runs).mean(0).tolist()),
    )
