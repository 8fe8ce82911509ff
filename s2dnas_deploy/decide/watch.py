"""Is a promise still kept? A test that may be looked at after every sample, for as long as samples come.

Place in the flow: samples that exited early, some of which go through all stages when there is time ──▶
whether the last exit answers otherwise ──▶ `Watch` ──▶ evidence that more do than was promised.

A bet is made on every sample x_i (1: the last exit answers otherwise, 0: the same), at odds that are fair if
the mean is the promised b. Whoever bets on more keeps

    M(λ) = Π_i (1 + λ · (x_i - b)) = (1 + λ · (1 - b))^k · (1 - λ · b)^(n - k)         0 < λ < 1 / b

of one unit after n samples, k of them otherwise. As long as the mean is at most b, what he expects to have
never grows, and by Ville's inequality he ever has 1 / δ with probability δ at most. The mean over several λ,
and over bets that begin at later times, is such a fortune, too: no λ must be known beforehand, and a drift is
found though a long time was fine before it.

    evidence = Σ_s w_s · mean_λ M_s(λ)        s: the bets that began so far, every so many samples;  Σ w_s ≤ 1

(Betting: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024.)
"""

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.errors import OptionError

DELTA = 0.05
_BETS = np.array([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
"""λ: the best against a mean of m · b is about m - 1, so these are for 1.25 to 9 times what was promised."""
_LARGEST = 0.5
"""And at most so much of 1 / b."""
_EVERY = 200
"""Samples after which another bet begins."""
_MOST_BEGUN = 512
"""Bets that are kept; the oldest is given up for another, and what it had with it."""


class Watch:
    """Watches one promise: at most a part `bound` of samples is answered otherwise than by the last exit."""

    def __init__(self, bound: float, delta: float = DELTA) -> None:
        """`delta`: the probability that there is ever an alarm though the promise is kept."""
        if not 0 < bound < 1:
            raise OptionError(f"expected a bound between 0 and 1, got {bound}")
        if not 0 < delta < 1:
            raise OptionError(f"expected a probability between 0 and 1, got {delta}")
        self.bound, self.delta = bound, delta
        self.samples, self.otherwise = 0, 0
        self.broken = False
        """Whether there was an alarm; it stays, for what was shown is not unshown."""
        stakes = np.minimum(_BETS, _LARGEST / bound)
        self._gain, self._loss = np.log1p(stakes * (1 - bound)), np.log1p(-stakes * bound)  # log of a factor
        self._fortunes: npt.NDArray[np.float64] = np.empty((0, len(_BETS)))  # log M, [bets begun, λ]
        self._shares: npt.NDArray[np.float64] = np.empty(0)  # log w
        self._begun = 0

    def add(self, otherwise: bool) -> bool:
        """One more sample; whether the promise is shown to be broken."""
        if self.samples % _EVERY == 0:
            self._begin()
        self.samples += 1
        self.otherwise += otherwise
        self._fortunes += self._gain if otherwise else self._loss
        # Only a sample that is answered otherwise can be the one that shows it.
        if otherwise and not self.broken:
            self.broken = self.evidence >= 1 / self.delta
        return self.broken

    @property
    def evidence(self) -> float:
        """What a unit that was bet on "broken" has become: 1 / δ is enough."""
        if not self.samples:
            return 1.0
        logs = self._shares[:, None] + self._fortunes
        largest = float(logs.max())
        return float(np.exp(min(largest, 700.0)) * np.exp(logs - largest).sum() / len(_BETS))

    def _begin(self) -> None:
        self._begun += 1
        share = -np.log(self._begun * (self._begun + 1.0))  # 1/2 + 1/6 + 1/12 + … = 1
        self._fortunes = np.vstack([self._fortunes, np.zeros((1, len(_BETS)))])[-_MOST_BEGUN:]
        self._shares = np.append(self._shares, share)[-_MOST_BEGUN:]
