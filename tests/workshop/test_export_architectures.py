"""Well-known architectures, divided by random plans, answer in onnxruntime as they do in torch."""

import numpy as np
import pytest
import torch
from architectures import ALL, build
from exports import assert_answers_like_torch, chain_from, export_to
from full_check import seeded

from s2dnas_deploy import plan as plans
from s2dnas_deploy.workshop.reading.read import read_network

DEFAULT = {"squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x1_0"}
NAMES = [
    name if name in DEFAULT else pytest.param(name, marks=pytest.mark.slow)
    for name in (p if isinstance(p, str) else p.values[0] for p in ALL)
]


def settled(network: torch.nn.Module, shape: tuple[int, ...]) -> torch.nn.Module:
    """Batch norm statistics as training leaves them, so that numbers neither vanish nor explode."""
    network = seeded(network).float().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics become the average over what is shown
                module.reset_running_stats()
                module.train()
        for seed in range(4):
            network(torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed)))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 0.1
    return network.eval()


@pytest.mark.parametrize("name", NAMES)
def test_exported_stages_answer_like_torch(tmp_path, name):
    size = 32 if name in DEFAULT else 75 if name == "inception_v3" else 64
    shape = (3, size, size)
    static = read_network(settled(build(name), shape), shape)
    space = static.divisible.space
    whole = export_to(tmp_path / "static", chain_from(static, plans.static(space)))
    rng = np.random.default_rng(0)
    for i in range(2):
        plan = plans.random(space, 2 + i, rng, align=1 + 7 * i)
        chain = chain_from(static, plan, split=i == 0)
        bundle = export_to(tmp_path / f"{i}", chain)
        assert_answers_like_torch(chain, bundle)
        size = sum(stage.graph.size_bytes for stage in bundle.manifest.stages)
        assert size <= 1.05 * whole.manifest.stages[0].graph.size_bytes
