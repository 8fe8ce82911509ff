"""What is learned from at each step: images in their epoch's order, cropped and flipped, normalised.

All of it is drawn from (seed, step): the batch of a step is the same whether the run was interrupted
before it or not.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.workshop.data import LabelledImages
from s2dnas_deploy.workshop.data.augment import random_crop_and_flip
from s2dnas_deploy.workshop.training.settings import Settings


@dataclass
class Batches:
    """The batches of a run over `images`."""

    images: LabelledImages
    preprocessing: Preprocessing
    settings: Settings
    device: torch.device
    _order: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)

    @property
    def size(self) -> int:
        """Images per step; a data set smaller than a batch is one batch."""
        return min(self.settings.batch_size, len(self.images))

    @property
    def per_epoch(self) -> int:
        """Whole batches in an epoch; the rest is left to another epoch's order."""
        return len(self.images) // self.size

    @property
    def crop_padding(self) -> int:
        """By how many pixels a crop may shift: as set, or an eighth of the shorter side."""
        if self.settings.crop_padding is not None:
            return self.settings.crop_padding
        return max(1, min(self.preprocessing.input_shape[1:]) // 8)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The images and labels of a step: the epoch's order, then the step's own crops and flips."""
        epoch, within = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "order", epoch))
            self._order = (epoch, torch.randperm(len(self.images), generator=generator))
        part = self.images.select(self._order[1][within * self.size : (within + 1) * self.size])
        generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "augment", step))
        padding = self.crop_padding if "crop" in self.settings.augment else 0
        flip = "flip" in self.settings.augment
        images = random_crop_and_flip(part.images, padding=padding, flip=flip, generator=generator)
        return normalised(images, self.preprocessing, self.device), part.labels.to(self.device)


def seed_of(seed: int, purpose: str, index: int) -> int:
    """A seed of its own for each purpose and step."""
    digest = hashlib.sha256(f"{seed}|{purpose}|{index}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def in_order(
    images: LabelledImages, preprocessing: Preprocessing, size: int, device: torch.device | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images as a network reads them, and their labels, so many at a time, as they come."""
    for rows in torch.split(torch.arange(len(images)), size):
        part = images.select(rows)
        yield normalised(part.images, preprocessing, device or torch.device("cpu")), part.labels


def normalised(images: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """uint8 [N, C, H, W] to what the network reads, channels last."""
    shape = (1, -1, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=device).reshape(shape)
    std = torch.tensor(preprocessing.std, device=device).reshape(shape)
    scaled = images.to(device).float().div_(255).sub_(mean).div_(std)
    return scaled.contiguous(memory_format=torch.channels_last)
