"""What an image costs that leaves at each exit, relative to the static network: by MACs, or as is known.

Place in the flow: a `Divided` network ──price──▶ one number per exit or width, growing, that `reward` weighs
accuracy against.
"""

from collections.abc import Callable, Mapping

from s2dnas_deploy.workshop.network.costs import costs_of, static_costs
from s2dnas_deploy.workshop.network.divided import Divided
from s2dnas_deploy.workshop.network.network import as_network
from s2dnas_deploy.workshop.network.static_network import StaticNetwork

Price = Callable[[Divided], tuple[float, ...]]


def by_macs(static: StaticNetwork) -> Price:
    """Multiply-accumulates, of all stages up to the exit."""
    whole = static_costs(as_network(static)).macs

    def price(divided: Divided) -> tuple[float, ...]:
        return divided.plan.up_to_exits(
            costs_of(divided.division, stage).macs / whole for stage in divided.stages
        )

    return price


def as_known(costs: Mapping[str, tuple[float, ...]]) -> Price:
    """Known costs, by the digest of the plan."""
    return lambda divided: costs[divided.plan.digest]
