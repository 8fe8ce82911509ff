r"""A flow: stages in order, where the samples of each go, and by which rule; samples only go forward.

    start ──route──▶ stage ──route──▶ stage ──route──▶ answer

A tensor may be given by several stages: a sample carries the one that it was given last. Whatever way a
sample came by, what a stage reads must have been given:

    there(s) = ⋂ over p that may go to s of (there(p) ∪ gives(p)),      reads(s) ⊆ there(s)

and what is carried along an edge is what some stage on the way still reads before it is given anew:

    live(s)  = wants(s) ∪ ⋃ over t that s may go to of (live(t) \ gives(s))
    carried(p → s) = live(s)

where s wants what it reads, and what its rule looks at unless s itself gives that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated

from s2dnas_deploy.decide.rules import ALWAYS, CONFIDENCE, Always, Largest, Rule, Setting, Threshold
from s2dnas_deploy.errors import BundleError, OptionError
from s2dnas_deploy.files.bounds import Above, Length, Name, Share
from s2dnas_deploy.files.document import check_record
from s2dnas_deploy.quoting import shown

ANSWER = "answer"
"""Where a sample goes that is done."""
IMAGE = "image"
LABEL, _, PROBABILITIES = ANSWERS = ("label", CONFIDENCE, "probabilities")
_OUT = -1  # the place of `ANSWER` among the stages


@dataclass(frozen=True, kw_only=True)
class Route:
    """Where samples go, and by which rule: it picks one of `to`."""

    to: Annotated[tuple[Name, ...], Length(1, 64)]
    by: Rule = ALWAYS

    def __post_init__(self) -> None:
        check_record(self, BundleError)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a caller may choose of a setting, which it is if nothing is said, and the MACs of each."""

    choices: Annotated[tuple[Name, ...], Length(1, 64)]
    default: Name
    macs: Annotated[tuple[Annotated[float, Above(0, 2**62)], ...], Length(1, 64)] | None = None
    accuracy: Annotated[tuple[Share, ...], Length(1, 64)] | None = None
    """Of each, on the images that the bundle's expectations are of."""

    def __post_init__(self) -> None:
        check_record(self, BundleError)
        _check(len(set(self.choices)) == len(self.choices), "no two choices of a setting may be alike")
        _check(self.default in self.choices, f"the default {shown(self.default)} is none of the choices")
        for what, told in (("costs", self.macs), ("accuracies", self.accuracy)):
            count = len(self.choices if told is None else told)
            _check(count == len(self.choices), f"{count} {what} for {len(self.choices)} choices")


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A stage as a flow knows it: what it reads and gives, whether it answers, and where its samples go."""

    name: str
    reads: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()
    answers: bool = True
    then: Route

    @property
    def given(self) -> tuple[str, ...]:
        """All that a sample has from it."""
        return (*self.gives, *ANSWERS) if self.answers else self.gives


@dataclass(frozen=True, kw_only=True)
class Flow:
    """All stages, in order, and what the caller may set."""

    start: Route
    stops: tuple[Stop, ...]
    settings: Mapping[str, Choices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(len(self.stops) > 0, "a flow has no stage")
        names = [stop.name for stop in self.stops]
        _check(
            len(set(names)) == len(names) and ANSWER not in names,
            f"no two stages may be called alike, nor any {ANSWER!r}: {shown(names)}",
        )
        self._check_route("the start", self.start, -1)
        _check(isinstance(self.start.by, Always | Setting), "at the start there is no number to go by")
        for k, stop in enumerate(self.stops):
            self._check_route(f"stage {shown(stop.name)}", stop.then, k)
        self._check_tensors()

    def _check_route(self, whose: str, route: Route, place: int) -> None:
        """It leads forward, to as many places as its rule tells apart."""
        for name in route.to:
            if name == ANSWER:
                _check(place >= 0, "the start leads to no stage")
                continue
            _check(name in self.place, f"{whose} leads to {shown(name)}, which is no stage")
            _check(self.place[name] > place, f"{whose} leads back to {shown(name)}, expected a later stage")
        rule = route.by
        if isinstance(rule, Setting):
            _check(rule.name in self.settings, f"{whose} goes by {shown(rule.name)}, which is no setting")
        ways = (
            len(self.settings[rule.name].choices)
            if isinstance(rule, Setting)
            else _WAYS.get(type(rule), len(route.to))
        )
        _check(
            len(route.to) == ways and ways > 0, f"{whose} leads to {len(route.to)} places, its rule to {ways}"
        )

    def _check_tensors(self) -> None:
        """Along every way into a stage, what it needs has been given; each is reached."""
        there: dict[int, frozenset[str]] = {}

        def reach(names: Iterable[str], given: frozenset[str]) -> None:
            for place in {self.place[name] for name in names if name != ANSWER}:
                there[place] = there[place] & given if place in there else given

        reach(self.start.to, frozenset({IMAGE}))
        for k, stop in enumerate(self.stops):
            whose = f"stage {shown(stop.name)}"
            _check(k in there, f"{whose} is reached by no route")
            missing = sorted(set(stop.reads) - there[k])
            _check(bool(stop.given), f"{whose} gives nothing, neither a tensor nor an answer")
            _check(not missing, f"{whose} reads {shown(next(iter(missing), ''))}, {_NOT_GIVEN}")
            given = there[k] | set(stop.given)
            if (looks := self.looked_at[k]) is not None:
                _check(looks not in ANSWERS or stop.answers, f"{whose} goes by {looks}, but gives no answer")
                _check(looks in given - {IMAGE}, f"{whose} goes by {shown(looks)}, {_NOT_GIVEN}")
            _check(ANSWER not in stop.then.to or LABEL in given, f"{whose} is left without an answer")
            reach(stop.then.to, given)

    # --- what follows from it ------------------------------------------------------------------------------

    @cached_property
    def place(self) -> Mapping[str, int]:
        """Where a stage stands, by its name."""
        return {stop.name: k for k, stop in enumerate(self.stops)} | {ANSWER: _OUT}

    @cached_property
    def targets(self) -> tuple[tuple[int, ...], ...]:
        """Where each stage's samples may go, as places in `stops`; below 0 they are done."""
        return tuple(tuple(self.place[name] for name in stop.then.to) for stop in self.stops)

    @cached_property
    def live(self) -> tuple[tuple[str, ...], ...]:
        """What a sample must bring to each stage: what that or a later one reads, before it is given anew."""
        live: list[frozenset[str]] = [frozenset()] * len(self.stops)
        for k in reversed(range(len(self.stops))):
            stop, later = self.stops[k], [live[t] for t in self.targets[k] if t != _OUT]
            wants = {name for name in (self.looked_at[k],) if name is not None}
            live[k] = frozenset(stop.reads) | (frozenset().union(wants, *later) - set(stop.given))
        return tuple(tuple(sorted(names)) for names in live)

    @cached_property
    def givers(self) -> tuple[Mapping[str, frozenset[int]], ...]:
        """For each stage, who may have given what samples bring; of the image, the stage where they began."""
        givers: list[dict[str, frozenset[int]]] = [{} for _ in self.stops]
        for name in self.start.to:
            givers[self.place[name]] = {IMAGE: frozenset({self.place[name]})}
        for k, stop in enumerate(self.stops):
            own = {**givers[k], **dict.fromkeys(stop.gives, frozenset({k}))}
            for target in self.targets[k]:
                if target != _OUT:
                    there = givers[target]
                    givers[target] = {
                        name: own.get(name, frozenset()) | there.get(name, frozenset())
                        for name in own.keys() | there.keys()
                    }
        return tuple(givers)

    @cached_property
    def looked_at(self) -> tuple[str | None, ...]:
        """What each stage's rule looks at, if at anything."""
        rules = (stop.then.by for stop in self.stops)
        return tuple(rule.of if isinstance(rule, Threshold | Largest) else None for rule in rules)

    @cached_property
    def called(self) -> tuple[str, ...]:
        """What people are told of each stage: its name, or its number if the name says no more."""
        return tuple(str(k) if stop.name == f"stage_{k}" else stop.name for k, stop in enumerate(self.stops))

    @cached_property
    def remembers(self) -> bool:
        """Whether a sample may be done at a stage that gives no answer, with one of before."""
        return any(ANSWER in stop.then.to and not stop.answers for stop in self.stops)

    @cached_property
    def early(self) -> tuple[int, ...]:
        """The exits that a sample may pass: stages where a threshold on the confidence decides."""
        return tuple(k for k, stop in enumerate(self.stops) if _is_exit(stop))

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Those of the early exits."""
        return tuple(self.stops[k].then.by.at for k in self.early)  # type: ignore[union-attr]

    @cached_property
    def is_chain(self) -> bool:
        """Whether each stage has an exit, and all who pass it go to the next stage."""
        *early, last = self.stops
        following = [stop.name for stop in self.stops[1:]]
        return (
            self.start == Route(to=(self.stops[0].name,))
            and last.answers
            and last.then == DONE
            and all(
                _is_exit(stop) and stop.then.to == (ANSWER, name)
                for stop, name in zip(early, following, strict=True)
            )
        )

    def with_thresholds(self, thresholds: Sequence[float]) -> Flow:
        """The same flow with other thresholds, one for each early exit."""
        changed = {
            k: replace(self.stops[k], then=replace(self.stops[k].then, by=Threshold(of=CONFIDENCE, at=at)))
            for k, at in zip(self.early, thresholds, strict=True)
        }
        return replace(self, stops=tuple(changed.get(k, stop) for k, stop in enumerate(self.stops)))

    @cached_property
    def gate(self) -> int | None:
        """The stage by whose gate one of those after it is picked, each of which answers; if it is so."""
        first, *rest = self.stops
        names = tuple(stop.name for stop in rest)
        is_so = (
            self.start == Route(to=(first.name,))
            and isinstance(first.then.by, Largest)
            and first.then.to == names
            and all(stop.answers and stop.then == DONE for stop in rest)
        )
        return 0 if is_so else None

    def with_offsets(self, offsets: Sequence[float] | None) -> Flow:
        """A flow with a gate, to whose numbers others are added."""
        (first, *rest), rule = self.stops, self.stops[0].then.by
        assert self.gate is not None, "a flow with a gate"
        assert isinstance(rule, Largest), "a gate"
        moved = replace(rule, offsets=None if offsets is None else tuple(map(float, offsets)))
        return replace(self, stops=(replace(first, then=replace(first.then, by=moved)), *rest))

    def up_to(self, last: int) -> Flow:
        """A chain's first stages; the last of them takes all."""
        if not self.is_chain:
            raise OptionError("a last stage goes with a chain of stages; the routes of this bundle are none")
        stops = (*self.stops[:last], replace(self.stops[last], then=DONE))
        return replace(self, stops=stops)


