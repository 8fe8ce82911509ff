"""Nested widths as export reads them: a graph for each, and who says which of them runs.

Place in the flow: `model.pt` of a plan of widths ──▶ `StagedNetwork` ──▶ bundle.

    the caller picks    start ──setting(width)──▶ quarter | half | … | full ──▶ answer
    a gate picks        prefix ──largest(gate)──▶ quarter | half | … | full ──▶ answer
    in turn             quarter ──sure?──▶ answer, or full ──▶ answer
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from s2dnas_deploy.decide.flow import DONE, IMAGE, Choices, Flow, Route, Stop
from s2dnas_deploy.decide.rules import Largest, Setting
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten
from s2dnas_deploy.workshop.export.staged import Link, StagedNetwork
from s2dnas_deploy.workshop.network.costs import costs_of
from s2dnas_deploy.workshop.network.graph import INPUT
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.nested import NestedNetwork
from s2dnas_deploy.workshop.network.stages import Feature, Stage, StageNetwork

WIDTH, PREFIX, GATE = "width", "prefix", "gate"


def widths_of(
    model: Model, *, name: str, split: bool, blocks: bool = True, in_turn: Sequence[str] = ()
) -> StagedNetwork:
    """A model's widths, `rewritten`: those `in_turn` as a chain, else all, for the gate or the caller."""
    network, plan = model.network.eval(), model.network.division.plan
    assert isinstance(network, NestedNetwork), "a model of nested widths"
    names = plan.width_names
    chosen = _places(names, in_turn) if in_turn else tuple(range(plan.stages))
    parts = _Parts.of(network, names, chosen, gated=plan.gate is not None and not in_turn)
    stages = rewritten(parts.stages, model.preprocessing.input_shape, split=split, blocks=blocks)

    def reference(images: Tensor) -> list[Tensor]:
        logits = network(images)
        return [*([torch.empty(0)] if parts.gated else []), *(logits[k] for k in chosen)]

    links = tuple(map(parts.link, parts.names, parts.stages, stages))
    picked = _picked_by_a_gate(links) if parts.gated else _picked_by_the_caller(names)
    return StagedNetwork(
        name=name,
        reference=reference,
        links=links,
        flow=None if in_turn else picked,
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        plan=plan,
    )


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """The stages of a bundle of widths and their names; with a gate, the first is the prefix."""

    network: NestedNetwork
    names: tuple[str, ...]
    stages: tuple[Stage, ...]
    gated: bool

    @staticmethod
    def of(network: NestedNetwork, names: Sequence[str], chosen: Sequence[int], *, gated: bool) -> "_Parts":
        called = tuple(names[k] for k in chosen)
        if not gated:
            return _Parts(network=network, names=called, stages=network.in_turn(chosen), gated=False)
        prefix, rests = network.prefix_and_rests()
        return _Parts(network=network, names=(PREFIX, *called), stages=(prefix, *rests), gated=True)

    def link(self, name: str, whole: Stage, stage: Stage) -> Link:
        """A stage, as it is and rewritten, under its name."""
        is_prefix = self.gated and name == PREFIX
        gate = {GATE: stage.shapes[stage.logits]} if is_prefix else {}
        return Link(
            name=name,
            module=StageNetwork(stage).eval(),
            reads_image=any(INPUT in node.inputs for node in stage.nodes),
            reads=_shapes(stage.reads),
            gives={**gate, **_shapes(stage.gives)},
            answers=not is_prefix,
            macs=costs_of(self.network.division, whole).macs,
        )


def _shapes(features: Sequence[Feature]) -> dict[str, tuple[int, ...]]:
    """Features that widths have in common, by name, and their shapes."""
    return {f"{PREFIX}/{feature.node}": feature.shape for feature in features}


def _picked_by_a_gate(links: Sequence[Link]) -> Flow:
    prefix, *slices = links
    then = Route(to=tuple(each.name for each in slices), by=Largest(of=GATE))
    first = Stop(
        name=prefix.name, reads=prefix.read_names, gives=tuple(prefix.gives), answers=False, then=then
    )
    return Flow(
        start=Route(to=(prefix.name,)),
        stops=(first, *(Stop(name=each.name, reads=each.read_names, then=DONE) for each in slices)),
    )


def _picked_by_the_caller(names: tuple[str, ...]) -> Flow:
    return Flow(
        start=Route(to=names, by=Setting(name=WIDTH)),
        stops=tuple(Stop(name=name, reads=(IMAGE,), then=DONE) for name in names),
        settings={WIDTH: Choices(choices=names, default=names[-1])},
    )


def _places(names: Sequence[str], in_turn: Sequence[str]) -> tuple[int, ...]:
    unknown = [name for name in in_turn if name not in names]
    if unknown:
        raise OptionError(f"--in-turn: there is no width {unknown[0]!r}; expected some of {', '.join(names)}")
    places = tuple(names.index(name) for name in in_turn)
    if list(places) != sorted(set(places)):
        raise OptionError(
            f"--in-turn {','.join(in_turn)}: expected some of {', '.join(names)}, each wider than the one "
            "before"
        )
    return places
