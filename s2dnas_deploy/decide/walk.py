"""The same decisions on recorded values: who would have gone where, without running anything.

Place in the flow: `Course` + what every stage said of every sample ──walk──▶ `Walked`. That presumes that
what a stage says of a sample does not depend on the way by which it came: so it is in a chain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.course import Array, Course


@dataclass(frozen=True, kw_only=True)
class Walked:
    """`exit` int64 [N]: the stage whose answer a sample gets; `ran` bool [stages, N]: its way."""

    exit: npt.NDArray[np.int64]
    ran: npt.NDArray[np.bool_]

    @property
    def exit_share(self) -> npt.NDArray[np.float64]:
        """How many samples get each stage's answer, [stages], of 1."""
        shares: npt.NDArray[np.float64] = np.bincount(self.exit, minlength=len(self.ran)) / len(self.exit)
        return shares

    def mean_cost(self, each: Sequence[float]) -> float:
        """What a sample costs on average, if stages cost `each`."""
        return float(self.ran.mean(axis=1) @ np.asarray(each, np.float64))


def walk(course: Course, values: Sequence[Mapping[str, Array]], count: int) -> Walked:
    """Send samples through; `values` are each stage's tensors, [N, ...], for its rule to look at."""
    stops = course.flow.stops
    exits = np.full(count, -1, np.int64)
    ran = np.zeros((len(stops), count), np.bool_)
    ran[course.first] = True
    for k, stop in enumerate(stops):
        here = ran[k].nonzero()[0]
        if not len(here):
            continue
        if stop.answers:
            exits[here] = k
        seen = {name: value[here] for name, value in values[k].items()}
        for place, rows in course.junctions[k](seen, len(here)):
            if place >= 0:
                ran[place, here if rows is None else here[rows]] = True
    return Walked(exit=exits, ran=ran)