DONE = Route(to=(ANSWER,))


def check_looks(flow: Flow, shapes: Mapping[str, tuple[int, ...]], classes: int) -> None:
    """Rules fit what they look at; `shapes` are those of what stages give, for one sample."""
    known = {**shapes, **dict.fromkeys(ANSWERS, ()), PROBABILITIES: (classes,)}
    for stop in flow.stops:
        rule = stop.then.by
        if not isinstance(rule, Threshold | Largest):
            continue
        shape = known[rule.of]
        if isinstance(rule, Largest):
            ways = len(stop.then.to)
            fits, expected = shape == (ways,), f"{ways} numbers"
            _check(
                rule.offsets is None or len(rule.offsets) == ways,
                f"the rule of stage {shown(stop.name)}: expected {ways} offsets, got "
                f"{shown(list(rule.offsets or ()))}",
            )
        elif rule.column is None:
            fits, expected = shape == (), "one number, or a column"
        else:
            fits, expected = len(shape) == 1 and rule.column < shape[0], f"column {rule.column}"
        _check(
            fits,
            f"what the rule of stage {shown(stop.name)} looks at, {shown(rule.of)}: expected {expected}, got "
            f"{list(shape)}",
        )


def chain(stops: Iterable[tuple[str, Sequence[str], Sequence[str]]], thresholds: Sequence[float]) -> Flow:
    """Stages one after the other, (name, reads, gives), each with an exit: S2DNAS's own flow."""
    listed = list(stops)
    names = [name for name, _, _ in listed]
    routes = [
        Route(to=(ANSWER, following), by=Threshold(of=CONFIDENCE, at=at))
        for following, at in zip(names[1:], thresholds, strict=True)
    ]
    return Flow(
        start=Route(to=(names[0],)),
        stops=tuple(
            Stop(name=name, reads=tuple(reads), gives=tuple(gives), then=route)
            for (name, reads, gives), route in zip(listed, [*routes, DONE], strict=True)
        ),
    )


def _is_exit(stop: Stop) -> bool:
    rule = stop.then.by
    return isinstance(rule, Threshold) and rule.of == CONFIDENCE and stop.then.to[0] == ANSWER


_WAYS = {Always: 1, Threshold: 2}
_NOT_GIVEN = "which is not given on every way there"


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise BundleError(message)
