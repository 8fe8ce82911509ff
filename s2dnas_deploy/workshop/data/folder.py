"""Labelled images from a folder of classes: the folder's name is the label."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from s2dnas_deploy.errors import DataError, UnreadableError
from s2dnas_deploy.images.listing import PART_NAMES, folders_in, listed_in
from s2dnas_deploy.images.picture_file import OtherSizeError, has_alpha, planes_in, shape_in
from s2dnas_deploy.images.pixels import SUFFIXES, InputFormat, Part, Pixels, require_picture_channels
from s2dnas_deploy.quoting import in_a_line
from s2dnas_deploy.workshop.data.splits import Index, UnreadImages, UnreadSplits, listed

# Folders of these names alone are parts under another name, hardly ever classes.
_PART_LIKE = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})

_LOOKED_AT_FOR_ALPHA = 100


def find_folder(root: Path, wanted: InputFormat) -> UnreadSplits:
    """Return the images of DIR/CLASS/... or DIR/train/CLASS/..., with val and test if they are there."""
    require_picture_channels(wanted, where=str(root))
    parts = parts_of(root)
    train_root = parts.get("train", root)
    class_names = tuple(folder.name for folder in _class_folders(train_root))
    files = {name: _files_of(folder, class_names, train_root) for name, folder in parts.items()}
    _require_no_empty_class(files["train"], train_root)
    unread = {name: _unread(by_class, wanted, parts[name]) for name, by_class in files.items()}
    for name, part in unread.items():
        if not len(part):
            raise DataError(
                f"{parts[name]}: expected images in class folders, got none. Remove it, or fill it."
            )
    return UnreadSplits(
        train=unread["train"],
        val=unread.get("val"),
        test=unread.get("test"),
        class_names=class_names,
        where=str(train_root),
    )


def parts_of(root: Path) -> dict[str, Path]:
    """Return the folder of each part there is; the whole folder is for training if it is not divided."""
    folders = folders_in(root)
    named = {part: [f for f in folders if f.name.lower() in names] for part, names in PART_NAMES.items()}
    # A folder `train` of pictures among other classes is the class of trains.
    if any(folders_in(train) for train in named["train"]):
        for part, found in named.items():
            if len(found) > 1:
                raise DataError(
                    f"{root}: expected one folder of {part} images, got {listed([f.name for f in found])}."
                    " Merge them, or move one away."
                )
        return {part: found[0] for part, found in named.items() if found}
    if folders and all(folder.name.lower() in _PART_LIKE for folder in folders):
        raise DataError(
            f"{root}: expected class folders, or a folder `train` that has class folders (and optionally"
            f" `val` and `test` beside it), got {listed([f.name for f in folders])}."
            " Sort the images into train/CLASS/."
        )
    return {"train": root}


def _class_folders(root: Path) -> list[Path]:
    folders = folders_in(root)
    if folders:
        return folders
    loose = len(listed_in(str(root)).pictures)
    got = f"{loose:,} images directly in it and no class folders" if loose else "no folders in it"
    raise DataError(
        f"{root}: expected one folder per class ({root.name}/CLASS/*.jpg), got {got}."
        " Sort the images into folders named after their classes."
    )


def _files_of(part_root: Path, class_names: tuple[str, ...], train_root: Path) -> dict[str, list[str]]:
    """Return the image files of each class, in an order that depends on their names only."""
    unknown = sorted({folder.name for folder in _class_folders(part_root)} - set(class_names))
    if unknown:
        raise DataError(
            f"{part_root}: expected only classes that {train_root} has, got {listed(unknown)} as well."
            " Remove these folders, or add images of these classes to train on."
        )
    files: dict[str, list[str]] = {name: [] for name in class_names}
    before = len(os.path.join(part_root, ""))
    for path in listed_in(str(part_root)).pictures:
        name, is_below, _ = path[before:].partition(os.sep)
        if is_below:
            files[name].append(path)
    return files


def _require_no_empty_class(files: dict[str, list[str]], train_root: Path) -> None:
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        raise DataError(
            f"{train_root}: expected at least one image ({', '.join(SUFFIXES)}) in every class folder,"
            f" got none in {listed(empty)}. Add images, or remove these folders."
        )


def _unread(files: dict[str, list[str]], wanted: InputFormat, root: Path) -> UnreadImages:
    paths = [path for of_class in files.values() for path in of_class]
    labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])
    return UnreadImages(
        labels=labels,
        positions=np.arange(len(paths)),
        source=PictureFiles(root=str(root), paths=Names.of(paths, below=str(root)), wanted=wanted),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Names:
    """Names without an object for each: a million take as many bytes as they have letters."""

    text: bytes
    ends: Index
    """[N]: where each ends in the text"""

    @classmethod
    def of(cls, paths: Sequence[str], *, below: str) -> "Names":
        """What these paths are called below a folder, in their order."""
        start = len(os.path.join(below, ""))
        encoded = [os.fsencode(path[start:]) for path in paths]
        return cls(text=b"".join(encoded), ends=np.cumsum([len(each) for each in encoded], dtype=np.int64))

    def __getitem__(self, position: int) -> str:
        start = int(self.ends[position - 1]) if position else 0
        return os.fsdecode(self.text[start : int(self.ends[position])])


@dataclass(frozen=True, kw_only=True, eq=False)
class PictureFiles:
    """Image files below a folder as a source of pixels."""

    root: str
    paths: Names
    wanted: InputFormat

    def path(self, position: int) -> str:
        """Where an image is."""
        return os.path.join(self.root, self.paths[position])

    def decode(self, positions: Index, out: Pixels, parts: Sequence[Part] | None = None) -> None:
        """As a `PixelSource`, or a part of each image in the network's size.

        Raises if any image is of a size that the network does not take.
        """
        found = _Faults(self.wanted)
        for row, position in enumerate(positions):
            path = self.path(position)
            with found.noted(path):
                out[row] = planes_in(path, self.wanted) if parts is None else self._part(path, parts[row])
        found.tell(len(positions))

    def _part(self, path: str, part: Part) -> Pixels:
        """A part of an image in the network's size, whatever its proportions are."""
        return planes_in(path, replace(self.wanted, resize="stretch"), part)

    def look(self, positions: Index) -> None:
        """Raise as `decode` would, going by what each file says of itself before its pixels."""
        found = _Faults(self.wanted)
        for position in positions:
            path = self.path(position)
            shape = shape_in(path)
            if shape is None or not self.wanted.admits(*shape[1:]):
                with found.noted(path):
                    planes_in(path, self.wanted)  # which says why
        found.tell(len(positions))

    def have_alpha(self, positions: Index) -> bool:
        """Whether some have an alpha channel, going by the headers of a hundred at the most."""
        looked_at = positions[:: max(1, math.ceil(len(positions) / _LOOKED_AT_FOR_ALPHA))]
        return any(has_alpha(self.path(position)) for position in looked_at)

    def fingerprint(self, positions: Index) -> Iterator[bytes]:
        """What tells files apart without reading them: their names below the folder, and their sizes."""
        for position in positions:
            try:
                size = os.stat(self.path(position)).st_size
            except OSError as problem:
                reason = problem.strerror or in_a_line(problem)
                raise UnreadableError([(self.path(position), reason)]) from problem
            yield os.fsencode(f"{self.paths[position]}\0{size}\0")


class _Faults:
    """What kept images from being used: of another size, or unreadable."""

    def __init__(self, wanted: InputFormat) -> None:
        self._wanted = wanted
        self._misfits: list[tuple[str, OtherSizeError]] = []
        self._unreadable: list[tuple[str, str]] = []

    @contextmanager
    def noted(self, path: str) -> Iterator[None]:
        """Go on after an image that cannot be used."""
        try:
            yield
        except OtherSizeError as found:
            self._misfits.append((path, found))
        except DataError as problem:
            self._unreadable.append((path, str(problem)))

    def tell(self, looked_at: int) -> None:
        """Raise if there were any."""
        if self._misfits:
            path, first = self._misfits[0]
            how_many = f"{len(self._misfits)} of {looked_at} images looked at are not of the expected size"
            raise self._wanted.refusal(first.height, first.width, where=path, how_many=how_many)
        if self._unreadable:
            raise UnreadableError(self._unreadable)
