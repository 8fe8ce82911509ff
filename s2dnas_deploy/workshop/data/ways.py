"""Which ways there are to show training each image a little differently, by name.

    resized-crop   a part of 35 to 100% of the area, of proportions from 3:4 to 4:3, in the network's size
    colour         brightness, contrast and saturation times 0.6 to 1.4
    randaugment    two of fourteen changes, at a strength of 9 of 30
    crop           shifted by some pixels; what comes in at the edge is the image again, reflected
    flip           mirrored, left to right, or not

Whether a change keeps the meaning is the caller's to know: digits and text must not be flipped.
"""

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown

CROP, FLIP, RESIZED_CROP, COLOUR, RANDAUGMENT = "crop", "flip", "resized-crop", "colour", "randaugment"
AUGMENTATIONS = (CROP, FLIP, RESIZED_CROP, COLOUR, RANDAUGMENT)
MOVES = frozenset({CROP, FLIP})
"""By which pixels keep their values, and which take next to no time."""
NONE = "none"
_FORMERLY = {"crop-flip": (CROP, FLIP)}


def augmentations(text: str) -> frozenset[str]:
    """The ways that are named in a text such as `resized-crop,flip`; `none` names none."""
    names = [part for each in text.split(",") for part in _FORMERLY.get(each, (each,))]
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if names == [NONE]:
        return frozenset()
    if unknown or len(set(names)) < len(names):
        raise OptionError(
            f"augment: expected none, or some of {', '.join(AUGMENTATIONS)} with commas between, got "
            f"{shown(text)}"
        )
    if {CROP, RESIZED_CROP} <= set(names):
        raise OptionError("augment: crop shifts what resized-crop has cut out already; name one of them")
    return frozenset(names)
