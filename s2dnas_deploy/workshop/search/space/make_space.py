"""Making the search space of a network: the menu of every slot.

Place in the flow: `PlanSpace` + number of stages + width of a portion ──▶ `SearchSpace`.
"""

from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np

from s2dnas_deploy.errors import OptionError, PlanError
from s2dnas_deploy.plan import OUTPUT, ChannelGroup, Plan, PlanSpace
from s2dnas_deploy.workshop.network.joints import joints
from s2dnas_deploy.workshop.search.space.space import (
    ExitSlot,
    GroupSlot,
    Kind,
    PlanKind,
    ReuseSlot,
    SearchSpace,
    Slot,
)

MOST_PORTIONS = 8  # a group is divided no finer than in eighths


def make_space(
    plans: PlanSpace,
    *,
    stages: int,
    kind: Kind = "full",
    align: int = 8,
    portions: int = MOST_PORTIONS,
    reuse: bool = True,
    plan_kind: PlanKind = "stages",
    known: Plan | None = None,
) -> SearchSpace:
    """The space of a network: `paper` is every stage through all layers, `full` adds exits and zeros.

    Of nested widths, every one answers at the output; in `paper`, each has more of every group than the one
    before. In `full`, the widest of those that are tried in turn need not have all of a group. A plan that is
    `known` before the search is in it as well, where its exits are.
    """
    if not 2 <= stages <= portions:
        raise OptionError(f"a search can divide a network among 2 to {portions} stages, got {stages}")
    exits: list[Slot] = []
    if kind == "full" and plan_kind == "stages":
        places = (*joints(plans), OUTPUT)
        exits = [ExitSlot(stage=stage, options=places) for stage in range(stages - 1)]
    order = {name: i for i, name in enumerate(plans.parents)}
    parts = stages + (kind == "full" and plan_kind == "in-turn")  # and what is nobody's
    groups = [
        GroupSlot(group=group, options=tuple(dict.fromkeys(counts[:stages] for counts in ways)))
        for group in sorted(plans.groups, key=lambda group: min(order[node] for node in group.nodes))
        for ways in [divisions(group, parts, align=align, portions=portions, kind=kind)]
    ]
    if known is not None:
        groups = [_with(slot, known.channels[slot.group.name]) for slot in groups]
    may_forgo = reuse and plan_kind == "stages"
    layers = [ReuseSlot(layer=layer) for layer in plans.layers if may_forgo and not layer.reads_image]
    if not any(min(counts) > 0 for slot in groups for counts in slot.options):
        widest = max(sum(count > 0 for count in counts) for slot in groups for counts in slot.options)
        raise PlanError(
            f"the network's groups are too narrow to be divided among {stages} stages: {widest} can "
            "own a part of the widest; ask for fewer --stages, or a smaller --align"
        )
    slots = (*exits, *groups, *layers)
    return SearchSpace(plans=plans, stages=stages, align=align, slots=slots, plan_kind=plan_kind)


def _with(slot: GroupSlot, counts: tuple[int, ...]) -> GroupSlot:
    return slot if counts in slot.options else replace(slot, options=(*slot.options, counts))


def divisions(
    group: ChannelGroup, stages: int, *, align: int, portions: int, kind: Kind
) -> tuple[tuple[int, ...], ...]:
    """How a group may be divided, in portions of `align` channels, or finer ones if it is narrow."""
    ends = _ends(group, align, portions, fewest=stages + 1 if kind == "paper" else 2)
    parts = len(ends) - 1
    least = 1 if kind == "paper" and parts >= stages else 0
    options = []
    # Cut positions with repetition: stage k owns what lies between cuts k-1 and k.
    for cuts in combinations(range(parts + stages - 1), stages - 1):
        inner = [cut - i for i, cut in enumerate(cuts)]
        counts = np.diff([0, *inner, parts])
        if counts.min() >= least:
            marks = np.cumsum([0, *counts])
            options.append(tuple(int(ends[b] - ends[a]) for a, b in pairwise(marks)))
    return tuple(options)


def _ends(group: ChannelGroup, align: int, portions: int, fewest: int) -> list[int]:
    """Where a group may be cut: multiples of a portion, from 0 to all channels."""
    portion = int(np.lcm(group.granule, align))
    if group.channels < fewest * portion:
        portion = max(group.channels // (fewest * group.granule), 1) * group.granule
    most = -(-group.channels // portion)
    portion *= -(-most // portions)
    ends = list(range(0, group.channels, portion))
    return [*ends, group.channels]
