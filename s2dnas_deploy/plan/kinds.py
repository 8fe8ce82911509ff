"""Plans of a kind: uniform, by depth, of nested widths, drawn at random. Every one that is given is legal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan.document import MAX_STAGES, Plan
from s2dnas_deploy.plan.legality import check, check_exits, is_legal_without_reuse
from s2dnas_deploy.plan.presence import blocks, presence_alone
from s2dnas_deploy.plan.space import OUTPUT, ChannelGroup, PlanSpace, nearest
from s2dnas_deploy.quoting import number_of, shown

Share = float | tuple[float, float]
"""Of the channels; or of the channels and of the residual blocks."""


def static(space: PlanSpace) -> Plan:
    """One stage that owns everything: the static network."""
    return Plan(channels={group.name: (group.channels,) for group in space.groups}, exits=(OUTPUT,))


def uniform(space: PlanSpace, fractions: Sequence[float], *, align: int = 1) -> Plan:
    """Every stage goes through all layers and owns the same fraction of every group (the paper's kind).

    Boundaries are rounded to multiples of `align` channels where a group is wide enough, so with a coarse
    `align` a stage may own nothing in a narrow group; stage 0 owns at least one portion of each.
    """
    check_fractions(fractions)
    channels = {group.name: _by_fractions(group, fractions, align) for group in space.groups}
    plan = Plan(channels=channels, exits=(OUTPUT,) * len(fractions))
    check(plan, space)
    return plan


def check_fractions(fractions: Sequence[float]) -> Sequence[float]:
    """The fractions, which must be positive and sum to 1."""
    if fractions and min(fractions) > 0 and abs(sum(fractions) - 1) <= 1e-3:
        return fractions
    total = f", which sum to {sum(fractions):g}" if fractions else ""
    meant = f": write {_divided(fractions, sum(fractions))}" if fractions and min(fractions) > 0 else ""
    raise PlanError(f"expected positive fractions that sum to 1, got {list(fractions)}{total}{meant}")


def _divided(numbers: Sequence[float], by: float) -> str:
    return ",".join(f"{number / by:.3g}" for number in numbers)


def widths(space: PlanSpace, shares: Sequence[Share], *, align: int = 1, in_turn: bool = False) -> Plan:
    """Nested widths, each with its share of every group's channels, and of the blocks if it has not all.

    The widest is the static network if it has all. Of residual blocks that give the same channels, the first
    are kept.
    """
    pairs = check_shares(shares)
    steps = np.diff([0.0, *(of_channels for of_channels, _ in pairs), 1.0]).tolist()
    channels = {group.name: _by_fractions(group, steps, align)[:-1] for group in space.groups}
    plan = Plan(channels=channels, exits=(OUTPUT,) * len(pairs), nested=True, in_turn=in_turn)
    return with_blocks(plan, space, [of_blocks for _, of_blocks in pairs])


def check_shares(shares: Sequence[Share]) -> list[tuple[float, float]]:
    """The shares of widths, of the channels and of the residual blocks; each must have more than the last."""
    pairs = [share if isinstance(share, tuple) else (share, 1.0) for share in shares]
    if _are_widths(pairs):
        return pairs
    of_channels, of_blocks = zip(*pairs, strict=True)
    # Percents, which would be widths as shares.
    widest = max(of_channels)
    in_percent = 1 < widest <= 100 and set(of_blocks) == {1.0}
    meant = f": write {_divided(of_channels, 100)}" if in_percent else ""
    raise PlanError(
        "expected two or more widths, each above the one before, from above 0 to 1, each with a share of "
        f"the blocks after an x if it has not all, got {[_told(*pair) for pair in pairs]}{meant}"
    )


def with_blocks(plan: Plan, space: PlanSpace, shares: Sequence[float]) -> Plan:
    """The plan where each stage or width has a share of the residual blocks only, the first ones.

    What it would own within the others is the next one's that has them, or nobody's.
    """
    first_with = _first_with(space, shares, nested=plan.nested)
    channels = {
        name: (*[0] * first, sum(counts[: first + 1]), *counts[first + 1 :])[: plan.stages]
        for name, counts in plan.channels.items()
        for first in [first_with.get(name, 0)]
    }
    changed = replace(plan, channels=channels)
    check(changed, space)
    return changed


def _are_widths(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether each has more than the one before, and none more than all."""
    grow = all(
        after != before and all(b >= a for a, b in zip(before, after, strict=True))
        for before, after in pairwise(pairs)
    )
    return len(pairs) > 1 and grow and min(pairs[0]) > 0 and max(pairs[-1]) <= 1


def _told(channels: float, of_blocks: float) -> str:
    return f"{channels:g}" if of_blocks == 1 else f"{channels:g}x{of_blocks:g}"


def _first_with(space: PlanSpace, shares: Sequence[float], *, nested: bool) -> Mapping[str, int]:
    """Of each group within a residual block, the first stage or width that has the block, if any."""
    if min(shares) >= 1:
        return {}
    order = {name: place for place, name in enumerate(space.parents)}
    within = blocks(space, nested=nested)
    if not within:
        raise PlanError("the network has no residual block that could be left out")
    runs: dict[tuple[str, ...], list[str]] = {}  # blocks that give the same channels, by the sum of each
    for place in sorted(set(within.values()), key=order.__getitem__):
        runs.setdefault(space.held[place], []).append(place)
    first = {
        place: next(
            (k for k, share in enumerate(shares) if index < max(1, round(share * len(run)))), len(shares)
        )
        for run in runs.values()
        for index, place in enumerate(run)
    }
    return {group: first[place] for group, place in within.items()}


def has_all(plan: Plan, index: int, space: PlanSpace) -> bool:
    """Whether width `index` is the static network."""
    return all(sum(plan.channels[group.name][: index + 1]) == group.channels for group in space.groups)


def ends_in_static(plan: Plan, space: PlanSpace) -> bool:
    """Whether the static network answers what no width in turn is sure of: none of them has all of it."""
    return plan.in_turn and not has_all(plan, plan.stages - 1, space)


def narrowed(plan: Plan, index: int, space: PlanSpace) -> Plan:
    """Width `index` as the first of two stages; one that has all channels is the static network.

    What it owns within a block that it leaves out, as the gate there, is the second stage's.
    """
    if has_all(plan, index, space):
        return static(space)
    idle = presence_alone(plan, index, space).idle
    owned = {n: 0 if n in idle else sum(counts[: index + 1]) for n, counts in plan.channels.items()}
    channels = {name: (count, space.group[name].channels - count) for name, count in owned.items()}
    return Plan(channels=channels, exits=(OUTPUT,) * 2)


def gated(space: PlanSpace, shares: Sequence[Share], at: str | None = None, *, align: int = 1) -> Plan:
    """Nested widths after a prefix as thin as the thinnest, where a gate says which of them a sample takes.

    The gate is at a node, or where a quarter of the layers are before it.
    """
    whole = widths(space, shares, align=align)
    gate = usual_gate(space) if at is None else at
    if gate not in space.exits or gate == OUTPUT:
        raise PlanError(f"no node {shown(gate)} to put a gate after; {nearest(gate, space.exits)}")
    prefix = space.covered_by(gate)
    rest = (0,) * (whole.stages - 1)
    before = {group.name for group in space.groups if group.nodes & prefix}
    channels = {n: (c[0], *rest) if n in before else c for n, c in whole.channels.items()}
    plan = replace(whole, channels=channels, gate=gate)
    check(plan, space)
    return plan


_PREFIX_SHARE = 1 / 4


def usual_gate(space: PlanSpace) -> str:
    """The last node that all features pass with a quarter of the layers before it, best where groups end.

    A group that goes on after the gate is as thin there.
    """
    places: list[tuple[bool, int, str]] = []
    for name in space.exits[:-1]:
        prefix = space.covered_by(name)
        within = sum(layer.name in prefix for layer in space.layers) <= _PREFIX_SHARE * len(space.layers)
        read = {parent for node, parents in space.parents.items() if node not in prefix for parent in parents}
        if within and read & prefix <= {name}:
            ends = all(group.nodes <= prefix for group in space.groups if name in group.nodes)
            places.append((ends, len(places), name))
    if not places:
        raise PlanError(
            "found no place for a gate, a node in the first quarter of the network that all features pass; "
            "name one, as in gate:0.25,0.5,1@NODE"
        )
    return max(places)[-1]


def depth(space: PlanSpace, exits: Sequence[str]) -> Plan:
    """Stages divide the depth, not the width: stage k owns all that lies between exits k-1 and k."""
    plan_exits = (*exits, OUTPUT)
    check_exits(Plan(channels={}, exits=plan_exits), space)
    depths = space.depths(plan_exits)
    channels = {}
    for group in space.groups:
        counts = [0] * len(plan_exits)
        counts[min(depths[node] for node in group.nodes)] = group.channels
        channels[group.name] = tuple(counts)
    plan = Plan(channels=channels, exits=plan_exits)
    check(plan, space)
    return plan


def random(
    space: PlanSpace,
    stages: int,
    rng: np.random.Generator,
    *,
    align: int = 1,
    full_depth: bool = False,
) -> Plan:
    """A legal plan drawn at random: exits, divisions (zeros among them) and reuse.

    With `full_depth` every stage goes through all layers, which is the paper's own space.
    """
    check_count(stages)
    may_pass = frozenset(blocks(space))
    for _ in range(1000):
        plan = _draw(space, stages, rng, align, full_depth, may_pass)
        try:
            check(plan, space)
        except PlanError:
            continue  # a stage was left with nothing to compute: draw again
        return plan
    raise PlanError(
        f"found no legal plan of {number_of(stages, 'stage')}; the network's groups are too narrow"
    )


def check_count(stages: int) -> int:
    """How many stages, if a plan may have as many."""
    if not 1 <= stages <= MAX_STAGES:
        raise PlanError(f"a plan has 1 to {MAX_STAGES} stages, got {shown(stages)}")
    return stages


def _draw(  # noqa: PLR0917
    space: PlanSpace,
    stages: int,
    rng: np.random.Generator,
    align: int,
    full_depth: bool,
    may_pass: frozenset[str],
) -> Plan:
    exits = (OUTPUT,) * stages if full_depth else _draw_exits(space, stages, rng)
    depths = space.depths(exits)
    channels = {}
    for group in space.groups:
        first = min(depths[node] for node in group.nodes)
        if group.name in may_pass and first < stages - 1:
            first += int(rng.random() < 0.3)
        shares = rng.dirichlet(np.ones(stages - first)) * (rng.random(stages - first) < 0.8)
        shares[0] = max(shares[0], 1e-3)
        counts = _by_fractions(group, list(shares / shares.sum()), align)
        channels[group.name] = (0,) * first + counts
    plan = Plan(channels=channels, exits=exits)
    return Plan(channels=channels, exits=exits, no_reuse=_draw_no_reuse(plan, space, depths, rng))


def _draw_exits(space: PlanSpace, stages: int, rng: np.random.Generator) -> tuple[str, ...]:
    """Exits one after the other: each a node before the next, or the output."""
    exits = [OUTPUT]
    while len(exits) < stages:
        covered = space.covered_by(exits[0])
        choices = [name for name in space.exits if name in covered]
        at_output = exits[0] == OUTPUT and rng.random() < 0.5
        exits.insert(0, OUTPUT if at_output else choices[int(rng.integers(len(choices)))])
    return tuple(exits)


def _draw_no_reuse(
    plan: Plan, space: PlanSpace, depths: Mapping[str, int], rng: np.random.Generator
) -> frozenset[str]:
    """A tenth of the layers, less those that would be left with nothing to read."""
    drawn = [layer for layer in space.layers if rng.random() < 0.1]
    legal = []
    for layer in drawn:
        if is_legal_without_reuse(layer, plan, depths):
            legal.append(layer.name)
    return frozenset(legal)


def _by_fractions(group: ChannelGroup, fractions: Sequence[float], align: int) -> tuple[int, ...]:
    """Counts whose running sums are the fractions', rounded to portions; the first is never zero."""
    portion = int(np.lcm(group.granule, align))
    if portion > group.channels // 2:
        portion = group.granule
    whole = group.channels // portion
    ends = [max(1, round(whole * end)) * portion for end in np.cumsum(fractions)]
    ends[-1] = group.channels
    return tuple(end - start for start, end in zip([0, *ends[:-1]], ends, strict=True))
