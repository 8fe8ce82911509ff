"""Intervals hold for another run: of made-up runs whose truth is known."""

import numpy as np
import pytest

from s2dnas_deploy.bench.spread import estimate, estimate_ratio, widened


def runs(rng, *, processes=5, blocks=60, batches=8, between=0.02, within=0.05, truth=1.0):
    """Timings with a share of their own for every process."""
    return [
        truth * (1 + between * rng.standard_normal()) * (1 + within * rng.standard_normal((blocks, batches)))
        for _ in range(processes)
    ]


def mean(timings):
    return [float(timings.mean())]


def test_few_processes_widen_by_students_quantile():
    assert widened(1) == 1.0
    assert widened(2) == pytest.approx(np.sqrt(2) * 12.706 / 1.95996, rel=0.01)
    assert widened(5) == pytest.approx(np.sqrt(5 / 4) * 2.7764 / 1.95996, rel=0.001)
    assert widened(5, level=0.999, degrees=8) == pytest.approx(np.sqrt(5 / 4) * 5.0413 / 3.2905, rel=0.001)
    assert widened(1000) == pytest.approx(1.0, abs=0.01)


def test_an_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        (found,) = estimate(runs(rng), mean)
        assert found.low <= found.value <= found.high
        held += found.low <= 1.0 <= found.high
    assert 85 <= held <= 100


def test_times_and_ratios_are_above_zero_however_little_is_known():
    rng = np.random.default_rng(0)
    slow, fast = (runs(rng, processes=2, between=0.5, truth=truth) for truth in (1.0, 0.5))
    for found in (*estimate(slow, mean), estimate_ratio(slow, fast)):
        assert 0 < found.low < 0.2 * found.value
        assert found.high > 5 * found.value


def test_a_clock_that_is_too_coarse_to_tell_is_no_error():
    (found,) = estimate([np.zeros((4, 2)), np.zeros((4, 2))], mean)
    assert (found.low, found.value, found.high) == (0.0, 0.0, 0.0)


def test_what_is_no_number_does_not_count():
    (found,) = estimate([np.array([[1.0, np.nan], [3.0, np.nan]])], mean)
    assert found.value == 2.0


def test_a_ratio_is_of_sums_and_takes_out_what_both_share():
    rng = np.random.default_rng(0)
    mood = [1 + 0.5 * rng.random((50, 1)) for _ in range(4)]
    above, below = ([factor * each * np.ones((50, 4)) for each in mood] for factor in (3.0, 1.5))
    found = estimate_ratio(above, below)
    assert found.value == pytest.approx(2.0)
    assert found.high - found.low < 1e-9
