"""What the examples share: scikit-learn's handwritten digits, and a small network in plain PyTorch."""

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import TensorDataset

NAMES = tuple("0123456789")
MEAN, STD = (0.3,), (0.4,)  # of pixels from 0 to 1
READING = {"class_names": NAMES, "mean": MEAN, "std": STD}  # what a device must know to read an image
TRAINED_ON = 1400  # of 1,797 images; the others are never trained on


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the branch adds."""
        return torch.relu(x + self.branch(x))


def make_net() -> nn.Module:
    """The static network: two residual blocks of 32 channels."""
    stem = [nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(
        *stem, Block(32), Block(32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)
    )


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """All digits as a device gets them, uint8 [N, 8, 8, 1], and which they are, [N]."""
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None], digits.target


def train_set() -> TensorDataset:
    """The digits to train on as the network reads them, float [N, 1, 8, 8], and their labels."""
    images, labels = pixels()
    read = torch.from_numpy(images).permute(0, 3, 1, 2).float().div(255).sub(MEAN[0]).div(STD[0])
    return TensorDataset(read[:TRAINED_ON], torch.from_numpy(labels)[:TRAINED_ON].long())
