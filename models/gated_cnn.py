"""A small CNN of depthwise convolutions and squeeze-and-excite gates, for a few classes of photos."""

from torch import Tensor, nn

WIDTHS = (32, 48, 48, 96, 96, 128, 128)


class Gate(nn.Module):
    """Squeeze and excite: each channel is weighed by what the whole image has in all of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, channels // 4), nn.Linear(channels // 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.up(self.down(x.mean((2, 3))).relu()).sigmoid()
        return x * weight[:, :, None, None].expand_as(x)


class Block(nn.Module):
    """Widen, convolve each channel, gate, narrow; added to its input where sizes allow."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.is_residual = inputs == outputs
        wide, stride = 2 * inputs, 1 if self.is_residual else 2
        self.widen = nn.Sequential(nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), nn.ReLU())
        self.gate = Gate(wide)
        self.narrow = nn.Sequential(nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.gate(self.depthwise(self.widen(x))))
        return x + y if self.is_residual else y


class GatedCNN(nn.Module):
    """A stem, six blocks, a last convolution and a linear classifier."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, WIDTHS[0], 3, 2, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        self.blocks = nn.Sequential(*map(Block, WIDTHS[:-1], WIDTHS[1:]))
        self.head = nn.Sequential(nn.Conv2d(WIDTHS[-1], 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU())
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))


def gated_cnn(num_classes: int = 10) -> nn.Module:
    """The network for images of 64x64."""
    return GatedCNN(num_classes)
