"""Images for an export: real ones to calibrate on and to judge by, or made-up ones if none were given.

They are taken a batch at a time, and may stay on disk: any number of them takes the memory of a batch.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.images import pixels
from s2dnas_deploy.workshop.data.labelled import LabelledImages

Pixels = npt.NDArray[np.uint8]
_MADE_UP_IMAGES = 32


class Images(Protocol):
    """Images of which a slice is read when it is asked for; an array is such."""

    def __len__(self) -> int:
        """How many there are."""

    def __getitem__(self, rows: slice, /) -> npt.NDArray[Any]:
        """Those rows, as an array."""


@dataclass(frozen=True, kw_only=True)
class ExportImages:
    """Labelled images for an export, uint8 [N, H, W, C]: some to calibrate on, others to judge by."""

    source: str
    calibration: Images
    validation: Images
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Labelled images as the graphs take them, uint8 [N, H, W, C]; nothing of them is kept."""

    images: LabelledImages

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice, /) -> Pixels:
        planes = self.images.read(torch.arange(len(self))[rows])
        as_taken: Pixels = planes.permute(0, 2, 3, 1).contiguous().numpy()
        return as_taken


@dataclass(frozen=True, kw_only=True)
class Normalised:
    """Images as a network reads them, float32 [N, C, H, W], which takes four times the memory."""

    images: Images
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: slice, /) -> npt.NDArray[np.float32]:
        return normalised(self.images[rows], self.preprocessing)


def normalised(images: Pixels, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """What a network reads of uint8 [N, H, W, C], float32 [N, C, H, W], as a device makes it."""
    planes = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(pixels.normalised(planes, preprocessing.mean, preprocessing.std))


def made_up(preprocessing: Preprocessing) -> Pixels:
    """Images for a verification without data: smooth colours with some noise, seeded."""
    channels, height, width = preprocessing.input_shape
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 255, (_MADE_UP_IMAGES, 2, 2, channels))
    y, x = np.linspace(0, 1, height)[None, :, None, None], np.linspace(0, 1, width)[None, None, :, None]
    top = corners[:, None, None, 0, 0] * (1 - x) + corners[:, None, None, 0, 1] * x
    bottom = corners[:, None, None, 1, 0] * (1 - x) + corners[:, None, None, 1, 1] * x
    smooth = top * (1 - y) + bottom * y
    return np.clip(smooth + generator.normal(0, 25, smooth.shape), 0, 255).astype(np.uint8)
