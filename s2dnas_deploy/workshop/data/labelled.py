"""What training is handed: images, their labels, and a digest that says two runs saw the same data."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from s2dnas_deploy.errors import DataError


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledImages:
    """Images as they were stored, not normalised, each with the number of its class."""

    images: torch.Tensor
    """uint8 [N, C, H, W]"""
    labels: torch.Tensor
    """int64 [N]"""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise DataError(f"expected images as uint8 [N, C, H, W], got {_described(self.images)}")
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise DataError(f"expected labels as int64 [N], got {_described(self.labels)}")
        if len(self.images) != len(self.labels):
            raise DataError(
                f"expected one label for each image, got {len(self.images)} images"
                f" and {len(self.labels)} labels"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of each image, (C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def read(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the images at `rows` (int64 [M]) only, uint8 [M, C, H, W]."""
        return self.images[rows]

    def select(self, index: torch.Tensor) -> "LabelledImages":
        """Return the images at `index` (int64 [M], or bool [N]), with their labels."""
        return LabelledImages(images=self.images[index], labels=self.labels[index])

    def evenly(self, count: int) -> "LabelledImages":
        """Return at most `count` images, evenly spread over the set."""
        if len(self) <= count:
            return self
        return self.select(self.spread(count))

    def spread(self, count: int) -> torch.Tensor:
        """Return `count` positions, evenly spread over the set."""
        return torch.linspace(0, len(self) - 1, count).long()


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
    """SHA-256 over images, labels and class names: says that two runs saw the same data."""
    val_is_split_off: bool = False
    """The data has no images to choose by; these are some of those to train on."""

    def __post_init__(self) -> None:
        for part in (self.train, self.val, self.test):
            if part is None:
                continue
            if part.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"expected every image to be {list(self.train.images.shape[1:])} like those to train on,"
                    f" got {list(part.images.shape[1:])}"
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
    """Return the SHA-256, in hex, over everything that tells one set of splits from another."""
    sha = hashlib.sha256()
    sha.update(json.dumps(class_names).encode())
    for name, part in (("train", train), ("val", val), ("test", test)):
        if part is None:
            continue
        # The shape goes in as well: the same bytes could be cut into other images or other parts.
        sha.update(json.dumps([name, list(part.images.shape)]).encode())
        sha.update(_bytes_of(part.images))
        sha.update(_bytes_of(part.labels))
    return sha.hexdigest()


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The tensor's values as one flat run of bytes, with no copy (little-endian, as on every device here)."""
    flat: NDArray[Any] = tensor.contiguous().numpy().reshape(-1)
    return flat.view(np.uint8).data


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
