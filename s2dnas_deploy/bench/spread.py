"""What many timings amount to: mean and percentiles, with intervals that hold for another run, too.

Place in the flow: timings of blocks of processes ──▶ `Estimate`s. Timings of one process are more like
each other than like those of the next (memory lies elsewhere), and so are those of one block. So an
interval comes from a bootstrap that draws processes, and from each that it draws, blocks. Few processes
vary less among draws than they would among runs; for P of them the deviations are widened by

    sqrt(P / (P - 1)) · t / z        t and z: the quantiles of Student's (P - 1 degrees) and the normal law

Times and their ratios are above 0 and deviate by factors, so their intervals are made of logarithms.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Timings = npt.NDArray[np.float64]
Processes = Sequence[Timings]
"""Of each process [blocks, batches]; what does not count is NaN."""
LEVEL = 0.95
_DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number, and between which it lies with 95% probability as far as the spread seen tells."""

    value: float
    low: float
    high: float


def estimate(processes: Processes, statistics: Callable[[Timings], Sequence[float]]) -> list[Estimate]:
    """Statistics of all timings that count, each with its interval, of the same draws: to draw takes long."""
    values = statistics(_counted(processes))
    drawn = np.array([statistics(_counted(each)) for each in draws(processes)])
    return [_by_factors(value, drawn[:, k], len(processes)) for k, value in enumerate(values)]


def estimate_ratio(above: Processes, below: Processes) -> Estimate:
    """The ratio of two mean times that were taken in the same blocks."""
    sums = [np.stack([a.sum(1), b.sum(1)], axis=1) for a, b in zip(above, below, strict=True)]

    def ratio(each: Processes) -> float:
        total = np.concatenate(each).sum(0)
        return float(total[0] / total[1])

    return _by_factors(ratio(sums), np.array([ratio(each) for each in draws(sums)]), len(sums))


def draws(processes: Processes) -> Iterator[list[Timings]]:
    """Processes with replacement, and their blocks; the same draws each time."""
    rng = np.random.default_rng(0)
    for _ in range(_DRAWS):
        chosen = [processes[i] for i in rng.integers(len(processes), size=len(processes))]
        yield [blocks[rng.integers(len(blocks), size=len(blocks))] for blocks in chosen]


def around(
    value: float, drawn: npt.ArrayLike, processes: int, *, level: float = LEVEL, degrees: int | None = None
) -> Estimate:
    """A value with the interval that draws give; `degrees` of freedom, if not one less than processes."""
    known = np.asarray(drawn)[~np.isnan(drawn)]
    low, high = np.quantile(known, [0.5 - level / 2, 0.5 + level / 2]) if len(known) else (value, value)
    factor = widened(processes, level=level, degrees=degrees)
    return Estimate(
        value=value,
        low=min(value, value - factor * (value - float(low))),
        high=max(value, value + factor * (float(high) - value)),
    )


def _by_factors(value: float, drawn: npt.NDArray[np.float64], processes: int) -> Estimate:
    if np.fmin.reduce(drawn, initial=value) <= 0:  # by a clock that is too coarse to tell
        return around(value, drawn, processes)
    found = around(log(value), np.log(drawn), processes)
    return Estimate(value=value, low=min(value, exp(found.low)), high=max(value, exp(found.high)))


def widened(processes: int, *, level: float = LEVEL, degrees: int | None = None) -> float:
    """By how much deviations among draws fall short of those among runs; 1 for a single process."""
    if processes < 2:
        return 1.0
    z = NormalDist().inv_cdf(0.5 + level / 2)
    return sqrt(processes / (processes - 1)) * _student(level, degrees or processes - 1) / z


@cache
def _student(level: float, degrees: int) -> float:
    """Below it |t| is with this probability: t = sqrt(ν) · tan(θ), and θ's density goes as cos(θ)^(ν - 1)."""
    angles = np.linspace(0, np.pi / 2, 100_001)
    below = np.cumsum(np.cos(angles) ** (degrees - 1))
    return sqrt(degrees) * float(np.tan(np.interp(level, below / below[-1], angles)))


def _counted(processes: Processes) -> Timings:
    every = np.concatenate([each.ravel() for each in processes])
    counted: Timings = every[~np.isnan(every)]
    return counted
