"""Where the samples of a stage go now: a flow with the caller's settings, ready to decide batch after batch.

Place in the flow: `Flow` + settings ──▶ `Course`; a stage's values ──junction──▶ [(place, its samples)].
Batches that run are decided here, and so are values that were recorded, by `walk`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from s2dnas_deploy.decide.flow import Flow, Route
from s2dnas_deploy.decide.rules import Largest, Setting, Threshold
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown

Array = npt.NDArray[Any]
Rows = npt.NDArray[np.intp]
Part = tuple[int, Rows | None]
"""The place where samples go, below 0 if they are done, and which of the stage's they are; None: all."""
Junction = Callable[[Mapping[str, Array], int], Sequence[Part]]
"""From the tensors of a batch, and how many samples it has, to where they go."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A flow whose settings are chosen: the place where all begin, and each stage's junction.

    Of the flow it has at hand what is asked for in every batch: who answers, and what samples must bring.
    """

    flow: Flow
    first: int
    junctions: tuple[Junction, ...]
    answers: tuple[bool, ...]
    live: tuple[tuple[str, ...], ...]


def course_of(flow: Flow, settings: Mapping[str, str] | None = None) -> Course:
    """The course that samples take with these settings; those not named are as the bundle says."""
    chosen = _chosen(flow, settings or {})
    return Course(
        flow=flow,
        first=_only_target(flow, flow.start, chosen),
        junctions=tuple(_junction(flow, stop.then, chosen) for stop in flow.stops),
        answers=tuple(stop.answers for stop in flow.stops),
        live=flow.live,
    )


def _chosen(flow: Flow, settings: Mapping[str, str]) -> dict[str, int]:
    """By setting, the number of its choice."""
    known = flow.settings
    for name, choice in settings.items():
        if name not in known:
            raise OptionError(f"expected {_either(known)} as a setting, got {shown(name)}")
        if choice not in known[name].choices:
            raise OptionError(f"{name}: expected {_either(known[name].choices)}, got {shown(choice)}")
    return {name: each.choices.index(settings.get(name, each.default)) for name, each in known.items()}


def _either(names: Sequence[str] | Mapping[str, Any]) -> str:
    return " or ".join(names) or "nothing (this bundle has none)"


def _only_target(flow: Flow, route: Route, chosen: Mapping[str, int]) -> int:
    """Where all go, by a rule that looks at no sample."""
    index = chosen[route.by.name] if isinstance(route.by, Setting) else 0
    return flow.place[route.to[index]]


def _junction(flow: Flow, route: Route, chosen: Mapping[str, int]) -> Junction:
    rule, to = route.by, tuple(flow.place[name] for name in route.to)
    if isinstance(rule, Threshold):
        return _by_threshold(rule, to)
    if isinstance(rule, Largest):
        return _by_largest(rule, to)
    every = ((_only_target(flow, route, chosen), None),)
    return lambda arrays, count: every


def _by_threshold(rule: Threshold, to: tuple[int, ...]) -> Junction:
    (yes, no), of, limit = to, rule.of, rule.limit
    all_yes, all_no = ((yes, None),), ((no, None),)
    is_single = rule.column is None

    def parts(arrays: Mapping[str, Array], count: int) -> Sequence[Part]:
        if count == 1 and is_single:  # a number by itself is compared in a tenth of the time
            return all_yes if arrays[of][0] >= limit else all_no
        reached = rule.reached(arrays[of][:count])
        many = np.count_nonzero(reached)
        if many == 0:
            return all_no
        if many == count:
            return all_yes
        return (yes, reached.nonzero()[0]), (no, (~reached).nonzero()[0])

    return parts


def _by_largest(rule: Largest, to: tuple[int, ...]) -> Junction:
    def parts(arrays: Mapping[str, Array], count: int) -> Sequence[Part]:
        column = rule.column(arrays[rule.of][:count])
        found = [(place, (column == k).nonzero()[0]) for k, place in enumerate(to)]
        return [(place, None if len(rows) == count else rows) for place, rows in found if len(rows)]

    return parts
