"""How far what an exit calls probable is from how often it is right, and the temperature that brings it near.

    p_T[c] ∝ p[c]^(1/T)          error = Σ over bins of (images in it / all) · |mean of max p - share right|

T is where the true classes are likeliest. Their likelihood is concave in 1/T, so there is one such T. The
answer stays the same, and so does what exits early: thresholds look at the confidence, which is as it was.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import RecordError
from s2dnas_deploy.files.bounds import Between, Share
from s2dnas_deploy.files.document import check_record

Numbers = npt.NDArray[np.floating[Any]]

_COLDEST, _HOTTEST = 1 / 16, 16.0
_BINS = 15  # as is usual
_LEAST = 1e-30  # of a probability, which a float32 may have lost
_GOLDEN = (5**0.5 - 1) / 2
_TRIED = 40  # times; each leaves 0.62 of where the best may be


@dataclass(frozen=True, kw_only=True)
class TemperatureFit:
    """The temperature of an exit's probabilities, and the calibration error without it and with it."""

    temperature: Annotated[float, Between(_COLDEST, _HOTTEST)]
    error_before: Share
    error: Share

    def __post_init__(self) -> None:
        check_record(self, RecordError)


def at_temperature(probabilities: Numbers, temperature: float) -> Numbers:
    """What is called probable, [N, classes], at another temperature; 1 changes nothing."""
    if temperature == 1:
        return probabilities
    logs = np.log(np.maximum(probabilities, _LEAST)) / temperature
    powers = np.exp(logs - logs.max(1, keepdims=True))
    told: Numbers = (powers / powers.sum(1, keepdims=True)).astype(probabilities.dtype)
    return told


def fit_temperature(probabilities: Numbers, truth: npt.NDArray[np.int64]) -> TemperatureFit:
    """The temperature at which the true classes, [N], are likeliest by these probabilities, [N, classes]."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), _LEAST))
    rows = np.arange(len(truth))

    def unlikelihood(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        highest = scaled.max(1)
        total = highest + np.log(np.exp(scaled - highest[:, None]).sum(1))
        return float((total - scaled[rows, truth]).mean())

    temperature = float(np.exp(_lowest(unlikelihood, np.log(_COLDEST), np.log(_HOTTEST))))
    # Rounded to what a person reads, and within bounds.
    temperature = min(max(round(temperature, 4), _COLDEST), _HOTTEST)
    error_before, error = (
        calibration_error(told.max(1), told.argmax(1) == truth)
        for told in (probabilities, at_temperature(probabilities, temperature))
    )
    return TemperatureFit(temperature=temperature, error_before=error_before, error=error)


def calibration_error(probability: Numbers, right: npt.NDArray[np.bool_]) -> float:
    """How far the answers' probabilities, [N], are from the share of right ones, in bins of equal width."""
    bins = np.minimum((probability * _BINS).astype(np.int64), _BINS - 1)
    apart = np.bincount(bins, probability.astype(np.float64), _BINS) - np.bincount(bins, right, _BINS)
    return min(float(np.abs(apart).sum()) / len(right), 1.0)


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest: by golden sections."""
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(_TRIED):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = function(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = function(right)
    return (low + high) / 2
