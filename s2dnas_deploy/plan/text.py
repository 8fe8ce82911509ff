"""Plans as people type them: `uniform:0.25,0.25,0.5`, `in-turn:0.25,1` and others."""

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan.document import Plan
from s2dnas_deploy.plan.kinds import Share, depth, gated, random, static, uniform, widths
from s2dnas_deploy.plan.space import PlanSpace


def from_text(text: str, space: PlanSpace, *, align: int = 1, seed: int = 0) -> Plan:
    """`static`, `uniform:F,F`, `widths:F,1`, `in-turn:F,1` and others, as typed."""
    kind, _, rest = text.partition(":")
    if kind == "static" and not rest:
        return static(space)
    if kind == "uniform" and rest:
        return uniform(space, _numbers(rest), align=align)
    if kind in ("widths", "in-turn") and rest:
        return widths(space, _shares(rest), align=align, in_turn=kind == "in-turn")
    if kind == "gate" and rest:
        shares, _, at = rest.partition("@")
        return gated(space, _shares(shares), _exit_named(at.strip(), space) if at else None, align=align)
    if kind == "depth" and rest:
        return depth(space, [_exit_named(name.strip(), space) for name in rest.split(",")])
    if kind == "random" and rest.isdigit():
        return random(space, int(rest), np.random.default_rng(seed), align=align)
    if kind in ("blocks", "paths"):
        raise PlanError(f"{text!r} is for s2dnas-train alone: what comes of it is learned")
    raise PlanError(
        f"cannot read the plan {text!r}; expected a JSON file, static, uniform:0.25,0.25,0.5, "
        "widths:0.25,0.5,1, in-turn:0.25,1 (1x0.25 in place of 0.25: of the blocks, not the channels), "
        "gate:0.25,0.5,1, depth:NODE,NODE or random:STAGES (for training, blocks:0.5 and paths:3, too)"
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


def _shares(text: str) -> list[Share]:
    """Shares of the channels, each by itself or with one of the blocks: 0.5, or 0.5x0.3."""
    shares: list[Share] = []
    for part in text.split(","):
        channels, times, of_blocks = part.partition("x")
        shares.append((_numbers(channels)[0], _numbers(of_blocks)[0]) if times else _numbers(channels)[0])
    return shares
