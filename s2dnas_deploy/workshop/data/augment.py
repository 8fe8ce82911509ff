"""Show training each image a little differently: what is drawn for it, and where its pixels move.

Place in the flow: names ──draw──▶ `Looks`, one for each image of a batch ──▶ `made` in `batch`. All is drawn
first and with the batch's own seed, so it does not matter which process makes the batch, or how many do.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2dnas_deploy.images.pixels import Box, Part, Pixels
from s2dnas_deploy.workshop.data.recolour import CHANGES
from s2dnas_deploy.workshop.data.ways import COLOUR, CROP, FLIP, RANDAUGMENT, RESIZED_CROP

_SMALLEST_PART, _WIDEST = 0.35, 4 / 3
_FACTOR = 0.4
_CHANGES_AT_ONCE = 2
_Numbers = NDArray[np.float64]
_Whole = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Looks:
    """How each of N images is shown; None: as it is."""

    parts: _Numbers | None = None
    """[N, 4] of 0..1: the area, the proportions, and where across and down"""
    factors: _Numbers | None = None
    """[N, 3]: what brightness, contrast and saturation are multiplied by"""
    changes: _Whole | None = None
    """[N, 2]: which changes, positive or, if below 0, in the other direction"""
    shifts: _Whole | None = None
    """[N, 2]: rows and columns"""
    mirrored: NDArray[np.bool_] | None = None
    """[N]"""

    def of(self, rows: slice) -> "Looks":
        """Those of some images."""
        drawn: Mapping[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(self, **{name: array[rows] for name, array in drawn.items() if array is not None})


def draw_looks(ways: frozenset[str], count: int, *, padding: int, seed: int) -> Looks:
    """Draw how each of so many images is shown."""
    draw = np.random.default_rng(seed)
    shifted = CROP in ways and padding > 0
    return Looks(
        parts=draw.random((count, 4)) if RESIZED_CROP in ways else None,
        factors=draw.uniform(1 - _FACTOR, 1 + _FACTOR, (count, 3)) if COLOUR in ways else None,
        changes=_drawn_changes(draw, count) if RANDAUGMENT in ways else None,
        shifts=draw.integers(-padding, padding + 1, (count, 2)) if shifted else None,
        mirrored=draw.random(count) < 0.5 if FLIP in ways else None,
    )


def _drawn_changes(draw: np.random.Generator, count: int) -> _Whole:
    which = draw.integers(1, len(CHANGES) + 1, (count, _CHANGES_AT_ONCE))
    signs: _Whole = which * draw.choice((-1, 1), which.shape)
    return signs


def part_for(drawn: _Numbers) -> Part:
    """The part that four drawn numbers choose of a picture of any size."""
    area, proportions, across, down = drawn.tolist()

    def part(width: float, height: float) -> Box:
        share = _SMALLEST_PART + (1 - _SMALLEST_PART) * area
        stretch = _WIDEST ** (2 * proportions - 1)  # as likely wider as higher
        wide = min(width, sqrt(share * width * height * stretch))
        high = min(height, sqrt(share * width * height / stretch))
        left, top = across * (width - wide), down * (height - high)
        return left, top, left + wide, top + high

    return part


def moved(images: Pixels, looks: Looks) -> Pixels:
    """Return [N, C, H, W] images, each shifted and mirrored as drawn, in one gather.

    output[y, x] = image[y + dy, x + dx]; what lies outside is the image again, reflected at its edge: black
    is nothing that a network will ever see there. Then mirrored, left to right.
    """
    if looks.shifts is None and looks.mirrored is None:
        return images
    count, channels, height, width = images.shape
    size = height * width
    none = np.zeros((count, 2), np.int64)
    down, right = (none if looks.shifts is None else looks.shifts).T
    rows, columns = _shifted(down, height), _shifted(right, width)
    if looks.mirrored is not None:
        columns = np.where(looks.mirrored[:, None], columns[:, ::-1], columns)
    places = (rows[:, :, None] * width + columns[:, None, :]).reshape(count, 1, size)
    flat = images.reshape(count, channels, size)
    return np.take_along_axis(flat, places, 2).reshape(images.shape)


def _shifted(offsets: _Whole, length: int) -> _Whole:
    """Positions int64 [N, length] in the image, each row with an offset of its own."""
    beyond = offsets[:, None] + np.arange(length)
    # 0, 1, ..., L - 1, L - 2, ..., 1, and again
    last = length - 1
    within: _Whole = last - np.abs(last - beyond % max(2 * last, 1))
    return within
