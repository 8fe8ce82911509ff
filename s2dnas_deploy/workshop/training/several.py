"""One training on several processes, as `torchrun` starts them: each learns from a part of every batch.

Place in the flow: the first process does all that a command does, and the others stand by. When it begins to
train, it hands the task to all; they take the same steps, each on its part of the batch, and add up what they
found. The result is that of one process with the whole batch, to float error. Only the first reads networks,
writes files and talks, so that a command need not know how many there are.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.workshop.network.together import adding_up

Work = Callable[[], object]
Told = TypeVar("Told")
_ANSWERS_WITHIN = timedelta(days=7)  # others wait while the first does what it does alone; torchrun ends them


def rank() -> int:
    """The number of this process: 0 of the first, which is the only one if there are no others."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """How many processes there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def several_processes() -> Iterator[bool]:
    """Join those that `torchrun` has started; yields whether this is the first, which has the work to do.

    The others do what the first asks of them until it is done, and get False then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield True
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=_ANSWERS_WITHIN
    )
    try:
        if rank():
            _stand_by()
            yield False
        else:
            yield True
            told_by_the_first(None)
        dist.barrier()  # one that leaves while another still speaks takes that down with it
    finally:
        dist.destroy_process_group()


def _stand_by() -> None:
    """Do what the first process asks for."""
    while (work := told_by_the_first(None)) is not None:
        work()


def ask_others(work: Work) -> None:
    """Of the first process: have all others do the same now. It must be picklable."""
    told_by_the_first(work)


def told_by_the_first(value: Told) -> Told:
    """What the first process has, in every process; of the others, what they have does not matter."""
    if size() == 1:
        return value
    told: list[Any] = [value]
    dist.broadcast_object_list(told, src=0)
    found: Told = told[0]
    return found


def own_part(count: int) -> slice:
    """Which of so many rows of a batch are this process's: of two, every second one."""
    if count < size():
        raise OptionError(
            f"batch size: expected an image or more for each of {size()} processes, got {count}"
        )
    return slice(rank(), count, size())


def summed(tensor: Tensor) -> Tensor:
    """Add a tensor up over all processes, in place."""
    if size() > 1:
        dist.all_reduce(tensor)
    return tensor


@torch.no_grad()
def sum_gradients(parameters: list[Tensor]) -> None:
    """Let every process have the gradients of the whole batch, all in one message.

    A weight that a part of the batch did not need has none there, and counts as 0.
    """
    if size() == 1:
        return
    own = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in own]
    flat = summed(torch.cat([gradient.reshape(-1) for gradient in gradients]))
    parts = torch.split(flat, [each.numel() for each in own])
    for parameter, gradient, part in zip(own, gradients, parts, strict=True):
        parameter.grad = gradient.copy_(part.view_as(gradient))


def draw_by(seed: int) -> None:
    """Let torch draw from a seed; each process other numbers, for other images of the batch."""
    torch.manual_seed(seed + rank())


@contextmanager
def as_one_batch() -> Iterator[None]:
    """Within, statistics of a batch are those of all processes' parts."""
    if size() == 1:
        yield
        return
    with adding_up(_AddUp.apply):
        yield


class _AddUp(torch.autograd.Function):
    """The sum over all processes, and of its gradients, for every part went into every sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return summed(tensor.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return summed(gradient.clone())
