"""What every strategy is handed: a space, a judge with a budget, and randomness. It gives back nothing.

Place in the flow: `search(space, judge, rng)` asks the judge about choices until its budget is spent or
it has nothing new to ask. What was asked and answered is the judge's to keep. A strategy knows nothing of
networks.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from s2dnas_deploy.build.search.space import Choices, SearchSpace

Evaluate = Callable[[Sequence[Choices]], Sequence[float]]


class Strategy(Protocol):
    """Looks for the choices of the highest score."""

    def __call__(self, space: SearchSpace, judge: "Judge", rng: np.random.Generator) -> None:
        """Ask `judge` until its budget is spent, or nothing new is left to ask."""


class Judge:
    """Scores choices, each but once; who asks again gets the same answer for free."""

    def __init__(self, evaluate: Evaluate, budget: int) -> None:
        self._evaluate = evaluate
        self.budget = budget
        self.scores: dict[Choices, float] = {}
        """What was asked and answered, in that order."""

    @property
    def left(self) -> int:
        """How many new choices may still be asked about."""
        return self.budget - len(self.scores)

    def __call__(self, asked: Sequence[Choices]) -> list[float | None]:
        """The score of each; None where the budget did not reach."""
        new = [choices for choices in dict.fromkeys(asked) if choices not in self.scores][: self.left]
        if new:
            self.scores.update(zip(new, self._evaluate(new), strict=True))
        return [self.scores.get(choices) for choices in asked]

    @property
    def best(self) -> Choices:
        """The choices of the highest score; of equals, the first asked about."""
        return max(self.scores, key=lambda choices: self.scores[choices])
