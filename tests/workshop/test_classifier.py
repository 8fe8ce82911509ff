"""The classifier of a network is found and replaced, and what cannot be is refused."""

import pytest
import torch
from architectures import build
from torch import nn

from s2dnas_deploy.errors import ModelError
from s2dnas_deploy.workshop.network.static_network import run_graph, values_of
from s2dnas_deploy.workshop.reading.classifier import with_new_classifier
from s2dnas_deploy.workshop.reading.read import read_network

LAYERS = {
    "resnet18": ("fc", 512),
    "mobilenet_v3_small": ("classifier.3", 1024),
    "squeezenet1_1": ("classifier.1", 512),
    "shufflenet_v2_x1_0": ("fc", 1024),
    "regnet_y_400mf": ("fc", 440),
    "googlenet": ("fc", 1024),
    **{
        name: pytest.param(*layer, marks=pytest.mark.slow)
        for name, layer in {
            "alexnet": ("classifier.6", 128),
            "vgg11_bn": ("classifier.6", 128),
            "densenet121": ("classifier", 1024),
            "mobilenet_v2": ("classifier.1", 1280),
            "mnasnet1_0": ("classifier.1", 1280),
            "efficientnet_b0": ("classifier.1", 1280),
        }.items()
    },
}
CASES = [
    pytest.param(name, *layer.values, marks=layer.marks) if hasattr(layer, "marks") else (name, *layer)
    for name, layer in LAYERS.items()
]


def small(*head: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), *head)


POOLED = (nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(("name", "layer", "inputs"), CASES)
def test_the_layer_that_gives_the_outputs_is_replaced(name, layer, inputs):
    size = 32 if name in ("resnet18", "regnet_y_400mf", "mobilenet_v3_small") else 64
    static = read_network(build(name).eval(), (3, size, size))
    new = with_new_classifier(static, 7, seed=1)
    assert (new.layer, new.inputs, new.outputs, new.static.graph.classes) == (layer, inputs, 10, 7)
    assert set(new.weights) == {f"{layer}.weight", f"{layer}.bias"}
    image = torch.randn(2, 3, size, size)
    assert run_graph(new.static.graph, new.static.weights, image).shape == (2, 7)
    before, after = (
        values_of(static.graph, static.weights, image),
        values_of(new.static.graph, new.static.weights, image),
    )
    assert all(torch.equal(before[node.name], after[node.name]) for node in static.divisible.body)
    assert static.weights.keys() == new.static.weights.keys()


def test_its_weights_are_drawn_from_the_seed_alone():
    torch.manual_seed(0)
    static = read_network(small(*POOLED, nn.Linear(4, 10)), (3, 8, 8))
    first = with_new_classifier(static, 5, seed=1)
    torch.manual_seed(9)
    again, other = (with_new_classifier(static, 5, seed=seed) for seed in (1, 2))
    weight, bias = first.weights
    assert torch.equal(first.static.weights[weight], again.static.weights[weight])
    assert not torch.equal(first.static.weights[weight], other.static.weights[weight])
    assert first.static.weights[weight].abs().max() <= 0.5
    assert first.static.weights[bias].tolist() == [0.0] * 5
    assert first.in_words() == (
        "the classifier '5', 4 channels to 10 outputs, is replaced by a new one for 5 classes"
    )


def test_as_many_outputs_are_replaced_as_well():
    static = read_network(small(*POOLED, nn.Linear(4, 10, bias=False)), (3, 8, 8))
    new = with_new_classifier(static, 10, seed=0)
    (weight,) = new.weights
    assert not torch.equal(static.weights[weight], new.static.weights[weight])


@pytest.mark.parametrize(
    "head",
    [
        (nn.Conv2d(4, 10, 1), nn.ReLU(), *POOLED),
        (nn.Conv2d(4, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LogSoftmax(1)),
        (*POOLED, nn.Linear(4, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 10), nn.Dropout()),
    ],
)
def test_what_treats_outputs_alike_may_follow(head):
    static = read_network(small(*head), (3, 8, 8))
    new = with_new_classifier(static, 3, seed=0)
    assert run_graph(new.static.graph, new.static.weights, torch.randn(2, 3, 8, 8)).shape == (2, 3)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.one, self.other = small(*POOLED), nn.Linear(4, 10), nn.Linear(4, 10)

    def forward(self, x):
        features = self.body(x)
        return self.one(features) + self.other(features)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (TwoHeads(), "expected one layer that makes the network's 10 outputs, found 'one', 'other'"),
        (small(*POOLED, nn.Linear(4, 10), nn.BatchNorm1d(10)), "has weights for each output"),
        (small(*POOLED, nn.Linear(4, 10), nn.PReLU(10)), "has weights for each output"),
    ],
)
def test_what_cannot_be_replaced_is_refused(network, words):
    with pytest.raises(ModelError, match="cannot be replaced") as refusal:
        with_new_classifier(read_network(network.eval(), (3, 8, 8)), 3, seed=0)
    assert words in str(refusal.value)
