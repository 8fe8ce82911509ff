"""What a plan is worth: the accuracy of its *dynamic* network within a budget of cost.

Place in the flow: what every exit says of some images, and what it costs to get there ──▶ `Worth`. With c_k
the cost of an image that exits at k, and T the target for the average:

    thresholds   those of the highest accuracy A among all with an average cost C ≤ T
    reward       A                                    if there are such
                 A_0 - β · (c_0 / T - 1)              if even exit 0 costs more; A_0 is its accuracy

Of nested widths, which the caller picks from, each has a target of its own, from T for the thinnest to 1 for
the widest, each so many times the one before:

    T_k = T^((K - 1 - k) / (K - 1))        reward = mean over k of A_k - β · max(0, c_k / T_k - 1)

The paper weighs accuracy against cost too, by constants that were not at hand; this form is of this package's
own making. It needs none but β, for a plan is only ever compared at the cost that the user asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated

from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import choose_for_budget
from s2dnas_deploy.files.bounds import Between, Share

BETA = 0.5
NEARLY = 0.05
"""By so much a width may be over its target: it is timed again before it wins, and clocks differ."""
_Cost = Annotated[float, Between(0, 10**9)]


@dataclass(frozen=True, kw_only=True)
class Worth:
    """A plan's reward and where it comes from; costs are relative to the static network's."""

    reward: float
    accuracy: Share
    cost: _Cost
    exit_accuracy: tuple[Share, ...]
    exit_cost: tuple[_Cost, ...]
    exit_share: tuple[Share, ...]
    fits: bool
    """Whether there are thresholds by which it costs no more than the target; or widths keep to theirs."""

    @property
    def rank(self) -> tuple[bool, float]:
        """What plans are ranked by: a reward shows a strategy the way, but what does not fit is no answer."""
        return self.fits, self.reward


def worth_of(scores: ExitScores, exit_cost: Sequence[float], target: float) -> Worth:
    """The worth of a plan whose exits say `scores` of labelled images; `exit_cost` grows with the exit."""
    assert scores.truth is not None, "a reward needs labels"
    exit_accuracy = tuple((scores.label == scores.truth).mean(axis=1).tolist())
    fits = exit_cost[0] <= target
    if not fits:
        accuracy, cost = exit_accuracy[0], exit_cost[0]
        shares = (1.0, *[0.0] * (len(exit_cost) - 1))
        reward = accuracy - BETA * (cost / target - 1)
    else:
        point = choose_for_budget(scores, target, exit_cost).point
        assert point.accuracy is not None, "labels were given"
        accuracy, cost, shares = point.accuracy, point.cost, point.shares
        reward = accuracy
    return Worth(
        reward=reward,
        accuracy=accuracy,
        cost=cost,
        exit_accuracy=exit_accuracy,
        exit_cost=tuple(exit_cost),
        exit_share=shares,
        fits=fits,
    )


def targets_of_widths(target: float, widths: int) -> tuple[float, ...]:
    """What each of so many widths may cost, the thinnest `target`, as a share of the static network's."""
    return tuple(float(target ** ((widths - 1 - k) / (widths - 1))) for k in range(widths))


def target_that_fits(width_cost: Sequence[float]) -> float:
    """The least target with which all widths keep to theirs: the greatest c_k^((K - 1) / (K - 1 - k))."""
    last = len(width_cost) - 1
    return max(float(cost ** (last / (last - k))) for k, cost in enumerate(width_cost[:-1]))


def worth_of_widths(scores: ExitScores, width_cost: Sequence[float], target: float) -> Worth:
    """The worth of a plan of widths; `scores` are what each says of labelled images."""
    assert scores.truth is not None, "a reward needs labels"
    accuracy = tuple((scores.label == scores.truth).mean(axis=1).tolist())
    targets = targets_of_widths(target, len(width_cost))
    over = [max(0.0, cost / most - 1) for cost, most in zip(width_cost, targets, strict=True)]
    return Worth(
        reward=fmean(accuracy) - BETA * fmean(over),
        accuracy=fmean(accuracy),
        cost=fmean(width_cost),
        exit_accuracy=accuracy,
        exit_cost=tuple(width_cost),
        exit_share=(1 / len(accuracy),) * len(accuracy),
        fits=max(over) <= NEARLY,
    )
