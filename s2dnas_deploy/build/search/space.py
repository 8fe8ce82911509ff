"""The search space: a plan as a sequence of choices, each from a short menu, legal whatever is chosen.

Place in the flow: `PlanSpace` ──▶ `SearchSpace`, which strategies walk slot by slot. One slot for each stage
but the last says where it exits, one for each channel group how it is divided, one for each layer whether
later stages reuse earlier features there. What may be chosen in a slot depends on the choices before it:

    exits       come one after the other, at joints of the network (nodes that all information passes), or
                at the output; two stages may share the output only
    divisions   the first stage that reaches a group owns a portion of it; stages that end before own none;
                stages that share an exit each own a portion of the widest group, so that each has work
    reuse       may be forgone where every stage that owns outputs owns inputs as well

Under these rules every other rule of `plan.check` holds. Knows no weights, no costs and no strategy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from typing import Any, Literal

import numpy as np

from s2dnas_deploy.errors import OptionError, PlanError
from s2dnas_deploy.plan import OUTPUT, ChannelGroup, Layer, Plan, PlanSpace, check, is_legal_without_reuse

Choices = tuple[int, ...]
Kind = Literal["full", "paper"]
MOST_PORTIONS = 8  # a group is divided no finer than in eighths


@dataclass(frozen=True, kw_only=True)
class ExitSlot:
    """Where a stage exits."""

    stage: int
    options: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the slot decides."""
        return f"exit of stage {self.stage}"


@dataclass(frozen=True, kw_only=True)
class GroupSlot:
    """How a group's channels are divided: channels per stage, stages in order."""

    group: ChannelGroup
    options: tuple[tuple[int, ...], ...]

    @property
    def name(self) -> str:
        """What the slot decides."""
        return f"division of {self.group.name}"


@dataclass(frozen=True, kw_only=True)
class ReuseSlot:
    """Whether later stages read earlier features at a layer."""

    layer: Layer
    options: tuple[bool, ...] = (True, False)

    @property
    def name(self) -> str:
        """What the slot decides."""
        return f"reuse at {self.layer.name}"


