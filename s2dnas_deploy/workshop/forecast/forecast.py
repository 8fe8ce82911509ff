"""A forecast: what a plan can gain on a device, from the times of its stages.

Place in the flow: a plan's stage times (or MACs) + the `prior` ──▶ `Forecast`, said before anything is
trained and kept in the run's folder. Shares say how many images exit at each stage; with c_k the time of all
stages up to exit k over the static network's,

    times as fast = 1 / Σ_k share_k · c_k
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

from s2dnas_deploy.errors import CheckpointError, PlanError
from s2dnas_deploy.files.bounds import Between, Length
from s2dnas_deploy.files.document import Form, Head
from s2dnas_deploy.plan import MAX_STAGES, Plan

FILE = "forecast.json"
FIRST = (0.5, 0.7, 0.9)
"""Shares of images that exit first, for which is told how fast it would be."""


@dataclass(frozen=True, kw_only=True)
class Priced:
    """What a plan costs. `stages`: the time of each over the static network's, or their MACs.

    Of a plan in turn without the whole network, the static network may be the last of them.
    """

    plan: Plan
    stages: tuple[float, ...]
    device: Mapping[str, Any] | None
    """Where stages were timed; None if they were counted by their MACs."""
    static_ms: float | None = None

    @cached_property
    def up_to(self) -> tuple[float, ...]:
        """The time of all stages up to each exit, over the static network's."""
        return tuple(accumulate(self.stages))

    @property
    def ends_in_static(self) -> bool:
        """Whether the last of them is the static network."""
        return len(self.stages) > self.plan.stages

    @property
    def best(self) -> float:
        """How many times as fast it is if every image exits first: more is not possible."""
        return 1 / self.up_to[0]

    def with_shares(self, shares: Sequence[float]) -> float:
        """How many times as fast it is if these shares of the images exit at each stage."""
        return 1 / sum(share * cost for share, cost in zip(shares, self.up_to, strict=True))

    def with_first(self, share: float) -> float:
        """How many times as fast it is if this share exits first, and all others last."""
        return self.with_shares([share, *[0.0] * (len(self.stages) - 2), 1 - share])


@dataclass(frozen=True, kw_only=True)
class Forecast(Priced):
    """What a plan costs and may gain, as far as is known before anything is trained."""

    shares: tuple[float, ...]
    """The share of images that is expected to exit at each stage."""
    accuracies: tuple[float, ...]
    """How often each exit is expected to be right."""
    falls_short: float
    """How far the last exit is expected below a point under the static network, where all must go on."""

    def __post_init__(self) -> None:
        assert _fit(self.plan, self.stages, self.shares, self.accuracies), "one of each for a stage"

    @property
    def expected(self) -> float:
        """How many times as fast the average image is expected to be answered."""
        return self.with_shares(self.shares)

    def is_better_than(self, other: "Forecast") -> bool:
        """Nearer to the static network where one of them falls short of it; else faster."""
        if self.falls_short or other.falls_short:
            return self.falls_short < other.falls_short
        return self.expected > other.expected

    def to_json(self, of: str) -> str:
        """The forecast as a JSON document; `of` is a digest of all that it was made from."""
        head = {"format": _FORMAT, "version": 1, "of": of}
        return json.dumps({**head, **self.to_document()}, indent=1) + "\n"

    def to_document(self) -> dict[str, Any]:
        """The forecast as plain JSON values."""
        return {
            "device": None if self.device is None else dict(self.device),
            "static_ms": self.static_ms,
            "stages": self.stages,
            "expected_shares": self.shares,
            "expected_accuracies": self.accuracies,
            "falls_short": self.falls_short,
            "times_as_fast": {
                "expected": self.expected,
                "best": self.best,
                **{f"{share:.0%} exit first": self.with_first(share) for share in FIRST},
            },
            "plan": json.loads(self.plan.to_json()),
        }


def _fit(plan: Plan, *each: Sequence[float]) -> bool:
    """Whether there is one of each for every stage, and perhaps for the static network after them."""
    (count, *others) = {len(numbers) for numbers in each}
    return not others and 0 <= count - plan.stages <= plan.in_turn


_FORMAT = "s2dnas-forecast"
_Shares = Annotated[tuple[Annotated[float, Between(0, 10**6)], ...], Length(2, MAX_STAGES)]


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The form of a forecast."""

    of: str
    device: Mapping[str, Any] | None
    static_ms: float | None
    stages: _Shares
    expected_shares: _Shares
    expected_accuracies: _Shares
    falls_short: float
    plan: Mapping[str, Any]


_FORM = Form(
    record=_Document,
    error=CheckpointError,
    head=Head(format=_FORMAT, version=1, writer="s2dnas-train"),
    passed_over=frozenset({"times_as_fast"}),
)


def kept_forecast(folder: Path, of: str) -> Forecast | None:
    """The forecast that a run made before, if from the same; one that is damaged is made anew."""
    try:
        kept = _FORM.load(folder / FILE)
        plan = Plan.from_document(kept.plan)
    except (OSError, CheckpointError, PlanError):
        return None
    fit = _fit(plan, kept.stages, kept.expected_shares, kept.expected_accuracies)
    if kept.of != of or not fit or not kept.stages[0]:
        return None
    return Forecast(
        plan=plan,
        stages=kept.stages,
        device=kept.device,
        static_ms=kept.static_ms,
        shares=kept.expected_shares,
        accuracies=kept.expected_accuracies,
        falls_short=kept.falls_short,
    )
