"""Labelled images that are in memory already, as arrays: checked once, then fitted as they are read."""

import numpy as np

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.pixels import InputFormat, Pixels, can_recolour, fitted
from s2dnas_deploy.workshop.data.parallel import work_in_chunks
from s2dnas_deploy.workshop.data.splits import Fill, Index, OnRead, UnreadImages


def array_images(images: Pixels, labels: Index, wanted: InputFormat, *, where: str) -> UnreadImages:
    """Return uint8 [N, C, H, W] and labels [N] as unread images; raise if they cannot fit the network."""
    count, channels, height, width = images.shape
    if len(labels) != count:
        raise DataError(
            f"{where}: expected one label for each image, got {count} images, {len(labels)} labels"
        )
    if not can_recolour(channels, wanted):
        raise DataError(
            f"{where}: expected images of {wanted.channels} channel(s), got {channels}. Only grey (1) and"
            " colour (3) are turned into each other: give a network that takes these images."
        )
    if not wanted.admits(height, width):
        raise wanted.refusal(height, width, where=where, how_many=f"all {count:,} images")
    return UnreadImages(labels=labels, positions=np.arange(count), fill=_fill_from(images, wanted))


def _fill_from(images: Pixels, wanted: InputFormat) -> Fill:
    def fill(positions: Index, out: Pixels, on_read: OnRead) -> None:
        def fit(rows: range) -> None:
            chunk = slice(rows.start, rows.stop)
            out[chunk] = fitted(images[positions[chunk]], wanted)

        work_in_chunks(len(positions), fit, lambda rows, _: on_read(len(rows)))

    return fill