Slot = ExitSlot | GroupSlot | ReuseSlot
Choose = Callable[[Slot, Sequence[bool]], int]


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """All plans of a network that a search may choose from; `make_space` makes one."""

    plans: PlanSpace
    stages: int
    kind: Kind
    align: int
    slots: tuple[Slot, ...]

    @cached_property
    def joints(self) -> Mapping[str, int]:
        """The nodes where a stage may exit, in order, the output last."""
        return {name: i for i, name in enumerate((*joints(self.plans), OUTPUT))}

    @cached_property
    def widest(self) -> str:
        """The group that all stages can own of in the most ways: where stages that share an exit each do."""
        divided = [slot for slot in self.slots if isinstance(slot, GroupSlot)]
        return max(divided, key=lambda slot: sum(min(counts) > 0 for counts in slot.options)).group.name

    def allowed(self, chosen: Sequence[int]) -> list[bool]:
        """Which options of the next slot go with what was chosen in the slots before it; some always do."""
        slot = self.slots[len(chosen)]
        if isinstance(slot, ExitSlot):
            before = -1 if slot.stage == 0 else self.joints[self.exits(chosen)[slot.stage - 1]]
            return [self._may_follow(before, self.joints[name]) for name in slot.options]
        if isinstance(slot, GroupSlot):
            exits = self.exits(chosen)
            first = min(self._depths(exits)[node] for node in slot.group.nodes)
            needed = self._needed(exits) if slot.group.name == self.widest else set()
            return [
                not any(counts[:first]) and counts[first] > 0 and all(counts[stage] > 0 for stage in needed)
                for counts in slot.options
            ]
        exits, channels = self.exits(chosen), self.channels(chosen)
        plan = Plan(channels=channels, exits=exits)
        return [True, is_legal_without_reuse(slot.layer, plan, self._depths(exits))]

    def plan(self, choices: Choices) -> Plan:
        """The plan that was chosen."""
        if len(choices) != len(self.slots):
            raise PlanError(f"expected {len(self.slots)} choices, got {len(choices)}")
        without = [
            slot.layer.name
            for slot, choice in zip(self.slots, choices, strict=True)
            if isinstance(slot, ReuseSlot) and not slot.options[choice]
        ]
        plan = Plan(channels=self.channels(choices), exits=self.exits(choices), no_reuse=frozenset(without))
        check(plan, self.plans)
        return plan

    def draw(self, rng: np.random.Generator) -> Choices:
        """Choices drawn one after the other, each allowed option alike."""
        return self.walk(lambda slot, allowed: int(rng.choice(np.flatnonzero(allowed))))

    def walk(self, choose: Choose) -> Choices:
        """Choose in every slot, given what is allowed there."""
        chosen: list[int] = []
        for slot in self.slots:
            allowed = self.allowed(chosen)
            choice = choose(slot, allowed)
            assert allowed[choice], f"{slot.name}: option {choice} is not allowed"
            chosen.append(choice)
        return tuple(chosen)

    def every(self) -> Iterator[Choices]:
        """All that can be chosen, one after the other; only for small spaces."""
        yield from self._below(())

    def exits(self, chosen: Sequence[int]) -> tuple[str, ...]:
        """The exits chosen so far; stages whose slots come later count as exiting at the output."""
        known = [
            slot.options[choice]
            for slot, choice in zip(self.slots, chosen, strict=False)
            if isinstance(slot, ExitSlot)
        ]
        return (*known, *[OUTPUT] * (self.stages - len(known)))

    def channels(self, chosen: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The divisions chosen so far."""
        return {
            slot.group.name: slot.options[choice]
            for slot, choice in zip(self.slots, chosen, strict=False)
            if isinstance(slot, GroupSlot)
        }

    def _below(self, chosen: Choices) -> Iterator[Choices]:
        if len(chosen) == len(self.slots):
            yield chosen
            return
        for choice, is_allowed in enumerate(self.allowed(chosen)):
            if is_allowed:
                yield from self._below((*chosen, choice))

    def _may_follow(self, before: int, joint: int) -> bool:
        last = len(self.joints) - 1
        return joint > before or joint == before == last

    def _needed(self, exits: Sequence[str]) -> set[int]:
        """The stages that go no deeper than the one before."""
        return {stage for stage in range(1, self.stages) if exits[stage] == exits[stage - 1]}

    def _depths(self, exits: tuple[str, ...]) -> Mapping[str, int]:
        known: dict[tuple[str, ...], Mapping[str, int]] = self._depths_of
        if exits not in known:
            known[exits] = self.plans.depths(exits)
        return known[exits]

    @cached_property
    def _depths_of(self) -> dict[tuple[str, ...], Mapping[str, int]]:
        return {}


def make_space(
    plans: PlanSpace,
    *,
    stages: int,
    kind: Kind = "full",
    align: int = 8,
    portions: int = MOST_PORTIONS,
    reuse: bool = True,
) -> SearchSpace:
    """The space of a network: `paper` is every stage through all layers, `full` adds exits and zeros."""
    if not 2 <= stages <= portions:
        raise OptionError(f"a search can divide a network among 2 to {portions} stages, got {stages}")
    exits: list[ExitSlot] = []
    if kind == "full":
        places = (*joints(plans), OUTPUT)
        exits = [ExitSlot(stage=stage, options=places) for stage in range(stages - 1)]
    order = {name: i for i, name in enumerate(plans.parents)}
    groups = [
        GroupSlot(group=group, options=divisions(group, stages, align=align, portions=portions, kind=kind))
        for group in sorted(plans.groups, key=lambda group: min(order[node] for node in group.nodes))
    ]
    layers = [ReuseSlot(layer=layer) for layer in plans.layers if reuse and not layer.reads_image]
    if not any(min(counts) > 0 for slot in groups for counts in slot.options):
        widest = max(sum(count > 0 for count in counts) for slot in groups for counts in slot.options)
        raise PlanError(
            f"the network's groups are too narrow to be divided among {stages} stages: {widest} can "
            "own a part of the widest; ask for fewer --stages, or a smaller --align"
        )
    return SearchSpace(plans=plans, stages=stages, kind=kind, align=align, slots=(*exits, *groups, *layers))


def uniform_choices(space: SearchSpace) -> tuple[Choices, ...]:
    """The choices next to the plans that one would write down by hand: widths alike in all groups.

    All stages exit at the output and own equal parts, or parts that double from the second stage on, such
    as 1/4, 1/4, 1/2; or such parts of which the first is halved again.
    """
    n = space.stages
    doubling = [2.0 ** -(n - 1), *[2.0 ** -(n - stage) for stage in range(1, n)]]
    thin = [doubling[0] / 2, doubling[1] + doubling[0] / 2, *doubling[2:]]
    return tuple(dict.fromkeys(_nearest(space, parts) for parts in ([1 / n] * n, doubling, thin)))


def _nearest(space: SearchSpace, parts: Sequence[float]) -> Choices:
    """The choices of a plan that divides each group as nearly by `parts` as may be."""
    marks = np.cumsum(parts)

    def distance(group: ChannelGroup, counts: tuple[int, ...]) -> float:
        return float(np.abs(np.cumsum(counts) / group.channels - marks).sum())

    return at_full_depth(space, distance)


def at_full_depth(space: SearchSpace, rank: Callable[[ChannelGroup, tuple[int, ...]], Any]) -> Choices:
    """All stages exit at the output, all is reused, each group is divided in the way lowest in rank."""

    def choose(slot: Slot, allowed: Sequence[bool]) -> int:
        open_ = [i for i, is_allowed in enumerate(allowed) if is_allowed]
        if isinstance(slot, GroupSlot):
            return min(open_, key=lambda i: rank(slot.group, slot.options[i]))
        return open_[-1] if isinstance(slot, ExitSlot) else open_[0]

    return space.walk(choose)


def joints(plans: PlanSpace) -> tuple[str, ...]:
    """Nodes that all information passes, the last before each layer: where a stage can end cleanly.

    In an order in which nodes can run, node i is such a joint if no edge leads from before it to after it.
    """
    names = list(plans.parents)
    position = {name: i for i, name in enumerate(names)}
    reach = list(range(len(names)))
    for name, parents in plans.parents.items():
        for parent in parents:
            reach[position[parent]] = max(reach[position[parent]], position[name])
    for name in plans.exit_reads:
        reach[position[name]] = len(names)
    featured = frozenset().union(*(group.nodes for group in plans.groups))
    layers = {layer.name for layer in plans.layers}
    found: list[str] = []
    furthest = 0
    for i, name in enumerate(names):
        if furthest <= i and name in featured:
            if found and not layers & set(names[position[found[-1]] + 1 : i + 1]):
                found.pop()  # nothing but element-wise nodes between: the later one is the better end
            found.append(name)
        furthest = max(furthest, reach[i])
    # Past the last layer an exit would read what the output's own reads.
    last = max(position[name] for name in layers)
    return tuple(name for name in found if position[name] < last)


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
