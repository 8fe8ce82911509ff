"""What a plan comes to: plans that differ only where nothing depends on it are the same network.

Place in the flow: a plan ──slice──▶ its effect, by which a `Judge` knows a plan again. A stage may own
channels that lead nowhere, for all their readers own none in that stage, and there whether it reuses
features, and how many channels it owns, is all the same: in a search, a quarter of the plans asked about
were known in effect.
"""

import hashlib

from s2dnas_deploy.plan import Plan
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.network.stages import slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork


def effect_of(static: StaticNetwork, plan: Plan) -> str:
    """A digest of what the stages compute: operations, what they read, and sizes."""
    stages = slice_stages(carry_over(static, plan))
    told = [
        (node.name, node.operator, node.inputs, node.shape, [stage.weights[key].shape for key in keys])
        for stage in stages
        for node in stage.nodes
        for keys in [sorted(node.weights.values())]
    ]
    return hashlib.sha256(repr((told, [stage.reads for stage in stages])).encode()).hexdigest()
