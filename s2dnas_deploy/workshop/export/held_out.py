"""The images that training held out, as archives: to choose thresholds on, and to judge the result by.

Place in the flow: `ImageSplits` ──▶ validation.npz, test.npz ──▶ `s2dnas-calibrate` and `s2dnas-run`, on a
device that has neither the data set nor torch.
"""

import zipfile
from collections.abc import Iterable, Iterator
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.export.samples import Stored

_CHUNK_BYTES = 2**24


def save_held_out(splits: ImageSplits, folder: Path) -> list[Path]:
    """Write the validation images, and the test images if there are any; the files that were written."""
    parts = {"validation": splits.val} | ({} if splits.test is None else {"test": splits.test})
    for name, part in parts.items():
        write_atomically(held_out_file(folder, name), partial(_write, part))
    return [held_out_file(folder, name) for name in parts]


def _write(part: LabelledImages, stream: BinaryIO) -> None:
    """As `np.savez`, which would take all images at once; they may be more than the memory holds."""
    channels, height, width = part.image_shape
    labels = part.labels.numpy()
    with zipfile.ZipFile(stream, "w") as archive:
        _write_array(archive, "images", (len(part), height, width, channels), np.dtype(np.uint8), _read(part))
        _write_array(archive, "labels", labels.shape, labels.dtype, [labels])


def _read(part: LabelledImages) -> Iterator[NDArray[np.uint8]]:
    """The images, some at a time."""
    images, count = Stored(images=part), max(1, _CHUNK_BYTES // prod(part.image_shape))
    return (images[at : at + count] for at in range(0, len(images), count))


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    parts: Iterable[NDArray[Any]],
) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part).data)


def held_out_file(folder: Path, name: str) -> Path:
    """Where the images of a part go."""
    return folder / f"{name}.npz"
