"""The plan: who owns which channels, who reuses what, and where each stage exits; and the space of plans.

Place in the flow: `workshop/groups` derives a `PlanSpace` from a channel graph; a `Plan` is one point of it,
a small JSON document. This module knows no torch and no weights: it says which plans are legal, and makes
some. It must not know how a plan is run.

The rules of a legal plan. Stage k runs the nodes up to its exit tensor; the *depth* of a node is the first
stage whose exit is not before it. Channel c, owned by stage s, is computed at node n by stage

    level(n, c) = max(s, depth(n))

and a layer's output channel of level k reads the input channels of levels ≤ k (or = k, without reuse).
Every output channel must have something to read, every exit too, and every stage something to compute.

A plan may be of nested widths instead: width k has the channels of stages 0 … k and all that lies between
them, so all of its exits are at the output and all is reused. The caller picks one; or they are tried in
turn, each where the one before is not sure. It may have a gate, too: up to a node, all widths are then one,
a thin prefix, where some of the network's channels are no one's; the gate there says with which width a
sample goes on.
"""

import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.files.bounds import Between, Length
from s2dnas_deploy.files.document import Form, Head
from s2dnas_deploy.quoting import shown

FORMAT = "s2dnas-plan"
VERSION = 1
OUTPUT = "output"  # the exit that reads what the static network's own classifier reads
MAX_STAGES = 16
AUTO = "auto"  # in place of a plan: it is to be chosen


@dataclass(frozen=True, kw_only=True)
class ChannelGroup:
    """Channels that appear together: `channels` of them, owned in portions of `granule`, in `nodes`."""

    name: str
    channels: int
    granule: int
    nodes: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A node that reads across channels: which groups it reads (by its input node) and which it makes."""

    name: str
    input: str
    reads: frozenset[str]
    reads_image: bool
    makes: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class PlanSpace:
    """What can be decided about one network: its groups, its layers, and the nodes an exit may read.

    `parents` is the network without its classifier, as a graph of names, in an order in which it can
    run; `exit_reads` are the nodes that the classifier reads.
    """

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    parents: Mapping[str, tuple[str, ...]]
    exit_reads: frozenset[str]

    @cached_property
    def group(self) -> Mapping[str, ChannelGroup]:
        """Each group under its name."""
        return {group.name: group for group in self.groups}

    @cached_property
    def layer(self) -> Mapping[str, Layer]:
        """Each layer under its name."""
        return {layer.name: layer for layer in self.layers}

    @cached_property
    def exits(self) -> tuple[str, ...]:
        """Where a stage may exit: any node that holds features, or the network's own output."""
        featured = frozenset().union(*(group.nodes for group in self.groups))
        return (*(name for name in self.parents if name in featured), OUTPUT)

    def covered_by(self, exit_name: str) -> frozenset[str]:
        """The nodes that must run before an exit can be read, its own included."""
        if exit_name == OUTPUT:
            return frozenset(self.parents)
        covered = {exit_name}
        for name in reversed(tuple(self.parents)):
            if name in covered:
                covered.update(self.parents[name])
        return frozenset(covered)

    def depths(self, exits: Sequence[str]) -> dict[str, int]:
        """The first stage that runs each node, given where the stages exit."""
        depths: dict[str, int] = {}
        for stage, exit_name in enumerate(exits):
            for name in self.covered_by(exit_name):
                depths.setdefault(name, stage)
        return depths


