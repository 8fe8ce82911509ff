"""Choosing thresholds from recorded exit scores, so that a promise holds or a budget is kept.

Place in the flow: `ExitScores` ──▶ `choose_for_promise` or `choose_for_budget` ──▶ `Choice`, which
`calibration` writes into the bundle. Works on arrays; runs no stage.

Candidates lie on a path from "nobody exits" to "everybody exits at 0", along which τ falls:

    threshold k = 1 / (1 + exp(-(τ - offset · k)))       one τ for all exits, on the scale of log odds

The promise is proven by fixed-sequence testing (Angelopoulos et al., "Learn then Test", 2021; for early
exits: "Fast yet Safe", arXiv 2405.20915): go along the path as long as `ExactTest` proves that the loss is
small, stop at the first candidate where it does not, take the one before. However long the path, a wrong
candidate is taken with probability δ at most, for the first wrong one must be passed. That holds only if the
path was fixed before the images were seen, so the offset is what suited other networks best. (Chosen on a
tenth of the images, which then prove nothing, it was up to 8% worse for each of three networks.)

Where a gate picks one of several ways, what is added to its numbers takes the place of thresholds,

    offset k = t · (1 - cost k / cost of the last)                         one t for all ways

and along the path t rises from "all take the last way" to "all take the cheapest".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import course_of
from s2dnas_deploy.decide.exact_tests import LEAST_DELTA, ExactTest, least_images, most_useful
from s2dnas_deploy.decide.flow import chain
from s2dnas_deploy.decide.rules import CONFIDENCE, NEVER, Largest, offsets_of, only
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.walk import walk
from s2dnas_deploy.errors import DataError, OptionError
from s2dnas_deploy.files.bounds import Between, Share
from s2dnas_deploy.quoting import number_of

Numbers = npt.NDArray[np.float64]
Losses = npt.NDArray[np.int8]

MAX_DROP = 0.01  # unless told otherwise
ALWAYS = 1e-6  # one that is as good as none
_TAU = np.linspace(14.0, -14.0, 5601)
_BALANCE = np.linspace(-40.0, 40.0, 1601)
_OFFSETS: tuple[float, ...] = tuple(0.25 * i for i in range(13))
USUAL_OFFSET = 1.5
"""With it, twelve small networks of three and four exits answered 1.23 times as fast as with 0 where nothing
was to be lost, and 1.14 times where a point was; any from 1 to 2.5 was as good to 4%."""


class Against(Enum):
    """What the cascade is compared with, and so what a loss is."""

    LAST_EXIT = "the last exit"  # 1 if it is wrong where the last exit is right, -1 the other way round
    STATIC = (
        "the static network"  # 1 if it is wrong where the static network is right, -1 the other way round
    )
    ACCURACY = "a given accuracy"  # 1 if it is wrong
    ANSWERS = "the last exit's answers"  # 1 if it answers something else; needs no true classes


@dataclass(frozen=True, kw_only=True)
class Goal:
    """At most `drop` below what it is compared with, with this probability over the draw of the images."""

    drop: float
    probability: float = 0.95
    against: Against = Against.LAST_EXIT
    accuracy: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.drop < 1:
            raise OptionError(f"expected a drop between 0 and 1, got {self.drop}")
        if not 0 < self.probability <= 1 - LEAST_DELTA:
            raise OptionError(
                f"expected a probability between 0 and {1 - LEAST_DELTA:.9f}, got {self.probability}"
            )
        if (self.accuracy is None) == (self.against is Against.ACCURACY):
            raise OptionError("an accuracy to compare with goes with comparing with a given accuracy")
        if not 0 < self.bound < 1:
            raise OptionError(
                f"an accuracy of {self.accuracy} less {self.drop} leaves {1 - self.bound:.4g}; "
                "expected something between 0 and 1"
            )

    @property
    def bound(self) -> float:
        """What the mean loss must not exceed."""
        return self.drop if self.accuracy is None else 1 - self.accuracy + self.drop

    def test(self, images: int) -> ExactTest:
        """The test that proves it on so many images."""
        return ExactTest(
            images=images,
            alpha=self.bound,
            delta=1 - self.probability,
            paired=self.against in (Against.LAST_EXIT, Against.STATIC),
        )


@dataclass(frozen=True, kw_only=True)
class Point:
    """What certain thresholds amount to, on the images at hand: one point of the curve.

    With a gate, they are what is added to its numbers.
    """

    thresholds: tuple[float, ...]
    shares: tuple[Share, ...]
    cost: Annotated[float, Between(1e-9, 10**19)]
    loss: Annotated[float, Between(-1, 1)]
    accuracy: Share | None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The thresholds chosen, what they amount to, and the candidates there were.

    `proven_on` images have proven the goal (0: nothing was to be proven). `useful_images` is how many it
    would take, by the spread seen, to prove thresholds that lose half of what may be lost.
    """

    point: Point
    full: Point
    curve: tuple[Point, ...]
    proven_on: int = 0
    useful_images: int | None = None


