"""What a cascade says: of a batch, and of one image."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Where the seconds of a batch went: copied in, in each stage (0 if it did not run), and all the rest."""

    copied: float
    stages: tuple[float, ...]
    rest: float
    """Deciding, moving survivors together, taking answers."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What all exits say of a batch, as their graphs do.

    `label` int64 [exits, N], `confidence` float32 [exits, N], `probabilities` float32 [exits, N, classes].
    """

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]

    @staticmethod
    def of_none(exits: int, count: int, classes: int) -> "Heard":
        """Nothing yet, to be filled in."""
        return Heard(
            label=np.zeros((exits, count), np.int64),
            confidence=np.zeros((exits, count), np.float32),
            probabilities=np.zeros((exits, count, classes), np.float32),
        )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What the cascade says of a batch, one row per sample.

    `label` int64 [N], `confidence` float32 [N], `exit` int64 [N]: the stage whose answer it is, by number;
    `probabilities` float32 [N, classes] and `timing` if asked for; probabilities are at the temperatures that
    calibration found.
    """

    label: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    exit: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32] | None = None
    timing: Timing | None = None
    stages: tuple[str, ...]
    """The names of the bundle's stages."""
    _ran: npt.NDArray[np.bool_] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.label)

    @property
    def way(self) -> npt.NDArray[np.bool_]:
        """The stages that each sample went through, bool [N, stages]."""
        if self._ran is not None:
            return self._ran
        way: npt.NDArray[np.bool_] = np.arange(len(self.stages)) <= self.exit[:, None]
        return way

    @property
    def stage_seconds(self) -> tuple[float, ...] | None:
        """Seconds in each stage, 0 if it did not run; if asked for."""
        return None if self.timing is None else self.timing.stages


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What the cascade says of one image: the class by number and name, how sure it is, and where it exited.

    `exit` is the stage whose answer it is, by number, and `way` has the names of all that it went through.
    """

    label: int
    name: str
    confidence: float
    exit: int
    way: tuple[str, ...]
    probabilities: npt.NDArray[np.float32] | None = None
