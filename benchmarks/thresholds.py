"""The cheapest thresholds on a grid that are as accurate as asked: what a plan can do, promises aside."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.rules import NEVER
from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.decide.thresholds import exits_taken
from s2dnas_deploy.sessions.every_stage import StageAnswer

GRID = (*np.arange(0.3, 1.0, 0.02), 0.99, 0.995, NEVER)


@dataclass(frozen=True, kw_only=True)
class Leaving:
    """What certain thresholds amount to on some images."""

    thresholds: tuple[float, ...]
    accuracy: float
    shares: tuple[float, ...]
    cost: float


def scores_from(answers: Sequence[StageAnswer], truth: npt.NDArray[np.int64]) -> ExitScores:
    """The answers of all stages to the same images."""
    return ExitScores(
        label=np.stack([answer.label for answer in answers]),
        confidence=np.stack([answer.confidence for answer in answers]),
        truth=truth,
    )


def exit_accuracy(scores: ExitScores) -> list[float]:
    """The share of images that each exit is right about."""
    shares: list[float] = (scores.label == scores.truth).mean(axis=1).tolist()
    return shares


def leaving(scores: ExitScores, thresholds: Sequence[float], exit_cost: Sequence[float]) -> Leaving:
    """What images do that leave as soon as an exit is sure enough; `exit_cost` is the cost up to each."""
    assert scores.truth is not None, "an accuracy needs labels"
    exits = exits_taken(scores, thresholds)
    shares = np.bincount(exits, minlength=scores.exits) / len(scores)
    return Leaving(
        thresholds=tuple(float(threshold) for threshold in thresholds),
        accuracy=float((scores.label[exits, np.arange(len(scores))] == scores.truth).mean()),
        shares=tuple(shares.tolist()),
        cost=float(shares @ np.asarray(exit_cost)),
    )


def menus_of(scores: ExitScores) -> list[list[float]]:
    """Where the threshold of each exit but the last may lie: at every 80th part of its confidences."""
    shares = np.linspace(0, 1, 81)
    return [[*np.quantile(confidence, shares).tolist(), NEVER] for confidence in scores.confidence[:-1]]


def cheapest(
    scores: ExitScores, goal: float, exit_cost: Sequence[float], menus: Iterable[Iterable[float]]
) -> Leaving:
    """The least mean cost at which they are as accurate as `goal`; else what is most accurate."""
    tried = [leaving(scores, thresholds, exit_cost) for thresholds in itertools.product(*menus)]
    enough = [each for each in tried if each.accuracy >= goal]
    if enough:
        return min(enough, key=lambda each: each.cost)
    return max(tried, key=lambda each: each.accuracy)
