"""Samples taken through a flow, whoever runs its stages: simple, not fast, and all that was said is kept.

Place in the flow: `Course` + images ──▶ a `Party`, which visits the stages in order. Export checks its work
with it and calibrates on what comes to each stage; `runtime` is what answers. As export wants to see every
stage at work, nobody exits early here; gates and settings are obeyed.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from s2dnas_deploy.bundle.exits import Exit
from s2dnas_deploy.decide.course import Array, Course, Junction, Rows, course_of
from s2dnas_deploy.decide.flow import ANSWER, ANSWERS, IMAGE, Flow
from s2dnas_deploy.decide.rules import NEVER
from s2dnas_deploy.sessions.every_stage import StageSession
from s2dnas_deploy.workshop.export.graphs.confidence import probabilities_and_confidence
from s2dnas_deploy.workshop.export.graphs.stage_graph import StageGraph
from s2dnas_deploy.workshop.export.staged import LOGITS, Link

Values = Mapping[str, Array]
Run = Callable[[int, Values], Values]
"""Runs a stage, by its place, on what its samples bring; what they are given, their answers included."""


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Those of a batch that come to a stage: their numbers, what they bring, and what they have then.

    That is what the stage gives, and what its rule looks at.
    """

    rows: Rows
    brought: Values
    given: Values


class Party:
    """The samples of a batch on their way: what they carry, and who comes to which stage.

    What no later stage reads or looks at is dropped at once: features are most of the memory.
    """

    def __init__(self, course: Course, images: Array) -> None:
        self.course, self._count = course, len(images)
        self._carried: dict[str, Array] = {IMAGE: images}
        self.came = np.zeros((len(course.flow.stops), self._count), np.bool_)
        self.came[course.first] = True

    def brought(self, place: int) -> Values:
        """What the samples that come to a stage bring of what it reads."""
        reads = self.course.flow.stops[place].reads
        if self.came[place].all():
            return {name: self._carried[name] for name in reads}
        rows = self.came[place].nonzero()[0]
        return {name: self._carried[name][rows] for name in reads}

    def visit(self, place: int, run: Run) -> Visit:
        """Run a stage on those that come to it, and send them on."""
        rows = self.came[place].nonzero()[0]
        if not len(rows):
            return Visit(rows=rows, brought={}, given={})
        brought = self.brought(place)
        given = run(place, brought)
        for name, array in given.items():
            self._carry(name, rows, array)
        looks = self.course.flow.looked_at[place]
        seen = {} if looks is None else {looks: self._carried[looks][rows]}
        for target, chosen in self.course.junctions[place](seen, len(rows)):
            if target >= 0:
                self.came[target, rows if chosen is None else rows[chosen]] = True
        later = {name for live in self.course.flow.live[place + 1 :] for name in live}
        self._carried = {name: array for name, array in self._carried.items() if name in later}
        return Visit(rows=rows, brought=brought, given={**seen, **given})

    def _carry(self, name: str, rows: Rows, array: Array) -> None:
        """Take what a stage gave of some, beside what others have; of all, it is taken as it is."""
        if len(rows) < self._count:
            there = self._carried.get(name)
            blank = np.zeros((self._count, *array.shape[1:]), array.dtype)
            whole = blank if there is None else there.copy()  # which may be a stage's own tensor
            whole[rows] = array
            array = whole
        self._carried[name] = array


def without_exits(flow: Flow, settings: Mapping[str, str] | None = None) -> Course:
    """The course on which nobody exits early."""
    return course_of(flow.with_thresholds([NEVER] * len(flow.early)), settings)


def passing(flow: Flow) -> list[Course]:
    """Courses without exits: by the default settings, and one for each other choice of each."""
    others = [
        {name: choice}
        for name, each in flow.settings.items()
        for choice in each.choices
        if choice != each.default
    ]
    return [without_exits(flow, chosen) for chosen in ({}, *others)]


def leading_to(flow: Flow, place: int) -> list[int]:
    """The stages that samples may come through on their way to a stage, in order."""
    leading = {place}
    for earlier in reversed(range(place)):
        if leading.intersection(flow.targets[earlier]):
            leading.add(earlier)
    return sorted(leading - {place})


def sent_to(flow: Flow, place: int) -> Course:
    """A course on which all come to a stage, whatever rules say: one of the ways that lead there."""
    way = [place]
    while flow.stops[way[0]].name not in flow.start.to:
        way.insert(0, next(k for k, targets in enumerate(flow.targets) if way[0] in targets))
    following = dict(zip(way, [*way[1:], flow.place[ANSWER]], strict=True))

    def junction(stage: int) -> Junction:
        all_go = ((following.get(stage, flow.place[ANSWER]), None),)
        return lambda values, count: all_go

    course = course_of(flow)
    return replace(course, first=way[0], junctions=tuple(map(junction, range(len(flow.stops)))))


class OnnxStages:
    """The stages' graphs in onnxruntime, as a party visits them; more may be added as they are made."""

    def __init__(self, graphs: Sequence[StageGraph], files: Iterable[bytes] = ()) -> None:
        self._graphs = graphs
        self._sessions = [StageSession(content) for content in files]

    def add(self, content: bytes) -> None:
        """The next stage's graph."""
        self._sessions.append(StageSession(content))

    def fed(self, place: int, brought: Values) -> dict[str, Array]:
        """What a graph is given when a stage runs on what its samples bring: all rows of it, if it picks."""
        count = len(next(iter(brought.values()), ()))
        return {**brought, **dict.fromkeys(self._graphs[place].rows, np.arange(count, dtype=np.int64))}

    def __call__(self, place: int, brought: Values) -> dict[str, Array]:
        """As `Run`."""
        results = self._sessions[place].outputs_on(self.fed(place, brought))
        return {name: results[output] for name, output in self._graphs[place].outputs.items()}


class TorchStages:
    """The stages in torch; images are normalised, and the logits are given as well."""

    def __init__(self, links: Sequence[Link], exits: Sequence[Exit | None]) -> None:
        self._links, self._exits = links, exits

    @torch.no_grad()
    def __call__(self, place: int, brought: Values) -> dict[str, Array]:
        """As `Run`."""
        link, exit_ = self._links[place], self._exits[place]
        values = {name: torch.from_numpy(array) for name, array in brought.items()}
        image = values.pop(IMAGE, torch.empty(0))
        results: Sequence[Tensor] = link.module(image, *values.values())
        given = dict(zip(link.gives, results[1:] if link.answers else results, strict=True))
        if exit_ is not None:
            given |= answers_to(results[0], exit_)
        return {name: tensor.numpy() for name, tensor in given.items()}


def answers_to(logits: Tensor, exit_: Exit) -> dict[str, Tensor]:
    """What an exit says by its logits, which are kept beside it."""
    probabilities, confidence = probabilities_and_confidence(logits, exit_.rule, exit_.temperature)
    said = dict(zip(ANSWERS, (logits.argmax(1), confidence, probabilities), strict=True))
    return {**said, LOGITS: logits}
