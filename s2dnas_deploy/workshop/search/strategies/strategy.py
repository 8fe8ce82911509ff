"""What every strategy is handed: a space, a judge with a budget, and randomness. It gives back nothing.

Place in the flow: `search(space, judge, rng)` asks the judge about choices until its budget is spent or
it has nothing new to ask. What was asked and answered is the judge's to keep. A strategy knows nothing of
networks.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

import numpy as np

from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace

Evaluate = Callable[[Sequence[Choices]], Sequence[float]]


class Strategy(Protocol):
    """Looks for the choices of the highest score."""

    def __call__(self, space: SearchSpace, judge: "Judge", rng: np.random.Generator) -> None:
        """Ask `judge` until its budget is spent, or nothing new is left to ask."""


def _as_they_are(choices: Choices) -> Hashable:
    return choices


class Judge:
    """Scores choices, each but once; who asks again gets the same answer for free.

    `effect` tells choices apart: those of one effect are one question.
    """

    def __init__(
        self, evaluate: Evaluate, budget: int, effect: Callable[[Choices], Hashable] = _as_they_are
    ) -> None:
        self._evaluate, self._effect = evaluate, effect
        self.budget = budget
        self.scores: dict[Choices, float] = {}
        """What was asked and answered, in that order; of one effect, the choices asked about first."""
        self._first: dict[Hashable, Choices] = {}
        self._known: dict[Choices, Choices] = {}

    @property
    def left(self) -> int:
        """How many new choices may still be asked about."""
        return self.budget - len(self.scores)

    def __call__(self, asked: Sequence[Choices]) -> list[float | None]:
        """The score of each; None where the budget did not reach."""
        meant = [self._meant(choices) for choices in asked]
        new = [choices for choices in dict.fromkeys(meant) if choices not in self.scores][: self.left]
        if new:
            self.scores.update(zip(new, self._evaluate(new), strict=True))
        return [self.scores.get(choices) for choices in meant]

    def _meant(self, choices: Choices) -> Choices:
        """The choices of the same effect that were asked about first."""
        if choices not in self._known:
            self._known[choices] = self._first.setdefault(self._effect(choices), choices)
        return self._known[choices]

    @property
    def best(self) -> Choices:
        """The choices of the highest score; of equals, the first asked about."""
        return max(self.scores, key=lambda choices: self.scores[choices])
