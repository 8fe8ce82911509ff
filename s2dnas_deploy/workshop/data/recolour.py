"""Other colours and shapes of an image that keep what it shows: colour jitter and RandAugment, by pillow.

Place in the flow: an image uint8 [C, H, W] of one or three channels + what was drawn for it ──▶ another one.
The changes and their strengths are those of RandAugment (Cubuk et al., 2020) at 9 of 30 steps, two at a time.
"""

from collections.abc import Callable, Sequence
from math import radians, tan

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from s2dnas_deploy.images.pixels import Pixels, planes_of

_STRENGTH = 9 / 30
_GREY = 128
_Change = Callable[[Image.Image, float], Image.Image]


def jittered(image: Pixels, factors: NDArray[np.float64]) -> Pixels:
    """With brightness, contrast and saturation times three factors."""
    picture = _picture(image)
    ways = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for way, factor in zip(ways, factors.tolist(), strict=True):
        picture = way(picture).enhance(factor)
    return planes_of(picture)


def changed(image: Pixels, changes: Sequence[int]) -> Pixels:
    """With changes made one after the other, each told by its place from 1 on; below 0, the other way."""
    picture = _picture(image)
    for change in changes:
        picture = CHANGES[abs(change) - 1](picture, _STRENGTH if change > 0 else -_STRENGTH)
    return planes_of(picture)


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))


def _warped(
    picture: Image.Image, across: tuple[float, float, float], down: tuple[float, float, float]
) -> Image.Image:
    """With x' = a·x + b·y + c and y' alike, about the middle; what comes in at the edge is grey."""
    middle_x, middle_y = picture.width / 2, picture.height / 2
    a, b, c = across
    d, e, f = down
    about = (
        a, b, c + middle_x - a * middle_x - b * middle_y,
        d, e, f + middle_y - d * middle_x - e * middle_y,
    )  # fmt: skip
    grey = (_GREY,) * len(picture.getbands())
    return picture.transform(
        picture.size, Image.Transform.AFFINE, about, Image.Resampling.BILINEAR, fillcolor=grey
    )


def _sheared_across(picture: Image.Image, strength: float) -> Image.Image:
    return _warped(picture, (1, tan(0.3 * strength), 0), (0, 1, 0))


def _sheared_down(picture: Image.Image, strength: float) -> Image.Image:
    return _warped(picture, (1, 0, 0), (tan(0.3 * strength), 1, 0))


def _shifted_across(picture: Image.Image, strength: float) -> Image.Image:
    return _warped(picture, (1, 0, 0.47 * picture.width * strength), (0, 1, 0))


def _shifted_down(picture: Image.Image, strength: float) -> Image.Image:
    return _warped(picture, (1, 0, 0), (0, 1, 0.47 * picture.height * strength))


def _turned(picture: Image.Image, strength: float) -> Image.Image:
    angle = radians(30 * strength)
    return _warped(picture, (np.cos(angle), np.sin(angle), 0), (-np.sin(angle), np.cos(angle), 0))


def _enhanced(way: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Change:
    return lambda picture, strength: way(picture).enhance(1 + 0.9 * strength)


CHANGES: tuple[_Change, ...] = (
    lambda picture, strength: picture,
    _sheared_across,
    _sheared_down,
    _shifted_across,
    _shifted_down,
    _turned,
    _enhanced(ImageEnhance.Brightness),
    _enhanced(ImageEnhance.Color),
    _enhanced(ImageEnhance.Contrast),
    _enhanced(ImageEnhance.Sharpness),
    lambda picture, strength: ImageOps.posterize(picture, 8 - round(4 * abs(strength))),
    lambda picture, strength: ImageOps.solarize(picture, round(256 * (1 - abs(strength)))),
    lambda picture, strength: ImageOps.autocontrast(picture),
    lambda picture, strength: ImageOps.equalize(picture),
)
