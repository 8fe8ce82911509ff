"""How pictures of another size are made to fit, in a few letters: `crop`, `stretch`, `crop:0.875:bicubic`.

    stretch      to the network's size, whatever the proportions
    crop         the smallest size of the same proportions that covers it; the middle is cut out
    crop:SHARE   the same of a size that is so much larger that the cut takes SHARE of the shorter side, as
                 torchvision and timm evaluate networks: of 0.875, 256 pixels for 224

`:bicubic` after any of them resizes by bicubic in place of bilinear interpolation. One text says it all, from
the command line to the device, so that no part of it can be lost on the way. Imports nothing that is heavy.
"""

import re
from dataclasses import dataclass
from functools import cache

# Below a half, more than three quarters of a picture would be resized to be thrown away.
PATTERN = r"(stretch|crop(:(0\.[5-9]\d{0,5}|1|1\.0))?)(:bicubic)?"
WORDS = "stretch, crop or crop:SHARE (of the shorter side, 0.5 to 1), and :bicubic behind it or not"


@dataclass(frozen=True, kw_only=True)
class Resizing:
    """A way to make pictures fit."""

    is_crop: bool
    share: float | None
    """Of the shorter side, what a crop takes, as torchvision counts; None: all, as this package does."""
    is_bicubic: bool


@cache
def resizing(text: str) -> Resizing | None:
    """What a text says; None if it says nothing of that kind."""
    found = re.fullmatch(PATTERN, text)
    if found is None:
        return None
    share = found[3]
    return Resizing(
        is_crop=text.startswith("crop"),
        share=None if share is None else float(share),
        is_bicubic=found[4] is not None,
    )