_CALLED = {0.25: "quarter", 0.5: "half", 0.75: "three_quarters"}
_WIDEST = "full"
_NEARLY = 0.02  # widths are rounded to what kernels like


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A decision about every group, layer and exit. Legal or not is for `check` to say."""

    channels: Mapping[str, tuple[int, ...]]
    exits: tuple[str, ...]
    no_reuse: frozenset[str] = frozenset()
    nested: bool = False
    """Whether it is of nested widths: what each stage owns is what a width has more than the one before."""
    in_turn: bool = False
    """Of nested widths: whether they are tried one after the other until one is sure."""
    gate: str | None = None
    """Of nested widths: the node after which a gate says with which of them a sample goes on."""

    @property
    def stages(self) -> int:
        """How many stages the plan has."""
        return len(self.exits)

    @property
    def exits_early(self) -> bool:
        """Whether samples go from one answer to the next until one is sure."""
        return not self.nested or self.in_turn

    def up_to_exits(self, costs: Iterable[float]) -> tuple[float, ...]:
        """What it costs to get each answer, from what each stage or width costs by itself."""
        return tuple(accumulate(costs)) if self.exits_early else tuple(costs)

    @property
    def width_names(self) -> tuple[str, ...]:
        """What a person calls each nested width: its share of the channels that differ, or a word for it."""
        differ = [counts for counts in self.channels.values() if any(counts[1:])]
        owned = [sum(counts) for counts in zip(*differ, strict=True)]
        shares = [sum(owned[: index + 1]) / sum(owned) for index in range(self.stages)]
        names = [
            next((name for known, name in _CALLED.items() if abs(share - known) < _NEARLY), f"{share:.2f}")
            for share in shares[:-1]
        ]
        names.append(_WIDEST)
        return tuple(name if names.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(names))

    def to_json(self) -> str:
        """The plan as a JSON document, one group a line; equal plans give equal text."""
        rows = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(list(counts))}" for name, counts in self.channels.items()
        )
        return (
            f'{{\n  "format": "{FORMAT}",\n  "version": {VERSION},\n  "stages": {self.stages},\n'
            + ('  "nested": true,\n' if self.nested else "")
            + ('  "in_turn": true,\n' if self.in_turn else "")
            + ("" if self.gate is None else f'  "gate": {json.dumps(self.gate)},\n')
            + f'  "exits": {json.dumps(list(self.exits))},\n'
            f'  "no_reuse": {json.dumps(sorted(self.no_reuse))},\n  "channels": {{\n{rows}\n  }}\n}}\n'
        )

    @property
    def digest(self) -> str:
        """Sha256 of the decision itself, whatever the order in which the groups are written."""
        content: list[Any] = [sorted((n, list(c)) for n, c in self.channels.items())]
        content += [self.exits, sorted(self.no_reuse), *(["nested"] if self.nested else [])]
        content += ["in turn"] if self.in_turn else []
        content += [] if self.gate is None else [["gate", self.gate]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read a plan document; `check` it against a space before use."""
        return _FORM.read(text, "the plan").plan

    @staticmethod
    def load(path: Path) -> "Plan":
        """As `from_json`, of a file."""
        return _FORM.load(path).plan

    @staticmethod
    def from_document(document: Any) -> "Plan":
        """As `from_json`, of a plan within another document."""
        return _FORM.of(document, "the plan").plan


_Names = tuple[Annotated[str, Length(1, 1000)], ...]


@dataclass(frozen=True, kw_only=True)
class _Document:
    """The form of a plan document. What the names mean is checked later."""

    exits: Annotated[_Names, Length(1, MAX_STAGES)]
    channels: Mapping[str, Annotated[tuple[Annotated[int, Between(0, 2**40)], ...], Length(1, MAX_STAGES)]]
    stages: int | None = None
    no_reuse: _Names = ()
    nested: bool = False
    in_turn: bool = False
    gate: Annotated[str, Length(1, 1000)] | None = None

    def __post_init__(self) -> None:
        if self.stages not in (None, len(self.exits)):
            raise PlanError(f'"stages" is {self.stages} but "exits" lists {len(self.exits)}')

    @property
    def plan(self) -> Plan:
        """The plan that it is."""
        return Plan(
            channels=self.channels,
            exits=self.exits,
            no_reuse=frozenset(self.no_reuse),
            nested=self.nested,
            in_turn=self.in_turn,
            gate=self.gate,
        )


_FORM = Form(
    record=_Document,
    error=PlanError,
    head=Head(format=FORMAT, version=VERSION, writer="s2dnas-inspect --write-plan"),
)


# --- legality ------------------------------------------------------------------------------------------


