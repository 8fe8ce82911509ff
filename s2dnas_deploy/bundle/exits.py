"""The exit rule, in its one place: which samples leave at an exit, and which go on.

a sample leaves at exit k  ⟺  confidence ≥ threshold k;   the last exit takes all (threshold None)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from s2dnas_deploy.errors import BundleError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

ConfidenceRule = Literal["max_prob", "margin", "entropy"]
RULES: tuple[ConfidenceRule, ...] = get_args(ConfidenceRule)


@dataclass(frozen=True, kw_only=True)
class ExitRule:
    """How sure exit k must be: the confidence its graph computes, and the threshold it must reach."""

    rule: ConfidenceRule
    temperature: float = 1.0
    threshold: float | None
    calibrated: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise BundleError(f"expected a confidence rule among {', '.join(RULES)}, got {self.rule!r}")
        if not self.temperature > 0:
            raise BundleError(f"expected a temperature above 0, got {self.temperature}")
        if self.threshold is not None and math.isnan(self.threshold):
            raise BundleError("expected a threshold, got one that is not a number")

    @property
    def in_words(self) -> str:
        """When a sample leaves here."""
        if self.threshold is None:
            return "always"
        return f"{self.rule} ≥ {self.threshold:g}" + ", not calibrated" * (not self.calibrated)

    def leaves(self, confidence: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
        """Which samples leave here, [N], for their confidences [N]."""
        import numpy as np  # here, so that a command's --help need not wait for it

        if self.threshold is None:
            return np.ones(confidence.shape, dtype=np.bool_)
        return np.asarray(confidence >= self.threshold, dtype=np.bool_)
