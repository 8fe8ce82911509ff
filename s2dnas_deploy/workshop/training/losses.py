"""What the exits are trained to do: tell the label, and answer as the static network does.

    loss = Σ_k weight_k · [(1 - d) · CE(z_k, label) + d · KL(z_k ‖ target_k)]

with d = `distill`; target_k is the static network's answer mixed with the last exit's by `self_distill`.
KL is at temperature T and scaled by T², so its gradient does not shrink with T.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from s2dnas_deploy.workshop.training.settings import Settings


def exits_loss(
    logits: Sequence[Tensor], labels: Tensor, teacher: Tensor | None, settings: Settings
) -> Tensor:
    """The loss of one batch: `logits` and `teacher` are [N, classes], one of `logits` per exit."""
    weights = settings.exit_weights or (1.0,) * len(logits)
    last = logits[-1].detach() if len(logits) > 1 else None
    losses = [
        weight * _exit_loss(z, labels, teacher, None if k == len(logits) - 1 else last, settings)
        for k, (z, weight) in enumerate(zip(logits, weights, strict=True))
    ]
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total


def divergence(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T² · KL(target ‖ logits), both softened by T, averaged over the batch."""
    ours, theirs = F.log_softmax(logits / temperature, 1), F.log_softmax(target / temperature, 1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def _exit_loss(
    z: Tensor, labels: Tensor, teacher: Tensor | None, last: Tensor | None, settings: Settings
) -> Tensor:
    told = F.cross_entropy(z, labels, label_smoothing=settings.label_smoothing)
    share = settings.self_distill if last is not None else 0.0
    if teacher is None:
        shown = divergence(z, last, settings.temperature) if share and last is not None else None
        return told if shown is None else (1 - share) * told + share * shown
    shown = divergence(z, teacher, settings.temperature)
    if share and last is not None:
        shown = (1 - share) * shown + share * divergence(z, last, settings.temperature)
    return (1 - settings.distill) * told + settings.distill * shown
