"""What is learned from at each step: images in their epoch's order, varied, normalised.

All of it is drawn from (seed, step): the batch of a step is the same whether the run was interrupted
before it or not, and however many processes make batches.
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.images.pixels import Pixels
from s2dnas_deploy.workshop.data.augment import Looks, draw_looks
from s2dnas_deploy.workshop.data.batch import Maker, Order
from s2dnas_deploy.workshop.data.crew import Crew, workers_here
from s2dnas_deploy.workshop.data.labelled import ImagesOnDisk, LabelledImages
from s2dnas_deploy.workshop.data.ways import FLIP, MOVES, augmentations
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.training import several
from s2dnas_deploy.workshop.training.settings import Settings

_MOST_BYTES, _BYTES_EACH = 2**28, 4  # of features in float32
_MOST_AT_ONCE, _FEWEST_AT_ONCE = 500, 16


@dataclass(frozen=True, kw_only=True)
class Waited:
    """The share of a training's time that went into waiting for images, which so many processes made."""

    share: float
    workers: int


class Batches:
    """The batches of a run over `images`, made by other processes while the network learns if that pays."""

    def __init__(
        self,
        images: LabelledImages,
        preprocessing: Preprocessing,
        settings: Settings,
        device: torch.device,
        *,
        shared: bool = False,
    ) -> None:
        """Of several processes that take the same steps, each has a part of a batch that is `shared`."""
        self.images, self.preprocessing, self.settings, self.device = images, preprocessing, settings, device
        self.part = several.own_part(self.size) if shared else slice(None)
        self._began = self._waited_seconds = 0.0
        self._ways = augmentations(settings.augment)
        stored = images.images
        source = stored.files if isinstance(stored, ImagesOnDisk) else None
        self._maker = Maker(shape=images.image_shape, source=source)
        self._crew: Crew | None = None
        self._asked = deque[int]()
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

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

    @property
    def workers(self) -> int:
        """How many processes make batches: none for images in memory that are only moved."""
        if self.settings.workers is not None:
            return self.settings.workers
        return 0 if self._is_quick else workers_here()

    @property
    def _is_quick(self) -> bool:
        return isinstance(self.images.images, Tensor) and self._ways <= MOVES

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The images and labels of a step: the epoch's order, then the step's own ways to show them."""
        labels = self.images.labels[self._rows(step)[self.part]]
        asked = time.monotonic()
        made = torch.from_numpy(self._made(step))
        if self._began:  # the first batch has nothing to be made beside
            self._waited_seconds += time.monotonic() - asked
        else:
            self._began = time.monotonic()
        return normalised(made, self.preprocessing, self.device), labels.to(self.device)

    @property
    def waited(self) -> Waited | None:
        """How much of the time went into waiting for images; None where that takes none worth telling."""
        seconds = time.monotonic() - self._began
        if self._is_quick or not self._began:
            return None
        return Waited(share=self._waited_seconds / seconds, workers=self.workers)

    @property
    def views(self) -> int | None:
        """How many pictures there are to be shown at all; None where no two are alike."""
        return len(self.images) * self._sides if self._ways <= {FLIP} else None

    def views_at(self, step: int) -> Tensor:
        """Which of these pictures a step shows, int64 [N]."""
        mirrored, rows = self._looks(step).mirrored, self._rows(step)[self.part]
        return rows if mirrored is None else rows * self._sides + torch.from_numpy(mirrored)

    def shown(self, views: Tensor) -> Tensor:
        """Some of these pictures, as a network reads them."""
        looks = Looks(mirrored=(views % self._sides).bool().numpy())
        made = self._maker.made(self._order_of(views // self._sides, looks))
        return normalised(torch.from_numpy(made), self.preprocessing, self.device)

    @property
    def _sides(self) -> int:
        return 2 if FLIP in self._ways else 1

    def close(self) -> None:
        """End the processes; they start again when they are needed."""
        if self._crew is not None:
            self._crew.close()
        self._crew, self._asked = None, deque()

    def _made(self, step: int) -> Pixels:
        """The step's batch, and those of the next steps asked for."""
        if not self.workers:
            return self._maker.made(self._ordered(step))
        if self._asked and self._asked[0] != step:
            self.close()
        if self._crew is None:
            self._crew = Crew(self._maker, self.workers)
        self._ask_from(step)
        made = self._crew.take()
        self._asked.popleft()
        self._ask_from(step + 1)
        return made

    def _ask_from(self, step: int) -> None:
        assert self._crew is not None, "it was started"
        while self._crew.has_room:
            following = self._asked[-1] + 1 if self._asked else step
            self._crew.ask(self._ordered(following))
            self._asked.append(following)

    def _ordered(self, step: int) -> Order:
        """What is to be made for a step; all of it is drawn here, whoever makes it."""
        return self._order_of(self._rows(step)[self.part], self._looks(step))

    def _looks(self, step: int) -> Looks:
        seed = seed_of(self.settings.seed, "augment", step)
        return draw_looks(self._ways, self.size, padding=self.crop_padding, seed=seed).of(self.part)

    def _order_of(self, rows: Tensor, looks: Looks) -> Order:
        stored = self.images.images
        if isinstance(stored, ImagesOnDisk):
            return Order(looks=looks, positions=stored.positions[rows.numpy()])
        return Order(looks=looks, images=stored[rows].numpy())

    def _rows(self, step: int) -> Tensor:
        """Which images a step learns from."""
        epoch, within = divmod(step, self.per_epoch)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(seed_of(self.settings.seed, "order", epoch))
            self._order = (epoch, torch.randperm(len(self.images), generator=generator))
        return self._order[1][within * self.size : (within + 1) * self.size]


def seed_of(seed: int, purpose: str, index: int) -> int:
    """A seed of its own for each purpose and step."""
    digest = hashlib.sha256(f"{seed}|{purpose}|{index}".encode()).digest()
    return int.from_bytes(digest[:7], "little")


def at_once(network: MultiStageNetwork) -> int:
    """How many images to ask a network about at a time, so that their features take little memory."""
    features = sum(prod(node.shape) for node in network.division.body)
    each = _BYTES_EACH * features * (network.stages if network.division.plan.nested else 1)
    return min(_MOST_AT_ONCE, max(_FEWEST_AT_ONCE, _MOST_BYTES // each))


def in_order(
    images: LabelledImages, preprocessing: Preprocessing, size: int, device: torch.device | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images as a network reads them, and their labels, so many at a time, as they come."""
    for rows in torch.split(torch.arange(len(images)), size):
        part = images.select(rows)
        yield normalised(part.read(), preprocessing, device or torch.device("cpu")), part.labels


def normalised(images: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """uint8 [N, C, H, W] to what the network reads, channels last."""
    shape = (1, -1, 1, 1)
    mean = torch.tensor(preprocessing.mean, device=device).reshape(shape)
    std = torch.tensor(preprocessing.std, device=device).reshape(shape)
    scaled = images.to(device).float().div_(255).sub_(mean).div_(std)
    return scaled.contiguous(memory_format=torch.channels_last)
