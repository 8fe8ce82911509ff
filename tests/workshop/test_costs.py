"""Counts that were worked out by hand, and what must hold for every plan."""

from dataclasses import FrozenInstanceError
from functools import cache
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from s2dnas_deploy import plan as plans  # noqa: E402
from s2dnas_deploy.workshop.network.costs import stage_costs, static_costs, static_macs  # noqa: E402
from s2dnas_deploy.workshop.network.network import as_network, carry_over  # noqa: E402
from s2dnas_deploy.workshop.network.static_network import StaticNetwork  # noqa: E402
from s2dnas_deploy.workshop.reading.read import read_network  # noqa: E402
from s2dnas_deploy.workshop.reading.source import build_network  # noqa: E402

MODELS = Path(__file__).resolve().parents[2] / "models"
SHAPES = {
    "cifar_resnet.py:resnet20": (3, 32, 32),
    "mobilenet_v2.py:mobilenet_v2": (3, 32, 32),
    "digits_cnn.py:digits_cnn": (1, 8, 8),
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4)
        self.c = nn.Conv2d(4, 6, 1)
        self.d = nn.Linear(6, 5)

    def forward(self, x):
        x = self.c(self.b(torch.relu(self.norm(self.a(x)))))
        return self.d(x.mean((2, 3)))


