"""Plans that breed: optuna's genetic sampler, the library's strategy that the policy is held against.

optuna, because it is well kept, pure Python, asks and tells, and takes a seed. Its NSGA-II with one
objective is a plain genetic algorithm: tournaments, uniform crossover, mutation. Choices are handed over
as whole numbers; where one is not allowed after what was chosen before it, the next allowed option stands
for it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from s2dnas_deploy.workshop.search.space.space import Choices, SearchSpace, Slot
from s2dnas_deploy.workshop.search.strategies.strategy import Judge

if TYPE_CHECKING:
    import optuna

POPULATION = 20
_MOST_REPEATS = 25  # so many generations with nothing new: the population has become one


def search(space: SearchSpace, judge: Judge[Any], rng: np.random.Generator) -> None:
    """Breed until the budget is spent, or until nothing new is born."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = int(rng.integers(2**31))
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    repeats = 0
    while judge.left and repeats < _MOST_REPEATS:
        generation = [study.ask() for _ in range(POPULATION)]
        before = len(judge.scores)
        scores = judge([_choices_of(trial, space) for trial in generation])
        repeats = 0 if len(judge.scores) > before else repeats + 1
        for trial, score in zip(generation, scores, strict=True):
            if score is not None:
                study.tell(trial, score)


def _choices_of(trial: "optuna.trial.Trial", space: SearchSpace) -> Choices:
    def choose(slot: Slot, allowed: Sequence[bool]) -> int:
        wanted = int(trial.suggest_int(slot.name, 0, len(slot.options) - 1))
        order = [*range(wanted, len(allowed)), *range(wanted)]
        option: int = next(option for option in order if allowed[option])
        return option

    return space.walk(choose)
