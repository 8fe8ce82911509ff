"""What a worker has done, counted: for statistics and metrics.

Place in the flow: workers count, each for itself ──▶ `Counts.sum` ──▶ whoever asks. A reader may see a count
of a moment ago, never a wrong one for good.
"""

from bisect import bisect_left
from collections.abc import Iterable

WITHIN_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""The bounds of histograms of time, as Prometheus has them: so many or less."""
WITHIN_SAMPLES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""And of histograms of batches."""


class Histogram:
    """How many values were at most each bound, and above all; and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(self.counts)

    def merge(self, other: "Histogram") -> None:
        """Those of another, too."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum


class Counts:
    """Of each stage its runs, samples and seconds; of each exit its answers; and how long all took."""

    def __init__(self, stages: int) -> None:
        self.seconds = [0.0] * stages
        self.fill = [Histogram(WITHIN_SAMPLES) for _ in range(stages)]
        self.exits = [0] * stages
        self.waited, self.took = Histogram(WITHIN_SECONDS), Histogram(WITHIN_SECONDS)

    def ran(self, stage: int, samples: int, seconds: float) -> None:
        """A stage has run."""
        self.fill[stage].add(samples)
        self.seconds[stage] += seconds

    def wait(self, seconds: float) -> None:
        """A sample has waited so long in the queue."""
        self.waited.add(seconds)

    def answered(self, seconds: float) -> None:
        """A request was answered so long after it came."""
        self.took.add(seconds)

    @staticmethod
    def sum(counts: Iterable["Counts"]) -> "Counts":
        """All together."""
        each = list(counts)
        whole = Counts(len(each[0].seconds))
        for one in each:
            whole.seconds = [a + b for a, b in zip(whole.seconds, one.seconds, strict=True)]
            whole.exits = [a + b for a, b in zip(whole.exits, one.exits, strict=True)]
            for ours, theirs in zip(
                (*whole.fill, whole.waited, whole.took), (*one.fill, one.waited, one.took), strict=True
            ):
                ours.merge(theirs)
        return whole
