"""Plans as people type them: `uniform:0.25,0.25,0.5`, `in-turn:0.25,1` and others, or the name of a file.

What is wrong with a plan for any network is told by the text alone, before there is a network.
"""

import difflib
import os
from collections.abc import Callable
from functools import partial
from math import nan
from pathlib import Path

import numpy as np

from s2dnas_deploy.errors import PlanError
from s2dnas_deploy.plan.document import MAX_STAGES, Plan
from s2dnas_deploy.plan.kinds import (
    Share,
    check_count,
    check_fractions,
    check_shares,
    depth,
    gated,
    random,
    static,
    uniform,
    widths,
)
from s2dnas_deploy.plan.space import OUTPUT, PlanSpace, nearest
from s2dnas_deploy.quoting import shortened, shown

ForAny = Callable[[PlanSpace], Plan]
"""A plan that waits for its network."""

_KINDS = ("auto", "static", "uniform", "widths", "in-turn", "gate", "depth", "random", "blocks", "paths")
_BLOCKS, _PATHS = "blocks:", "paths:"


def from_text(text: str, space: PlanSpace, *, align: int = 1, seed: int = 0) -> Plan:
    """`static`, `uniform:F,F`, `widths:F,1`, `in-turn:F,1` and others, as typed."""
    return in_words(text, align=align, seed=seed)(space)


def from_file_or_text(text: str, *, align: int = 1, seed: int = 0) -> ForAny:
    """The plan in a JSON file, or as spelled out in the text."""
    path = Path(os.path.expanduser(text))
    is_file = _is_file(path)
    if path.suffix != ".json" and not is_file:
        return in_words(text, align=align, seed=seed)
    if not is_file:
        raise PlanError(f"cannot read the plan file {shortened(text, 200)}: there is no such file")
    try:
        plan = Plan.load(path)
    except OSError as error:
        raise PlanError(f"cannot read the plan file {path}: {error}") from error
    return lambda space: plan


def in_words(text: str, *, align: int = 1, seed: int = 0) -> ForAny:
    """What a text says of every network; a `PlanError` if no network could be divided so."""
    kind, _, rest = text.partition(":")
    if kind == "static" and not rest:
        return static
    if kind == "uniform" and rest:
        return partial(uniform, fractions=check_fractions(_numbers(rest)), align=align)
    if kind in ("widths", "in-turn") and rest:
        shares = check_shares(_shares(rest))
        return partial(widths, shares=shares, align=align, in_turn=kind == "in-turn")
    if kind == "gate" and rest:
        spelled, _, at = rest.partition("@")
        return partial(_gated, shares=check_shares(_shares(spelled)), at=at.strip(), align=align)
    if kind == "depth" and rest:
        return partial(_depth, names=[name.strip() for name in rest.split(",")])
    if kind == "random" and rest.isdigit():
        stages = check_count(int(rest))
        return lambda space: random(space, stages, np.random.default_rng(seed), align=align)
    if kind in ("blocks", "paths"):
        raise PlanError(f"{text!r} is for s2dnas-train alone: what comes of it is learned")
    raise PlanError(
        f"cannot read the plan {text!r}{_meant(kind, text)}; expected a JSON file, static, "
        "uniform:0.25,0.25,0.5, widths:0.25,0.5,1, in-turn:0.25,1 (1x0.25 in place of 0.25: of the blocks, "
        "not the channels), gate:0.25,0.5,1, depth:NODE,NODE or random:STAGES (for training, blocks:0.5 and "
        "paths:3, too)"
    )


def paths_count(plan: str) -> int | None:
    """Of `paths:COUNT`, how many paths; None for any other plan."""
    if not plan.startswith(_PATHS):
        return None
    count = plan.removeprefix(_PATHS)
    if not (count.isascii() and count.isdigit() and 2 <= int(count) <= MAX_STAGES):
        raise PlanError(
            f"cannot read the plan {shown(plan)}; expected paths:COUNT with 2 to {MAX_STAGES} paths, such as "
            "paths:3"
        )
    return int(count)


def blocks_share(plan: str) -> float | None:
    """Of `blocks:SHARE`, the share of the MACs that an image may take on average; None for any other plan."""
    if not plan.startswith(_BLOCKS):
        return None
    try:
        share = float(plan.removeprefix(_BLOCKS))
    except ValueError:
        share = nan
    if not 0 < share <= 1:
        raise PlanError(
            f"cannot read the plan {plan!r}; expected blocks:SHARE with the share of the MACs that an image "
            "may take on average, above 0 and at most 1, such as blocks:0.5"
        )
    return share


def _meant(kind: str, text: str) -> str:
    """What a word for a kind of plan may have been meant to be."""
    close = difflib.get_close_matches(kind.lower(), _KINDS, n=1)
    meant = f"{close[0]}{text[len(kind) :]}" if close else ""
    return f": did you mean {meant}?" if meant not in ("", text) else ""


def _depth(space: PlanSpace, names: list[str]) -> Plan:
    return depth(space, [_node_called(name, space, "to exit at") for name in names])


def _gated(space: PlanSpace, shares: list[tuple[float, float]], at: str, align: int) -> Plan:
    return gated(space, shares, _node_called(at, space, "to put a gate after") if at else None, align=align)


def _node_called(name: str, space: PlanSpace, what_for: str) -> str:
    """The node of that name; for a module's name the last of its nodes, which is what it gives."""
    if name in space.exits:
        return name
    inside = [node for node in space.exits if node.startswith(f"{name}.")]
    if not inside:
        raise PlanError(f"no node or module {shown(name)} {what_for}; {nearest(name, _names_in(space))}")
    return inside[-1]


def _names_in(space: PlanSpace) -> tuple[str, ...]:
    """What may be named in a network: modules, from the outermost on, and nodes."""
    nodes = [node for node in space.exits if node != OUTPUT]
    modules = {node.rsplit(".", depth)[0] for node in nodes for depth in range(node.count("."), 0, -1)}
    return (*sorted(modules, key=lambda name: (name.count("."), name)), *nodes)


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


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a plan in words may be too long for a name
        return False
