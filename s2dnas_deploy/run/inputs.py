"""What a person names on the command line, as single images: folders, files, patterns, archives, a list.

Place in the flow: places ──▶ `Item`s, in an order that depends on names only ──▶ `bulk`. Opens no picture,
except to tell whether a file without a picture's ending is one.
"""

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.numpy_file import ArrayFileError, Arrays, arrays_in
from s2dnas_deploy.images.picture_file import is_picture
from s2dnas_deploy.images.pixels import SUFFIXES
from s2dnas_deploy.quoting import named_in_line, shortened, shown

ARCHIVES = (".npz", ".npy")
_NETWORKS = (".pt", ".pth", ".th", ".onnx", ".safetensors")
_LONGEST_NAME = 2**16  # bytes; Linux takes 4096
# Each is an item of some 300 bytes, so that an archive of single pixels would take 300 times its size.
_MOST_IMAGES = 1_000_000
_IMAGE_KEYS = ("images", "x", "x_test", "x_val", "x_train")
_LABEL_KEYS = ("labels", "y", "y_test", "y_val", "y_train")


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its name in the output, where its pixels are, and its true class if that is known.

    An archive that cannot be read is one item, whose source says why.
    """

    name: str
    source: str | npt.NDArray[Any] | DataError
    truth: str | None = None


@dataclass(frozen=True, kw_only=True)
class Items:
    """All images that were found, and how many other files were passed over in folders."""

    images: tuple[Item, ...]
    passed_over: int = 0

    def __len__(self) -> int:
        return len(self.images)


def find_items(places: Sequence[str], labels: Sequence[str], listed: Iterable[str] = ()) -> Items:
    """Every image of the places, and of the list that a place `-` stands for; raise if there is none.

    The true class of a file is the name of the nearest folder around it that is one of `labels`.
    """
    classes = frozenset(labels)
    found: list[Item] = []
    passed_over = 0
    for place in places:
        for each in [line for line in listed if line] if place == "-" else _expanded(place):
            if os.path.isdir(each):
                paths, others = _in_folder(each)
                found += [_file(path, classes) for path in paths]
                passed_over += others
            elif each.lower().endswith(ARCHIVES):
                try:
                    found += _in_archive(each, labels)
                except DataError as problem:
                    found.append(Item(name=each, source=problem))
            else:
                if place != "-":
                    _check_may_be_image(each)
                found.append(_file(each, classes))
    if not found:
        raise _nothing_in(places)
    return Items(images=tuple(found), passed_over=passed_over)


def listed_on(stdin: BinaryIO) -> tuple[str, ...]:
    """Names of files, one a line, in whatever bytes the file system knows them by."""
    names: list[str] = []
    try:
        while line := stdin.readline(_LONGEST_NAME):
            if len(line) == _LONGEST_NAME or b"\0" in line:
                raise DataError(
                    f"stdin: expected the name of a file or folder on each line, got {shown(line)} in line "
                    f"{len(names) + 1}; `find` without -print0 writes such a list"
                )
            names.append(os.fsdecode(line.rstrip(b"\r\n")))
    except OSError as problem:
        raise DataError(f"stdin cannot be read: {problem.strerror}") from problem
    return tuple(names)


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many, as far from each other as can be."""
    return [items[i] for i in np.linspace(0, len(items) - 1, min(most, len(items))).astype(int)]


def truth_of(items: Sequence[Item], labels: Sequence[str]) -> npt.NDArray[np.int64] | None:
    """The true classes as numbers; None unless all are known."""
    numbers: dict[str | None, int] = {name: i for i, name in enumerate(labels)}
    if any(item.truth is None for item in items):
        return None
    return np.array([numbers[item.truth] for item in items], np.int64)


def _nothing_in(places: Sequence[str]) -> DataError:
    if list(places) == ["-"]:
        return DataError("no names came on stdin; expected the name of a file or folder on each line")
    archives = [
        named_in_line(str(path))
        for place in places
        for path in sorted(Path(place).glob("*"))
        if path.name.lower().endswith(ARCHIVES)
    ]
    named = f"; archives must be named themselves: {', '.join(archives[:3])}" if archives else ""
    return DataError(
        f"{shortened(', '.join(map(named_in_line, places)), 500)}: no images there; expected files of "
        f"{', '.join(SUFFIXES)}, folders of them, or NumPy archives with images in them{named}"
    )


