"""Of what shape labelled images are, where nobody says: by their headers, before any is decoded."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.archive import SUFFIXES, ImageArchive
from s2dnas_deploy.images.listing import listed_in
from s2dnas_deploy.images.picture_file import shape_in
from s2dnas_deploy.quoting import shortened, shown
from s2dnas_deploy.workshop.data.cifar import cifar_folder
from s2dnas_deploy.workshop.data.folder import parts_of
from s2dnas_deploy.workshop.data.labelled import Shape
from s2dnas_deploy.workshop.data.load import no_source

MOST_LOOKED_AT = 256
_COLOURS = (1, 3)
_CIFAR, _DIGITS = (3, 32, 32), (1, 8, 8)
_LONGEST_LIST = 200
_GIVE = "give the network's own, for example --input 3x64x64"


def shape_of_images(source: str) -> Shape:
    """Channels, height and width of the images of a `source` as `load_images` takes it.

    Raises a `DataError` that says what to give instead, if they are not all alike.
    """
    if source == "digits":
        return _DIGITS
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return _CIFAR if cifar_folder(path) is not None else _of_folder(path)
    if path.is_file() and path.suffix.lower() in SUFFIXES:
        return _of_archive(path)
    raise no_source(source, path)


def _of_folder(root: Path) -> Shape:
    """The shape of all of a folder's pictures, going by some of them; the rest is checked when it is read."""
    pictures = listed_in(str(parts_of(root)["train"])).pictures
    chosen = pictures[:: max(1, math.ceil(len(pictures) / MOST_LOOKED_AT))]
    shapes = [shape for shape in map(shape_in, chosen) if shape is not None]
    sizes = Counter((height, width) for _, height, width in shapes)
    if not sizes:
        raise DataError(f"--input is not given, and {root} has no picture that tells it: {_GIVE}")
    if len(sizes) > 1:
        raise DataError(
            f"--input is not given, and the images of {root} are of {len(sizes)} sizes: {_listed(sizes)} of "
            f"{len(shapes)} looked at; {_GIVE}, with --resize crop or --resize stretch"
        )
    ((height, width),) = sizes
    return max(channels for channels, _, _ in shapes), height, width


def _listed(sizes: Counter[tuple[int, int]]) -> str:
    """Heights and widths, those of most images first."""
    told = (f"{height}x{width} ({count})" for (height, width), count in sizes.most_common(6))
    return shortened(", ".join(told), _LONGEST_LIST)


def _of_archive(path: Path) -> Shape:
    archive = ImageArchive(str(path))
    each = archive.part(archive.parts[0]).images.shape[1:]
    found = [(1, *each)] if len(each) == 2 else list(_with_colours(each))
    if len(found) != 1:
        raise DataError(
            f"--input is not given, and images of shape {shown(list(each))} in {path} do not tell which of "
            f"these are channels: {_GIVE}"
        )
    channels, height, width = found[0]
    return int(channels), int(height), int(width)


def _with_colours(each: Sequence[int]) -> set[Shape]:
    """The shapes that three numbers may mean, channels first or last, if images are grey or in colour."""
    first, middle, last = each
    ways = {(first, middle, last), (last, first, middle)}
    return {way for way in ways if way[0] in _COLOURS}
