"""The full check of one network: read, divided by random plans, sliced, and compared with the user's own."""

import numpy as np
import torch
from small_networks import chained
from torch import nn

from s2dnas_deploy import plan as plans
from s2dnas_deploy.workshop.network.graph import ChannelGraph
from s2dnas_deploy.workshop.network.groups import divide_into_groups
from s2dnas_deploy.workshop.network.network import MultiStageNetwork, carry_over
from s2dnas_deploy.workshop.network.stages import slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork, run_graph
from s2dnas_deploy.workshop.reading.read import read_network

TOLERANCE = 1e-9


def seeded(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network in float64 and evaluation mode, with weights and statistics that are not initial."""
    torch.manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var"):
            tensor.detach().uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or (tensor.is_floating_point() and bool((tensor == 0).all())):
            tensor.detach().normal_(0.0, 0.1)
    return network.double().eval()


def check_network(network: nn.Module, shape: tuple[int, ...], random_plans: int = 4) -> StaticNetwork:
    """Assert that the static plan gives the network, and that every exit of random plans is the chain's."""
    network = seeded(network)
    image = torch.randn(2, *shape, dtype=torch.double)
    with torch.no_grad():
        expected = network(image.clone())
    static = read_network(network, shape)
    space = static.divisible.space
    reread = ChannelGraph.from_json(static.graph.to_json())
    assert divide_into_groups(reread).space == space
    with torch.no_grad():
        assert relative(run_graph(reread, static.weights, image), expected) < TOLERANCE
    whole = carry_over(static, plans.static(space)).eval()
    with torch.no_grad():
        assert relative(whole(image)[0], expected) < TOLERANCE
    rng = np.random.default_rng(0)
    for i in range(random_plans):
        plan = plans.random(space, 2 + i % 3, rng, align=4 if i % 2 else 1)
        divided = with_random_exits(carry_over(static, plan)).eval()
        with torch.no_grad():
            exits = divided(image)
        chain = chained(slice_stages(divided), image)
        assert len(exits) == len(chain) == plan.stages
        for got, wanted in zip(chain, exits, strict=True):
            assert wanted.abs().max() > 0, "the exit is zero, which proves nothing"
            assert relative(got, wanted) < TOLERANCE, plan.to_json()
        for logits in divided.train()(image):
            assert logits.shape == expected.shape
            assert logits.requires_grad
    return static


def relative(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, over the largest number."""
    assert got.shape == wanted.shape
    return float((got - wanted).abs().max() / wanted.abs().max())


def with_random_exits(network: MultiStageNetwork) -> MultiStageNetwork:
    """Exits start from zeros or from copies; each gets weights that no other has."""
    with torch.no_grad():
        for key, tensor in network.weights().items():
            if key.startswith("exit") and tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor).mul_(0.1))
    return network
