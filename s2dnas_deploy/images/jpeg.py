"""JPEG decoded no larger than needed: what its file says of that, before any of it is decoded.

A decoder gets a half, a quarter or an eighth of a picture's size from the coefficients, at no loss of time
and with no larger picture in between. How much is enough was measured on 40 photos of ImageNet, against
decoding all and resizing by the same filter (mean absolute difference of a pixel, of 255):

    size left, of the size wanted     1.0    1.25   1.5    2.0    3.0
    difference                        2.1    1.3    0.9    0.6    0.25

One and a half times is left: an eighth of a photo of 12 megapixels then is enough for 224 pixels, and the
difference is less than saving the result as a JPEG of quality 95 makes (2.0).
"""

from typing import Any, BinaryIO

from PIL import ExifTags, Image, ImageFile

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.pixels import Box, InputFormat, covering

_REDUCTIONS = (1, 2, 4, 8)
_LEFT_OF_WANTED = 1.5
# Which way is up, as EXIF numbers it: with width and height exchanged, or with a side mirrored, once upright.
_ON_ITS_SIDE, _FROM_THE_RIGHT, _FROM_THE_BOTTOM = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)
_COEFFICIENT_BYTES = 2
_MOST_LAYERED_PIXELS = 3_000_000_000
_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def upright_size(image: Image.Image) -> tuple[int, int]:
    """The width and height of a JPEG that has not been turned yet."""
    width, height = image.size
    return (height, width) if _orientation(image) in _ON_ITS_SIDE else (width, height)


def reductions(size: tuple[float, float], wanted: InputFormat) -> list[int]:
    """By what a JPEG's sides are best divided as it is decoded, then what is still enough; ascending.

    `size` is that of what is looked at of it, upright.
    """
    if wanted.resize is None:
        return [1]
    width, height = size
    needed_width, needed_height = covering(size, wanted)
    left = {r: min(width / r / needed_width, height / r / needed_height) for r in _REDUCTIONS}
    best = max((r for r in _REDUCTIONS if left[r] >= _LEFT_OF_WANTED), default=1)
    return [r for r in _REDUCTIONS if r == best or (r > best and left[r] >= 1)]


def reduced(image: ImageFile.ImageFile, reduction: int) -> Box:
    """Have it decoded smaller, and return where the picture lies in what will come of it, once upright.

    Where the sides are no multiples of the reduction, pixels of the last column and row lie partly outside.
    """
    width, height = image.size
    image.draft(image.mode, (width // reduction, height // reduction))
    size = image.size
    outside = size[0] - width / reduction, size[1] - height / reduction
    orientation = _orientation(image)
    if orientation in _ON_ITS_SIDE:
        size, outside = size[::-1], outside[::-1]
    left = outside[0] if orientation in _FROM_THE_RIGHT else 0
    top = outside[1] if orientation in _FROM_THE_BOTTOM else 0
    return left, top, left + size[0] - outside[0], top + size[1] - outside[1]


def _orientation(image: Image.Image) -> Any:
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def coefficient_bytes(image: Image.Image, file: BinaryIO) -> int:
    """What is held until the last layer is there, whatever size a picture in layers is decoded at.

    Raises for more layers than anyone needs: each is gone over anew.
    """
    layers = 1 if _is_in_one_scan(image, file) else _layers_in(file)
    if layers * image.width * image.height > _MOST_LAYERED_PIXELS:
        raise DataError(f"{image.width}x{image.height} pixels in {layers:,} layers; save it anew, with fewer")
    if layers == 1:
        return 0
    # By how densely each colour is sampled.
    sampling = [(across, down) for _, across, down, _ in image.layer]  # type: ignore[attr-defined]
    densest = max(across for across, _ in sampling) * max(down for _, down in sampling)
    share = sum(across * down for across, down in sampling) / max(densest, 1)
    return int(_COEFFICIENT_BYTES * share * image.width * image.height)


def _is_in_one_scan(image: Image.Image, file: BinaryIO) -> bool:
    """Whether the decoder is done after the first scan: one of all colours, and not of a progressive file."""
    file.seek(_first_scan(file))
    start = file.read(5)
    return "progressive" not in image.info and start[4:] == bytes([image.layers])  # type: ignore[attr-defined]


def _layers_in(file: BinaryIO) -> int:
    """How often a JPEG's decoder has to go over the picture: its scans, without those of a thumbnail."""
    file.seek(_first_scan(file))
    layers, before = 0, b""
    while content := file.read(2**16):
        content = before + content
        end = content.find(_END_OF_IMAGE)
        layers += content.count(_START_OF_SCAN, 0, len(content) if end < 0 else end)
        if end >= 0:
            break
        before = content[-1:]
    return layers


def _first_scan(file: BinaryIO) -> int:
    """Where it begins, behind the segments that have a length."""
    at = 0
    while True:
        file.seek(at)
        start = file.read(4)
        if len(start) < 4 or start.startswith(_START_OF_SCAN):
            return at
        has_length = start[0] == 0xFF and start[1] not in (0, 1, 0xFF) and not 0xD0 <= start[1] <= 0xD9
        at += 2 + int.from_bytes(start[2:], "big") if has_length else 1
