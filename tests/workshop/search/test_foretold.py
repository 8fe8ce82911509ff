"""What exits are expected to say once they are trained: accuracy as foretold, and nothing else changed."""

import numpy as np
import pytest

from s2dnas_deploy.decide.scores import ExitScores
from s2dnas_deploy.workshop.search.judging.foretold import foretold

CLASSES = 5


def scores(accuracies, images=1000, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, CLASSES, images)
    label = np.stack([truth] * len(accuracies))
    for exit_, accuracy in zip(label, accuracies, strict=True):
        wrong = rng.permutation(images)[: round((1 - accuracy) * images)]
        exit_[wrong] = (exit_[wrong] + 1) % CLASSES
    confidence = rng.random(label.shape, np.float32)
    return ExitScores(label=label, confidence=confidence, truth=truth)


def accuracies(said):
    return (said.label == said.truth).mean(axis=1)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 1.0])
def test_what_an_exit_lacks_shrinks_to_a_part(kept):
    said = scores((0.3, 0.6, 0.9))
    after = foretold(said, 0.8, kept)
    expected = (0.8 - kept * 0.5, 0.8 - kept * 0.2, 0.9)  # the last is above already
    assert accuracies(after) == pytest.approx(expected, abs=1e-3)
    np.testing.assert_array_equal(after.confidence, said.confidence)
    assert accuracies(said) == pytest.approx((0.3, 0.6, 0.9))  # itself unchanged


def test_only_errors_change_and_they_do_whatever_the_confidence():
    said = scores((0.4,))
    after = foretold(said, 0.9, 0.2)
    changed = after.label[0] != said.label[0]
    assert (said.label[0][changed] != said.truth[changed]).all()
    assert (after.label[0][changed] == said.truth[changed]).all()
    was_wrong = said.label[0] != said.truth
    confident = said.confidence[0] > np.median(said.confidence[0][was_wrong])
    assert changed[confident].sum() == pytest.approx(changed[~confident & was_wrong].sum(), abs=2)


def test_of_two_plans_the_one_whose_later_exit_is_better_wins_once_gaps_have_shrunk():
    """On shared weights a large first exit is ahead of a small one before a better last one."""
    large, small = scores((0.5, 0.55)), scores((0.4, 0.6), seed=1)
    assert accuracies(large)[0] - accuracies(small)[0] == pytest.approx(0.1)
    gap = accuracies(foretold(large, 0.7, 0.1)) - accuracies(foretold(small, 0.7, 0.1))
    assert gap == pytest.approx((0.01, -0.005), abs=2e-3)


def test_an_exit_without_errors_stays_as_it_is():
    said = scores((1.0,))
    np.testing.assert_array_equal(foretold(said, 1.0, 0.1).label, said.label)
