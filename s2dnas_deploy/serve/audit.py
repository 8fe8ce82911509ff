"""The promise, watched: some of the samples go through all stages, and the last exit's answer is compared.

Place in the flow: worker ──a sample was answered early, and by the last exit otherwise or not──▶ `Audit` ──▶
metrics, a message, and more cautious thresholds if that was asked for.

Which samples are looked at is drawn as they come in, whatever they show, so they stand for all. Those that
come to the last exit by themselves count as answered alike. A caller waits for none of it: his answer is out
before.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from s2dnas_deploy.bundle.entries import Promise
from s2dnas_deploy.decide.watch import Watch
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import number_of

_STEP = 0.5
"""By so much thresholds rise on the scale of log odds, if the promise is broken."""


@dataclass
class Audit:
    """Watches one bundle's promise; safe to share between workers."""

    share: float
    """Of all samples."""
    bound: float
    """How many may be answered otherwise."""
    say: Callable[[str], None] = lambda message: None
    broken: int = field(default=0, init=False)
    """So many times the promise was shown to be broken: thresholds that are raised are another promise."""

    def __post_init__(self) -> None:
        self.watch = Watch(self.bound)
        self._lock = threading.Lock()
        self.on_broken: Callable[[], None] | None = None

    def add(self, otherwise: bool) -> None:
        """One more sample that was looked at."""
        with self._lock:
            was_broken = self.watch.broken
            is_broken = self.watch.add(otherwise)
            if was_broken or not is_broken:
                return
            self.broken += 1
            seen, samples = self.watch.otherwise, self.watch.samples
            if self.on_broken is not None:
                self.watch = Watch(self.bound)
        self.say(
            f"the promise is broken: the last exit answers {seen} of {number_of(samples, 'image')} "
            f"otherwise, {100 * self.bound:.2f}% were promised"
        )
        if self.on_broken is not None:
            self.on_broken()

    @property
    def told(self) -> dict[str, float]:
        """What metrics tell of it."""
        with self._lock:
            return {
                "audited_total": self.watch.samples,
                "audited_otherwise_total": self.watch.otherwise,
                "promise_evidence": self.watch.evidence,
                "promise_broken_total": self.broken,
            }


def bound_of(promise: Promise | None) -> float:
    """How many images may be answered otherwise than by the last exit, if the promise is kept.

    As many as on the calibration images, and as many more as accuracy may fall: to lose a point, a point more
    must be answered otherwise.
    """
    if promise is None or promise.other_answers is None or promise.max_drop is None:
        raise OptionError(
            "--audit watches a promise, and this bundle has none: calibrate it with s2dnas-calibrate "
            "--max-drop"
        )
    return promise.other_answers + max(0.0, promise.max_drop - max(0.0, promise.observed_drop))


def more_cautious(thresholds: Sequence[float]) -> tuple[float, ...]:
    """The next thresholds on the path of calibration: fewer exit early."""
    return tuple(_raised(threshold) for threshold in thresholds)


def _raised(threshold: float) -> float:
    if not 0 < threshold < 1:
        return threshold  # nobody exits, or everybody does: no odds to raise
    odds = math.log(threshold / (1 - threshold)) + _STEP
    return 1 / (1 + math.exp(-odds))
