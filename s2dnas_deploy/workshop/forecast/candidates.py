"""Plans that one would write down by hand, of a few kinds: exits in depth, widths, mixes, widths in turn.

Place in the flow: `StaticNetwork` ──▶ plans, which are priced; the one that is expected to answer fastest is
`--plan auto`.

    depth    stage k ends at a joint of the network and owns all channels up to there
    width    all stages go through all layers and own fractions of every group, with reuse or without
    mix      the first stage owns a fraction of every group up to a joint, the last one everything else
    in turn  thinner networks first, or ones of fewer residual blocks, then a larger one, which reads nothing
             of theirs; if it is not the whole one, the static network comes last

Without reuse a stage is a thin network of its own, whose exit reads what the stages before it have found.
That costs accuracy, and spares what handing features over takes: much, on a clock, where layers are small.
Widths in turn hand nothing over and lose no accuracy by it; what the thinner ones have found is found again.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from math import lcm

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import (
    OUTPUT,
    ChannelGroup,
    Plan,
    PlanSpace,
    check,
    depth,
    is_legal_without_reuse,
    with_blocks,
)
from s2dnas_deploy.workshop.network.costs import costs_of, static_costs
from s2dnas_deploy.workshop.network.divided import divided_by
from s2dnas_deploy.workshop.network.joints import joints
from s2dnas_deploy.workshop.network.network import as_network, carry_over
from s2dnas_deploy.workshop.network.stages import first_alone
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

# Shares of the static network's MACs up to each exit but the last.
_DEPTHS = ((0.25,), (0.4,), (0.55,), (0.15, 0.4), (0.25, 0.55), (0.4, 0.7), (0.12, 0.3, 0.6))
_WIDTHS = ((0.25, 0.75), (0.375, 0.625), (0.5, 0.5), (0.25, 0.25, 0.5))
_REUSED = ((0.25, 0.75), (0.5, 0.5), (0.25, 0.25, 0.5))
_MIXED = (
    (0.5, 0.45),
    (0.5, 0.65),
    (0.375, 0.8),
    (0.25, 0.6),
)
"""The first stage's width, and the depth of its exit."""
_ALL = (1.0, 1.0)
_TURNS: tuple[tuple[tuple[float, float], ...], ...] = (
    ((0.25, 1), _ALL),
    ((0.375, 1), _ALL),
    ((0.5, 1), _ALL),
    ((0.25, 1), (0.5, 1), _ALL),
    ((1, 0.34), _ALL),
    ((1, 0.5), _ALL),
    ((1, 0.12), (1, 0.34), _ALL),
    ((0.5, 0.5), _ALL),
    ((0.5, 0.34), _ALL),
    ((0.25, 1), (0.5, 1)),
    ((1, 0.12), (1, 0.34)),
    ((0.5, 0.5), (1, 0.5)),
    ((0.25, 0.5), (0.5, 0.5)),
)
"""The widths, each with its share of every group's channels and of the residual blocks."""
# Kernels work on blocks of 16 channels, or of 8; a group that has not two of them is divided as it can be.
_BLOCKS = (16, 8)
_NEAR = 0.1
"""How far from the share that is looked for an exit may lie."""


Places = tuple[tuple[str, float], ...]
"""Where a stage may end, and the share of the static network's MACs up to there."""


def candidates(static: StaticNetwork) -> tuple[Plan, ...]:
    """All of these that the network has, each once."""
    space = static.divisible.space
    places = tuple(_places(static))
    ways = [
        *(partial(_in_depth, space, places, shares) for shares in _DEPTHS),
        *(partial(_in_widths, space, fractions, reuse=False) for fractions in _WIDTHS),
        *(partial(_in_widths, space, fractions, reuse=True) for fractions in _REUSED),
        *(partial(_mixed, space, places, width, share) for width, share in _MIXED),
        *(partial(_in_turn, space, shares) for shares in _TURNS),
    ]
    found: dict[str, Plan] = {}
    for way in ways:
        try:
            plan = way()
        except PlanError:  # groups too narrow, or no joint there: a network need not have all kinds
            continue
        found.setdefault(divided_by(static, plan).effect, plan)
    return tuple(found.values())