def _check_may_be_image(place: str) -> None:
    """What was typed by hand and can be no image is a mistake, not an image that is missing."""
    if place.lower().endswith(_NETWORKS):
        raise DataError(f"{place}: a network, not images; s2dnas-export makes a bundle of it, for --bundle")
    if not os.path.lexists(place) and not place.lower().endswith(SUFFIXES):
        raise DataError(f"{named_in_line(place)}: no such file or folder")


def _expanded(place: str) -> list[str]:
    """A place as it is, if it is there; else what it matches as a pattern."""
    if os.path.lexists(place) or not glob.has_magic(place):
        return [place]
    found = sorted(glob.glob(place, recursive=True))
    if not found:
        raise DataError(f"{named_in_line(place)}: no file matches")
    return found


def _in_folder(folder: str) -> tuple[list[str], int]:
    """The pictures in a folder and in those below, and how many files are none. Links are followed, once."""
    pictures, others = [], 0
    seen = {os.path.realpath(folder)}
    for place, folders, names in os.walk(folder, onerror=_refuse_unlisted, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in list(folders):
            real = os.path.realpath(os.path.join(place, name))
            if real in seen:
                folders.remove(name)
            seen.add(real)
        for name in sorted(names):
            path = os.path.join(place, name)
            if name.startswith("."):
                others += 1
            elif name.lower().endswith(SUFFIXES) or (os.path.isfile(path) and is_picture(path)):
                pictures.append(path)
            else:
                others += 1
    return pictures, others


def _file(path: str, classes: frozenset[str]) -> Item:
    around = reversed(Path(path).parts[:-1])
    return Item(name=path, source=path, truth=next((part for part in around if part in classes), None))


def _in_archive(path: str, labels: Sequence[str]) -> list[Item]:
    """The images of a .npy file or of a .npz archive, named PATH[0], PATH[1] and so on."""
    images, truth = _arrays_in(path)
    where = named_in_line(path)
    if truth is not None and truth.shape == (len(images), 1):  # as some data sets have it
        truth = truth[:, 0]
    if truth is not None and (truth.shape != (len(images),) or truth.dtype.kind not in "iu"):
        raise DataError(
            f"{where}: expected a whole number as the label of each of {len(images)} images, "
            f"got {truth.dtype} {shown(list(truth.shape))}"
        )
    numbers = [None] * len(images) if truth is None else truth.tolist()
    for i, label in enumerate(numbers):
        if label is not None and not 0 <= label < len(labels):
            raise DataError(f"{where}: expected labels from 0 to {len(labels) - 1}, got {label} at image {i}")
    return [
        Item(name=f"{path}[{i}]", source=image, truth=None if label is None else labels[label])
        for i, (image, label) in enumerate(zip(images, numbers, strict=True))
    ]


def _arrays_in(path: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    where = named_in_line(path)
    try:
        arrays = arrays_in(path)
        images, labels = (arrays, None) if isinstance(arrays, np.ndarray) else _parts_of(arrays, where)
    except ArrayFileError as problem:
        raise DataError(f"{where}: expected a NumPy archive of plain arrays, got: {problem}") from problem
    if images.ndim not in (3, 4) or not images.size:
        raise DataError(
            f"{where}: expected images as [N, H, W], [N, H, W, C] or [N, C, H, W], "
            f"got {images.dtype} {shown(list(images.shape))}"
        )
    if len(images) > _MOST_IMAGES:
        raise DataError(
            f"{where}: expected at most {_MOST_IMAGES:,} images, got {len(images):,}; save them in parts"
        )
    return images, labels


def _parts_of(arrays: Arrays, where: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    present = [key for key in _IMAGE_KEYS if key in arrays]
    if len(present) != 1:
        raise DataError(
            f"{where}: expected the images under exactly one of {', '.join(_IMAGE_KEYS)}, "
            f"got the keys {named_in_line(', '.join(arrays)) or '(none)'}"
        )
    labels = arrays.get(_LABEL_KEYS[_IMAGE_KEYS.index(present[0])])
    return arrays[present[0]], labels


def _refuse_unlisted(problem: OSError) -> None:
    """Raise, for to pass over a folder that cannot be listed would be to lose images silently."""
    raise DataError(
        f"{named_in_line(str(problem.filename))}: cannot be listed: {problem.strerror}"
    ) from problem