def choose_for_promise(
    scores: ExitScores, goal: Goal, cost: Sequence[float], rng: np.random.Generator
) -> Choice:
    """The cheapest thresholds on the path for which the images prove the goal."""
    losses = losses_of(scores, goal.against)
    test = _test_on(len(scores), goal)
    proving = rng.permutation(len(scores))[: test.images]
    path = _path(scores, USUAL_OFFSET, cost)
    worse, better = changes(scores, losses, path, proving)
    step = int(np.logical_and.accumulate(test.proves(worse, better)).sum())  # up to the first that is not
    if not step and (goal.against in (Against.ACCURACY, Against.STATIC) or worse[0]):
        raise _nothing_proven(goal, losses[-1, proving], test)
    return Choice(
        point=_point(scores, losses, path[:, max(step - 1, 0)], cost),
        full=_point(scores, losses, path[:, 0], cost),
        curve=_curve(scores, losses, path, cost),
        proven_on=len(proving),
        useful_images=_useful_images(worse, better, test),
    )


def _test_on(images: int, goal: Goal) -> ExactTest:
    """The test that proves most, on all of the images or a few less."""
    test = most_useful(goal.test(images))
    if test is not None:
        return test
    needed = least_images(goal.test(images)) or "more than a million"
    raise DataError(
        f"{images} images cannot prove a drop of {in_points(goal.drop)} or less with "
        f"probability {goal.probability:g}: it takes {needed} to prove it if not one is answered "
        "worse, and more otherwise. Give more images (s2dnas-train --val-fraction), allow a larger drop or a "
        "smaller probability, or keep to a budget, which proves nothing (--target-ms, --target-macs)"
    )


def _nothing_proven(goal: Goal, losses: Losses, test: ExactTest) -> DataError:
    """Even the last exit is not good enough, or not surely; `losses` [N] are its own."""
    mean, images = float(losses.mean()), len(losses)
    if goal.against is Against.ACCURACY:
        return DataError(
            f"even if no image exits early, an accuracy of {100 * (1 - goal.bound):.2f}% is not proven: the "
            f"last exit has {100 * (1 - mean):.2f}% on {number_of(images, 'image')}"
        )
    remedy = "allow a larger drop, compare with the last exit (without --static), or train for longer"
    if mean < goal.bound:
        # n·mean ≤ n·α - z · √(n·q)  ⟺  n ≥ q · (z / (α - mean))²
        needed = float(np.abs(losses).mean()) * (test.z / (goal.bound - mean)) ** 2
        remedy = f"give more images, about {_rounded_up(needed)} if they are like these, or {remedy}"
    return DataError(
        f"even if no image exits early, at most {in_points(goal.drop)} below the static network's accuracy "
        f"is not proven: the last exit is {100 * abs(mean):.2f} points "
        f"{'below' if mean > 0 else 'above'} it on {number_of(images, 'image')}; {remedy}"
    )


def _rounded_up(count: float) -> int:
    """To two digits: no more of it is known."""
    unit: int = 10 ** max(len(str(int(count))) - 2, 0)
    return math.ceil(count / unit) * unit


def in_points(share: float) -> str:
    """A share as points, in words."""
    return f"{100 * share:g} point{'' if share == 0.01 else 's'}"


