"""Costs: what each stage computes, holds and hands over, counted from its slices.

Place in the flow: `MultiStageNetwork` ──▶ `Costs`, for inspect and for whoever compares plans. Counts
multiply-accumulates of convolutions and linear layers; what a stage really takes is for a clock to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from s2dnas_deploy.build import operators
from s2dnas_deploy.build.network import MultiStageNetwork
from s2dnas_deploy.build.stages import Feature, Stage, slice_stages
from s2dnas_deploy.build.static_network import StaticNetwork

FLOAT32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class StageCosts:
    """One stage: MACs per layer for one image, parameters, and the features it hands to later stages."""

    macs_per_layer: Mapping[str, int]
    parameters: int
    gives: tuple[Feature, ...]

    @property
    def macs(self) -> int:
        """MACs of the stage for one image."""
        return sum(self.macs_per_layer.values())

    @property
    def gives_bytes(self) -> int:
        """Size of the features that the stage hands over, for one image in float32."""
        return sum(prod(feature.shape) for feature in self.gives) * FLOAT32_BYTES


def static_macs(static: StaticNetwork) -> dict[str, int]:
    """MACs per layer of the static network, for one image."""
    return {
        node.name: count
        for node in static.graph.nodes
        if (count := operators.macs(node, {role: static.weights[key] for role, key in node.weights.items()}))
    }


def stage_costs(network: MultiStageNetwork) -> tuple[StageCosts, ...]:
    """The costs of each stage."""
    return tuple(_costs(stage) for stage in slice_stages(network))


def _costs(stage: Stage) -> StageCosts:
    macs = {
        node.name: count
        for node in stage.nodes
        if (count := operators.macs(node, {role: stage.weights[key] for role, key in node.weights.items()}))
    }
    parameters = sum(
        stage.weights[key].numel()
        for node in stage.nodes
        for role, key in node.weights.items()
        if role not in operators.OPERATORS[node.operator].buffers
    )
    return StageCosts(macs_per_layer=macs, parameters=parameters, gives=stage.gives)
