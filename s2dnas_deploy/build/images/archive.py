"""Labelled images from a NumPy archive (`.npz`), read without pickle."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from s2dnas_deploy.build.images.arrays import array_images
from s2dnas_deploy.build.images.splits import Index, UnreadImages, UnreadSplits
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.files.numpy_file import ArrayFileError, Arrays, arrays_in
from s2dnas_deploy.images.pixels import InputFormat, as_planes
from s2dnas_deploy.quoting import named_in_line

_TRAIN_KEYS = (("x_train", "y_train"), ("images", "labels"), ("x", "y"))


def find_archive(path: Path, wanted: InputFormat) -> UnreadSplits:
    """Return the images of the archive under the keys it uses."""
    try:
        arrays = arrays_in(path)
        if isinstance(arrays, np.ndarray):
            raise ArrayFileError("a single array")
        return _splits_in(arrays, wanted, path)
    except ArrayFileError as problem:
        raise DataError(
            f"{path}: expected a NumPy archive of plain arrays (no Python objects), got: {problem}."
            " Write it anew with np.savez(path, x_train=..., y_train=...)."
        ) from problem


def _splits_in(arrays: Arrays, wanted: InputFormat, path: Path) -> UnreadSplits:
    train_keys = _train_keys(arrays, path)
    parts = [
        _part(arrays, keys, wanted, path) for keys in (train_keys, ("x_val", "y_val"), ("x_test", "y_test"))
    ]
    train, val, test = parts
    if train is None:
        raise DataError(f"{path}: expected images to train on, got none under {train_keys[0]!r}")
    class_names = _class_names(arrays, train.labels, path)
    for key, part in (("y_val", val), ("y_test", test), (train_keys[1], train)):
        _require_labels_below(len(class_names), part, where=f"{path}, {key!r}")
    return UnreadSplits(train=train, val=val, test=test, class_names=class_names, where=str(path))


def _train_keys(arrays: Arrays, path: Path) -> tuple[str, str]:
    present = [keys for keys in _TRAIN_KEYS if set(keys) & set(arrays)]
    if len(present) != 1:
        raise DataError(
            f"{path}: expected the images to train on under one of"
            f" {', '.join('/'.join(keys) for keys in _TRAIN_KEYS)}, got the keys"
            f" {named_in_line(', '.join(arrays)) or '(none)'}. Save them under one of these."
        )
    return present[0]


def _part(arrays: Arrays, keys: tuple[str, str], wanted: InputFormat, path: Path) -> UnreadImages | None:
    missing = [key for key in keys if key not in arrays]
    if len(missing) == 2:
        return None
    if missing:
        raise DataError(
            f"{path}: expected the keys {keys[0]!r} and {keys[1]!r} together, got no {missing[0]!r}."
            " Save the images and their labels both."
        )
    images = as_planes(arrays[keys[0]], wanted, where=f"{path}, {keys[0]!r}")
    labels = _labels(arrays[keys[1]], where=f"{path}, {keys[1]!r}")
    return array_images(images, labels, wanted, where=f"{path}, {keys[0]!r}")


def _labels(labels: NDArray[Any], *, where: str) -> Index:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"{where}: expected labels as integers [N], counted from 0, got {labels.dtype}"
            f" {list(labels.shape)}. Save the number of each image's class."
        )
    return labels.astype(np.int64)


def _class_names(arrays: Arrays, labels: Index, path: Path) -> tuple[str, ...]:
    if "class_names" not in arrays:
        highest = int(labels.max())
        if highest >= len(labels):
            raise DataError(
                f"{path}: expected labels 0 to K-1 with at least one image each, got the label {highest}"
                f" among {len(labels)} images. Number the classes from 0, without gaps."
            )
        return tuple(str(label) for label in range(highest + 1))
    names = arrays["class_names"]
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"{path}, 'class_names': expected text [K], got {names.dtype} {list(names.shape)}."
            " Save np.array([...]) of plain strings."
        )
    return tuple(str(name) for name in names)


def _require_labels_below(classes: int, part: UnreadImages | None, *, where: str) -> None:
    if part is None:
        return
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{where}: expected labels 0 to {classes - 1}, one for each class to train on,"
            f" got {low} to {high}. Number the classes from 0, alike in every part."
        )
