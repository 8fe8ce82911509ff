"""What timm's networks and torchvision's weights say of how images are prepared."""

from types import SimpleNamespace

import pytest
from architectures import torchvision_models
from torch import nn

from s2dnas_deploy.workshop.reading.judged import Judged, judged_as

CONFIG = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "crop_mode": "center",
}


def network(**config):
    module = nn.Conv2d(3, 4, 3)
    module.pretrained_cfg = {**CONFIG, **config}
    return module


def test_a_network_of_timms_form_tells_all():
    expected = Judged(
        source="timm's pretrained_cfg",
        input_shape=(3, 224, 224),
        mean=CONFIG["mean"],
        std=CONFIG["std"],
        resize="crop:0.875:bicubic",
    )
    assert judged_as(network(), "net.py:make", {}) == expected
    module = nn.Conv2d(3, 4, 3)
    module.default_cfg = SimpleNamespace(**CONFIG)
    assert judged_as(module, "net.py:make", {}) == expected
    assert judged_as(nn.Conv2d(3, 4, 3), "net.py:make", {}) is None


@pytest.mark.parametrize(
    ("config", "resize"),
    [
        ({"crop_pct": 0.95, "interpolation": "bilinear"}, "crop:0.95"),
        ({"crop_pct": 1.0}, "crop:1:bicubic"),
        ({"crop_pct": 1}, "crop:1:bicubic"),
        ({"crop_pct": 1.0, "crop_mode": "squash"}, "stretch:bicubic"),
        ({"crop_mode": "squash"}, None),
        ({"crop_mode": "border"}, None),
        ({"crop_mode": None}, "crop:0.875:bicubic"),
        ({"interpolation": "lanczos"}, None),
        ({"crop_pct": 0.3}, None),
        ({"crop_pct": 1.2}, None),
        ({"crop_pct": None}, None),
    ],
)
def test_what_is_resized_otherwise_is_left_to_the_person(config, resize):
    assert judged_as(network(**config), "net.py:make", {}).resize == resize


def test_odd_configurations_say_nothing():
    odd = judged_as(network(input_size=(3, 224), mean="0.5", std=(0.2, 0.0, 0.2)), "net.py:make", {})
    assert (odd.input_shape, odd.mean, odd.std) == (None, None, None)


@pytest.mark.parametrize(
    ("name", "weights", "size", "resize"),
    [
        ("resnet18", "IMAGENET1K_V1", 224, "crop:0.875"),
        ("resnet50", "ResNet50_Weights.IMAGENET1K_V2", 224, "crop:0.965517"),
        ("efficientnet_b0", "DEFAULT", 224, "crop:0.875:bicubic"),
        ("efficientnet_b1", "IMAGENET1K_V2", 240, "crop:0.941176"),
    ],
)
def test_weights_of_torchvision_are_known_by_name(name, weights, size, resize):
    torchvision_models()
    told = judged_as(nn.Conv2d(3, 4, 3), f"torchvision.models:{name}", {"weights": weights})
    assert (told.input_shape, told.mean, told.std, told.resize) == (
        (3, size, size),
        CONFIG["mean"],
        CONFIG["std"],
        resize,
    )
    assert name in told.source


@pytest.mark.parametrize(
    ("factory", "arguments"),
    [
        ("torchvision.models:resnet18", {}),
        ("torchvision.models:resnet18", {"weights": "MADE_UP"}),
        ("torchvision.models:made_up", {"weights": "DEFAULT"}),
        ("net.py:resnet18", {"weights": "DEFAULT"}),
    ],
)
def test_other_factories_tell_nothing(factory, arguments):
    torchvision_models()
    assert judged_as(nn.Conv2d(3, 4, 3), factory, arguments) is None
