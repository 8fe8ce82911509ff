"""What a person asks of a training, and what every training starts from.

Place in the flow: options ──▶ `Request` ──prepare──▶ `Prepared`.
"""

from dataclasses import dataclass
from math import inf
from pathlib import Path

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.data.labelled import ImageSplits
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.classifier import NewClassifier
from s2dnas_deploy.workshop.reading.static_source import StaticSource
from s2dnas_deploy.workshop.training.settings import MOST_EPOCHS, Settings
from s2dnas_deploy.workshop.training.start.begin import Start


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asks of `s2dnas-train`."""

    source: StaticSource
    data: str
    val_fraction: float
    resize: str | None
    limit: int | None
    normalize: str | None
    plan: str
    """`auto`: it is left open."""
    align: int
    static_epochs: int | None
    """None: none, or as many as suit the images where a new classifier has to learn."""
    static_lr: float | None
    classes: str | None = None
    """Who gets a new classifier for the images' classes: `auto`, their number, or a file of their names."""
    body_lr: float | None = None
    """Peak learning rate of all but a new classifier."""
    start: Start = "fitted"
    settings: Settings
    rate_is_open: bool = False
    """Nobody has said anything about the learning rate: what suits the network is taken."""
    augment_is_open: bool = False
    """Nor about how images are varied: where nobody teaches, they are cropped, too."""
    out: Path
    restart: bool

    def __post_init__(self) -> None:
        """Refuse what could only fail later."""
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val-fraction: expected above 0 and below 1, got {shown(self.val_fraction)}")
        if self.static_epochs is not None and not 0 <= self.static_epochs <= MOST_EPOCHS:
            raise OptionError(
                f"--static-epochs: expected 0 to {MOST_EPOCHS}, got {shown(self.static_epochs)}"
            )
        if self.static_lr is not None and not 0 < self.static_lr < inf:
            raise OptionError(f"--static-lr: expected a finite number above 0, got {shown(self.static_lr)}")
        if self.body_lr is not None and not 0 <= self.body_lr < inf:
            raise OptionError(f"--body-lr: expected a finite number, 0 or more, got {shown(self.body_lr)}")
        if self.body_lr is not None and self.classes is None:
            raise OptionError("--body-lr is for a network with a new classifier: give --classes as well")

    @property
    def folder(self) -> Path:
        """Where the run keeps its checkpoint, log and plots."""
        return self.out.with_name(self.out.name.removesuffix(".pt") + ".run")

    def trains_static(self, prepared: "Prepared") -> bool:
        """Whether the static network itself is trained first; a plan of one stage trains it anyway."""
        if prepared.is_trained:
            return False
        if self.static_epochs is None:
            return prepared.new_classifier is not None and self.plan != "static"
        return self.static_epochs > 0


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What every training starts from: the static network, whether it is trained, and images."""

    static: StaticNetwork
    is_trained: bool
    splits: ImageSplits
    preprocessing: Preprocessing
    new_classifier: NewClassifier | None = None
    """The one in place of the network's own, which has to learn before the network counts as trained."""
    normalize_is_guessed: bool = False
    """Nobody has said how images are normalised that the weights were trained on."""