def halves(space: PlanSpace) -> Plan:
    """Two stages of half the width each, by themselves: the first is the static network at half its width."""
    return _in_widths(space, (0.5, 0.5), reuse=False)


def _places(static: StaticNetwork) -> Iterator[tuple[str, float]]:
    whole = static_costs(as_network(static)).macs
    for name in joints(static.divisible.space):
        try:
            network = carry_over(static, depth(static.divisible.space, [name]))
        except PlanError:  # a stage would have nothing to compute
            continue
        yield name, costs_of(network.division, first_alone(network)).macs / whole


def _in_depth(space: PlanSpace, places: Places, shares: Sequence[float]) -> Plan:
    order = [name for name, _ in places]
    exits = [_nearest(places, share) for share in shares]
    if any(order.index(before) >= order.index(after) for before, after in pairwise(exits)):
        raise PlanError(f"no {len(exits)} joints apart from each other at {shares}")
    return depth(space, exits)


def _in_widths(space: PlanSpace, fractions: Sequence[float], *, reuse: bool) -> Plan:
    return _parts(space, fractions, (OUTPUT,) * len(fractions), reuse=reuse)


def _mixed(space: PlanSpace, places: Places, width: float, share: float) -> Plan:
    # What the exit's share of the costs is counted without: the part of the width that the stage leaves out.
    return _parts(space, (width, 1 - width), (_nearest(places, share), OUTPUT), reuse=False)


def _in_turn(space: PlanSpace, shares: Sequence[tuple[float, float]]) -> Plan:
    until = [of_channels for of_channels, _ in shares]
    marks = [0.0, *until] if until[-1] == 1 else [0.0, *until, 1.0]  # the rest is nobody's
    fractions = [after - before for before, after in pairwise(marks)]
    channels = {group.name: _counts(group, fractions)[: len(shares)] for group in space.groups}
    plan = Plan(channels=channels, exits=(OUTPUT,) * len(shares), nested=True, in_turn=True)
    return with_blocks(plan, space, [of_blocks for _, of_blocks in shares])


def _nearest(places: Places, share: float) -> str:
    distance, name = min(((abs(cost - share), name) for name, cost in places), default=(1.0, ""))
    if distance > _NEAR:
        raise PlanError(f"no joint near {share:g} of the costs")
    return name


def _parts(space: PlanSpace, fractions: Sequence[float], exits: tuple[str, ...], *, reuse: bool) -> Plan:
    """Fractions of every group, those of stages that end before it given to the first that reaches it."""
    depths = space.depths(exits)
    channels = {}
    for group in space.groups:
        first = min(depths[node] for node in group.nodes)
        counts = _counts(group, [sum(fractions[: first + 1]), *fractions[first + 1 :]])
        channels[group.name] = (0,) * first + counts
    plan = Plan(channels=channels, exits=exits)
    if not reuse:
        own = [layer for layer in space.layers if not layer.reads_image]
        alone = frozenset(each.name for each in own if is_legal_without_reuse(each, plan, depths))
        plan = Plan(channels=channels, exits=exits, no_reuse=alone)
    check(plan, space)
    return plan


def _counts(group: ChannelGroup, fractions: Sequence[float]) -> tuple[int, ...]:
    """The fractions in whole blocks, of the largest kind that leaves each stage some."""
    for block in (*_BLOCKS, 1):
        portion = lcm(group.granule, block)
        marks = [round(group.channels * end / portion) * portion for end in np.cumsum(fractions)]
        counts = [end - start for start, end in pairwise([0, *marks[:-1], group.channels])]
        if min(counts) > 0:
            return tuple(counts)
    return (group.channels, *[0] * (len(fractions) - 1))
