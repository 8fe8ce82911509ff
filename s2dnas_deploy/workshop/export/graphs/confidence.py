"""How sure an exit is of its answer, computed in the stage's graph so that a device need not.

With p = softmax(logits / temperature), every rule gives 0 for "no idea" to 1 for "certain":

    max_prob   max p
    margin     max p - second largest p
    entropy    1 - H(p) / log(classes)          H(p) = -Σ p · log p
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from s2dnas_deploy.bundle.exits import ConfidenceRule


def probabilities_and_confidence(
    logits: Tensor, rule: ConfidenceRule, temperature: float
) -> tuple[Tensor, Tensor]:
    """Probabilities [N, classes] and confidence [N] of logits [N, classes]."""
    scaled = logits / temperature if temperature != 1.0 else logits
    probabilities = torch.softmax(scaled, 1)
    return probabilities, _RULES[rule](scaled, probabilities)


def _max_prob(scaled: Tensor, p: Tensor) -> Tensor:
    return p.amax(1)


def _margin(scaled: Tensor, p: Tensor) -> Tensor:
    if p.shape[1] == 1:
        return p[:, 0]
    best = p.topk(2, 1).values
    return best[:, 0] - best[:, 1]


def _entropy(scaled: Tensor, p: Tensor) -> Tensor:
    """From log-softmax, so that p = 0 adds 0 and not 0 · -∞."""
    if p.shape[1] == 1:
        return p[:, 0]
    entropy = -(p * torch.log_softmax(scaled, 1)).sum(1)
    return 1.0 - entropy / math.log(p.shape[1])


_RULES: Mapping[ConfidenceRule, Callable[[Tensor, Tensor], Tensor]] = {
    "max_prob": _max_prob,
    "margin": _margin,
    "entropy": _entropy,
}
