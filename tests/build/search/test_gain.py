"""The gain is the least by which logits of right classes must rise, and never takes away."""

import pytest
import torch

from s2dnas_deploy.build.search.gain import expected_gain, raised

TRUTH = torch.tensor([0, 1, 2, 0])
LOGITS = torch.tensor(
    [
        [3.0, 1.0, 0.0],  # right; leads by 2
        [2.0, 1.5, 0.0],  # lacks 0.5, which is its lead
        [1.0, 0.5, -1.0],  # lacks 2; leads by 0.5
        [0.0, 5.0, 0.0],  # lacks 5, which is its lead
    ]
)
SURENESS = 2.0  # (2 + 0.5 + 0.5 + 5) / 4


def accuracy(logits):
    return float((logits.argmax(1) == TRUTH).float().mean())


@pytest.mark.parametrize(("wanted", "rise"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.5), (0.6, 2.0), (1.0, 5.0)])
def test_it_is_the_least_that_reaches_the_accuracy(wanted, rise):
    gain = expected_gain([LOGITS], TRUTH, wanted)
    assert gain == pytest.approx(rise / SURENESS)
    assert accuracy(raised(LOGITS[None], TRUTH, gain + 1e-4)[0]) >= wanted
    if gain:
        assert accuracy(raised(LOGITS[None], TRUTH, gain - 1e-4)[0]) < wanted


def test_the_best_of_the_exits_counts():
    better = LOGITS.clone()
    better[3] = torch.tensor([1.0, 6.0, 1.0])
    better[3, 0] = 4.0  # lacks 2 and leads by 2
    assert expected_gain([LOGITS, better], TRUTH, 1.0) == pytest.approx(2.0 / ((2 + 0.5 + 0.5 + 2) / 4))


def test_only_right_classes_rise_and_by_how_sure_the_exit_is():
    both = torch.stack([LOGITS, 0.01 * LOGITS])  # the second exit knows as much, and is not sure of it
    moved = raised(both, TRUTH, 1.5) - both
    expected = torch.zeros(2, 4, 3)
    expected[0, torch.arange(4), TRUTH] = 1.5 * SURENESS
    expected[1, torch.arange(4), TRUTH] = 0.01 * 1.5 * SURENESS
    assert torch.allclose(moved, expected)
