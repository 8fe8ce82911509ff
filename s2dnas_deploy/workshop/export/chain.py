"""What export reads: stages as modules that hand features on, whoever divided the network.

Place in the flow: `model.pt` (or a network with exits of its own, see `own_exits`) ──▶ `Chain` ──▶ bundle.

    link k: (image, *features it reads) → (logits, *features it gives)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from s2dnas_deploy.bundle.preprocessing import Preprocessing
from s2dnas_deploy.decide.flow import IMAGE
from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.graph import INPUT
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.stages import Feature, Stage, StageNetwork, slice_stages


@dataclass(frozen=True, kw_only=True)
class Link:
    """One stage: a module in evaluation mode, and the features that it reads and gives, in order."""

    module: nn.Module
    reads_image: bool
    reads: tuple[Feature, ...]
    gives: tuple[Feature, ...]
    macs: int

    @property
    def read_names(self) -> tuple[str, ...]:
        """All that it reads, by name."""
        return (*([IMAGE] if self.reads_image else []), *(feature.name for feature in self.reads))


@dataclass(frozen=True, kw_only=True)
class Chain:
    """All stages, and what a device must know to use them.

    `reference` gives every exit's logits for normalised images: what the bundle must answer.
    """

    name: str
    links: tuple[Link, ...]
    reference: Callable[[Tensor], Sequence[Tensor]]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    plan: Plan | None = None
    """By which the network was divided; a network with exits of its own was by none."""


def chain_of(model: Model, *, name: str, split: bool) -> Chain:
    """A model's stages, rewritten; `split` takes convolutions over joined features apart."""
    macs = [costs.macs for costs in stage_costs(model.network)]
    shape = model.preprocessing.input_shape
    stages = [rewritten(stage, shape, split=split) for stage in slice_stages(model.network)]
    return Chain(
        name=name,
        reference=model.network.eval(),
        links=tuple(_link(stage, count) for stage, count in zip(stages, macs, strict=True)),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        plan=model.network.division.plan,
    )


@torch.no_grad()
def run_links(links: Sequence[Link], image: Tensor) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Every link's logits and the features that it gives, by running all links on all images."""
    shared: dict[str, Tensor] = {}
    results = []
    for link in links:
        logits, *given = link.module(image, *(shared[feature.name] for feature in link.reads))
        features = {f.name: x for f, x in zip(link.gives, given, strict=True)}
        shared.update(features)
        results.append((logits, features))
    return results


def _link(stage: Stage, macs: int) -> Link:
    return Link(
        module=StageNetwork(stage).eval(),
        reads_image=any(INPUT in node.inputs for node in stage.nodes),
        reads=stage.reads,
        gives=stage.gives,
        macs=macs,
    )
