"""How images are normalised: by name, by numbers, or as measured on the images to train on."""

from math import inf

import torch

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.data.labelled import LabelledImages

_KNOWN = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
_MOST_MEASURED, _BATCH = 50_000, 500


def preprocessing_for(
    spec: str,
    input_shape: tuple[int, int, int],
    *,
    images: LabelledImages | None = None,
    resize: str | None = None,
) -> Preprocessing:
    """Read `spec`: a known name, `data`, `unit` (to -1..1), `none` (to 0..1) or `M,M,M/S,S,S`.

    `data` measures `images`, those to train on.
    """
    channels = input_shape[0]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    if spec in _KNOWN:
        mean, std = _KNOWN[spec]
        if channels != len(mean):
            raise OptionError(
                f"--normalize {spec} is for 3 channels, the network reads {channels}; give what it was "
                "trained with: none (pixels 0 to 1), unit (-1 to 1), data (measured) or MEAN/STD"
            )
    elif spec == "data":
        assert images is not None, "there are images to be measured"
        mean, std = _measured(images)
    elif spec in ("unit", "none"):
        value, spread = (0.5, 0.5) if spec == "unit" else (0.0, 1.0)
        mean, std = (value,) * channels, (spread,) * channels
    else:
        mean, std = _numbers(spec, channels)
    return Preprocessing(input_shape=input_shape, mean=mean, std=std, resize=resize)


def spelled(mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Means and standard deviations as --normalize takes them."""
    known = next((name for name, numbers in _KNOWN.items() if numbers == (mean, std)), None)
    return known or "/".join(",".join(map(repr, values)) for values in (mean, std))


def _measured(images: LabelledImages) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std per channel, from a count of the 256 pixel values: exact, and small whatever the data.

    Of very many, as many are looked at as tell it to the last digit that matters.
    """
    images = images.evenly(_MOST_MEASURED)
    every = torch.zeros(images.image_shape[0], 256, dtype=torch.double)
    for rows in torch.split(torch.arange(len(images)), _BATCH):
        planes = images.read(rows).transpose(0, 1)
        every += torch.stack([plane.flatten().bincount(minlength=256) for plane in planes])
    mean, std = [], []
    for counts in every:
        values = counts.new_tensor(range(256)) / 255
        average = float((counts * values).sum() / counts.sum())
        variance = float((counts * (values - average) ** 2).sum() / counts.sum())
        mean.append(round(average, 6))
        std.append(round(max(variance**0.5, 1e-3), 6))
    return tuple(mean), tuple(std)


def _numbers(spec: str, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    parts = spec.split("/")
    try:
        mean, std = (tuple(float(value) for value in part.split(",")) for part in parts)
    except ValueError as error:
        known = ", ".join(_KNOWN)
        raise OptionError(
            f"cannot read --normalize {shown(spec)}; expected {known}, data, unit, none or means and stds as "
            "0.5,0.5,0.5/0.2,0.2,0.2"
        ) from error
    if len(mean) != channels or len(std) != channels or not all(0 < value < inf for value in std):
        raise OptionError(
            f"--normalize {shown(spec)}: expected {channels} means / {channels} finite stds above 0"
        )
    if not all(-inf < value <= 1 for value in mean):
        raise OptionError(
            f"--normalize {shown(spec)}: expected means of pixels from 0 to 1, not to 255; divide all by 255"
        )
    return mean, std
