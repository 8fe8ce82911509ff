"""How a person wants the bundle: one frozen record, checked when it is made."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from s2dnas_deploy.bundle.exits import USUAL_RULE, ConfidenceRule, Exit
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown

Precision = Literal["float32", "int8", "float16"]
DEFAULT_THRESHOLD = 0.9
OLDEST_OPSET, NEWEST_OPSET = 13, 20  # per-channel QDQ begins with 13; torch's exporter of traces ends at 20


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a person wants the bundle."""

    rule: ConfidenceRule = USUAL_RULE
    temperatures: tuple[float, ...] = ()
    thresholds: tuple[float, ...] = ()
    precision: Precision = "float32"
    float_input: bool = False
    gather: bool = False
    single_file: bool = False
    opset: int = 17

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise OptionError(
                f"precision: expected {' or '.join(get_args(Precision))}, got {shown(self.precision)}"
            )
        if not OLDEST_OPSET <= self.opset <= NEWEST_OPSET:
            raise OptionError(f"opset {self.opset}: expected {OLDEST_OPSET} to {NEWEST_OPSET}")
        if self.single_file and self.gather:
            raise OptionError("a single file answers one image at a time, so there is nothing to gather")
        if any(not 0 < value < math.inf for value in self.temperatures):
            raise OptionError(f"temperatures {shown(self.temperatures)}: expected finite numbers above 0")
        if not all(map(math.isfinite, self.thresholds)):
            raise OptionError(
                f"thresholds {shown(self.thresholds)}: expected finite numbers; above 1, nobody exits"
            )

    @property
    def in_blocks(self) -> bool:
        """Whether graphs are written for runtimes that work on blocks of channels.

        They do that in float32 alone, and where they see that all tensors are of one batch.
        """
        return self.precision == "float32" and not self.gather

    def exits(self, count: int) -> tuple[Exit, ...]:
        """The confidence of each exit; one temperature serves all of them."""
        temperatures = _for_each(self.temperatures, count, 1.0, "temperatures", "exits")
        return tuple(Exit(rule=self.rule, temperature=temperature) for temperature in temperatures)

    def early(self, count: int) -> tuple[float, ...]:
        """The thresholds of so many exits but the last, which takes all; one serves all of them."""
        return _for_each(self.thresholds, count - 1, DEFAULT_THRESHOLD, "thresholds", "exits but the last")


def _for_each(given: Sequence[float], count: int, default: float, what: str, whose: str) -> tuple[float, ...]:
    if not given:
        return (default,) * count
    if len(given) == 1:
        return tuple(given) * count
    if len(given) != count:
        raise OptionError(f"{len(given)} {what} for {count} {whose}; give one for all, or one for each")
    return tuple(given)
