"""How images were prepared for a network when its weights were judged, as far as its library says.

Place in the flow: the user's `nn.Module` ──▶ what to take where nobody says --input, --normalize or --resize.
timm's networks carry it (`pretrained_cfg`); torchvision's weights do, whose name the factory was given.
Neither needs a connection, and neither library is imported here unless the factory has imported it.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from torch import nn

from s2dnas_deploy.images.resizing import resizing

_DIGITS = 10**6
_FILTERS = ("bilinear", "bicubic")


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The preparation that a library says of a network; what it does not say, or says oddly, is None."""

    source: str
    input_shape: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    resize: str | None


def judged_as(module: nn.Module, factory: str, arguments: Mapping[str, Any]) -> Judged | None:
    """What is known of a network that a factory has made; None if nothing is."""
    config = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if config is not None:
        return _of_timm(config if isinstance(config, Mapping) else vars(config))
    return _of_torchvision(factory, arguments.get("weights"))


def _of_timm(config: Mapping[str, Any]) -> Judged:
    """`input_size` [C, H, W], `mean`, `std`, `crop_pct`, `crop_mode` and `interpolation`."""
    return Judged(
        source="timm's pretrained_cfg",
        input_shape=_shape(config.get("input_size")),
        mean=_numbers(config.get("mean"), 0.0),
        std=_numbers(config.get("std"), 1e-6),
        resize=_timms_resize(config),
    )


def _timms_resize(config: Mapping[str, Any]) -> str | None:
    share, mode = config.get("crop_pct"), config.get("crop_mode") or "center"
    if not isinstance(share, (int, float)):
        return None
    if mode == "squash" and share == 1:
        return _resize("stretch", config.get("interpolation"))
    return _crop(float(share), config.get("interpolation")) if mode == "center" else None


def _of_torchvision(factory: str, name: Any) -> Judged | None:
    """The `transforms` of the weights that a factory of torchvision was told to load, by their name."""
    place, _, builder = factory.rpartition(":")
    models = sys.modules.get("torchvision.models")
    if models is None or name is None or not place.startswith("torchvision.models"):
        return None
    try:
        known = models.get_model_weights(builder)
        transforms = known[str(name).rpartition(".")[2]].transforms()
        crop, cover = transforms.crop_size[0], transforms.resize_size[0]
        filter_ = getattr(transforms.interpolation, "value", None)
        mean, std = transforms.mean, transforms.std
    except Exception:  # a factory of another name, weights of its own, transforms of another kind
        return None
    return Judged(
        source=f"torchvision's {builder}, weights {str(name).rpartition('.')[2]}",
        input_shape=_shape((3, crop, crop)),
        mean=_numbers(mean, 0.0),
        std=_numbers(std, 1e-6),
        resize=_crop(crop / cover, filter_),
    )


def _crop(share: float, filter_: Any) -> str | None:
    """The share is cut after some digits, not rounded: the size to resize to must not be a pixel less."""
    cut = int(share * _DIGITS + 1e-6) / _DIGITS
    return _resize(f"crop:{cut:g}" if cut < 1 else "crop:1", filter_) if share <= 1 else None


def _resize(way: str, filter_: Any) -> str | None:
    text = f"{way}:bicubic" if filter_ == "bicubic" else way
    return text if filter_ in _FILTERS and resizing(text) is not None else None


def _shape(value: Any) -> tuple[int, int, int] | None:
    is_shape = isinstance(value, Sequence) and len(value) == 3
    if not is_shape or not all(type(size) is int and 0 < size < 2**16 for size in value):
        return None
    return (value[0], value[1], value[2])


def _numbers(value: Any, least: float) -> tuple[float, ...] | None:
    if not isinstance(value, Sequence) or not value:
        return None
    if not all(type(number) in (int, float) and least <= number < inf for number in value):
        return None
    return tuple(float(number) for number in value)
