"""Nested widths as export reads them: a graph for each, of which the caller picks one, or some in turn.

Place in the flow: `model.pt` of a plan of widths ──▶ `StagedNetwork` ──▶ bundle.

    the caller picks    start ──setting(width)──▶ quarter | half | … | full ──▶ answer
    in turn             quarter ──sure?──▶ answer, or full ──▶ answer
"""

from collections.abc import Sequence

from torch import Tensor

from s2dnas_deploy.decide.flow import DONE, IMAGE, Choices, Flow, Route, Stop
from s2dnas_deploy.decide.rules import Setting
from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten
from s2dnas_deploy.workshop.export.staged import Link, StagedNetwork
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.nested import parts_of
from s2dnas_deploy.workshop.network.stages import StageNetwork

WIDTH = "width"
_CALLED = {0.25: "quarter", 0.5: "half", 0.75: "three_quarters"}
_WIDEST = "full"
_NEARLY = 0.02  # widths are rounded to what kernels like


def names_of(plan: Plan) -> tuple[str, ...]:
    """What a person calls each width: its share of all channels, in words where there is a word."""
    owned = [sum(counts) for counts in zip(*plan.channels.values(), strict=True)]
    shares = [sum(owned[: index + 1]) / sum(owned) for index in range(plan.stages)]
    names = [
        next((name for known, name in _CALLED.items() if abs(share - known) < _NEARLY), f"{share:.2f}")
        for share in shares[:-1]
    ]
    names.append(_WIDEST)
    return tuple(name if names.count(name) == 1 else f"{name}_{k}" for k, name in enumerate(names))


def widths_of(
    model: Model, *, name: str, split: bool, blocks: bool = True, in_turn: Sequence[str] | None = None
) -> StagedNetwork:
    """A model's widths, `rewritten`; those `in_turn` as a chain, else all of them for the caller to pick."""
    network, plan = model.network.eval(), model.network.division.plan
    names = names_of(plan)
    chosen = tuple(range(plan.stages)) if in_turn is None else _places(names, in_turn)
    stages = rewritten(parts_of(network), model.preprocessing.input_shape, split=split, blocks=blocks)
    macs = [costs.macs for costs in stage_costs(network)]

    def reference(images: Tensor) -> list[Tensor]:
        logits = network(images)
        return [logits[k] for k in chosen]

    return StagedNetwork(
        name=name,
        reference=reference,
        links=tuple(
            Link(
                name=names[k],
                module=StageNetwork(stages[k]).eval(),
                reads_image=True,
                reads={},
                gives={},
                macs=macs[k],
            )
            for k in chosen
        ),
        flow=_picked_by_the_caller(names) if in_turn is None else None,
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        plan=plan,
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
    if len(places) < 2 or list(places) != sorted(set(places)):
        raise OptionError(
            f"--in-turn {','.join(in_turn)}: expected two or more of {', '.join(names)}, each wider than the "
            "one before"
        )
    return places
