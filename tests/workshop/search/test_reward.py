"""The reward of plans whose exits were made up by hand."""

import numpy as np
import pytest

from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.workshop.search.judging.reward import BETA, worth_of

# Ten images; exit 0 is right on six and sure of those, the last exit on all.
TRUTH = np.zeros(10, np.int64)
SCORES = ExitScores(
    label=np.array([[0] * 6 + [1] * 4, [0] * 10]),
    confidence=np.array([[0.9] * 6 + [0.2] * 4, [0.9] * 10], np.float32),
    truth=TRUTH,
)

SCORES_OF_A_WORSE = ExitScores(
    label=np.array([[0] * 4 + [1] * 6, [0] * 10]), confidence=np.full((2, 10), 0.5, np.float32), truth=TRUTH
)


def test_within_the_budget_it_is_the_accuracy_of_the_dynamic_network():
    worth = worth_of(SCORES, (0.1, 1.0), 0.46)
    assert worth.reward == worth.accuracy == 1.0
    assert worth.cost == pytest.approx(0.6 * 0.1 + 0.4 * 1.0)
    assert worth.exit_share == (0.6, 0.4)
    assert worth.exit_accuracy == (0.6, 1.0)


def test_a_tighter_budget_lets_unsure_images_leave():
    worth = worth_of(SCORES, (0.1, 1.0), 0.2)
    assert worth.cost == pytest.approx(0.1)
    assert worth.reward == pytest.approx(0.6)


def test_a_first_exit_beyond_the_budget_is_penalised_in_proportion():
    worth = worth_of(SCORES, (0.3, 1.0), 0.2)
    assert worth.reward == pytest.approx(0.6 - BETA * 0.5)
    assert (worth.accuracy, worth.cost) == (0.6, 0.3)
    assert worth_of(SCORES, (0.4, 1.0), 0.2).reward < worth.reward


def test_what_keeps_to_the_target_ranks_above_what_does_not():
    slightly_over, well_within = (
        worth_of(SCORES, (0.201, 1.0), 0.2),
        worth_of(SCORES_OF_A_WORSE, (0.1, 1.0), 0.2),
    )
    assert slightly_over.reward > well_within.reward
    assert (slightly_over.fits, well_within.fits) == (False, True)
    assert well_within.rank > slightly_over.rank
