"""A network divided by a plan and cut into stages, without its numbers: what a plan comes to.

Place in the flow: `StaticNetwork` + plan ──divide──slice──▶ `Divided`, which is priced by its stages, or its
widths, and told from others by its effect. Weights have sizes only, so that hundreds can be held
against each other.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

from s2dnas_deploy.plan import Plan, narrowed
from s2dnas_deploy.workshop.network.division import Division, divide
from s2dnas_deploy.workshop.network.network import carry_into, carry_over
from s2dnas_deploy.workshop.network.stages import Stage, first_alone, slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork


@dataclass(frozen=True, kw_only=True, eq=False)
class Divided:
    """A plan applied to a network, and the stages or the widths that come of it."""

    division: Division
    stages: tuple[Stage, ...]

    @property
    def plan(self) -> Plan:
        """The plan itself."""
        return self.division.plan

    @cached_property
    def effect(self) -> str:
        """A digest of what the stages compute: operations, what they read, and sizes.

        Plans that differ only where nothing depends on it are the same network. A stage may own channels that
        lead nowhere, for all their readers own none in that stage, and there whether it reuses features, and
        how many channels it owns, is all the same.
        """
        told = [
            (node.name, node.operator, node.inputs, node.shape, [stage.weights[key].shape for key in keys])
            for stage in self.stages
            for node in stage.nodes
            for keys in [sorted(node.weights.values())]
        ]
        return hashlib.sha256(repr((told, [stage.reads for stage in self.stages])).encode()).hexdigest()


def divided_by(static: StaticNetwork, plan: Plan) -> Divided:
    """The plan, applied to the network."""
    division, space = divide(static.divisible, plan), static.divisible.space
    if plan.nested:
        each = (narrowed(plan, index, space) for index in range(plan.stages))
        stages = tuple(first_alone(carry_over(static, alone)) for alone in each)
    else:
        stages = slice_stages(carry_into(division, static))
    return Divided(division=division, stages=tuple(map(_without_numbers, stages)))


def _without_numbers(stage: Stage) -> Stage:
    return replace(stage, weights={key: tensor.to("meta") for key, tensor in stage.weights.items()})
