"""Plans as people type them: `uniform:0.25,0.25,0.5`, `in-turn:0.25,1` and others."""

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan.document import Plan
from s2dnas_deploy.plan.kinds import depth, gated, random, static, uniform, widths
from s2dnas_deploy.plan.space import PlanSpace


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
