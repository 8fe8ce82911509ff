"""A batch as training sees it, of what was drawn for it: decoded, cut, recoloured, moved.

Place in the flow: `Order` ──made──▶ uint8 [N, C, H, W], here or in a process of its own (`crew`, `worker`).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from s2dnas_deploy.images.pixels import InputFormat, Part, Pixels, resized
from s2dnas_deploy.workshop.data.augment import Looks, moved, part_for
from s2dnas_deploy.workshop.data.folder import PictureFiles
from s2dnas_deploy.workshop.data.recolour import changed, jittered
from s2dnas_deploy.workshop.data.splits import Index


@dataclass(frozen=True, kw_only=True, eq=False)
class Order:
    """A batch to be made: which images, and how each is shown."""

    looks: Looks
    positions: Index | None = None
    """[N]: where the source has them; None: they are in memory"""
    images: Pixels | None = None
    """uint8 [N, C, H, W]: then these"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Maker:
    """Makes batches; all of one run come from one source, or from memory."""

    shape: tuple[int, int, int]
    source: PictureFiles | None

    def made(self, order: Order) -> Pixels:
        """The batch, uint8 [N, C, H, W]."""
        looks = order.looks
        images = self._seen(order)
        if looks.factors is not None:
            images = np.stack([jittered(*each) for each in zip(images, looks.factors, strict=True)])
        if looks.changes is not None:
            chosen = looks.changes.tolist()
            images = np.stack([changed(*each) for each in zip(images, chosen, strict=True)])
        return moved(images, looks)

    def _seen(self, order: Order) -> Pixels:
        """All of each image, or the part of it that is looked at, in the network's size."""
        drawn = order.looks.parts
        parts = None if drawn is None else [part_for(each) for each in drawn]
        if self.source is not None and order.positions is not None:
            seen = np.empty((len(order.positions), *self.shape), np.uint8)
            self.source.decode(order.positions, seen, parts)
            return seen
        assert order.images is not None, "images are on disk or in memory"
        if parts is None:
            return order.images
        channels, height, width = self.shape
        wanted = InputFormat(channels=channels, height=height, width=width, resize="stretch")
        return np.stack([_part_of(*each, wanted) for each in zip(order.images, parts, strict=True)])


def _part_of(image: Pixels, part: Part, wanted: InputFormat) -> Pixels:
    """A part of an image [C, H, W], in the wanted size."""
    height, width = image.shape[1:]
    box = part(width, height)
    return np.stack([np.asarray(resized(Image.fromarray(plane), wanted, box)) for plane in image])
