"""How weights learn: by Muon, or by stochastic gradient descent, a linear warm-up and a cosine to zero.

What a network answers with in the end is a moving average of its weights.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from s2dnas_deploy.workshop.network.division import NOTHING
from s2dnas_deploy.workshop.network.gated import GatedNetwork
from s2dnas_deploy.workshop.network.network import MultiStageNetwork
from s2dnas_deploy.workshop.network.operators import NORMS
from s2dnas_deploy.workshop.training.muon import Muon, Parts
from s2dnas_deploy.workshop.training.settings import Settings
from s2dnas_deploy.workshop.training.tuning import Tuning

# Of all weights together: a network without norms may otherwise be thrown far by a single step.
_LARGEST_GRADIENT = 5.0
_ANGLE = 0.2  # by which a kernel turns in a step, at a learning rate of 1


def make_optimizer(
    network: nn.Module, settings: Settings, tuning: Tuning | None = None
) -> torch.optim.Optimizer:
    """Kernels of convolutions turn, where Muon is asked for; the rest goes down its gradients.

    Weight decay for kernels and matrices only: norms and biases are scales and offsets, not complexity. Gates
    before blocks decide, and have rates of their own. Where only the classifier is new, so has the body.
    """
    turning: dict[int, dict[str, Any]] = {}
    if isinstance(network, MultiStageNetwork) and settings.optimizer == "muon":
        turning = _turning(network)
    gates = {}
    if isinstance(network, GatedNetwork):
        weights = network.weights()
        gates = {id(weights[key]): rate for key, rate in network.gate_rates.items()}
    rest = [p for p in network.parameters() if id(p) not in gates and id(p) not in turning]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in rest if p.dim() <= 1]},
        *({"params": [p], "rate": gates[id(p)]} for p in network.parameters() if id(p) in gates),
        *({"params": [p], **turning[id(p)]} for p in network.parameters() if id(p) in turning),
    ]
    if tuning is not None:
        assert isinstance(network, MultiStageNetwork), "only a network has a classifier"
        groups = tuning.parted(groups, network)
    return Muon(groups, lr=settings.lr, momentum=settings.momentum)


def _turning(network: MultiStageNetwork) -> dict[int, dict[str, Any]]:
    """Of each convolution over several channels, by the weight's id: each stage's rows, and what follows.

    What an early stage learns must not depend on how well the later ones do. Weights that many plans share
    have no such rows, so they do not turn.
    """
    weights, levels = network.weights(), network.division.levels
    not_normed = {
        name
        for node in (*network.division.body, *network.division.heads)
        for name in node.inputs
        if node.operator not in NORMS
    }
    kernels: dict[int, dict[str, Any]] = {}
    for node in network.division.body:
        kernel = weights.get(node.weights.get("weight", ""))
        if kernel is not None and _is_kernel(kernel):
            parts: Parts = tuple(
                torch.from_numpy((levels[node.name] == level).nonzero()[0]).to(kernel.device)
                for level in sorted(set(levels[node.name]) - {NOTHING})
            )
            normed = node.name not in not_normed and kernels.get(id(kernel), {}).get("normed", True)
            kernels[id(kernel)] = {"parts": parts, "normed": normed}
    return kernels


def _is_kernel(weight: Tensor) -> bool:
    """Whether it mixes channels over space: rows that look at one channel each are no matrix."""
    return weight.dim() > 2 and weight.shape[1] > 1


def schedule(done: float, warmup: float) -> float:
    """The learning rate as a share of its peak: up in a line, then down along a cosine."""
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def set_rate(
    optimizer: torch.optim.Optimizer, settings: Settings, share: float, *, bodys: float = 1.0
) -> None:
    """The learning rate of the moment, given as a share of its peak, and the body's share of that.

    A body that waits takes no gradients, which are two thirds of the work.
    """
    for group in optimizer.param_groups:
        if group.get("is_body"):
            for weight in group["params"]:
                weight.requires_grad_(bodys > 0)
        rate = settings.lr * share * (bodys if group.get("is_body") else 1.0)
        group["lr"] = rate * group.get("rate", 1.0)
        group["angle"] = _ANGLE * rate


def descend(optimizer: torch.optim.Optimizer) -> None:
    """One step along the gradients that the weights have, shortened where these are large.

    Those of gates are not counted: what they spare may be pressing, and the network is to learn meanwhile.
    Nor are those of kernels that turn: these go as far whatever the gradients' length.
    """
    counted = (group for group in optimizer.param_groups if "rate" not in group and group["parts"] is None)
    of_all = (p for group in counted for p in group["params"])
    nn.utils.clip_grad_norm_(of_all, _LARGEST_GRADIENT)
    optimizer.step()


@torch.no_grad()
def follow(average: list[Tensor], weights: list[Tensor], settings: Settings, step: int) -> None:
    """Average ← decay · average + (1 - decay) · weights; the decay grows, so the start is forgotten."""
    decay = min(settings.ema, (1 + step) / (10 + step)) if settings.ema else 0.0
    torch._foreach_lerp_(average, weights, 1 - decay)
