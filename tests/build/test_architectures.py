"""Well-known architectures are read, divided and sliced without a change to what they compute."""

import functools

import pytest
import torch
from full_check import check_network
from torch.utils.flop_counter import FlopCounterMode

from s2dnas_deploy.build.operators import macs
from s2dnas_deploy.build.static_network import StaticNetwork

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
    return getattr(models, name)(num_classes=10, **options)


def counted_macs(network, shape):
    """Multiply-accumulates of one image, as torch counts them (it counts two for each)."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(1, *shape, dtype=torch.double))
    return counter.get_total_flops() / 2


def macs_of(static: StaticNetwork) -> int:
    return sum(
        macs(node, {role: static.weights[key] for role, key in node.weights.items()})
        for node in static.graph.nodes
    )


@pytest.mark.parametrize("name", ALL)
def test_every_exit_of_random_plans_is_what_its_stages_compute(name):
    network = build(name)
    shape = (3, 75, 75) if name == "inception_v3" else (3, 64, 64)
    static = check_network(network, shape, random_plans=5)
    assert macs_of(static) == counted_macs(network, shape)
