"""How much a sample proves: exact tests of "the mean loss is above α", for losses -1, 0 and 1.

Knows nothing of exits. `thresholds` asks, for each candidate, whether what was seen rules a large loss out.

A test has level δ: if the true mean loss is above α, it says "proven" with probability δ at most, whatever
the distribution. Both tests below are exact, not asymptotic, and nearly as sharp as the normal approximation:

    losses 0 and 1        s = number of ones. Proven if P(Bin(n, α) ≤ s) ≤ δ
    losses -1, 0 and 1    s = ones minus minus-ones, d = both together: a paired comparison, where the share q
                          of losses other than 0 is unknown. Proven if
                              s ≤ n·α - z · sqrt(max(d, n·α) - n·α²)
                          with the smallest z for which, at mean loss α, whatever q from α to 1,
                              P(S ≤ that; D = Bin(n, q), S = 2 · Bin(D, (1 + α/q) / 2) - D) ≤ δ

The second is the normal approximation with its z made exact. The root is the spread of S, so one z serves
all q almost alike: there is little to lose in taking the worst. (At the same q a larger mean makes S larger,
so the worst of the means above α is α itself.)

Bounds that hold for any loss in [-1, 1] (Hoeffding-Bentkus, empirical Bernstein, betting) are looser, for
they must also hold for losses between; `benchmarks/guarantee.py` compares them.
"""

import math
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import OptionError

Numbers = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]

_SIGMAS = 7.0  # beyond, a binomial has less than 1e-11
LEAST_DELTA = 1e-9  # less could not be told from what is left out there
_SHARES = 48  # values of q that are tried, from α to 1; between them the probability moves by less than
_MARGIN = 0.01  # this share of δ, which is kept back
_LARGEST_Z = 16.0  # which is taken to keep any level
_STEP = 2.0**-10  # how exactly the smallest z is found
_MOST_TRIED = 1_000_000  # images: more than that is no number to go by, and takes memory to find out


