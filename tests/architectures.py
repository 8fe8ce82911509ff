"""Architectures of torchvision that tests read, divide and export: some by default, the rest marked slow."""

import functools

import pytest
import torch

QUICK = (
    "resnet18",
    "squeezenet1_1",
    "mobilenet_v3_small",
    "shufflenet_v2_x1_0",
    "regnet_y_400mf",
    "googlenet",
)
SLOW = (
    "alexnet",
    "vgg11_bn",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "mobilenet_v2",
    "mnasnet1_0",
    "efficientnet_b0",
    "regnet_x_400mf",
    "inception_v3",
)
ALL = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@functools.cache
def torchvision_models():
    """`torchvision.models`; without its compiled operators, which no classifier here calls, if need be."""
    try:
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    except RuntimeError:
        pass  # torchvision's own operators are there
    return pytest.importorskip(
        "torchvision.models", reason="torchvision is not installed", exc_type=ImportError
    )


def build(name):
    models = torchvision_models()
    torch.manual_seed(0)
    options = {"init_weights": False} if name in {"googlenet", "inception_v3"} else {}
    network = getattr(models, name)(num_classes=10, **options)
    if name in {"alexnet", "vgg11_bn"}:
        _narrow_hidden(network.classifier)
    return network


def _narrow_hidden(classifier: torch.nn.Sequential) -> None:
    """What 4,096 numbers are for, a few show as well: half a gigabyte of weights takes minutes to export."""
    places = [k for k, layer in enumerate(classifier) if isinstance(layer, torch.nn.Linear)]
    inputs = classifier[places[0]].in_features
    for k in places[:-1]:
        classifier[k] = torch.nn.Linear(inputs, inputs := 128)
    classifier[places[-1]] = torch.nn.Linear(inputs, 10)
