"""Probabilities at the temperature found mean what they say, and answers stay as they were."""

import numpy as np
import pytest

from s2dnas_deploy.decide.temperature import at_temperature, calibration_error, fit_temperature
from s2dnas_deploy.errors import RecordError


def softmax(logits):
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


def honest(images, classes, seed=0):
    """Logits, and true classes drawn with just the probabilities that these give."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(images, classes))
    drawn = softmax(logits).cumsum(1) < rng.random((images, 1))
    return logits, np.minimum(drawn.sum(1), classes - 1).astype(np.int64)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("boast", [0.5, 1.0, 3.0])
def test_who_boasts_is_brought_down_and_who_is_shy_up(boast, classes):
    logits, truth = honest(20_000, classes)
    fit = fit_temperature(softmax(boast * logits), truth)
    assert fit.temperature == pytest.approx(boast, rel=0.05)
    assert fit.error < 0.015
    if boast != 1:
        assert fit.error_before > 3 * fit.error


def test_the_answer_stays_and_all_adds_up_to_one():
    logits, _ = honest(1000, 10)
    told = softmax(logits)
    for temperature in (0.25, 1.0, 4.0):
        other = at_temperature(told, temperature)
        assert other.dtype == np.float32
        assert np.array_equal(other.argmax(1), told.argmax(1))
        assert np.allclose(other.sum(1), 1, atol=1e-6)
        assert np.allclose(other, softmax(logits / temperature), atol=1e-5)
    assert at_temperature(told, 1.0) is told


def test_certainty_is_no_error_of_arithmetic():
    certain = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    fit = fit_temperature(certain, np.array([0, 1, 2, 1]))
    assert np.isfinite(fit.temperature)
    assert fit.error_before == pytest.approx(0.25)
    assert np.isfinite(at_temperature(certain, fit.temperature)).all()
    always_right = fit_temperature(certain, np.array([0, 1, 2, 0]))
    assert always_right.error == 0


def test_the_error_is_how_far_bins_are_from_the_share_of_right_answers():
    probability = np.array([0.95, 0.95, 0.55, 0.55], np.float32)
    right = np.array([True, True, True, False])
    assert calibration_error(probability, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert calibration_error(np.ones(4, np.float32), np.zeros(4, bool)) == 1


def test_a_fit_that_cannot_be_is_refused():
    from s2dnas_deploy.decide.temperature import TemperatureFit

    for wrong in ({"temperature": 0.0}, {"error": 1.5}, {"error_before": float("nan")}):
        with pytest.raises(RecordError):
            TemperatureFit(**{"temperature": 1.0, "error_before": 0.1, "error": 0.1, **wrong})
