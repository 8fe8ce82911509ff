"""Residual networks for small images: ResNet-20, ResNet-56 and a wider, shallower one.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2 (the CIFAR-10
networks). The wide one takes its idea from Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016,
but keeps He et al.'s order of convolution, batch norm and ReLU.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, and zero channels on both sides. It has no parameters."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        missing = out_channels - in_channels
        self.front, self.back = missing // 2, missing - missing // 2

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, self.front, self.back))


def make_shortcut(kind: Shortcut, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if kind not in ("A", "B"):
        raise ValueError(f'shortcut: expected "A" or "B", got {kind!r}')
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if kind == "B":
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False),
            nn.BatchNorm2d(out_channels),
        )
    if out_channels < in_channels:
        raise ValueError(f'shortcut "A" cannot go from {in_channels} to {out_channels} channels; use "B"')
    return PadShortcut(in_channels, out_channels, stride)


class BasicBlock(nn.Module):
    """relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), both convolutions 3x3."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = make_shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


def make_resnet(widths: Sequence[int], blocks: int, num_classes: int, shortcut: Shortcut) -> nn.Sequential:
    """One group of `blocks` blocks per width; every group but the first halves the image."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv1"] = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
    layers["bn1"] = nn.BatchNorm2d(widths[0])
    layers["relu"] = nn.ReLU()
    channels = widths[0]
    for number, width in enumerate(widths, start=1):
        group = []
        for block in range(blocks):
            stride = 2 if number > 1 and block == 0 else 1
            group.append(BasicBlock(channels, width, stride, shortcut))
            channels = width
        layers[f"layer{number}"] = nn.Sequential(*group)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["linear"] = nn.Linear(channels, num_classes)

    model = nn.Sequential(layers)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


def resnet20(num_classes: int = 10, shortcut: Shortcut = "A") -> nn.Sequential:
    return make_resnet((16, 32, 64), 3, num_classes, shortcut)


def resnet56(num_classes: int = 10, shortcut: Shortcut = "A") -> nn.Sequential:
    return make_resnet((16, 32, 64), 9, num_classes, shortcut)


def wide_resnet(
    widths: Sequence[int] = (32, 64, 128, 256),
    blocks: int = 2,
    num_classes: int = 10,
    shortcut: Shortcut = "B",
) -> nn.Sequential:
    return make_resnet(widths, blocks, num_classes, shortcut)
