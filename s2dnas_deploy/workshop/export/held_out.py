"""The images that training held out, as archives: to choose thresholds on, and to judge the result by.

Place in the flow: `ImageSplits` ──▶ validation.npz, test.npz ──▶ `s2dnas-calibrate` and `s2dnas-run`, on a
device that has neither the data set nor torch.
"""

from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from s2dnas_deploy.files.atomic import write_atomically
from s2dnas_deploy.workshop.data.labelled import ImageSplits, LabelledImages
from s2dnas_deploy.workshop.export.samples import pixels_of


def save_held_out(splits: ImageSplits, folder: Path) -> list[Path]:
    """Write the validation images, and the test images if there are any; the files that were written."""
    parts = {"validation": splits.val} | ({} if splits.test is None else {"test": splits.test})
    for name, part in parts.items():
        write_atomically(held_out_file(folder, name), partial(_write, part))
    return [held_out_file(folder, name) for name in parts]


def _write(part: LabelledImages, stream: BinaryIO) -> None:
    np.savez(stream, images=pixels_of(part), labels=part.labels.numpy())


def held_out_file(folder: Path, name: str) -> Path:
    """Where the images of a part go."""
    return folder / f"{name}.npz"
