"""How long each stage takes on this device, by batch size: learned from the runs themselves.

Knows nothing of sessions. Deadlines ask it whether the next stage would fit.
"""

import threading
from collections import deque


class StageClock:
    """The latest times of every stage for every batch size that was seen."""

    def __init__(self, stages: int) -> None:
        self._times: list[dict[int, deque[float]]] = [{} for _ in range(stages)]
        self._lock = threading.Lock()

    def note(self, stage: int, count: int, seconds: float) -> None:
        """A stage has just run `count` samples."""
        with self._lock:
            self._times[stage].setdefault(count, deque(maxlen=_LATEST)).append(seconds)

    def knows(self, count: int) -> bool:
        """Whether all stages have been seen with a batch at least so large."""
        with self._lock:
            return all(any(size >= count for size in times) for times in self._times)

    def expects(self, stage: int, count: int) -> float:
        """Seconds to allow: the slowest of the latest runs of the next larger batch size that was seen."""
        with self._lock:
            times = self._times[stage]
            larger = [size for size in times if size >= count]
            if larger:
                return max(times[min(larger)])
            largest = max(times)
            return max(times[largest]) * count / largest


_LATEST = 16
