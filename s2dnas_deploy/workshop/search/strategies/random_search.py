"""Plans drawn at random: what every other strategy must beat to be worth its name."""

from typing import Any

import numpy as np

from s2dnas_deploy.workshop.search.space.space import SearchSpace
from s2dnas_deploy.workshop.search.strategies.strategy import Judge

BATCH = 8
_MOST_REPEATS = 1000  # so many draws with nothing new: the space is exhausted


def search(space: SearchSpace, judge: Judge[Any], rng: np.random.Generator) -> None:
    """Ask about draws, each but once."""
    repeats = 0
    while judge.left and repeats < _MOST_REPEATS:
        drawn = dict.fromkeys(space.draw(rng) for _ in range(BATCH))
        before = judge.left
        judge(list(drawn))
        repeats = 0 if judge.left < before else repeats + 1
