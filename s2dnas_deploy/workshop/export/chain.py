"""A multi-stage network as export reads it: the chain of its stages, each rewritten.

Place in the flow: `model.pt` ──▶ `StagedNetwork` ──▶ bundle.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from s2dnas_deploy.workshop.export.rewrites.rewrite import rewritten
from s2dnas_deploy.workshop.export.staged import Link, StagedNetwork
from s2dnas_deploy.workshop.network.blocks import found_in
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.graph import INPUT
from s2dnas_deploy.workshop.network.model_file import Model
from s2dnas_deploy.workshop.network.network import as_static
from s2dnas_deploy.workshop.network.stages import Stage, StageNetwork, slice_stages


def chain_of(model: Model, *, name: str, split: bool, blocks: bool = True) -> StagedNetwork:
    """A model's stages, `rewritten`."""
    macs = [costs.macs for costs in stage_costs(model.network)]
    shape = model.preprocessing.input_shape
    stages = rewritten(slice_stages(model.network), shape, split=split, blocks=blocks)
    return StagedNetwork(
        name=name,
        spent=_spent(model),
        reference=model.network.eval(),
        links=tuple(_link(stage, count) for stage, count in zip(stages, macs, strict=True)),
        class_names=model.class_names,
        preprocessing=model.preprocessing,
        plan=model.network.division.plan,
    )


def _spent(model: Model) -> Callable[[Tensor], Tensor] | None:
    """Of a network with gates before its blocks: the share of its MACs that each image takes, [N]."""
    if model.network.stages > 1 or (found := found_in(as_static(model.network))) is None:
        return None
    network = GatedNetwork(found).eval()

    def spent(images: Tensor) -> Tensor:
        with torch.no_grad():
            network(images)
        return network.spent

    return spent


def _link(stage: Stage, macs: int) -> Link:
    return Link(
        name=f"stage_{stage.index}",
        module=StageNetwork(stage).eval(),
        reads_image=any(INPUT in node.inputs for node in stage.nodes),
        reads={feature.name: feature.shape for feature in stage.reads},
        gives={feature.name: feature.shape for feature in stage.gives},
        macs=macs,
    )
