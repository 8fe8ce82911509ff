"""A small plain CNN for scikit-learn's handwritten digits: 1x8x8 gray images, ten classes.

Made for this project; the layout is a two-group VGG (Simonyan and Zisserman, ICLR 2015) with batch norm
and global average pooling. It trains in seconds on one CPU core.
"""

from __future__ import annotations

from torch import Tensor, nn


def conv_bn_relu(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


class DigitsCNN(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = conv_bn_relu(1, 32)
        self.conv2 = conv_bn_relu(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.conv3 = conv_bn_relu(64, 64)
        self.conv4 = conv_bn_relu(64, 64)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv2(self.conv1(x)))
        x = self.conv4(self.conv3(x))
        return self.linear(self.flatten(self.global_pool(x)))


def digits_cnn(num_classes: int = 10) -> DigitsCNN:
    return DigitsCNN(num_classes)
