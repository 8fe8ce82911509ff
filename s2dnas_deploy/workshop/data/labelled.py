"""What training is handed: images, their labels, and a digest that says two runs saw the same data."""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from s2dnas_deploy.errors import DataError
from s2dnas_deploy.quoting import number_of
from s2dnas_deploy.workshop.data.folder import PictureFiles
from s2dnas_deploy.workshop.data.parallel import read_all
from s2dnas_deploy.workshop.data.splits import Index

Shape = tuple[int, int, int]
"""Channels, height and width."""
_ALL = slice(None)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagesOnDisk:
    """Images [N, C, H, W] that stay where they were found, and are decoded anew each time they are read."""

    files: PictureFiles
    positions: Index
    image_shape: Shape

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As if they were in memory."""
        return (len(self.positions), *self.image_shape)

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Decode the images at `rows` (int64 [M], or bool [N]), uint8 [M, C, H, W]."""
        positions = self.positions[rows.numpy()]
        pixels = np.empty((len(positions), *self.image_shape), np.uint8)
        read_all(self.files, positions, pixels)
        return torch.from_numpy(pixels)


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """Images as they were stored, not normalised, each with the number of its class."""

    images: Tensor | ImagesOnDisk
    """uint8 [N, C, H, W]"""
    labels: Tensor
    """int64 [N]"""

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and (self.images.dtype != torch.uint8 or self.images.ndim != 4):
            raise DataError(f"expected images as uint8 [N, C, H, W], got {_described(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise DataError(f"expected labels as int64 [N], got {_described(self.labels)}")
        if self.images.shape[0] != len(self.labels):
            raise DataError(
                f"expected one label for each image, got {number_of(self.images.shape[0], 'image')}"
                f" and {number_of(len(self.labels), 'label')}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> Shape:
        """Channels, height and width."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def read(self, rows: Tensor | slice = _ALL) -> Tensor:
        """Return the images at `rows` (int64 [M], bool [N] or a slice), uint8 [M, C, H, W]."""
        return self.images[torch.arange(len(self))[rows] if isinstance(rows, slice) else rows]

    def select(self, index: Tensor) -> "LabelledImages":
        """Return the images at `index` (int64 [M], or bool [N]), with their labels, where they are."""
        images = self.images
        if isinstance(images, ImagesOnDisk):
            chosen: Tensor | ImagesOnDisk = replace(images, positions=images.positions[index.numpy()])
        else:
            chosen = images[index]
        return LabelledImages(images=chosen, labels=self.labels[index])

    def evenly(self, count: int) -> "LabelledImages":
        """Return at most `count` images, evenly spread over the set."""
        if len(self) <= count:
            return self
        return self.select(self.spread(count))

    def spread(self, count: int) -> Tensor:
        """Return `count` positions, evenly spread over the set."""
        return torch.linspace(0, len(self) - 1, count).long()

    def in_memory(self) -> "LabelledImages":
        """The same, decoded once: for few images that are read again and again."""
        if isinstance(self.images, Tensor):
            return self
        return LabelledImages(images=self.read(), labels=self.labels)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSplits:
    """Images to train on, to choose by, and to be judged by."""

    train: LabelledImages
    val: LabelledImages
    test: LabelledImages | None
    """None: the data has none; never made up."""
    class_names: tuple[str, ...]
    """The name of label k at position k."""
    digest: str
    """SHA-256 over images, labels and class names (`digest_of`): says that two runs saw the same data."""
    val_is_split_off: bool = False
    """The data has no images to choose by; these are some of those to train on."""
    have_alpha: bool = False
    """Some pictures say that they are transparent in places."""

    @property
    def are_on_disk(self) -> bool:
        """Whether images are decoded as they are needed."""
        return isinstance(self.train.images, ImagesOnDisk)

    def __post_init__(self) -> None:
        for part in (self.train, self.val, self.test):
            if part is None:
                continue
            if part.image_shape != self.train.image_shape:
                raise DataError(
                    f"expected every image to be {list(self.train.image_shape)} like those to train on,"
                    f" got {list(part.image_shape)}"
                )
            if len(part) and not 0 <= int(part.labels.min()) <= int(part.labels.max()) < len(
                self.class_names
            ):
                raise DataError(
                    f"expected labels 0 to {len(self.class_names) - 1}, one for each class name, got"
                    f" {int(part.labels.min())} to {int(part.labels.max())}"
                )


def digest_of(
    *,
    train: LabelledImages,
    val: LabelledImages,
    test: LabelledImages | None,
    class_names: tuple[str, ...],
) -> str:
    """Return the SHA-256, in hex, over everything that tells one set of splits from another.

    Of images in memory that is every pixel; of those on disk the names and sizes of their files.
    """
    sha = hashlib.sha256()
    sha.update(json.dumps(class_names).encode())
    for name, part in (("train", train), ("val", val), ("test", test)):
        if part is None:
            continue
        # The shape goes in as well: the same bytes could be cut into other images or other parts.
        sha.update(json.dumps([name, list(part.images.shape)]).encode())
        if isinstance(part.images, ImagesOnDisk):
            for told in part.images.files.fingerprint(part.images.positions):
                sha.update(told)
        else:
            sha.update(_bytes_of(part.images))
        sha.update(_bytes_of(part.labels))
    return sha.hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    """The tensor's values as one flat run of bytes, with no copy (little-endian, as on every device here)."""
    flat: NDArray[Any] = tensor.contiguous().numpy().reshape(-1)
    return flat.view(np.uint8).data


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