@dataclass(frozen=True, kw_only=True)
class ExactTest:
    """A test at level `delta` of "the mean loss of `images` images is above `alpha`"."""

    images: int
    alpha: float
    delta: float
    paired: bool

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise OptionError(f"expected a drop between 0 and 1, got {self.alpha}")
        if not LEAST_DELTA <= self.delta < 1:
            raise OptionError(
                f"expected a probability between 0 and {1 - LEAST_DELTA:.9f}, got {1 - self.delta}"
            )

    def proves(self, worse: npt.ArrayLike, better: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Whether a sample with so many losses of 1 and of -1 rules a mean loss above α out, for each."""
        lost, won = np.asarray(worse), np.asarray(better)
        most = _paired_limits(lost + won, self.images, self.alpha, self.z) if self.paired else self._most
        proven: npt.NDArray[np.bool_] = lost - won <= most
        return proven

    @property
    def can_prove(self) -> bool:
        """Whether a sample without a loss is a proof: what is asked of many tests that nobody needs."""
        if not self.paired:
            return self._most >= 0
        # 0 ≤ n·α - z · sqrt(n·α - n·α²); of the steps in which z is sought, the largest that holds for
        most = math.floor(math.sqrt(self.images * self.alpha / (1 - self.alpha)) / _STEP) * _STEP
        return most > 0 and _keeps_level(self.images, self.alpha, self.delta, min(most, _LARGEST_Z))

    @cached_property
    def _most(self) -> int:
        """The most ones that are still a proof."""
        low, high = -1, self.images
        while high - low > 1:
            middle = (low + high) // 2
            proves = binomial_cdf(middle, self.images, self.alpha) <= self.delta
            low, high = (middle, high) if proves else (low, middle)
        return low

    @property
    def z(self) -> float:
        """How many spreads below α a sample must be to prove anything, where losses are -1, 0 and 1."""
        return _smallest_z(self.images, self.alpha, self.delta)


def most_useful(test: ExactTest) -> ExactTest | None:
    """The test on as many images as there are, or on a few less; None if too few to prove anything.

    Counts are whole: where n·α passes one, a few images more can prove less (400 to 404 at α = 1%).
    """
    if (1 - test.alpha) ** test.images > test.delta:  # even if each loss were 0 or 1
        return None
    for images in range(test.images, math.ceil(0.95 * test.images) - 1, -max(1, test.images // 200)):
        fewer = replace(test, images=images)
        if fewer.can_prove:
            return fewer
    return None


def least_images(test: ExactTest) -> int | None:
    """How many images it takes to prove anything, if not one of them has a loss; None if over a million."""
    # Fewer would not do even if each loss were 0 or 1: (1 - α)ⁿ > δ.
    fewest = math.log(test.delta) / math.log1p(-test.alpha)
    if fewest > _MOST_TRIED:
        return None
    low, high = max(math.floor(fewest) - 1, 1), max(math.ceil(fewest), 2)
    while not replace(test, images=high).can_prove:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if replace(test, images=middle).can_prove else (middle, high)
    return high


def smallest_drop(images: int, probability: float) -> float:
    """The smallest drop, in tenths of a point, that so many images could prove if not one has a loss."""
    delta = 1 - probability
    # Were each loss 0 or 1: (1 - α)ⁿ ≤ δ. A comparison takes a little more.
    first = 1000 * (1 - delta ** (1 / images))
    drops = (tenths / 1000 for tenths in range(math.ceil(first), 1000))
    tests = (ExactTest(images=images, alpha=drop, delta=delta, paired=True) for drop in drops)
    return next((test.alpha for test in tests if test.can_prove), 1.0)


def binomial_cdf(successes: int, trials: int, share: float) -> float:
    """P(Bin(trials, share) ≤ successes)."""
    if successes < 0:
        return 0.0
    if successes >= trials:
        return 1.0
    low, high = _likely(trials, share)
    if successes < low:
        return 0.0
    k = np.arange(low, min(successes, high) + 1)
    return min(float(np.exp(_log_binomial(k, np.asarray(trials), share)).sum()), 1.0)


@cache
def _smallest_z(images: int, alpha: float, delta: float) -> float:
    """The smallest z that keeps the level."""
    low, high = 0.0, _LARGEST_Z
    while high - low > _STEP:
        middle = (low + high) / 2
        low, high = (low, middle) if _keeps_level(images, alpha, delta, middle) else (middle, high)
    return high


def _keeps_level(images: int, alpha: float, delta: float, z: float) -> bool:
    """Whether it errs with probability δ at most, for every q."""
    level, shares = (1 - _MARGIN) * delta, np.geomspace(alpha, 1.0, _SHARES)
    return all(_error(float(q), images, alpha, z) <= level for q in shares)


def _paired_limits(changed: Numbers | Whole, images: int, alpha: float, z: float) -> Whole:
    """The largest S that is still a proof when D is `changed`."""
    mean = images * alpha
    return np.floor(mean - z * np.sqrt(np.maximum(changed, mean) - mean * alpha)).astype(np.int64)


def _error(share: float, images: int, alpha: float, z: float) -> float:
    """The probability of a proof where the mean loss is α: an error. `share` is q."""
    low, high = _likely(images, share)
    changed = np.arange(low, high + 1)
    weights = np.exp(_log_binomial(changed, np.asarray(images), share))
    ones = min((1 + alpha / share) / 2, 1.0)
    # S ≤ limit  ⟺  ones ≤ (limit + D) / 2
    most = (_paired_limits(changed, images, alpha, z) + changed) // 2
    return float((weights * _cdfs_along(most, changed, ones)).sum())


def _cdfs_along(most: Whole, trials: Whole, share: float) -> Numbers:
    """P(Bin(n, share) ≤ m) for each n of `trials`, where each n is one more than the last.

    Each from the one before, so that it takes as many steps as there are n, whatever their size:
        P(Bin(n + 1) ≤ m) = P(Bin(n) ≤ m) - share · P(Bin(n) = m),    then n + 1 stays and m moves.
    """
    before, after, n = most[:-1], most[1:], trials[1:]
    grown = -share * np.exp(_log_binomial(before, trials[:-1], share))
    moves = after - before
    for step in range(1, int(moves.max(initial=0)) + 1):
        grown += np.where(step <= moves, np.exp(_log_binomial(before + step, n, share)), 0.0)
    for step in range(int((-moves).max(initial=0))):
        grown -= np.where(step < -moves, np.exp(_log_binomial(before - step, n, share)), 0.0)
    first = binomial_cdf(int(most[0]), int(trials[0]), share)
    return np.clip(first + np.concatenate([[0.0], np.cumsum(grown)]), 0.0, 1.0)


def _log_binomial(k: Whole, n: Whole, p: float) -> Numbers:
    """Log of P(Bin(n, p) = k); -∞ where k is not between 0 and n."""
    k, n = np.broadcast_arrays(k, n)
    possible = (k >= 0) & (k <= n)
    inside = np.where(possible, k, 0)
    logs = _log_factorials(int(n.max()))
    chosen: Numbers = logs[n] - logs[inside] - logs[n - inside]
    log_p = math.log(p) if p > 0 else -math.inf
    log_q = math.log1p(-p) if p < 1 else -math.inf
    with np.errstate(invalid="ignore"):  # 0 · -∞ is 0 here
        chosen = chosen + np.where(inside == 0, 0.0, inside * log_p)
        chosen = chosen + np.where(n - inside == 0, 0.0, (n - inside) * log_q)
    return np.where(possible, chosen, -np.inf)


def _log_factorials(n: int) -> Numbers:
    """Log of 0!, 1!, …, at least to n!."""
    return _log_factorials_to(1 << max(n, 1).bit_length())


@cache
def _log_factorials_to(n: int) -> Numbers:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _likely(trials: int, share: float) -> tuple[int, int]:
    """Where all but a negligible part of a binomial is."""
    mean, spread = trials * share, _SIGMAS * math.sqrt(trials * share * (1 - share)) + _SIGMAS**2
    return max(math.floor(mean - spread), 0), min(math.ceil(mean + spread), trials)
