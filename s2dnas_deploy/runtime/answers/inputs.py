"""What a person names on the command line, as single images: folders, files, patterns, archives, a list.

Place in the flow: places ──▶ `Item`s, in an order that depends on names only ──▶ `bulk`. Opens no picture,
except to tell whether a file without a picture's ending is one.
"""

import glob
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.archive import JUDGED_BY, ArchivePart, ImageArchive, StoredImage, each_of
from s2dnas_deploy.images.archive import SUFFIXES as ARCHIVES
from s2dnas_deploy.images.listing import class_of, listed_in
from s2dnas_deploy.images.pixels import SUFFIXES
from s2dnas_deploy.quoting import named_in_line, shortened, shown
from s2dnas_deploy.reporter import Reporter

_ARCHIVE = re.compile(r"(?P<path>.*\.np[yz])(:(?P<part>train|val|test))?", re.IGNORECASE | re.DOTALL)
_NETWORKS = (".pt", ".pth", ".th", ".onnx", ".safetensors")
_LONGEST_NAME = 2**16  # bytes; Linux takes 4096
# Each is an item of some 300 bytes, so that an archive of single pixels would take 300 times its size.
_MOST_IMAGES = 1_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its name in the output, where its pixels are, and its true class if that is known.

    An archive that cannot be read is one item, whose source says why.
    """

    name: str
    source: str | npt.NDArray[Any] | StoredImage | DataError
    truth: str | None = None


@dataclass(frozen=True, kw_only=True)
class Items:
    """All images that were found, and what a person should know of that."""

    images: tuple[Item, ...]
    notes: tuple[str, ...] = ()


def find_items(
    places: Sequence[str],
    labels: Sequence[str],
    listed: Iterable[str] = (),
    *,
    parts: Sequence[str] = JUDGED_BY,
) -> Items:
    """Every image of the places, and of the list that a place `-` stands for; raise if there is none.

    Of an archive's `parts`, the first that is there is taken, unless the place names one: `data.npz:val`.
    The true class of a file is the name of a folder around it that is one of `labels`, see `class_of`.
    """
    classes = frozenset(labels)
    found: list[Item] = []
    notes: list[str] = []
    passed_over = 0
    for place in places:
        for each in [line for line in listed if line] if place == "-" else _expanded(place):
            if os.path.isdir(each):
                items, others = _in_folder(each, classes)
                found += items
                passed_over += others
            elif named := _ARCHIVE.fullmatch(each):
                try:
                    items, note = _in_archive(
                        each, named["path"], (named["part"].lower(),) if named["part"] else parts, labels
                    )
                except DataError as problem:
                    items, note = [Item(name=each, source=problem)], None
                found += items
                notes += [note] if note else []
            else:
                if place != "-":
                    _check_may_be_image(each)
                found.append(_file(each, classes))
    if not found:
        raise _nothing_in(places)
    if passed_over:
        notes.append(f"files that are no images, passed over: {passed_over}")
    return Items(images=tuple(found), notes=tuple(notes))


def announced(items: Items, reporter: Reporter) -> tuple[Item, ...]:
    """The images, once a person has been told what there is to say of them."""
    for note in items.notes:
        reporter.say(note)
    return items.images


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


def _in_folder(folder: str, classes: frozenset[str]) -> tuple[list[Item], int]:
    """The pictures in a folder and in those below, and how many files are none."""
    listing = listed_in(folder)
    before, around = len(os.path.join(folder, "")), Path(folder).parts
    items = [
        Item(name=path, source=path, truth=class_of(path[before:].split(os.sep)[:-1], around, classes))
        for path in listing.pictures
    ]
    return items, listing.passed_over


def _file(path: str, classes: frozenset[str]) -> Item:
    return Item(name=path, source=path, truth=class_of((), Path(path).parts[:-1], classes))


def _in_archive(
    place: str, path: str, parts: Sequence[str], labels: Sequence[str]
) -> tuple[list[Item], str | None]:
    """The images of a .npy file or of a part of an .npz archive, named PLACE[0], PLACE[1] and so on.

    And a word on which part it is, where there are others.
    """
    archive = ImageArchive(path)
    name = next((name for name in parts if name in archive.parts), None)
    if name is None:
        raise DataError(f"{archive.where}: expected a part {parts[0]!r}, got only {', '.join(archive.parts)}")
    part = archive.part(name)
    if len(part.images) > _MOST_IMAGES:
        raise DataError(
            f"{part.where}: expected at most {_MOST_IMAGES:,} images, got {len(part.images):,}; "
            "save them in parts"
        )
    truths = _truths(archive, part, labels)
    items = [
        Item(name=f"{place}[{i}]", source=image, truth=truth)
        for i, (image, truth) in enumerate(zip(each_of(part), truths, strict=True))
    ]
    others = [f"{archive.where}:{other}" for other in archive.parts if other != name]
    if len(parts) == 1 or not others:
        return items, None
    return items, f"{archive.where}: its {name} images are taken; the others are {', '.join(others)}"


def _truths(archive: ImageArchive, part: ArchivePart, labels: Sequence[str]) -> Sequence[str | None]:
    """The true class of each image: by its name, where the archive names its classes, else by its number."""
    if part.labels is None:
        return [None] * len(part.images)
    names = archive.class_names()
    unknown = sorted(set(names or ()) - set(labels))
    if unknown:
        raise DataError(
            f"{archive.where}, 'class_names': expected classes that the bundle knows, got {shown(unknown)}."
            " Save the archive without 'class_names' if its labels number the bundle's classes."
        )
    names = names or tuple(labels)
    if int(part.labels.max()) >= len(names):
        at = int(part.labels.argmax())
        raise DataError(
            f"{part.where_labels}: expected labels from 0 to {len(names) - 1}, "
            f"got {part.labels[at]} at image {at}"
        )
    return [names[label] for label in part.labels]
