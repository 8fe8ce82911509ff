"""Which plans are legal, and what would be, where one is not."""

from collections.abc import Mapping

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan.document import MAX_STAGES, Plan
from s2dnas_deploy.plan.presence import lack_of
from s2dnas_deploy.plan.space import OUTPUT, ChannelGroup, Layer, PlanSpace, nearest
from s2dnas_deploy.quoting import shown


def check(plan: Plan, space: PlanSpace) -> None:
    """Raise a `PlanError` that says what is illegal and what would be legal; return if nothing is."""
    check_exits(plan, space)
    _check_names(plan, space)
    if plan.in_turn and (plan.gate is not None or not plan.nested):
        raise PlanError('only nested widths without a gate are tried "in_turn"')
    if plan.nested:
        _check_nested(plan)
    _check_prefix(plan, space)
    depths = space.depths(plan.exits)
    for group in space.groups:
        _check_group(group, plan, depths)
    for layer in space.layers:
        if layer.name in plan.no_reuse and (level := _level_without_own(layer, plan, depths)) is not None:
            raise _finds_nothing(layer, level, reuses=False)
    _check_exits_read_something(plan, space)
    if (lack := lack_of(plan, space, depths)) is not None:
        raise _finds_nothing(lack.layer, lack.level, reuses=lack.layer.name not in plan.no_reuse)
    _check_stages_compute_something(plan, space, depths)


def check_exits(plan: Plan, space: PlanSpace) -> None:
    """Raise a `PlanError` unless the exits are the network's, one after the other."""
    if not 1 <= plan.stages <= MAX_STAGES:
        raise PlanError(f"a plan has 1 to {MAX_STAGES} stages, got {plan.stages}")
    if plan.exits[-1] != OUTPUT:
        raise PlanError(f"the last stage must exit at {OUTPUT!r}, got {shown(plan.exits[-1])}")
    for name in plan.exits:
        if name not in space.exits:
            raise PlanError(f"no node {shown(name)} to exit at; {nearest(name, space.exits)}")
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


def _check_prefix(plan: Plan, space: PlanSpace) -> None:
    """All widths are alike up to the gate, if there is one."""
    if plan.gate is None:
        return
    if not plan.nested:
        raise PlanError('a gate picks one of nested widths, but the plan has a gate and not "nested": true')
    if plan.gate not in space.exits or plan.gate == OUTPUT:
        raise PlanError(f"no node {shown(plan.gate)} to put a gate after; {nearest(plan.gate, space.exits)}")
    prefix = space.covered_by(plan.gate)
    for group in space.groups:
        if group.nodes & prefix and any(plan.channels[group.name][1:]):
            counts = plan.channels[group.name]
            raise PlanError(
                f"group {shown(group.name)} is there before the gate at {shown(plan.gate)}, where all widths "
                f"are one; expected counts like {[counts[0], *[0] * (plan.stages - 1)]}, got {list(counts)}"
            )


def _check_names(plan: Plan, space: PlanSpace) -> None:
    for name in plan.channels:
        if name not in space.group:
            raise PlanError(
                f"the network has no channel group {shown(name)}; {nearest(name, tuple(space.group))}"
            )
    missing = [group.name for group in space.groups if group.name not in plan.channels]
    if missing:
        names = ", ".join(missing[:5])
        raise PlanError(f"the plan does not divide {len(missing)} of the channel groups: {names}")
    for name in plan.no_reuse:
        if name not in space.layer:
            raise PlanError(f"no layer {shown(name)} in no_reuse; {nearest(name, tuple(space.layer))}")


def _check_group(group: ChannelGroup, plan: Plan, depths: Mapping[str, int]) -> None:
    counts = plan.channels[group.name]
    where = f"group {shown(group.name)}: {list(counts)}"
    if len(counts) != plan.stages:
        raise PlanError(f"{where} has {len(counts)} counts; expected one per stage, {plan.stages}")
    if min(counts) < 0:
        raise PlanError(f"{where} has a negative count; a stage that owns nothing there has 0")
    if sum(counts) > group.channels or (sum(counts) < group.channels and not plan.nested):
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


def _level_without_own(layer: Layer, plan: Plan, depths: Mapping[str, int]) -> int | None:
    """The first stage that owns outputs of a layer and none of its inputs."""
    levels = {max(s, depths[layer.name]) for g in layer.makes for s, n in enumerate(plan.channels[g]) if n}
    own = {max(s, depths[layer.input]) for g in layer.reads for s, n in enumerate(plan.channels[g]) if n}
    return None if layer.reads_image else min(levels - own, default=None)


def _finds_nothing(layer: Layer, level: int, *, reuses: bool) -> PlanError:
    remedy = (
        "give an earlier or the same stage channels in "
        if reuses
        else "remove the layer from no_reuse, or give the same stage channels in "
    )
    return PlanError(
        f"stage {level} owns outputs of layer {shown(layer.name)} but none of its inputs are within its "
        f"reach; {remedy}{' or '.join(sorted(layer.reads))}"
    )


def is_legal_without_reuse(layer: Layer, plan: Plan, depths: Mapping[str, int]) -> bool:
    """Whether each stage that owns outputs of a layer owns inputs too: it could do without others'."""
    return _level_without_own(layer, plan, depths) is None


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