def check(plan: Plan, space: PlanSpace) -> None:
    """Raise a `PlanError` that says what is illegal and what would be legal; return if nothing is."""
    _check_exits(plan, space)
    _check_names(plan, space)
    if plan.in_turn and (plan.gate is not None or not plan.nested):
        raise PlanError('only nested widths without a gate are tried "in_turn"')
    if plan.nested:
        _check_nested(plan)
    depths, before_gate = space.depths(plan.exits), _checked_prefix(plan, space)
    for group in space.groups:
        _check_group(group, plan, depths, may_leave_some=bool(group.nodes & before_gate))
    for layer in space.layers:
        _check_layer(layer, plan, depths)
    _check_exits_read_something(plan, space)
    _check_stages_compute_something(plan, space, depths)


def _check_exits(plan: Plan, space: PlanSpace) -> None:
    if not 1 <= plan.stages <= MAX_STAGES:
        raise PlanError(f"a plan has 1 to {MAX_STAGES} stages, got {plan.stages}")
    if plan.exits[-1] != OUTPUT:
        raise PlanError(f"the last stage must exit at {OUTPUT!r}, got {shown(plan.exits[-1])}")
    for name in plan.exits:
        if name not in space.exits:
            raise PlanError(f"no node {shown(name)} to exit at; {_nearest(name, space.exits)}")
    for stage, (before, after) in enumerate(zip(plan.exits, plan.exits[1:], strict=False)):
        if after != OUTPUT and (before == OUTPUT or before not in space.covered_by(after)):
            raise PlanError(
                f"stage {stage} exits at {shown(before)}, which is not before stage {stage + 1}'s exit "
                f"{shown(after)}; exits must come one after the other (or be the same)"
            )


def _check_nested(plan: Plan) -> None:
    if plan.stages < 2 or set(plan.exits) != {OUTPUT} or plan.no_reuse:
        raise PlanError(
            f"nested widths are two or more, all of them answer at {OUTPUT!r}, and none does without what a "
            f"narrower one has; got the exits {shown(list(plan.exits))} and no_reuse "
            f"{shown(sorted(plan.no_reuse))}"
        )
    for name, counts in plan.channels.items():
        if not counts[0]:
            raise PlanError(f"group {shown(name)}: {list(counts)}: the thinnest width has no channel there")


def _checked_prefix(plan: Plan, space: PlanSpace) -> frozenset[str]:
    """The nodes up to the gate, if there is one; all widths are alike there."""
    if plan.gate is None:
        return frozenset()
    if not plan.nested:
        raise PlanError('a gate picks one of nested widths, but the plan has a gate and not "nested": true')
    if plan.gate not in space.exits or plan.gate == OUTPUT:
        raise PlanError(f"no node {shown(plan.gate)} to put a gate after; {_nearest(plan.gate, space.exits)}")
    prefix = space.covered_by(plan.gate)
    for group in space.groups:
        if group.nodes & prefix and any(plan.channels[group.name][1:]):
            counts = plan.channels[group.name]
            raise PlanError(
                f"group {shown(group.name)} is there before the gate at {shown(plan.gate)}, where all widths "
                f"are one; expected counts like {[counts[0], *[0] * (plan.stages - 1)]}, got {list(counts)}"
            )
    return prefix


def _check_names(plan: Plan, space: PlanSpace) -> None:
    for name in plan.channels:
        if name not in space.group:
            raise PlanError(
                f"the network has no channel group {shown(name)}; {_nearest(name, tuple(space.group))}"
            )
    missing = [group.name for group in space.groups if group.name not in plan.channels]
    if missing:
        names = ", ".join(missing[:5])
        raise PlanError(f"the plan does not divide {len(missing)} of the channel groups: {names}")
    for name in plan.no_reuse:
        if name not in space.layer:
            raise PlanError(f"no layer {shown(name)} in no_reuse; {_nearest(name, tuple(space.layer))}")


