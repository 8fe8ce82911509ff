"""Candidates: plans that a strategy proposes, each divided and cut into stages once.

Place in the flow: choices ──plan──divide──slice──▶ `Candidate`. Its effect tells it from others, it is priced
by its stages, and its division is what is judged.

Plans that differ only where nothing depends on it are the same network. A stage may own channels that lead
nowhere, for all their readers own none in that stage, and there whether it reuses features, and how many
channels it owns, is all the same: in a search, a quarter of the plans asked about were known in effect.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.network.division import Division
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.network.stages import Stage, slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.search.space.space import Choices


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """A plan as it was chosen, and what comes of it."""

    choices: Choices
    division: Division
    stages: tuple[Stage, ...]
    """Their weights have sizes and no numbers, so that many candidates can wait to be judged."""

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self.division.plan

    @cached_property
    def effect(self) -> str:
        """A digest of what the stages compute: operations, what they read, and sizes."""
        told = [
            (node.name, node.operator, node.inputs, node.shape, [stage.weights[key].shape for key in keys])
            for stage in self.stages
            for node in stage.nodes
            for keys in [sorted(node.weights.values())]
        ]
        return hashlib.sha256(repr((told, [stage.reads for stage in self.stages])).encode()).hexdigest()


def candidate_of(static: StaticNetwork, choices: Choices, plan: Plan) -> Candidate:
    """The plan of these choices, applied to the network."""
    network = carry_over(static, plan)
    stages = tuple(_without_numbers(stage) for stage in slice_stages(network))
    return Candidate(choices=choices, division=network.division, stages=stages)


def _without_numbers(stage: Stage) -> Stage:
    return replace(stage, weights={key: tensor.to("meta") for key, tensor in stage.weights.items()})
