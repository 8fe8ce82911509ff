"""What is there of each node, for each stage: what finds nothing to read gives nothing; sums do without it.

So a stage may leave a residual block out: it owns nothing within the block, and passes on what came before.

    layer      gives nothing, if it may read nothing that is there
    sum        is there, if one of its inputs is
    any other  is there, if its inputs are; it cannot be made of some that are and some that are not

`workshop/network/division` does the same for every channel; this tells it from owners, and names the cause.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from s2dnas_deploy.plan.document import Plan
from s2dnas_deploy.plan.space import OUTPUT, Layer, PlanSpace


@dataclass(frozen=True, kw_only=True)
class Lack:
    """That a layer finds nothing to read for the channels of a stage."""

    layer: Layer
    level: int


@dataclass(frozen=True, kw_only=True)
class Presence:
    """What came of it: the sums that did without an input, what is wrong if anything is, and who answers."""

    helped: frozenset[str]
    wrong: Lack | None
    answers: bool
    """Whether every exit finds something to read."""
    idle: frozenset[str]
    """The groups that have owners, and of which nothing is there."""


@dataclass
class _Walk:
    """Through the network, node by node. `there[node, group]`: of each owner, why it is not there, if so."""

    plan: Plan
    space: PlanSpace
    depths: Mapping[str, int]
    there: dict[tuple[str, str], dict[int, Lack | None]] = field(default_factory=dict)
    padding: set[tuple[str, str]] = field(default_factory=set)
    helped: set[str] = field(default_factory=set)
    wrong: Lack | None = None
    answers: bool = True

    def go(self) -> None:
        for name in self.space.parents:
            layer = self.space.layer.get(name)
            for group in self.space.held.get(name, ()):
                owners = [s for s, count in enumerate(self.plan.channels[group]) if count]
                found = {
                    s: self._carried(name, group, s) if layer is None else self._made(layer, s)
                    for s in owners
                }
                self.there[name, group] = found
        for stage in range(self.plan.stages):
            read = self._read_by_exit(stage)
            if None not in read:
                self.answers = False
                self.wrong = self.wrong or next(iter(read), None)

    def _level(self, name: str, owner: int) -> int:
        return max(owner, self.depths[name])

    def _made(self, layer: Layer, owner: int) -> Lack | None:
        """Why a layer gives nothing for an owner: that of its input, or that nobody owns any there."""
        if layer.reads_image:
            return None
        level, alone = self._level(layer.name, owner), layer.name in self.plan.no_reuse
        within = [
            lack
            for group in layer.reads
            for s, lack in self.there[layer.input, group].items()
            if (at := self._level(layer.input, s)) == level or (at < level and not alone)
        ]
        if None in within:
            return None
        return next((lack for lack in within if lack), Lack(layer=layer, level=level))

    def _carried(self, name: str, group: str, owner: int) -> Lack | None:
        sources = [p for p in self.space.parents[name] if (p, group) in self.there]
        if not sources:
            self.padding.add((name, group))
            return None
        lacks = {parent: self.there[parent, group][owner] for parent in sources}
        missing = next((lack for lack in lacks.values() if lack), None)
        if missing is None or None not in lacks.values():
            return missing
        if name not in self.space.sums:
            self.wrong = self.wrong or missing
        elif all((parent, group) in self.padding for parent, lack in lacks.items() if lack is None):
            return missing  # zeros that a shortcut is padded with are nothing to pass on
        else:
            self.helped.add(name)
        return None

    def _read_by_exit(self, stage: int) -> list[Lack | None]:
        """Of all that a stage's exit may read, why it is not there, if so."""
        exit_name = self.plan.exits[stage]
        nodes = self.space.exit_reads if exit_name == OUTPUT else (exit_name,)
        return [
            lack
            for name in nodes
            for group in self.space.held.get(name, ())
            for s, lack in self.there[name, group].items()
            if self._level(name, s) <= stage
        ]


def lack_of(plan: Plan, space: PlanSpace, depths: Mapping[str, int]) -> Lack | None:
    """Why a plan whose groups and exits are legal does not work, if it does not."""
    if not plan.nested:
        return presence(plan, space, depths).wrong
    for width in range(plan.stages):
        wrong = presence_alone(plan, width, space).wrong
        if wrong is not None:
            return replace(wrong, level=width)
    return None


def presence(plan: Plan, space: PlanSpace, depths: Mapping[str, int]) -> Presence:
    """Walk through a plan whose groups and exits are legal."""
    walk = _Walk(plan=plan, space=space, depths=depths)
    walk.go()
    lacks: dict[str, list[Lack | None]] = {}
    for (_, group), found in walk.there.items():
        lacks.setdefault(group, []).extend(found.values())
    return Presence(
        helped=frozenset(walk.helped),
        wrong=walk.wrong,
        answers=walk.answers,
        idle=frozenset(group for group, found in lacks.items() if found and None not in found),
    )


def presence_alone(plan: Plan, index: int, space: PlanSpace) -> Presence:
    """What is there of a nested width by itself."""
    has = {name: (sum(counts[: index + 1]),) for name, counts in plan.channels.items()}
    return presence(Plan(channels=has, exits=(OUTPUT,)), space, space.depths((OUTPUT,)))


def blocks(space: PlanSpace, *, nested: bool = False) -> Mapping[str, str]:
    """The groups that a stage may do without while it passes, each with the sum that makes up for it.

    Whatever of them it does without, nothing else is lacking. A nested width may do without more: what comes
    after it reads all that it has itself, not what a stage before may have left.
    """
    found: dict[str, str] = {}
    for group in space.groups:
        alone, together = (
            _passing(space, without, nested) for without in ({group.name}, {*found, group.name})
        )
        if alone.helped and all(each.answers and each.wrong is None for each in (alone, together)):
            found[group.name] = min(alone.helped)
    return found


def _passing(space: PlanSpace, without: set[str], nested: bool) -> Presence:
    """What is there if a width, or the first of two stages, has all but some groups."""
    has = {group.name: 0 if group.name in without else group.channels for group in space.groups}
    rest = {group.name: () if nested else (group.channels - has[group.name],) for group in space.groups}
    exits = (OUTPUT,) if nested else (OUTPUT, OUTPUT)
    plan = Plan(channels={name: (count, *rest[name]) for name, count in has.items()}, exits=exits)
    return presence(plan, space, space.depths(exits))
