"""Images for an export: real ones to calibrate on and to judge by, or made-up ones if none were given."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.images import pixels
from s2dnas_deploy.workshop.data.labelled import LabelledImages

Pixels = npt.NDArray[np.uint8]
_MADE_UP_IMAGES = 32


@dataclass(frozen=True, kw_only=True)
class ExportImages:
    """Labelled images for an export, uint8 [N, H, W, C]: some to calibrate on, others to judge by."""

    source: str
    calibration: Pixels
    validation: Pixels
    labels: npt.NDArray[np.int64]


def pixels_of(images: LabelledImages) -> Pixels:
    """As the graphs take them, uint8 [N, H, W, C]."""
    as_taken: Pixels = images.read().permute(0, 2, 3, 1).contiguous().numpy()
    return as_taken


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
