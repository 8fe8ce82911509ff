"""How long each stage takes on this device, by batch size: learned from the runs themselves.

Knows nothing of sessions. Deadlines ask it whether the next stage would fit. It never measures on its own
account; a stage that has not run yet is expected to take, per MAC, what another one took. A slow moment must
not be believed forever, for a stage that is never run is never timed again: so after a second what counts is
the fastest time ever seen, and it shrinks by a tenth a second until the stage is tried again.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_LATEST = 16
_FRESH_SECONDS = 1.0
_SHRINK = 0.9


@dataclass
class _Times:
    """The latest runs of a stage at one batch size, as (when, seconds), and the fastest of all."""

    latest: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=_LATEST))
    fastest: float = float("inf")

    def note(self, now: float, seconds: float) -> None:
        self.latest.append((now, seconds))
        self.fastest = min(self.fastest, seconds)

    def expected(self, now: float) -> float:
        fresh = [seconds for when, seconds in self.latest if now - when < _FRESH_SECONDS]
        return max(fresh) if fresh else self.fastest * _SHRINK ** (now - self.latest[-1][0])


class StageClock:
    """The times of every stage for every batch size that was seen; `macs` are the stages' for one image."""

    def __init__(self, macs: Sequence[int], now: Callable[[], float] = time.monotonic) -> None:
        self._macs, self._now = [max(count, 1) for count in macs], now
        self._times: list[dict[int, _Times]] = [{} for _ in macs]
        self._lock = threading.Lock()

    def note(self, stage: int, count: int, seconds: float) -> None:
        """A stage has just run `count` samples."""
        with self._lock:
            self._times[stage].setdefault(count, _Times()).note(self._now(), seconds)

    def expects(self, stage: int, count: int) -> float:
        """Seconds to allow for a stage and so many samples; 0 if no stage has ever run."""
        with self._lock:
            if self._times[stage]:
                return self._of(stage, count)
            known = [other for other, times in enumerate(self._times) if times]
            rates = [self._of(other, count) / self._macs[other] for other in known]
            return max(rates, default=0.0) * self._macs[stage]

    def _of(self, stage: int, count: int) -> float:
        """By the next larger batch that was seen, or by the largest, in proportion."""
        times, now = self._times[stage], self._now()
        larger = [size for size in times if size >= count]
        if larger:
            return times[min(larger)].expected(now)
        return times[max(times)].expected(now) * count / max(times)
