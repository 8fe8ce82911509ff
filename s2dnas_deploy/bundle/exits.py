"""The exit rule, in its one place: which samples leave at an exit, and which go on.

a sample leaves at exit k  ⟺  confidence ≥ threshold k;   the last exit takes all (threshold None)

Confidences are float32, and so is the comparison: a threshold is rounded first, so that 0.9 is the same to
every NumPy, to calibration and to a graph. Above 1 it is none that could be reached: nobody leaves, whatever
the confidence. What is not a number reaches no threshold. Any other confidence that is no probability counts
as the number that it is: rounding may make one 1.0000001, ∞ is sure, and what is below 0 is unsure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Above
from s2dnas_deploy.files.document import check_record

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ConfidenceRule = Literal["max_prob", "margin", "entropy"]
RULES: tuple[ConfidenceRule, ...] = get_args(ConfidenceRule)


@dataclass(frozen=True, kw_only=True)
class ExitRule:
    """How sure exit k must be: the confidence its graph computes, and the threshold it must reach."""

    rule: ConfidenceRule
    temperature: Annotated[float, Above(0)] = 1.0
    threshold: float | None
    calibrated: bool = False

    def __post_init__(self) -> None:
        check_record(self, BundleError)

    @property
    def in_words(self) -> str:
        """When a sample leaves here."""
        if self.threshold is None:
            return "always"
        when = f"{self.rule} ≥ {self.threshold:g}" if self.threshold <= 1 else "never"
        return when + ", not calibrated" * (not self.calibrated)

    @cached_property
    def limit(self) -> np.float32 | None:
        """What a confidence must reach to leave here; None where all leave."""
        return None if self.threshold is None else limit_of(self.threshold)

    def leaves(self, confidence: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which samples leave here, [N], for their confidences [N] in float32."""
        if self.limit is None:
            import numpy as np  # here, so that a command's --help need not wait for it

            return np.ones(confidence.shape, dtype=np.bool_)
        leaves: npt.NDArray[np.bool_] = confidence >= self.limit
        return leaves


def limit_of(threshold: float) -> np.float32:
    """What a confidence must reach: the threshold in float32, or above 1 NaN, which nothing reaches."""
    import numpy as np  # here, so that a command's --help need not wait for it

    with np.errstate(over="ignore"):  # far below 0 it is -∞, which every number reaches
        limit: np.float32 = np.float32(math.nan if threshold > 1 else threshold)
    return limit