class Tied(nn.Module):
    """The same convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        x = torch.relu(self.twice(torch.relu(self.conv(x))))
        return self.linear(self.twice(x).mean((2, 3)))


@cache
def small() -> StaticNetwork:
    return read_network(Small(), (3, 8, 8))


@cache
def example(name: str) -> StaticNetwork:
    return read_network(build_network(f"{MODELS}/{name}"), SHAPES[name])


def halves(no_reuse=frozenset()) -> plans.Plan:
    return plans.Plan(
        channels={"a": (2, 2), "c": (2, 4)}, exits=(plans.OUTPUT, plans.OUTPUT), no_reuse=no_reuse
    )


# --- by hand ----------------------------------------------------------------------------------------------


def test_macs_of_the_static_network():
    assert static_macs(small()) == {
        "a": 4 * 8 * 8 * (3 * 3 * 3),  # |y| = 4·8·8, |w[o]| = 3·3·3: 6912
        "b": 4 * 4 * 4 * (1 * 3 * 3),  # depthwise, stride 2: 576
        "c": 6 * 4 * 4 * (4 * 1 * 1),  # 384
        "d": 5 * 6,  # 30
    }


def test_parameters_and_size_of_the_static_network():
    costs = static_costs(as_network(small()))
    # a 4·27, norm 4 + 4, b 4·9 + 4, c 6·4 + 6, d 5·6 + 5
    assert costs.parameters == 108 + 8 + 40 + 30 + 35
    assert costs.head_parameters == 35
    assert costs.size_bytes == (221 + 2 * 4) * 4  # the norm's mean and variance are held, not trained
    assert (costs.body_macs, costs.head_macs, costs.macs) == (7872, 30, 7902)


def test_costs_of_two_stages():
    first, second = stage_costs(carry_over(small(), halves()))
    assert first.macs_per_layer == {
        "a": 2 * 64 * 27,  # half the outputs, all of the image
        "b": 2 * 16 * 9,
        "c": 2 * 16 * 2,  # 2 outputs read the 2 inputs of stage 0
        "exit0/d": 5 * 2,
    }
    assert second.macs_per_layer == {
        "a": 2 * 64 * 27,
        "b": 2 * 16 * 9,
        "c": 4 * 16 * 4,  # 4 outputs read all 4 inputs
        "exit1/d": 5 * 6,
    }
    # what is gone: 2 outputs of stage 0 in c do not read 2 inputs of stage 1, at 16 places
    assert first.body_macs + second.body_macs == 7872 - 2 * 2 * 16
    assert (first.head_macs, second.head_macs) == (10, 30)
    assert first.parameters == 2 * 27 + 4 + (2 * 9 + 2) + (2 * 2 + 2) + (5 * 2 + 5)
    assert second.parameters == 2 * 27 + 4 + (2 * 9 + 2) + (4 * 4 + 4) + (5 * 6 + 5)


def test_features_handed_over():
    first, second = stage_costs(carry_over(small(), halves()))
    assert {feature.name: feature.shape for feature in first.gives} == {
        "stage0/b": (2, 4, 4),
        "stage0/mean": (2,),
    }
    assert first.gives_bytes == (2 * 4 * 4 + 2) * 4
    assert second.reads == first.gives
    assert second.gives == ()


def test_a_layer_without_reuse_reads_its_own_stage_only():
    first, second = stage_costs(carry_over(small(), halves(frozenset({"c"}))))
    assert second.macs_per_layer["c"] == 4 * 16 * 2
    assert [feature.name for feature in first.gives] == ["stage0/mean"]


def test_an_exit_in_the_middle_has_a_linear_head_and_is_no_part_of_the_static_network():
    network = carry_over(small(), plans.depth(small().divisible.space, ["b"]))
    first, second = stage_costs(network)
    assert first.macs_per_layer == {"a": 6912, "b": 576, "exit0/linear": 5 * 4}
    assert second.macs_per_layer == {"c": 384, "exit1/d": 30}
    assert static_costs(network).macs_per_layer == {"a": 6912, "b": 576, "c": 384, "exit1/d": 30}


def test_a_shared_weight_counts_once():
    costs = static_costs(as_network(read_network(Tied(), (3, 4, 4))))
    assert costs.parameters == (4 * 3 + 4) + (4 * 4 + 4) + (2 * 4 + 2)
    assert costs.body_macs == 16 * (4 * 3 + 4 * 4 + 4 * 4)  # but it is computed twice


# --- for every plan ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_those_of_the_module(name):
    static = example(name)
    module = build_network(f"{MODELS}/{name}")
    assert static_costs(as_network(static)).parameters == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", SHAPES)
def test_one_stage_costs_what_the_static_network_costs(name):
    network = as_network(example(name))
    (stage,), static = stage_costs(network), static_costs(network)
    assert stage.macs_per_layer == static.macs_per_layer
    assert stage.parameters == static.parameters
    assert stage.gives == ()


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("text", ["uniform:0.25,0.25,0.5", "uniform:0.5,0.5", "random:2", "random:3"])
def test_stages_share_out_the_body_and_the_heads_come_on_top(name, text):
    static = example(name)
    network = carry_over(static, plans.from_text(text, static.divisible.space, seed=3))
    stages, whole = stage_costs(network), static_costs(network)
    assert sum(stage.body_macs for stage in stages) <= whole.body_macs
    heads = sum(stage.head_macs for stage in stages)
    assert sum(stage.macs for stage in stages) <= whole.body_macs + heads
    assert whole.macs_per_layer.keys() >= {
        layer.name for stage in stages for layer in stage.body if layer.macs
    }
    assert whole.body_macs + whole.head_macs == sum(static_macs(static).values())


def test_a_division_by_depth_computes_all_of_the_body():
    static = example("cifar_resnet.py:resnet20")
    network = carry_over(static, plans.depth(static.divisible.space, ["layer1.2.relu_1"]))
    stages = stage_costs(network)
    assert sum(stage.body_macs for stage in stages) == static_costs(network).body_macs == 40_550_400


def test_two_stages_of_equal_width_compute_three_quarters_of_a_plain_layer():
    static = example("digits_cnn.py:digits_cnn")
    first, second = stage_costs(carry_over(static, plans.uniform(static.divisible.space, [0.5, 0.5])))
    whole = static_macs(static)
    for name in ("conv2.0", "conv3.0", "conv4.0"):
        assert first.macs_per_layer[name] * 4 == whole[name]
        assert second.macs_per_layer[name] * 2 == whole[name]


def test_costs_are_frozen():
    (stage,) = stage_costs(as_network(small()))
    with pytest.raises(FrozenInstanceError):
        stage.stage = 1
    with pytest.raises(FrozenInstanceError):
        stage.body[0].macs = 0


def test_random_plans_of_the_small_network_never_cost_more_than_it():
    space = small().divisible.space
    for seed in range(20):
        plan = plans.random(space, 2, np.random.default_rng(seed))
        stages = stage_costs(carry_over(small(), plan))
        assert sum(stage.body_macs for stage in stages) <= 7872
