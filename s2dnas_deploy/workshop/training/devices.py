"""Where training runs, and in which precision: a CPU or a GPU, with bfloat16 where it pays."""

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn

from s2dnas_deploy.errors import OptionError
from s2dnas_deploy.quoting import shown
from s2dnas_deploy.workshop.training.settings import Precision

Autocast = Callable[[], AbstractContextManager[Any]]
Module = TypeVar("Module", bound=nn.Module)


def choose_device(name: str) -> torch.device:
    """The device asked for, which must be there; `auto` takes a GPU if there is one."""
    if name == "auto":
        # Of several processes, each has made one GPU its own.
        return (
            torch.device("cuda", torch.cuda.current_device())
            if torch.cuda.is_available()
            else torch.device("cpu")
        )
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise OptionError("device cuda was asked for, but torch finds no GPU; use --device cpu")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", name):
        raise OptionError(f"no device {shown(name)}; expected auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise OptionError(f"device {name} was asked for, but torch finds {torch.cuda.device_count()} GPUs")
    return device


def placed(
    network: Module, device: torch.device, layout: torch.memory_format = torch.channels_last
) -> Module:
    """The network on a device, its kernels with channels last, which convolutions there like best."""
    moved = network.to(device)
    for parameter in moved.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return moved


def autocast_for(precision: Precision, device: torch.device) -> Autocast:
    """bfloat16 where it pays: asked for, or on hardware that multiplies it natively."""
    native = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()
    if precision == "bfloat16" or (precision == "auto" and native):
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return nullcontext


def _cpu_has_bfloat16() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
