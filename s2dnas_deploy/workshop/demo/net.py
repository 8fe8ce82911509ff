"""A small image CNN in plain PyTorch, as you may have one: gray images of 16x16 pixels, ten classes."""

from torch import Tensor, nn

WIDTHS = (48, 96, 192, 192)


def conv(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution with batch norm."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class DigitsNet(nn.Module):
    """Four convolutions, halving the image twice on the way."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        first, second, third, fourth = WIDTHS
        self.conv1 = conv(1, first)
        self.conv2 = conv(first, second)
        self.pool1 = nn.MaxPool2d(2)
        self.conv3 = conv(second, third)
        self.pool2 = nn.MaxPool2d(2)
        self.conv4 = conv(third, fourth)
        self.average = nn.AdaptiveAvgPool2d(1)
        self.classify = nn.Linear(fourth, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of images [N, 1, 16, 16]."""
        features = self.pool1(self.conv2(self.conv1(images)))
        features = self.conv4(self.pool2(self.conv3(features)))
        logits: Tensor = self.classify(self.average(features).flatten(1))
        return logits


def make_net(classes: int = 10) -> DigitsNet:
    """The network, not trained yet."""
    return DigitsNet(classes)