def choose_for_budget(
    scores: ExitScores, budget: float, cost: Sequence[float], against: Against = Against.LAST_EXIT
) -> Choice:
    """The thresholds of the least loss that cost no more than the budget on average; proves nothing."""
    if not budget >= min(cost):
        cheapest = "exit 0 alone" if scores.gate is None else "the cheapest way"
        raise OptionError(
            f"expected a budget of {min(cost):.4g} or more, what {cheapest} costs, got {budget:.4g}"
        )
    losses = losses_of(scores, against)
    every = np.arange(len(scores))
    best: tuple[float, float, Numbers, Numbers] | None = None
    for offset in _offsets(scores):
        path = _path(scores, offset, cost)
        worse, better = changes(scores, losses, path, every)
        spent = mean_cost(scores, path, every, cost)
        within = np.flatnonzero(spent <= budget * (1 + 1e-9))  # sums of shares are off by a rounding
        if not len(within):
            continue
        step = within[np.lexsort((spent[within], (worse - better)[within]))[0]]
        candidate = (float((worse - better)[step]), float(spent[step]), path[:, step], path)
        if best is None or candidate[:2] < best[:2]:
            best = candidate
    if best is None:
        raise OptionError(
            f"a budget of {budget:.4g} takes that all images take exit 0, which some never do: their "
            "confidence is 0 or less, or no number"
        )
    return Choice(
        point=_point(scores, losses, best[2], cost),
        full=_point(scores, losses, best[3][:, 0], cost),
        curve=_curve(scores, losses, best[3], cost),
    )


# --- the path ----------------------------------------------------------------------------------------------


def _offsets(scores: ExitScores) -> tuple[float, ...]:
    """Whose paths there are to choose among; one exit before the last, and a gate, have one path."""
    return _OFFSETS if scores.gate is None and scores.exits > 2 else (0.0,)


def _path(scores: ExitScores, offset: float, cost: Sequence[float]) -> Numbers:
    """Candidates [numbers, steps], from the one that loses nothing: thresholds, or a gate's offsets."""
    return path_of(offset, scores.exits) if scores.gate is None else path_of_gate(cost)


def path_of_gate(cost: Sequence[float]) -> Numbers:
    """Offsets [ways, steps], rising for all that costs less than the last way; rounded as numbers are."""
    spared = 1 - np.asarray(cost, np.float64) / cost[-1]
    rising = (_BALANCE[None, :] * spared[:, None]).astype(np.float32).astype(np.float64)
    last = np.array(only(len(cost) - 1, len(cost)))
    return np.concatenate([last[:, None], rising], axis=1)


def path_of(offset: float, exits: int) -> Numbers:
    """Thresholds [exits - 1, steps], falling from "never" to 0; rounded as confidences are."""
    k = np.arange(exits - 1)[:, None]
    falling = (1 / (1 + np.exp(-(_TAU[None, :] - offset * k)))).astype(np.float32).astype(np.float64)
    never, always = np.full((exits - 1, 1), NEVER), np.zeros((exits - 1, 1))
    return np.concatenate([never, falling, always], axis=1)


def losses_of(scores: ExitScores, against: Against) -> Losses:
    """Loss [exits, N] of letting each image leave at each exit."""
    if against is Against.ANSWERS:
        other: Losses = (scores.label != scores.label[-1]).astype(np.int8)
        return other
    if scores.truth is None:
        raise DataError(f"to compare with {against.value}, the true class of every image must be known")
    wrong = (scores.label != scores.truth).astype(np.int8)
    if against is Against.STATIC:
        assert scores.static is not None, "the static network was not asked"
        beside: Losses = wrong - (scores.static != scores.truth).astype(np.int8)
        return beside
    drop: Losses = wrong - wrong[-1]
    return wrong if against is Against.ACCURACY else drop


def _leaving_steps(scores: ExitScores, path: Numbers, rows: npt.NDArray[np.intp]) -> list[Numbers]:
    """For every exit, the step from which on an image exits there or earlier, [N]; 0 for the last.

    Thresholds above 1 are reached by nobody: a confidence counts as 1 at the most.
    """
    steps = path.shape[1]
    earliest = np.full(len(rows), steps)
    result = []
    for k, thresholds in enumerate(path):
        confidence = np.minimum(scores.confidence[k, rows], 1).astype(np.float64)
        reached = np.searchsorted(thresholds[::-1], confidence, side="right")
        step = np.where(np.isnan(confidence), steps, steps - reached)
        earliest = np.minimum(earliest, step)
        result.append(earliest)
    return [*result, np.zeros(len(rows), np.int64)]


def _along(path: Numbers, leaving: list[Numbers], values: Sequence[Numbers]) -> Numbers:
    """The sum over images, at every step, of the value of the exit where each leaves then."""
    steps = path.shape[1]
    change = np.zeros(steps + 1)
    until = np.full(len(leaving[0]), steps)
    for since, value in zip(leaving, values, strict=True):
        # exit k is an image's from the step where it exits there until the one where it leaves before
        change += np.bincount(since, value, steps + 1) - np.bincount(until, value, steps + 1)
        until = since
    return np.cumsum(change)[:steps]


