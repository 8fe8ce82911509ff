"""Labelled images in arrays: checked once, then fitted as they are read."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.pixels import InputFormat, Pixels, can_recolour, fitted
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.data.splits import Index, UnreadImages


class Rows(Protocol):
    """Images [N, C, H, W] that are read some at a time, wherever they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As of an array."""

    def __getitem__(self, rows: Index) -> Pixels:
        """The images at `rows` [M], uint8 [M, C, H, W]."""


def array_images(images: Rows, labels: Index, wanted: InputFormat, *, where: str) -> UnreadImages:
    """Return uint8 [N, C, H, W] and labels [N] as unread images; raise if they cannot fit the network."""
    count, channels, height, width = images.shape
    if len(labels) != count:
        raise DataError(
            f"{where}: expected one label for each image, got {number_of(count, 'image')}, "
            f"{number_of(len(labels), 'label')}"
        )
    if not can_recolour(channels, wanted):
        raise DataError(
            f"{where}: expected images of {wanted.channels} channel(s), got {channels}. Only grey (1) and"
            " colour (3) are turned into each other: give a network that takes these images."
        )
    if not wanted.admits(height, width):
        raise wanted.refusal(height, width, where=where, how_many=f"all {count:,} images")
    return UnreadImages(
        labels=labels, positions=np.arange(count), source=Arrays(images=images, wanted=wanted)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Arrays:
    """Images in arrays, uint8 [N, C, H, W], as a source of pixels."""

    images: Rows
    wanted: InputFormat

    def decode(self, positions: Index, out: Pixels) -> None:
        """As a `PixelSource`."""
        out[:] = fitted(self.images[positions], self.wanted)
