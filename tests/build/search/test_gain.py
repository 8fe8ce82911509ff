"""The gain is the least by which logits of right classes must rise, and never takes away."""

import pytest
import torch

from s2dnas_deploy.build.search.gain import expected_gain, raised

TRUTH = torch.tensor([0, 1, 2, 0])
LOGITS = torch.tensor(
    [
        [3.0, 1.0, 0.0],  # right
        [2.0, 1.5, 0.0],  # lacks 0.5
        [1.0, 0.0, -1.0],  # lacks 2
        [0.0, 4.0, 0.0],  # lacks 4
    ]
)


def accuracy(logits):
    return float((logits.argmax(1) == TRUTH).float().mean())


@pytest.mark.parametrize(("wanted", "gain"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.6, 2.0), (1.0, 4.0)])
def test_it_is_the_least_that_reaches_the_accuracy(wanted, gain):
    assert expected_gain([LOGITS], TRUTH, wanted) == gain
    assert accuracy(raised(LOGITS[None], TRUTH, gain + 1e-4)[0]) >= wanted
    if gain:
        assert accuracy(raised(LOGITS[None], TRUTH, gain - 1e-4)[0]) < wanted


def test_the_best_of_the_exits_counts():
    better = LOGITS.clone()
    better[3, 0] = 3.0
    assert expected_gain([LOGITS, better], TRUTH, 1.0) == 2.0


def test_only_right_classes_rise():
    moved = raised(torch.stack([LOGITS, 2 * LOGITS]), TRUTH, 1.5) - torch.stack([LOGITS, 2 * LOGITS])
    expected = torch.zeros(4, 3)
    expected[torch.arange(4), TRUTH] = 1.5
    assert torch.equal(moved, expected.expand(2, 4, 3))
