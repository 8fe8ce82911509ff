"""What every strategy is handed: a space, a judge with a budget, and randomness. It gives back nothing.

Place in the flow: `search(space, judge, rng)` asks the judge about choices until its budget is spent or
it has nothing new to ask. What was asked and answered is the judge's to keep. A strategy knows nothing of
networks.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace

C = TypeVar("C")


class Strategy(Protocol):
    """Looks for the choices of the highest score."""

    def __call__(self, space: SearchSpace, judge: "Judge[Any]", rng: np.random.Generator) -> None:
        """Ask `judge` until its budget is spent, or nothing new is left to ask."""


class Judge(Generic[C]):
    """Scores choices, each but once; who asks again gets the same answer for free.

    Choices become a candidate when they are first asked about, once, and `evaluate` is asked about that.
    `effect` tells candidates apart: those of one effect are one question.
    """

    def __init__(
        self,
        evaluate: Callable[[Sequence[C]], Sequence[float]],
        budget: int,
        *,
        candidate_of: Callable[[Choices], C],
        effect: Callable[[C], Hashable],
    ) -> None:
        self._evaluate, self._candidate_of, self._effect = evaluate, candidate_of, effect
        self.budget = budget
        self.scores: dict[Choices, float] = {}
        """What was asked and answered, in that order; of one effect, the choices asked about first."""
        self._first: dict[Hashable, Choices] = {}
        self._known: dict[Choices, Choices] = {}
        """The choices of the same effect that were asked about first."""

    @property
    def left(self) -> int:
        """How many new choices may still be asked about."""
        return self.budget - len(self.scores)

    def __call__(self, asked: Sequence[Choices]) -> list[float | None]:
        """The score of each; None where the budget did not reach."""
        first = self._met(asked)
        meant = [self._known[choices] for choices in asked]
        new = list(first)[: self.left]
        if new:
            scores = self._evaluate([first[choices] for choices in new])
            self.scores.update(zip(new, scores, strict=True))
        return [self.scores.get(choices) for choices in meant]

    def _met(self, asked: Sequence[Choices]) -> dict[Choices, C]:
        """Candidates of an effect that was never asked about, by their choices."""
        first = {}
        for choices in asked:
            if choices not in self._known:
                candidate = self._candidate_of(choices)
                self._known[choices] = self._first.setdefault(self._effect(candidate), choices)
                if self._known[choices] == choices:
                    first[choices] = candidate
        return first

    @property
    def best(self) -> Choices:
        """The choices of the highest score; of equals, the first asked about."""
        return max(self.scores, key=lambda choices: self.scores[choices])
