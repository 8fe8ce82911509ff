"""The tests that promises rest on: their level is kept, whatever the truth, and little is wasted."""

import math
from dataclasses import replace

import numpy as np
import pytest

from s2dnas_deploy.decide.exact_tests import (
    ExactTest,
    _cdfs_along,
    binomial_cdf,
    least_images,
    most_useful,
    smallest_drop,
)
from s2dnas_deploy.errors import OptionError


def test_binomial_cdf_is_the_sum_of_its_terms():
    for n, p in ((1, 0.3), (10, 0.5), (37, 0.01), (200, 0.97)):
        terms = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        for k in range(-1, n + 1):
            assert binomial_cdf(k, n, p) == pytest.approx(sum(terms[: k + 1]), abs=1e-12)


def test_cdfs_along_a_path_are_those_of_each_of_its_points():
    trials = np.arange(3, 120)
    for share in (0.02, 0.5, 0.9, 1.0):
        most = np.random.default_rng(0).integers(-5, 5, len(trials)) + (trials * share).astype(int)
        expected = [binomial_cdf(int(m), int(n), share) for m, n in zip(most, trials, strict=True)]
        assert _cdfs_along(most, trials, share) == pytest.approx(expected, abs=1e-12)


def test_of_zeros_and_ones_as_many_are_allowed_as_the_binomial_allows():
    test = ExactTest(images=1000, alpha=0.02, delta=0.05, paired=False)
    most = max(s for s in range(1000) if binomial_cdf(s, 1000, 0.02) <= 0.05)
    assert test.proves(most, 0)
    assert not test.proves(most + 1, 0)


@pytest.mark.parametrize("images", [800, 3000, 10_000])
@pytest.mark.parametrize("alpha", [0.005, 0.02])
def test_the_paired_test_errs_as_often_as_it_may_and_hardly_less(images, alpha):
    test = ExactTest(images=images, alpha=alpha, delta=0.05, paired=True)
    generator = np.random.default_rng(images)
    worst = 0.0
    for share in (alpha, 1.1 * alpha, 1.5 * alpha, 3 * alpha, 8 * alpha, 20 * alpha):
        ones, minus = (share + alpha) / 2, (share - alpha) / 2
        draws = generator.multinomial(images, [ones, minus, 1 - share], 20_000)
        errors = test.proves(draws[:, 0], draws[:, 1]).mean()
        # the truth is at α, where the test may err in 5% of all draws; 4 standard errors of 20,000 of them
        assert errors <= 0.05 + 4 * math.sqrt(0.05 * 0.95 / 20_000)
        worst = max(worst, errors)
    assert worst > 0.025
    # the normal approximation, which errs more often, has 1.645
    assert test.z < (2.6 if images * alpha < 10 else 1.9)


def test_more_images_prove_smaller_drops():
    few, many = (ExactTest(images=n, alpha=0.01, delta=0.05, paired=True) for n in (1000, 10_000))
    assert not few.proves(40, 35)
    assert many.proves(400, 350)


def test_least_images_is_the_least():
    for paired in (True, False):
        test = ExactTest(images=1, alpha=0.01, delta=0.05, paired=paired)
        least = least_images(test)
        assert replace(test, images=least).proves(0, 0)
        assert not replace(test, images=least - 1).proves(0, 0)
        if not paired:
            assert least == math.ceil(math.log(0.05) / math.log(0.99))


@pytest.mark.parametrize("images", [1, 20, 240, 5000])
def test_the_smallest_drop_is_the_first_that_could_be_proven(images):
    def could_be_proven(drop):
        return ExactTest(images=images, alpha=drop, delta=0.05, paired=True).proves(0, 0)

    smallest = smallest_drop(images, 0.95)
    assert smallest == 1.0 or could_be_proven(smallest)
    assert smallest == 0.001 or not could_be_proven(smallest - 0.001)


def test_where_counts_are_unlucky_a_few_images_less_are_used():
    unlucky = ExactTest(images=402, alpha=0.01, delta=0.05, paired=True)
    assert not unlucky.proves(0, 0)
    assert most_useful(unlucky).images == 398
    assert most_useful(replace(unlucky, images=500)).images == 500


def test_too_few_images_are_told_from_unlucky_counts_at_once():
    assert most_useful(ExactTest(images=350, alpha=0.01, delta=0.05, paired=True)) is None
    assert most_useful(ExactTest(images=1_000_000, alpha=1e-7, delta=0.05, paired=True)) is None


@pytest.mark.parametrize("paired", [True, False])
def test_more_images_than_anyone_has_are_not_counted(paired):
    for alpha in (1e-7, 1e-12, 1e-300):
        assert least_images(ExactTest(images=100, alpha=alpha, delta=0.05, paired=paired)) is None


def test_no_drop_and_certainty_cannot_be_tested():
    with pytest.raises(OptionError, match="a drop between 0 and 1"):
        ExactTest(images=10, alpha=0.0, delta=0.05, paired=True)
    for delta in (0.0, 1e-10, 1.0, float("nan")):
        with pytest.raises(OptionError, match=r"a probability between 0 and 0\.999999999"):
            ExactTest(images=10, alpha=0.1, delta=delta, paired=True)


@pytest.mark.parametrize("delta", [1e-9, 1e-6])
def test_near_certainty_is_as_exact(delta):
    """Less than what is left out of a binomial's tails could not be told from nothing, and was promised."""
    least = least_images(ExactTest(images=1, alpha=0.01, delta=delta, paired=False))
    assert least == math.ceil(math.log(delta) / math.log(0.99))
