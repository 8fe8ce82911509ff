"""How to train: one frozen record of every choice, checked when it is made."""

import hashlib
import json
from dataclasses import asdict, dataclass
from math import inf
from typing import Any, Literal

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.data.ways import augmentations

Optimizer = Literal["muon", "sgd"]
Precision = Literal["auto", "float32", "bfloat16"]
MOST_EPOCHS, LARGEST_SEED = 1_000_000, 2**63 - 1
_LARGEST_BATCH, _WIDEST_PADDING, _MOST_WORKERS = 2**20, 512, 256
_INDECISIVE = frozenset({"checkpoint_seconds", "workers"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """An optimizer over a course of the learning rate (`course`), with momentum as Nesterov's.

    `epochs` is None where as many are to be made as suit the images, or fewer if exits no longer gain.
    `distill` is the weight of the static network's answers against the labels, `self_distill` that of the
    last exit's answers in what earlier exits learn; `exit_weights` weigh the exits' losses (all 1 if empty).
    `augment` names ways to vary images (`augmentations`); crops shift by up to `crop_padding` pixels, an
    eighth of the image's side if None. `workers` processes make batches, as many as suit if None.
    """

    epochs: int | None
    optimizer: Optimizer = "muon"
    batch_size: int = 64
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    label_smoothing: float = 0.0
    distill: float = 0.9
    self_distill: float = 0.3
    temperature: float = 3.0
    exit_weights: tuple[float, ...] = ()
    ema: float = 0.995
    augment: str = "flip"
    crop_padding: int | None = None
    seed: int = 0
    precision: Precision = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 30.0
    workers: int | None = None

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        epochs = 0 if self.epochs is None else self.epochs
        _check(0 <= epochs <= MOST_EPOCHS, "epochs", epochs, f"0 to {MOST_EPOCHS}")
        _check(
            2 <= self.batch_size <= _LARGEST_BATCH,
            "batch size",
            self.batch_size,
            f"2 to {_LARGEST_BATCH}: batch norm has no statistics of one",
        )
        _check(0 < self.lr < inf, "learning rate", self.lr, "a finite number above 0")
        _check(0 <= self.momentum < 1, "momentum", self.momentum, "from 0 to below 1")
        _check(0 <= self.weight_decay < inf, "weight decay", self.weight_decay, "a finite number, 0 or more")
        _check(0 <= self.warmup < 1, "warm-up", self.warmup, "a part of the run, from 0 to below 1")
        _check(0 <= self.label_smoothing < 1, "label smoothing", self.label_smoothing, "from 0 to below 1")
        _check(0 <= self.distill <= 1, "distill", self.distill, "from 0 to 1")
        _check(0 <= self.self_distill <= 1, "self-distill", self.self_distill, "from 0 to 1")
        _check(0 < self.temperature < inf, "distill temperature", self.temperature, "a finite number above 0")
        _check(0 <= self.ema < 1, "ema", self.ema, "from 0 (off) to below 1")
        weights, padding = self.exit_weights, self.crop_padding or 0
        _check(
            all(0 <= weight < inf for weight in weights) and (not weights or any(weights)),
            "exit weights",
            weights,
            "finite numbers, 0 or more, and one above 0",
        )
        augmentations(self.augment)
        _check(0 <= padding <= _WIDEST_PADDING, "crop padding", padding, f"0 to {_WIDEST_PADDING}")
        _check(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"0 to {LARGEST_SEED}")
        _check(
            0 <= self.checkpoint_seconds < inf,
            "checkpoint seconds",
            self.checkpoint_seconds,
            "a finite number, 0 or more",
        )
        workers = self.workers or 0
        _check(0 <= workers <= _MOST_WORKERS, "workers", workers, f"0 to {_MOST_WORKERS}")

    @property
    def decisive(self) -> dict[str, Any]:
        """What decides the weights: neither how often a checkpoint is written does, nor who makes batches."""
        return {key: value for key, value in asdict(self).items() if key not in _INDECISIVE}

    @property
    def digest(self) -> str:
        """Tells runs apart that would give other weights."""
        return hashlib.sha256(json.dumps(self.decisive, sort_keys=True).encode()).hexdigest()


def _check(holds: bool, name: str, got: object, expected: str) -> None:
    if not holds:
        raise OptionError(f"{name}: expected {expected}, got {shown(got)}")