def _check_group(group: ChannelGroup, plan: Plan, depths: Mapping[str, int], *, may_leave_some: bool) -> None:
    counts = plan.channels[group.name]
    where = f"group {shown(group.name)}: {list(counts)}"
    if len(counts) != plan.stages:
        raise PlanError(f"{where} has {len(counts)} counts; expected one per stage, {plan.stages}")
    if min(counts) < 0:
        raise PlanError(f"{where} has a negative count; a stage that owns nothing there has 0")
    if sum(counts) > group.channels or (sum(counts) < group.channels and not may_leave_some):
        raise PlanError(f"{where} sums to {sum(counts)}; the group has {group.channels} channels to divide")
    uneven = [count for count in counts if count % group.granule]
    if uneven:
        raise PlanError(
            f"{where}: {uneven[0]} is not a multiple of {group.granule}, "
            "the width that a grouped convolution keeps together"
        )
    first = min(depths[node] for node in group.nodes)
    for stage in range(first):
        if counts[stage]:
            raise PlanError(
                f"{where}: stage {stage} exits at {shown(plan.exits[stage])}, before this group begins, so "
                f"it must own 0 there; the first stage that may own some is stage {first}"
            )


def _check_layer(layer: Layer, plan: Plan, depths: Mapping[str, int]) -> None:
    levels = {max(s, depths[layer.name]) for g in layer.makes for s, n in enumerate(plan.channels[g]) if n}
    readable = {max(s, depths[layer.input]) for g in layer.reads for s, n in enumerate(plan.channels[g]) if n}
    for level in sorted(levels):
        reuses = layer.name not in plan.no_reuse
        if layer.reads_image or level in readable or (reuses and any(other < level for other in readable)):
            continue
        remedy = (
            "give an earlier or the same stage channels in "
            if reuses
            else "remove the layer from no_reuse, or give the same stage channels in "
        )
        raise PlanError(
            f"stage {level} owns outputs of layer {shown(layer.name)} but none of its inputs are within its "
            f"reach; {remedy}{' or '.join(sorted(layer.reads))}"
        )


def is_legal_without_reuse(layer: Layer, plan: Plan, depths: Mapping[str, int]) -> bool:
    """Whether each stage that owns outputs of a layer owns inputs too: it could do without others'."""
    alone = Plan(channels=plan.channels, exits=plan.exits, no_reuse=frozenset({layer.name}))
    try:
        _check_layer(layer, alone, depths)
    except PlanError:
        return False
    return True


def _check_exits_read_something(plan: Plan, space: PlanSpace) -> None:
    for stage, exit_name in enumerate(plan.exits):
        nodes = space.exit_reads if exit_name == OUTPUT else {exit_name}
        groups = [group for group in space.groups if group.nodes & nodes]
        if not any(any(plan.channels[group.name][: stage + 1]) for group in groups):
            names = " or ".join(group.name for group in groups)
            raise PlanError(
                f"stage {stage} exits at {shown(exit_name)}, where stages 0 to {stage} own nothing; "
                f"give one of them channels in {names}"
            )


