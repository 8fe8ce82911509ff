"""The rules by which the samples of a stage are told where to go: each gives an index into its route's `to`.

    always                 0
    threshold              0 where value ≥ at, else 1; a value that is not a number reaches nothing
    largest                the column of the largest number, offsets added; the first of several; no number
                           is the least
    setting                what the caller has set, the same for all samples

Numbers are float32, and so is the comparison: a threshold is rounded first, so that 0.9 is the same to every
NumPy, to calibration and to a graph. A confidence is a probability, so a threshold above 1 is one that could
never be reached: nobody exits, whatever the confidence. Any other confidence that is no probability counts as
the number that it is: rounding may make one 1.0000001, ∞ is sure, and what is below 0 is unsure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal

from s2dnas_deploy.errors import BundleError
from s2dnas_deploy.files.bounds import Between, Length, Name
from s2dnas_deploy.files.document import check_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    Numbers = npt.NDArray[np.floating[Any]]
    Picks = npt.NDArray[np.intp]

CONFIDENCE = "confidence"
NEVER = 2.0
"""A threshold above 1, so that nobody exits."""
FAR = 2.0**20
"""More than a gate's numbers differ by: with so much less, nobody takes a way."""


@dataclass(frozen=True, kw_only=True)
class Always:
    """All samples go the one way."""

    rule: Literal["always"] = "always"

    @property
    def in_words(self) -> str:
        """When a sample goes the first way."""
        return "always"


ALWAYS = Always()


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """The first way if a number reaches a threshold, else the second; of several, the number of a column."""

    rule: Literal["threshold"] = "threshold"
    of: Name
    at: float
    column: Annotated[int, Between(0, 65_535)] | None = None

    def __post_init__(self) -> None:
        check_record(self, BundleError)

    @property
    def in_words(self) -> str:
        """When a sample goes the first way."""
        what = self.of if self.column is None else f"{self.of}[{self.column}]"
        return "never" if self.of == CONFIDENCE and self.at > 1 else f"{what} ≥ {self.at:g}"

    @cached_property
    def limit(self) -> np.float32:
        """What a number must reach."""
        return limit_of(self.at) if self.of == CONFIDENCE else _float32(self.at)

    def reached(self, values: Numbers) -> npt.NDArray[np.bool_]:
        """Which samples reach it, [N], by their numbers [N] or [N, columns]."""
        each = values if self.column is None else values[:, self.column]
        reached: npt.NDArray[np.bool_] = each >= self.limit
        return reached


@dataclass(frozen=True, kw_only=True)
class Largest:
    """The way whose number is the largest, after what is added to each to move the balance between them."""

    rule: Literal["largest"] = "largest"
    of: Name
    offsets: Annotated[tuple[float, ...], Length(1, 64)] | None = None

    def __post_init__(self) -> None:
        check_record(self, BundleError)

    @property
    def in_words(self) -> str:
        """How a sample's way is found."""
        moved = "" if self.offsets is None else f" + ({', '.join(f'{each:g}' for each in self.offsets)})"
        return f"the largest of {self.of}{moved}"

    def numbers(self, values: Numbers) -> Numbers:
        """What is compared, [N, columns], of a gate's numbers."""
        if self.offsets is None:
            return values
        return values.astype("float32") + offsets_of(self.offsets)

    def column(self, values: Numbers) -> Picks:
        """The column of the largest number, [N], of numbers [N, columns]."""
        import numpy as np  # here, so that a command's --help need not wait for it

        numbers = self.numbers(values)
        column: Picks = np.where(np.isnan(numbers), -np.inf, numbers).argmax(axis=1)
        return column


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The way that the caller has set, by the name of the setting."""

    rule: Literal["setting"] = "setting"
    name: Name

    @property
    def in_words(self) -> str:
        """How the way is found."""
        return f"the setting {self.name}"


Rule = Always | Threshold | Largest | Setting


def limit_of(threshold: float) -> np.float32:
    """What a confidence must reach: the threshold in float32, or above 1 NaN, which nothing reaches."""
    return _float32(math.nan if threshold > 1 else threshold)


def offsets_of(offsets: Sequence[float]) -> npt.NDArray[np.float32]:
    """What is added to a gate's numbers, as it is added: in float32."""
    import numpy as np  # here, so that a command's --help need not wait for it

    return np.array([_float32(each) for each in offsets], np.float32)


def only(way: int, ways: int) -> tuple[float, ...]:
    """Offsets with which all take one way."""
    return tuple(0.0 if each == way else -FAR for each in range(ways))


def _float32(number: float) -> np.float32:
    import numpy as np  # here, so that a command's --help need not wait for it

    with np.errstate(over="ignore"):  # far below 0 it is -∞, which every number reaches
        return np.float32(number)  # type: ignore[no-any-return]  # in some versions of NumPy
