"""How to train: one frozen record of every choice, checked when it is made."""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from s2dnas_deploy.errors import OptionError

Augmentation = Literal["none", "crop", "flip", "crop-flip"]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Stochastic gradient descent with Nesterov momentum, a linear warm-up and a cosine to zero.

    `distill` is the weight of the static network's answers against the labels, `self_distill` that of the
    last exit's answers in what earlier exits learn; `exit_weights` weigh the exits' losses (all 1 if empty).
    Crops shift by up to `crop_padding` pixels, an eighth of the image's side if None.
    """

    epochs: int
    batch_size: int = 64
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    label_smoothing: float = 0.0
    distill: float = 0.9
    self_distill: float = 0.3
    temperature: float = 3.0
    exit_weights: tuple[float, ...] = ()
    ema: float = 0.995
    augment: Augmentation = "crop-flip"
    crop_padding: int | None = None
    seed: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        _check(self.epochs >= 0, "epochs", self.epochs, "0 or more")
        _check(
            self.batch_size >= 2,
            "batch size",
            self.batch_size,
            "2 or more: batch norm has no statistics of one",
        )
        _check(self.lr > 0, "learning rate", self.lr, "above 0")
        _check(0 <= self.warmup < 1, "warm-up", self.warmup, "a part of the run, from 0 to below 1")
        _check(0 <= self.label_smoothing < 1, "label smoothing", self.label_smoothing, "from 0 to below 1")
        _check(0 <= self.distill <= 1, "distill", self.distill, "from 0 to 1")
        _check(0 <= self.self_distill <= 1, "self-distill", self.self_distill, "from 0 to 1")
        _check(self.temperature > 0, "temperature", self.temperature, "above 0")
        _check(0 <= self.ema < 1, "ema", self.ema, "from 0 (off) to below 1")
        _check(all(w >= 0 for w in self.exit_weights), "exit weights", self.exit_weights, "0 or more")
        _check((self.crop_padding or 0) >= 0, "crop padding", self.crop_padding, "0 or more")
        _check(self.seed >= 0, "seed", self.seed, "0 or more")

    @property
    def digest(self) -> str:
        """Tells runs apart that would give other weights (how often a checkpoint is written does not)."""
        content = {key: value for key, value in asdict(self).items() if key != "checkpoint_seconds"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise OptionError(f"{name}: expected {expected}, got {got}")
