"""Which plans are looked at closely, once quick scores have ranked many, and which of them wins.

Place in the flow: ranked `Trial`s ──▶ a few that differ, which are then trained for a while and judged again.
Quick scores are close to each other at the top, and the best of hundreds is easily the luckiest. What a
strategy comes back to again and again is one idea with variations; so the few are of different ideas. And
the best of several is easily the luckiest again: the plan that a search begins with is given up only for one
that is better by more than chance.
"""

import math
from collections.abc import Iterable, Sequence

from s2dnas_deploy.workshop.search.trials import Trial

_ALIKE = 0.15  # plans whose costs up to every exit are within so much of each other


def choose_finalists(ranked: Iterable[Trial], always: Sequence[Trial], count: int) -> list[Trial]:
    """At most `count`, best first: of plans that are alike only the best, and some known ones `always`."""
    chosen: list[Trial] = []
    for trial in ranked:
        left = count - len(chosen) - sum(each not in chosen for each in always)
        if trial in always or (left > 0 and not any(_are_alike(trial, other) for other in chosen)):
            chosen.append(trial)
    return chosen[:count]


def by_more_than_chance(ranked: Sequence[Trial], begun_with: Trial | None, images: int) -> list[Trial]:
    """Finalists, best first, and the plan begun with before those no better than chance would make them.

    Chance is the standard error of an accuracy that `images` judged.
    """
    if begun_with is None or not begun_with.worth.fits:
        return list(ranked)
    known = begun_with.worth
    surely = known.reward + math.sqrt(known.accuracy * (1 - known.accuracy) / images)
    better = [trial for trial in ranked if trial.worth.fits and trial.worth.reward > surely]
    others = [trial for trial in ranked if trial not in (*better, begun_with)]
    return [*better, begun_with, *others]


def _are_alike(one: Trial, other: Trial) -> bool:
    pairs = zip(one.worth.exit_cost, other.worth.exit_cost, strict=True)
    return all(abs(a - b) <= _ALIKE * max(a, b) for a, b in pairs)
