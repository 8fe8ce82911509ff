"""From a file, a picture or an array to what the graphs take, exactly as in training.

Place in the flow: paths, pictures, arrays ──▶ `Reader` ──▶ [H, W, C] bytes (or [C, H, W] floats, for a bundle
exported with `--float-input`). Whatever cannot be read is a `DataError` that says why; nothing is repaired.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from s2dnas_deploy.bundle.manifest import Manifest
from s2dnas_deploy.errors import DataError
from s2dnas_deploy.images.archive import StoredImage
from s2dnas_deploy.images.picture_file import OtherSizeError, planes_in
from s2dnas_deploy.images.pixels import (
    InputFormat,
    as_planes,
    can_recolour,
    fitted,
    in_colour,
    normalised,
    planes_of,
    require_picture_channels,
    resized,
)
from s2dnas_deploy.quoting import in_a_line, named_in_line

Array: TypeAlias = npt.NDArray[Any]
Source: TypeAlias = str | os.PathLike[str] | Image.Image
Given: TypeAlias = Source | Array | StoredImage | DataError


class Reader:
    """Reads images for one bundle."""

    def __init__(self, manifest: Manifest) -> None:
        p = manifest.preprocessing
        channels, height, width = p.input_shape
        self.wanted = InputFormat(channels=channels, height=height, width=width, resize=p.resize)
        self.shape = manifest.image_shape
        self.dtype = np.dtype(manifest.image_type)
        self._mean, self._std = p.mean, p.std

    def batch(self, images: "Array | Sequence[Given]") -> Array:
        """An array as it must be, or what files and pictures hold, as one array [N, ...]."""
        if isinstance(images, np.ndarray):
            if images.dtype != self.dtype or images.shape[1:] != self.shape:
                raise DataError(
                    f"expected images as {self._expected}, got {images.dtype} {list(images.shape)}"
                )
            return images
        if isinstance(images, (str, os.PathLike, Image.Image)):
            raise DataError("expected a batch, got a single image: put it into a list")
        if not isinstance(images, Sequence):
            raise DataError(
                f"expected a batch of images, a list or an array, got {type(images).__name__}; "
                "for any number, one after the other, there is stream()"
            )
        pixels = np.empty((len(images), *self.shape), self.dtype)
        for i, source in enumerate(images):
            pixels[i] = self.one(source)
        return pixels

    def one(self, source: Given) -> Array:
        """One image, of the shape and type that the graphs take; an error in its place is raised."""
        if isinstance(source, DataError):
            raise source
        if isinstance(source, StoredImage):
            source = source.read()
        if isinstance(source, np.ndarray):
            return self._from_array(source)
        if isinstance(source, Image.Image):
            return self._from_picture(_loaded(source), "a picture")
        if not isinstance(source, (str, os.PathLike)):
            raise DataError(
                f"expected the path of an image, a PIL image or an array, got {type(source).__name__}"
            )
        path = os.fspath(source)
        return self.from_file(path, named_in_line(path))

    @property
    def _expected(self) -> str:
        return f"{self.dtype} [N, {', '.join(map(str, self.shape))}]"

    def _from_array(self, array: Array) -> Array:
        if array.dtype == self.dtype and array.shape == self.shape:
            return array
        planes = as_planes(array[None], self.wanted, where="an image")
        _, channels, height, width = planes.shape
        if not (can_recolour(channels, self.wanted) and self.wanted.admits(height, width)):
            raise DataError(
                f"expected an image {self.dtype} [{', '.join(map(str, self.shape))}], "
                f"got {array.dtype} {list(array.shape)}"
            )
        return self._from_planes(fitted(planes, self.wanted)[0])

    def from_file(self, source: str | bytes, where: str) -> Array:
        """One image, from a file's path or its content; `where` that is, is for messages."""
        require_picture_channels(self.wanted, where=where)
        try:
            return self._from_planes(planes_in(source, self.wanted))
        except OtherSizeError as found:
            raise self._of_other_size(where, found.height, found.width) from found
        except DataError as problem:
            raise DataError(f"{where}: {problem}") from problem

    def _from_picture(self, image: Image.Image, where: str) -> Array:
        require_picture_channels(self.wanted, where=where)
        try:
            image = in_colour(image, self.wanted.channels)
        except Exception as problem:  # Pillow raises almost anything on damaged descriptions.
            raise DataError(f"{where}: {in_a_line(problem)}") from problem
        if not self.wanted.admits(image.height, image.width):
            raise self._of_other_size(where, image.height, image.width)
        try:
            return self._from_planes(planes_of(resized(image, self.wanted)))
        except DataError as problem:
            raise DataError(f"{where}: {problem}") from problem

    def _of_other_size(self, where: str, height: int, width: int) -> DataError:
        return DataError(
            f"{where}: expected {self.wanted.height}x{self.wanted.width} pixels (height x width), got "
            f"{height}x{width}; resize it, or export the bundle with --resize crop or stretch"
        )

    def _from_planes(self, planes: Array) -> Array:
        """From uint8 [C, H, W]."""
        if self.dtype == np.uint8:
            pixels: Array = planes.transpose(1, 2, 0)
            return pixels
        return normalised(planes, self._mean, self._std)


def _loaded(picture: Image.Image) -> Image.Image:
    """A picture of the caller's, read to its end; it stays as it was."""
    try:
        copy = picture.copy()
    except Exception as problem:  # Pillow's decoders raise almost anything on damaged bytes.
        raise DataError(f"a picture: {in_a_line(problem)}") from problem
    copy.format = picture.format  # says what 16-bit grey means
    return copy
