"""Plans that one would write down by hand: uniform ones, and the two that are furthest apart.

Place in the flow: `SearchSpace` ──▶ the choices that come next to them. A search begins with the uniform
plans, and the shared weights see the extremes in each step.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from s2dnas_deploy.plan import ChannelGroup, Plan
from s2dnas_deploy.workshop.search.space.space import Choices, GroupSlot, ReuseSlot, SearchSpace, Slot


def uniform_choices(space: SearchSpace, *, reuse: bool = True) -> tuple[Choices, ...]:
    """The choices next to the plans that one would write down by hand: widths alike in all groups.

    All stages exit at the output and own equal parts, or parts that double from the second stage on, such
    as 1/4, 1/4, 1/2; or such parts of which the first is halved again. Without `reuse`, none reads what
    others computed but where it must: where layers are cheap, as depthwise ones are, handing over costs more.
    """
    n = space.stages
    doubling = [2.0 ** -(n - 1), *[2.0 ** -(n - stage) for stage in range(1, n)]]
    thin = [doubling[0] / 2, doubling[1] + doubling[0] / 2, *doubling[2:]]
    return tuple(dict.fromkeys(_nearest(space, parts, reuse) for parts in ([1 / n] * n, doubling, thin)))


def written_by_hand(space: SearchSpace, costs: Sequence[float] | None = None) -> tuple[Choices, ...]:
    """All of these, each once: with reuse, then without; of widths, first what comes nearest to `costs`.

    A width with a share w of all channels costs about w² of the whole.
    """
    near = [] if costs is None else [_nearest(space, np.diff([0, *np.sqrt(costs)]).tolist(), reuse=True)]
    return tuple(dict.fromkeys((*near, *uniform_choices(space), *uniform_choices(space, reuse=False))))


def choices_of(space: SearchSpace, plan: Plan) -> Choices | None:
    """The choices by which a plan is made; None if it is not in the space."""

    def choose(slot: Slot, allowed: Sequence[bool]) -> int:
        if isinstance(slot, GroupSlot):
            wanted = slot.options.index(plan.channels[slot.group.name])
        elif isinstance(slot, ReuseSlot):
            wanted = slot.options.index(slot.layer.name not in plan.no_reuse)
        else:
            wanted = slot.options.index(plan.exits[slot.stage])
        if not allowed[wanted]:
            raise ValueError(slot.name)
        return wanted

    try:
        choices = space.walk(choose)
    except ValueError:  # no such option, or not beside the others
        return None
    return choices if space.plan(choices) == plan else None


def smallest(space: SearchSpace) -> Choices:
    """The plan that goes through all layers with the thinnest first stage."""
    return _at_full_depth(space, lambda group, counts: counts)


def largest(space: SearchSpace) -> Choices:
    """The plan whose first stage does most."""
    return _at_full_depth(space, lambda group, counts: tuple(-count for count in counts))


def _nearest(space: SearchSpace, parts: Sequence[float], reuse: bool) -> Choices:
    """The choices of a plan that divides each group as nearly by `parts` as may be."""
    marks = np.cumsum(parts)

    def distance(group: ChannelGroup, counts: tuple[int, ...]) -> float:
        return float(np.abs(np.cumsum(counts) / group.channels - marks).sum())

    return _at_full_depth(space, distance, reuse=reuse)


def _at_full_depth(
    space: SearchSpace, rank: Callable[[ChannelGroup, tuple[int, ...]], Any], *, reuse: bool = True
) -> Choices:
    """All stages exit at the output; each group is divided in the way lowest in rank."""

    def choose(slot: Slot, allowed: Sequence[bool]) -> int:
        open_ = [i for i, is_allowed in enumerate(allowed) if is_allowed]
        if isinstance(slot, GroupSlot):
            return min(open_, key=lambda i: rank(slot.group, slot.options[i]))
        if isinstance(slot, ReuseSlot):
            return open_[0] if reuse else open_[-1]
        return open_[-1]

    return space.walk(choose)
