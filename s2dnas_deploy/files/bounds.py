"""Bounds that a record declares of its fields, `Annotated[int, Between(1, 16)]`, for `document` to check."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from s2dnas_deploy.quoting import is_shown


@dataclass(frozen=True)
class Between:
    """A number from `low` to `high`, both included."""

    low: float
    high: float = math.inf

    def fits(self, value: float) -> bool:
        """Whether it is."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"from {self.low:,} to {self.high:,}" if self.high < math.inf else f"of {self.low:,} or more"


@dataclass(frozen=True)
class Above:
    """A number above `low`, and no higher than `high`."""

    low: float
    high: float = math.inf

    def fits(self, value: float) -> bool:
        """Whether it is."""
        return self.low < value <= self.high

    def __str__(self) -> str:
        return f"above {self.low:,}" + (f", up to {self.high:,}" if self.high < math.inf else "")


@dataclass(frozen=True)
class Length:
    """How many characters a text has, or how many items a list or an object."""

    low: int
    high: int

    def fits(self, value: Sequence[Any] | Mapping[str, Any]) -> bool:
        """Whether it has as many."""
        return self.low <= len(value) <= self.high

    def __str__(self) -> str:
        return f"of length {self.low:,} to {self.high:,}"


@dataclass(frozen=True)
class Matching:
    """A text that a regular expression fits as a whole; `words` say what that is."""

    pattern: str
    words: str

    def fits(self, value: str) -> bool:
        """Whether it does."""
        return re.fullmatch(self.pattern, value) is not None

    def __str__(self) -> str:
        return f"that is {self.words}"


@dataclass(frozen=True)
class Printable:
    """A text that people will see: without characters that steer a terminal or hide what stands there."""

    def fits(self, value: str) -> bool:
        """Whether it is without."""
        return is_shown(value)

    def __str__(self) -> str:
        return "without control characters"


@dataclass(frozen=True)
class Others:
    """Of a `Mapping[str, Any]`: it takes the keys that no other field of its record is named after."""


Bound = Between | Above | Length | Matching | Printable

Share = Annotated[float, Between(0, 1)]
Count = Annotated[int, Between(0, 2**62)]
Shown = Annotated[str, Printable()]
Name = Annotated[str, Length(1, 1000), Printable()]
