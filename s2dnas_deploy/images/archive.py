"""Images and their labels from NumPy's own files, under whichever keys they are: for every command alike.

Place in the flow: a path ──▶ `ImageArchive` ──▶ `ArchivePart`s, as they were stored; to make images of a part
fit a network is another's work (`pixels`). The parts of an archive, and their keys:

| part | keys |
| --- | --- |
| train | x_train, y_train · train_images, train_labels · images, labels · x, y |
| val | x_val, y_val · val_images, val_labels |
| test | x_test, y_test · test_images, test_labels |
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.numpy_file import ArrayFileError, Arrays, Numbers, StoredRows, rows_in
from s2dnas_deploy.quoting import named_in_line, number_of, shown

SUFFIXES = (".npz", ".npy")
_Keys = tuple[str, str]
_PARTS: dict[str, tuple[_Keys, ...]] = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels"), ("images", "labels"), ("x", "y")),
    "val": (("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
JUDGED_BY = ("test", "val", "train")
"""Of these parts, the first that is there is run on and judged by."""
CALIBRATED_ON = ("val", "test", "train")
"""Thresholds that were chosen on the test images would be flattered by them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ArchivePart:
    """Images [N, ...] as they were stored, the number of each one's class if it is known, and their keys.

    Very many stay in their file, and are read when they are asked for.
    """

    images: Numbers
    labels: NDArray[np.int64] | None
    where: str
    """What messages call the images."""
    where_labels: str


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class StoredImage:
    """An image that stays in its archive until it is asked for."""

    rows: StoredRows
    place: int
    where: str

    def read(self) -> NDArray[Any]:
        """Its numbers, as they were stored."""
        try:
            return self.rows[self.place]
        except ArrayFileError as problem:
            raise DataError(f"{self.where}[{self.place}]: {problem}") from problem


def in_memory(numbers: Numbers) -> NDArray[Any]:
    """All of an array."""
    return numbers[:] if isinstance(numbers, StoredRows) else numbers


def each_of(part: ArchivePart) -> Iterator[NDArray[Any] | StoredImage]:
    """The images of a part, one by one: what is in memory, and where the others are."""
    if not isinstance(part.images, StoredRows):
        yield from part.images
        return
    for place in range(len(part.images)):
        yield StoredImage(rows=part.images, place=place, where=part.where)


class ImageArchive:
    """What an archive holds; a part is looked at when it is asked for, and another may be as it likes."""

    def __init__(self, path: str) -> None:
        self.where = named_in_line(path)
        with self._telling():
            self._arrays = rows_in(path)
        self._keys = self._keys_of(self._arrays)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that there are, of train, val and test."""
        return tuple(self._keys)

    def part(self, name: str) -> ArchivePart:
        """Return images and labels of a part that is there."""
        if not isinstance(self._arrays, Arrays):
            return self._checked(self._arrays, None, "", "")
        images, labels = self._keys[name]
        if images not in self._arrays:
            raise DataError(
                f"{self.where}: expected the keys {images!r} and {labels!r} together, got no {images!r}."
                " Save the images and their labels both."
            )
        with self._telling():
            return self._checked(self._arrays[images], self._arrays.get(labels), images, labels)

    def class_names(self) -> tuple[str, ...] | None:
        """Return the name of label k at position k; None if the archive does not say."""
        if not isinstance(self._arrays, Arrays) or "class_names" not in self._arrays:
            return None
        with self._telling():
            names = in_memory(self._arrays["class_names"])
        if names.ndim != 1 or names.dtype.kind != "U":
            raise DataError(
                f"{self.where}, 'class_names': expected text [K], got {names.dtype}"
                f" {shown(list(names.shape))}. Save np.array([...]) of plain strings."
            )
        return tuple(str(name) for name in names)

    def _keys_of(self, arrays: Numbers | Arrays[Numbers]) -> dict[str, _Keys]:
        """The keys of each part that is there."""
        if not isinstance(arrays, Arrays):
            return {"train": ("", "")}
        present = {
            part: [keys for keys in spelled if set(keys) & set(arrays)] for part, spelled in _PARTS.items()
        }
        twice = [name for name, found in present.items() if len(found) > 1]
        if twice or not any(present.values()):
            names = (twice or ["train"])[0]
            ways = ", ".join("/".join(keys) for keys in _PARTS[names])
            raise DataError(
                f"{self.where}: expected the images under one of {ways}, got the keys"
                f" {named_in_line(', '.join(arrays)) or '(none)'}. Save them under one of these."
            )
        return {part: found[0] for part, found in present.items() if found}

    def _checked(
        self, images: Numbers, labels: Numbers | None, images_key: str, labels_key: str
    ) -> ArchivePart:
        where, where_labels = (
            f"{self.where}, {key!r}" if key else self.where for key in (images_key, labels_key)
        )
        if images.ndim not in (3, 4) or not images.size:
            raise DataError(
                f"{where}: expected images as [N, H, W], [N, H, W, C] or [N, C, H, W],"
                f" got {images.dtype} {shown(list(images.shape))}."
            )
        numbers = None if labels is None else _numbers(in_memory(labels), len(images), where_labels)
        return ArchivePart(images=images, labels=numbers, where=where, where_labels=where_labels)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except ArrayFileError as problem:
            raise DataError(
                f"{self.where}: expected a NumPy archive of plain arrays, got: {problem}."
                " Write it anew with np.savez(path, images=..., labels=...)."
            ) from problem


def _numbers(labels: NDArray[Any], count: int, where: str) -> NDArray[np.int64]:
    """Labels [N] that count the classes from 0."""
    if labels.ndim == 2 and labels.shape[1] == 1:  # as some data sets have them
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected labels as integers [N], counted from 0, got {labels.dtype}"
            f" {shown(list(labels.shape))}. Save the number of each image's class."
        )
    if len(labels) != count:
        raise DataError(
            f"{where}: expected one label for each image, got {number_of(count, 'image')}, "
            f"{number_of(len(labels), 'label')}"
        )
    beyond = (labels < 0) | (labels >= 2**62)
    if beyond.any():
        at = int(beyond.argmax())
        raise DataError(f"{where}: expected labels from 0, got {labels[at]} at image {at}.")
    return labels.astype(np.int64)
