"""A network with exits of its own, BranchyNet's way: side classifiers on a plain trunk.

It knows nothing of s2dnas_deploy; a method `stages()` is all that `s2dnas-export --model` needs:

    stage k: (image, *features of stage k - 1) → (logits, *features)
"""

import torch
from torch import Tensor, nn


class BranchyNet(nn.Module):
    """Blocks of convolutions, each with a linear classifier on its pooled features."""

    def __init__(self, channels: int = 3, widths: tuple[int, ...] = (16, 32, 64), classes: int = 10) -> None:
        super().__init__()
        inputs = (channels, *widths[:-1])
        self.blocks = nn.ModuleList(_block(c_in, c_out) for c_in, c_out in zip(inputs, widths, strict=True))
        self.branches = nn.ModuleList(nn.Linear(width, classes) for width in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Every exit's logits, for training."""
        logits, x = [], image
        for block, branch in zip(self.blocks, self.branches, strict=True):
            x = block(x)
            logits.append(branch(x.mean((2, 3))))
        return logits

    def stages(self) -> list[nn.Module]:
        """The network as a chain: what s2dnas-export asks for."""
        last = len(self.blocks) - 1
        return [
            _Stage(block, branch, first=k == 0, last=k == last)
            for k, (block, branch) in enumerate(zip(self.blocks, self.branches, strict=True))
        ]


class _Stage(nn.Module):
    """One block and its classifier."""

    def __init__(self, block: nn.Module, branch: nn.Module, *, first: bool, last: bool) -> None:
        super().__init__()
        self.block, self.branch = block, branch
        self.first, self.last = first, last

    def forward(self, image: Tensor, *features: Tensor) -> tuple[Tensor, ...]:
        """Logits, and the block's features if another stage follows."""
        x = self.block(image if self.first else features[0])
        logits = self.branch(x.mean((2, 3)))
        return (logits,) if self.last else (logits, x)


def _block(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
        nn.MaxPool2d(2),
    )


def branchy_digits() -> BranchyNet:
    """For 8x8 digits."""
    torch.manual_seed(0)
    return BranchyNet(channels=1, widths=(8, 16, 32))


def branchy_cifar() -> BranchyNet:
    """For 32x32 pictures in ten classes."""
    return BranchyNet()