def _check_stages_compute_something(plan: Plan, space: PlanSpace, depths: Mapping[str, int]) -> None:
    computing = {
        max(stage, depths[layer.name])
        for layer in space.layers
        for name in layer.makes
        for stage, count in enumerate(plan.channels[name])
        if count
    }
    idle = sorted(set(range(plan.stages)) - computing)
    if idle:
        raise PlanError(
            f"stage {idle[0]} computes nothing: it owns no channels and its exit is not deeper than the one "
            "before; give it channels or leave it out"
        )


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    some = list(known)[:: max(len(known) // 8, 1)]
    return f"did you mean {', '.join(close)}?" if close else f"there are {', '.join(some)}, …"


# --- constructors: every one gives a legal plan ------------------------------------------------------


def static(space: PlanSpace) -> Plan:
    """One stage that owns everything: the static network."""
    return Plan(channels={group.name: (group.channels,) for group in space.groups}, exits=(OUTPUT,))


def uniform(space: PlanSpace, fractions: Sequence[float], *, align: int = 1) -> Plan:
    """Every stage goes through all layers and owns the same fraction of every group (the paper's kind).

    Boundaries are rounded to multiples of `align` channels where a group is wide enough, so with a coarse
    `align` a stage may own nothing in a narrow group; stage 0 owns at least one portion of each.
    """
    if not fractions or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-3:
        total = f", which sum to {sum(fractions):g}" if fractions else ""
        raise PlanError(f"expected positive fractions that sum to 1, got {list(fractions)}{total}")
    channels = {group.name: _by_fractions(group, fractions, align) for group in space.groups}
    plan = Plan(channels=channels, exits=(OUTPUT,) * len(fractions))
    check(plan, space)
    return plan


def widths(space: PlanSpace, shares: Sequence[float], *, align: int = 1, in_turn: bool = False) -> Plan:
    """Nested widths, each with its share of every group's channels; the widest is the static network."""
    if len(shares) < 2 or shares[0] <= 0 or abs(shares[-1] - 1) > 1e-3 or list(shares) != sorted(set(shares)):
        raise PlanError(
            f"expected two or more widths, each above the one before, from above 0 to 1, got {list(shares)}"
        )
    steps = [after - before for before, after in zip([0, *shares], shares, strict=False)]
    return replace(uniform(space, steps, align=align), nested=True, in_turn=in_turn)


def gated(space: PlanSpace, shares: Sequence[float], at: str | None = None, *, align: int = 1) -> Plan:
    """Nested widths after a prefix as thin as the thinnest, where a gate says which of them a sample takes.

    The gate is at a node, or where a quarter of the layers are before it.
    """
    whole = widths(space, shares, align=align)
    gate = usual_gate(space) if at is None else at
    if gate not in space.exits or gate == OUTPUT:
        raise PlanError(f"no node {shown(gate)} to put a gate after; {_nearest(gate, space.exits)}")
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
    _check_exits(Plan(channels={}, exits=plan_exits), space)
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
    if not 1 <= stages <= MAX_STAGES:
        raise PlanError(f"a plan has 1 to {MAX_STAGES} stages, got {stages}")
    for _ in range(1000):
        plan = _draw(space, stages, rng, align, full_depth)
        try:
            check(plan, space)
        except PlanError:
            continue  # a stage was left with nothing to compute: draw again
        return plan
    raise PlanError(f"found no legal plan of {stages} stages; the network's groups are too narrow")


def _draw(space: PlanSpace, stages: int, rng: np.random.Generator, align: int, full_depth: bool) -> Plan:
    exits = (OUTPUT,) * stages if full_depth else _draw_exits(space, stages, rng)
    depths = space.depths(exits)
    channels = {}
    for group in space.groups:
        first = min(depths[node] for node in group.nodes)
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


def from_text(text: str, space: PlanSpace, *, align: int = 1, seed: int = 0) -> Plan:
    """`static`, `uniform:F,F`, `widths:F,1`, `in-turn:F,1` and others, as typed."""
    kind, _, rest = text.partition(":")
    if kind == "static" and not rest:
        return static(space)
    if kind == "uniform" and rest:
        return uniform(space, _numbers(rest), align=align)
    if kind in ("widths", "in-turn") and rest:
        return widths(space, _numbers(rest), align=align, in_turn=kind == "in-turn")
    if kind == "gate" and rest:
        shares, _, at = rest.partition("@")
        return gated(space, _numbers(shares), _exit_named(at.strip(), space) if at else None, align=align)
    if kind == "depth" and rest:
        return depth(space, [_exit_named(name.strip(), space) for name in rest.split(",")])
    if kind == "random" and rest.isdigit():
        return random(space, int(rest), np.random.default_rng(seed), align=align)
    if kind in ("blocks", "paths"):
        raise PlanError(f"{text!r} is for s2dnas-train alone: what comes of it is learned")
    raise PlanError(
        f"cannot read the plan {text!r}; expected a JSON file, static, uniform:0.25,0.25,0.5, "
        "widths:0.25,0.5,1, in-turn:0.25,1, gate:0.25,0.5,1, depth:NODE,NODE or random:STAGES (for training, "
        "blocks:0.5 and paths:3, too)"
    )


def _exit_named(name: str, space: PlanSpace) -> str:
    """The node of that name; for a module's name the last of its nodes, which is what it gives."""
    inside = [node for node in space.exits if node.startswith(f"{name}.")]
    return inside[-1] if inside and name not in space.exits else name


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise PlanError(f"expected numbers with commas between, got {text!r}") from error
    if not np.isfinite(numbers).all():
        raise PlanError(f"expected finite numbers, got {text!r}")
    return numbers
