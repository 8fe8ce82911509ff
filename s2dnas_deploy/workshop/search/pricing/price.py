"""What an image costs that leaves at each exit, relative to the static network: by MACs, or as was measured.

Place in the flow: a divided network ──price──▶ one number per exit, growing, that `reward` weighs
accuracy against.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate

from s2dnas_deploy.workshop.network.costs import stage_costs, static_costs
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

Price = Callable[[MultiStageNetwork], tuple[float, ...]]


def by_macs(static: StaticNetwork) -> Price:
    """Multiply-accumulates, of all stages up to the exit."""
    whole = static_costs(as_network(static)).macs

    def price(network: MultiStageNetwork) -> tuple[float, ...]:
        return tuple(macs / whole for macs in accumulate(costs.macs for costs in stage_costs(network)))

    return price


def as_measured(costs: Mapping[str, tuple[float, ...]]) -> Price:
    """Known costs, by the digest of the plan."""
    return lambda network: costs[network.division.plan.digest]
