"""Training a gate: with which width a sample goes on, learned from what each width makes of it.

Place in the flow: trained `NestedNetwork` with a gate + images ──▶ the same network, whose gate knows. Only
the gate's own weights move, so what the widths say of each image is found once, for a few crops of each, and

    g    = onehot(argmax(s - λ · cost + Gumbel noise))     forwards; backwards, its softmax (straight through)
    loss = Σ_k g_k · (CE_k + λ' · cost_k)                  cost_k = macs_k / macs of the widest

teaches the gate's numbers s. How much time is worth is drawn anew for each image, λ' over a few orders of
magnitude and λ in proportion, because on a device the balance is moved by offsets: wherever it stands then,
the numbers were trained for it. (Li et al., "Dynamic Slimmable Network", CVPR 2021, aim at the thinnest width
where that is right, else at the widest; towards these two, widths between are lost.)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s2dnas_deploy.decide.thresholds import path_of_gate
from s2dnas_deploy.reporter import Progress
from s2dnas_deploy.workshop.network.costs import stage_costs
from s2dnas_deploy.workshop.network.nested import NestedNetwork
from s2dnas_deploy.workshop.training.batches import Batches, seed_of
from s2dnas_deploy.workshop.training.descent import schedule

_EPOCHS, _MOST_IMAGES = 2, 60_000
_STEPS, _BATCH, _RATE = 2000, 512, 0.01
_LEAST_WORTH, _MOST_WORTH = -2.0, 0.5  # powers of ten of λ'
_SHARPNESS = 5.0  # λ / λ'
_SPARED = 0.005


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """What the gate sees of each image, [N, C]; each width's cross-entropy, and if it is right, [N, K]."""

    seen: Tensor
    losses: Tensor
    right: Tensor

    def __len__(self) -> int:
        return len(self.seen)


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """What a gate does with training images: the share for each width, and how many are right, of all."""

    shares: tuple[float, ...]
    accuracy: float
    widest_accuracy: float


def train_gate(network: NestedNetwork, batches: Batches, progress: Progress) -> Learnt:
    """Teach the gate of a network in place by the images of a few epochs; all else stays."""
    steps = min(_EPOCHS * batches.per_epoch, -(-_MOST_IMAGES // batches.size))

    def shown() -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(steps):
            yield batches.at(step)
            progress(step + 1, steps, "")

    return teach_gate(network, shown(), seed=batches.settings.seed)


def teach_gate(network: NestedNetwork, shown: Iterable[tuple[Tensor, Tensor]], *, seed: int) -> Learnt:
    """Teach the gate of a network in place by images as it reads them, and their labels, on its device.

    In the end the numbers are moved, so that without offsets little accuracy is given up for time.
    """
    found = _judged(network, shown)
    macs = torch.tensor([float(costs.macs) for costs in stage_costs(network)])
    taught = _taught(network, found, macs / macs.max(), seed)
    bias = network.gate.head[-1].weights["bias"]
    with torch.no_grad():
        taught[bias] = taught[bias] + _balance(network.numbers(found.seen, taught), found.right, macs)
        own = network.weights()
        for key, tensor in taught.items():
            own[key].copy_(tensor)
        way = network.numbers(found.seen, taught).argmax(1)
    return Learnt(
        shares=tuple((way.bincount(minlength=len(macs)) / len(way)).tolist()),
        accuracy=float(found.right[torch.arange(len(way)), way].float().mean()),
        widest_accuracy=float(found.right[:, -1].float().mean()),
    )


@torch.no_grad()
def _judged(network: NestedNetwork, shown: Iterable[tuple[Tensor, Tensor]]) -> _Judged:
    """What is said of the images."""
    network.eval()
    parts = []
    for images, labels in shown:
        logits, seen = network.judged(images)
        losses = [F.cross_entropy(z.float(), labels, reduction="none") for z in logits]
        right = [z.argmax(1) == labels for z in logits]
        parts.append((seen.float().cpu(), torch.stack(losses, 1).cpu(), torch.stack(right, 1).cpu()))
    seen, costs, correct = (torch.cat(each) for each in zip(*parts, strict=True))
    return _Judged(seen=seen, losses=costs, right=correct)


def _taught(network: NestedNetwork, found: _Judged, cost: Tensor, seed: int) -> dict[str, Tensor]:
    """The gate's weights."""
    keys = [key for node in network.gate.head for key in node.weights.values()]
    own = {key: network.weights()[key].detach().float().cpu().clone().requires_grad_() for key in keys}
    mean, std = found.seen.mean(0), found.seen.std(0).clamp_min(1e-6)
    standard = (found.seen - mean) / std
    optimizer = torch.optim.Adam(list(own.values()), lr=_RATE)
    drawn = torch.Generator().manual_seed(seed_of(seed, "gate", 0))
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * schedule(step / _STEPS, 0.1)
        rows = torch.randint(len(found), (min(_BATCH, len(found)),), generator=drawn)
        power = _LEAST_WORTH + (_MOST_WORTH - _LEAST_WORTH) * torch.rand(len(rows), 1, generator=drawn)
        worth = 10**power
        numbers = network.numbers(standard[rows], own) - _SHARPNESS * worth * cost
        loss = (_picked(numbers, drawn) * (found.losses[rows] + worth * cost)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # What was learned of (x - mean) / std, said of x.
    first = network.gate.head[0].weights
    weight, bias = own[first["weight"]].detach(), own[first["bias"]].detach()
    return {
        **{key: tensor.detach() for key, tensor in own.items()},
        first["weight"]: weight / std,
        first["bias"]: bias - weight @ (mean / std),
    }


def _picked(numbers: Tensor, drawn: torch.Generator) -> Tensor:
    """One width for each sample, [N, K] of 0 and 1: at random as the numbers say; straight through."""
    noise = -torch.log(-torch.log(torch.rand(numbers.shape, generator=drawn).clamp(1e-9, 1 - 1e-7)))
    soft = torch.softmax(numbers + noise, 1)
    hard = F.one_hot(soft.argmax(1), numbers.shape[1]).float()
    return hard + soft - soft.detach()


def _balance(numbers: Tensor, right: Tensor, macs: Tensor) -> Tensor:
    """Offsets [K]: the boldest with which no more than half a point is lost against the widest."""
    path, every = path_of_gate(macs.tolist()), np.arange(len(numbers))
    told, correct = numbers.numpy(), right.numpy()
    least = correct[:, -1].mean() - _SPARED
    enough = [correct[every, (told + offsets).argmax(1)].mean() >= least for offsets in path.T]
    step = int(np.logical_and.accumulate(enough).sum()) - 1
    return torch.from_numpy(path[:, step]).float() if step > 0 else torch.zeros(len(macs))
