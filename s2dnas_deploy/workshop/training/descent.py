"""How weights go down: stochastic gradient descent with momentum, a linear warm-up and a cosine to zero.

What a network answers with in the end is a moving average of its weights.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.training.settings import Settings

# Of all weights together: a network without norms may otherwise be thrown far by a single step.
_LARGEST_GRADIENT = 5.0


def make_optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Weight decay for kernels only: norms and biases are scales and offsets, not complexity.

    Gates before blocks decide, and have rates of their own.
    """
    gates = {}
    if isinstance(network, GatedNetwork):
        weights = network.weights()
        gates = {id(weights[key]): rate for key, rate in network.gate_rates.items()}
    rest = [p for p in network.parameters() if id(p) not in gates]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1], "weight_decay": 0.0},
        *(
            {"params": [p], "weight_decay": 0.0, "rate": gates[id(p)]}
            for p in network.parameters()
            if id(p) in gates
        ),
    ]
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=settings.momentum > 0)


def schedule(done: float, warmup: float) -> float:
    """The learning rate as a share of its peak: up in a line, then down along a cosine."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def set_rate(optimizer: torch.optim.Optimizer, settings: Settings, share: float) -> None:
    """The learning rate of the moment, given as a share of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = settings.lr * share * group.get("rate", 1.0)


def descend(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step down the gradients that the weights have, shortened where these are large.

    Those of gates are not counted: what they spare may be pressing, and the network is to learn meanwhile.
    """
    of_all = (p for group in optimizer.param_groups if "rate" not in group for p in group["params"])
    nn.utils.clip_grad_norm_(of_all, _LARGEST_GRADIENT)
    optimizer.step()


@torch.no_grad()
def follow(average: list[Tensor], weights: list[Tensor], settings: Settings, step: int) -> None:
    """Average ← decay · average + (1 - decay) · weights; the decay grows, so the start is forgotten."""
    decay = min(settings.ema, (1 + step) / (10 + step)) if settings.ema else 0.0
    torch._foreach_lerp_(average, weights, 1 - decay)
