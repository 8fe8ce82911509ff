"""What both ways to bring exits need of a trial run: batches of so many, and what a stage costs."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

BATCH = 2


@torch.no_grad()
def macs_of(module: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Multiply-accumulates for one image, as torch counts them (it counts two operations for each)."""
    with FlopCounterMode(display=False) as counter:
        module(*(x[:1].detach().clone() for x in inputs))
    return cast(int, counter.get_total_flops()) // 2


def is_of_a_batch(x: Tensor, *, dimensions: int) -> bool:
    """Whether a tensor is what stages hand on: float32, the batch first."""
    return x.dim() >= dimensions and x.shape[0] == BATCH and x.dtype == torch.float32
