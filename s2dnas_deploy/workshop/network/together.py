"""Statistics of a batch of which several processes have a part each: of all of it, not of each part.

Place in the flow: training on several processes says how sums of all are made, by `adding_up`; what takes
statistics of a batch in training (batch norms, gates) asks here. Alone, nothing changes. It knows nothing of
processes itself, and a network that learns in somebody's own loop keeps to its own part.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

AddUp = Callable[[Tensor], Tensor]
"""The sum of a tensor over all processes; gradients flow back to all of them."""

_ADD_UP: ContextVar[AddUp | None] = ContextVar("add_up", default=None)


@contextmanager
def adding_up(add_up: AddUp) -> Iterator[None]:
    """Within, batches are parts of one."""
    token = _ADD_UP.set(add_up)
    try:
        yield
    finally:
        _ADD_UP.reset(token)


def are_several() -> bool:
    """Whether a batch is a part of one."""
    return _ADD_UP.get() is not None


def mean_and_variance(x: Tensor, over: Sequence[int], about: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each channel over the whole batch: mean and variance [C], in float32, and of how many numbers.

    With d = x - about, which costs no digits where `about` is near the mean:

        mean = about + Σd / n        variance = Σd² / n - (Σd / n)²
    """
    add_up = _ADD_UP.get()
    shape = [1 if axis in over else size for axis, size in enumerate(x.shape)]
    d = x.float() - about.detach().reshape(shape)
    count = torch.full((1,), float(d.numel() // max(about.numel(), 1)), device=x.device)
    sums = torch.cat([d.sum(list(over)), (d * d).sum(list(over)), count])
    if add_up is not None:
        sums = add_up(sums)
    first, second = sums[:-1].chunk(2)
    n = sums[-1].detach()
    shift = first / n
    return about.detach() + shift, (second / n - shift * shift).clamp_min(0), n


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    momentum: float,
    eps: float,
) -> Tensor:
    """As torch's in training, with statistics of the whole batch; running ones are updated in place."""
    over = [axis for axis in range(x.dim()) if axis != 1]
    now, spread, n = mean_and_variance(x, over, mean)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = (spread + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    offset = -now * scale if bias is None else bias - now * scale
    with torch.no_grad():
        mean.lerp_(now.to(mean.dtype), momentum)
        variance.lerp_((spread * n / (n - 1).clamp_min(1)).to(variance.dtype), momentum)
    return (x.float() * scale.reshape(shape) + offset.reshape(shape)).to(x.dtype)
