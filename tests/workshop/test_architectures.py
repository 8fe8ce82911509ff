"""Well-known architectures are read, divided and sliced without a change to what they compute."""

import pytest
import torch
from architectures import ALL, QUICK, build
from full_check import check_network
from torch.utils.flop_counter import FlopCounterMode

from s2dnas_deploy.workshop.network.operators import macs
from s2dnas_deploy.workshop.network.static_network import StaticNetwork


def counted_macs(network, shape):
    """Multiply-accumulates of one image, as torch counts them (it counts two for each)."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, *shape, dtype=torch.double))
    return counter.get_total_flops() / 2


def macs_of(static: StaticNetwork) -> int:
    return sum(
        macs(node, {role: static.weights[key] for role, key in node.weights.items()})
        for node in static.graph.nodes
    )


@pytest.mark.parametrize("name", ALL)
def test_every_exit_of_random_plans_is_what_its_stages_compute(name):
    network = build(name)
    size = 32 if name in QUICK else 75 if name == "inception_v3" else 64
    shape = (3, size, size)
    static = check_network(network, shape, random_plans=3 if name in QUICK else 5)
    assert macs_of(static) == counted_macs(network, shape)
