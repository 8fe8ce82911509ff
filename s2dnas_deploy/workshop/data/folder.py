"""Labelled images from a folder of classes: the folder's name is the label."""

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from s2dnas_deploy.errors import DataError, UnreadableError
from s2dnas_deploy.images.listing import PART_NAMES, folders_in, listed_in
from s2dnas_deploy.images.picture_file import OtherSizeError, planes_in
from s2dnas_deploy.images.pixels import SUFFIXES, InputFormat, Pixels, require_picture_channels
from s2dnas_deploy.workshop.data.parallel import work_in_chunks
from s2dnas_deploy.workshop.data.splits import (
    Fill,
    Index,
    OnRead,
    UnreadImages,
    UnreadSplits,
    listed,
)

# Folders of these names alone are parts under another name, hardly ever classes.
_PART_LIKE = frozenset({"train", "training", "val", "valid", "validation", "dev", "test", "testing"})


def find_folder(root: Path, wanted: InputFormat) -> UnreadSplits:
    """Return the images of DIR/CLASS/... or DIR/train/CLASS/..., with val and test if they are there."""
    require_picture_channels(wanted, where=str(root))
    parts = parts_of(root)
    train_root = parts.get("train", root)
    class_names = tuple(folder.name for folder in _class_folders(train_root))
    files = {name: _files_of(folder, class_names, train_root) for name, folder in parts.items()}
    _require_no_empty_class(files["train"], train_root)
    unread = {name: _unread(by_class, wanted) for name, by_class in files.items()}
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


def _unread(files: dict[str, list[str]], wanted: InputFormat) -> UnreadImages:
    paths = [path for of_class in files.values() for path in of_class]
    labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files.values()])
    return UnreadImages(labels=labels, positions=np.arange(len(paths)), fill=_fill_from(paths, wanted))


@dataclass(frozen=True, kw_only=True)
class _Faults:
    """What kept images from being used: (file, height, width) of another size, (file, reason) unreadable."""

    misfits: list[tuple[str, int, int]] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def _fill_from(paths: list[str], wanted: InputFormat) -> Fill:
    def fill(positions: Index, out: Pixels, on_read: OnRead) -> None:
        unreadable: list[tuple[str, str]] = []

        def decode(rows: range) -> _Faults:
            faults = _Faults()
            for row in rows:
                _decode(paths[positions[row]], out[row], wanted, faults)
            return faults

        def note(rows: range, faults: _Faults) -> None:
            if faults.misfits:
                path, height, width = faults.misfits[0]
                how_many = (
                    f"{len(faults.misfits)} of {len(rows)} images looked at are not of the expected size"
                )
                raise wanted.refusal(height, width, where=path, how_many=how_many)
            unreadable.extend(faults.unreadable)
            on_read(len(rows))

        work_in_chunks(len(positions), decode, note)
        if unreadable:
            raise UnreadableError(unreadable)

    return fill


def _decode(path: str, out: Pixels, wanted: InputFormat, faults: _Faults) -> None:
    """Decode one file into `out` [C, H, W], or say in `faults` why not."""
    try:
        out[:] = planes_in(path, wanted)
    except OtherSizeError as found:
        faults.misfits.append((path, found.height, found.width))
    except DataError as problem:
        faults.unreadable.append((path, str(problem)))
