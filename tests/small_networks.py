"""Small networks that tests share, and what it takes to judge one: divided, sliced and chained."""

import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from s2dnas_deploy import plan as plans
from s2dnas_deploy.workshop.network.network import carry_over
from s2dnas_deploy.workshop.network.stages import Stage, StageNetwork, slice_stages
from s2dnas_deploy.workshop.network.static_network import StaticNetwork
from s2dnas_deploy.workshop.reading.read import read_network

MODELS = Path(__file__).parents[1] / "models"


class Residual(nn.Module):
    """A stem, one residual block and a linear classifier: 16 channels, then 32."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 24, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(24, 16, 3, padding=1, bias=False)
        self.widen = nn.Conv2d(16, 32, 1, stride=2)
        self.fc = nn.Linear(32, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.conv2(torch.relu(self.conv1(x))))
        return self.fc(torch.relu(self.widen(x)).mean((2, 3)))


def residual(seed: int = 0, shape: tuple[int, int, int] = (3, 8, 8)) -> StaticNetwork:
    """`Residual` as read, with seeded weights and batch norm statistics that are not the initial ones."""
    torch.manual_seed(seed)
    network = Residual()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 1.5)
    return read_network(network, shape)


def example_network(file: str, factory: str, **arguments: object) -> nn.Module:
    """A network from `models/`, with seeded weights."""
    spec = importlib.util.spec_from_file_location(f"example_{file}", MODELS / f"{file}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    return getattr(module, factory)(**arguments)


@torch.no_grad()
def chained(stages: Iterable[Stage], image: torch.Tensor) -> list[torch.Tensor]:
    """Every exit's logits, by running all stages one after the other on all images."""
    shared: dict[str, torch.Tensor] = {}
    logits = []
    for stage in stages:
        result, *features = StageNetwork(stage)(image, *(shared[feature.name] for feature in stage.reads))
        shared.update({f.name: x for f, x in zip(stage.gives, features, strict=True)})
        logits.append(result)
    return logits


def chain_differs_by(static: StaticNetwork, plan: plans.Plan, image: torch.Tensor) -> float:
    """The largest relative difference at any exit between the masked network and its chain of slices."""
    network = carry_over(static, plan).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, weight in network.weights().items():
            if key.startswith("exit"):  # exits in the middle start from zeros, which would equal anything
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
        expected = network(image)
    got = chained(slice_stages(network), image)
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(expected, got, strict=True))


def random_plans(static: StaticNetwork, count: int, seed: int = 0) -> list[plans.Plan]:
    """Seeded random plans of 2 to 4 stages."""
    rng = np.random.default_rng(seed)
    return [plans.random(static.divisible.space, 2 + i % 3, rng, align=1 + 7 * (i % 2)) for i in range(count)]