def _sums(
    scores: ExitScores, path: Numbers, rows: npt.NDArray[np.intp], values: Sequence[Numbers]
) -> list[Numbers]:
    """Of each of the values [exits, rows]: their sum over images, at every step, at the exit taken then."""
    if scores.gate is None:
        leaving = _leaving_steps(scores, path, rows)
        return [_along(path, leaving, list(value)) for value in values]
    numbers, every = _comparable(scores.gate[rows]), np.arange(len(rows))
    sums = np.empty((len(values), path.shape[1]))
    for step, offsets in enumerate(path.T):
        way = (numbers + offsets_of(offsets)[:, None]).argmax(axis=0)  # as the rule `Largest`
        sums[:, step] = [value[way, every].sum() for value in values]
    return list(sums)


def _comparable(gate: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A gate's numbers [ways, N], where what is no number is the least."""
    return np.ascontiguousarray(np.where(np.isnan(gate), np.float32(-np.inf), gate).T)


def changes(
    scores: ExitScores, losses: Losses, path: Numbers, rows: npt.NDArray[np.intp]
) -> tuple[Numbers, Numbers]:
    """How many images have a loss of 1 and of -1, at every step."""
    lost = losses[:, rows]
    worse, better = _sums(scores, path, rows, [which.astype(np.float64) for which in (lost > 0, lost < 0)])
    return np.rint(worse), np.rint(better)


def mean_cost(
    scores: ExitScores, path: Numbers, rows: npt.NDArray[np.intp], cost: Sequence[float]
) -> Numbers:
    """The average cost at every step."""
    each = np.repeat(np.asarray(cost, np.float64)[:, None], len(rows), axis=1)
    return _sums(scores, path, rows, [each])[0] / len(rows)


# --- what comes out ----------------------------------------------------------------------------------------


def exits_taken(scores: ExitScores, thresholds: Sequence[float] | Numbers) -> npt.NDArray[np.int64]:
    """Where each image exits, [N]."""
    if scores.gate is not None:
        rule = Largest(of="gate", offsets=tuple(float(each) for each in thresholds))
        return rule.column(scores.gate).astype(np.int64)
    flow = chain([(f"stage_{k}", (), ()) for k in range(scores.exits)], [float(each) for each in thresholds])
    values = [{CONFIDENCE: confidence} for confidence in scores.confidence]
    return walk(course_of(flow), values, len(scores)).exit


def _point(
    scores: ExitScores, losses: Losses, thresholds: Sequence[float] | Numbers, cost: Sequence[float]
) -> Point:
    exits = exits_taken(scores, thresholds)
    every = np.arange(len(scores))
    right = None if scores.truth is None else float((scores.label[exits, every] == scores.truth).mean())
    shares = np.bincount(exits, minlength=scores.exits) / len(scores)
    return Point(
        thresholds=tuple(float(threshold) for threshold in thresholds),
        shares=tuple(shares.tolist()),
        cost=float(shares @ np.asarray(cost)),
        loss=float(losses[exits, every].mean()),
        accuracy=right,
    )


def _curve(scores: ExitScores, losses: Losses, path: Numbers, cost: Sequence[float]) -> tuple[Point, ...]:
    """Points along the path, so many that a picture looks smooth."""
    spent = mean_cost(scores, path, np.arange(len(scores)), cost)
    targets = np.linspace(spent[0], spent[-1], _CURVE_POINTS)
    steps = np.unique(np.searchsorted(-spent, -targets).clip(0, len(spent) - 1))
    return tuple(_point(scores, losses, path[:, step], cost) for step in steps)


_CURVE_POINTS = 60


def _useful_images(worse: Numbers, better: Numbers, test: ExactTest) -> int | None:
    """How many images would prove the candidate that was seen to lose α/2, by its spread here."""
    within = np.flatnonzero(worse - better <= test.alpha * test.images / 2)
    if not test.paired or not len(within):
        return None
    changed = float((worse + better)[within[-1]]) / test.images
    # s = n·α/2 ≤ n·α - z · √(n·q)  ⟺  n ≥ q · (2 · z / α)²
    return int(np.ceil(changed * (2 * test.z / test.alpha) ** 2))
