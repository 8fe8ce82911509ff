"""The search space: a plan as a sequence of choices, each from a short menu, legal whatever is chosen.

Place in the flow: `PlanSpace` ──▶ `SearchSpace`, which strategies walk slot by slot. One slot for each stage
but the last says where it exits, one for each channel group how it is divided, one for each layer whether
later stages reuse earlier features there. What may be chosen in a slot depends on the choices before it:

    exits       come one after the other, at joints of the network (nodes that all information passes), or
                at the output; two stages may share the output only
    divisions   the first stage that reaches a group owns a portion of it, unless it leaves out the residual
                block that the group is within; stages that end before own none;
                stages that share an exit each own a portion of the widest group, so that each has work
    reuse       may be forgone where every stage that owns outputs owns inputs as well

Of nested widths only divisions are chosen, and by the last group that all can own a part of, each must have
something of its own. Tried in turn, they need not have all of a group between them. Under these rules every
other rule of `plan.check` holds. Knows no weights, no costs and no strategy.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan import (
    OUTPUT,
    ChannelGroup,
    Layer,
    Plan,
    PlanSpace,
    blocks,
    check,
    is_legal_without_reuse,
)
from s2dnas_deploy.workshop.network.joints import joints

Choices = tuple[int, ...]
Kind = Literal["full", "paper"]
PlanKind = Literal["stages", "widths", "in-turn"]


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
    """All plans of a network that a search may choose from; `make_space` makes one.

    Those of nested widths have no exits and no layers to choose at: what is divided decides all.
    """

    plans: PlanSpace
    stages: int
    align: int
    slots: tuple[Slot, ...]
    plan_kind: PlanKind = "stages"

    @property
    def nested(self) -> bool:
        """Whether its plans are of nested widths."""
        return self.plan_kind != "stages"

    @cached_property
    def rank_of(self) -> Mapping[str, int]:
        """The nodes where a stage may exit, counted in order, the output last."""
        return {name: i for i, name in enumerate((*joints(self.plans), OUTPUT))}

    @cached_property
    def dispensable(self) -> frozenset[str]:
        """The groups within residual blocks, of which a stage that passes may own nothing."""
        return frozenset(blocks(self.plans, nested=self.nested))

    @cached_property
    def deciding(self) -> str:
        """The group that stages which share an exit each own a part of: that with the most ways to.

        Of nested widths, it is the last with any, and those that own something before it need not.
        """
        divided = [slot for slot in self.slots if isinstance(slot, GroupSlot)]
        ways = {slot.group.name: sum(min(counts) > 0 for counts in slot.options) for slot in divided}
        return (
            [name for name, count in ways.items() if count][-1]
            if self.nested
            else max(ways, key=ways.__getitem__)
        )

    def allowed(self, chosen: Sequence[int]) -> list[bool]:
        """Which options of the next slot go with what was chosen in the slots before it; some always do."""
        slot = self.slots[len(chosen)]
        if isinstance(slot, ExitSlot):
            before = -1 if slot.stage == 0 else self.rank_of[self.exits(chosen)[slot.stage - 1]]
            return [self._may_follow(before, self.rank_of[name]) for name in slot.options]
        if isinstance(slot, GroupSlot):
            exits = self.exits(chosen)
            first = min(self._depths(exits)[node] for node in slot.group.nodes)
            needed = self._needed(chosen) if slot.group.name == self.deciding else set()
            may_pass = slot.group.name in self.dispensable
            return [
                not any(counts[:first])
                and (may_pass or counts[first] > 0)
                and all(counts[stage] > 0 for stage in needed)
                for counts in slot.options
            ]
        exits, channels = self.exits(chosen), self.channels(chosen)
        plan = Plan(channels=channels, exits=exits)
        return [True, is_legal_without_reuse(slot.layer, plan, self._depths(exits))]

    def plan(self, choices: Choices) -> Plan:
        """The plan that was chosen."""
        if len(choices) != len(self.slots):
            raise PlanError(f"expected {len(self.slots)} choices, got {len(choices)}")
        for slot, choice in zip(self.slots, choices, strict=True):
            if not 0 <= choice < len(slot.options):
                raise PlanError(f"{slot.name}: expected a choice below {len(slot.options)}, got {choice}")
        without = [
            slot.layer.name
            for slot, choice in zip(self.slots, choices, strict=True)
            if isinstance(slot, ReuseSlot) and not slot.options[choice]
        ]
        plan = Plan(
            channels=self.channels(choices),
            exits=self.exits(choices),
            no_reuse=frozenset(without),
            nested=self.nested,
            in_turn=self.plan_kind == "in-turn",
        )
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
        last = len(self.rank_of) - 1
        return joint > before or joint == before == last

    def _needed(self, chosen: Sequence[int]) -> set[int]:
        """The stages that must own a part of the deciding group: they go no deeper than the one before."""
        exits = self.exits(chosen)
        shallow = {stage for stage in range(1, self.stages) if exits[stage] == exits[stage - 1]}
        if not self.nested:
            return shallow
        before = self.channels(chosen).values()
        return {stage for stage in shallow if not any(counts[stage] for counts in before)}

    def _depths(self, exits: tuple[str, ...]) -> Mapping[str, int]:
        known: dict[tuple[str, ...], Mapping[str, int]] = self._depths_of
        if exits not in known:
            known[exits] = self.plans.depths(exits)
        return known[exits]

    @cached_property
    def _depths_of(self) -> dict[tuple[str, ...], Mapping[str, int]]:
        return {}
