"""How weights go down: stochastic gradient descent with momentum, a linear warm-up and a cosine to zero.

What a network answers with in the end is a moving average of its weights.
"""

import math

import torch
from torch import Tensor, nn

from s2dnas_deploy.workshop.training.settings import Settings

# Of all weights together: a network without norms may otherwise be thrown far by a single step.
_LARGEST_GRADIENT = 5.0


def make_optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """Weight decay for kernels only: norms and biases are scales and offsets, not complexity."""
    kernels = [p for p in network.parameters() if p.dim() > 1]
    others = [p for p in network.parameters() if p.dim() <= 1]
    groups = [
        {"params": kernels, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
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
        group["lr"] = settings.lr * share


def descend(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """One step down the gradients that the weights have, shortened where these are large."""
    nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
    optimizer.step()


@torch.no_grad()
def follow(average: list[Tensor], weights: list[Tensor], settings: Settings, step: int) -> None:
    """Average ← decay · average + (1 - decay) · weights; the decay grows, so the start is forgotten."""
    decay = min(settings.ema, (1 + step) / (10 + step)) if settings.ema else 0.0
    torch._foreach_lerp_(average, weights, 1 - decay)
